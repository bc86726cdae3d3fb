//! The backward pass against torch's autograd (golden files), against finite differences, and
//! against itself: alone and in a batch, on one thread and on several.

mod bits;
mod golden;
mod inputs;
mod slopes;

use ndarray::{Array2, ArrayView2};
use patchlens::config::Activation;
use patchlens::gradient::{Backward, Gradients};
use patchlens::{Config, Prompts, Selection, Transformer};

/// A scalar that every logit matters to.
fn smooth(prompt: usize, logits: ArrayView2<'_, f32>) -> (f64, Array2<f32>) {
    let weight = |i: usize| ((i * 37 + prompt * 11) % 17) as f64 / 17.0 - 0.4;
    let value = logits.iter().enumerate();
    let value = value.map(|(i, v)| weight(i) * f64::from(*v).sin()).sum();
    let mut gradient = logits.to_owned();
    let each = gradient.iter_mut().enumerate();
    each.for_each(|(i, v)| *v = (weight(i) * f64::from(*v).cos()) as f32);
    (value, gradient)
}

fn random(activation: Activation, tied: bool) -> Transformer {
    let config = Config {
        n_layers: 2,
        n_heads: 3,
        d_model: 12,
        d_mlp: 20,
        n_ctx: 9,
        d_vocab: 31,
        activation,
        layer_norm_eps: 1e-3,
        scale_attn_weights: true,
        scale_attn_by_inverse_layer_idx: true,
        tie_word_embeddings: tied,
        ..Config::gpt2()
    };
    let model = Transformer::random(config, 3).unwrap();
    // GPT-2's initialisation is so small that everything is almost linear.
    let (config, mut parameters) = model.into_parts();
    parameters.lm_head_bias = (!tied).then(|| ndarray::Array1::zeros(config.d_vocab));
    for (k, (_, mut tensor)) in parameters.tensors_mut().into_iter().enumerate() {
        for (i, v) in tensor.iter_mut().enumerate() {
            *v = *v * 15.0_f32.min(1.0 / v.abs().max(1e-3)) + ((i * 7 + k) % 5) as f32 * 0.05;
        }
    }
    Transformer::new(config, parameters).unwrap()
}

fn everything(model: &Transformer, prompts: &Prompts) -> Gradients {
    let all = Selection::everything(model.config());
    let want = Backward {
        gradients: Some(&all),
        parameters: true,
        ..Backward::default()
    };
    model.gradients(prompts, (), smooth, &want).unwrap()
}
