//! A sweep that is ready to run, and its run.

use std::borrow::Cow;
use std::ops::Range;

use ndarray::{Array1, Array2};
use rayon::prelude::*;

use super::{Plan, Sweep, SweepResult};
use crate::base::Departure;
use crate::error::Result;
use crate::metric::{Metric, Needs};
use crate::model::stage::Frozen;
use crate::schedule::{Cell, Chunk, End, Schedule};

/// A sweep whose base has run and whose lanes are known.
#[derive(Debug)]
pub struct Prepared<'s> {
    sweep: &'s Sweep<'s>,
    metric: &'s Metric,
    needs: Vec<Needs>,
    /// What the metric reads of the base runs.
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
            memory_limit: sweep.limits.memory,
        })?;
        let readout = sweep.base.readout(&needs)?;
        Ok(Prepared {
            plan: Plan::of(&made.value),
            sweep,
            metric,
            needs,
            readouts: readout.value,
            schedule: made.value,
            base_multiply_adds: made.multiply_adds + readout.multiply_adds,
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
        let readouts = self.readouts.iter().enumerate();
        let base: Array1<f32> = readouts
            .map(|(prompt, logits)| self.metric.read(prompt, logits.view()))
            .collect();
        let mut values = Array2::from_shape_fn((cells, base.len()), |(_, p)| base[p]);
        let mut open = vec![0_usize; cells];
        for lane in &self.schedule.lanes {
            open[lane.cell] += 1;
        }
        let counted = self.schedule.run(|chunk| {
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
            base,
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
        let read = |lane: usize| {
            let prompt = chunk.planned[lane].prompt;
            let mut logits = self.readouts[prompt].clone();
            chunk.overlay(lane, &self.needs[prompt], &mut logits);
            self.metric.read(prompt, logits.view())
        };
        (0..chunk.planned.len()).into_par_iter().map(read).collect()
    }
}
