//! Path patching: what does one part of the model tell another directly, rather than through the
//! rest?
//!
//! A sender's output in the new run reaches the receivers alone: all other heads keep their outputs
//! of the original run, MLPs between are computed anew. Then the receivers' values are put into the
//! original run:
//!
//! ```text
//! effect(s -> r) = m(original run, r set to its value when only s comes from the new run)
//!                  - m(original run)
//! ```
//!
//! (Wang et al. 2022, "Interpretability in the Wild", section 3.1 and appendix B; Goldowsky-Dill et
//! al. 2023.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
//! let corrupted = tokenizer.encode("When Mary and John went to the store, Mary gave a drink to")?;
//! let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);
//! let study = PathPatching::new(&model, &clean, &corrupted)?;
//! let end = [patchlens::paths::PathReceiver::final_residual().at_positions(Select::Last)];
//! let found = study.run(patchlens::paths::Senders::Heads, &end, &metric)?;
//! println!("{}", found.relative()?.top(3));
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** Below 0: the metric falls when the sender says what it would say on the
//! other prompt, so it helps. [`PathEffects::relative`] is in shares of the original metric.
//! "No path" is no 0: the receiver cannot see the sender.
//!
//! **What it does not mean.** Paths through other heads are left out on purpose: what a sender does
//! through them shows with them as receivers. Shares do not add up. More in
//! [the guide](crate::guide::paths).

mod check;
mod effects;
mod ends;
mod engine;
mod ledger;
mod linear;
mod nodes;

use std::collections::BTreeMap;

use ndarray::{Array2, ArrayD, Dimension, IxDyn};

pub use effects::{Linearised, PathEffects};
pub use nodes::{PathReceiver, PathSender, Senders};

use crate::base::Base;
use crate::effects::Measured;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::Edit;
use crate::limits::{Limits, limits_methods};
use crate::metric::{Baseline, Metric};
use crate::model::Transformer;
use crate::pairs::{averaged, check_one_model, check_pairs, pairs, position_labels};
use crate::prompt::IntoPrompts;
use crate::report::{About, Axis, Labelled};
use crate::statistics;
use crate::sweep::Cell;
use ends::Ends;
use engine::{Raw, Runs};

/// A study of paths from senders to receivers, by four runs:
///
/// - A, on the new prompt, and B, on the original one, are cached;
/// - C, on the original prompt: the sender's output is A's, every other head's output is B's,
///   and MLPs and LayerNorms are recomputed. What the receivers read is saved;
/// - D, on the original prompt: the receivers read what C saved. The effect is its metric minus
///   run B's.
///
/// The paths are those through the residual stream and MLPs, never through another head. Where
/// the graph has none, there is no effect ([`Absent::NoPath`](crate::report::Absent::NoPath)),
/// which is not a path of zero effect.
///
/// ```
/// use patchlens::{Config, Head, Prompt, Qkv, Transformer};
/// use patchlens::paths::{PathPatching, PathReceiver, Senders};
/// use patchlens::logit_diff;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (original, new) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let study = PathPatching::new(&model, &original, &new)?;
/// let metric = logit_diff(2, 4);
/// let to_logits = study.run(Senders::Heads, &[PathReceiver::final_residual()], &metric)?;
/// assert_eq!(to_logits.effect.values().shape(), [2, 2]); // [layer, head]
/// let query = PathReceiver::head(Head::new(1, 0), Qkv::Q);
/// let to_queries = study.run(Senders::Heads, &[query], &metric)?;
/// assert!(to_queries.effect.values()[[1, 0]].is_nan()); // no path: layer 1 does not read itself
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct PathPatching<'m> {
    original: Base<'m>,
    sent: Sent<'m>,
    freeze_mlps: bool,
    linearised: bool,
    limits: Limits<'m>,
}

/// What becomes of a sender's output in run C.
#[derive(Clone, Debug)]
enum Sent<'m> {
    /// What it is in other runs, the runs A.
    Run(Base<'m>),
    /// What edits make of it, by hook point.
    Edits(BTreeMap<HookPoint, Edit>),
}

impl<'m> PathPatching<'m> {
    /// A study of pairs of an original and a new prompt.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`]
    /// if a prompt cannot run, [`Error::Invalid`] for
    /// another number of new prompts, [`Error::Prompt`] if the two of a
    /// pair differ in length.
    pub fn new(
        model: &'m Transformer,
        original: impl IntoPrompts,
        new: impl IntoPrompts,
    ) -> Result<Self> {
        let [original, new] = pairs(model, NAMES, original, new)?;
        Self::over(&original, &new)
    }

    /// A study of base runs, which other studies may share.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many new prompts as prompts,
    /// [`Error::Prompt`] if the two of a
    /// pair differ in length.
    pub fn over(original: &Base<'m>, new: &Base<'m>) -> Result<Self> {
        check_pairs(NAMES, original.prompts(), new.prompts())?;
        check_one_model(NAMES, original, new)?;
        Ok(Self::with(original, Sent::Run(new.clone())))
    }

    /// A study without new runs: in run C, an edit at the sender's output takes their place. The
    /// edits are by the senders' hook points: `attn.hook_z` of its layer for a head,
    /// `hook_mlp_out` for an MLP, `hook_embed` for the embedding.
    ///
    /// # Errors
    /// [`Error::Invalid`] for two edits at one hook point.
    pub fn ablating(
        original: &Base<'m>,
        edits: impl IntoIterator<Item = (HookPoint, Edit)>,
    ) -> Result<Self> {
        let mut by_point = BTreeMap::new();
        for (point, edit) in edits {
            if by_point.insert(point, edit).is_some() {
                let found = format!("two at `{point}`");
                return Err(Error::invalid(
                    "edits of senders",
                    found,
                    "one per hook point",
                ));
            }
        }
        Ok(Self::with(original, Sent::Edits(by_point)))
    }

    fn with(original: &Base<'m>, sent: Sent<'m>) -> Self {
        PathPatching {
            original: original.clone(),
            sent,
            freeze_mlps: false,
            linearised: false,
            limits: Limits::default(),
        }
    }

    /// Whether run C freezes MLPs to run B too: then only the direct path through the residual
    /// stream is left. By default, they are recomputed.
    #[must_use]
    pub fn freeze_mlps(mut self, freeze: bool) -> Self {
        self.freeze_mlps = freeze;
        self
    }

    /// Whether the linearised effect is computed too; needs a metric with a gradient.
    #[must_use]
    pub fn linearised(mut self, linearised: bool) -> Self {
        self.linearised = linearised;
        self
    }

    limits_methods!('m);

    /// The model.
    pub fn model(&self) -> &'m Transformer {
        self.original.model()
    }

    /// Sends one node's output at a time to the receivers. An observer hears how many senders are
    /// done; senders that were not reached after its break have no effect
    /// ([`Absent::NotRun`](crate::report::Absent::NotRun)), and the result says that it is
    /// partial.
    ///
    /// # Errors
    /// Before anything is computed: [`Error::OutOfRange`] for a layer,
    /// head or position that is
    /// not there; [`Error::Invalid`] for no receivers, an input received
    /// twice, a receiver to
    /// which no path leads from any sender, a sender without an edit, a metric without gradient
    /// if the linearised effect is asked for; [`Error::Prompt`] if the
    /// senders have a position
    /// axis and the prompts differ in length.
    pub fn run(
        &self,
        senders: Senders,
        receivers: &[PathReceiver],
        metric: &Metric,
    ) -> Result<PathEffects> {
        let labels = if senders.by_position() {
            let original = self.original.prompts();
            let new = match &self.sent {
                Sent::Run(new) => new.prompts(),
                Sent::Edits(_) => original,
            };
            position_labels("original", original, new)?
        } else {
            Vec::new()
        };
        let config = self.model().config();
        let axes = senders.axes(config, &labels);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        let sets: Vec<Vec<PathSender>> = ArrayD::from_elem(IxDyn(&shape), ())
            .indexed_iter()
            .map(|(index, ())| {
                vec![senders.at(index.as_array_view().as_slice().unwrap_or(&[]), config)]
            })
            .collect();
        self.run_cells(&sets, axes, senders.describe(), receivers, metric)
    }

    /// Sends the outputs of several nodes at once, one set per cell; the result's axis `set` has
    /// the senders' names.
    ///
    /// # Errors
    /// Same as [`PathPatching::run`]; also [`Error::Invalid`] for a set
    /// without senders.
    pub fn run_sets(
        &self,
        sets: &[Vec<PathSender>],
        receivers: &[PathReceiver],
        metric: &Metric,
    ) -> Result<PathEffects> {
        let axes = vec![Axis::new("set", sets.iter().map(|set| names(set)))];
        let sent = "The outputs of a set of nodes";
        self.run_cells(sets, axes, sent, receivers, metric)
    }

    /// The interventions of run D, to run anything else with them: what each receiver reads, in
    /// order, set to what it is when all of the senders are sent. Where no path leads, and without
    /// senders, it stays as it is.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a layer, head or position that is not
    /// there, [`Error::Invalid`]
    /// for a sender without an edit.
    pub fn received(&self, senders: &[PathSender], receivers: &[PathReceiver]) -> Result<Cell> {
        check::places(self, senders, receivers)?;
        self.receive(senders, &Ends::new(receivers, self.model().config()))
    }

    fn run_cells(
        &self,
        sets: &[Vec<PathSender>],
        axes: Vec<Axis>,
        sent: &str,
        receivers: &[PathReceiver],
        metric: &Metric,
    ) -> Result<PathEffects> {
        let connected = check::check(self, sets, receivers)?;
        let metric = self.original.refer_within(metric, self.limits.room(0))?;
        let runs = Runs::new(self, sets, receivers, &metric)?;
        let raw = runs.run(&connected)?;
        let mut about = self.about(sent, receivers, &metric);
        let baseline = |name, values| Baseline { name, values };
        let new = raw.new.as_ref().map(|new| baseline("new", new));
        about.notes = metric.notes(baseline("original", &raw.original), new);
        about
            .notes
            .extend(self.original.blocked().told("original run"));
        self.label(raw, axes, about)
    }

    fn about(&self, sent: &str, receivers: &[PathReceiver], metric: &Metric) -> About {
        let pairs = self.original.prompts().len();
        let to = names(receivers);
        let mlps = if self.freeze_mlps {
            "frozen"
        } else {
            "recomputed"
        };
        let (how, what) = match &self.sent {
            Sent::Run(_) => ("in the new run", averaged(pairs, "prompt pair")),
            Sent::Edits(_) => ("ablated", averaged(pairs, "prompt")),
        };
        let mut about = About {
            title: format!("Path patching to {to}"),
            caption: format!(
                "{sent} {how}, sent to {to} of the original run, other heads frozen and MLPs \
                 {mlps}; {what}. No value: no path.",
            ),
            unit: metric.name().to_string(),
            ..About::default()
        };
        let counted = match &self.sent {
            Sent::Run(_) => "prompt pairs",
            Sent::Edits(_) => "prompts",
        };
        about.counts.insert(counted.to_string(), pairs as u64);
        about
    }

    fn label(&self, raw: Raw, axes: Vec<Axis>, mut about: About) -> Result<PathEffects> {
        let baselines = [("original", Some(&raw.original)), ("new", raw.new.as_ref())];
        for (name, values) in baselines {
            if let Some(values) = values {
                let mean = statistics::mean(values.iter().copied());
                about.baselines.insert(name.to_string(), mean);
            }
        }
        about.partial = raw.partial;
        let work = [
            (About::MULTIPLY_ADDS, raw.multiply_adds),
            (About::FULL_PASSES, raw.naive),
        ];
        let work = work.map(|(name, n)| (name.to_string(), n));
        about.counts.extend(work);
        let measured = |values: Array2<f32>| Measured {
            values,
            base: raw.original.clone(),
            axes: axes.clone(),
            absent: raw.absent.clone(),
        };
        let exact = measured(raw.values).label(about.clone(), AGAINST)?;
        let linear = raw
            .linear
            .map(|values| linearised(measured(values), &exact.raw, about));
        Ok(PathEffects {
            linear: linear.transpose()?,
            effect: exact.effect,
            per_prompt: exact.per_prompt,
            values: exact.values,
            raw: exact.raw,
            original: raw.original,
            new: raw.new,
            plan: raw.plan,
        })
    }
}

/// Labels linearised effects.
fn linearised(measured: Measured, exact: &Labelled, mut about: About) -> Result<Linearised> {
    let mut of_error = about.clone();
    of_error.title += ": error of the linearisation";
    about.title += ", linearised";
    let found = measured.label(about, AGAINST)?;
    let error = &found.raw.values() - &exact.values();
    let error = Labelled::new(error, exact.axes().to_vec(), of_error)?;
    Ok(Linearised {
        error: error.with_absent(exact.absent().to_owned())?,
        effect: found.effect,
        raw: found.raw,
    })
}

/// What effects are changes against.
const AGAINST: &str = "original run";

const NAMES: [&str; 2] = ["original", "new"];

/// Some nodes, as titles name them: the first few.
fn names<T: ToString>(nodes: &[T]) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<String> = nodes.iter().take(SHOWN).map(T::to_string).collect();
    if nodes.len() > SHOWN {
        names.push(format!("{} more", nodes.len() - SHOWN));
    }
    names.join(", ")
}
