//! What a study of paths returns.

use ndarray::{Array1, ArrayD};

use crate::error::{Error, Result};
use crate::report::{Labelled, Normalization};
use crate::statistics;
use crate::sweep::Plan;

/// What a study of paths found.
#[derive(Clone, Debug)]
pub struct PathEffects {
    /// By how much what is sent changes the metric of the original runs (run D minus run B): mean
    /// over the prompt pairs, with standard errors where there are several. 0 where the paths
    /// carry nothing; no value where there is no path.
    pub effect: Labelled,
    /// The change for each pair; the last axis is the pair.
    pub per_prompt: ArrayD<f32>,
    /// The metric of the runs D for each pair; the last axis is the pair.
    pub values: ArrayD<f32>,
    /// The same to first order, if asked for.
    pub linear: Option<Linearised>,
    /// The metric of each original run B, `[pair]`.
    pub original: Array1<f32>,
    /// The metric of each new run A, `[pair]`; none where senders are ablated.
    pub new: Option<Array1<f32>>,
    /// What was planned of the runs C and D (and done, unless the result is partial): two cells
    /// for each set of senders.
    pub plan: Plan,
    pub(super) raw: Labelled,
}

/// Effects along paths to first order: the metric's gradient at the receivers' inputs in run B,
/// times their change from B to C.
#[derive(Clone, Debug)]
pub struct Linearised {
    /// By how much the metric would change: mean over the prompt pairs, with standard errors where
    /// there are several.
    pub effect: Labelled,
    /// The linearised effect minus the exact one.
    pub error: Labelled,
    pub(super) raw: Labelled,
}

impl Linearised {
    /// The metric of the original runs plus the effect, mean over the prompt pairs.
    pub fn raw(&self) -> &Labelled {
        &self.raw
    }
}

impl PathEffects {
    /// The metric of the runs D itself, mean over the prompt pairs.
    pub fn raw(&self) -> &Labelled {
        &self.raw
    }

    /// The relative change, the effect over the original runs' mean metric: −1 where the paths
    /// carry the whole metric, 0 where they carry nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the original runs' mean metric is 0.
    pub fn relative(&self) -> Result<Labelled> {
        let original = statistics::mean(self.original.iter().copied());
        if !original.is_finite() || original == 0.0 {
            let expected = "a finite metric other than 0";
            return Err(Error::invalid("original runs", original, expected));
        }
        let mut about = self.effect.about.clone();
        about.unit = format!("relative change of the {}", about.unit);
        about.normalization = Normalization::Raw;
        about.title += ", relative to its mean";
        let (effect, axes) = (&self.effect, self.effect.axes().to_vec());
        let relative = Labelled::new(effect.values().mapv(|v| v / original), axes, about)?
            .with_absent(effect.absent().to_owned())?;
        match effect.std_error() {
            Some(errors) => relative.with_std_error(errors.mapv(|v| v / original.abs())),
            None => Ok(relative),
        }
    }
}
