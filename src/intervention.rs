//! Interventions: a declared place ([`Target`]) and what is done there ([`Edit`]), as plain data.
//! Because the place is data, everything is checked before a run, and the sweep engine knows
//! what it can leave out.

mod apply;
mod content;
mod growing;
mod receipt;
mod subspace;
mod target;
mod values;

use std::fmt;
use std::sync::Arc;

pub use apply::Interventions;
pub(crate) use apply::{apply_unreported, footprint};
pub use receipt::{Fired, Receipt};
pub use subspace::{ORTHONORMAL_WITHIN, Subspace};
pub use target::Target;
pub use values::Values;

pub use crate::select::{Each, Select};

use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::model::RunShape;

/// One row of an activation, as [`Edit::Map`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The hook point.
    pub point: HookPoint,
    /// The sequence that it is of: its index in the batch, in a sweep the prompt's.
    pub sequence: usize,
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
                Some(values) => {
                    if matches!(edit, Edit::Patch(_) | Edit::Mean(_)) {
                        values.check_no_gradients(&at())?;
                    }
                    values.check(&at(), &self.target, run)
                }
                None => Ok(()),
            },
        }
    }
}
