//! The planner: cells × prompts to lanes, lanes to chunks.

use ndarray::{ArrayD, ArrayView1, Axis};
use rayon::prelude::*;
use std::ops::Range;

use super::base::{columns, points_read};
use super::hooks::LaneHooks;
use super::{Cell, Plan, Sweep};
use crate::cache::ActivationCache;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint};
use crate::metric::{Metric, Needs};
use crate::model::cost::Cost;
use crate::model::lane::{Change, Columns, Lane};
use crate::model::{RunShape, Visit};
use crate::ops::{self, Thrift};
use crate::prompt::Prompt;

/// A lane that has to run.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub cell: usize,
    pub prompt: usize,
    pub changes: Vec<Change>,
    pub cost: Cost,
}

/// A sweep whose base has run and whose lanes are known.
#[derive(Debug)]
pub struct Prepared<'s> {
    pub(super) sweep: &'s Sweep<'s>,
    pub(super) cells: &'s [Cell],
    pub(super) metric: &'s Metric,
    pub(super) base: Vec<ActivationCache>,
    pub(super) needs: Vec<Needs>,
    /// What the metric reads of the base runs.
    pub(super) readouts: Vec<ndarray::Array2<f32>>,
    /// Lanes in order of the layer where they join.
    pub(super) lanes: Vec<Planned>,
    pub(super) chunks: Vec<std::ops::Range<usize>>,
    pub(super) base_multiply_adds: u64,
    plan: Plan,
}

impl<'s> Prepared<'s> {
    pub(super) fn new(sweep: &'s Sweep<'s>, cells: &'s [Cell], metric: &'s Metric) -> Result<Self> {
        let config = sweep.model.config();
        let shape = RunShape::whole(config, sweep.prompts.iter().map(Prompt::len).collect());
        metric.check(&shape.lengths, config.d_vocab)?;
        let interventions = || cells.iter().flatten();
        interventions().try_for_each(|i| i.check(&shape))?;
        let points = points_read(config, interventions().map(|i| i.target.point));
        let (base, base_macs) = sweep.run_base(&points)?;
        let lengths = shape.lengths.iter().enumerate();
        let needs: Vec<Needs> = lengths.map(|(i, n)| metric.needs(i, *n)).collect();
        let (readouts, read_macs) = sweep.read_base(&base, &needs);
        let mut prepared = Prepared {
            sweep,
            cells,
            metric,
            base,
            needs,
            readouts,
            lanes: Vec::new(),
            chunks: Vec::new(),
            base_multiply_adds: base_macs + read_macs,
            plan: Plan::default(),
        };
        prepared.plan_lanes()?;
        prepared.cut_chunks()?;
        prepared.count();
        Ok(prepared)
    }

    /// What the sweep is going to do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn hooks(&self, cell: usize, prompt: usize) -> LaneHooks<'s> {
        LaneHooks {
            cell: &self.cells[cell],
            prompt,
            prompts: self.sweep.prompts.len(),
        }
    }

    pub(super) fn lane(&self, cell: usize, prompt: usize, changes: Vec<Change>) -> Lane<'_> {
        let needs = &self.needs[prompt];
        // Even an edit that gives the base's logits undoes what came before.
        let edits_logits = self
            .hooks(cell, prompt)
            .at(HookPoint::Logits)
            .next()
            .is_some();
        Lane {
            tokens: &self.sweep.prompts[prompt].tokens,
            base: Some(&self.base[prompt]),
            fresh: Default::default(),
            changes,
            outputs: needs.positions.clone(),
            columns: if edits_logits {
                Columns::All
            } else {
                columns(needs)
            },
            narrow: true,
            frozen: Default::default(),
        }
    }

    fn plan_lanes(&mut self) -> Result<()> {
        let prompts = self.sweep.prompts.len();
        let config = self.sweep.model.config();
        let plan_one = |i: usize| {
            let (cell, prompt) = (i / prompts, i % prompts);
            let hooks = self.hooks(cell, prompt);
            let changes = changes(config, &self.base[prompt], &hooks)?;
            if changes.is_empty() {
                return Ok(None);
            }
            let lane = self.lane(cell, prompt, changes);
            let cost = lane.cost(config, &|at| hooks.footprint(at));
            let changes = lane.changes;
            Ok(cost.read.then_some(Planned {
                cell,
                prompt,
                changes,
                cost,
            }))
        };
        let all = 0..self.cells.len() * prompts;
        let mut lanes: Vec<Planned> = all
            .into_par_iter()
            .filter_map(|i| plan_one(i).transpose())
            .collect::<Result<_>>()?;
        lanes.sort_by_key(|lane| lane.changes.iter().map(|c| c.point).min());
        self.lanes = lanes;
        Ok(())
    }

    fn cut_chunks(&mut self) -> Result<()> {
        let fixed = fixed_bytes(self.sweep, &self.readouts);
        let (chunks, peak) = chunks(&self.lanes, fixed, self.sweep.memory_limit)?;
        self.chunks = chunks;
        self.plan.peak_bytes = self.plan.peak_bytes.max(peak);
        Ok(())
    }

    fn count(&mut self) {
        let config = self.sweep.model.config();
        let full = |prompt: &Prompt| {
            let lane = Lane::full(&prompt.tokens, (0..prompt.len()).collect());
            lane.cost(config, &|_| None).macs
        };
        let naive: u64 = self.sweep.prompts.iter().map(full).sum();
        let prompts = self.sweep.prompts.len();
        self.plan.cells = self.cells.len();
        self.plan.prompts = prompts;
        self.plan.lanes = self.lanes.len();
        self.plan.unchanged = self.cells.len() * prompts - self.lanes.len();
        self.plan.rows = self.lanes.iter().map(|l| l.cost.mlp_rows).sum();
        self.plan.chunks = self.chunks.len();
        self.plan.multiply_adds = self.lanes.iter().map(|l| l.cost.macs).sum();
        self.plan.naive_multiply_adds = naive * self.cells.len() as u64;
    }
}

/// Where the interventions of a lane change bits of its base's activations.
pub(super) fn changes(
    config: &Config,
    base: &ActivationCache,
    hooks: &LaneHooks<'_>,
) -> Result<Vec<Change>> {
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
        .flat_map(|i| i.target.positions.resolve(n))
        .collect();
    positions.sort_unstable();
    positions.dedup();
    let axes = at.axes();
    let all_heads: Vec<usize> = (0..config.n_heads).collect();
    let visit = Visit::new(config, at, hooks.prompt, n, &positions, &all_heads);
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

/// Memory that a chunk takes whatever its lanes: what matrix products pack, on
/// each thread, copies of the unembedding's columns, and what passes leave for each other.
fn fixed_bytes(sweep: &Sweep<'_>, readouts: &[ndarray::Array2<f32>]) -> u64 {
    let config = sweep.model.config();
    let d_vocab = config.d_vocab;
    let few = readouts
        .iter()
        .map(ndarray::Array2::ncols)
        .filter(|n| *n < d_vocab);
    let columns = few.sum::<usize>() * config.d_model;
    let inner = config.d_model.max(config.d_mlp);
    let packing = ops::product_bytes(inner) * rayon::current_num_threads() as u64;
    packing + 8 * columns as u64 + Thrift::kept_bytes(sweep.memory_limit)
}

/// Lanes of one chunk take up to this many bytes, or a single lane more. Larger chunks gain
/// nothing: weights are a small part of what moves, and larger matrices come fresh from the
/// system, page by page, each time.
const CHUNK_BYTES: u64 = 1 << 27;

/// Cuts lanes into chunks that stay below the limit together with what is held throughout; also
/// gives the largest chunk's bytes.
pub(super) fn chunks(
    lanes: &[Planned],
    fixed: u64,
    limit: u64,
) -> Result<(Vec<Range<usize>>, u64)> {
    let largest = lanes.iter().map(|lane| lane.cost.bytes).max().unwrap_or(0);
    if fixed + largest > limit {
        let expected = format!("at least {}", fixed + largest);
        return Err(Error::invalid("memory limit in bytes", limit, expected));
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
