//! Sweeps: many runs of the same prompts with one small change each, in one pass over the layers
//! and with the bits of as many full runs.
//!
//! The base run is cached once. Each cell × prompt becomes a *lane* that joins the pass where its
//! first intervention acts, holds only the rows which that changes, and reads everything else
//! from the base. What an intervention leaves as it was is not run at all.

mod base;
mod hooks;
mod plan;
mod record;
mod run;

use std::fmt;

use ndarray::{Array1, Array2};

pub(crate) use base::points_read;
pub use plan::Prepared;
pub(crate) use record::Recording;
pub use run::Progress;

use crate::cache::ActivationCache;
use crate::error::{Error, Result};
use crate::intervention::{Intervention, Interventions};
use crate::metric::Metric;
use crate::model::{Run, Transformer};
use crate::prompt::Prompt;

/// The interventions of one run of the sweep.
pub type Cell = Vec<Intervention>;

/// Working memory of a sweep unless [`Sweep::memory_limit`] says otherwise: 1 GiB.
pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 30;

/// A model and the prompts that every cell runs on.
///
/// ```
/// use patchlens::{Config, Edit, Intervention, Prompt, Site, Sweep, Target, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompt = Prompt::from([1, 2, 3]);
/// // One cell a head of layer 1: its output at the last position set to zero.
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
    model: &'m Transformer,
    prompts: Vec<Prompt>,
    base: Option<Vec<ActivationCache>>,
    over: Option<Vec<ActivationCache>>,
    memory_limit: u64,
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
    /// Multiply-adds of one full forward pass a cell and prompt.
    pub naive_multiply_adds: u64,
    /// Upper bound of the memory that the lanes take, in bytes.
    pub peak_bytes: u64,
}

impl Plan {
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

/// What a sweep gave.
#[derive(Clone, Debug)]
pub struct SweepResult {
    /// The metric, `[cell, prompt]`; NaN for what a cancelled sweep did not reach.
    pub values: Array2<f32>,
    /// The metric of the base run, `[prompt]`.
    pub base: Array1<f32>,
    /// The plan it ran by.
    pub plan: Plan,
    /// Multiply-adds of the lanes, as counted.
    pub multiply_adds: u64,
    /// Rows through MLPs, as counted.
    pub rows: u64,
    /// Multiply-adds of the base run, as counted; 0 where its cache was given.
    pub base_multiply_adds: u64,
    /// Whether it was cancelled before every cell was run.
    pub partial: bool,
}

impl<'m> Sweep<'m> {
    /// A sweep over these prompts.
    ///
    /// # Errors
    /// As [`Transformer::run`] for prompts that cannot run.
    pub fn new(model: &'m Transformer, prompts: &(impl AsRef<[Prompt]> + ?Sized)) -> Result<Self> {
        let prompts = prompts.as_ref().to_vec();
        model.check_prompts(&prompts)?;
        Ok(Sweep {
            model,
            prompts,
            base: None,
            over: None,
            memory_limit: DEFAULT_MEMORY_LIMIT,
        })
    }

    /// Uses these caches of the base run, one a prompt, instead of running it. That they come from
    /// a run of this model without hooks is taken on trust: nothing in a cache tells.
    ///
    /// # Errors
    /// [`Error::Prompt`] if they are not whole caches of these prompts, [`Error::Shape`] if they
    /// are those of a model of another shape.
    pub fn with_base(mut self, caches: &[ActivationCache]) -> Result<Self> {
        self.check_caches(caches)?;
        for (i, (cache, prompt)) in caches.iter().zip(&self.prompts).enumerate() {
            if cache.tokens() != prompt.tokens {
                return Err(Error::Prompt {
                    at: format!("base cache {i}"),
                    found: format!("tokens {:?}", cache.tokens()),
                    expected: format!("the prompt's, {:?}", prompt.tokens),
                });
            }
        }
        self.base = Some(caches.to_vec());
        Ok(self)
    }

    /// Computes the base run as lanes over other runs' caches, one a prompt and of its length:
    /// rows before the first token that differs are taken from them.
    ///
    /// # Errors
    /// As [`Sweep::with_base`], but for the tokens.
    pub fn with_base_over(mut self, caches: &[ActivationCache]) -> Result<Self> {
        self.check_caches(caches)?;
        self.over = Some(caches.to_vec());
        Ok(self)
    }

    fn check_caches(&self, caches: &[ActivationCache]) -> Result<()> {
        if caches.len() != self.prompts.len() {
            return Err(Error::invalid(
                "caches",
                caches.len(),
                format!("{}, one a prompt", self.prompts.len()),
            ));
        }
        for (i, (cache, prompt)) in caches.iter().zip(&self.prompts).enumerate() {
            if cache.tokens().len() != prompt.len() || !cache.is_whole() {
                return Err(Error::Prompt {
                    at: format!("cache {i}"),
                    found: format!(
                        "{} of {} positions",
                        cache.positions().len(),
                        cache.tokens().len()
                    ),
                    expected: format!("all of the prompt's {}", prompt.len()),
                });
            }
            for point in cache.points() {
                let expected = point.axes().shape(self.model.config(), prompt.len());
                let found = cache.get(point)?.shape().to_vec();
                if found != expected {
                    return Err(Error::Shape {
                        at: format!("cache {i}, {point}"),
                        found,
                        expected: format!("{expected:?} of this model"),
                    });
                }
            }
        }
        Ok(())
    }

    /// Bounds the working memory of the lanes, in bytes: they are cut into chunks that stay below.
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// The prompts.
    pub fn prompts(&self) -> &[Prompt] {
        &self.prompts
    }

    /// Runs the base and plans the cells.
    ///
    /// # Errors
    /// Before anything is computed, as [`Intervention::check`] for each intervention;
    /// [`Error::OutOfRange`] for a metric that reads what is not there; [`Error::NotCached`] if a
    /// given base lacks an activation; [`Error::Invalid`] if not even one lane fits the memory
    /// limit.
    pub fn prepare<'s>(&'s self, cells: &'s [Cell], metric: &'s Metric) -> Result<Prepared<'s>> {
        Prepared::new(self, cells, metric)
    }

    /// Runs all cells.
    ///
    /// # Errors
    /// As [`Sweep::prepare`].
    pub fn run(&self, cells: &[Cell], metric: &Metric) -> Result<SweepResult> {
        self.prepare(cells, metric)?.run()
    }

    /// The same metric values `[cell, prompt]` by one full forward pass a cell, to check with.
    ///
    /// # Errors
    /// As [`Transformer::run`].
    pub fn run_naive(&self, cells: &[Cell], metric: &Metric) -> Result<Array2<f32>> {
        let lengths: Vec<usize> = self.prompts.iter().map(Prompt::len).collect();
        metric.check(&lengths, self.model.config().d_vocab)?;
        let mut values = Array2::zeros((cells.len(), self.prompts.len()));
        for (cell, mut row) in cells.iter().zip(values.rows_mut()) {
            let hooks = Interventions::new(&cell[..]);
            let output = self.model.run(&self.prompts, hooks, &Run::default())?;
            for (prompt, (value, logits)) in row.iter_mut().zip(output.logits.iter()).enumerate() {
                *value = metric.evaluate(prompt, logits)?;
            }
        }
        Ok(values)
    }
}
