//! Sweeps: many runs of the same prompts with one small change each, in one pass over the layers
//! and with the bits of as many full runs.
//!
//! Every study is a sweep; take this module for cells of your own. A cell is a list of
//! interventions; what they leave as it is in the base run is not computed.
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
//! let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);
//! let silent = |layer| vec![Intervention::new(Site::MlpOut.at(layer), Edit::Zero)];
//! let cells: Vec<_> = (0..4).map(silent).collect();
//! let found = Sweep::new(&model, &clean)?.run(&cells, &metric)?;
//! println!("{:?}\n{}", found.changes(), found.plan); // [cell, prompt]
//! # Ok::<(), patchlens::Error>(())
//! ```

mod ledger;
mod prepared;

use std::collections::BTreeMap;
use std::fmt;

use ndarray::{Array1, Array2};

pub use prepared::Prepared;

pub use crate::limits::DEFAULT_MEMORY_LIMIT;
pub use crate::schedule::Cell;

use crate::base::Base;
use crate::config::Config;
use crate::error::Result;
use crate::intervention::Interventions;
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::cost::Hidden;
use crate::model::lane::Lane;
use crate::model::{BlockedRows, Run, Transformer};
use crate::prompt::{IntoPrompts, Prompt, Prompts};
use crate::schedule::Schedule;

/// Many cells of interventions, each run on every prompt of a [`Base`].
///
/// ```
/// use patchlens::{Config, Edit, Intervention, Prompt, Site, Sweep, Target, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompt = Prompt::from([1, 2, 3]);
/// // One cell per head of layer 1: its output at the last position set to zero.
/// let zero = |head: usize| {
///     let target = Target::new(Site::Z.at(1)).at_positions(2).at_heads(head);
///     vec![Intervention::new(target, Edit::Zero)]
/// };
/// let cells = [zero(0), zero(1)];
/// let sweep = Sweep::new(&model, &prompt)?;
/// let result = sweep.run(&cells, &logit_diff(5, 6))?;
/// assert_eq!(result.values.dim(), (2, 1)); // [cell, prompt]
/// assert_eq!(result.values, sweep.run_naive(&cells, &logit_diff(5, 6))?);
/// assert!(result.multiply_adds < result.plan.naive_multiply_adds);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sweep<'m> {
    base: Base<'m>,
    limits: Limits<'m>,
    /// Bytes that a study holds besides.
    beside: u64,
}

/// What a sweep will do: known before it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Plan {
    /// Cells.
    pub cells: usize,
    /// Prompts that each cell runs on.
    pub prompts: usize,
    /// Lanes to run: cells × prompts where something read changes.
    pub lanes: usize,
    /// Cells × prompts whose interventions change nothing that the metric reads: their metric is
    /// the base's.
    pub unchanged: usize,
    /// Rows through MLPs, over all lanes and layers.
    pub rows: u64,
    /// Passes over the layers, by the memory limit.
    pub chunks: usize,
    /// Multiply-adds of all lanes.
    pub multiply_adds: u64,
    /// Multiply-adds of one full forward pass per cell and prompt.
    pub naive_multiply_adds: u64,
    /// Upper bound of the memory taken at any one time, in bytes: by the base runs and what they
    /// keep (unless [`Base::given`]), by planning, the lanes and the metric. What the caller's own
    /// edits and metric hold, and what a closure allocates, is not among it.
    pub peak_bytes: u64,
}

impl Plan {
    /// What is going to be done.
    pub(crate) fn of(schedule: &Schedule<'_>) -> Self {
        let Schedule { job, lanes, .. } = schedule;
        let (cells, prompts) = (job.cells.len(), job.prompts.len());
        let naive = full_passes(job.config, &job.prompts);
        Plan {
            cells,
            prompts,
            lanes: lanes.len(),
            unchanged: cells * prompts - lanes.len(),
            rows: lanes.iter().map(|l| l.cost.mlp_rows).sum(),
            chunks: schedule.chunks.len(),
            multiply_adds: lanes.iter().map(|l| l.cost.macs).sum(),
            naive_multiply_adds: naive.saturating_mul(cells as u64),
            peak_bytes: schedule.peak,
        }
    }

    /// Adds runs of the same prompts, made after these.
    pub fn add(&mut self, later: &Plan) {
        self.cells += later.cells;
        self.prompts = later.prompts;
        self.lanes += later.lanes;
        self.unchanged += later.unchanged;
        self.rows += later.rows;
        self.chunks += later.chunks;
        self.multiply_adds += later.multiply_adds;
        let naive = self.naive_multiply_adds;
        self.naive_multiply_adds = naive.saturating_add(later.naive_multiply_adds);
        self.peak_bytes = self.peak_bytes.max(later.peak_bytes);
    }

    /// How many times fewer multiply-adds than the naive way.
    pub fn saving(&self) -> f64 {
        self.naive_multiply_adds as f64 / self.multiply_adds.max(1) as f64
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let giga = |n: u64| n as f64 / 1e9;
        writeln!(f, "cells × prompts   {} × {}", self.cells, self.prompts)?;
        writeln!(
            f,
            "lanes to run      {} ({} unchanged)",
            self.lanes, self.unchanged
        )?;
        writeln!(f, "rows through MLPs {}", self.rows)?;
        writeln!(
            f,
            "multiply-adds     {:.3} G of {:.3} G naive ({:.1}× fewer)",
            giga(self.multiply_adds),
            giga(self.naive_multiply_adds),
            self.saving()
        )?;
        writeln!(
            f,
            "peak memory       {:.1} MB in {} chunks",
            self.peak_bytes as f64 / 1e6,
            self.chunks
        )
    }
}

/// Multiply-adds of one full forward pass per prompt.
pub(crate) fn full_passes(config: &Config, prompts: &Prompts) -> u64 {
    let full = |prompt: &Prompt| {
        let lane = Lane::full(&prompt.tokens, (0..prompt.len()).collect());
        lane.cost(config, Hidden::InPlace, &|_| None).macs
    };
    prompts.iter().map(full).sum()
}

/// What a sweep found.
#[derive(Clone, Debug)]
pub struct SweepResult {
    /// The metric, `[cell, prompt]`; NaN for what a cancelled sweep did not reach, and for what a
    /// journal's [part](crate::journal::Part) leaves to others.
    pub values: Array2<f32>,
    /// Whether each cell was reached on every prompt, `[cell]`.
    pub finished: Vec<bool>,
    /// The metric of the base run, `[prompt]`.
    pub base: Array1<f32>,
    /// The plan it ran by.
    pub plan: Plan,
    /// Multiply-adds of the lanes, as counted, those whose results are a journal's among them.
    pub multiply_adds: u64,
    /// Rows through MLPs, as counted.
    pub rows: u64,
    /// Multiply-adds that the base took for this sweep, as counted: of its run, unless everything
    /// needed had been kept, and of reading its metric.
    pub base_multiply_adds: u64,
    /// Whether some cell has not run on every prompt: it was cancelled, or is a part of the work.
    pub partial: bool,
    /// By cell, the rows of attention that it left nothing to attend to; no entry for cells that
    /// block no row whole. Only rows that are computed count: those that an intervention changes
    /// and that the metric depends on. In the last layer that is mostly one row per prompt, where
    /// [`Transformer::run`](crate::Transformer::run) has them all.
    pub blocked: BTreeMap<usize, BlockedRows>,
    /// The rows that the base runs left nothing to attend to, see [`Base::blocked`].
    pub base_blocked: BlockedRows,
}

impl SweepResult {
    /// What a reader of effects on these runs must know: that rows of attention were blocked whole,
    /// in the runs that are called `base`, and in those of cells.
    pub(crate) fn notes(&self, base: &str) -> impl Iterator<Item = String> {
        let base = self.base_blocked.told(&format!("{base} run"));
        base.into_iter().chain(self.note_of_cells())
    }

    pub(crate) fn note_of_cells(&self) -> Option<String> {
        let mut rows = BlockedRows::default();
        self.blocked.values().for_each(|more| rows.extend(*more));
        rows.told(&format!(
            "{} of {} cells",
            self.blocked.len(),
            self.plan.cells
        ))
    }

    /// By how much each cell changes the metric of the base run, `[cell, prompt]`.
    pub fn changes(&self) -> Array2<f32> {
        &self.values - &self.base
    }
}

impl<'m> Sweep<'m> {
    /// A sweep over the plain runs of some prompts.
    ///
    /// # Errors
    /// Same as [`Base::new`].
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        Ok(Self::over(&Base::new(model, prompts)?))
    }

    /// A sweep over base runs, which other studies may share.
    pub fn over(base: &Base<'m>) -> Self {
        Self::limited(base, Limits::default())
    }

    /// A sweep with the settings of the study that it is a part of.
    pub(crate) fn limited(base: &Base<'m>, limits: Limits<'m>) -> Self {
        Sweep {
            base: base.clone(),
            limits,
            beside: 0,
        }
    }

    /// The same where so many bytes are held besides.
    pub(crate) fn beside(mut self, bytes: u64) -> Self {
        self.beside = bytes;
        self
    }

    limits_methods!('m);

    /// The base runs.
    pub fn base(&self) -> &Base<'m> {
        &self.base
    }

    /// The prompts.
    pub fn prompts(&self) -> &Prompts {
        self.base.prompts()
    }

    /// Runs the base, unless it has run, and plans the cells.
    ///
    /// # Errors
    /// Before anything is computed, same as [`Intervention::check`](crate::Intervention::check)
    /// for each intervention; [`Error::OutOfRange`](crate::Error::OutOfRange) for a metric that
    /// reads what is not there; [`Error::NotCached`](crate::Error::NotCached) if a given base
    /// lacks an activation; [`Error::MemoryLimit`](crate::Error::MemoryLimit) if not even one lane
    /// fits the memory limit beside what the base keeps.
    pub fn prepare<'s>(&'s self, cells: &'s [Cell], metric: &'s Metric) -> Result<Prepared<'s>> {
        Prepared::new(self, cells, metric)
    }

    /// Runs all cells.
    ///
    /// # Errors
    /// Same as [`Sweep::prepare`] and [`Prepared::run`].
    pub fn run(&self, cells: &[Cell], metric: &Metric) -> Result<SweepResult> {
        self.prepare(cells, metric)?.run()
    }

    /// The same metric values `[cell, prompt]` by one full forward pass per cell, to check with.
    ///
    /// # Errors
    /// Same as [`Transformer::run`].
    pub fn run_naive(&self, cells: &[Cell], metric: &Metric) -> Result<Array2<f32>> {
        self.base.needs(metric)?;
        let mut values = Array2::zeros((cells.len(), self.prompts().len()));
        for (cell, mut row) in cells.iter().zip(values.rows_mut()) {
            let all = [self.base.interventions(), cell].concat();
            let hooks = Interventions::new(all);
            let output = self
                .base
                .model()
                .run(self.prompts(), hooks, &Run::default())?;
            for (prompt, (value, logits)) in row.iter_mut().zip(output.logits.iter()).enumerate() {
                *value = metric.evaluate(prompt, logits)?;
            }
        }
        Ok(values)
    }
}
