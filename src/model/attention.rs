//! The attention half of a block.

use std::sync::Arc;

use ndarray::{Array2, Array3, Axis};
use rayon::prelude::*;

use super::blocked::BlockedRow;
use super::heads::{Blocked, Heads, Sources, row_slice};
use super::hooks::Hooks;
use super::pass::Pass;
use super::recorder::AttentionPart;
use super::rows::{Layout, Rows};
use super::split::SplitInputs;
use super::stage::Stage;
use crate::component::Qkv;
use crate::hook::{HookPoint, Site};
use crate::ops::{self, AttnScratch, part};
use crate::parameters::{Attention, Linear};

impl<'l, H: Hooks> Pass<'_, 'l, H> {
    /// Queries, keys and values of all heads, side by side: a third of `c_attn` each. Those of the
    /// same rows are one product.
    pub(super) fn project(&mut self, attn: &Attention, normed: Rows) -> [Rows; 3] {
        let placed = self.placed(&normed);
        let of_queries = placed.subset(self.here.of(Stage::Ln1OfQueries));
        let inputs = [of_queries, placed, normed];
        let d = self.model.config().d_heads();
        let mut out = Vec::with_capacity(inputs.len());
        for alike in inputs.chunk_by(|a, b| Arc::ptr_eq(&a.data, &b.data)) {
            let columns = out.len() * d..(out.len() + alike.len()) * d;
            let weight = part(attn.c_attn.weight.view(), 1, columns.clone());
            let bias = part(attn.c_attn.bias.view(), 0, columns);
            let x = &alike[0];
            self.macs += (x.data.nrows() * weight.len()) as u64;
            let parts = ops::linear_parts(x.view(), weight, bias, alike.len());
            out.extend(parts.into_iter().map(|data| Rows::new(&x.layout, data)));
        }
        out.try_into()
            .expect("one each for queries, keys and values")
    }

    /// Queries, keys or values as attention reads them: all rows, and with what hooks made of the
    /// split inputs.
    pub(super) fn read(&mut self, reader: Qkv, own: Rows, split: &SplitInputs) -> Rows {
        let stage = match reader {
            Qkv::Q => Stage::Q,
            Qkv::K => Stage::K,
            Qkv::V => Stage::V,
        };
        let mut out = self.complete(stage, own);
        split.apply(self, reader, &mut out);
        out
    }

    /// z on the destination rows, `[dest, head * d_head]`, heads side by side.
    pub(super) fn attend(&mut self, q: Rows, k: Rows, v: Rows) -> Rows {
        let here = std::mem::take(&mut self.here);
        let layer = here.layer;
        let dest = here.of(Stage::Pattern);
        let q = q.completed(dest, self.base(Site::Q.at(layer)));
        let heads = Heads {
            layer,
            d_head: self.model.config().d_head(),
            direction: self.kind.attention,
            dest,
            computed: &here.heads,
            q: &q,
            keys: self.sources(dest, &k, Site::K.at(layer)),
            values: self.sources(dest, &v, Site::V.at(layer)),
        };
        let mut z = self.base_z(&heads);
        let shown: Vec<bool> = (0..self.lanes.len())
            .map(|lane| self.attention_shown(layer, lane))
            .collect();
        let tasks = heads.tasks(&mut z, |lane| !shown[lane]);
        let scale = self.model.config().attn_scale(layer);
        let blocked: Vec<Blocked> = tasks
            .into_par_iter()
            .map_init(AttnScratch::default, |scratch, task| {
                heads.attend(scratch, scale, task)
            })
            .filter(|blocked| !blocked.rows.is_empty())
            .collect();
        self.note_blocked(&heads, &blocked);
        for lanes in heads.batches(&shown) {
            self.attend_shown(&heads, &lanes, &mut z);
        }
        self.macs += (0..self.lanes.len())
            .map(|lane| heads.macs(lane))
            .sum::<u64>();
        let z = Rows::new(dest, z);
        drop(heads);
        self.here = here;
        z
    }

    /// Whether a hook or the recorder wants to see a lane's scores or pattern.
    fn attention_shown(&self, layer: usize, lane: usize) -> bool {
        [Site::AttnScores, Site::Pattern]
            .iter()
            .any(|site| self.recorded(site.at(layer)) || self.wanted(site.at(layer), lane))
    }

    fn sources<'a>(&self, dest: &Layout, live: &'a Rows, at: HookPoint) -> Sources<'a>
    where
        'l: 'a,
    {
        let lane_sources = |(i, lane): (usize, &super::lane::Lane<'l>)| -> Vec<&'a [f32]> {
            if dest.range(i).is_empty() {
                return Vec::new();
            }
            let base = lane.base.map(|base| base.planned(at));
            (0..lane.tokens.len())
                .map(|position| match live.layout.find(i, position) {
                    Some(row) => row_slice(live.data.view(), row),
                    None => row_slice(base.expect("a lane without base has every row"), position),
                })
                .collect()
        };
        self.lanes.iter().enumerate().map(lane_sources).collect()
    }

    /// Memory for z, holding the base's values for heads that are not computed.
    fn base_z(&self, heads: &Heads<'_>) -> Array2<f32> {
        let config = self.model.config();
        let mut z = ops::matrix((heads.dest.len(), config.d_heads()));
        let base = self.base(Site::Z.at(heads.layer));
        for (lane, computed) in heads.computed.iter().enumerate() {
            if computed.len() == config.n_heads {
                continue;
            }
            let range = heads.dest.range(lane);
            for (row, position) in range.zip(heads.dest.positions(lane)) {
                z.row_mut(row).assign(&base(lane).row(*position));
            }
        }
        z
    }

    /// The attention of lanes whose scores or pattern are shown, in separate steps. What is recorded
    /// is written once: the recorder takes it as it is.
    fn attend_shown(&mut self, heads: &Heads<'_>, lanes: &[usize], z: &mut Array2<f32>) {
        let scale = self.model.config().attn_scale(heads.layer);
        let [scores_at, pattern_at] = [Site::AttnScores, Site::Pattern].map(|s| s.at(heads.layer));
        let mut scores = heads.scores(lanes, scale);
        for (lane, scores) in lanes.iter().zip(&mut scores) {
            self.visit_attention(scores_at, heads, *lane, scores);
        }
        let mut patterns: Vec<Array3<f32>>;
        let blocked;
        if self.recorded(scores_at) {
            patterns = lanes.iter().map(|lane| heads.blank(*lane)).collect();
            blocked = softmax_of(heads, lanes, Some(&scores), &mut patterns);
            for (lane, scores) in lanes.iter().zip(scores) {
                self.record_attention(scores_at, heads, *lane, scores);
            }
        } else {
            patterns = scores;
            blocked = softmax_of(heads, lanes, None, &mut patterns);
        }
        self.note_blocked(heads, &blocked);
        for (lane, pattern) in lanes.iter().zip(&mut patterns) {
            self.visit_attention(pattern_at, heads, *lane, pattern);
        }
        let tasks = heads.tasks(z, |lane| lanes.contains(&lane));
        let of_heads: Vec<_> = patterns.iter().flat_map(|p| p.outer_iter()).collect();
        tasks.into_par_iter().zip(of_heads).for_each_init(
            AttnScratch::default,
            |scratch, (task, pattern)| {
                scratch.load_values(heads.d_head, pattern.ncols(), |src| {
                    heads.part(&heads.values, &task, src)
                });
                let last = heads.last_sources(task.lane);
                ops::weighted_values(scratch, |r| row_slice(pattern, r), &last, task.z);
            },
        );
        for (lane, pattern) in lanes.iter().zip(patterns) {
            self.record_attention(pattern_at, heads, *lane, pattern);
        }
    }

    fn note_blocked(&mut self, heads: &Heads<'_>, blocked: &[Blocked]) {
        for Blocked { lane, head, rows } in blocked {
            let of_lane = self.blocked.entry(*lane).or_default();
            for row in rows {
                of_lane.note(BlockedRow {
                    prompt: *lane,
                    layer: heads.layer,
                    head: *head,
                    dest: heads.dest.positions(*lane)[*row],
                });
            }
        }
    }

    /// Shows scores or a pattern, `[head, dest, src]`, to hooks.
    fn visit_attention(
        &mut self,
        at: HookPoint,
        heads: &Heads<'_>,
        lane: usize,
        values: &mut Array3<f32>,
    ) {
        if self.wanted(at, lane) {
            let (computed, dest) = (&heads.computed[lane], heads.dest.positions(lane));
            self.show(at, lane, dest, computed, values.view_mut().into_dyn());
        }
    }

    /// Keeps scores or a pattern, `[head, dest, src]`, where they are wanted.
    fn record_attention(
        &mut self,
        at: HookPoint,
        heads: &Heads<'_>,
        lane: usize,
        values: Array3<f32>,
    ) {
        if let Some(recorder) = self.recorder.as_mut().filter(|r| r.wants(at)) {
            let part = AttentionPart {
                heads: &heads.computed[lane],
                dest: heads.dest.positions(lane),
            };
            recorder.record_attention(at, lane, &self.lanes[lane], part, values);
        }
    }

    /// What the heads write to the residual stream, [`Rows`] of the attention's output.
    pub(super) fn write_heads(&mut self, c_proj: &Linear, z: Rows) -> Rows {
        let mut out = self.linear(z.clone(), c_proj);
        self.results(&z, &mut out);
        out
    }

    /// Shows per-head results where they are wanted. A row whose results a hook changes becomes
    /// the sum of its results and b_O; all others stay as they are.
    fn results(&mut self, z: &Rows, out: &mut Rows) {
        let layer = self.here.layer;
        let at = Site::Result.at(layer);
        for lane in 0..self.lanes.len() {
            let wanted = self.wanted(at, lane);
            let recorded = self.recorded(at);
            if !(wanted || recorded) || z.layout.range(lane).is_empty() {
                continue;
            }
            let footprint = self
                .hooks
                .footprint(at, lane)
                .positions
                .filter(|_| !recorded);
            let mut positions = z.layout.positions(lane).to_vec();
            if let Some(footprint) = footprint {
                positions.retain(|p| footprint.binary_search(p).is_ok());
            }
            let rows: Vec<usize> = positions
                .iter()
                .filter_map(|p| z.layout.find(lane, *p))
                .collect();
            let before = self.per_head_results(layer, z, &rows);
            if !wanted {
                self.record_results(at, lane, &positions, before);
                continue;
            }
            let mut after = before.clone();
            let heads = Arc::clone(&self.heads);
            self.show(at, lane, &positions, &heads, after.view_mut().into_dyn());
            let bias = &self.model.parameters().h[layer].attn.c_proj.bias;
            let data = Arc::make_mut(&mut out.data);
            for (i, row) in rows.into_iter().enumerate() {
                let (old, new) = (before.index_axis(Axis(0), i), after.index_axis(Axis(0), i));
                if old.iter().zip(new).any(|(a, b)| a.to_bits() != b.to_bits()) {
                    let mut sum = new.sum_axis(Axis(0));
                    sum += bias;
                    data.row_mut(row).assign(&sum);
                }
            }
            self.record_results(at, lane, &positions, after);
        }
    }

    fn record_results(
        &mut self,
        at: HookPoint,
        lane: usize,
        positions: &[usize],
        results: Array3<f32>,
    ) {
        if let Some(recorder) = self.recorder.as_mut().filter(|r| r.wants(at)) {
            recorder.record_rows(at, lane, &self.lanes[lane], positions, results);
        }
    }

    /// `z · W_O` head by head for some stacked rows, `[row, head, d_model]`; counted.
    fn per_head_results(&mut self, layer: usize, z: &Rows, rows: &[usize]) -> Array3<f32> {
        let z = z.data.select(Axis(0), rows);
        self.macs += (z.nrows() * z.ncols() * self.model.config().d_model) as u64;
        self.model.head_results(layer, z.view())
    }
}

/// Turns scores of lanes' computed heads, `[head, dest, src]` each, into patterns: those that are
/// there, or copies of some that stay. Returns the rows that had nothing to attend to.
fn softmax_of(
    heads: &Heads<'_>,
    lanes: &[usize],
    from: Option<&[Array3<f32>]>,
    patterns: &mut [Array3<f32>],
) -> Vec<Blocked> {
    let of_lane = |(i, patterns): (usize, _)| {
        let (lane, patterns): (usize, &mut Array3<f32>) = (lanes[i], patterns);
        let computed = heads.computed[lane].iter();
        let each = patterns.outer_iter_mut().zip(computed).enumerate();
        each.map(move |(h, (rows, head))| {
            let scores = from.map(|from| from[i].index_axis(Axis(0), h));
            (lane, *head, scores, rows)
        })
        .collect::<Vec<_>>()
    };
    let each: Vec<_> = patterns.iter_mut().enumerate().flat_map(of_lane).collect();
    each.into_par_iter()
        .map(|(lane, head, scores, mut rows)| {
            let rows = rows.rows_mut().into_iter().enumerate();
            let blocked = rows.filter_map(|(i, row)| {
                let row = row.into_slice().expect("patterns are row-major");
                if let Some(scores) = scores {
                    row.copy_from_slice(row_slice(scores, i));
                }
                ops::attention_softmax_row(row).then_some(i)
            });
            let rows = blocked.collect();
            Blocked { lane, head, rows }
        })
        .filter(|blocked| !blocked.rows.is_empty())
        .collect()
}
