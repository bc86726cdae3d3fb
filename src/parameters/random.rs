//! GPT-2's random initialisation.

use ndarray_rand::rand::SeedableRng;
use ndarray_rand::rand_distr::{Distribution, Normal};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::Parameters;
use super::table::{Role, Tensor};
use crate::config::Config;
use crate::error::Result;

/// `initializer_range` of Hugging Face's `GPT2Config`.
const STD: f32 = 0.02;

impl Parameters {
    /// GPT-2's initialisation: weights and embeddings normal with mean 0 and standard deviation
    /// 0.02, those that write into the residual stream (`c_proj`) divided by `sqrt(2 * n_layers)`
    /// (Radford et al. 2019, section 2.3), biases 0, LayerNorms 1 and 0.
    ///
    /// The seed alone decides the bits, not the number of threads: each tensor has its own stream
    /// of the generator ChaCha8, whose output is fixed by its definition. (The normal numbers made
    /// from it take `exp` and `ln` from the platform for about 1 % of them, so that another
    /// platform may differ in a last digit.)
    ///
    /// # Errors
    /// Same as [`Parameters::zeros`].
    pub fn random(config: &Config, seed: u64) -> Result<Self> {
        let mut parameters = Self::zeros(config)?;
        let scale = (2.0 * config.n_layers as f32).sqrt().recip();
        let tensors: Vec<_> = Tensor::required(config)
            .zip(parameters.tensors_mut())
            .collect();
        let tensors = tensors.into_par_iter().enumerate();
        tensors.for_each(|(stream, (Tensor { role, .. }, (_, mut values)))| {
            let std = match role {
                Role::Bias => return,
                Role::Scale => return values.fill(1.0),
                Role::Map => STD,
                Role::Output => STD * scale,
            };
            let normal = Normal::new(0.0, std).expect("the deviation is finite");
            let mut generator = ChaCha8Rng::seed_from_u64(seed);
            generator.set_stream(stream as u64);
            values.map_inplace(|value| *value = normal.sample(&mut generator));
        });
        Ok(parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            n_layers: 8,
            n_heads: 4,
            d_model: 64,
            d_mlp: 256,
            n_ctx: 128,
            d_vocab: 500,
            tie_word_embeddings: false,
            ..Config::gpt2()
        }
    }

    #[test]
    fn every_tensor_has_gpt2s_distribution() {
        let parameters = Parameters::random(&config(), 1).unwrap();
        for (name, tensor) in parameters.tensors() {
            let std = if name.ends_with("c_proj.weight") {
                0.02 / 4.0
            } else {
                0.02
            };
            if name.ends_with("bias") {
                assert!(tensor.iter().all(|&v| v == 0.0), "{name}");
            } else if name.contains("ln_") {
                assert!(tensor.iter().all(|&v| v == 1.0), "{name}");
            } else {
                // The error of mean and std of n samples is std/sqrt(n) and std/sqrt(2n).
                let n = tensor.len() as f32;
                let mean = tensor.sum() / n;
                let found = tensor.mapv(|v| (v - mean).powi(2)).sum() / n;
                assert!(mean.abs() < 5.0 * std / n.sqrt(), "{name}: mean {mean}");
                let off = (found.sqrt() - std).abs();
                assert!(off < 5.0 * std / (2.0 * n).sqrt(), "{name}: off by {off}");
            }
        }
    }

    #[test]
    fn the_seed_alone_decides_the_bits() {
        let on = |threads: usize, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| Parameters::random(&config(), seed).unwrap())
        };
        let one = on(1, 7);
        assert_eq!(one, on(1, 7));
        assert_eq!(one, on(4, 7));
        assert_ne!(one.wte, on(1, 8).wte);
        // Streams are independent: no tensor repeats another.
        let head = one.lm_head.as_ref().unwrap();
        assert_ne!(one.wte, *head);
        assert_ne!(one.h[0].attn.c_proj.weight, one.h[1].attn.c_proj.weight);
    }

    /// Guards the promise that a seed means the same model in every release.
    #[test]
    fn the_first_values_of_seed_0() {
        let parameters = Parameters::random(&config(), 0).unwrap();
        let first: Vec<f32> = parameters.wte.iter().take(3).copied().collect();
        assert_eq!(first, [0.013999215, -0.0028812326, 0.0060577253]);
    }

    #[test]
    fn an_impossible_config_is_an_error() {
        let config = Config {
            n_heads: 0,
            ..config()
        };
        let message = Parameters::random(&config, 0).unwrap_err().to_string();
        assert!(message.contains("`n_head`: found 0"), "{message}");
    }
}
