//! The backward pass through attention's inputs, split by head and by reader.
//!
//! In the forward, a head's row that a hook has changed goes through a LayerNorm of its own; every
//! other row shares one, which is also what hooks at its own points act on.

use std::ops::Range;

use ndarray::{Array2, Array3, ArrayView2, Axis, Ix3};

use super::reverse::{Reverse, of_prompt};
use crate::component::Qkv;
use crate::config::Element;
use crate::hook::Site;
use crate::ops::{self, part, part_mut};

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
        let mut sum: Option<Array3<f32>> = None;
        for reader in Qkv::ALL {
            let site = reader.input_site();
            let own = self.recorder.wants(site.at(layer));
            if !all && !own {
                continue;
            }
            let gradient = self.reader_input(layer, reader, qkv);
            if own {
                self.record_lanes(site, layer, &gradient);
            }
            match &mut sum {
                None => sum = Some(gradient),
                Some(sum) => *sum += &gradient,
            }
        }
        if let Some(sum) = sum.filter(|_| all) {
            self.record_lanes(Site::AttnIn, layer, &sum);
        }
    }

    /// The gradient at the input of one reader, `[rows, head, d_model]`.
    fn reader_input(&self, layer: usize, reader: Qkv, qkv: ArrayView2<'_, f32>) -> Array3<f32> {
        let config = self.model.config();
        let block = &self.model.parameters().h[layer];
        let eps = config.layer_norm_eps;
        let normed = config.has(Element::Norm);
        let mut out = Array3::zeros((qkv.nrows(), config.n_heads, config.d_model));
        for (head, mut out) in out.axis_iter_mut(Axis(1)).enumerate() {
            let columns = self.columns(reader, head);
            let weight = part(block.attn.c_attn.weight.view(), 1, columns.clone());
            let mut gradient = ops::matmul(part(qkv, 1, columns), weight.t());
            if let Some([weight, _]) = block.ln_1.affine() {
                ops::affine_backward(gradient.view_mut(), weight);
            }
            let back = match self.own_input(layer, reader, head) {
                _ if !normed => gradient,
                Some(own) => {
                    ops::layer_norm_backward(own.x.view(), own.scale.view(), eps, gradient.view())
                }
                None => {
                    let x = self.saved(Site::ResidPre.at(layer));
                    let scale = self.saved(Site::Ln1Scale.at(layer));
                    ops::layer_norm_backward(x, scale, eps, gradient.view())
                }
            };
            out.assign(&back);
        }
        out
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
            let gradient = self.reader_input(layer, reader, qkv.view());
            let sum = sum
                .get_or_insert_with(|| Array2::zeros((qkv.nrows(), self.model.config().d_model)));
            for (head, rows) in changed {
                let columns = self.columns(reader, head);
                for row in rows {
                    let own = gradient.index_axis(Axis(0), row);
                    let mut to = sum.row_mut(row);
                    to += &own.row(head);
                    part_mut(qkv.row_mut(row), 0, columns.clone()).fill(0.0);
                }
            }
        }
        sum
    }

    fn record_lanes(&mut self, site: Site, layer: usize, gradient: &Array3<f32>) {
        for lane in 0..self.lanes.len() {
            let rows = part(gradient.view(), 0, self.rows.range(lane)).to_owned();
            let of = &self.lanes[lane];
            self.recorder
                .record_rows(site.at(layer), lane, of, &of.fresh, &rows);
        }
    }
}
