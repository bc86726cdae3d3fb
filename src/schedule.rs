//! The planner: cells × prompts to lanes, lanes to chunks. Runs that end in a number and runs
//! that end in a cache differ in [`End`] alone.

mod hooks;
mod reads;
mod run;

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use ndarray::{ArrayD, ArrayView1, Axis};
use rayon::prelude::*;

use hooks::LaneHooks;
pub(crate) use reads::{reads, token_reads};
pub(crate) use run::Chunk;

use crate::cache::{ActivationCache, Selection};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint};
use crate::intervention::Intervention;
use crate::metric::Needs;
use crate::model::cost::Cost;
use crate::model::hooks::Sequence;
use crate::model::lane::{Change, Columns, Lane};
use crate::model::stage::Frozen;
use crate::model::{Transformer, Visit};
use crate::ops::{self, Thrift};
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
    pub model: &'j Transformer,
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
    pub end: End,
    /// Bound of the memory that a pass takes, in bytes.
    pub memory_limit: u64,
}

impl<'j> Job<'j> {
    /// The runs themselves, without any change.
    pub fn full(model: &'j Transformer, prompts: &Prompts, keep: Selection) -> Self {
        Job {
            model,
            prompts: prompts.clone(),
            base: Arc::default(),
            cells: vec![Cell::new()].into(),
            inherited: Vec::new(),
            frozen: Frozen::default(),
            end: End::Cache(keep),
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

    fn lane(&self, cell: usize, prompt: usize, changes: Vec<Change>) -> Lane<'_> {
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
                let hooks = self.hooks(&self.cells[cell], prompt);
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
        let config = self.model.config();
        let hooks = self.hooks(&self.cells[cell], prompt);
        let changes = match self.base(prompt) {
            Some(base) => changes(config, base, &hooks)?,
            None => Vec::new(),
        };
        let lane = self.lane(cell, prompt, changes);
        if lane.changes.is_empty() && lane.fresh.is_empty() {
            return Ok(None);
        }
        let mut cost = lane.cost(config, &|at| hooks.footprint(at));
        match &self.end {
            End::Logits(_) if !cost.read => return Ok(None),
            End::Logits(_) => {}
            End::Cache(keep) => cost.bytes += kept_bytes(config, keep, lane.tokens.len()),
        }
        Ok(Some(Planned {
            cell,
            prompt,
            changes: lane.changes,
            cost,
        }))
    }

    /// Memory that a chunk takes whatever its lanes: what matrix products pack, on each thread,
    /// copies of the unembedding's columns, and what passes leave for each other.
    fn fixed_bytes(&self) -> u64 {
        let config = self.model.config();
        let columns = match &self.end {
            End::Logits(needs) => needs
                .iter()
                .filter_map(|n| n.tokens.as_ref().map(Vec::len))
                .sum(),
            End::Cache(_) => 0,
        };
        let inner = config.d_model.max(config.d_mlp);
        let packing = ops::product_bytes(inner) * rayon::current_num_threads() as u64;
        packing + 8 * (columns * config.d_model) as u64 + Thrift::kept_bytes(self.memory_limit)
    }
}

/// Positions at which tokens differ.
fn differing(tokens: &[u32], base: &[u32]) -> Arc<[usize]> {
    let pairs = tokens.iter().zip(base).enumerate();
    let differs = |(position, (a, b)): (usize, (&u32, &u32))| (a != b).then_some(position);
    pairs.filter_map(differs).collect()
}

/// Bytes of what is kept of a run of `n` tokens.
pub(crate) fn kept_bytes(config: &Config, keep: &Selection, n: usize) -> u64 {
    let size = |point: HookPoint| -> usize { point.axes().shape(config, n).iter().product() };
    4 * keep.iter().map(size).sum::<usize>() as u64
}

/// A lane that has to run.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub cell: usize,
    pub prompt: usize,
    pub changes: Vec<Change>,
    pub cost: Cost,
}

/// A job whose lanes are known, and cut into chunks that stay below the memory limit.
#[derive(Debug)]
pub(crate) struct Schedule<'j> {
    pub job: Job<'j>,
    /// Lanes in order of the place where they join.
    pub lanes: Vec<Planned>,
    pub chunks: Vec<Range<usize>>,
    /// The largest chunk's bytes.
    pub peak: u64,
}

impl<'j> Schedule<'j> {
    /// Plans the job's lanes.
    ///
    /// # Errors
    /// [`Error::MemoryLimit`] if not even one lane fits the memory limit.
    pub fn new(job: Job<'j>) -> Result<Self> {
        let prompts = job.prompts.len();
        let mut lanes: Vec<Planned> = (0..job.cells.len() * prompts)
            .into_par_iter()
            .filter_map(|i| job.plan(i / prompts, i % prompts).transpose())
            .collect::<Result<_>>()?;
        lanes.sort_by_key(|lane| lane.changes.iter().map(|c| c.point).min());
        Self::cut(job, lanes)
    }

    /// Plans one lane per prompt that leaves the base as it is, and puts the rows that a metric
    /// reads through the unembedding.
    ///
    /// # Errors
    /// Same as [`Schedule::new`].
    pub fn readout(job: Job<'j>) -> Result<Self> {
        let plan = |prompt: usize| {
            let mut lane = job.lane(0, prompt, Vec::new());
            // Nothing changes; naming the place makes the rows go through.
            lane.changes.push(Change {
                point: HookPoint::LnFinalNormalized,
                rows: lane.outputs.clone(),
                heads: Vec::new(),
            });
            Planned {
                cell: 0,
                prompt,
                cost: lane.cost(job.model.config(), &|_| None),
                changes: lane.changes,
            }
        };
        let lanes = (0..job.prompts.len()).map(plan).collect();
        Self::cut(job, lanes)
    }

    fn cut(job: Job<'j>, lanes: Vec<Planned>) -> Result<Self> {
        let (chunks, peak) = chunks(&lanes, job.fixed_bytes(), job.memory_limit)?;
        Ok(Schedule {
            job,
            lanes,
            chunks,
            peak,
        })
    }
}

/// Where the interventions of a lane change bits of its base's activations.
fn changes(config: &Config, base: &ActivationCache, hooks: &LaneHooks<'_>) -> Result<Vec<Change>> {
    let mut points: Vec<HookPoint> = hooks.cell.iter().map(|i| i.target.point).collect();
    points.sort_unstable();
    points.dedup();
    let changes = points
        .into_iter()
        .map(|at| change(config, base, hooks, at).transpose());
    changes.flatten().collect()
}

fn change(
    config: &Config,
    base: &ActivationCache,
    hooks: &LaneHooks<'_>,
    at: HookPoint,
) -> Result<Option<Change>> {
    let n = base.tokens().len();
    let mut positions: Vec<usize> = hooks
        .at(at)
        .flat_map(|i| i.target.positions.resolve(hooks.prompt, n))
        .collect();
    positions.sort_unstable();
    positions.dedup();
    let axes = at.axes();
    let heads: Vec<usize> = (0..config.n_heads).collect();
    let of = Sequence {
        index: hooks.prompt,
        length: n,
    };
    let visit = Visit::new(config, at, of, &positions, &heads);
    // The points were kept for this purpose.
    let whole = base.get(at)?;
    let before: ArrayD<f32> = whole.select(Axis(axes.pos_axis()), &positions);
    let mut after = before.clone();
    hooks.apply(&visit, after.view_mut());
    let (rows, heads) = differences(axes, &before, &after);
    Ok((!rows.is_empty()).then(|| Change {
        point: at,
        rows: rows.into_iter().map(|r| positions[r]).collect(),
        heads,
    }))
}

/// Rows and heads (empty without a head axis) at which two activations differ in any bit.
fn differences(axes: Axes, before: &ArrayD<f32>, after: &ArrayD<f32>) -> (Vec<usize>, Vec<usize>) {
    let mut rows = std::collections::BTreeSet::new();
    let mut heads = std::collections::BTreeSet::new();
    // The last axis is neither positions nor heads.
    let second = if axes.has_heads() {
        before.shape()[1]
    } else {
        1
    };
    for (i, (a, b)) in before.rows().into_iter().zip(after.rows()).enumerate() {
        if !same_bits(a, b) {
            let index = [i / second, i % second];
            rows.insert(index[axes.pos_axis()]);
            if axes.has_heads() {
                heads.insert(index[1 - axes.pos_axis()]);
            }
        }
    }
    (rows.into_iter().collect(), heads.into_iter().collect())
}

fn same_bits(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> bool {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
    match (a.as_slice(), b.as_slice()) {
        (Some(a), Some(b)) => a.iter().zip(b).all(same),
        _ => a.iter().zip(&b).all(same),
    }
}

/// Lanes of one chunk take up to this many bytes, or a single lane more. Larger chunks gain
/// nothing: weights are a small part of what moves, and larger matrices come fresh from the
/// system, page by page, each time.
const CHUNK_BYTES: u64 = 1 << 27;

/// Cuts lanes into chunks that stay below the limit together with what is held throughout; also
/// gives the largest chunk's bytes.
fn chunks(lanes: &[Planned], fixed: u64, limit: u64) -> Result<(Vec<Range<usize>>, u64)> {
    let largest = lanes.iter().map(|lane| lane.cost.bytes).max().unwrap_or(0);
    if fixed + largest > limit {
        let least = fixed + largest;
        return Err(Error::MemoryLimit { limit, least });
    }
    let most = limit.min(fixed.saturating_add(CHUNK_BYTES));
    let mut chunks = Vec::new();
    let (mut start, mut used, mut peak) = (0, fixed, 0);
    for (i, lane) in lanes.iter().enumerate() {
        let bytes = lane.cost.bytes;
        if i > start && used + bytes > most {
            chunks.push(start..i);
            (start, used) = (i, fixed);
        }
        used += bytes;
        peak = peak.max(used);
    }
    if start < lanes.len() {
        chunks.push(start..lanes.len());
    }
    Ok((chunks, peak))
}
