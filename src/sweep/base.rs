//! The base run of a sweep: which activations its lanes will read, and the run that keeps them.

use std::sync::Arc;

use ndarray::Array2;

use super::Sweep;
use crate::cache::{ActivationCache, Selection};
use crate::config::Config;
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::metric::Needs;
use crate::model::Recorder;
use crate::model::lane::{Change, Columns, Lane};
use crate::model::pass::Pass;
use crate::model::stage::{Frozen, base_reads};

/// The points that lanes with interventions at `places` read from their base.
pub(crate) fn points_read(config: &Config, places: impl Iterator<Item = HookPoint>) -> Selection {
    let free = |place| base_reads(place, config.n_layers, Frozen::default());
    // The metric's rows that no lane changes.
    let mut points = Selection::points([Site::ResidPost.at(config.n_layers - 1)]);
    // A base that is itself a lane over another run departs from it by its tokens.
    points.extend(free(HookPoint::Embed));
    for place in places {
        points.extend([place]);
        points.extend(free(place));
    }
    points
}

/// The columns of the unembedding that a metric reads.
pub(super) fn columns(needs: &Needs) -> Columns {
    match &needs.tokens {
        Some(tokens) => Columns::Tokens(Arc::from(&tokens[..])),
        None => Columns::All,
    }
}

impl Sweep<'_> {
    /// Runs the prompts and keeps the points; also tells the multiply-adds.
    pub(super) fn run_base(&self, points: &Selection) -> Result<(Vec<ActivationCache>, u64)> {
        if let Some(base) = &self.base {
            for cache in base {
                points.iter().try_for_each(|p| cache.get(p).map(|_| ()))?;
            }
            return Ok((base.clone(), 0));
        }
        let lanes = self.base_lanes(points)?;
        let mut recorder = Recorder::new(points, &lanes);
        let mut hooks = ();
        let pass = Pass::new(self.model, &lanes, &mut hooks, Some(&mut recorder));
        let after_blocks = points
            .iter()
            .any(|p| p > HookPoint::Block(usize::MAX, Site::ResidPost));
        let stop = (!after_blocks).then_some(self.model.config().n_layers);
        let output = pass.run(stop);
        Ok((recorder.finish(&lanes), output.macs))
    }

    fn base_lanes(&self, points: &Selection) -> Result<Vec<Lane<'_>>> {
        let mut lanes = Vec::with_capacity(self.prompts.len());
        for (i, prompt) in self.prompts.iter().enumerate() {
            let mut lane = Lane::full(&prompt.tokens, (0..prompt.len()).collect());
            if let Some(over) = self.over.as_ref().map(|over| &over[i]) {
                // Rows are recomputed from the first changed token on; what lies before, and what
                // is kept of it, must be there.
                let missing = points.iter().find(|p| over.get(*p).is_err());
                if let Some(point) = missing {
                    over.get(point)?;
                }
                let differs =
                    |(position, (a, b)): (usize, (&u32, &u32))| (a != b).then_some(position);
                let tokens = prompt.tokens.iter().zip(over.tokens()).enumerate();
                lane.fresh = tokens.filter_map(differs).collect();
                lane.base = Some(over);
            }
            lanes.push(lane);
        }
        Ok(lanes)
    }

    /// What the metric reads of the base runs: per prompt `[position, column]`, and the
    /// multiply-adds.
    pub(super) fn read_base(
        &self,
        base: &[ActivationCache],
        needs: &[Needs],
    ) -> (Vec<Array2<f32>>, u64) {
        let lanes: Vec<Lane<'_>> = base
            .iter()
            .zip(needs)
            .map(|(cache, needs)| Lane {
                tokens: cache.tokens(),
                base: Some(cache),
                fresh: Arc::default(),
                // Nothing changes; naming the place makes the rows go through the unembedding.
                changes: vec![Change {
                    point: HookPoint::LnFinalNormalized,
                    rows: needs.positions.clone(),
                    heads: Vec::new(),
                }],
                outputs: needs.positions.clone(),
                columns: columns(needs),
                narrow: true,
                frozen: Default::default(),
            })
            .collect();
        let output = Pass::new(self.model, &lanes, &mut (), None).run(None);
        let rows = (0..lanes.len())
            .map(|lane| output.logits.lane(lane))
            .collect();
        (rows, output.macs)
    }
}
