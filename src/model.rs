//! The transformer: parameters, and the one forward pass over lanes.

mod attention;
mod blocked;
pub(crate) mod cost;
mod forward;
mod heads;
pub(crate) mod hooks;
pub(crate) mod lane;
mod maps;
pub(crate) mod pass;
mod provenance;
pub(crate) mod recorder;
pub(crate) mod rows;
mod run;
mod split;
pub(crate) mod stage;

use std::path::Path;

pub use crate::cache::RunKind;
pub use crate::fingerprint::Fingerprint;
pub use blocked::{BlockedRow, BlockedRows};
pub use hooks::{Footprint, HookFn, HookPoints, Hooks, RunShape, Visit, hook_fn};
pub use run::{KeepLogits, Logits, Run, RunOutput};
pub(crate) use run::{check_prompts, check_selection};

use crate::checkpoint::{OpenOptions, OpenReport};
use crate::config::Config;
use crate::error::Result;
use crate::fingerprint::Identity;
use crate::parameters::Parameters;

/// A GPT-2-style transformer.
#[derive(Clone, Debug)]
pub struct Transformer {
    config: Config,
    parameters: Parameters,
    report: Option<OpenReport>,
    identity: Identity,
}

impl Transformer {
    /// A model of given parameters.
    ///
    /// # Errors
    /// Same as [`Parameters::check`].
    pub fn new(config: Config, parameters: Parameters) -> Result<Self> {
        parameters.check(&config)?;
        Ok(Self::sound(config, parameters))
    }

    /// Opens a checkpoint in the layout of Hugging Face, a folder with `config.json` and
    /// `model.safetensors` (or `model.safetensors.index.json` and its shards), or TransformerLens's
    /// state dict with its config as `cfg.json`, see [`crate::checkpoint`].
    /// [`Transformer::open_report`] lists what was found, skipped and assumed.
    ///
    /// # Errors
    /// Same as [`OpenOptions::load`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(dir, &OpenOptions::new())
    }

    /// Same as [`Transformer::open`], for a checkpoint that has more than a GPT-2:
    /// `OpenOptions::new().skip("v_head")` leaves out the tensors of a value head.
    ///
    /// # Errors
    /// Same as [`OpenOptions::load`].
    pub fn open_with(dir: impl AsRef<Path>, options: &OpenOptions) -> Result<Self> {
        let opened = options.load(dir)?;
        Ok(Transformer {
            config: opened.config,
            parameters: opened.parameters,
            report: Some(opened.report),
            identity: Identity::default(),
        })
    }

    /// What was found, skipped and assumed when the model was opened; `None` for a model that was
    /// made of [`Parameters`].
    pub fn open_report(&self) -> Option<&OpenReport> {
        self.report.as_ref()
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
        let (config, parameters) =
            Parameters::from_bytes(config, weights).expect("a test opens the shipped model");
        Self::sound(config, parameters)
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
        Ok(Self::sound(config, parameters))
    }

    /// A model of parameters that have been checked where they were made.
    fn sound(config: Config, parameters: Parameters) -> Self {
        Transformer {
            config,
            parameters,
            report: None,
            identity: Identity::default(),
        }
    }

    /// The model's shape.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the parts.
    pub fn into_parts(self) -> (Config, Parameters) {
        (self.config, self.parameters)
    }
}
