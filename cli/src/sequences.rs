//! Repeated random sequences, on which induction shows.

use anyhow::Result;
use clap::Args;
use patchlens::tasks::{Repeated, RepeatedPrompt};

use crate::numbers;
use crate::session::Session;

/// Options for repeated random sequences.
#[derive(Args, Clone, Debug)]
pub struct Sequences {
    /// Random sequences
    #[arg(long, value_name = "N", help_heading = "Prompts", default_value_t = 8,
        value_parser = numbers::prompts::<usize>())]
    pub sequences: usize,
    /// Tokens of one repeat [default: at most 24, so that two fit the context; of in-context a
    /// third of the late token, at most 50]
    #[arg(long, value_name = "N", help_heading = "Prompts",
        value_parser = numbers::from_1::<usize>())]
    pub period: Option<usize>,
    /// Seed of whatever is drawn
    #[arg(long, help_heading = "Prompts", default_value_t = 0,
        value_parser = numbers::from_0::<u64>())]
    pub seed: u64,
}

impl Sequences {
    /// BOS and a random sequence, given twice.
    ///
    /// # Errors
    /// If they do not fit the context, or the tokenizer has no BOS.
    pub fn repeated(&self, session: &Session) -> Result<Vec<RepeatedPrompt>> {
        let longest = (session.model.config().n_ctx - 1) / 2;
        let period = self.period.unwrap_or(longest.min(24));
        let repeated = Repeated::new(&session.tokenizer)?.with_bos()?;
        Ok(repeated.prompts(self.sequences, period, 2, self.seed)?)
    }
}
