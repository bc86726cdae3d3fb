//! The backward pass through the attention half of a block.

use std::ops::Range;

use ndarray::{Array2, Array3, ArrayView2, Axis, Ix3};
use rayon::prelude::*;

use super::reverse::{Reverse, no_base, of_prompt};
use crate::hook::{HookPoint, Site};
use crate::model::recorder::AttentionPart;
use crate::model::rows::Rows;
use crate::model::stage::Kind;
use crate::ops::{self, HeadGradients, HeadViews, part, part_mut};

impl Reverse<'_> {
    /// From the residual between attention and MLP to a block's input.
    pub(super) fn attention(&mut self, layer: usize, mid: Rows) -> Option<Rows> {
        let model = self.model;
        let block = &model.parameters().h[layer];
        let at = |site: Site| site.at(layer);
        self.record(at(Site::AttnOut), &mid);
        self.record_results(layer, &mid);
        self.on_to(at(Site::Z))?;
        if self.wants_parameters() {
            let z = self.saved(at(Site::Z));
            self.linear_weights(z, mid.view(), |p| &mut p.h[layer].attn.c_proj);
        }
        let out = self.through(at(Site::AttnOut), &mid);
        let z = self.stack(ops::matmul(out.view(), block.attn.c_proj.weight.t()));
        drop(out);
        self.record(at(Site::Z), &z);
        self.on_to(at(Site::Pattern))?;

        let mut qkv = self.heads(layer, &z);
        drop(z);
        self.record_queries_keys_values(layer, &qkv);
        let points = [Site::ResidPre, Site::Ln1Scale, Site::Ln1Normalized].map(at);
        if self.wants_parameters() {
            let x = self.normed(points, &block.ln_1);
            self.linear_weights(x.view(), qkv.view(), |p| &mut p.h[layer].attn.c_attn);
        }
        self.positions_backward(layer, qkv.view());
        self.record_split_inputs(layer, qkv.view());
        let aside = self.take_changed(layer, &mut qkv);
        let gradient = ops::matmul(qkv.view(), block.attn.c_attn.weight.t());
        drop(qkv);
        let mut gradient = self.norm(points, &block.ln_1, gradient, |p| &mut p.h[layer].ln_1);
        if let Some(aside) = aside {
            gradient += &aside;
        }
        Some(mid.plus(&self.stack(gradient), no_base))
    }

    /// What queries and keys add to the gradient at the position embeddings that they are made of,
    /// and these to the gradient of their weights.
    fn positions_backward(&mut self, layer: usize, qkv: ArrayView2<'_, f32>) {
        let model = self.model;
        if !Kind::of(model.config()).reads_positions() {
            return;
        }
        let readers = 0..2 * model.config().d_heads();
        let gradient = part(qkv, 1, readers.clone());
        let weight = model.parameters().h[layer].attn.c_attn.weight.view();
        let back = ops::matmul(gradient, part(weight, 1, readers.clone()).t());
        match &mut self.positions {
            Some(sum) => *sum += &back,
            none => *none = Some(back),
        }
        if self.wants_parameters() {
            let positions = self.saved(HookPoint::PosEmbed);
            let product = ops::matmul(positions.t(), gradient);
            self.add_to_weights(|p| {
                let all = p.h[layer].attn.c_attn.weight.view_mut();
                let mut some = part_mut(all, 1, readers);
                some += &product;
            });
        }
    }

    /// Each head's result has the gradient of their sum.
    fn record_results(&mut self, layer: usize, out: &Rows) {
        let at = Site::Result.at(layer);
        if !self.recorder.wants(at) {
            return;
        }
        let n_heads = self.model.config().n_heads;
        for lane in 0..self.lanes.len() {
            let rows = out.lane(lane);
            let mut each = Array3::zeros((rows.nrows(), n_heads, rows.ncols()));
            each.assign(&rows.insert_axis(Axis(1)));
            let of = &self.lanes[lane];
            self.recorder.record_rows(at, lane, of, &of.fresh, each);
        }
    }

    /// The gradients at queries, keys and values side by side, `[rows, 3 * head * d_head]`.
    fn heads(&mut self, layer: usize, z: &Rows) -> Array2<f32> {
        let config = self.model.config();
        let (n_heads, d_head, d_heads) = (config.n_heads, config.d_head(), config.d_heads());
        let tasks: Vec<(usize, usize)> = (0..self.lanes.len())
            .flat_map(|lane| (0..n_heads).map(move |head| (lane, head)))
            .collect();
        let shown = [Site::AttnScores, Site::Pattern].map(|s| self.recorder.wants(s.at(layer)));
        let run = |(lane, head): (usize, usize)| {
            let mut gradients = self.head(layer, lane, head, z);
            if shown == [false; 2] {
                gradients.pattern = Array2::zeros((0, 0));
                gradients.scores = Array2::zeros((0, 0));
            }
            gradients
        };
        let gradients: Vec<HeadGradients> = tasks.par_iter().copied().map(run).collect();
        let mut qkv = Array2::zeros((self.rows.len(), 3 * d_heads));
        for ((lane, head), g) in tasks.iter().zip(&gradients) {
            let mut rows = part_mut(qkv.view_mut(), 0, self.rows.range(*lane));
            for (reader, values) in [&g.q, &g.k, &g.v].into_iter().enumerate() {
                let first = reader * d_heads + head * d_head;
                part_mut(rows.view_mut(), 1, first..first + d_head).assign(values);
            }
        }
        for (lane, heads) in gradients.chunks(n_heads).enumerate() {
            self.record_attention(layer, lane, heads);
        }
        qkv
    }

    fn head(&self, layer: usize, lane: usize, head: usize, z: &Rows) -> HeadGradients {
        let config = self.model.config();
        let at = |site: Site| site.at(layer);
        let columns = head * config.d_head()..(head + 1) * config.d_head();
        let own = |site: Site| self.own(self.saved(at(site)), lane, columns.clone());
        let square = |site: Site| {
            let all = of_prompt(&self.tape[lane], at(site));
            let all = all.into_dimensionality::<Ix3>();
            let all = all.expect("attention is [head, dest, src]");
            all.index_axis_move(Axis(0), head)
        };
        let pattern = square(Site::Pattern);
        let scores_kept = self.tape[lane].points().any(|p| p == at(Site::AttnScores));
        let softmax = scores_kept.then(|| {
            let mut scores = square(Site::AttnScores).to_owned();
            ops::for_rows(scores.view_mut(), |_, row| {
                ops::attention_softmax_row(row);
            });
            scores
        });
        let views = HeadViews {
            q: own(Site::Q),
            k: own(Site::K),
            v: own(Site::V),
            pattern,
            softmax: softmax.as_ref().map_or(pattern, |s| s.view()),
        };
        let z = self.own(z.view(), lane, columns.clone());
        ops::attend_backward(&views, config.attn_scale(layer), z)
    }

    /// One head's columns of one prompt's rows.
    fn own<'v>(
        &self,
        rows: ArrayView2<'v, f32>,
        lane: usize,
        columns: Range<usize>,
    ) -> ArrayView2<'v, f32> {
        part(part(rows, 0, self.rows.range(lane)), 1, columns)
    }

    fn record_attention(&mut self, layer: usize, lane: usize, heads: &[HeadGradients]) {
        let (pattern, scores) = (Site::Pattern.at(layer), Site::AttnScores.at(layer));
        self.record_squares(pattern, lane, heads.iter().map(|head| &head.pattern));
        self.record_squares(scores, lane, heads.iter().map(|head| &head.scores));
    }

    fn record_squares<'h>(
        &mut self,
        at: HookPoint,
        lane: usize,
        heads: impl ExactSizeIterator<Item = &'h Array2<f32>>,
    ) {
        if !self.recorder.wants(at) {
            return;
        }
        let n = self.lanes[lane].tokens.len();
        let mut values = Array3::zeros((heads.len(), n, n));
        for (mut to, head) in values.outer_iter_mut().zip(heads) {
            to.assign(head);
        }
        let of = &self.lanes[lane];
        self.recorder
            .record_attention(at, lane, of, AttentionPart::default(), values);
    }

    fn record_queries_keys_values(&mut self, layer: usize, qkv: &Array2<f32>) {
        let d_heads = self.model.config().d_heads();
        for (reader, site) in [Site::Q, Site::K, Site::V].into_iter().enumerate() {
            if self.recorder.wants(site.at(layer)) {
                let columns = reader * d_heads..(reader + 1) * d_heads;
                let own = self.stack(part(qkv.view(), 1, columns).to_owned());
                self.record(site.at(layer), &own);
            }
        }
    }
}
