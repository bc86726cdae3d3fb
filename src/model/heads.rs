//! The attention heads of a layer that are computed, and what they read.

use std::borrow::Cow;

use ndarray::{Array2, Array3, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::lane::Positions;
use super::rows::{Layout, Rows};
use crate::config::AttentionDirection;
use crate::ops::{self, AttnScratch};

/// Rows of the keys or values that one lane's attention reads, by source position: computed ones
/// and the base's. Each is `[d_model]`, heads side by side.
pub(super) type Sources<'a> = Vec<Vec<&'a [f32]>>;

/// Elements of scores that are held at once, beyond one lane's.
const SHOWN_AT_ONCE: usize = 1 << 20;

/// Queries, keys and values of a layer, and whose attention is computed from them.
pub(super) struct Heads<'a> {
    pub layer: usize,
    pub d_head: usize,
    pub direction: AttentionDirection,
    /// Destination rows whose attention is computed.
    pub dest: &'a Layout,
    /// The heads that are computed, by lane.
    pub computed: &'a [Positions],
    pub q: &'a Rows,
    pub keys: Sources<'a>,
    pub values: Sources<'a>,
}

/// One head of one lane: its part of z, `[dest, d_head]`.
pub(super) struct Task<'z> {
    pub lane: usize,
    pub head: usize,
    pub z: ArrayViewMut2<'z, f32>,
}

/// Rows of one head of one lane that had nothing to attend to, by their index among its rows.
pub(super) struct Blocked {
    pub lane: usize,
    pub head: usize,
    pub rows: Vec<usize>,
}

impl<'a> Heads<'a> {
    /// The disjoint parts of z, one per computed head, of the lanes picked.
    pub fn tasks<'z>(&self, z: &'z mut Array2<f32>, pick: impl Fn(usize) -> bool) -> Vec<Task<'z>> {
        let mut tasks = Vec::new();
        let mut rest = z.view_mut();
        for (lane, heads) in self.computed.iter().enumerate() {
            let rows = self.dest.range(lane).len();
            let (mut block, below) = rest.split_at(Axis(0), rows);
            rest = below;
            if rows == 0 || !pick(lane) {
                continue;
            }
            let mut column = 0;
            for &head in heads.iter() {
                let (_, right) = block.split_at(Axis(1), head * self.d_head - column);
                let (z, right) = right.split_at(Axis(1), self.d_head);
                block = right;
                column = (head + 1) * self.d_head;
                tasks.push(Task { lane, head, z });
            }
        }
        tasks
    }

    /// The last source that each destination row of a lane reads.
    pub fn last_sources(&self, lane: usize) -> Cow<'_, [usize]> {
        let n = self.keys[lane].len();
        self.direction.last_sources(self.dest.positions(lane), n)
    }

    /// One head's part of a source row.
    pub fn part(&self, sources: &Sources<'a>, task: &Task<'_>, src: usize) -> &'a [f32] {
        &sources[task.lane][src][task.head * self.d_head..][..self.d_head]
    }

    fn query(&self, lane: usize, head: usize, r: usize) -> &'a [f32] {
        let row = self.dest.range(lane).start + r;
        &row_slice(self.q.data.view(), row)[head * self.d_head..][..self.d_head]
    }

    /// Attention of one head; returns the rows that had nothing to attend to.
    pub fn attend(&self, scratch: &mut AttnScratch, scale: f32, task: Task<'_>) -> Blocked {
        let last = self.last_sources(task.lane);
        let n = last.last().map_or(0, |last| last + 1);
        scratch.load_keys(self.d_head, n, |src| self.part(&self.keys, &task, src));
        scratch.load_values(self.d_head, n, |src| self.part(&self.values, &task, src));
        let Task { lane, head, z } = task;
        let rows = ops::attend(scratch, |r| self.query(lane, head, r), &last, scale, z);
        Blocked { lane, head, rows }
    }

    /// The lanes whose attention is shown, in batches of bounded memory.
    pub fn batches(&self, shown: &[bool]) -> Vec<Vec<usize>> {
        let mut batches = Vec::new();
        let (mut batch, mut size) = (Vec::new(), 0);
        let computed = |lane: &usize| shown[*lane] && !self.dest.range(*lane).is_empty();
        for lane in (0..shown.len()).filter(computed) {
            size += self.blank_len(lane);
            batch.push(lane);
            if size >= SHOWN_AT_ONCE {
                batches.push(std::mem::take(&mut batch));
                size = 0;
            }
        }
        batches.push(batch);
        batches
    }

    /// Memory for scores of a lane's computed heads, `[head, dest, src]`: to be overwritten in whole.
    pub fn blank(&self, lane: usize) -> Array3<f32> {
        let (heads, dest) = (self.computed[lane].len(), self.dest.range(lane).len());
        let src = self.keys[lane].len();
        let rows = ops::matrix((heads * dest, src));
        let shaped = rows.into_shape_with_order((heads, dest, src));
        shaped.expect("a row per head and destination")
    }

    fn blank_len(&self, lane: usize) -> usize {
        self.computed[lane].len() * self.dest.range(lane).len() * self.keys[lane].len()
    }

    /// Scores of the computed heads of some lanes, `[head, dest, src]` each.
    pub fn scores(&self, lanes: &[usize], scale: f32) -> Vec<Array3<f32>> {
        let mut out: Vec<_> = lanes.iter().map(|lane| self.blank(*lane)).collect();
        let of_lane = |(lane, out): (&usize, _)| {
            let out: &mut Array3<f32> = out;
            let heads = self.computed[*lane].iter();
            let lane = *lane;
            out.outer_iter_mut()
                .zip(heads)
                .map(move |(out, head)| (lane, *head, out))
                .collect::<Vec<_>>()
        };
        let tasks: Vec<_> = lanes.iter().zip(&mut out).flat_map(of_lane).collect();
        tasks
            .into_par_iter()
            .for_each_init(AttnScratch::default, |scratch, (lane, head, out)| {
                let last = self.last_sources(lane);
                let columns = head * self.d_head..(head + 1) * self.d_head;
                let n = out.ncols();
                scratch.load_keys(self.d_head, n, |src| &self.keys[lane][src][columns.clone()]);
                ops::scores(scratch, |r| self.query(lane, head, r), &last, scale, out);
            });
        out
    }

    /// Multiply-adds of a lane: scores and weighted values of the sources that are read.
    pub fn macs(&self, lane: usize) -> u64 {
        attention_macs(&self.computed[lane], &self.last_sources(lane), self.d_head)
    }
}

/// Multiply-adds of the scores and weighted values of some heads, whose rows read the sources up to
/// these.
pub(crate) fn attention_macs(heads: &[usize], last_sources: &[usize], d_head: usize) -> u64 {
    let visible: usize = last_sources.iter().map(|last| last + 1).sum();
    (2 * heads.len() * visible * d_head) as u64
}

/// A row of a row-major matrix.
pub(super) fn row_slice(data: ArrayView2<'_, f32>, row: usize) -> &[f32] {
    data.index_axis_move(Axis(0), row)
        .to_slice()
        .expect("stacks and caches are row-major")
}
