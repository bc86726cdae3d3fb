//! The interventions of many lanes as one hook.

use ndarray::ArrayViewMutD;

use crate::error::Result;
use crate::hook::HookPoint;
use crate::intervention::{Intervention, apply_unreported, footprint};
use crate::model::{Footprint, Hooks, RunShape, Visit};

/// What one lane runs: a cell on a prompt.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaneHooks<'s> {
    pub cell: &'s [Intervention],
    pub prompt: usize,
    pub prompts: usize,
}

impl LaneHooks<'_> {
    /// The interventions that act at a point, in order.
    pub fn at(&self, at: HookPoint) -> impl Iterator<Item = &Intervention> {
        let (prompt, prompts) = (self.prompt, self.prompts);
        let here = move |target: &crate::intervention::Target| {
            target.point == at && target.takes(prompt, prompts)
        };
        self.cell.iter().filter(move |i| here(&i.target))
    }

    /// The part of an activation that they may change, if any acts there.
    pub fn footprint(&self, at: HookPoint) -> Option<Footprint> {
        self.at(at).next()?;
        Some(footprint(self.prompt, self.at(at)))
    }

    pub fn apply(&self, at: &Visit<'_>, mut activation: ArrayViewMutD<'_, f32>) {
        let visit = Visit {
            sequence: self.prompt,
            ..at.clone()
        };
        for intervention in self.at(at.point) {
            apply_unreported(intervention, &visit, activation.view_mut());
        }
    }
}

/// The lanes of a chunk.
pub(super) struct ChunkHooks<'s> {
    pub lanes: Vec<LaneHooks<'s>>,
}

impl Hooks for ChunkHooks<'_> {
    fn wants(&self, at: HookPoint, lane: usize) -> bool {
        self.lanes[lane].at(at).next().is_some()
    }

    fn visit(&mut self, at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>) {
        self.lanes[at.sequence].apply(at, activation);
    }

    fn begin(&mut self, _run: &RunShape<'_>) -> Result<()> {
        Ok(())
    }

    fn footprint(&self, at: HookPoint, lane: usize) -> Footprint {
        self.lanes[lane].footprint(at).unwrap_or_default()
    }
}
