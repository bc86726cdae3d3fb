//! Causal tracing: at which layer and token is a fact recalled?
//!
//! The subject's embeddings are corrupted by noise; then single states of the clean run are put
//! back. With *p* the probability of the answer, mean over samples of the noise,
//!
//! ```text
//! total effect           = p(clean) - p(corrupted)
//! indirect effect(state) = p(corrupted, state restored) - p(corrupted)
//! ```
//!
//! (Meng et al. 2022, "Locating and Editing Factual Associations in GPT", section 2.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! use patchlens::tracing::{Restore, SubjectCorruption, TracedFact};
//! let text = "Ada Brown plays the sport of";
//! let fact = patchlens::tasks::FactPrompt::new(&tokenizer, text, "Ada Brown", " boxing", "sport")?;
//! let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.3));
//! println!("{}", tracing.trace(&TracedFact::from(&fact), Restore::states())?.indirect_effect);
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** By how much the answer becomes likelier when this state alone is clean
//! again. Compare it with the total effect, which is all there is to restore.
//!
//! **What it does not mean.** A place that can bring the fact back need not be where it is stored
//! (Hase et al. 2023). Noise is no other fact: it puts the model where it never is. More in
//! [the guide](crate::guide::tracing).

mod average;
mod corruption;
mod fact;

use ndarray::{Array1, Array2, Array3, Axis as Dim};

pub use average::{DroppedFact, PositionClass, SetTrace};
pub use corruption::{SubjectCorruption, mean_subject_embedding, subject_noise_std};
pub use fact::TracedFact;

use crate::base::Base;
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint, Site};
use crate::intervention::{Edit, Intervention, Target};
use crate::limits::{Limits, limits_methods};
use crate::metric::{Metric, Needs, probability};
use crate::model::Transformer;
use crate::model::stage::Frozen;
use crate::report::{About, Absent, Axis, Direction, Labelled};
use crate::statistics::{mean, shaped};
use crate::sweep::{Cell, Sweep};

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
    /// What is cut off meanwhile.
    pub severed: Option<Severed>,
}

impl Restore {
    /// Single hidden states: `resid_post` of one layer.
    pub fn states() -> Self {
        Self::window(Site::ResidPost, 1)
    }

    /// MLP outputs of a window of layers.
    pub fn mlp(window: usize) -> Self {
        Self::window(Site::MlpOut, window)
    }

    /// Attention outputs of a window of layers.
    pub fn attention(window: usize) -> Self {
        Self::window(Site::AttnOut, window)
    }

    /// A site with the axes `[pos, d_model]` in a window of layers.
    pub fn window(site: Site, window: usize) -> Self {
        Restore {
            site,
            window,
            severed: None,
        }
    }

    /// The same with MLPs or attention cut off from what is restored.
    #[must_use]
    pub fn severing(mut self, severed: Severed) -> Self {
        self.severed = Some(severed);
        self
    }

    /// The sites at which its cells act.
    fn sites(&self) -> impl Iterator<Item = Site> + use<> {
        [Some(self.site), self.severed.map(Severed::site)]
            .into_iter()
            .flatten()
    }

    /// The layers that the cell at `layer` restores.
    fn layers(&self, layer: usize, n_layers: usize) -> std::ops::Range<usize> {
        let half = self.window / 2;
        layer.saturating_sub(half)..n_layers.min(layer + self.window - half)
    }

    fn check(&self, n_layers: usize) -> Result<()> {
        let axes = self.site.axes();
        axes.expect(Axes::Model, "restored site", &self.site.name())?;
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

/// A causal tracing study: how subjects are corrupted.
///
/// ```
/// use patchlens::{Config, Prompt};
/// use patchlens::tracing::{CausalTracing, Restore, SubjectCorruption, TracedFact};
/// use patchlens::Transformer;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let fact = TracedFact::new(Prompt::from([4, 1, 2, 3]), 1..3)?; // the subject is `1 2`
/// let tracing = CausalTracing::new(&model, SubjectCorruption::noise(0.06));
/// let trace = tracing.trace(&fact, Restore::states())?;
/// assert_eq!(trace.indirect_effect.values().shape(), [4, 2]); // [token, layer]
/// println!("TE {}\n{}", trace.total_effect, trace.indirect_effect);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CausalTracing<'m> {
    model: &'m Transformer,
    corruption: SubjectCorruption,
    limits: Limits<'m>,
}

/// What causal tracing found for one fact.
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
struct Clean<'m> {
    answer: u32,
    probability: f32,
    base: Base<'m>,
}

/// Where cells act, in every layer.
fn places(restores: &[Restore], n_layers: usize) -> impl Iterator<Item = HookPoint> {
    let sites = restores.iter().flat_map(Restore::sites);
    sites.flat_map(move |site| (0..n_layers).map(move |layer| site.at(layer)))
}

impl<'m> CausalTracing<'m> {
    /// A study of a model.
    pub fn new(model: &'m Transformer, corruption: SubjectCorruption) -> Self {
        CausalTracing {
            model,
            corruption,
            limits: Limits::default(),
        }
    }

    limits_methods!('m);

    /// The model.
    pub fn model(&self) -> &'m Transformer {
        self.model
    }

    /// Traces one fact, whether or not the model knows it. An observer is told how many cells are
    /// done; after its break the cells that were not reached are NaN.
    ///
    /// # Errors
    /// [`Error::Prompt`] for a prompt that cannot run; [`Error::Invalid`] for a window that is
    /// empty or wider than the model, a site without the axes `[pos, d_model]`, or a corruption
    /// that does not fit the subject; else same as [`Sweep::prepare`].
    pub fn trace(&self, fact: &TracedFact, restore: Restore) -> Result<FactTrace> {
        restore.check(self.model.config().n_layers)?;
        let clean = self.clean(fact, &[restore])?;
        let traces = self.traces(fact, &clean, &[restore], self.limits.clone())?;
        let one = traces.into_iter().next();
        Ok(one.expect("one trace for one restoration"))
    }

    /// Announces the corrupted runs to the clean one, which keeps what their cells restore, and
    /// reads its answer.
    fn clean(&self, fact: &TracedFact, restores: &[Restore]) -> Result<Clean<'m>> {
        let base = Base::new(self.model, &fact.prompt)?;
        let places = places(restores, self.model.config().n_layers);
        base.expect(places.chain([HookPoint::Embed]), Frozen::default());
        let last = Needs {
            positions: vec![fact.prompt.len() - 1],
            tokens: None,
        };
        let logits = &base.readout(&[last])?.value[0];
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
            probability: probability(&[answer]).evaluate(0, logits.view())?,
            base,
        })
    }

    /// One trace per restoration, all from the same corrupted runs: their cells are one sweep.
    fn traces(
        &self,
        fact: &TracedFact,
        clean: &Clean<'m>,
        restores: &[Restore],
        limits: Limits<'m>,
    ) -> Result<Vec<FactTrace>> {
        let n_layers = self.model.config().n_layers;
        let (prompts, noise) = self.corruption.samples(self.model.config(), fact)?;
        let corrupted = Base::over(&clean.base, &prompts, noise)?;
        corrupted.expect(places(restores, n_layers), Frozen::default());
        let cells = restores
            .iter()
            .map(|r| self.cells(fact, *r, clean, &corrupted));
        let cells: Vec<Vec<Cell>> = cells.collect::<Result<_>>()?;
        let metric = probability(&[clean.answer]);
        let result = Sweep::limited(&corrupted, limits).run(&cells.concat(), &metric)?;
        let mut values = result.values.into_iter();
        let mut absent = Absent::not_run(&result.finished);
        let shape = (fact.prompt.len(), n_layers, prompts.len());
        let traces = restores.iter().map(|restore| {
            let own = values.by_ref().take(shape.0 * shape.1 * shape.2);
            let restored = Array3::from_shape_vec(shape, own.collect())
                .expect("one value per cell and sample");
            let mut about = self.about(*restore, &metric);
            about.partial = result.partial;
            let absent = absent.by_ref().take(shape.0 * shape.1).collect();
            label(fact, clean, result.base.clone(), (restored, absent), about)
        });
        traces.collect()
    }

    /// One cell per token and layer, in row-major order. All cells of a point share its values.
    fn cells(
        &self,
        fact: &TracedFact,
        restored: Restore,
        clean: &Clean<'m>,
        corrupted: &Base<'m>,
    ) -> Result<Vec<Cell>> {
        let n_layers = self.model.config().n_layers;
        let edits = |site: Site, base: &Base<'m>| -> Result<Vec<Edit>> {
            let points = (0..n_layers).map(|layer| site.at(layer));
            let caches = base.caches(points.clone())?;
            points.map(|point| Edit::patch(&caches, point)).collect()
        };
        let restore = edits(restored.site, &clean.base)?;
        let severed = restored.severed.map(Severed::site);
        let frozen = severed.map_or(Ok(Vec::new()), |site| edits(site, corrupted))?;
        let mut cells = Vec::with_capacity(fact.prompt.len() * n_layers);
        for token in 0..fact.prompt.len() {
            let at = |site: Site, layer: usize| Target::new(site.at(layer)).at_positions(token);
            for layer in 0..n_layers {
                let window = restored.layers(layer, n_layers);
                let mut cell: Cell = window
                    .clone()
                    .map(|l| Intervention::new(at(restored.site, l), restore[l].clone()))
                    .collect();
                if let Some(site) = severed {
                    // What is restored stays restored; before it nothing differs anyway.
                    let both = |l: &usize| site == restored.site && window.contains(l);
                    let later = (window.start..n_layers).filter(|l| !both(l));
                    cell.extend(later.map(|l| Intervention::new(at(site, l), frozen[l].clone())));
                }
                cells.push(cell);
            }
        }
        Ok(cells)
    }

    fn about(&self, restore: Restore, metric: &Metric) -> About {
        let severed = match restore.severed {
            Some(Severed::Mlp) => "; MLPs at the token severed",
            Some(Severed::Attention) => "; attention at the token severed",
            None => "",
        };
        About {
            title: format!("Causal tracing: {}{severed}", restore.site.name()),
            caption: format!(
                "Indirect effect on the answer's probability: the subject corrupted by {}, then {} \
                 restored at one token.",
                self.corruption.describe(),
                restore.describe(),
            ),
            unit: format!("indirect effect ({})", metric.name()),
            direction: Some(Direction::Denoising),
            seed: self.corruption.seed(),
            ..About::default()
        }
    }
}

/// The trace of what a fact's cells gave, `[token, layer, sample]`, with reasons where they gave
/// nothing, and its corrupted runs, `[sample]`.
fn label(
    fact: &TracedFact,
    clean: &Clean<'_>,
    samples: Array1<f32>,
    (restored, absent): (Array3<f32>, Vec<Option<Absent>>),
    mut about: About,
) -> Result<FactTrace> {
    let corrupted = mean(samples.iter().copied());
    let effects: Vec<f32> = restored
        .lanes(Dim(2))
        .into_iter()
        .map(|lane| mean(lane.iter().copied()) - corrupted)
        .collect();
    let (tokens, layers, _) = restored.dim();
    let effects = Array2::from_shape_vec((tokens, layers), effects);
    let baselines = [("clean", clean.probability), ("corrupted", corrupted)];
    about.baselines = baselines.map(|(name, v)| (name.to_string(), v)).into();
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
        indirect_effect: Labelled::new(
            effects.expect("one mean per token and layer"),
            axes,
            about,
        )?
        .with_absent(shaped(&[tokens, layers], absent))?,
        restored,
    })
}
