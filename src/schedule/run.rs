//! The one chunk loop: planned lanes run, many in one pass.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use ndarray::{Array2, ArrayView2, Axis, CowArray};

use super::hooks::ChunkHooks;
use super::{Cell, End, Planned, Schedule};
use crate::cache::ActivationCache;
use crate::metric::Needs;
use crate::model::lane::{Columns, Lane};
use crate::model::pass::{LaneLogits, Pass};
use crate::model::recorder::Recorder;
use crate::model::{BlockedRows, Transformer};
use crate::ops::{self, Thrift};

/// What has been computed so far, as counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    pub multiply_adds: u64,
    /// Rows through MLPs.
    pub rows: u64,
    /// Lanes that have run.
    pub lanes: usize,
    /// By cell, the rows of attention that had nothing to attend to.
    pub blocked: BTreeMap<usize, BlockedRows>,
}

impl Counted {
    fn note_blocked(&mut self, planned: &[Planned], by_lane: &BTreeMap<usize, BlockedRows>) {
        for (lane, rows) in by_lane {
            let Planned { cell, prompt, .. } = planned[*lane];
            let of_cell = self.blocked.entry(cell).or_default();
            of_cell.extend(rows.of_prompt(prompt));
        }
    }
}

/// Lanes that have run in one pass.
pub(crate) struct Chunk<'c> {
    pub planned: &'c [Planned],
    /// What was kept of each lane's run, if the job ends in that.
    pub caches: Vec<ActivationCache>,
    lanes: Vec<Lane<'c>>,
    logits: LaneLogits,
    /// By lane, the rows of attention that had nothing to attend to.
    blocked: BTreeMap<usize, BlockedRows>,
}

impl Chunk<'_> {
    /// A lane's logits, in the rows that it changed.
    pub fn logits(&self, lane: usize) -> ArrayView2<'_, f32> {
        self.logits.lane(lane)
    }

    /// A lane's rows of attention that had nothing to attend to, if there are any.
    pub fn blocked(&self, lane: usize) -> Option<BlockedRows> {
        self.blocked.get(&lane).copied()
    }

    /// Hands a lane's logits to `read`, `[position, token]` as `needs` has them: rows that it did
    /// not change are those of its base, put together in `memory`.
    pub fn read<T>(
        &self,
        lane: usize,
        needs: &Needs,
        base: ArrayView2<'_, f32>,
        memory: &mut Array2<f32>,
        read: impl FnOnce(ArrayView2<'_, f32>) -> T,
    ) -> T {
        let Lane {
            columns, outputs, ..
        } = &self.lanes[lane];
        let mut own = CowArray::from(self.logits(lane));
        if let (Columns::All, Some(tokens)) = (columns, &needs.tokens) {
            let columns: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
            own = own.select(Axis(1), &columns).into();
        }
        if self.planned[lane].whole {
            return read(own.view());
        }
        if memory.dim() == base.dim() {
            memory.assign(&base);
        } else {
            // The old memory goes before the new one comes.
            *memory = Array2::default((0, 0));
            *memory = base.to_owned();
        }
        let positions = self.logits.rows.positions(lane);
        for (position, row) in positions.iter().zip(own.rows()) {
            if let Ok(at) = outputs.binary_search(position) {
                memory.row_mut(at).assign(&row);
            }
        }
        read(memory.view())
    }
}

impl Schedule<'_> {
    /// Runs the chunks in turn and hands each to `done`, which may end the work there.
    pub fn run(
        &self,
        model: &Transformer,
        mut done: impl FnMut(Chunk<'_>) -> ControlFlow<()>,
    ) -> Counted {
        let _thrift = Thrift::new(self.job.memory_limit);
        let (cells, inherited) = (&self.job.cells[..], &self.job.inherited);
        let under_both = |cell: &Cell| inherited.iter().chain(cell).cloned().collect();
        let cells: Cow<'_, [Cell]> = if inherited.is_empty() {
            cells.into()
        } else {
            cells.iter().map(under_both).collect()
        };
        let mut counted = Counted::default();
        for range in &self.chunks {
            let chunk = self.run_chunk(model, range.clone(), &cells, &mut counted);
            if done(chunk).is_break() {
                break;
            }
        }
        counted
    }

    fn run_chunk(
        &self,
        model: &Transformer,
        range: Range<usize>,
        cells: &[Cell],
        counted: &mut Counted,
    ) -> Chunk<'_> {
        let job = &self.job;
        let planned = &self.lanes[range];
        let lanes: Vec<Lane<'_>> = planned
            .iter()
            .map(|p| job.lane(&job.cells[p.cell], p.prompt, p.changes.clone()))
            .collect();
        let hooks = planned.iter().map(|p| job.hooks(&cells[p.cell], p.prompt));
        let mut hooks = ChunkHooks {
            lanes: hooks.collect(),
        };
        let mut recorder = match &job.end {
            End::Cache(keep) => Some(Recorder::new(keep, &lanes, model.identity())),
            End::Logits(_) => None,
        };
        let pass = Pass::new(model, &lanes, &mut hooks, recorder.as_mut());
        let output = ops::on_pool(|| pass.run(job.stop()));
        counted.multiply_adds += output.macs;
        counted.rows += output.mlp_rows;
        counted.lanes += planned.len();
        counted.note_blocked(planned, &output.blocked);
        Chunk {
            planned,
            caches: recorder.map_or_else(Vec::new, |r| r.finish(&lanes)),
            lanes,
            logits: output.logits,
            blocked: output.blocked,
        }
    }

    /// Runs a job that ends in caches, and hands `each` the cell, the prompt and what was kept.
    /// Runs that do not differ from their base in any bit are not made, hence not reported.
    /// Returns the multiply-adds.
    pub fn record(
        &self,
        model: &Transformer,
        mut each: impl FnMut(usize, usize, ActivationCache),
    ) -> Counted {
        self.run(model, |chunk| {
            for (planned, cache) in chunk.planned.iter().zip(chunk.caches) {
                each(planned.cell, planned.prompt, cache);
            }
            ControlFlow::Continue(())
        })
    }
}
