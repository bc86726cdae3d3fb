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
//! (Hase et al. 2023). Noise is not another fact: it puts activations where the model never goes. More in
//! [the guide](crate::guide::tracing).

mod average;
mod corruption;
mod fact;
mod restore;

use ndarray::{Array1, Array3, Axis as Dim};

pub use average::{DroppedFact, PositionClass, SetTrace};
pub use corruption::{SubjectCorruption, mean_subject_embedding, subject_noise_std};
pub use fact::TracedFact;
pub use restore::{DEFAULT_WINDOW, Restore, Severed};

use crate::base::Base;
use crate::effects::{Zeros, layer_axis};
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::intervention::Edit;
use crate::limits::{Limits, limits_methods};
use crate::metric::{Metric, Needs, answer_probability, probability, top_tokens};
use crate::model::Transformer;
use crate::model::stage::Frozen;
use crate::report::{About, Absent, Axis, Direction, Labelled, with_errors};
use crate::statistics::{mean, shaped};
use crate::sweep::{Cell, Sweep};

/// A causal tracing study: how subjects are corrupted.
///
/// ```
/// use patchlens::{Config, Prompt};
/// use patchlens::tracing::{CausalTracing, Restore, SubjectCorruption, TracedFact};
/// use patchlens::Transformer;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
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
    /// The tokens whose probability is traced: the clean run's likeliest next token, or an answer of
    /// several ([`TracedFact::with_answer`]).
    pub answer: Vec<u32>,
    /// Its probability in the clean run.
    pub clean: f32,
    /// Its probability in the corrupted runs, mean over samples.
    pub corrupted: f32,
    /// Its probability in each corrupted run, `[sample]`.
    pub corrupted_samples: Array1<f32>,
    /// TE: `clean - corrupted`.
    pub total_effect: f32,
    /// IE: mean probability with the cell restored, minus `corrupted`; `[token, layer]`, with
    /// standard errors over the samples where there are several.
    pub indirect_effect: Labelled,
    /// The probability with the cell restored, `[token, layer, sample]`.
    pub restored: Array3<f32>,
}

impl FactTrace {
    /// The probability with the cell restored itself, mean over samples, `[token, layer]`.
    pub fn raw(&self) -> Labelled {
        let effect = &self.indirect_effect;
        let mut about = effect.about.clone();
        about.title += ": raw probability";
        about.unit = metric_of(&self.answer).name().to_string();
        let means = self
            .restored
            .map_axis(Dim(2), |lane| mean(lane.iter().copied()));
        Labelled::new(means, effect.axes().to_vec(), about)
            .and_then(|raw| raw.with_absent(effect.absent().to_owned()))
            .expect("one mean per effect, of the same cells")
    }
}

/// The clean run of a fact.
struct Clean<'m> {
    /// The likeliest tokens, each after the right ones before it.
    likeliest: Vec<u32>,
    /// What is traced.
    answer: Vec<u32>,
    metric: Metric,
    probability: f32,
    base: Base<'m>,
}

/// The probability of one token, or of an answer of several.
pub(crate) fn metric_of(answer: &[u32]) -> Metric {
    match answer {
        [token] => probability(&[*token]),
        _ => answer_probability(&[answer.to_vec()]),
    }
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

    /// Traces one fact, whether or not the model knows it. An observer hears how many cells are
    /// done; cells that were not reached after its break have no effect
    /// ([`Absent::NotRun`]).
    ///
    /// # Errors
    /// [`Error::Prompt`](crate::Error::Prompt) for a prompt that cannot run;
    /// [`Error::Invalid`](crate::Error::Invalid) for an empty window, a
    /// site without the axes `[pos, d_model]`, or a corruption that does not fit the subject; else
    /// same as [`Sweep::prepare`].
    pub fn trace(&self, fact: &TracedFact, restore: Restore) -> Result<FactTrace> {
        restore.check()?;
        let clean = self.clean(fact, &[restore])?;
        let mut limits = self.limits.clone();
        limits.slot = Some(0);
        let traces = self.traces(fact, &clean, &[restore], limits)?;
        let one = traces.into_iter().next();
        Ok(one.expect("one trace for one restoration"))
    }

    /// Announces the corrupted runs to the clean one, which keeps what their cells restore, and
    /// reads its answer.
    fn clean(&self, fact: &TracedFact, restores: &[Restore]) -> Result<Clean<'m>> {
        let base = Base::new(self.model, &fact.prompt)?;
        let places = places(restores, self.model.config().n_layers);
        base.expect(places.chain([HookPoint::Embed]), Frozen::default());
        let n = fact.prompt.len();
        let answers = Needs {
            positions: (n.saturating_sub(fact.answer_len())..n).collect(),
            tokens: None,
        };
        let logits = &base.readout(&[answers])?[0];
        let best = logits.rows().into_iter().map(|row| top_tokens(row, 1));
        let likeliest = best.collect::<Vec<_>>().concat();
        let answer = match &fact.attribute {
            Some(answer) if answer.len() > 1 => answer.clone(),
            _ => likeliest.clone(),
        };
        let metric = metric_of(&answer);
        base.needs(&metric)?;
        Ok(Clean {
            probability: metric.evaluate(0, logits.view())?,
            likeliest,
            answer,
            metric,
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
        let metric = clean.metric.clone();
        let (cells, sweep) = (cells.concat(), Sweep::limited(&corrupted, limits));
        let prepared = sweep.prepare(&cells, &metric)?;
        let result = prepared.run()?;
        let mut values = result.values.into_iter();
        let mut absent = Absent::not_run(&result.finished);
        let shape = (fact.prompt.len(), n_layers, prompts.len());
        let of_each = shape.0 * shape.1;
        let full = result.plan.naive_multiply_adds / restores.len() as u64;
        let traces = restores.iter().enumerate().map(|(i, restore)| {
            let own = values.by_ref().take(of_each * shape.2);
            let restored = Restored {
                values: Array3::from_shape_vec(shape, own.collect())
                    .expect("one value per cell and sample"),
                absent: absent.by_ref().take(of_each).collect(),
                corrupted: result.base.clone(),
            };
            let mut about = self.about(*restore, &metric);
            about.partial = result.partial;
            if !result.partial {
                let own = prepared.multiply_adds(i * of_each..(i + 1) * of_each);
                let work = [(About::MULTIPLY_ADDS, own), (About::FULL_PASSES, full)];
                about
                    .counts
                    .extend(work.map(|(name, n)| (name.to_string(), n)));
            }
            let layers = layer_axis(restore.site, n_layers);
            restored.label(
                clean,
                vec![Axis::tokens("token", &fact.labels()), layers],
                about,
            )
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
            let caches = base.held(points.clone())?;
            points.map(|point| Edit::patch(&caches, point)).collect()
        };
        let restore = edits(restored.site, &clean.base)?;
        let severed = restored.severed.map(Severed::site);
        let frozen = severed.map_or(Ok(Vec::new()), |site| edits(site, corrupted))?;
        Ok(restored.cells(fact.prompt.len(), &restore, &frozen))
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

/// What the cells of a fact gave.
struct Restored {
    /// The probability, `[token, layer, sample]`.
    values: Array3<f32>,
    /// Why cells have no value, in row-major order.
    absent: Vec<Option<Absent>>,
    /// The probability in the corrupted runs, `[sample]`.
    corrupted: Array1<f32>,
}

impl Restored {
    fn label(self, clean: &Clean<'_>, axes: Vec<Axis>, mut about: About) -> Result<FactTrace> {
        let samples = self.corrupted;
        let corrupted = mean(samples.iter().copied());
        let effects = self
            .values
            .map_axis(Dim(2), |lane| mean(lane.iter().copied()) - corrupted);
        let baselines = [("clean", clean.probability), ("corrupted", corrupted)];
        about.baselines = baselines.map(|(name, v)| (name.to_string(), v)).into();
        about
            .counts
            .insert("samples".to_string(), samples.len() as u64);
        let absent = shaped(effects.shape(), self.absent);
        let changes = &self.values - &samples;
        let of_cells = changes.lanes(Dim(2)).into_iter().zip(&absent);
        let of_cells = of_cells.flat_map(|(lane, absent)| lane.into_iter().map(|v| (*v, *absent)));
        about.caption += Zeros::Measured.note(of_cells).unwrap_or_default();
        let effects = Labelled::new(effects, axes, about)?.with_absent(absent)?;
        Ok(FactTrace {
            answer: clean.answer.clone(),
            clean: clean.probability,
            corrupted,
            total_effect: clean.probability - corrupted,
            indirect_effect: with_errors(effects, changes.view().into_dyn())?,
            corrupted_samples: samples,
            restored: self.values,
        })
    }
}
