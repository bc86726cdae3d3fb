//! Many runs with one small change each, of which activations are kept instead of a metric.

use super::Cell;
use super::hooks::{ChunkHooks, LaneHooks};
use super::plan::{Planned, changes, chunks};
use crate::cache::{ActivationCache, Selection};
use crate::error::Result;
use crate::hook::HookPoint;
use crate::model::lane::{Change, Columns, Lane};
use crate::model::pass::Pass;
use crate::model::stage::Frozen;
use crate::model::{Recorder, RunShape, Transformer};
use crate::ops::{self, Thrift};

/// Runs of the prompts of some base caches, with halves of the blocks frozen to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Recording<'r> {
    pub model: &'r Transformer,
    /// Whole caches of the base run, one a prompt, with every point that the lanes read.
    pub base: &'r [ActivationCache],
    pub frozen: Frozen,
    /// The points to keep; all of them in blocks.
    pub keep: &'r Selection,
    /// Bound of the memory that a pass takes, in bytes.
    pub memory_limit: u64,
}

impl Recording<'_> {
    /// Runs all cells and tells `each` the cell, the prompt and what the run had at the points to
    /// keep. Runs that do not differ from their base in any bit are not made, hence not told.
    /// Gives the multiply-adds.
    ///
    /// # Errors
    /// As [`Sweep::prepare`](super::Sweep::prepare).
    pub fn run(
        &self,
        cells: &[Cell],
        mut each: impl FnMut(usize, usize, ActivationCache),
    ) -> Result<u64> {
        let lengths = self.base.iter().map(|b| b.tokens().len()).collect();
        let shape = RunShape::whole(self.model.config(), lengths);
        let mut interventions = cells.iter().flatten();
        interventions.try_for_each(|i| i.check(&shape))?;
        let planned = self.plan(cells)?;
        let mut macs = 0;
        let limit = self.memory_limit;
        let _thrift = Thrift::new(limit);
        for chunk in chunks(&planned, Thrift::kept_bytes(limit), limit)?.0 {
            let planned = &planned[chunk];
            let lanes: Vec<Lane<'_>> = planned
                .iter()
                .map(|p| self.lane(p.prompt, p.changes.clone()))
                .collect();
            let mut hooks = ChunkHooks {
                lanes: planned
                    .iter()
                    .map(|p| self.hooks(&cells[p.cell], p.prompt))
                    .collect(),
            };
            let mut recorder = Recorder::new(self.keep, &lanes);
            let pass = Pass::new(self.model, &lanes, &mut hooks, Some(&mut recorder));
            macs += ops::on_pool(|| pass.run(Some(self.stop()))).macs;
            let caches = recorder.finish(&lanes);
            planned
                .iter()
                .zip(caches)
                .for_each(|(p, cache)| each(p.cell, p.prompt, cache));
        }
        Ok(macs)
    }

    /// The first layer that nothing kept lies in or after.
    fn stop(&self) -> usize {
        let layers = self.keep.iter().filter_map(HookPoint::layer);
        layers.max().map_or(0, |layer| layer + 1)
    }

    fn hooks<'c>(&self, cell: &'c Cell, prompt: usize) -> LaneHooks<'c> {
        LaneHooks {
            cell,
            prompt,
            prompts: self.base.len(),
        }
    }

    fn lane(&self, prompt: usize, changes: Vec<Change>) -> Lane<'_> {
        Lane {
            tokens: self.base[prompt].tokens(),
            base: Some(&self.base[prompt]),
            fresh: Default::default(),
            changes,
            outputs: Vec::new(),
            columns: Columns::All,
            narrow: false,
            frozen: self.frozen,
        }
    }

    fn plan(&self, cells: &[Cell]) -> Result<Vec<Planned>> {
        let config = self.model.config();
        let mut lanes = Vec::new();
        for (cell, interventions) in cells.iter().enumerate() {
            for prompt in 0..self.base.len() {
                let hooks = self.hooks(interventions, prompt);
                let changes = changes(config, &self.base[prompt], &hooks)?;
                if changes.is_empty() {
                    continue;
                }
                let lane = self.lane(prompt, changes);
                let mut cost = lane.cost(config, &|at| hooks.footprint(at));
                cost.bytes += self.kept_bytes(lane.tokens.len());
                lanes.push(Planned {
                    cell,
                    prompt,
                    changes: lane.changes,
                    cost,
                });
            }
        }
        lanes.sort_by_key(|lane| lane.changes.iter().map(|c| c.point).min());
        Ok(lanes)
    }

    /// Bytes of what is kept of a run of `n` tokens.
    pub fn kept_bytes(&self, n: usize) -> u64 {
        let size = |point: HookPoint| -> usize {
            point.axes().shape(self.model.config(), n).iter().product()
        };
        4 * self.keep.iter().map(size).sum::<usize>() as u64
    }
}
