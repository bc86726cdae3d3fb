//! Head dropout: parts of a training step run without some heads, so that the model learns to do
//! with any of them missing.

use ndarray::{Axis, Slice};
use patchlens::parameters::Parameters;
use patchlens::{Config, Head};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Draws the heads that each part of a step leaves out.
pub struct Dropout {
    probability: f64,
    draws: ChaCha8Rng,
}

impl Dropout {
    /// The draws of one step; they depend on nothing else, so that training can go on where it
    /// stopped.
    pub fn of_step(probability: f64, seed: u64, step: u64) -> Self {
        let mut draws = ChaCha8Rng::seed_from_u64(seed);
        // The corpus draws its items from the first streams of the same seed.
        draws.set_stream(u64::MAX - step);
        Dropout { probability, draws }
    }

    /// Heads for one part of the step: each of those below the last layer is as likely as the
    /// others. Those of the last layer stay: what they write nothing can make up for.
    pub fn draw(&mut self, config: &Config) -> Vec<Head> {
        let below = Head::all(config).filter(|head| head.layer + 1 < config.n_layers);
        below
            .filter(|_| self.draws.random_bool(self.probability))
            .collect()
    }
}

/// Nulls the rows of W_O that heads write through: with them, nothing of a head reaches the loss.
/// In a gradient, the same rows are those that such heads do not move.
pub fn silence(parameters: &mut Parameters, heads: &[Head], config: &Config) {
    let d_head = config.d_model / config.n_heads;
    for head in heads {
        let rows = Slice::from(head.head * d_head..(head.head + 1) * d_head);
        let weight = &mut parameters.h[head.layer].attn.c_proj.weight;
        weight.slice_axis_mut(Axis(0), rows).fill(0.0);
    }
}
