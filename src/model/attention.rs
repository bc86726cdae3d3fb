//! The attention half of a block.

use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayViewMut3, Axis};
use rayon::prelude::*;

use super::heads::{Heads, Sources, row_slice};
use super::hooks::{Hooks, Visit};
use super::pass::{LayerMaps, Pass};
use super::split::SplitInputs;
use super::stack::Stack;
use crate::hook::{HookPoint, Site};
use crate::ops::{self, AttnScratch, part};

impl<'p, 'l, H: Hooks> Pass<'p, 'l, H> {
    /// From the residual stream at a layer's entry to the one after its attention.
    pub(super) fn attention(&mut self, layer: usize, maps: &LayerMaps, pre: Stack) -> Stack {
        let model = self.model;
        let weights = &model.parameters().h[layer].attn;
        let at = |site: Site| site.at(layer);
        let (q, k, v) = self.queries_keys_values(layer, maps, &pre);

        let q = q.into_rows(&maps.dest, self.base(at(Site::Q)));
        let z = self.attend(layer, maps, &q, &k, &v);
        drop((q, k, v));
        let mut z = z.into_rows(&maps.z, self.base(at(Site::Z)));
        self.visit(at(Site::Z), &mut z);

        let mut out = self.linear(&z, &weights.c_proj);
        self.results(layer, &z, &mut out);
        drop(z);
        let mut out = out.into_rows(&maps.attn_out, self.base(at(Site::AttnOut)));
        self.visit(at(Site::AttnOut), &mut out);
        let mid = out.plus(&pre, self.base(at(Site::ResidPre)));
        let mut mid = mid.into_rows(&maps.mid, self.base(at(Site::ResidMid)));
        self.visit(at(Site::ResidMid), &mut mid);
        mid
    }

    fn queries_keys_values(
        &mut self,
        layer: usize,
        maps: &LayerMaps,
        pre: &Stack,
    ) -> (Stack, Stack, Stack) {
        let model = self.model;
        let block = &model.parameters().h[layer];
        let at = |site: Site| site.at(layer);
        let split = SplitInputs::collect(self, layer, pre);
        let entry = pre.with_rows(&maps.kv, self.base(at(Site::ResidPre)));
        let normed = self.norm(
            &entry,
            &block.ln_1,
            at(Site::Ln1Scale),
            at(Site::Ln1Normalized),
        );
        drop(entry);
        let normed_q = normed.with_rows(&maps.q, self.base(at(Site::ResidPre)));

        let d = model.config().d_model;
        let mut project = |reader: usize, site: Site, x: &Stack, live| {
            let columns = reader * d..(reader + 1) * d;
            let weight = part(block.attn.c_attn.weight.view(), 1, columns.clone());
            let bias = part(block.attn.c_attn.bias.view(), 0, columns);
            let data = self.product(x.view(), weight, Some(bias));
            let mut out = Stack::new(&x.rows, data).into_rows(live, self.base(at(site)));
            split.apply(self, reader, &mut out);
            self.visit(at(site), &mut out);
            out
        };
        let q = project(0, Site::Q, &normed_q, &maps.q_live);
        let k = project(1, Site::K, &normed, &maps.k_live);
        let v = project(2, Site::V, &normed, &maps.v_live);
        (q, k, v)
    }

    /// z on the destination rows, `[dest, d_model]`, heads side by side.
    fn attend(&mut self, layer: usize, maps: &LayerMaps, q: &Stack, k: &Stack, v: &Stack) -> Stack {
        let d_head = self.model.config().d_head();
        let heads = Heads {
            layer,
            d_head,
            maps,
            q,
            keys: self.sources(maps, k, Site::K.at(layer)),
            values: self.sources(maps, v, Site::V.at(layer)),
        };
        let mut z = self.base_z(&heads);
        let shown: Vec<bool> = (0..self.lanes.len())
            .map(|lane| self.attention_shown(layer, lane))
            .collect();
        let tasks = heads.tasks(&mut z, |lane| !shown[lane]);
        let scale = self.model.config().attn_scale(layer);
        tasks
            .into_par_iter()
            .for_each_init(AttnScratch::default, |scratch, task| {
                heads.attend(scratch, scale, task);
            });
        for lanes in heads.batches(&shown) {
            self.attend_shown(&heads, &lanes, &mut z);
        }
        self.macs += (0..self.lanes.len())
            .map(|lane| heads.macs(lane))
            .sum::<u64>();
        Stack::new(&maps.dest, z)
    }

    /// Whether a hook or the recorder wants to see a lane's scores or pattern.
    fn attention_shown(&self, layer: usize, lane: usize) -> bool {
        [Site::AttnScores, Site::Pattern]
            .iter()
            .any(|site| self.recorded(site.at(layer)) || self.wanted(site.at(layer), lane))
    }

    fn sources<'a>(&self, maps: &LayerMaps, live: &'a Stack, at: HookPoint) -> Sources<'a>
    where
        'l: 'a,
    {
        let lane_sources = |(i, lane): (usize, &super::lane::Lane<'l>)| -> Vec<&'a [f32]> {
            if maps.dest.range(i).is_empty() {
                return Vec::new();
            }
            let base = lane.base.map(|base| base.planned(at));
            (0..lane.tokens.len())
                .map(|position| match (live.rows.find(i, position), &base) {
                    (Some(row), _) => row_slice(live.data.view(), row),
                    (None, Some(base)) => row_slice(*base, position),
                    (None, None) => unreachable!("a lane without base computes every row"),
                })
                .collect()
        };
        self.lanes.iter().enumerate().map(lane_sources).collect()
    }

    /// Memory for z, holding the base's values for heads that are not computed.
    fn base_z(&self, heads: &Heads<'_>) -> Array2<f32> {
        let config = self.model.config();
        let mut z = ops::matrix((heads.maps.dest.len(), config.d_model));
        let base = self.base(Site::Z.at(heads.layer));
        for (lane, computed) in heads.maps.heads.iter().enumerate() {
            if computed.len() == config.n_heads {
                continue;
            }
            let range = heads.maps.dest.range(lane);
            for (row, position) in range.zip(heads.maps.dest.positions(lane)) {
                z.row_mut(row).assign(&base(lane).row(*position));
            }
        }
        z
    }

    /// The attention of lanes whose scores or pattern are shown, in separate steps.
    fn attend_shown(&mut self, heads: &Heads<'_>, lanes: &[usize], z: &mut Array2<f32>) {
        let scale = self.model.config().attn_scale(heads.layer);
        let mut patterns: Vec<Array3<f32>> = lanes.iter().map(|l| heads.blank(*l)).collect();
        heads.scores(lanes, scale, &mut patterns);
        for (lane, scores) in lanes.iter().zip(&mut patterns) {
            self.visit_attention(Site::AttnScores.at(heads.layer), heads, *lane, scores);
        }
        let mut each: Vec<_> = patterns
            .iter_mut()
            .flat_map(|p| p.outer_iter_mut())
            .collect();
        each.par_iter_mut()
            .for_each(|head| ops::for_rows(head.view_mut(), |_, row| ops::softmax_row(row)));
        for (lane, pattern) in lanes.iter().zip(&mut patterns) {
            self.visit_attention(Site::Pattern.at(heads.layer), heads, *lane, pattern);
        }
        let tasks = heads.tasks(z, |lane| lanes.contains(&lane));
        let patterns: Vec<_> = patterns.iter().flat_map(|p| p.outer_iter()).collect();
        tasks.into_par_iter().zip(patterns).for_each_init(
            AttnScratch::default,
            |scratch, (task, pattern)| {
                scratch.load_values(heads.d_head, pattern.ncols(), |src| {
                    heads.part(&heads.values, &task, src)
                });
                ops::weighted_values(scratch, |r| row_slice(pattern, r), task.z);
            },
        );
    }

    fn visit_attention(
        &mut self,
        at: HookPoint,
        heads: &Heads<'_>,
        lane: usize,
        values: &mut Array3<f32>,
    ) {
        let shown = (&heads.maps.heads[lane][..], heads.maps.dest.positions(lane));
        if self.wanted(at, lane) {
            let length = self.lanes[lane].tokens.len();
            let visit = Visit {
                point: at,
                sequence: lane,
                length,
                positions: shown.1,
                shape: &at.axes().shape(self.model.config(), length),
                heads: shown.0,
            };
            self.hooks.visit(&visit, values.view_mut().into_dyn());
        }
        if let Some(recorder) = self.recorder.as_mut().filter(|r| r.wants(at)) {
            recorder.record_attention(at, lane, &self.lanes[lane], shown, values);
        }
    }

    /// Shows per-head results where they are wanted. A row whose results a hook changes becomes
    /// the sum of its results and b_O; all others stay as they are.
    fn results(&mut self, layer: usize, z: &Stack, out: &mut Stack) {
        let at = Site::Result.at(layer);
        for lane in 0..self.lanes.len() {
            let wanted = self.wanted(at, lane);
            let recorded = self.recorded(at);
            if !(wanted || recorded) || z.rows.range(lane).is_empty() {
                continue;
            }
            let extent = self.hooks.extent(at, lane).positions.filter(|_| !recorded);
            let mut positions = z.rows.positions(lane).to_vec();
            if let Some(extent) = extent {
                positions.retain(|p| extent.binary_search(p).is_ok());
            }
            let rows: Vec<usize> = positions
                .iter()
                .filter_map(|p| z.rows.find(lane, *p))
                .collect();
            let before = self.per_head_results(layer, z, &rows);
            let mut after = before.clone();
            if wanted {
                self.visit_lane(at, lane, &positions, after.view_mut());
            }
            if let Some(recorder) = self.recorder.as_mut().filter(|r| r.wants(at)) {
                recorder.record_rows(at, lane, &self.lanes[lane], &positions, &after);
            }
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
        }
    }

    /// `z · W_O` head by head for some stacked rows, `[row, head, d_model]`.
    fn per_head_results(&mut self, layer: usize, z: &Stack, rows: &[usize]) -> Array3<f32> {
        let model = self.model;
        let config = model.config();
        let d_head = config.d_head();
        let z = z.data.select(Axis(0), rows);
        let mut results = Array3::zeros((rows.len(), config.n_heads, config.d_model));
        for head in 0..config.n_heads {
            let w_o = model.w_o(layer, head);
            let product = self.product(
                part(z.view(), 1, head * d_head..(head + 1) * d_head),
                w_o,
                None,
            );
            results.index_axis_mut(Axis(1), head).assign(&product);
        }
        results
    }

    /// Shows one lane's rows of an activation with a head axis.
    pub(super) fn visit_lane(
        &mut self,
        at: HookPoint,
        lane: usize,
        positions: &[usize],
        values: ArrayViewMut3<'_, f32>,
    ) {
        let heads: Vec<usize> = (0..values.len_of(Axis(1))).collect();
        let length = self.lanes[lane].tokens.len();
        let visit = Visit {
            point: at,
            sequence: lane,
            length,
            positions,
            shape: &at.axes().shape(self.model.config(), length),
            heads: &heads,
        };
        self.hooks.visit(&visit, values.into_dyn());
    }
}
