//! The transformer: parameters, and the one forward pass over lanes.

mod attention;
pub(crate) mod hooks;
pub(crate) mod lane;
pub(crate) mod pass;
mod run;
mod split;
pub(crate) mod stack;

use std::path::Path;

use ndarray::ArrayView2;

pub use hooks::{Extent, HookFn, Hooks, RunShape, Visit, hook_fn};
pub(crate) use run::check_selection;
pub use run::{KeepLogits, Logits, Run, RunOutput};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::ops::part;
use crate::parameters::Parameters;

/// A GPT-2-style transformer.
#[derive(Clone, Debug)]
pub struct Transformer {
    config: Config,
    parameters: Parameters,
}

impl Transformer {
    /// A model of given parameters.
    ///
    /// # Errors
    /// [`Error::Config`] for a config that makes no model, [`Error::Shape`] for a tensor of
    /// another shape than the config asks for.
    pub fn new(config: Config, parameters: Parameters) -> Result<Self> {
        config.check()?;
        check_shapes(&config, &parameters)?;
        Ok(Transformer { config, parameters })
    }

    /// Loads a checkpoint in Hugging Face's layout from a folder; see [`Parameters::load`].
    ///
    /// # Errors
    /// As [`Parameters::load`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let (config, parameters) = Parameters::load(dir)?;
        Self::new(config, parameters)
    }

    /// A model with GPT-2's random initialisation; see [`Parameters::random`].
    ///
    /// # Errors
    /// [`Error::Config`] for a config that makes no model.
    pub fn random(config: Config, seed: u64) -> Result<Self> {
        let parameters = Parameters::random(&config, seed)?;
        Self::new(config, parameters)
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Gives back the parts.
    pub fn into_parts(self) -> (Config, Parameters) {
        (self.config, self.parameters)
    }

    /// One head's output map `[d_head, d_model]`.
    ///
    /// # Panics
    /// If the model lacks the layer or the head.
    pub fn w_o(&self, layer: usize, head: usize) -> ArrayView2<'_, f32> {
        let d_head = self.config.d_head();
        let rows = head * d_head..(head + 1) * d_head;
        part(self.parameters.h[layer].attn.c_proj.weight.view(), 0, rows)
    }
}

fn check_shapes(config: &Config, parameters: &Parameters) -> Result<()> {
    let blocks = parameters.h.len();
    if blocks != config.n_layers {
        let expected = format!("{} as in the config", config.n_layers);
        return Err(Error::invalid("number of blocks", blocks, expected));
    }
    let tied = parameters.lm_head.is_none();
    if tied != config.tie_word_embeddings {
        let expected = if tied { "a tensor" } else { "none (tied)" };
        let found = if tied { "none" } else { "a tensor" };
        return Err(Error::invalid("tensor `lm_head.weight`", found, expected));
    }
    for (name, tensor) in parameters.tensors() {
        let expected = config.tensor_shape(&name);
        if tensor.shape() != expected {
            return Err(Error::Shape {
                at: format!("tensor `{name}`"),
                found: tensor.shape().to_vec(),
                expected: format!("{expected:?}"),
            });
        }
    }
    Ok(())
}
