//! What hooks may do to attention in generation: not let a position attend to later ones.

use ndarray::ArrayViewMutD;

use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::model::{BlockedRows, Footprint, Hooks, RunShape, Visit};

/// Hooks that are watched: a score or a weight behind the mask that they have changed would make
/// rows depend on tokens that come after them. Where the prompt's rows run, those tokens may be
/// there; for what is generated, they are not, so that its logits would be those of no full pass.
pub(super) struct Watched<H> {
    hooks: H,
    /// The first place where a hook has changed what the mask leaves.
    broken: Option<HookPoint>,
}

impl<H: Hooks> Watched<H> {
    pub fn new(hooks: H) -> Self {
        Watched {
            hooks,
            broken: None,
        }
    }

    /// # Errors
    /// [`Error::Invalid`] if a hook has changed what the mask leaves.
    pub fn check(&self) -> Result<()> {
        let Some(point) = self.broken else {
            return Ok(());
        };
        Err(Error::invalid(
            format!("hook at `{point}` in generation"),
            "a score or a weight of attention to a later position",
            "the mask as it is: scores of −∞, weights of 0",
        ))
    }
}

/// What the mask leaves at a point.
fn masked(point: HookPoint) -> Option<f32> {
    match point {
        HookPoint::Block(_, Site::AttnScores) => Some(f32::NEG_INFINITY),
        HookPoint::Block(_, Site::Pattern) => Some(0.0),
        _ => None,
    }
}

impl<H: Hooks> Hooks for Watched<H> {
    fn wants(&self, at: HookPoint, sequence: usize) -> bool {
        self.hooks.wants(at, sequence)
    }

    fn visit(&mut self, at: &Visit<'_>, mut activation: ArrayViewMutD<'_, f32>) {
        self.hooks.visit(at, activation.view_mut());
        let Some(masked) = masked(at.point) else {
            return;
        };
        // [head, dest, src]
        let mut values = activation.indexed_iter();
        let changed = values.any(|(i, value)| i[2] > at.positions[i[1]] && *value != masked);
        if changed && self.broken.is_none() {
            self.broken = Some(at.point);
        }
    }

    fn begin(&mut self, run: &RunShape<'_>) -> Result<()> {
        self.hooks.begin(run)
    }

    fn blocked(&mut self, rows: &BlockedRows) {
        self.hooks.blocked(rows);
    }

    fn footprint(&self, at: HookPoint, sequence: usize) -> Footprint {
        self.hooks.footprint(at, sequence)
    }
}
