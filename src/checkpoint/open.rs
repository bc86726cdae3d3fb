//! Reading a checkpoint from a folder or from bytes.

use std::fs::File;
use std::io::Cursor;
use std::path::Path;

use super::find::{SINGLE, find};
use super::load::Checkpoint;
use super::options::{OpenOptions, Opened};
use super::save::hold;
use super::source::Source;
use crate::config::{Config, ConfigFile};
use crate::error::Result;
use crate::parameters::Parameters;

impl OpenOptions {
    /// Reads a checkpoint in Hugging Face's layout from the folder `dir`: `config.json`, and
    /// `model.safetensors` or, where that is absent, `model.safetensors.index.json` with shards.
    ///
    /// Or a state dict of TransformerLens under its own names, with the fields of its
    /// `HookedTransformerConfig` as `cfg.json` or `config.json`; `mask` and `IGNORE` are skipped.
    ///
    /// Tensors may be F32, F16 or BF16, with or without the prefix `transformer.`; one more prefix
    /// that all names share (`_orig_mod.`, `module.`, `model.`, several of them, ...) is taken off.
    /// The buffers `h.N.attn.bias` and `h.N.attn.masked_bias`, which hold the causal mask, are
    /// skipped. Where embedding and unembedding are tied, an `lm_head.weight` must equal
    /// `wte.weight` to the bit, or stand there alone. A model without any `bias` has zeros.
    /// Memory peaks at the f32 size of the weights and about 1 MB; each byte is read once.
    ///
    /// Matrices are `[in, out]`, as GPT-2's Conv1D has them. Those of `nn.Linear`, `[out, in]`, are
    /// an error, as their shapes are others. (Only the square `attn.c_proj.weight` looks the same
    /// both ways: alone transposed, nothing tells.)
    ///
    /// # Errors
    /// - [`Error::Io`](crate::Error::Io) if a file cannot be read.
    /// - [`Error::Format`](crate::Error::Format) if a file is not JSON or safetensors, is truncated
    ///   or has bytes left, or if the weights are Python pickles.
    /// - [`Error::Config`](crate::Error::Config) as in [`Config::from_json`].
    /// - [`Error::Tensor`](crate::Error::Tensor) for a tensor that is missing, unknown, there twice,
    ///   without the prefix of the others, of another shape or dtype than expected, not within the
    ///   file, or not finite.
    /// - [`Error::Invalid`](crate::Error::Invalid) for a name to be skipped that no tensor has, or
    ///   that a tensor of the model has.
    pub fn load(&self, dir: impl AsRef<Path>) -> Result<Opened> {
        let dir = dir.as_ref();
        let _held = hold(dir, File::lock_shared);
        let files = find(dir)?;
        let config = ConfigFile::open(dir)?;
        Checkpoint::open(&files)?.load(config, self)
    }

    /// Same as [`OpenOptions::load`], from the contents of `config.json` and of
    /// `model.safetensors`.
    ///
    /// # Errors
    /// Same as [`OpenOptions::load`].
    pub fn load_bytes(&self, config_json: &str, safetensors: &[u8]) -> Result<Opened> {
        let config = ConfigFile::from_json(config_json, Path::new("config.json"))?;
        let path = Path::new(SINGLE);
        let reader = Box::new(Cursor::new(safetensors));
        let source = Source::new(path, reader, safetensors.len() as u64)?;
        Checkpoint::new(path, vec![source]).load(config, self)
    }
}

impl Parameters {
    /// Loads a checkpoint in Hugging Face's layout from the folder `dir`; see
    /// [`OpenOptions::load`], which also reports what was skipped and assumed.
    ///
    /// # Errors
    /// Same as [`OpenOptions::load`].
    pub fn load(dir: impl AsRef<Path>) -> Result<(Config, Parameters)> {
        let opened = OpenOptions::new().load(dir)?;
        Ok((opened.config, opened.parameters))
    }

    /// Same as [`Parameters::load`], from the contents of `config.json` and of
    /// `model.safetensors`.
    ///
    /// # Errors
    /// Same as [`OpenOptions::load`].
    pub fn from_bytes(config_json: &str, safetensors: &[u8]) -> Result<(Config, Parameters)> {
        let opened = OpenOptions::new().load_bytes(config_json, safetensors)?;
        Ok((opened.config, opened.parameters))
    }
}
