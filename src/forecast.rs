//! Forecasts: what will a study cost, before there are weights in memory?
//!
//! ```text
//! multiply-adds = those of the base runs + those of all rows that the cells can change
//! time          = multiply-adds / what this machine multiplies in a second
//! ```
//!
//! A plan needs no weights: which rows a run computes depends on the model's shape, the tokens and
//! the places of the interventions. So GPT-2 XL's studies can be priced on a machine that could
//! not even hold it. A causal trace of one fact of ten tokens:
//!
//! ```
//! use patchlens::{Config, Prompt};
//! use patchlens::forecast::Forecast;
//! use patchlens::tracing::{Restore, SubjectCorruption, TracedFact};
//! let fact = TracedFact::new(Prompt::from((0..10).collect::<Vec<u32>>()), 1..4)?;
//! let noise = SubjectCorruption::noise(0.1);
//! let restores = [Restore::states()];
//! let found = Forecast::tracing(&Config::gpt2_xl(), &noise, &[fact], &restores)?;
//! println!("{found}");
//! assert_eq!(found.weight_bytes, 6_230_444_800);
//! assert!(found.peak_bytes() < 7_000_000_000);
//! let rate = 100e9; // or `found.measured_rate()`, this machine's
//! println!("{:.0} s", found.seconds(rate));
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** An upper bound: every edit is taken to change all that it may, and
//! every fact to be traced. Where edits do so, as patches between runs that differ, the study does
//! exactly as many multiply-adds.
//!
//! **What it does not mean.** Seconds are an estimate: opening the model, planning, and what else
//! the machine does are not among them. Work of few rows, such as one pass over a short prompt,
//! takes about twice as long, since it waits for the weights to come from memory.

mod outline;

use std::fmt;
use std::hint::black_box;
use std::time::Instant;

use outline::{Outline, Second};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::intervention::{Edit, Intervention};
use crate::metric::Metric;
use crate::ops;
use crate::pairs::check_pairs;
use crate::patching::Grid;
use crate::prompt::{IntoPrompts, Prompts};
use crate::sweep::{Cell, Plan};
use crate::tracing::{Restore, SubjectCorruption, TracedFact, metric_of};

/// What a study will cost, from the shape of its model alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// What the cells do; `peak_bytes` is the most memory taken at any one time besides the
    /// weights, that of the base runs included.
    pub plan: Plan,
    /// Multiply-adds of the base runs, and of reading their metric.
    pub base_multiply_adds: u64,
    /// Bytes of the weights in memory.
    pub weight_bytes: u64,
    config: Config,
}

impl Forecast {
    /// Of a [`Sweep`](crate::Sweep) of some cells. What edits hold does not matter, so any will
    /// do: [`Edit::Zero`] for a patch.
    ///
    /// # Errors
    /// [`Error::Config`] for a shape that is none; else same as
    /// [`Sweep::prepare`](crate::Sweep::prepare).
    pub fn sweep(
        config: &Config,
        prompts: impl IntoPrompts,
        cells: &[Cell],
        metric: &Metric,
    ) -> Result<Self> {
        let prompts = prompts.into_prompts()?;
        let outline = Outline {
            config,
            first: &prompts,
            second: None,
            cells: cells.to_vec(),
        };
        outline.forecast(metric)
    }

    /// Of [`ActivationPatching`](crate::patching::ActivationPatching) of prompt pairs, in either
    /// direction.
    ///
    /// # Errors
    /// [`Error::Config`] for a shape that is none; else same as
    /// [`ActivationPatching::run`](crate::patching::ActivationPatching::run).
    pub fn patching(
        config: &Config,
        clean: impl IntoPrompts,
        corrupted: impl IntoPrompts,
        grid: Grid,
        metric: &Metric,
    ) -> Result<Self> {
        let (clean, corrupted) = (clean.into_prompts()?, corrupted.into_prompts()?);
        check_pairs(["clean", "corrupted"], &clean, &corrupted)?;
        config.check()?;
        grid.check(config)?;
        let outline = Outline {
            config,
            first: &clean,
            second: Some(Second {
                prompts: &corrupted,
                interventions: Vec::new(),
            }),
            cells: patches(config, grid, &clean)?,
        };
        outline.forecast(metric)
    }

    /// Of [`CausalTracing`](crate::tracing::CausalTracing) of some facts, as if the model knew all
    /// of them. What a corruption's noise and embeddings are does not matter.
    ///
    /// # Errors
    /// [`Error::Config`] for a shape that is none; [`Error::Invalid`] without facts; else same as
    /// [`CausalTracing::trace`](crate::tracing::CausalTracing::trace).
    pub fn tracing(
        config: &Config,
        corruption: &SubjectCorruption,
        facts: &[TracedFact],
        restores: &[Restore],
    ) -> Result<Self> {
        config.check()?;
        restores.iter().try_for_each(Restore::check)?;
        let of_fact = |fact: &TracedFact| {
            let (prompts, interventions) = corruption.samples(config, fact)?;
            let (clean, prompts) = (Prompts::new([&fact.prompt])?, Prompts::new(prompts)?);
            let same = vec![Edit::Zero; config.n_layers];
            let cells = restores.iter();
            let cells = cells.flat_map(|r| r.cells(fact.prompt.len(), &same, &same));
            let outline = Outline {
                config,
                first: &clean,
                second: Some(Second {
                    prompts: &prompts,
                    interventions,
                }),
                cells: cells.collect(),
            };
            let likeliest = vec![0];
            let answer = fact.attribute.as_ref().unwrap_or(&likeliest);
            outline.forecast(&metric_of(answer))
        };
        let mut all = facts.iter().map(of_fact);
        let none = || Err(Error::invalid("facts", 0, "at least one"));
        let mut sum = all.next().unwrap_or_else(none)?;
        for fact in all {
            sum.add(&fact?);
        }
        Ok(sum)
    }

    /// Adds a study of the same model that is made after this one.
    pub fn add(&mut self, later: &Forecast) {
        self.plan.add(&later.plan);
        self.base_multiply_adds += later.base_multiply_adds;
    }

    /// All multiply-adds.
    pub fn multiply_adds(&self) -> u64 {
        self.plan.multiply_adds + self.base_multiply_adds
    }

    /// The most memory taken at any one time, that of the weights included, in bytes. A study
    /// keeps its own part below its `memory_limit`; this is for the default one, 1 GiB.
    pub fn peak_bytes(&self) -> u64 {
        self.weight_bytes + self.plan.peak_bytes
    }

    /// About how many seconds it takes at so many multiply-adds a second.
    pub fn seconds(&self, rate: f64) -> f64 {
        self.multiply_adds() as f64 / (SHARE * rate)
    }

    /// How many multiply-adds this machine does in a second in products of the shape that the
    /// study has most: measured, by some tenths of a second of work on all threads.
    pub fn measured_rate(&self) -> f64 {
        const ROWS: usize = 1024;
        let (d_model, d_mlp) = (self.config.d_model, self.config.d_mlp.max(1));
        let passes = (self.plan.chunks * self.config.n_layers).max(1) as u64;
        let rows = usize::try_from(self.plan.rows / passes).unwrap_or(ROWS);
        let rows = rows.clamp(1, ROWS);
        let x = ndarray::Array2::from_elem((rows, d_model), 0.5);
        let w = ndarray::Array2::from_elem((d_model, d_mlp), 0.5);
        black_box(ops::matmul(x.view(), w.view()));
        let (start, mut done) = (Instant::now(), 0_u64);
        while done == 0 || start.elapsed().as_secs_f64() < LEAST_SECONDS {
            black_box(ops::matmul(x.view(), w.view()));
            done += (rows * d_model * d_mlp) as u64;
        }
        done as f64 / start.elapsed().as_secs_f64()
    }
}

/// The share of a product's rate that passes of many rows reach: sweeps, and passes of 120 tokens
/// or more, reach 0.80 to 0.93 in `benches/RESULTS.md`. What waits for memory reaches half of that
/// there, so that it takes about twice what is forecast: a pass of one prompt of 15 tokens 0.40 to
/// 0.43, a full cache of 1,024 tokens 0.37.
const SHARE: f64 = 0.85;
/// For how long a rate is measured.
const LEAST_SECONDS: f64 = 0.2;

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (giga, mega) = (|n: u64| n as f64 / 1e9, |n: u64| n as f64 / 1e6);
        write!(f, "{}", self.plan)?;
        writeln!(
            f,
            "base runs         {:.3} G multiply-adds",
            giga(self.base_multiply_adds)
        )?;
        writeln!(f, "weights           {:.1} MB", mega(self.weight_bytes))
    }
}

/// The cells of a grid, whose values do not matter.
fn patches(config: &Config, grid: Grid, prompts: &Prompts) -> Result<Vec<Cell>> {
    let n = match prompts.common_len() {
        Some(n) => n,
        None if !grid.by_position() => 1,
        None => {
            return Err(Error::Prompt {
                at: format!("grid {grid:?}, which has positions"),
                found: format!("prompts of {:?} tokens", prompts.lengths()),
                expected: "prompts of one length".to_string(),
            });
        }
    };
    let targets = grid.targets(config, n).into_iter();
    let cell = |target| vec![Intervention::new(target, Edit::Zero)];
    Ok(targets.map(cell).collect())
}
