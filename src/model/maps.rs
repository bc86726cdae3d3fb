//! The weights of single heads, cut out of those of their layers.

use ndarray::{Array3, ArrayView2, Axis};
use rayon::prelude::*;

use super::Transformer;
use crate::component::{Head, Qkv};
use crate::error::Result;
use crate::ops::{self, part};

impl Transformer {
    /// `W_Q` of a head, `[d_model, d_head]`: what queries are made with.
    ///
    /// ```
    /// use patchlens::{Config, Head, Transformer};
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// assert_eq!(model.w_q(Head::new(1, 0))?.dim(), (8, 4));
    /// assert!(model.w_q(Head::new(2, 0)).is_err());
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a head that the model lacks.
    pub fn w_q(&self, head: Head) -> Result<ArrayView2<'_, f32>> {
        head.check(&self.config)?;
        Ok(self.input_map(head, Qkv::Q))
    }

    /// `W_K` of a head, `[d_model, d_head]`: what keys are made with.
    ///
    /// # Errors
    /// Same as [`Transformer::w_q`].
    pub fn w_k(&self, head: Head) -> Result<ArrayView2<'_, f32>> {
        head.check(&self.config)?;
        Ok(self.input_map(head, Qkv::K))
    }

    /// `W_V` of a head, `[d_model, d_head]`: what values are made with.
    ///
    /// # Errors
    /// Same as [`Transformer::w_q`].
    pub fn w_v(&self, head: Head) -> Result<ArrayView2<'_, f32>> {
        head.check(&self.config)?;
        Ok(self.input_map(head, Qkv::V))
    }

    /// `W_O` of a head, `[d_head, d_model]`: what it writes into the residual stream with.
    ///
    /// # Errors
    /// Same as [`Transformer::w_q`].
    pub fn w_o(&self, head: Head) -> Result<ArrayView2<'_, f32>> {
        head.check(&self.config)?;
        Ok(self.output_map(head))
    }

    /// `W_Q`, `W_K` or `W_V` of a head that the model has.
    pub(crate) fn input_map(&self, head: Head, of: Qkv) -> ArrayView2<'_, f32> {
        let (d_head, d_heads) = (self.config.d_head(), self.config.d_heads());
        let start = of as usize * d_heads + head.head * d_head;
        let all = self.parameters.h[head.layer].attn.c_attn.weight.view();
        part(all, 1, start..start + d_head)
    }

    /// `W_O` of a head that the model has.
    pub(crate) fn output_map(&self, head: Head) -> ArrayView2<'_, f32> {
        let d_head = self.config.d_head();
        let rows = head.head * d_head..(head.head + 1) * d_head;
        part(
            self.parameters.h[head.layer].attn.c_proj.weight.view(),
            0,
            rows,
        )
    }

    /// Each head's output `z · W_O`, without `b_O`, `[row, head, d_model]`: the values of
    /// [`Site::Result`](crate::Site::Result).
    ///
    /// # Shapes
    /// `z` `[row, head * d_head]`, heads side by side.
    pub(crate) fn head_results(&self, layer: usize, z: ArrayView2<'_, f32>) -> Array3<f32> {
        let d_head = self.config.d_head();
        let (rows, n_heads, d_model) = (z.nrows(), self.config.n_heads, self.config.d_model);
        let results = ops::matrix((rows, n_heads * d_model));
        let results = results.into_shape_with_order((rows, n_heads, d_model));
        let mut results = results.expect("heads lie side by side in a row");
        let heads = results.axis_iter_mut(Axis(1)).into_par_iter();
        heads.enumerate().for_each(|(head, to)| {
            let z = part(z, 1, head * d_head..(head + 1) * d_head);
            ops::matmul_into(z, self.output_map(Head::new(layer, head)), None, to);
        });
        results
    }
}
