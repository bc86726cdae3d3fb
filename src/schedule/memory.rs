//! What a job takes besides its lanes, and how many of its parts may be at work at one time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::{Cell, End, Job, Planned};
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::{Intervention, Target};
use crate::metric::Needs;
use crate::model::lane::Change;
use crate::ops::{self, Thrift, sorted};
use crate::prompt::Prompt;
use crate::select::Select;

/// How lanes are planned.
pub(super) struct Planning {
    /// Lanes planned at one time.
    pub workers: usize,
    /// Memory taken meanwhile, in bytes.
    pub bytes: u64,
}

/// What is taken while lanes run.
pub(super) struct Bounds {
    /// Bytes whatever the lanes of a chunk.
    pub fixed: u64,
    /// Bytes while the base's own logits are read.
    pub readout: u64,
    /// Bytes held besides meanwhile.
    pub beside_readout: u64,
    /// Lanes read at one time.
    pub readers: usize,
}

/// Lanes, as far as their memory goes.
#[derive(Clone, Copy, Default)]
struct Load {
    /// Bytes of the largest one, with what products of its rows pack.
    largest: u64,
    /// Bytes of their list, as it grows.
    book: u64,
}

impl Job<'_> {
    fn load(&self, lanes: &[Planned]) -> Load {
        let change = |c: &Change| size_of::<Change>() + 8 * (c.rows.len() + c.heads.len());
        let changes = |l: &Planned| l.changes.iter().map(change).sum::<usize>();
        let book: usize = lanes
            .iter()
            .map(|l| 2 * size_of::<Planned>() + changes(l))
            .sum();
        let alone = |l: &Planned| l.cost.bytes + self.packing_bytes(l.cost.rows);
        Load {
            largest: lanes.iter().map(alone).max().unwrap_or(0),
            book: 2 * book as u64,
        }
    }

    /// How many lanes can be planned at one time beside what is held.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] if not even one can.
    pub(super) fn planning(&self) -> Result<Planning> {
        let each = if self.base.is_empty() {
            0
        } else {
            self.planning_bytes()
        };
        let workers = self.workers(self.held, each).map_err(|error| match error {
            Error::MemoryLimit { limit, least } => Error::MemoryLimit {
                limit,
                least: least.max(self.enough_bytes()),
            },
            other => other,
        })?;
        Ok(Planning {
            workers,
            bytes: self.held + workers as u64 * each,
        })
    }

    /// The most bytes that planning one lane takes: a place's rows before and after, and what an
    /// edit makes of one of them.
    fn planning_bytes(&self) -> u64 {
        let rows = |target: &Target, prompt: usize, n: usize| {
            let shape = target.point.axes().shape(self.config, n);
            let whole: usize = shape.iter().product();
            // What is named of a row, or what of a change lies in a subspace.
            let picked = target.columns != Select::All || target.subspace.is_some();
            let beside = if picked { shape[shape.len() - 1] } else { 0 };
            whole / n.max(1) * target.positions.resolve(prompt, n).len() + beside
        };
        let of_cell = |cell: &Cell| {
            let prompts = self.prompts.iter().enumerate();
            let each = prompts.map(|(prompt, tokens)| {
                let mut of_point: BTreeMap<HookPoint, usize> = BTreeMap::new();
                for Intervention { target, .. } in cell {
                    let rows = rows(target, prompt, tokens.len());
                    *of_point.entry(target.point).or_default() += rows;
                }
                of_point.into_values().max().unwrap_or(0)
            });
            each.max().unwrap_or(0)
        };
        let most: usize = self.cells.par_iter().map(of_cell).max().unwrap_or(0);
        12 * most as u64
    }

    /// How many workers of so many bytes each fit beside `others`, one at least.
    fn workers(&self, others: u64, each: u64) -> Result<usize> {
        let limit = self.memory_limit;
        if others.saturating_add(each) > limit {
            return Err(self.lack(others + each));
        }
        let threads = rayon::current_num_threads();
        let fit = (limit - others) / each.max(1);
        Ok(usize::try_from(fit).unwrap_or(threads).clamp(1, threads))
    }

    /// A lack of memory; from some limit on, what passes leave for each other counts too.
    fn lack(&self, least: u64) -> Error {
        let limit = self.memory_limit;
        let kept = Thrift::kept_bytes(least).saturating_sub(Thrift::kept_bytes(limit));
        let least = if kept == 0 {
            least
        } else {
            Thrift::roomy_bytes(least, least) + kept
        };
        Error::MemoryLimit { limit, least }
    }

    /// What running some lanes takes besides them, and reading the base's logits before.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] if not even one lane fits beside it.
    pub(super) fn bounds(&self, lanes: &[Planned]) -> Result<Bounds> {
        let some_rows = |lane: &&Planned| !lane.whole;
        let partial = sorted(lanes.iter().filter(some_rows).map(|lane| lane.prompt));
        self.bounds_of(self.load(lanes), &partial, self.load(&self.readout_lanes()))
    }

    /// The same for the lanes that read the base's logits.
    ///
    /// # Errors
    /// Same as [`Job::bounds`].
    pub(super) fn readout_bounds(&self, lanes: &[Planned]) -> Result<Bounds> {
        self.bounds_of(self.load(lanes), &[], Load::default())
    }

    /// `partial` are the prompts whose lanes are read together with logits of the base.
    fn bounds_of(&self, lanes: Load, partial: &[usize], readout: Load) -> Result<Bounds> {
        let mut held = self.fixed_bytes() + self.held + lanes.book;
        let (mut readouts, mut reading, mut before) = (0, 0, 0);
        match &self.end {
            End::Cache(_) => held += self.recorded_bytes(),
            End::Logits(needs) => {
                let runs = self.cells.len().max(1) * self.prompts.len();
                let of_base = partial.iter().map(|p| self.logits_bytes(&needs[*p]));
                readouts = of_base.clone().sum();
                held += RUN_BYTES * runs as u64 + readouts;
                reading = of_base.max().unwrap_or(0) + self.row_bytes(needs);
                before = readout.largest + readout.book + self.row_bytes(needs);
            }
        }
        let least = held.saturating_add(before.max(lanes.largest + reading));
        if least > self.memory_limit {
            return Err(self.lack(least));
        }
        let readers = self.workers(held + lanes.largest, reading)?;
        Ok(Bounds {
            fixed: held + readers as u64 * reading,
            readout: held + before,
            beside_readout: lanes.book + readouts,
            readers,
        })
    }

    /// The memory with which the job runs, whatever its base turns out to be: every edit is taken
    /// to change all that it may.
    pub fn enough_bytes(&self) -> u64 {
        let prompts = 0..self.prompts.len();
        let lanes = (0..self.cells.len()).flat_map(|cell| {
            prompts
                .clone()
                .filter_map(move |prompt| self.planned(cell, prompt, self.assumed(cell, prompt)))
        });
        let lanes: Vec<Planned> = lanes.collect();
        let several = |prompt: &usize| match &self.end {
            End::Logits(needs) => needs[*prompt].positions.len() > 1,
            End::Cache(_) => false,
        };
        let partial: Vec<usize> = prompts.filter(several).collect();
        let running = Job {
            memory_limit: 0,
            ..self.clone()
        };
        let readout = self.load(&self.readout_lanes());
        let least = match running.bounds_of(self.load(&lanes), &partial, readout) {
            Err(Error::MemoryLimit { least, .. }) => least,
            _ => 0,
        };
        least.max(self.held + self.planning_bytes())
    }

    /// All that the interventions of a lane may change.
    pub(super) fn assumed(&self, cell: usize, prompt: usize) -> Vec<Change> {
        let hooks = self.hooks(&self.cells[cell], prompt);
        let (n, n_heads) = (self.prompts[prompt].len(), self.config.n_heads);
        let mut points: Vec<HookPoint> = hooks.cell.iter().map(|i| i.target.point).collect();
        points.sort_unstable();
        points.dedup();
        let change = |point: HookPoint| {
            let targets = || hooks.at(point).map(|i| &i.target);
            let rows = sorted(targets().flat_map(|t| t.positions.resolve(prompt, n)));
            let heads = if point.axes().has_heads() {
                sorted(targets().flat_map(|t| t.heads.resolve(prompt, n_heads)))
            } else {
                Vec::new()
            };
            (!rows.is_empty()).then_some(Change { point, rows, heads })
        };
        points.into_iter().filter_map(change).collect()
    }

    /// What products of so many rows pack, on all threads.
    pub(super) fn packing_bytes(&self, rows: usize) -> u64 {
        ops::rows_of_products(rows, self.config.widest())
    }

    /// Memory that a chunk takes whatever its lanes: what each thread keeps for products, and what
    /// attention reads on it, copies of the unembedding's columns, and what passes leave for each
    /// other.
    fn fixed_bytes(&self) -> u64 {
        let config = self.config;
        let columns = match &self.end {
            End::Logits(needs) => needs
                .iter()
                .filter_map(|n| n.tokens.as_ref().map(Vec::len))
                .sum(),
            End::Cache(_) => 0,
        };
        let longest = self.prompts.iter().map(Prompt::len).max().unwrap_or(0);
        // Keys and values of one head, and some rows of scores.
        let attention = 8 * longest * (config.d_head() + 16) * rayon::current_num_threads();
        let widest = config.widest();
        let kept = ops::kept_for_products(widest, config.d_logits().max(widest));
        kept + attention as u64
            + 8 * (columns * config.d_model) as u64
            + Thrift::kept_bytes(self.memory_limit)
    }

    /// Bytes of what is kept of all runs.
    fn recorded_bytes(&self) -> u64 {
        let End::Cache(keep) = &self.end else {
            return 0;
        };
        let entries = keep.iter().count() as u64;
        let lengths = self.prompts.iter().map(Prompt::len);
        let kept = |n: usize| super::kept_bytes(self.config, keep, n);
        let all: u64 = lengths.map(kept).sum();
        let all = if self.base.is_empty() {
            all + all / 2
        } else {
            all
        };
        self.cells.len() as u64 * (all + ENTRY_BYTES * entries * self.prompts.len() as u64)
    }

    /// Bytes of the logits that are needed of a prompt.
    fn logits_bytes(&self, needs: &Needs) -> u64 {
        let tokens = needs.tokens.as_ref().map(Vec::len);
        let columns = tokens.unwrap_or(self.config.d_logits());
        4 * (needs.positions.len() * columns) as u64
    }

    /// Bytes of the rows that a metric copies to read them.
    fn row_bytes(&self, needs: &[Needs]) -> u64 {
        let of = |needs: &Needs| match &needs.tokens {
            None => 8 * self.config.d_logits(),
            Some(tokens) => 16 * (needs.positions.len() + 1) * tokens.len(),
        };
        needs.iter().map(of).max().unwrap_or(0) as u64
    }
}

/// Bytes of one run's result, and of the count of what is done.
const RUN_BYTES: u64 = 24;
/// Bytes of one kept activation besides its values.
const ENTRY_BYTES: u64 = 256;

/// Bytes of a kept activation of so many values, whose memory may have served a larger one.
pub(crate) fn entry_bytes(values: usize) -> u64 {
    ENTRY_BYTES + 6 * values as u64
}

/// `f` of each index, in order, by so many workers; each has what `make` makes to itself, so that
/// there are never more of these than workers.
pub(crate) fn spread<S, T: Send>(
    workers: usize,
    count: usize,
    make: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, usize) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let work = |_| {
        let (mut own, mut done) = (make(), Vec::new());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return done;
            }
            done.push((index, f(&mut own, index)));
        }
    };
    let done = (0..workers.min(count)).into_par_iter().with_max_len(1);
    let mut done: Vec<(usize, T)> = done.flat_map_iter(work).collect();
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, made)| made).collect()
}
