//! The backward pass through attention's inputs, split by head and by reader.
//!
//! In the forward, a head's row that a hook has changed goes through a LayerNorm of its own; every
//! other row shares one, which is also what hooks at its own points act on.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, Axis, Ix3};
use rayon::prelude::*;

use super::reverse::{Reverse, no_base, of_prompt};
use crate::component::Qkv;
use crate::config::Element;
use crate::hook::Site;
use crate::model::rows::Rows;
use crate::ops::{self, Matrix, part, part_mut};

/// What one head reads for one of the three.
struct OwnInput {
    /// `[rows, d_model]`
    x: Array2<f32>,
    /// What LayerNorm divided it by, `[rows, 1]`; of no meaning in a model without.
    scale: Array2<f32>,
    /// The rows at which it is not the residual stream.
    changed: Vec<usize>,
}

impl Reverse<'_> {
    /// The gradients at the inputs of LayerNorm, by reader and head.
    pub(super) fn record_split_inputs(&mut self, layer: usize, qkv: ArrayView2<'_, f32>) {
        let shared = Site::AttnIn.at(layer);
        let all = self.recorder.wants(shared);
        let mut sum: Option<Rows> = None;
        for reader in Qkv::ALL {
            let own = reader.input_site().at(layer);
            if !all && !self.recorder.wants(own) {
                continue;
            }
            let gradient = self.stack(self.reader_input(layer, reader, qkv));
            self.record(own, &gradient);
            if all {
                sum = Some(match sum {
                    None => gradient,
                    Some(sum) => sum.plus(&gradient, no_base),
                });
            }
        }
        if let Some(sum) = sum {
            self.record(shared, &sum);
        }
    }

    /// The gradient at the input of one reader, `[rows, head * d_model]`, heads side by side.
    fn reader_input(&self, layer: usize, reader: Qkv, qkv: ArrayView2<'_, f32>) -> Array2<f32> {
        let config = self.model.config();
        let mut out = ops::matrix((qkv.nrows(), config.n_heads * config.d_model));
        let heads = out.axis_chunks_iter_mut(Axis(1), config.d_model);
        heads
            .into_par_iter()
            .enumerate()
            .for_each(|(head, mut to)| {
                to.assign(&*self.head_input(layer, reader, head, qkv));
            });
        out
    }

    /// One head's part of it, `[rows, d_model]`.
    fn head_input(
        &self,
        layer: usize,
        reader: Qkv,
        head: usize,
        qkv: ArrayView2<'_, f32>,
    ) -> Matrix {
        let (config, block) = (self.model.config(), &self.model.parameters().h[layer]);
        let columns = self.columns(reader, head);
        let weight = part(block.attn.c_attn.weight.view(), 1, columns.clone());
        let mut gradient = Matrix::from(ops::matmul(part(qkv, 1, columns), weight.t()));
        if !config.has(Element::Norm) {
            return gradient;
        }
        if let Some([weight, _]) = block.ln_1.affine() {
            ops::affine_backward(gradient.view_mut(), weight);
        }
        let own = self.own_input(layer, reader, head);
        let (x, scale) = match &own {
            Some(own) => (own.x.view(), own.scale.view()),
            None => {
                let shared =
                    [Site::ResidPre, Site::Ln1Scale].map(|site| self.saved(site.at(layer)));
                (shared[0], shared[1])
            }
        };
        ops::layer_norm_backward(x, scale, config.layer_norm_eps, gradient.view()).into()
    }

    /// A head's columns in queries, keys and values side by side.
    fn columns(&self, reader: Qkv, head: usize) -> Range<usize> {
        let config = self.model.config();
        let first = reader as usize * config.d_heads() + head * config.d_head();
        first..first + config.d_head()
    }

    /// What a head reads for queries, keys or values, where the forward has kept it.
    fn own_input(&self, layer: usize, reader: Qkv, head: usize) -> Option<OwnInput> {
        let at = reader.input_site().at(layer);
        if !self.tape[0].points().any(|point| point == at) {
            return None;
        }
        let stream = self.saved(Site::ResidPre.at(layer));
        let mut x = Array2::zeros(stream.dim());
        for (lane, cache) in self.tape.iter().enumerate() {
            let all = of_prompt(cache, at).into_dimensionality::<Ix3>();
            let all = all.expect("split inputs are [pos, head, d_model]");
            part_mut(x.view_mut(), 0, self.rows.range(lane)).assign(&all.index_axis(Axis(1), head));
        }
        let mut scale = if self.model.config().has(Element::Norm) {
            self.saved(Site::Ln1Scale.at(layer)).to_owned()
        } else {
            Array2::ones((x.nrows(), 1))
        };
        let fresh = ops::layer_norm(x.view(), self.model.config().layer_norm_eps, |_| ()).scale;
        let mut changed = Vec::new();
        for (row, (own, shared)) in x.rows().into_iter().zip(stream.rows()).enumerate() {
            let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if own.iter().zip(shared).any(differs) {
                scale.row_mut(row).assign(&fresh.row(row));
                changed.push(row);
            }
        }
        Some(OwnInput { x, scale, changed })
    }

    /// Where hooks have changed split inputs, queries, keys and values are not made of the
    /// LayerNorm that all share: takes their gradients out of `qkv`, and returns what these add to
    /// the gradient at the block's input.
    pub(super) fn take_changed(&self, layer: usize, qkv: &mut Array2<f32>) -> Option<Array2<f32>> {
        let mut sum: Option<Array2<f32>> = None;
        for reader in Qkv::ALL {
            let inputs = (0..self.model.config().n_heads)
                .filter_map(|head| Some((head, self.own_input(layer, reader, head)?.changed)));
            let changed: Vec<(usize, Vec<usize>)> = inputs.collect();
            if changed.iter().all(|(_, rows)| rows.is_empty()) {
                continue;
            }
            let d_model = self.model.config().d_model;
            let gradient = self.reader_input(layer, reader, qkv.view());
            let sum = sum.get_or_insert_with(|| Array2::zeros((qkv.nrows(), d_model)));
            for (head, rows) in changed {
                let columns = self.columns(reader, head);
                let own = part(gradient.view(), 1, head * d_model..(head + 1) * d_model);
                for row in rows {
                    let mut to = sum.row_mut(row);
                    to += &own.row(row);
                    part_mut(qkv.row_mut(row), 0, columns.clone()).fill(0.0);
                }
            }
        }
        sum
    }
}
