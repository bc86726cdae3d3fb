//! The planner: cells × prompts to lanes, lanes to chunks. Runs that end in a number and runs
//! that end in a cache differ in [`End`] alone.

mod changes;
mod hooks;
mod memory;
mod reads;
mod run;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use changes::{changes, differing};
use hooks::LaneHooks;
use memory::Bounds;
pub(crate) use memory::{entry_bytes, spread};
pub(crate) use reads::{reads, token_reads};
pub(crate) use run::Chunk;

use crate::cache::{ActivationCache, Selection};
use crate::config::Config;
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::intervention::Intervention;
use crate::metric::Needs;
use crate::model::Footprint;
use crate::model::cost::{Cost, Hidden, Wanted};
use crate::model::lane::{Change, Columns, Lane};
use crate::model::stage::Frozen;
use crate::ops::Thrift;
use crate::prompt::Prompts;

/// The interventions of one run of the sweep.
pub type Cell = Vec<Intervention>;

/// What runs end in.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// The logits that a metric reads, by prompt.
    Logits(Vec<Needs>),
    /// The activations at some points.
    Cache(Selection),
}

/// Runs to make: each cell's interventions on each prompt.
#[derive(Clone, Debug)]
pub(crate) struct Job<'j> {
    pub config: &'j Config,
    pub prompts: Prompts,
    /// The runs that these depart from, one per prompt or one for all, with every point that lanes
    /// read; empty for runs that compute everything.
    pub base: Arc<[ActivationCache]>,
    pub cells: Cow<'j, [Cell]>,
    /// The interventions at the embeddings under which the base ran: embeddings are looked up
    /// anew, so that they act again, before the cell's.
    pub inherited: Vec<Intervention>,
    /// Halves of the blocks that are frozen to the base.
    pub frozen: Frozen,
    pub hidden: Hidden,
    pub end: End,
    /// Bytes that are held besides, which count too: what the base keeps.
    pub held: u64,
    /// Bound of the memory, in bytes.
    pub memory_limit: u64,
}

impl<'j> Job<'j> {
    /// The runs themselves, without any change.
    pub fn full(config: &'j Config, prompts: &Prompts, keep: Selection) -> Self {
        Job {
            config,
            prompts: prompts.clone(),
            base: Arc::default(),
            cells: vec![Cell::new()].into(),
            inherited: Vec::new(),
            frozen: Frozen::default(),
            hidden: Hidden::InPlace,
            end: End::Cache(keep),
            held: 0,
            memory_limit: u64::MAX,
        }
    }

    fn base(&self, prompt: usize) -> Option<&ActivationCache> {
        match &self.base[..] {
            [one] => Some(one),
            all => all.get(prompt),
        }
    }

    fn hooks<'h>(&self, cell: &'h [Intervention], prompt: usize) -> LaneHooks<'h> {
        LaneHooks {
            cell,
            prompt,
            prompts: self.prompts.len(),
        }
    }

    fn lane(&self, cell: &[Intervention], prompt: usize, changes: Vec<Change>) -> Lane<'_> {
        let tokens = &self.prompts[prompt].tokens;
        let base = self.base(prompt);
        let fresh = match base {
            Some(base) => differing(tokens, base.tokens()),
            None => (0..tokens.len()).collect(),
        };
        let (outputs, columns) = match &self.end {
            End::Logits(needs) => {
                let needs = &needs[prompt];
                // Even an edit that gives the base's logits undoes what came before.
                let hooks = self.hooks(cell, prompt);
                let edits_logits = hooks.at(HookPoint::Logits).next().is_some();
                let columns = match &needs.tokens {
                    Some(tokens) if !edits_logits => Columns::Tokens(Arc::from(&tokens[..])),
                    _ => Columns::All,
                };
                (needs.positions.clone(), columns)
            }
            End::Cache(_) if self.stop().is_none() => ((0..tokens.len()).collect(), Columns::All),
            End::Cache(_) => (Vec::new(), Columns::All),
        };
        Lane {
            tokens,
            base,
            fresh,
            changes,
            outputs,
            columns,
            narrow: matches!(self.end, End::Logits(_)),
            frozen: self.frozen,
        }
    }

    /// The first layer that nothing kept lies in or after, if the runs stop there.
    fn stop(&self) -> Option<usize> {
        let End::Cache(keep) = &self.end else {
            return None;
        };
        match keep.iter().last() {
            Some(HookPoint::Block(layer, _)) => Some(layer + 1),
            Some(HookPoint::Embed | HookPoint::PosEmbed) | None => Some(0),
            Some(_) => None,
        }
    }

    /// The lane of a cell and prompt; none where the run would have the base's bits.
    fn plan(&self, cell: usize, prompt: usize) -> Result<Option<Planned>> {
        let changes = match self.base(prompt) {
            Some(base) => {
                let hooks = self.hooks(&self.cells[cell], prompt);
                changes(self.config, base, &hooks)?
            }
            None => Vec::new(),
        };
        Ok(self.planned(cell, prompt, changes))
    }

    /// The lane of a cell and prompt that changes its base in these places, if it has to run.
    fn planned(&self, cell: usize, prompt: usize, changes: Vec<Change>) -> Option<Planned> {
        let config = self.config;
        let hooks = self.hooks(&self.cells[cell], prompt);
        let lane = self.lane(&self.cells[cell], prompt, changes);
        if lane.changes.is_empty() && lane.fresh.is_empty() {
            return None;
        }
        let recorded = |at| self.records_attention(at).then(Footprint::default);
        let wanted = |at| hooks.footprint(at).or_else(|| recorded(at));
        let cost = self.price(&lane, &wanted);
        let kept = match &self.end {
            End::Logits(_) if cost.read == 0 => return None,
            End::Logits(_) => 0,
            End::Cache(keep) => kept_bytes(config, keep, lane.tokens.len()),
        };
        Some(Planned {
            cell,
            prompt,
            whole: cost.read == lane.outputs.len(),
            changes: lane.changes,
            cost,
            kept,
        })
    }

    /// What a lane costs, with memory as it may come from earlier runs.
    fn price(&self, lane: &Lane<'_>, wanted: Wanted<'_>) -> Cost {
        let stop = self.stop().unwrap_or(self.config.n_layers);
        let cost = lane.cost_until(self.config, self.hidden, wanted, stop);
        Cost {
            bytes: Thrift::roomy_bytes(cost.bytes, self.memory_limit),
            ..cost
        }
    }

    /// Whether runs keep scores or patterns at a point, which are made whole for it.
    fn records_attention(&self, at: HookPoint) -> bool {
        let attention = matches!(at, HookPoint::Block(_, Site::AttnScores | Site::Pattern));
        attention && matches!(&self.end, End::Cache(keep) if keep.points.contains(&at))
    }

    /// A lane per prompt that leaves the base as it is, and puts the rows that a metric reads
    /// through the unembedding.
    fn readout_lanes(&self) -> Vec<Planned> {
        let plan = |prompt: usize| {
            let mut lane = self.lane(&[], prompt, Vec::new());
            // Nothing changes; naming the place makes the rows go through.
            lane.changes.push(Change {
                point: HookPoint::LnFinalNormalized,
                rows: lane.outputs.clone(),
                heads: Vec::new(),
            });
            Planned {
                cell: 0,
                prompt,
                whole: true,
                cost: self.price(&lane, &|_| None),
                changes: lane.changes,
                kept: 0,
            }
        };
        (0..self.prompts.len()).map(plan).collect()
    }
}

/// Bytes of what is kept of a run of `n` tokens.
pub(crate) fn kept_bytes(config: &Config, keep: &Selection, n: usize) -> u64 {
    let size = |point: HookPoint| -> usize { point.axes().shape(config, n).iter().product() };
    4 * keep.iter().map(size).sum::<usize>() as u64
}

/// The same at most, with bookkeeping and in memory that may have served larger arrays.
pub(crate) fn most_kept_bytes(config: &Config, keep: &Selection, n: usize) -> u64 {
    let bytes = kept_bytes(config, keep, n);
    bytes + bytes / 2 + 2 * entry_bytes(0) * keep.iter().count() as u64
}

/// A lane that has to run.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub cell: usize,
    pub prompt: usize,
    pub changes: Vec<Change>,
    /// Whether it computes every row of logits that is read.
    pub whole: bool,
    pub cost: Cost,
    /// Bytes of what is kept of its run.
    pub kept: u64,
}

/// A job whose lanes are known, and cut into chunks that stay below the memory limit.
#[derive(Debug)]
pub(crate) struct Schedule<'j> {
    pub job: Job<'j>,
    /// Lanes in order of the place where they join.
    pub lanes: Vec<Planned>,
    pub chunks: Vec<Range<usize>>,
    /// Bytes that are held while chunks run, whichever.
    fixed: u64,
    /// An upper bound of the memory taken at any one time, in bytes.
    pub peak: u64,
    /// Bytes held besides while the base's logits are read: the list of lanes, and those logits that
    /// lanes are read together with.
    pub beside_readout: u64,
    /// How many lanes of a chunk may be read at the same time.
    pub readers: usize,
}

impl<'j> Schedule<'j> {
    /// Plans the job's lanes.
    ///
    /// # Errors
    /// [`MemoryLimit`](crate::Error::MemoryLimit) if not even one lane fits the memory limit.
    pub fn new(job: Job<'j>) -> Result<Self> {
        Self::of(job, Job::plan)
    }

    /// The same without the base's activations: every edit is taken to change all that it may.
    ///
    /// # Errors
    /// Same as [`Schedule::new`].
    pub fn assumed(job: Job<'j>) -> Result<Self> {
        Self::of(job, |job, cell, prompt| {
            Ok(job.planned(cell, prompt, job.assumed(cell, prompt)))
        })
    }

    /// `plan` makes the lane of a cell and prompt, if it has to run.
    fn of(
        job: Job<'j>,
        plan: impl Fn(&Job<'j>, usize, usize) -> Result<Option<Planned>> + Sync,
    ) -> Result<Self> {
        let prompts = job.prompts.len();
        let planning = job.planning()?;
        let plan = |(): &mut (), i: usize| plan(&job, i / prompts, i % prompts).transpose();
        let lanes = spread(planning.workers, job.cells.len() * prompts, || (), plan);
        let mut lanes: Vec<Planned> = lanes.into_iter().flatten().collect::<Result<_>>()?;
        lanes.sort_by_key(|lane| lane.changes.iter().map(|c| c.point).min());
        let bounds = job.bounds(&lanes)?;
        let mut schedule = Self::cut(job, lanes, bounds);
        schedule.peak = schedule.peak.max(planning.bytes);
        Ok(schedule)
    }

    /// Plans one lane per prompt that leaves the base as it is, and puts the rows that a metric
    /// reads through the unembedding.
    ///
    /// # Errors
    /// Same as [`Schedule::new`].
    pub fn readout(job: Job<'j>) -> Result<Self> {
        let lanes = job.readout_lanes();
        let bounds = job.readout_bounds(&lanes)?;
        Ok(Self::cut(job, lanes, bounds))
    }

    /// Leaves out all lanes but these, which are some of its own in their order.
    pub fn keep(&mut self, lanes: Vec<Planned>) {
        (self.chunks, _) = chunks(&self.job, &lanes, self.fixed);
        self.lanes = lanes;
    }

    fn cut(job: Job<'j>, lanes: Vec<Planned>, bounds: Bounds) -> Self {
        let (chunks, peak) = chunks(&job, &lanes, bounds.fixed);
        Schedule {
            job,
            lanes,
            chunks,
            fixed: bounds.fixed,
            peak: peak.max(bounds.readout),
            beside_readout: bounds.beside_readout,
            readers: bounds.readers,
        }
    }
}

/// Lanes of one chunk take up to this many bytes, or a single lane more. Larger chunks gain
/// nothing: weights are a small part of what moves, and larger matrices come fresh from the
/// system, page by page, each time.
const CHUNK_BYTES: u64 = 76 << 20;

/// Cuts lanes, each of which fits, into chunks that stay below the limit together with what is held
/// throughout and with what products of their rows pack; also returns the largest chunk's bytes.
fn chunks(job: &Job<'_>, lanes: &[Planned], fixed: u64) -> (Vec<Range<usize>>, u64) {
    let mut chunks = Vec::new();
    let (mut start, mut used, mut kept, mut rows, mut peak) = (0, fixed, 0, 0, 0);
    for (i, lane) in lanes.iter().enumerate() {
        let bytes = lane.cost.bytes;
        let large = (used - fixed) + bytes + kept + lane.kept > CHUNK_BYTES;
        let all = used + bytes + job.packing_bytes(rows + lane.cost.rows);
        if i > start && (large || all > job.memory_limit) {
            chunks.push(start..i);
            (start, used, kept, rows) = (i, fixed, 0, 0);
        }
        used += bytes;
        kept += lane.kept;
        rows += lane.cost.rows;
        peak = peak.max(used + job.packing_bytes(rows));
    }
    if start < lanes.len() {
        chunks.push(start..lanes.len());
    }
    (chunks, peak)
}
