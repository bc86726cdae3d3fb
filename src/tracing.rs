//! Causal tracing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section
//! 2): the subject of a fact is corrupted, single activations of the clean run are put back, and
//! the probability of the answer tells where the fact is recalled.
//!
//! The corrupted runs are the base of a sweep, so that a cell computes only what lies after the
//! activation that it restores.

mod average;
mod corruption;
mod fact;

use std::ops::ControlFlow;

use ndarray::{Array1, Array2, Array3, Axis as Dim};

pub use average::{DroppedFact, PositionClass, SetTrace, TracingProgress};
pub use corruption::{SubjectCorruption, mean_subject_embedding, subject_noise_std};
pub use fact::TracedFact;

use crate::cache::{ActivationCache, Selection};
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::intervention::{Edit, Intervention, Interventions, Target};
use crate::metric::{Metric, probability};
use crate::model::{KeepLogits, Run, Transformer};
use crate::report::{About, Axis, Direction, Labelled};
use crate::statistics::mean;
use crate::sweep::{Cell, DEFAULT_MEMORY_LIMIT, Progress, Sweep, points_read};

/// Layers of the paper's windows of MLP or attention outputs.
pub const DEFAULT_WINDOW: usize = 10;

/// What a cell puts back from the clean run, at one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Restore {
    /// A site with the axes `[pos, d_model]`: `resid_post`, `mlp_out`, `attn_out`.
    pub site: Site,
    /// Number of layers. Those of the cell at layer `l` are `l - window / 2` to
    /// `l + ceil(window / 2) - 1`, as far as the model has them.
    pub window: usize,
}

impl Restore {
    /// Single hidden states: `resid_post` of one layer.
    pub fn states() -> Self {
        Restore {
            site: Site::ResidPost,
            window: 1,
        }
    }

    /// MLP outputs of a window of layers.
    pub fn mlp(window: usize) -> Self {
        Restore {
            site: Site::MlpOut,
            window,
        }
    }

    /// Attention outputs of a window of layers.
    pub fn attention(window: usize) -> Self {
        Restore {
            site: Site::AttnOut,
            window,
        }
    }

    /// The layers that the cell at `layer` restores.
    fn layers(&self, layer: usize, n_layers: usize) -> std::ops::Range<usize> {
        let half = self.window / 2;
        layer.saturating_sub(half)..n_layers.min(layer + self.window - half)
    }

    fn check(&self, n_layers: usize) -> Result<()> {
        if self.site.axes() != crate::hook::Axes::Model {
            let axes = self.site.axes().names().join(", ");
            let found = format!("{} with axes [{axes}]", self.site.name());
            return Err(Error::invalid(
                "restored site",
                found,
                "axes [pos, d_model]",
            ));
        }
        if !(1..=n_layers).contains(&self.window) {
            let expected = format!("1 to {n_layers}, the model's layers");
            return Err(Error::invalid("restored window", self.window, expected));
        }
        Ok(())
    }

    fn describe(&self) -> String {
        match self.window {
            1 => format!("{} of the layer", self.site.name()),
            n => format!("{} of {n} layers around it", self.site.name()),
        }
    }
}

/// Which module is cut off from what is restored: its outputs at the restored token keep their
/// values of the corrupted run wherever they come after the first restored activation. (Those
/// which are restored themselves stay restored.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Severed {
    /// `mlp_out`.
    Mlp,
    /// `attn_out`.
    Attention,
}

impl Severed {
    fn site(self) -> Site {
        match self {
            Severed::Mlp => Site::MlpOut,
            Severed::Attention => Site::AttnOut,
        }
    }
}

/// A causal tracing study: how subjects are corrupted, and what is restored.
///
/// ```
/// use patchlens::{CausalTracing, Config, Prompt, SubjectCorruption, TracedFact, Transformer};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let fact = TracedFact::new(Prompt::from([4, 1, 2, 3]), 1..3)?; // the subject is `1 2`
/// let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.06));
/// let trace = tracing.trace(&fact)?;
/// assert_eq!(trace.indirect_effect.values().shape(), [4, 2]); // [token, layer]
/// println!("TE {}\n{}", trace.total_effect, trace.indirect_effect);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CausalTracing<'m> {
    model: &'m Transformer,
    /// How the subject is corrupted.
    pub corruption: SubjectCorruption,
    /// What is restored; single hidden states by default.
    pub restore: Restore,
    /// What is cut off meanwhile.
    pub severed: Option<Severed>,
    /// Bound of a sweep's working memory, in bytes.
    pub memory_limit: u64,
}

/// What causal tracing gave for one fact.
#[derive(Clone, Debug)]
pub struct FactTrace {
    /// The clean run's likeliest next token: the one whose probability is traced.
    pub answer: u32,
    /// Its probability in the clean run.
    pub clean: f32,
    /// Its probability in the corrupted runs, mean over samples.
    pub corrupted: f32,
    /// Its probability in each corrupted run, `[sample]`.
    pub corrupted_samples: Array1<f32>,
    /// TE: `clean - corrupted`.
    pub total_effect: f32,
    /// IE: mean probability with the cell restored, minus `corrupted`; `[token, layer]`.
    pub indirect_effect: Labelled,
    /// The probability with the cell restored, `[token, layer, sample]`.
    pub restored: Array3<f32>,
}

/// The clean run of a fact.
struct Clean {
    answer: u32,
    probability: f32,
    caches: Vec<ActivationCache>,
}

impl<'m> CausalTracing<'m> {
    /// A study that restores single hidden states.
    pub fn new(model: &'m Transformer, corruption: SubjectCorruption) -> Self {
        CausalTracing {
            model,
            corruption,
            restore: Restore::states(),
            severed: None,
            memory_limit: DEFAULT_MEMORY_LIMIT,
        }
    }

    /// The same study with something else restored.
    #[must_use]
    pub fn restoring(mut self, restore: Restore) -> Self {
        self.restore = restore;
        self
    }

    /// The same study with MLPs or attention cut off from what is restored.
    #[must_use]
    pub fn severing(mut self, severed: Severed) -> Self {
        self.severed = Some(severed);
        self
    }

    /// The model.
    pub fn model(&self) -> &'m Transformer {
        self.model
    }

    /// Traces one fact, whether or not the model knows it.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a prompt that cannot run; [`Error::Invalid`] for a window that is
    /// empty or wider than the model, a site without the axes `[pos, d_model]`, or a corruption
    /// that does not fit the subject; else as [`Sweep::prepare`].
    pub fn trace(&self, fact: &TracedFact) -> Result<FactTrace> {
        self.trace_observed(fact, |_| ControlFlow::Continue(()))
    }

    /// As [`CausalTracing::trace`], telling an observer how far the sweep has come. After a break
    /// the cells that were not reached are NaN.
    ///
    /// # Errors
    /// As [`CausalTracing::trace`].
    pub fn trace_observed(
        &self,
        fact: &TracedFact,
        observer: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<FactTrace> {
        self.restore.check(self.model.config().n_layers)?;
        let clean = self.clean(fact)?;
        self.trace_from(fact, clean, observer)
    }

    /// Runs the fact as it is, and keeps what cells restore.
    fn clean(&self, fact: &TracedFact) -> Result<Clean> {
        let mut selection = Selection::default();
        selection.extend((0..self.model.config().n_layers).map(|l| self.restore.site.at(l)));
        let run = Run {
            cache: Some(&selection),
            logits: KeepLogits::Last,
            ..Run::default()
        };
        let output = self.model.run(&fact.prompt, (), &run)?;
        let logits = output.logits.get(0);
        let (answer, _) =
            logits
                .iter()
                .enumerate()
                .fold((0, f32::NEG_INFINITY), |best, (token, &logit)| {
                    if logit > best.1 { (token, logit) } else { best }
                });
        let answer = answer as u32;
        Ok(Clean {
            answer,
            probability: probability(&[answer]).evaluate(0, logits)?,
            caches: output.caches,
        })
    }

    fn trace_from(
        &self,
        fact: &TracedFact,
        clean: Clean,
        observer: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<FactTrace> {
        let n_layers = self.model.config().n_layers;
        let (prompts, noise) = self.corruption.samples(self.model.config(), fact)?;
        let sites = [Some(self.restore.site), self.severed.map(Severed::site)];
        let places = sites.into_iter().flatten();
        let places = places.flat_map(|site| (0..n_layers).map(move |layer| site.at(layer)));
        let selection = points_read(self.model.config(), places);
        let run = Run {
            cache: Some(&selection),
            logits: KeepLogits::None,
            ..Run::default()
        };
        let corrupted = self
            .model
            .run(&prompts, Interventions::new(noise), &run)?
            .caches;
        let cells = self.cells(fact, &clean.caches, &corrupted)?;
        let metric = probability(&[clean.answer]);
        let sweep = Sweep::new(self.model, &prompts)?
            .with_base(&corrupted)?
            .memory_limit(self.memory_limit);
        let result = sweep.prepare(&cells, &metric)?.run_observed(observer)?;
        let shape = (fact.prompt.len(), n_layers, prompts.len());
        let restored = Array3::from_shape_vec(shape, result.values.into_iter().collect())
            .unwrap_or_else(|_| unreachable!("one value a cell and sample: {shape:?}"));
        self.result(
            fact,
            &metric,
            clean,
            (result.base, restored, result.partial),
        )
    }

    /// One cell a token and layer, in row-major order. All cells of a point share its values.
    fn cells(
        &self,
        fact: &TracedFact,
        clean: &[ActivationCache],
        corrupted: &[ActivationCache],
    ) -> Result<Vec<Cell>> {
        let n_layers = self.model.config().n_layers;
        let edits = |site: Site, caches: &[ActivationCache]| -> Result<Vec<Edit>> {
            let layers = 0..n_layers;
            layers
                .map(|layer| Edit::patch(caches, site.at(layer)))
                .collect()
        };
        let restore = edits(self.restore.site, clean)?;
        let severed = self.severed.map(Severed::site);
        let frozen = severed.map_or(Ok(Vec::new()), |site| edits(site, corrupted))?;
        let mut cells = Vec::with_capacity(fact.prompt.len() * n_layers);
        for token in 0..fact.prompt.len() {
            let at = |site: Site, layer: usize| Target::new(site.at(layer)).at_positions(token);
            for layer in 0..n_layers {
                let window = self.restore.layers(layer, n_layers);
                let mut cell: Cell = window
                    .clone()
                    .map(|l| Intervention::new(at(self.restore.site, l), restore[l].clone()))
                    .collect();
                if let Some(site) = severed {
                    // What is restored stays restored; before it nothing differs anyway.
                    let both = |l: &usize| site == self.restore.site && window.contains(l);
                    let later = (window.start..n_layers).filter(|l| !both(l));
                    cell.extend(later.map(|l| Intervention::new(at(site, l), frozen[l].clone())));
                }
                cells.push(cell);
            }
        }
        Ok(cells)
    }

    fn result(
        &self,
        fact: &TracedFact,
        metric: &Metric,
        clean: Clean,
        (samples, restored, partial): (Array1<f32>, Array3<f32>, bool),
    ) -> Result<FactTrace> {
        let corrupted = mean(samples.iter().copied());
        let effects: Vec<f32> = restored
            .lanes(Dim(2))
            .into_iter()
            .map(|lane| mean(lane.iter().copied()) - corrupted)
            .collect();
        let (tokens, layers, _) = restored.dim();
        let effects = Array2::from_shape_vec((tokens, layers), effects)
            .unwrap_or_else(|_| unreachable!("one mean a token and layer"));
        let mut about = self.about(metric);
        about.partial = partial;
        about
            .baselines
            .insert("clean".to_string(), clean.probability);
        about.baselines.insert("corrupted".to_string(), corrupted);
        about
            .counts
            .insert("samples".to_string(), samples.len() as u64);
        let axes = vec![Axis::tokens("token", &fact.labels()), Axis::layers(layers)];
        Ok(FactTrace {
            answer: clean.answer,
            clean: clean.probability,
            corrupted,
            corrupted_samples: samples,
            total_effect: clean.probability - corrupted,
            indirect_effect: Labelled::new(effects, axes, about)?,
            restored,
        })
    }

    fn about(&self, metric: &Metric) -> About {
        let severed = match self.severed {
            Some(Severed::Mlp) => "; MLPs at the token severed",
            Some(Severed::Attention) => "; attention at the token severed",
            None => "",
        };
        About {
            title: format!("Causal tracing: {}{severed}", self.restore.site.name()),
            caption: format!(
                "Indirect effect on the answer's probability: the subject corrupted by {}, then {} \
                 restored at one token.",
                self.corruption.describe(),
                self.restore.describe(),
            ),
            unit: format!("indirect effect ({})", metric.name()),
            direction: Some(Direction::Denoising),
            seed: self.corruption.seed(),
            ..About::default()
        }
    }
}
