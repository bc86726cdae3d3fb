//! Parameters: what are the weights, and in which layout?
//!
//! ```text
//! y = x · weight + bias    weight [in, out], as GPT-2 stores it
//! ```
//!
//! Field names equal the checkpoint's (Radford et al. 2019, the released code). The same struct
//! holds gradients and an optimizer's moments.
//!
//! ```
//! use patchlens::prelude::*;
//! let model = Transformer::mini();
//! let parameters = model.parameters();
//! println!("{} numbers", parameters.count());
//! println!("{:?}", parameters.h[0].attn.c_attn.weight.dim()); // [d_model, 3 · d_model]: q, k, v
//! let heads_w_q = model.w_q(patchlens::Head::new(0, 1))?; // [d_model, d_head]
//! # let _ = heads_w_q;
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** One weight, with nothing folded into it: LayerNorm's own weights stand
//! in `ln_1`, `ln_2` and `ln_f`, and TransformerLens's processing is a choice
//! ([`processing`](crate::processing)).
//!
//! **What it does not mean.** A weight's size says little by itself; what a head does whatever the
//! prompt is shown by products of them ([`weights`](crate::weights)).

mod random;
mod table;

use ndarray::{
    Array, Array1, Array2, ArrayD, ArrayView1, ArrayView2, ArrayViewD, Axis, CowArray, Dimension,
    Ix1, Ix2,
};
use rayon::prelude::*;

pub(crate) use table::{Role, Tensor};

use crate::config::{Config, Norm};
use crate::error::{Error, Result};
use crate::ops;

/// An affine map `x · weight + bias`.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// `[in, out]` (Conv1D layout, as GPT-2 stores it).
    pub weight: Array2<f32>,
    /// `[out]`
    pub bias: Array1<f32>,
}

/// Weight and bias of a LayerNorm, `[d_model]` each; empty where a model's LayerNorms have none.
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
    /// head by head (`3 * n_heads * d_head` columns, whatever the width of a head).
    pub c_attn: Linear,
    /// The output map, weight `[d_model, d_model]` (`n_heads * d_head` rows): rows are head by head.
    pub c_proj: Linear,
}

/// The MLP of a block.
#[derive(Clone, Debug, PartialEq)]
pub struct Mlp {
    /// `[d_model, d_mlp]`
    pub c_fc: Linear,
    /// The LayerNorm after the activation function, `[d_mlp]`; empty where there is none.
    pub ln: LayerNorm,
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

/// All weights of a model. What a model of its kind lacks, such as the MLPs of an attention-only
/// one, is an empty array, which is not among its [`Parameters::tensors`].
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
    ///
    /// # Errors
    /// Same as [`Config::check`], and where the system has not as much memory.
    pub fn zeros(config: &Config) -> Result<Self> {
        config.check()?;
        config.check_memory(config.n_layers * size_of::<Block>())?;
        // Struct fields are evaluated in the order in which they are written, the table's.
        let shapes = &mut Tensor::fields(config);
        Ok(Parameters {
            wte: zeros(shapes),
            wpe: zeros(shapes),
            h: (0..config.n_layers).map(|_| Block::zeros(shapes)).collect(),
            ln_f: LayerNorm::zeros(shapes),
            lm_head: (!config.tie_word_embeddings).then(|| zeros(shapes)),
            lm_head_bias: None,
        })
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

    /// The unembedding of some tokens, or of all, `[d_model, token]`, and its bias, `[token]`.
    pub(crate) fn unembedding(
        &self,
        tokens: Option<&[u32]>,
    ) -> (CowArray<'_, f32, Ix2>, Option<CowArray<'_, f32, Ix1>>) {
        let (w_u, bias) = (self.w_u(), self.lm_head_bias.as_ref());
        let Some(tokens) = tokens else {
            return (w_u.into(), bias.map(|bias| bias.view().into()));
        };
        let tokens: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
        // Rows of the tied matrix are contiguous; columns of its transpose are not.
        let some = w_u.t().select(Axis(0), &tokens).reversed_axes();
        (
            some.into(),
            bias.map(|bias| bias.select(Axis(0), &tokens).into()),
        )
    }

    /// Number of scalars.
    pub fn count(&self) -> usize {
        self.tensors().iter().map(|(_, tensor)| tensor.len()).sum()
    }

    /// Checks that these are the parameters of such a model, tensor by tensor.
    ///
    /// # Errors
    /// [`Error::Config`] as in [`Config::check`]; [`Error::Shape`] for the first tensor that is
    /// missing (a shape of `[]`), too many, or of another shape than the config asks for;
    /// [`Error::Invalid`] for a value that is not finite.
    pub fn check(&self, config: &Config) -> Result<()> {
        config.check()?;
        let wrong = |at: &str, found: &[usize], expected: String| Error::Shape {
            at: format!("parameter `{at}`"),
            found: found.to_vec(),
            expected,
        };
        let tensors = self.tensors();
        let mut actual = tensors.iter();
        for Tensor { name, shape, .. } in Tensor::required(config) {
            let expected = format!("{shape:?}");
            match actual.next() {
                Some((found, tensor)) if *found == name => {
                    if tensor.shape() != shape {
                        return Err(wrong(&name, tensor.shape(), expected));
                    }
                }
                Some((found, tensor)) if !Tensor::required(config).any(|t| t.name == *found) => {
                    let expected = "no such parameter".to_string();
                    return Err(wrong(found, tensor.shape(), expected));
                }
                _ => return Err(wrong(&name, &[], expected)),
            }
        }
        for (name, tensor) in actual {
            if name != "lm_head.bias" {
                let expected = "no such parameter".to_string();
                return Err(wrong(name, tensor.shape(), expected));
            }
            if tensor.shape() != [config.d_logits()] {
                return Err(wrong(
                    name,
                    tensor.shape(),
                    format!("[{}]", config.d_logits()),
                ));
            }
        }
        let first = tensors.par_iter().find_map_first(not_finite);
        first.map_or(Ok(()), Err)
    }
}

/// The error of a tensor that is not finite.
fn not_finite((name, tensor): &(String, ArrayViewD<'_, f32>)) -> Option<Error> {
    let finite = |values: &[f32]| values.iter().all(|v| v.is_finite());
    // Much faster than an iterator with places, which few need.
    if tensor.as_slice_memory_order().is_some_and(finite) {
        return None;
    }
    let (at, value) = tensor
        .indexed_iter()
        .find(|(_, value)| !value.is_finite())?;
    let found = format!("{value} at {:?}", at.slice());
    Some(Error::invalid(
        format!("parameter `{name}`"),
        found,
        "finite numbers",
    ))
}

/// Zeros in the next of the shapes.
fn zeros<D: Dimension>(shapes: &mut impl Iterator<Item = Vec<usize>>) -> Array<f32, D> {
    let shape = shapes.next().expect("the table has a row for each field");
    let zeros = ArrayD::zeros(shape).into_dimensionality();
    zeros.expect("the table gives each field's shape as many axes as the field has")
}

impl LayerNorm {
    /// Weight and bias, where there are any.
    pub(crate) fn affine(&self) -> Option<[ArrayView1<'_, f32>; 2]> {
        let has = !self.weight.is_empty();
        has.then(|| [self.weight.view(), self.bias.view()])
    }

    /// What it makes of rows `[row, d_model]`, in a model of this config.
    pub(crate) fn apply(&self, config: &Config, x: Array2<f32>) -> Array2<f32> {
        let eps = config.layer_norm_eps;
        match config.norm {
            Norm::None => x,
            Norm::LayerPre => ops::layer_norm(x.view(), eps, |_| ()).normalized,
            Norm::Layer => {
                ops::layer_norm_affine(x.view(), self.weight.view(), self.bias.view(), eps)
            }
        }
    }

    fn zeros(shapes: &mut impl Iterator<Item = Vec<usize>>) -> Self {
        LayerNorm {
            weight: zeros(shapes),
            bias: zeros(shapes),
        }
    }
}

impl Linear {
    fn zeros(shapes: &mut impl Iterator<Item = Vec<usize>>) -> Self {
        Linear {
            weight: zeros(shapes),
            bias: zeros(shapes),
        }
    }
}

impl Block {
    fn zeros(shapes: &mut impl Iterator<Item = Vec<usize>>) -> Self {
        Block {
            ln_1: LayerNorm::zeros(shapes),
            attn: Attention {
                c_attn: Linear::zeros(shapes),
                c_proj: Linear::zeros(shapes),
            },
            ln_2: LayerNorm::zeros(shapes),
            mlp: Mlp {
                c_fc: Linear::zeros(shapes),
                ln: LayerNorm::zeros(shapes),
                c_proj: Linear::zeros(shapes),
            },
        }
    }
}
