//! What the examples on heads share: repeated random sequences.

use anyhow::Result;
use patchlens::tasks::{Repeated, RepeatedPrompt};
use patchlens::{Tokenizer, Transformer};

/// Options for repeated random sequences.
#[derive(clap::Args, Debug)]
pub struct Sequences {
    /// Random sequences
    #[arg(long, default_value_t = 8)]
    pub sequences: usize,
    /// Tokens of one repeat [default: at most 24, so that two fit the context]
    #[arg(long)]
    pub period: Option<usize>,
}

impl Sequences {
    /// BOS and a random sequence, given twice.
    pub fn repeated(
        &self,
        model: &Transformer,
        tokenizer: &Tokenizer,
        seed: u64,
    ) -> Result<Vec<RepeatedPrompt>> {
        let longest = (model.config().n_ctx - 1) / 2;
        let period = self.period.unwrap_or(longest.min(24));
        let repeated = Repeated::new(tokenizer)?.with_bos()?;
        Ok(repeated.prompts(self.sequences, period, 2, seed)?)
    }
}

/// `0.123 ± 0.004`
pub fn pm((mean, error): (f32, f32)) -> String {
    format!("{mean:.3} ± {error:.3}")
}
