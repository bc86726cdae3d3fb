//! Circuits read off the weights: OV, QK, their full forms through the embeddings, composition of
//! heads (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits").
//!
//! The weights are used as they are: LayerNorm's weights count only where they were folded into
//! the model before.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2};

use crate::component::{Head, Qkv};
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::model::Transformer;
use crate::ops::{largest, matmul};
use crate::report::{About, Axis, Labelled};
use crate::weights::factored::{FactoredMatrix, copying_score, eigenvalues};

/// What a full QK circuit compares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Embedding {
    /// Token embeddings, `[d_vocab, d_model]`.
    #[default]
    Tokens,
    /// Position embeddings, `[n_ctx, d_model]`.
    Positions,
}

/// The weight circuits of a model's heads, as factored matrices of rank `d_head`.
///
/// ```
/// use patchlens::{Config, Head, Transformer};
/// use patchlens::weights::{Circuits, Embedding};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, n_ctx: 6,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let circuits = Circuits::new(&model);
/// let full = circuits.full_ov(Head::new(1, 0))?;
/// assert_eq!(full.dim(), (11, 11));
/// assert_eq!(full.eigenvalues()?.len(), 4); // d_head
/// let positional = circuits.full_qk(Head::new(1, 0), Embedding::Positions, Embedding::Positions)?;
/// assert_eq!(positional.dim(), (6, 6));
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Circuits<'m> {
    pub(crate) model: &'m Transformer,
}

impl<'m> Circuits<'m> {
    /// The circuits of this model.
    pub fn new(model: &'m Transformer) -> Self {
        Circuits { model }
    }

    fn w(&self, head: Head, input: Qkv) -> Result<ArrayView2<'m, f32>> {
        head.check(self.model.config())?;
        Ok(self.model.input_map(head, input))
    }

    fn embedding(&self, of: Embedding) -> Result<ArrayView2<'m, f32>> {
        match of {
            Embedding::Tokens => Ok(self.tokens()),
            Embedding::Positions => {
                HookPoint::PosEmbed.check(self.model.config())?;
                Ok(self.model.parameters().wpe.view())
            }
        }
    }

    fn tokens(&self) -> ArrayView2<'m, f32> {
        self.model.parameters().wte.view()
    }

    /// `W_V · W_O`, `[d_model, d_model]`: what the head writes for what it reads.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a head that the model lacks.
    pub fn ov(&self, head: Head) -> Result<FactoredMatrix> {
        let w_v = self.w(head, Qkv::V)?;
        let w_o = self.model.output_map(head);
        Ok(FactoredMatrix::of(w_v.to_owned(), w_o.to_owned()))
    }

    /// `W_Q · W_Kᵀ`, `[d_model, d_model]`: which destinations look at which sources. Without the
    /// scale of the scores, which [`Config::attn_scale`](crate::Config::attn_scale) gives.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a head that the model lacks.
    pub fn qk(&self, head: Head) -> Result<FactoredMatrix> {
        let (w_q, w_k) = (self.w(head, Qkv::Q)?, self.w(head, Qkv::K)?);
        Ok(FactoredMatrix::of(w_q.to_owned(), w_k.t().to_owned()))
    }

    /// `W_E · W_V · W_O · W_U`, `[d_vocab, d_vocab]`: how attending to a token changes the logits.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a head that the model lacks.
    pub fn full_ov(&self, head: Head) -> Result<FactoredMatrix> {
        let w_v = self.w(head, Qkv::V)?;
        let w_o = self.model.output_map(head);
        let a = matmul(self.tokens(), w_v);
        Ok(FactoredMatrix::of(
            a,
            matmul(w_o, self.model.parameters().w_u()),
        ))
    }

    /// `W · W_Q · W_Kᵀ · Wᵀ` with token or position embeddings on either side,
    /// `[destination, source]`: with positions on both, the positional QK circuit.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a head that the model lacks, [`Error::Lacks`] for the positions of
    /// a model without.
    pub fn full_qk(&self, head: Head, dest: Embedding, src: Embedding) -> Result<FactoredMatrix> {
        let (w_q, w_k) = (self.w(head, Qkv::Q)?, self.w(head, Qkv::K)?);
        let a = matmul(self.embedding(dest)?, w_q);
        let b = matmul(w_k.t(), self.embedding(src)?.t());
        Ok(FactoredMatrix::of(a, b))
    }

    /// The copying score `Σ Re λ / Σ |λ|` of every head's full OV circuit, `[layer, head]`.
    /// All heads share the one product `W_U · W_E`, `[d_model, d_model]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for weights that are not finite, [`Error::Lacks`] for a model whose
    /// logits are of other tokens than those that it reads.
    pub fn copying_scores(&self) -> Result<Labelled> {
        let config = self.model.config();
        config.check_same_tokens("copying scores")?;
        let through = matmul(self.model.parameters().w_u(), self.tokens());
        let score = |head: Head| {
            let w_v = self.model.input_map(head, Qkv::V);
            let [wide, w_v] = [
                matmul(self.model.output_map(head), through.view()),
                w_v.to_owned(),
            ]
            .map(|m| m.mapv(f64::from));
            Ok(copying_score(&eigenvalues(wide.dot(&w_v).view())?))
        };
        let scores: Vec<f32> = Head::all(config).map(score).collect::<Result<_>>()?;
        let shape = (config.n_layers, config.n_heads);
        let values = Array2::from_shape_vec(shape, scores).expect("one score per head");
        let about = About {
            title: "Copying score".to_string(),
            caption: "Σ Re λ / Σ |λ| of the full OV circuit W_E · W_V · W_O · W_U.".to_string(),
            unit: "copying score".to_string(),
            ..About::default()
        };
        Labelled::new(
            values,
            vec![Axis::layers(shape.0), Axis::heads(shape.1)],
            about,
        )
    }

    /// The tokens whose logits a direction `[d_model]` of the residual stream raises most
    /// (`W_U` alone, without the final LayerNorm), with their logits, falling.
    ///
    /// # Errors
    /// [`Error::Shape`] for another length.
    pub fn top_tokens(&self, direction: ArrayView1<'_, f32>, n: usize) -> Result<Vec<(u32, f32)>> {
        let d_model = self.model.config().d_model;
        if direction.len() != d_model {
            return Err(Error::Shape {
                at: "direction".to_string(),
                found: vec![direction.len()],
                expected: format!("[{d_model}] (d_model)"),
            });
        }
        Ok(top_entries(
            direction.dot(&self.model.parameters().w_u()).view(),
            n,
        ))
    }
}

/// The largest entries of a vector over the vocabulary (a row of a full circuit, or one of its
/// singular vectors), falling, equal ones by token: tokens with their values. NaN counts as
/// larger than every number.
pub fn top_entries(values: ArrayView1<'_, f32>, n: usize) -> Vec<(u32, f32)> {
    let best = largest(values.len(), n, |i| f64::from(values[i])).into_iter();
    best.map(|i| (i as u32, values[i])).collect()
}

/// A singular direction by its tokens: those that it reads and those that it writes.
#[derive(Clone, Debug, PartialEq)]
pub struct SingularDirection {
    /// Its singular value.
    pub singular_value: f64,
    /// The tokens with the largest entries of the left singular vector.
    pub reads: Vec<(u32, f32)>,
    /// The tokens with the largest entries of the right singular vector.
    pub writes: Vec<(u32, f32)>,
}

impl Circuits<'_> {
    /// The strongest singular directions of a head's full OV circuit, with `tokens` top tokens on
    /// each side. The sign of a pair of singular vectors is arbitrary; here the largest entry of
    /// what is written, by magnitude, is positive.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a head that the model lacks; as [`FactoredMatrix::svd`].
    pub fn singular_directions(
        &self,
        head: Head,
        directions: usize,
        tokens: usize,
    ) -> Result<Vec<SingularDirection>> {
        let svd = self.full_ov(head)?.svd()?;
        let direction = |i: usize| {
            let [mut reads, mut writes]: [Array1<f32>; 2] =
                [&svd.u, &svd.v].map(|side| side.column(i).to_owned());
            let strongest = writes
                .iter()
                .fold(0.0_f32, |a, v| if v.abs() > a.abs() { *v } else { a });
            if strongest < 0.0 {
                reads.mapv_inplace(|v| -v);
                writes.mapv_inplace(|v| -v);
            }
            SingularDirection {
                singular_value: svd.singular_values[i],
                reads: top_entries(reads.view(), tokens),
                writes: top_entries(writes.view(), tokens),
            }
        };
        Ok((0..directions.min(svd.singular_values.len()))
            .map(direction)
            .collect())
    }
}
