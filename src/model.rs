//! The transformer. [`forward`] is the model's one forward pass; start reading there.
//!
//! - [`lane`]: what a pass computes, as data: one run of one sequence, over a base or without.
//! - [`stage`]: the steps of a block in one table, and what follows from it.
//! - [`rows`]: the rows of several lanes as one matrix.
//! - [`pass`]: what happens to rows between two steps: completed, shown to hooks, recorded.
//! - [`attention`], [`heads`], [`split`]: the inside of attention.
//! - [`cost`]: what a lane costs, known before it runs.
//! - [`run`]: runs as users start them.

mod attention;
pub(crate) mod cost;
mod forward;
mod heads;
mod hooks;
pub(crate) mod lane;
pub(crate) mod pass;
mod recorder;
pub(crate) mod rows;
mod run;
mod split;
pub(crate) mod stage;

use std::path::Path;

use ndarray::ArrayView2;

pub use hooks::{Footprint, HookFn, Hooks, KeepLogits, RunShape, Visit, hook_fn};
pub(crate) use recorder::Recorder;
pub(crate) use run::check_selection;
pub use run::{Logits, Run, RunOutput};

use crate::config::Config;
use crate::error::Result;
use crate::ops::part;
use crate::parameters::Parameters;

/// A GPT-2-style transformer.
#[derive(Clone, Debug)]
pub struct Transformer {
    config: Config,
    parameters: Parameters,
}

impl Transformer {
    /// A model of these parameters.
    ///
    /// # Errors
    /// Same as [`Parameters::check`].
    pub fn new(config: Config, parameters: Parameters) -> Result<Self> {
        parameters.check(&config)?;
        Ok(Transformer { config, parameters })
    }

    /// Opens a checkpoint in the layout of Hugging Face: a folder with `config.json` and
    /// `model.safetensors` (or `model.safetensors.index.json` and its shards).
    ///
    /// # Errors
    /// Same as [`Parameters::load`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let (config, parameters) = Parameters::load(dir)?;
        Self::new(config, parameters)
    }

    /// The small trained model that the crate ships (`assets/mini/`): 4 layers of 4 heads, trained
    /// on indirect object identification, invented facts, later years and repeated sequences. Its
    /// tokenizer is [`Tokenizer::mini`](crate::Tokenizer::mini).
    ///
    /// ```
    /// use patchlens::{Tokenizer, Transformer};
    /// let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
    /// let prompt = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
    /// let logits = model.forward(&prompt)?;
    /// let last = logits.row(prompt.len() - 1);
    /// let (mary, john) = (tokenizer.token(" Mary")?, tokenizer.token(" John")?);
    /// assert!(last[mary as usize] > last[john as usize]);
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Panics
    /// Never: the files are part of the crate, and a test opens them.
    #[cfg(feature = "mini")]
    pub fn mini() -> Self {
        let config = include_str!("../assets/mini/config.json");
        let weights = include_bytes!("../assets/mini/model.safetensors");
        Parameters::from_bytes(config, weights)
            .and_then(|(config, parameters)| Self::new(config, parameters))
            .expect("the shipped files are a model, as a test checks")
    }

    /// Writes the same layout as [`Transformer::open`] reads.
    ///
    /// # Errors
    /// Same as [`Parameters::save`].
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.parameters.save(dir, &self.config)
    }

    /// A model with GPT-2's random initialisation; the same seed gives the same weights.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for a config that makes no model.
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

    /// Takes the model apart.
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
