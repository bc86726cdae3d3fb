//! Causal tracing: goldens, full runs bit by bit, averages over sets, bad input, files of facts.

mod cases;
mod exact;
mod files;
mod golden;
mod inputs;
mod sets;

use ndarray::Array2;
use patchlens::intervention::Values;
use patchlens::tracing::TracedFact;
use patchlens::{Config, Edit, HookPoint, Intervention, Prompt, Target, Transformer};

fn small_model() -> Transformer {
    let config = Config {
        n_layers: 4,
        n_heads: 2,
        d_model: 16,
        d_mlp: 40,
        n_ctx: 16,
        d_vocab: 23,
        ..Config::gpt2()
    };
    let (config, mut parameters) = Transformer::random(config, 3).unwrap().into_parts();
    // GPT-2's initialisation is so small that nothing would matter: enlarge it.
    for (name, mut tensor) in parameters.tensors_mut() {
        if name.ends_with("weight") && !name.contains("ln_") {
            tensor.mapv_inplace(|v| v * 12.0);
        }
    }
    Transformer::new(config, parameters).unwrap()
}

fn small_fact() -> TracedFact {
    TracedFact::from_tokens(Prompt::from([3, 9, 14, 2, 9, 20, 6]), &[9, 14]).unwrap()
}

/// Noise as data, so that a test can apply it by itself.
fn small_noise(samples: usize) -> Vec<Array2<f32>> {
    let number = |sample: usize, i: usize, j: usize| ((7 * sample + 5 * i + 3 * j) % 11) as f32;
    let noise = |s| Array2::from_shape_fn((2, 16), move |(i, j)| number(s, i, j) / 4.0 - 1.25);
    (0..samples).map(noise).collect()
}

/// The noise at the subject `1..3` of a prompt of 7 tokens.
fn noise_at_embed(noise: &Array2<f32>) -> Intervention {
    let mut all = Array2::zeros((7, 16));
    for (row, values) in noise.rows().into_iter().enumerate() {
        all.row_mut(row + 1).assign(&values);
    }
    let target = Target::new(HookPoint::Embed).at_positions([1, 2]);
    Intervention::new(target, Edit::Add(Values::array(all)))
}

fn known(model: &Transformer, prompt: Prompt, subject: std::ops::Range<usize>) -> TracedFact {
    let logits = model.forward(&prompt).unwrap();
    let last = logits.row(logits.nrows() - 1);
    let best = (0..last.len())
        .max_by(|a, b| last[*a].total_cmp(&last[*b]))
        .unwrap();
    TracedFact::new(prompt, subject)
        .unwrap()
        .with_attribute(best as u32)
}
