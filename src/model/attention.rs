//! The attention half of a block, between queries and output.

use std::sync::Arc;

use ndarray::{Array2, Array3, Axis};
use rayon::prelude::*;

use super::heads::{Heads, Sources, row_slice};
use super::hooks::Hooks;
use super::lane::Lane;
use super::pass::Pass;
use super::rows::Rows;
use super::split::SplitInputs;
use super::stage::Stage;
use crate::component::Qkv;
use crate::hook::{HookPoint, Site};
use crate::ops::{self, AttnScratch, part};
use crate::parameters::Linear;

impl<'p, 'l, H: Hooks> Pass<'p, 'l, H> {
    /// Queries, keys or values, whose parts with an input of their own are recomputed.
    pub(super) fn project(&mut self, which: Qkv, x: &Rows, split: &SplitInputs) -> Rows {
        let model = self.model;
        let weights = &model.parameters().h[self.layer].attn.c_attn;
        let d = model.config().d_model;
        let columns = which as usize * d..(which as usize + 1) * d;
        let weight = part(weights.weight.view(), 1, columns.clone());
        let bias = part(weights.bias.view(), 0, columns);
        let product = self.product(x.view(), weight, Some(bias));
        let product = Rows::new(&x.layout, product);
        let mut out = self.read(Stage::shown_at(which.site()), product);
        split.apply(self, which, &mut out);
        self.show(which.site().at(self.layer), out)
    }

    /// The heads' weighted values at the destination rows, heads side by side.
    pub(super) fn attend(&mut self, q: Rows, k: &Rows, v: &Rows) -> Rows {
        let layout = Arc::clone(&self.layout);
        let at = |site: Site| site.at(self.layer);
        let q = q.completed(&layout[Stage::Pattern], self.base(at(Site::Q)));
        let heads = Heads {
            d_head: self.model.config().d_head(),
            layout: &layout,
            q: &q,
            keys: self.sources(k, at(Site::K)),
            values: self.sources(v, at(Site::V)),
        };
        let mut z = self.base_z(&heads);
        let shown: Vec<bool> = (0..self.lanes.len())
            .map(|lane| self.attention_shown(lane))
            .collect();
        let tasks = heads.tasks(&mut z, |lane| !shown[lane]);
        let scale = self.model.config().attn_scale(self.layer);
        tasks
            .into_par_iter()
            .for_each_init(AttnScratch::default, |scratch, task| {
                heads.attend(scratch, scale, task);
            });
        for lanes in heads.batches(&shown) {
            self.attend_shown(&heads, &lanes, &mut z);
        }
        self.count((0..self.lanes.len()).map(|lane| heads.macs(lane)).sum());
        Rows::new(&layout[Stage::Pattern], z)
    }

    /// Whether a hook or the recorder wants to see a lane's scores or pattern.
    fn attention_shown(&self, lane: usize) -> bool {
        [Site::AttnScores, Site::Pattern]
            .iter()
            .map(|site| site.at(self.layer))
            .any(|at| self.recorded(at) || self.wanted(at, lane))
    }

    /// What each lane's attention reads at a point: its own rows and the base's.
    fn sources<'a>(&self, own: &'a Rows, at: HookPoint) -> Sources<'a>
    where
        'l: 'a,
    {
        let of_lane = |(i, lane): (usize, &Lane<'l>)| -> Vec<&'a [f32]> {
            if self.layout[Stage::Pattern].range(i).is_empty() {
                return Vec::new();
            }
            let base = lane.base.map(|base| base.planned(at));
            let row = |position| match own.layout.find(i, position) {
                Some(row) => row_slice(own.data.view(), row),
                None => {
                    let base = base.expect("a lane without base computes every row");
                    row_slice(base, position)
                }
            };
            (0..lane.tokens.len()).map(row).collect()
        };
        self.lanes.iter().enumerate().map(of_lane).collect()
    }

    /// Memory for z, holding the base's values for heads that are not computed.
    fn base_z(&self, heads: &Heads<'_>) -> Array2<f32> {
        let config = self.model.config();
        let dest = &heads.layout[Stage::Pattern];
        let mut z = ops::matrix((dest.len(), config.d_model));
        let base = self.base(Site::Z.at(self.layer));
        for (lane, computed) in heads.layout.heads.iter().enumerate() {
            if computed.len() == config.n_heads {
                continue;
            }
            for (row, position) in dest.range(lane).zip(dest.positions(lane)) {
                z.row_mut(row).assign(&base(lane).row(*position));
            }
        }
        z
    }

    /// The attention of lanes whose scores or pattern are shown, in separate steps.
    fn attend_shown(&mut self, heads: &Heads<'_>, lanes: &[usize], z: &mut Array2<f32>) {
        let layer = self.layer;
        let scale = self.model.config().attn_scale(layer);
        let mut patterns: Vec<Array3<f32>> = lanes.iter().map(|l| heads.blank(*l)).collect();
        heads.scores(lanes, scale, &mut patterns);
        for (lane, scores) in lanes.iter().zip(&mut patterns) {
            self.show_attention(Site::AttnScores.at(layer), heads, *lane, scores);
        }
        let mut each: Vec<_> = patterns
            .iter_mut()
            .flat_map(|p| p.outer_iter_mut())
            .collect();
        each.par_iter_mut()
            .for_each(|head| ops::for_rows(head.view_mut(), |_, row| ops::softmax_row(row)));
        for (lane, pattern) in lanes.iter().zip(&mut patterns) {
            self.show_attention(Site::Pattern.at(layer), heads, *lane, pattern);
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

    fn show_attention(
        &mut self,
        at: HookPoint,
        heads: &Heads<'_>,
        lane: usize,
        values: &mut Array3<f32>,
    ) {
        let dest = heads.layout[Stage::Pattern].positions(lane);
        self.show_lane(at, lane, dest, &heads.layout.heads[lane], values);
    }

    /// `z · W_O + b_O`, and each head's result where it is wanted. A row whose results a hook
    /// changes becomes the sum of its results and b_O; all others stay as they are.
    pub(super) fn write(&mut self, z: Rows, w_o: &Linear) -> Rows {
        let mut out = self.linear(z.clone(), w_o);
        let at = Site::Result.at(self.layer);
        for lane in 0..self.lanes.len() {
            let wanted = self.wanted(at, lane) || self.recorded(at);
            if wanted && !z.layout.range(lane).is_empty() {
                self.write_by_head(at, lane, &z, &mut out);
            }
        }
        out
    }

    fn write_by_head(&mut self, at: HookPoint, lane: usize, z: &Rows, out: &mut Rows) {
        let mut positions = z.layout.positions(lane).to_vec();
        if !self.recorded(at)
            && let Some(some) = self.hooks.footprint(at, lane).positions
        {
            positions.retain(|p| some.binary_search(p).is_ok());
        }
        let rows: Vec<usize> = positions
            .iter()
            .filter_map(|p| z.layout.find(lane, *p))
            .collect();
        let before = self.results(z, &rows);
        let mut after = before.clone();
        let heads = self.all_heads();
        self.show_lane(at, lane, &positions, &heads, &mut after);
        let bias = &self.model.parameters().h[self.layer].attn.c_proj.bias;
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

    /// `z · W_O` head by head for some rows, `[row, head, d_model]`.
    fn results(&self, z: &Rows, rows: &[usize]) -> Array3<f32> {
        let config = self.model.config();
        let d_head = config.d_head();
        let z = z.data.select(Axis(0), rows);
        let mut results = Array3::zeros((rows.len(), config.n_heads, config.d_model));
        for head in 0..config.n_heads {
            let z = part(z.view(), 1, head * d_head..(head + 1) * d_head);
            let product = self.product(z, self.model.w_o(self.layer, head), None);
            results.index_axis_mut(Axis(1), head).assign(&product);
        }
        results
    }
}
