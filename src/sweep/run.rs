//! Running a prepared sweep, chunk by chunk.

use std::ops::{ControlFlow, Range};

use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;

use super::SweepResult;
use super::hooks::ChunkHooks;
use super::plan::Prepared;
use crate::error::Result;
use crate::model::lane::{Columns, Lane};
use crate::model::pass::Pass;
use crate::ops;

/// How far a sweep has come, told after each chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Cells of which every prompt is done.
    pub cells_done: usize,
    /// All cells.
    pub cells: usize,
    /// Multiply-adds so far.
    pub multiply_adds: u64,
    /// Multiply-adds in all.
    pub multiply_adds_planned: u64,
}

impl Prepared<'_> {
    /// Runs all cells.
    ///
    /// # Errors
    /// None at present; what can fail has been checked.
    pub fn run(&self) -> Result<SweepResult> {
        self.run_observed(|_| ControlFlow::Continue(()))
    }

    /// Runs all cells, and tells the observer after each chunk how far it has come. A break
    /// ends the sweep there: the result holds what was done and says that it is partial.
    ///
    /// # Errors
    /// As [`Prepared::run`].
    pub fn run_observed(
        &self,
        mut observer: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<SweepResult> {
        let prompts = self.sweep.prompts().len();
        let base: Array1<f32> = (0..prompts)
            .map(|p| self.metric.read(p, self.readouts[p].view()))
            .collect();
        let mut values = Array2::from_shape_fn((self.cells.len(), prompts), |(_, p)| base[p]);
        let mut open = vec![0_usize; self.cells.len()];
        for lane in &self.lanes {
            open[lane.cell] += 1;
        }
        let _thrift = ops::Thrift::new(self.sweep.memory_limit);
        let mut result = (0, 0);
        let mut done = 0;
        for chunk in &self.chunks {
            let (macs, rows) = self.run_chunk(chunk.clone(), &mut values);
            result = (result.0 + macs, result.1 + rows);
            done = chunk.end;
            self.lanes[chunk.clone()]
                .iter()
                .for_each(|lane| open[lane.cell] -= 1);
            let progress = Progress {
                cells_done: open.iter().filter(|left| **left == 0).count(),
                cells: self.cells.len(),
                multiply_adds: result.0,
                multiply_adds_planned: self.plan().multiply_adds,
            };
            if observer(&progress).is_break() {
                break;
            }
        }
        for lane in &self.lanes[done..] {
            values[[lane.cell, lane.prompt]] = f32::NAN;
        }
        Ok(SweepResult {
            values,
            base,
            plan: self.plan().clone(),
            multiply_adds: result.0,
            rows: result.1,
            base_multiply_adds: self.base_multiply_adds,
            partial: done < self.lanes.len(),
        })
    }

    /// Runs some lanes in one pass; gives the multiply-adds and MLP rows counted.
    fn run_chunk(&self, chunk: Range<usize>, values: &mut Array2<f32>) -> (u64, u64) {
        let planned = &self.lanes[chunk];
        let lanes: Vec<Lane<'_>> = planned
            .iter()
            .map(|p| self.lane(p.cell, p.prompt, p.changes.clone()))
            .collect();
        let mut hooks = ChunkHooks {
            lanes: planned
                .iter()
                .map(|p| self.hooks(p.cell, p.prompt))
                .collect(),
        };
        let pass = Pass::new(self.sweep.model, &lanes, &mut hooks, None);
        let output = ops::on_pool(|| pass.run(None));
        let read = |(i, lane): (usize, &Lane<'_>)| {
            let prompt = planned[i].prompt;
            let mut logits = self.readouts[prompt].clone();
            let mut own = output.logits.lane(i);
            if let (Columns::All, Some(tokens)) = (&lane.columns, &self.needs[prompt].tokens) {
                let columns: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
                own = own.select(Axis(1), &columns);
            }
            let positions = output.logits.layout.positions(i);
            for (position, row) in positions.iter().zip(own.rows()) {
                if let Ok(at) = lane.outputs.binary_search(position) {
                    logits.row_mut(at).assign(&row);
                }
            }
            self.metric.read(prompt, logits.view())
        };
        let read: Vec<f32> = lanes.par_iter().enumerate().map(read).collect();
        for (planned, value) in planned.iter().zip(read) {
            values[[planned.cell, planned.prompt]] = value;
        }
        (output.macs, output.mlp_rows)
    }
}
