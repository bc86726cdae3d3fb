//! The weights of a model, field names equal to the checkpoint's. The same struct holds
//! gradients and an optimizer's moments.

mod random;

use ndarray::{Array1, Array2, ArrayView2, ArrayViewD, ArrayViewMutD};

use crate::config::Config;

/// The one table of tensor names, for shared and for mutable access.
macro_rules! tensors {
    ($parameters:expr, $view:ident, $iter:ident) => {{
        let p = $parameters;
        let mut list = vec![
            ("wte.weight".to_string(), p.wte.$view().into_dyn()),
            ("wpe.weight".to_string(), p.wpe.$view().into_dyn()),
        ];
        for (i, block) in p.h.$iter().enumerate() {
            list.push((
                format!("h.{i}.ln_1.weight"),
                block.ln_1.weight.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.ln_1.bias"),
                block.ln_1.bias.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.attn.c_attn.weight"),
                block.attn.c_attn.weight.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.attn.c_attn.bias"),
                block.attn.c_attn.bias.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.attn.c_proj.weight"),
                block.attn.c_proj.weight.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.attn.c_proj.bias"),
                block.attn.c_proj.bias.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.ln_2.weight"),
                block.ln_2.weight.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.ln_2.bias"),
                block.ln_2.bias.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.mlp.c_fc.weight"),
                block.mlp.c_fc.weight.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.mlp.c_fc.bias"),
                block.mlp.c_fc.bias.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.mlp.c_proj.weight"),
                block.mlp.c_proj.weight.$view().into_dyn(),
            ));
            list.push((
                format!("h.{i}.mlp.c_proj.bias"),
                block.mlp.c_proj.bias.$view().into_dyn(),
            ));
        }
        list.push(("ln_f.weight".to_string(), p.ln_f.weight.$view().into_dyn()));
        list.push(("ln_f.bias".to_string(), p.ln_f.bias.$view().into_dyn()));
        list.extend(
            p.lm_head
                .$iter()
                .map(|t| ("lm_head.weight".to_string(), t.$view().into_dyn())),
        );
        list.extend(
            p.lm_head_bias
                .$iter()
                .map(|t| ("lm_head.bias".to_string(), t.$view().into_dyn())),
        );
        list
    }};
}

/// An affine map `x · weight + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `[in, out]` (Conv1D layout, as GPT-2 stores it).
    pub weight: Array2<f32>,
    /// `[out]`
    pub bias: Array1<f32>,
}

/// Weight and bias of a LayerNorm, `[d_model]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerNorm {
    /// Factor per dimension.
    pub weight: Array1<f32>,
    /// Offset per dimension.
    pub bias: Array1<f32>,
}

/// The attention weights of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Queries, keys and values side by side: weight `[d_model, 3 * d_model]`, within each third
    /// head by head.
    pub c_attn: Linear,
    /// The output map, weight `[d_model, d_model]`: rows are head by head.
    pub c_proj: Linear,
}

/// The MLP of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// `[d_model, d_mlp]`
    pub c_fc: Linear,
    /// `[d_mlp, d_model]`
    pub c_proj: Linear,
}

/// One transformer block.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// LayerNorm before attention.
    pub ln_1: LayerNorm,
    /// Attention.
    pub attn: Attention,
    /// LayerNorm before the MLP.
    pub ln_2: LayerNorm,
    /// MLP.
    pub mlp: Mlp,
}

/// All weights of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Token embedding `[d_vocab, d_model]`.
    pub wte: Array2<f32>,
    /// Position embedding `[n_ctx, d_model]`.
    pub wpe: Array2<f32>,
    /// The blocks.
    pub h: Vec<Block>,
    /// The final LayerNorm.
    pub ln_f: LayerNorm,
    /// The unembedding `[d_vocab, d_model]` where it is not tied to `wte`.
    pub lm_head: Option<Array2<f32>>,
    /// The unembedding's bias `[d_vocab]`; GPT-2 has none, weight processing may make one.
    pub lm_head_bias: Option<Array1<f32>>,
}

impl Parameters {
    /// All zeros, in the shapes that the config asks for.
    pub fn zeros(config: &Config) -> Self {
        let d = config.d_model;
        let linear = |rows, columns| Linear {
            weight: Array2::zeros((rows, columns)),
            bias: Array1::zeros(columns),
        };
        let norm = || LayerNorm {
            weight: Array1::zeros(d),
            bias: Array1::zeros(d),
        };
        let block = |_| Block {
            ln_1: norm(),
            attn: Attention {
                c_attn: linear(d, 3 * d),
                c_proj: linear(d, d),
            },
            ln_2: norm(),
            mlp: Mlp {
                c_fc: linear(d, config.d_mlp),
                c_proj: linear(config.d_mlp, d),
            },
        };
        Parameters {
            wte: Array2::zeros((config.d_vocab, d)),
            wpe: Array2::zeros((config.n_ctx, d)),
            h: (0..config.n_layers).map(block).collect(),
            ln_f: norm(),
            lm_head: (!config.tie_word_embeddings).then(|| Array2::zeros((config.d_vocab, d))),
            lm_head_bias: None,
        }
    }

    /// All zeros, in the shapes of `self` (an optional `lm_head_bias` included).
    pub fn zeros_like(&self) -> Self {
        let mut zeros = self.clone();
        for (_, mut tensor) in zeros.tensors_mut() {
            tensor.fill(0.0);
        }
        zeros
    }

    /// The unembedding as `[d_model, d_vocab]`, tied or own.
    pub fn w_u(&self) -> ArrayView2<'_, f32> {
        self.lm_head.as_ref().unwrap_or(&self.wte).t()
    }

    /// Number of scalars.
    pub fn count(&self) -> usize {
        self.tensors().iter().map(|(_, tensor)| tensor.len()).sum()
    }

    /// Every tensor with its checkpoint name (without the `transformer.` prefix), in order of
    /// the forward pass.
    pub fn tensors(&self) -> Vec<(String, ArrayViewD<'_, f32>)> {
        tensors!(self, view, iter)
    }

    /// As [`Parameters::tensors`], to be written to.
    pub fn tensors_mut(&mut self) -> Vec<(String, ArrayViewMutD<'_, f32>)> {
        tensors!(self, view_mut, iter_mut)
    }
}
