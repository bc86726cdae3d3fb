//! AdamW (Loshchilov and Hutter 2019) with a clipped gradient, a warm-up and a cosine decay.

use std::f64::consts::PI;

use patchlens::parameters::Parameters;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The optimizer's constants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    /// Steps until the learning rate has fallen to its end.
    pub steps: u64,
    /// Steps until the learning rate is at its peak.
    pub warmup: u64,
    /// The learning rate at its peak, and at the end.
    pub rate: [f64; 2],
    /// Decay of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decay of weight matrices; embeddings, biases and LayerNorms have none.
    pub weight_decay: f64,
    /// Largest length of the gradient of all parameters.
    pub clip: f64,
}

impl AdamW {
    pub fn new(steps: u64) -> Self {
        AdamW {
            steps,
            warmup: (steps / 20).min(200),
            // With twice this peak, induction heads do not form in thousands of steps.
            rate: [1e-3, 1e-4],
            betas: [0.9, 0.98],
            eps: 1e-9,
            weight_decay: 0.05,
            clip: 1.0,
        }
    }

    /// The learning rate of a step, counted from 0.
    pub fn rate_at(&self, step: u64) -> f64 {
        let [peak, end] = self.rate;
        if step < self.warmup {
            return peak * (step + 1) as f64 / self.warmup as f64;
        }
        let left = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let done = ((step - self.warmup) as f64 / left).min(1.0);
        end + (peak - end) * 0.5 * (1.0 + (PI * done).cos())
    }

    /// Moves the parameters, and the two moments with them.
    pub fn update(
        &self,
        step: u64,
        parameters: &mut Parameters,
        [first, second]: &mut [Parameters; 2],
        gradient: &Parameters,
    ) {
        let factor = self.factor(gradient);
        let [b1, b2] = self.betas;
        let correction = |beta: f64| 1.0 - beta.powf((step + 1) as f64);
        let rate = self.rate_at(step);
        let size = (rate / correction(b1)) as f32;
        let root = correction(b2).sqrt().recip() as f32;
        let [b1, b2, eps] = [b1, b2, self.eps].map(|v| v as f32);
        let decay = (rate * self.weight_decay) as f32;
        let moments = first.tensors_mut().into_iter().zip(second.tensors_mut());
        let tensors = parameters.tensors_mut().into_iter().zip(moments);
        let all: Vec<_> = tensors.zip(gradient.tensors()).collect();
        all.into_par_iter()
            .for_each(|(((name, mut p), ((_, mut m), (_, mut v))), (_, g))| {
                let decay = if is_matrix(&name) { decay } else { 0.0 };
                let moving = m.iter_mut().zip(v.iter_mut()).zip(g.iter());
                for (p, ((m, v), g)) in p.iter_mut().zip(moving) {
                    let g = g * factor;
                    *m += (1.0 - b1) * (g - *m);
                    *v += (1.0 - b2) * (g * g - *v);
                    *p -= size * *m / (v.sqrt() * root + eps) + decay * *p;
                }
            });
    }

    /// What makes the gradient no longer than the clip.
    fn factor(&self, gradient: &Parameters) -> f32 {
        let tensors = gradient.tensors();
        let squares: Vec<f64> = tensors
            .par_iter()
            .map(|(_, g)| g.iter().map(|v| f64::from(*v).powi(2)).sum())
            .collect();
        let length = squares.iter().sum::<f64>().sqrt();
        (self.clip / length).min(1.0) as f32
    }
}

fn is_matrix(name: &str) -> bool {
    name.starts_with("h.") && name.ends_with(".weight") && !name.contains("ln_")
}
