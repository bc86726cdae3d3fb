//! Path patching: which nodes act on others directly, rather than through the rest of the model
//! (Wang et al. 2022, "Interpretability in the Wild", section 3.1 and appendix B).

mod check;
mod engine;
mod linear;
mod nodes;

use std::ops::ControlFlow;

use ndarray::{Array1, Array2, ArrayD, Axis as Dim, Dimension, IxDyn};

pub use nodes::{PathReceiver, PathSender, Senders};

use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::model::stage::Frozen;
use crate::pairs::{checked_pairs, count_pairs, position_labels, with_reference};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::statistics::{labelled_means, shaped};
use crate::sweep::DEFAULT_MEMORY_LIMIT;
use engine::{Raw, Runs};

/// A study of paths from senders to receivers, by four runs:
///
/// - A, on the new prompt, and B, on the original one, are cached;
/// - C, on the original prompt: the sender's output is A's, every other head's output is B's,
///   and MLPs and LayerNorms are recomputed. What the receivers read is saved;
/// - D, on the original prompt: the receivers read what C saved. Its metric is the effect.
///
/// The paths are those through the residual stream and MLPs, never through another head. Where
/// the graph has none, the effect is NaN, which is not a path of zero effect.
///
/// ```
/// use patchlens::{Config, PathPatching, PathReceiver, Prompt, Senders, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (original, new) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let study = PathPatching::new(&model, &original, &new)?;
/// let metric = logit_diff(2, 4);
/// let to_logits = study.run(Senders::Heads, &[PathReceiver::final_residual()], &metric)?;
/// assert_eq!(to_logits.effect.values().shape(), [2, 2]); // [layer, head]
/// let to_queries = study.run(Senders::Heads, &[PathReceiver::query(1, 0)], &metric)?;
/// assert!(to_queries.effect.values()[[1, 0]].is_nan()); // no path: layer 1 does not read itself
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PathPatching<'m> {
    model: &'m Transformer,
    original: Vec<Prompt>,
    new: Vec<Prompt>,
    /// Whether run C freezes MLPs to run B too: then only the direct path through the residual
    /// stream is left. By default, they are recomputed.
    pub freeze_mlps: bool,
    /// Whether the linearised effect is computed too; needs a metric with a gradient.
    pub linearised: bool,
    /// Bound of the working memory, in bytes.
    pub memory_limit: u64,
}

/// What a study of paths gave.
#[derive(Clone, Debug)]
pub struct PathEffects {
    /// The metric of the runs D, mean over the prompt pairs; NaN: no path.
    pub effect: Labelled,
    /// The same to first order, if asked for: the metric of run B plus its gradient at the
    /// receivers' inputs there, times their change from B to C.
    pub linear: Option<Labelled>,
    /// The metric of the runs D for each pair; the last axis is the pair.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each original run B, `[pair]`.
    pub original: Array1<f32>,
    /// The metric of each new run A, `[pair]`.
    pub new: Array1<f32>,
}

impl PathEffects {
    /// The effect minus the metric of the original runs, with its standard error over the pairs.
    /// 0 means that the paths carry nothing.
    ///
    /// # Errors
    /// None at present.
    pub fn change(&self) -> Result<Labelled> {
        let mut about = self.effect.about.clone();
        about.unit = format!("change of {}", about.unit);
        let changes = &self.per_prompt - &self.original;
        labelled_means(changes.view(), self.effect.axes().to_vec(), about)
    }

    /// The relative change `(effect − original) / original` of the means: −1 where the paths
    /// carry the whole metric, 0 where they carry nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the original runs' mean metric is 0.
    pub fn relative(&self) -> Result<Labelled> {
        let original = self.original.mean().unwrap_or(f32::NAN);
        if !original.is_finite() || original == 0.0 {
            let expected = "a finite metric other than 0";
            return Err(Error::invalid("original runs", original, expected));
        }
        let mut relative = self.change()?;
        relative.about.unit = format!("relative {}", relative.about.unit);
        let errors = relative.std_error().map(|e| e.mapv(|v| v / original.abs()));
        let values = relative.values().mapv(|v| v / original);
        let relative = Labelled::new(values, relative.axes().to_vec(), relative.about)?;
        match errors {
            Some(errors) => relative.with_std_error(errors),
            None => Ok(relative),
        }
    }

    /// The linearised effect minus the exact one, if it was asked for.
    pub fn linear_error(&self) -> Option<Labelled> {
        let linear = self.linear.as_ref()?;
        let mut about = linear.about.clone();
        about.title = format!("{}: error of the linearisation", self.effect.about.title);
        let error = &linear.values() - &self.effect.values();
        Labelled::new(error, linear.axes().to_vec(), about).ok()
    }
}

impl<'m> PathPatching<'m> {
    /// A study of pairs of an original and a new prompt.
    ///
    /// # Errors
    /// [`Error::Prompt`] if a prompt cannot run, or the two of a pair differ in length.
    pub fn new(
        model: &'m Transformer,
        original: &(impl AsRef<[Prompt]> + ?Sized),
        new: &(impl AsRef<[Prompt]> + ?Sized),
    ) -> Result<Self> {
        let (original, new) = checked_pairs(model, ["original", "new"], original, new)?;
        Ok(PathPatching {
            model,
            original,
            new,
            freeze_mlps: false,
            linearised: false,
            memory_limit: DEFAULT_MEMORY_LIMIT,
        })
    }

    /// The model.
    pub fn model(&self) -> &'m Transformer {
        self.model
    }

    /// Sends one node's output at a time to the receivers.
    ///
    /// # Errors
    /// Before anything is computed: [`Error::OutOfRange`] for a layer, head or position that is
    /// not there; [`Error::Invalid`] for no receivers, an input received twice, a receiver to
    /// which no path leads from any sender, a metric without gradient if the linearised effect
    /// is asked for; [`Error::Prompt`] if the senders have a position axis and the pairs differ
    /// in length.
    pub fn run(
        &self,
        senders: Senders,
        receivers: &[PathReceiver],
        metric: &Metric,
    ) -> Result<PathEffects> {
        self.run_observed(senders, receivers, metric, |_, _| ControlFlow::Continue(()))
    }

    /// As [`PathPatching::run`], telling an observer how many of all cells are done. A break ends
    /// the study there: cells that were not reached are NaN, and the result says it is partial.
    ///
    /// # Errors
    /// As [`PathPatching::run`].
    pub fn run_observed(
        &self,
        senders: Senders,
        receivers: &[PathReceiver],
        metric: &Metric,
        observer: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<PathEffects> {
        let labels = match senders.by_position() {
            true => position_labels("original", &self.original, &self.new)?,
            false => Vec::new(),
        };
        let config = self.model.config();
        let axes = senders.axes(config, &labels);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        let sets: Vec<Vec<PathSender>> = ArrayD::from_elem(IxDyn(&shape), ())
            .indexed_iter()
            .map(|(index, ())| {
                vec![senders.at(index.as_array_view().as_slice().unwrap_or(&[]), config)]
            })
            .collect();
        let metric = with_reference(self.model, &self.original, metric)?;
        let raw = Runs::new(self, &sets, receivers)?.run(&sets, &metric, observer)?;
        self.label(
            raw,
            axes,
            self.about(senders.describe(), receivers, &metric),
        )
    }

    /// Sends the outputs of several nodes at once, one set a cell; the result's axis `set` has
    /// the senders' names.
    ///
    /// # Errors
    /// As [`PathPatching::run`]; also [`Error::Invalid`] for a set without senders.
    pub fn run_sets(
        &self,
        sets: &[Vec<PathSender>],
        receivers: &[PathReceiver],
        metric: &Metric,
    ) -> Result<PathEffects> {
        let metric = with_reference(self.model, &self.original, metric)?;
        let runs = Runs::new(self, sets, receivers)?;
        let raw = runs.run(sets, &metric, |_, _| ControlFlow::Continue(()))?;
        let axis = Axis::new("set", sets.iter().map(|set| names(set)));
        self.label(
            raw,
            vec![axis],
            self.about("The outputs of a set of nodes", receivers, &metric),
        )
    }

    /// The halves of the blocks through which no path leads.
    fn frozen(&self) -> Frozen {
        Frozen {
            attention: true,
            mlps: self.freeze_mlps,
        }
    }

    fn about(&self, sent: &str, receivers: &[PathReceiver], metric: &Metric) -> About {
        let pairs = self.original.len();
        let to = names(receivers);
        let mlps = match self.freeze_mlps {
            true => "frozen",
            false => "recomputed",
        };
        let mut about = About {
            title: format!("Path patching to {to}"),
            caption: format!(
                "{sent} in the new run, sent to {to} of the original run, other heads frozen and \
                 MLPs {mlps}; mean {} over {}. No value: no path.",
                metric.name(),
                count_pairs(pairs),
            ),
            unit: metric.name().to_string(),
            ..About::default()
        };
        about
            .counts
            .insert("prompt pairs".to_string(), pairs as u64);
        about
    }

    fn label(&self, raw: Raw, axes: Vec<Axis>, mut about: About) -> Result<PathEffects> {
        for (name, values) in [("original", &raw.original), ("new", &raw.new)] {
            let mean = values.mean().unwrap_or(f32::NAN);
            about.baselines.insert(name.to_string(), mean);
        }
        about.partial = raw.partial;
        about
            .counts
            .insert("multiply-adds".to_string(), raw.multiply_adds);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        let mean =
            |values: &Array2<f32>| shaped(&shape, values.mean_axis(Dim(1)).unwrap_or_default());
        let linear = match &raw.linear {
            None => None,
            Some(values) => {
                let mut about = about.clone();
                about.title = format!("{}, linearised", about.title);
                Some(Labelled::new(mean(values), axes.clone(), about)?)
            }
        };
        let with_prompts = [&shape[..], &[self.original.len()]].concat();
        Ok(PathEffects {
            effect: Labelled::new(mean(&raw.values), axes, about)?,
            linear,
            per_prompt: shaped(&with_prompts, raw.values),
            original: raw.original,
            new: raw.new,
        })
    }
}

/// Some nodes, as titles name them: the first few.
fn names<T: ToString>(nodes: &[T]) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<String> = nodes.iter().take(SHOWN).map(T::to_string).collect();
    if nodes.len() > SHOWN {
        names.push(format!("{} more", nodes.len() - SHOWN));
    }
    names.join(", ")
}
