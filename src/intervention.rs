//! Interventions: a declared place ([`Target`]) and what is done there ([`Edit`]), as plain data.
//! Because the place is data, everything is checked before a run, and the sweep engine knows
//! what it can leave out.

mod apply;
mod growing;
mod receipt;
mod values;

use std::fmt;
use std::sync::Arc;

pub use apply::Interventions;
pub(crate) use apply::{apply_unreported, footprint};
pub use receipt::{Fired, Receipt};
pub use values::Values;

pub use crate::select::{Each, Select};

use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint};
use crate::model::RunShape;
use crate::select::InPrompt;

/// Where an intervention acts.
///
/// ```
/// use patchlens::{Site, Target};
/// let target = Target::new(Site::Z.at(9)).at_positions(4).at_heads([6, 9]);
/// assert_eq!(target.to_string(), "blocks.9.attn.hook_z[pos 4, head 6,9]");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The hook point.
    pub point: HookPoint,
    /// Sequences of the batch.
    pub sequences: Select,
    /// Positions; for attention scores and patterns, destinations.
    pub positions: Select,
    /// Heads, where the point has a head axis.
    pub heads: Select,
    /// Source positions, for attention scores and patterns.
    pub src: Select,
}

impl From<HookPoint> for Target {
    fn from(point: HookPoint) -> Self {
        Target::new(point)
    }
}

impl Target {
    /// The whole activation at a point.
    pub fn new(point: HookPoint) -> Self {
        Target {
            point,
            sequences: Select::All,
            positions: Select::All,
            heads: Select::All,
            src: Select::All,
        }
    }

    /// Only these positions (destinations).
    pub fn at_positions(mut self, positions: impl Into<Select>) -> Self {
        self.positions = positions.into();
        self
    }

    /// Only these heads.
    pub fn at_heads(mut self, heads: impl Into<Select>) -> Self {
        self.heads = heads.into();
        self
    }

    /// Only these source positions.
    pub fn at_src(mut self, src: impl Into<Select>) -> Self {
        self.src = src.into();
        self
    }

    /// Only these sequences of the batch.
    pub fn at_sequences(mut self, sequences: impl Into<Select>) -> Self {
        self.sequences = sequences.into();
        self
    }

    fn check(&self, run: &RunShape<'_>) -> Result<()> {
        run.check_point(self.point)?;
        let axes = self.point.axes();
        let never = |reason: String| Error::NeverFires {
            at: self.point.to_string(),
            reason,
        };
        if self.heads != Select::All && !axes.has_heads() {
            let axes = axes.names().join(", ");
            return Err(never(format!(
                "heads are selected, but its axes are [{axes}]"
            )));
        }
        if self.src != Select::All && axes != Axes::Attention {
            let axes = axes.names().join(", ");
            return Err(never(format!(
                "sources are selected, but its axes are [{axes}]"
            )));
        }
        if matches!(self.sequences, Select::Each(_)) {
            return Err(never(
                "sequences are selected sequence by sequence".to_string(),
            ));
        }
        let (point, prompts) = (&self.point, run.lengths.len());
        self.sequences.check(point, "sequence", 0, prompts)?;
        let pos = axes.names()[axes.pos_axis()];
        for (select, axis) in [
            (&self.positions, pos),
            (&self.heads, "head"),
            (&self.src, "src"),
        ] {
            select.check_prompts(point, axis, prompts)?;
        }
        for (prompt, n) in run.lengths.iter().enumerate() {
            if !self.takes(prompt, prompts) {
                continue;
            }
            let at = |prompts| InPrompt {
                what: point,
                prompt,
                prompts,
            };
            self.positions.check(&at(prompts), pos, prompt, *n)?;
            // Every prompt has the same heads.
            self.heads
                .check(&at(1), "head", prompt, run.config.n_heads)?;
            self.src.check(&at(prompts), "src", prompt, *n)?;
            let named = self.positions.of(prompt).is_some();
            let mut positions = self.positions.resolve(prompt, *n).into_iter();
            if named && !positions.all(|p| run.computes(self.point, p, *n)) {
                return Err(run.only_last(self.point));
            }
        }
        Ok(())
    }

    /// Whether a sequence of a batch is among those that it names.
    pub(crate) fn takes(&self, sequence: usize, sequences: usize) -> bool {
        self.sequences.contains(0, sequence, sequences)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.point.axes().names()[self.point.axes().pos_axis()];
        let parts: Vec<String> = [
            ("sequence", &self.sequences),
            (position, &self.positions),
            ("head", &self.heads),
            ("src", &self.src),
        ]
        .into_iter()
        .filter(|(_, select)| **select != Select::All)
        .map(|(axis, select)| format!("{axis} {select}"))
        .collect();
        write!(f, "{}", self.point)?;
        if parts.is_empty() {
            return Ok(());
        }
        write!(f, "[{}]", parts.join(", "))
    }
}

/// One row of an activation, as [`Edit::Map`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The hook point.
    pub point: HookPoint,
    /// Position (destination).
    pub position: usize,
    /// Head, where there is a head axis.
    pub head: Option<usize>,
}

/// A closure over one row: `[d_model]`, `[d_head]`, `[d_mlp]` or, for attention, `[src]`.
pub type MapFn = Arc<dyn Fn(Row, &mut [f32]) + Send + Sync>;

/// What an intervention does to the part of an activation that its [`Target`] names. Every edit
/// works on each row (last axis) by itself.
#[derive(Clone)]
pub enum Edit {
    /// Takes the values of another run, see [`Edit::patch`].
    Patch(Values),
    /// Sets values; infinite ones too, such as scores of −∞, which block attention.
    Set(Values),
    /// Sets to zero.
    Zero,
    /// Sets to a mean, see [`Values::mean`].
    Mean(Values),
    /// Adds values.
    Add(Values),
    /// Multiplies by a factor, which must be finite.
    Scale(f32),
    /// Adds Gaussian noise. The noise of a row depends on the seed, the position and the head
    /// only, so that it is the same in every run, sequence and cell.
    Noise {
        /// Standard deviation, in units of the activation.
        std: f32,
        /// Seed.
        seed: u64,
    },
    /// Runs a closure on each row.
    Map(MapFn),
}

impl Edit {
    /// Takes the values that other runs had at `point`: one cache per sequence, or one for all.
    ///
    /// # Errors
    /// Same as [`Values::from_caches`], which says what to do with caches of another model.
    pub fn patch(caches: &[crate::ActivationCache], point: HookPoint) -> Result<Self> {
        Ok(Edit::Patch(Values::from_caches(caches, point)?))
    }

    /// A [`Edit::Map`] of a closure.
    pub fn map(f: impl Fn(Row, &mut [f32]) + Send + Sync + 'static) -> Self {
        Edit::Map(Arc::new(f))
    }

    /// The edit's name in receipts and labels.
    pub fn name(&self) -> &'static str {
        match self {
            Edit::Patch(_) => "patch",
            Edit::Set(_) => "set",
            Edit::Zero => "zero",
            Edit::Mean(_) => "mean",
            Edit::Add(_) => "add",
            Edit::Scale(_) => "scale",
            Edit::Noise { .. } => "noise",
            Edit::Map(_) => "map",
        }
    }

    /// The values that it takes, if it takes some.
    pub(crate) fn values(&self) -> Option<&Values> {
        match self {
            Edit::Patch(values) | Edit::Set(values) | Edit::Mean(values) | Edit::Add(values) => {
                Some(values)
            }
            _ => None,
        }
    }
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edit::Scale(factor) => write!(f, "scale({factor})"),
            Edit::Noise { std, seed } => write!(f, "noise(std {std}, seed {seed})"),
            _ => f.write_str(self.name()),
        }
    }
}

/// An edit at a target: plain data, checked before a run.
#[derive(Clone, Debug)]
pub struct Intervention {
    /// Where.
    pub target: Target,
    /// What.
    pub edit: Edit,
}

impl Intervention {
    /// An edit at a target.
    pub fn new(target: impl Into<Target>, edit: Edit) -> Self {
        Intervention {
            target: target.into(),
            edit,
        }
    }

    /// Checks that it can fire in a run, on every sequence that it names.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::NeverFires`], [`Error::Shape`] for values that do not fit,
    /// [`Error::Provenance`] for values of another model's runs, [`Error::Invalid`] for numbers that
    /// are not finite.
    pub fn check(&self, run: &RunShape<'_>) -> Result<()> {
        self.target.check(run)?;
        self.check_growing(run)?;
        let at = || format!("{} at {}", self.edit.name(), self.target);
        match &self.edit {
            Edit::Scale(factor) if !factor.is_finite() => {
                let expected = "a finite factor: with any other, zeros would become NaN";
                Err(Error::invalid(at(), factor, expected))
            }
            Edit::Noise { std, .. } if !(std.is_finite() && *std >= 0.0) => Err(Error::invalid(
                at(),
                std,
                "a finite standard deviation that is not negative",
            )),
            edit => match edit.values() {
                Some(values) => values.check(&at(), &self.target, run),
                None => Ok(()),
            },
        }
    }
}
