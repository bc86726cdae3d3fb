//! Averages over prompts.

use ndarray::{Array1, Array2, Axis as Dim};

use super::{Decomposition, DirectLogitAttribution, check_prompts};
use crate::error::{Error, Result};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompts};
use crate::report::{About, Labelled, labelled_means};
use crate::schedule::kept_bytes;

/// A study of what parts of the model add to logits at the last position of several prompts, which
/// may differ in length.
///
/// ```
/// use patchlens::{Config, Prompts, Transformer};
/// use patchlens::attribution::{Decomposition, LogitAttribution};
/// use patchlens::metric::logit_diffs;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5]])?;
/// let study = LogitAttribution::new(&model, &prompts)?;
/// let found = study.run(Decomposition::Components, &logit_diffs(&[(6, 7), (8, 7)]))?;
/// let parts: f32 = found.effect.values().sum();
/// assert!((parts - found.truth.mean().unwrap()).abs() < 1e-4);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LogitAttribution<'m> {
    model: &'m Transformer,
    prompts: Prompts,
    limits: Limits<'m>,
}

/// What a study of direct logit attribution found.
#[derive(Clone, Debug)]
pub struct Attributed {
    /// What each part adds, mean over the prompts, with standard errors where there are several,
    /// `[component]`.
    pub effect: Labelled,
    /// The same for each prompt that was run, `[component, prompt]`.
    pub per_prompt: Array2<f32>,
    /// What the parts sum to for each prompt that was run, `[prompt]`.
    pub truth: Array1<f32>,
}

impl<'m> LogitAttribution<'m> {
    /// A study of prompts.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that the model cannot run.
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        let prompts = prompts.into_prompts()?;
        model.check_prompts(prompts.as_slice())?;
        Ok(LogitAttribution {
            model,
            prompts,
            limits: Limits::default(),
        })
    }

    limits_methods!('m);

    /// Runs the prompts in turn; the metric is a sum of logits. An observer hears how many are
    /// done; after its break, the means
    /// are over those, and the result says that it is partial.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] if a prompt's activations do not fit; else same as
    /// [`DirectLogitAttribution::new`] and [`DirectLogitAttribution::decompose`].
    pub fn run(&self, by: Decomposition, metric: &Metric) -> Result<Attributed> {
        check_prompts(self.model, self.prompts.as_slice(), metric)?;
        self.check_memory()?;
        let all = self.prompts.len();
        let mut columns: Vec<f32> = Vec::new();
        let mut truths = Vec::new();
        let mut first = None;
        for (i, prompt) in self.prompts.iter().enumerate() {
            let one = DirectLogitAttribution::of_prompt(self.model, prompt, metric, i)?;
            let found = one.decompose(by)?;
            let last = found.values().index_axis_move(Dim(1), prompt.len() - 1);
            columns.extend(last);
            truths.push(one.truth[prompt.len() - 1]);
            first.get_or_insert(found);
            let ended = self.limits.report(truths.len(), all, "prompts").is_break();
            if ended && truths.len() < all {
                break;
            }
        }
        let first = first.expect("there is a prompt");
        let about = self.about(&first, &truths);
        let shape = (truths.len(), first.axes()[0].labels.len());
        let samples = Array2::from_shape_vec(shape, columns).expect("one value per part");
        let samples = samples.reversed_axes();
        let axes = vec![first.axes()[0].clone()];
        Ok(Attributed {
            effect: labelled_means(samples.view().into_dyn(), axes, about)?,
            per_prompt: samples,
            truth: truths.iter().map(|truth| *truth as f32).collect(),
        })
    }

    /// Checks that what is cached of each prompt fits the memory limit.
    fn check_memory(&self) -> Result<()> {
        let config = self.model.config();
        let selection = DirectLogitAttribution::selection(self.model);
        let bytes = |n: usize| kept_bytes(config, &selection, n);
        let least = self.prompts.lengths().into_iter().map(bytes).max();
        match (self.limits.memory, least.unwrap_or(0)) {
            (limit, least) if limit < least => Err(Error::MemoryLimit { limit, least }),
            _ => Ok(()),
        }
    }

    fn about(&self, first: &Labelled, truths: &[f64]) -> About {
        let (n, all) = (truths.len(), self.prompts.len());
        let mut about = first.about.clone();
        about.caption = format!("{} Mean over {n} prompts, last position.", about.caption);
        let key = format!("{} at the last position", first.about.unit);
        let shares = truths.iter().map(|truth| truth / n as f64);
        about.baselines.insert(key, shares.sum::<f64>() as f32);
        about.counts.insert("prompts".to_string(), n as u64);
        about.partial = n < all;
        about
    }
}

/// The mean over prompts of a decomposition at each one's last position, `[component]`, with its
/// standard error; the metric is a sum of logits. [`LogitAttribution`] has each prompt's values
/// and more settings.
///
/// # Errors
/// Same as [`LogitAttribution::new`] and [`LogitAttribution::run`].
pub fn direct_logit_attribution(
    model: &Transformer,
    prompts: impl IntoPrompts,
    by: Decomposition,
    metric: &Metric,
) -> Result<Labelled> {
    Ok(LogitAttribution::new(model, prompts)?
        .run(by, metric)?
        .effect)
}
