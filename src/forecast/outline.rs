//! The runs of a study as its base makes them, as far as their cost goes.

use super::Forecast;
use crate::cache::{ActivationCache, Selection};
use crate::config::Config;
use crate::error::Result;
use crate::hook::HookPoint;
use crate::intervention::Intervention;
use crate::metric::Metric;
use crate::model::cost::Hidden;
use crate::model::stage::Frozen;
use crate::model::{RunShape, check_prompts};
use crate::parameters::Tensor;
use crate::prompt::{Prompt, Prompts};
use crate::schedule::{Cell, End, Job, Schedule, most_kept_bytes, reads, token_reads};
use crate::sweep::{DEFAULT_MEMORY_LIMIT, Plan};

/// The runs of a study.
pub(super) struct Outline<'o> {
    pub config: &'o Config,
    /// The prompts that run as they are.
    pub first: &'o Prompts,
    /// The runs that the cells change, where those are not the first ones.
    pub second: Option<Second<'o>>,
    pub cells: Vec<Cell>,
}

/// Runs that are lanes over the first ones.
pub(super) struct Second<'o> {
    pub prompts: &'o Prompts,
    pub interventions: Vec<Intervention>,
}

/// What is known of base runs.
#[derive(Default)]
struct Bases {
    multiply_adds: u64,
    /// Bytes that they keep.
    held: u64,
    /// The most memory taken at any one time, in bytes.
    peak: u64,
}

impl Bases {
    fn add(&mut self, run: &Schedule<'_>, kept: u64) {
        self.multiply_adds += run.lanes.iter().map(|lane| lane.cost.macs).sum::<u64>();
        self.held += kept;
        self.peak = self.peak.max(run.peak);
    }
}

impl Outline<'_> {
    /// What the runs cost whose metric is wanted.
    pub fn forecast(&self, metric: &Metric) -> Result<Forecast> {
        let config = self.config;
        config.check()?;
        check_prompts(config, self.first.as_slice())?;
        check_prompts(config, self.changed().as_slice())?;
        let lengths = self.changed().lengths();
        let shape = RunShape::forecast(config, lengths.clone());
        let interventions = self.cells.iter().flatten().chain(self.under());
        interventions
            .into_iter()
            .try_for_each(|i| i.check(&shape))?;
        let metric = if metric.lacks_reference() {
            let reference = vec![0.0; config.d_logits()];
            metric.clone().with_reference_rows(vec![reference])
        } else {
            metric.clone()
        };
        let needs = metric.needs_of(self.changed(), config)?;
        let mut bases = self.bases()?;
        let job = Job {
            base: tokens(self.changed()),
            hidden: self.hidden(),
            cells: self.cells.as_slice().into(),
            inherited: self.under().to_vec(),
            end: End::Logits(needs),
            held: bases.held,
            memory_limit: DEFAULT_MEMORY_LIMIT,
            ..Job::full(config, self.changed(), Selection::default())
        };
        // The runs that values come from are read, too.
        let read = Schedule::readout(job.clone())?;
        for _ in 0..1 + usize::from(self.second.is_some()) {
            bases.add(&read, 0);
        }
        let mut plan = Plan::of(&Schedule::assumed(job)?);
        plan.peak_bytes = plan.peak_bytes.max(bases.peak);
        Ok(Forecast {
            plan,
            base_multiply_adds: bases.multiply_adds,
            weight_bytes: weight_bytes(config),
            config: config.clone(),
        })
    }

    /// The prompts that the cells change.
    fn changed(&self) -> &Prompts {
        self.second.as_ref().map_or(self.first, |s| s.prompts)
    }

    /// The interventions under which those run.
    fn under(&self) -> &[Intervention] {
        self.second.as_ref().map_or(&[], |s| &s.interventions)
    }

    fn places(&self) -> impl Iterator<Item = HookPoint> {
        self.cells.iter().flatten().map(|i| i.target.point)
    }

    fn hidden(&self) -> Hidden {
        Hidden::of(self.places())
    }

    /// The base runs: the first ones, and the second ones as lanes over them.
    fn bases(&self) -> Result<Bases> {
        let config = self.config;
        let keep = reads(config, self.places(), Frozen::default());
        let mut first = keep.clone();
        if let Some(second) = &self.second {
            let places = second.interventions.iter().map(|i| i.target.point);
            first.extend(reads(config, places, Frozen::default()).iter());
            let mut pairs = second.prompts.iter().zip(self.first.iter().cycle());
            if pairs.any(|(own, base)| own.tokens != base.tokens) {
                first.extend(token_reads(config));
            }
        }
        let mut bases = Bases::default();
        let job = Job {
            memory_limit: DEFAULT_MEMORY_LIMIT,
            ..Job::full(config, self.first, first.clone())
        };
        bases.add(&Schedule::assumed(job)?, kept(config, self.first, &first));
        if let Some(second) = &self.second {
            let places = second.interventions.iter().map(|i| i.target.point);
            let job = Job {
                base: tokens(self.first),
                cells: vec![second.interventions.clone()].into(),
                hidden: Hidden::of(places),
                held: bases.held,
                memory_limit: DEFAULT_MEMORY_LIMIT,
                ..Job::full(config, second.prompts, keep.clone())
            };
            let held = kept(config, second.prompts, &keep);
            bases.add(&Schedule::assumed(job)?, held);
        }
        Ok(bases)
    }
}

/// Bytes of all weights that a model of this shape has to have.
fn weight_bytes(config: &Config) -> u64 {
    let size = |tensor: Tensor| tensor.shape.iter().product::<usize>();
    4 * Tensor::required(config).map(size).sum::<usize>() as u64
}

/// What lanes know of a base before it has run.
fn tokens(prompts: &Prompts) -> std::sync::Arc<[ActivationCache]> {
    let of = |p: &Prompt| ActivationCache::new(&p.tokens, Vec::new(), None);
    prompts.iter().map(of).collect()
}

/// Bytes that runs of these prompts keep at most.
fn kept(config: &Config, prompts: &Prompts, keep: &Selection) -> u64 {
    prompts
        .iter()
        .map(|p| most_kept_bytes(config, keep, p.len()))
        .sum()
}
