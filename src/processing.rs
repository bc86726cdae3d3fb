//! Weight processing: named transformations of a model's weights which leave its predictions as
//! they are, and make its parts easier to read (TransformerLens's `process_weights`, step by step).

use std::fmt;

use ndarray::{Array1, Array2, ArrayView2, Axis};

use crate::config::{Config, MlpKind, Norm, Positions};
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::ops::{part, part_mut};
use crate::parameters::{LayerNorm, Linear, Parameters};

/// A transformation of weights. Nothing is ever applied silently: a loaded model is as its file
/// says until [`Transformer::processed`] returns a new one.
///
/// Each step computes in f64 and rounds its results to f32 once (TransformerLens truncates to
/// f32 in between). Probabilities stay the same within [`Processing::TOLERANCE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Processing {
    /// Moves each LayerNorm's weight and bias into the linear maps that read it: `b += W·ln.b`,
    /// `W *= ln.w`, then centres `W` over `d_model`, which LayerNorm's own centring makes
    /// harmless. The unembedding becomes its own matrix and gets a bias. Logits do not change.
    FoldLayerNorm,
    /// Centres over `d_model` everything that is written into the residual stream (`W_E`,
    /// `W_pos`, `W_O`, `b_O`, `W_out`, `b_out`): LayerNorm removes that mean anyway. Logits do
    /// not change; residual activations lose their mean.
    CenterWritingWeights,
    /// Centres the unembedding (and its bias, where there is one) over the vocabulary. Logits
    /// change by one number per position, probabilities do not.
    CenterUnembed,
    /// Moves the value biases behind attention: `b_O += Σ_h b_V·W_O`, `b_V = 0`. Equal as long as
    /// the rows of the pattern sum to 1, so not under interventions on the pattern.
    FoldValueBiases,
}

impl Processing {
    /// TransformerLens's steps in its order.
    pub const ALL: [Processing; 4] = [
        Processing::FoldLayerNorm,
        Processing::CenterWritingWeights,
        Processing::CenterUnembed,
        Processing::FoldValueBiases,
    ];

    /// How far a log-probability may move, in nats: rounding of f32, as the tests check.
    pub const TOLERANCE: f32 = 1e-4;

    /// The step's name, TransformerLens's.
    pub fn name(self) -> &'static str {
        match self {
            Processing::FoldLayerNorm => "fold_ln",
            Processing::CenterWritingWeights => "center_writing_weights",
            Processing::CenterUnembed => "center_unembed",
            Processing::FoldValueBiases => "fold_value_biases",
        }
    }

    /// Checks that the step leaves the predictions of such a model as they are.
    fn check(self, config: &Config) -> Result<()> {
        let reason = match self {
            Processing::FoldLayerNorm | Processing::CenterWritingWeights
                if config.norm == Norm::None =>
            {
                "this model has no LayerNorms, which would take the means that it takes"
            }
            Processing::FoldLayerNorm if config.positions == Positions::Shortformer => {
                "queries and keys read position embeddings, too, which pass by LayerNorm"
            }
            _ => return Ok(()),
        };
        Err(Error::Lacks {
            at: format!("step `{self}`"),
            reason: reason.to_string(),
        })
    }

    fn apply(self, parameters: &mut Parameters, config: &Config) {
        match self {
            Processing::FoldLayerNorm => fold_layer_norm(parameters, config),
            Processing::CenterWritingWeights => {
                // A tied unembedding reads `wte`, and must keep its mean.
                if parameters.lm_head.is_none() {
                    parameters.lm_head = Some(parameters.wte.clone());
                }
                if config.positions == Positions::Learned {
                    center_rows(&mut parameters.wpe);
                }
                center_writing_weights(parameters);
            }
            Processing::CenterUnembed => center_unembed(parameters),
            Processing::FoldValueBiases => parameters.h.iter_mut().for_each(|block| {
                let attn = &mut block.attn;
                fold_value_bias(&mut attn.c_attn.bias, &mut attn.c_proj);
            }),
        }
    }
}

impl fmt::Display for Processing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Transformer {
    /// A new model with these steps applied in the order given; `self` stays as it is.
    ///
    /// ```
    /// use patchlens::{Config, Transformer};
    /// use patchlens::processing::Processing;
    /// let config = Config { n_layers: 1, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// let folded = model.processed(&[Processing::FoldLayerNorm])?;
    /// assert!(folded.parameters().h[0].ln_1.bias.iter().all(|b| *b == 0.0));
    /// assert!(!folded.config().tie_word_embeddings); // the unembedding is its own matrix now
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Lacks`] for a step that would change what a model of this kind predicts, such as
    /// [`Processing::CenterWritingWeights`] without LayerNorms. Else same as [`Transformer::new`];
    /// none for the weights of a model that is one already.
    pub fn processed(&self, steps: &[Processing]) -> Result<Transformer> {
        let (mut config, mut parameters) = self.clone().into_parts();
        for step in steps {
            step.check(&config)?;
            step.apply(&mut parameters, &config);
        }
        config.tie_word_embeddings = parameters.lm_head.is_none();
        Transformer::new(config, parameters)
    }
}

fn fold_layer_norm(parameters: &mut Parameters, config: &Config) {
    for block in &mut parameters.h {
        fold_into(&mut block.ln_1, &mut block.attn.c_attn);
        fold_into(&mut block.ln_2, &mut block.mlp.c_fc);
        if config.mlp == MlpKind::Normed {
            fold_into(&mut block.mlp.ln, &mut block.mlp.c_proj);
        }
    }
    let Parameters {
        wte,
        ln_f,
        lm_head,
        lm_head_bias,
        ..
    } = parameters;
    let head = lm_head.get_or_insert_with(|| wte.clone());
    let bias = lm_head_bias.get_or_insert_with(|| Array1::zeros(head.nrows()));
    let (scale, shift) = affine(ln_f, head.ncols());
    for (mut row, bias) in head.rows_mut().into_iter().zip(bias) {
        let wide = row.mapv(f64::from);
        *bias = (f64::from(*bias) + wide.dot(&shift)) as f32;
        let wide = centered(wide * &scale);
        row.zip_mut_with(&wide, |to, v| *to = *v as f32);
    }
    reset(ln_f);
}

/// Folds a LayerNorm into the map that reads it, weight `[in, out]`.
fn fold_into(norm: &mut LayerNorm, reader: &mut Linear) {
    if reader.weight.is_empty() {
        return;
    }
    let mut weight = reader.weight.mapv(f64::from);
    let (scale, shift) = affine(norm, weight.nrows());
    let shift = shift.dot(&weight);
    reader
        .bias
        .zip_mut_with(&shift, |b, v| *b = (f64::from(*b) + v) as f32);
    weight *= &scale.insert_axis(Axis(1));
    let mean = weight.sum_axis(Axis(0)) / weight.nrows() as f64;
    weight -= &mean;
    reader.weight = weight.mapv(|v| v as f32);
    reset(norm);
}

/// Weight and bias of a LayerNorm of so many dimensions: 1 and 0 where it has none.
fn affine(norm: &LayerNorm, width: usize) -> (Array1<f64>, Array1<f64>) {
    match norm.affine() {
        Some([weight, bias]) => (weight.mapv(f64::from), bias.mapv(f64::from)),
        None => (Array1::ones(width), Array1::zeros(width)),
    }
}

/// The LayerNorm that only normalises.
fn reset(norm: &mut LayerNorm) {
    norm.weight.fill(1.0);
    norm.bias.fill(0.0);
}

fn center_writing_weights(parameters: &mut Parameters) {
    center_rows(&mut parameters.wte);
    for block in &mut parameters.h {
        for writer in [&mut block.attn.c_proj, &mut block.mlp.c_proj] {
            center_rows(&mut writer.weight);
            writer.bias = centered(writer.bias.mapv(f64::from)).mapv(|v| v as f32);
        }
    }
}

/// Takes the mean of each row `[d_model]` from it.
fn center_rows(x: &mut Array2<f32>) {
    for mut row in x.rows_mut() {
        let wide = centered(row.mapv(f64::from));
        row.zip_mut_with(&wide, |to, v| *to = *v as f32);
    }
}

fn centered(x: Array1<f64>) -> Array1<f64> {
    let mean = x.sum() / x.len() as f64;
    x - mean
}

fn center_unembed(parameters: &mut Parameters) {
    let wte = &parameters.wte;
    let head = parameters.lm_head.get_or_insert_with(|| wte.clone());
    let mut mean = Array1::<f64>::zeros(head.ncols());
    for row in head.rows() {
        mean.zip_mut_with(&row, |sum, v| *sum += f64::from(*v));
    }
    mean /= head.nrows() as f64;
    for mut row in head.rows_mut() {
        row.zip_mut_with(&mean, |v, mean| *v = (f64::from(*v) - mean) as f32);
    }
    if let Some(bias) = &mut parameters.lm_head_bias {
        *bias = centered(bias.mapv(f64::from)).mapv(|v| v as f32);
    }
}

/// `bias` is that of queries, keys and values, `output` the map with weight `[d_model, d_model]`
/// whose rows are the heads' values side by side, in the order of the bias.
fn fold_value_bias(bias: &mut Array1<f32>, output: &mut Linear) {
    let d = output.weight.nrows();
    let values = part(bias.view(), 0, 2 * d..3 * d).mapv(f64::from);
    let weight: ArrayView2<'_, f32> = output.weight.view();
    let moved = values.dot(&weight.mapv(f64::from));
    output
        .bias
        .zip_mut_with(&moved, |b, v| *b = (f64::from(*b) + v) as f32);
    part_mut(bias.view_mut(), 0, 2 * d..3 * d).fill(0.0);
}
