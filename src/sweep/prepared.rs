//! A sweep that is ready to run, and its run.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array1, Array2};

use super::{Plan, Sweep, SweepResult};
use crate::base::{Departure, Room};
use crate::error::Result;
use crate::metric::{Metric, Needs};
use crate::model::stage::Frozen;
use crate::schedule::{Cell, Chunk, End, Schedule, spread};

/// A sweep whose base has run and whose lanes are known.
#[derive(Debug)]
pub struct Prepared<'s> {
    sweep: &'s Sweep<'s>,
    metric: &'s Metric,
    needs: Vec<Needs>,
    /// The metric of the base runs.
    base: Array1<f32>,
    /// What the metric reads of the base runs, of prompts that some lane reads in part only.
    readouts: Vec<Array2<f32>>,
    schedule: Schedule<'s>,
    base_multiply_adds: u64,
    plan: Plan,
}

impl<'s> Prepared<'s> {
    pub(super) fn new(sweep: &'s Sweep<'s>, cells: &'s [Cell], metric: &'s Metric) -> Result<Self> {
        let needs = sweep.base.needs(metric)?;
        let made = sweep.base.depart(Departure {
            cells: Cow::Borrowed(cells),
            frozen: Frozen::default(),
            end: End::Logits(needs.clone()),
            held: 0,
            memory_limit: sweep.limits.memory,
        })?;
        let schedule = made.value;
        let mut base = Array1::zeros(needs.len());
        let mut readouts = vec![Array2::default((0, 0)); needs.len()];
        let mut partial = vec![false; needs.len()];
        for lane in schedule.lanes.iter().filter(|lane| !lane.whole) {
            partial[lane.prompt] = true;
        }
        let room = Room {
            held: schedule.beside_readout,
            limit: sweep.limits.memory,
        };
        let read = sweep.base.read(&needs, room, |prompt, logits| {
            base[prompt] = metric.read(prompt, logits);
            if partial[prompt] {
                readouts[prompt] = logits.to_owned();
            }
        })?;
        let mut plan = Plan::of(&schedule);
        plan.peak_bytes = plan.peak_bytes.max(made.peak);
        Ok(Prepared {
            plan,
            sweep,
            metric,
            needs,
            base,
            readouts,
            schedule,
            base_multiply_adds: made.multiply_adds + read,
        })
    }

    /// What the sweep is going to do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Multiply-adds of the lanes of some cells.
    pub(crate) fn multiply_adds(&self, cells: Range<usize>) -> u64 {
        let lanes = self.schedule.lanes.iter();
        let own = lanes.filter(|lane| cells.contains(&lane.cell));
        own.map(|lane| lane.cost.macs).sum()
    }

    /// Runs all cells; an observer hears after each chunk how many are done on every prompt.
    pub fn run(&self) -> SweepResult {
        let cells = self.plan.cells;
        let base = &self.base;
        let mut values = Array2::from_shape_fn((cells, base.len()), |(_, p)| base[p]);
        let mut open = vec![0_usize; cells];
        for lane in &self.schedule.lanes {
            open[lane.cell] += 1;
        }
        let counted = self.schedule.run(self.sweep.base.model(), |chunk| {
            for (planned, value) in chunk.planned.iter().zip(self.read(&chunk)) {
                values[[planned.cell, planned.prompt]] = value;
                open[planned.cell] -= 1;
            }
            let done = open.iter().filter(|left| **left == 0).count();
            self.sweep.limits.report(done, cells, "cells")
        });
        for lane in &self.schedule.lanes[counted.lanes..] {
            values[[lane.cell, lane.prompt]] = f32::NAN;
        }
        SweepResult {
            values,
            finished: open.iter().map(|left| *left == 0).collect(),
            base: base.clone(),
            plan: self.plan.clone(),
            multiply_adds: counted.multiply_adds,
            rows: counted.rows,
            base_multiply_adds: self.base_multiply_adds,
            partial: counted.lanes < self.schedule.lanes.len(),
            blocked: counted.blocked,
        }
    }

    /// The metric of each lane of a chunk.
    fn read(&self, chunk: &Chunk<'_>) -> Vec<f32> {
        let read = |memory: &mut Array2<f32>, lane: usize| {
            let prompt = chunk.planned[lane].prompt;
            let (needs, base) = (&self.needs[prompt], self.readouts[prompt].view());
            chunk.read(lane, needs, base, memory, |logits| {
                self.metric.read(prompt, logits)
            })
        };
        let lanes = chunk.planned.len();
        spread(
            self.schedule.readers,
            lanes,
            || Array2::default((0, 0)),
            read,
        )
    }
}
