//! A sweep that is ready to run, and its run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use ndarray::{Array1, Array2};

use super::ledger::{Asked, Ledger};
use super::{Plan, Sweep, SweepResult};
use crate::base::{Departure, Room};
use crate::error::Result;
use crate::journal::Noted;
use crate::metric::{Metric, Needs};
use crate::model::stage::Frozen;
use crate::schedule::{Cell, Chunk, End, Planned, Schedule, spread};

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
    /// The lanes that have to run.
    schedule: Schedule<'s>,
    ledger: Option<Ledger>,
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
            held: sweep.beside,
            memory_limit: sweep.limits.memory,
        })?;
        let mut schedule = made.value;
        let mut plan = Plan::of(&schedule);
        let asked = Asked {
            base: &sweep.base,
            cells,
            metric,
        };
        let ledger = Ledger::new(&sweep.limits, &asked, &mut schedule)?;
        let mut base = Array1::zeros(needs.len());
        let mut readouts = vec![Array2::default((0, 0)); needs.len()];
        let mut partial = vec![false; needs.len()];
        for lane in schedule.lanes.iter().filter(|lane| !lane.whole) {
            partial[lane.prompt] = true;
        }
        let room = Room {
            held: sweep.beside + schedule.beside_readout,
            limit: sweep.limits.memory,
        };
        let read = sweep.base.read(&needs, room, |prompt, logits| {
            base[prompt] = metric.read(prompt, logits);
            if partial[prompt] {
                readouts[prompt] = logits.to_owned();
            }
        })?;
        plan.peak_bytes = plan.peak_bytes.max(made.peak);
        Ok(Prepared {
            plan,
            sweep,
            metric,
            needs,
            base,
            readouts,
            schedule,
            ledger,
            base_multiply_adds: made.multiply_adds + read,
        })
    }

    /// What the sweep is going to do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Multiply-adds of the lanes of some cells.
    pub(crate) fn multiply_adds(&self, cells: Range<usize>) -> u64 {
        let own = self.all_lanes().filter(|lane| cells.contains(&lane.cell));
        own.map(|lane| lane.cost.macs).sum()
    }

    /// The multiply-adds of each lane, with its cell and prompt.
    pub(crate) fn work(&self) -> impl Iterator<Item = ([usize; 2], u64)> {
        self.all_lanes()
            .map(|lane| ([lane.cell, lane.prompt], lane.cost.macs))
    }

    /// The lanes that have to run, and those that a journal takes the place of.
    fn all_lanes(&self) -> impl Iterator<Item = &Planned> {
        let ledger = self.ledger.iter();
        let known = ledger
            .clone()
            .flat_map(|of| of.known.iter().map(|(lane, _)| lane));
        let left = ledger.flat_map(|of| &of.left);
        self.schedule.lanes.iter().chain(known).chain(left)
    }

    /// Runs all cells; an observer hears after each chunk how many are done on every prompt.
    ///
    /// # Errors
    /// None without a journal; those of writing it.
    pub fn run(&self) -> Result<SweepResult> {
        let mut found = self.begin();
        let mut open = vec![0_usize; self.plan.cells];
        self.all_lanes().for_each(|lane| open[lane.cell] += 1);
        let ledger = self.ledger.as_ref();
        for (lane, noted) in ledger.iter().flat_map(|ledger| &ledger.known) {
            open[lane.cell] -= 1;
            found.take(lane, noted);
        }
        let (mut first, mut written) = (0, Ok(()));
        let counted = self.schedule.run(self.sweep.base.model(), |chunk| {
            let values = self.read(&chunk);
            for (planned, value) in chunk.planned.iter().zip(&values) {
                found.values[[planned.cell, planned.prompt]] = *value;
                open[planned.cell] -= 1;
            }
            if let Some(ledger) = ledger {
                written = ledger.write(first, &values, |lane| chunk.blocked(lane));
                first += values.len();
            }
            let done = open.iter().filter(|left| **left == 0).count();
            let flow = self.sweep.limits.report(done, self.plan.cells, "cells");
            if written.is_err() {
                ControlFlow::Break(())
            } else {
                flow
            }
        });
        written?;
        let not_run = &self.schedule.lanes[counted.lanes..];
        let left = ledger.map_or(&[][..], |ledger| &ledger.left);
        for lane in not_run.iter().chain(left) {
            found.values[[lane.cell, lane.prompt]] = f32::NAN;
        }
        found.finished = open.iter().map(|left| *left == 0).collect();
        found.partial = !(not_run.is_empty() && left.is_empty());
        found.multiply_adds += counted.multiply_adds;
        found.rows += counted.rows;
        for (cell, rows) in counted.blocked {
            found.blocked.entry(cell).or_default().extend(rows);
        }
        Ok(found)
    }

    /// The result before anything has run: every cell has the base's metric.
    fn begin(&self) -> SweepResult {
        let (cells, base) = (self.plan.cells, &self.base);
        SweepResult {
            values: Array2::from_shape_fn((cells, base.len()), |(_, p)| base[p]),
            finished: Vec::new(),
            base: base.clone(),
            plan: self.plan.clone(),
            multiply_adds: 0,
            rows: 0,
            base_multiply_adds: self.base_multiply_adds,
            partial: false,
            blocked: BTreeMap::new(),
            base_blocked: self.sweep.base.blocked(),
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

impl SweepResult {
    /// Takes what a journal has of a lane; its work counts as it did when it was done.
    fn take(&mut self, lane: &Planned, noted: &Noted) {
        self.values[[lane.cell, lane.prompt]] = noted.value;
        self.multiply_adds += lane.cost.macs;
        self.rows += lane.cost.mlp_rows;
        if let Some(rows) = &noted.blocked {
            let of_cell = self.blocked.entry(lane.cell).or_default();
            of_cell.extend(rows.of_prompt(lane.prompt));
        }
    }
}
