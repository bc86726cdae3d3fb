//! Interventions in runs whose sequences grow: no row may read a later one, since it is run before
//! that one is there.

use super::{Edit, Intervention, Select, Target};
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint, Site};
use crate::model::RunShape;

impl Intervention {
    /// Refuses edits that could make attention look ahead: a later token would change rows that
    /// were run before it. Also those at positions counted from an end that moves, but for the last
    /// one, which is that of each step: the rows of earlier steps are not run again.
    pub(super) fn check_growing(&self, run: &RunShape<'_>) -> Result<()> {
        if !run.growing {
            return Ok(());
        }
        let mut prompts = run.lengths.iter().enumerate();
        let of_the_end = |select: &Select, prompt: usize| {
            let list = select.of(prompt);
            list.is_some_and(|list| list.iter().any(|index| *index < 0))
        };
        let moves = |(prompt, _): &(usize, &usize)| {
            let positions = &self.target.positions;
            let newest = positions.of(*prompt) == Some(&[-1]);
            (!newest && of_the_end(positions, *prompt)) || of_the_end(&self.target.src, *prompt)
        };
        if prompts.clone().any(|prompt| moves(&prompt)) {
            return Err(Error::invalid(
                format!("{} in generation", self.target),
                "places counted from an end that later tokens move",
                "positions and sources from the beginning, or the newest position of each step",
            ));
        }
        if prompts.all(|(prompt, n)| self.target.stays_behind(prompt, *n))
            || self.edit.keeps_mask(self.target.point)
        {
            return Ok(());
        }
        Err(Error::Invalid {
            what: format!("{} at {} in generation", self.edit.name(), self.target),
            found: "an edit that can let a position attend to later ones, which are not there yet"
                .to_string(),
            expected: "sources up to the destination, or an edit that leaves the mask as it is"
                .to_string(),
        })
    }
}

impl Target {
    /// Whether none of its places in a prompt, which grows up to `n` tokens, is behind the mask.
    fn stays_behind(&self, prompt: usize, n: usize) -> bool {
        if self.point.axes() != Axes::Attention {
            return true;
        }
        let first = |select: &Select| select.resolve(prompt, n).into_iter().min();
        let last = |select: &Select| select.resolve(prompt, n).into_iter().max();
        match (first(&self.positions), last(&self.src)) {
            (Some(dest), Some(src)) => src <= dest,
            _ => true,
        }
    }
}

impl Edit {
    /// Whether what the mask leaves at a point (scores of −∞, patterns of 0) stays so.
    fn keeps_mask(&self, at: HookPoint) -> bool {
        let HookPoint::Block(_, site) = at else {
            return true;
        };
        match (site, self) {
            (Site::AttnScores, Edit::Scale(factor)) => *factor > 0.0,
            (Site::AttnScores, Edit::Noise { .. }) => true,
            (Site::AttnScores, Edit::Add(values)) => values.are_all(|v| v < f32::INFINITY),
            (Site::AttnScores, Edit::Set(values)) => values.are_all(|v| v == f32::NEG_INFINITY),
            (Site::Pattern, Edit::Zero | Edit::Scale(_)) => true,
            (Site::Pattern, Edit::Set(values)) => values.are_all(|v| v == 0.0),
            _ => false,
        }
    }
}
