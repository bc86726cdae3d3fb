//! What the examples on heads share: the model, repeated sequences, and where results go.
#![allow(dead_code)] // Each example uses its own part.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use patchlens::tasks::{Repeated, RepeatedPrompt};
use patchlens::{Tokenizer, Transformer};

/// Options of every example.
#[derive(clap::Args, Debug)]
pub struct Common {
    /// Folder with config.json, model.safetensors and tokenizer.json; the small trained model of
    /// this crate if left out
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Random sequences
    #[arg(long, default_value_t = 8)]
    pub sequences: usize,
    /// Tokens of one repeat; fits the context by default
    #[arg(long)]
    pub period: Option<usize>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print JSON instead of tables
    #[arg(long)]
    pub json: bool,
    /// Write the result to this file too (its extension says how)
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

impl Common {
    pub fn open(&self) -> Result<(Transformer, Tokenizer)> {
        match &self.model {
            None => Ok((Transformer::mini(), Tokenizer::mini())),
            Some(dir) => Ok((Transformer::open(dir)?, Tokenizer::open(dir)?)),
        }
    }

    /// BOS and a random sequence, given twice.
    pub fn repeated(
        &self,
        model: &Transformer,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<RepeatedPrompt>> {
        let longest = (model.config().n_ctx - 1) / 2;
        let period = self.period.unwrap_or(longest.min(24));
        let repeated = Repeated::new(tokenizer)?.with_bos()?;
        Ok(repeated.prompts(self.sequences, period, 2, self.seed)?)
    }

    /// Writes a text to `--out`, if given.
    pub fn write(&self, make: impl FnOnce(&Path) -> Result<String>) -> Result<()> {
        let Some(path) = &self.out else {
            return Ok(());
        };
        std::fs::write(path, make(path)?).with_context(|| path.display().to_string())?;
        eprintln!("wrote {}", path.display());
        Ok(())
    }
}

/// `0.123 ± 0.004`
pub fn pm((mean, error): (f32, f32)) -> String {
    format!("{mean:.3} ± {error:.3}")
}
