//! The facts that a study is about: built in, of a file, or given as options.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use patchlens::Tokenizer;
use patchlens::tasks::{FactPrompt, Facts, KnownFacts, SkippedFact, Split};
use patchlens::tracing::TracedFact;

use crate::numbers;
use crate::output::Output;
use crate::usage::usage;

/// A fact and its text.
#[derive(Clone, Debug)]
pub struct Fact {
    pub text: String,
    pub traced: TracedFact,
}

impl From<&FactPrompt> for Fact {
    fn from(fact: &FactPrompt) -> Self {
        Fact {
            text: fact.text.clone(),
            traced: fact.into(),
        }
    }
}

/// Which facts.
#[derive(Args, Clone, Debug)]
pub struct FactArgs {
    /// Your own fact, up to its answer
    #[arg(long, value_name = "TEXT", requires_all = ["subject", "answer"])]
    clean: Option<String>,
    /// The subject in it
    #[arg(
        long,
        value_name = "TEXT",
        requires = "clean",
        conflicts_with = "facts"
    )]
    subject: Option<String>,
    /// The right answer, with its space: " tennis"; of several tokens, all of it is traced
    #[arg(
        long,
        value_name = "TEXT",
        requires = "clean",
        conflicts_with = "facts"
    )]
    answer: Option<String>,
    /// A JSON list of {prompt, subject, attribute} [default: facts that the shipped model learnt]
    #[arg(long, value_name = "FILE", conflicts_with = "clean")]
    facts: Option<PathBuf>,
    /// How many facts, spread evenly over all
    #[arg(long, value_name = "N", default_value_t = 60, visible_alias = "limit",
        value_parser = numbers::from_1::<usize>())]
    prompts: usize,
    /// Begin every prompt with the begin-of-text token
    #[arg(long)]
    bos: bool,
}

impl FactArgs {
    /// The facts, and those of a file that cannot be expressed with the tokenizer; `shipped` says
    /// whether they are for the model that the library ships.
    ///
    /// # Errors
    /// For facts that cannot run, and where none are named for a model of one's own.
    pub fn read(
        &self,
        tokenizer: &Tokenizer,
        shipped: bool,
        output: &Output,
    ) -> Result<(Vec<Fact>, Vec<SkippedFact>)> {
        if !shipped && self.facts.is_none() && self.clean.is_none() {
            return Err(usage("--model needs --facts FILE, or --clean with a fact"));
        }
        let (all, skipped) = match (&self.clean, &self.facts) {
            (Some(text), _) => (vec![self.own(text, tokenizer)?], Vec::new()),
            (None, Some(path)) => {
                let known = KnownFacts::open(path, tokenizer, self.bos)?;
                (known.facts.iter().map(Fact::from).collect(), known.skipped)
            }
            (None, None) => {
                let facts = Facts::new(tokenizer)?.split(Split::Train);
                let facts = if self.bos { facts.with_bos()? } else { facts };
                (facts.all()?.iter().map(Fact::from).collect(), Vec::new())
            }
        };
        let n = self.prompts.min(all.len());
        output.say(format_args!(
            "Facts: {} of {} can be expressed with this tokenizer; {n} of them are used.",
            all.len(),
            all.len() + skipped.len()
        ))?;
        for fact in skipped.iter().take(5) {
            output.note(format_args!(
                "fact {} left out: {}",
                fact.index, fact.reason
            ));
        }
        if skipped.len() > 5 {
            output.note(format_args!(
                "... and {} more, see --json",
                skipped.len() - 5
            ));
        }
        let spread = (0..n).map(|i| all[i * all.len() / n].clone());
        Ok((spread.collect(), skipped))
    }
}

impl FactArgs {
    /// The one fact of the options.
    fn own(&self, text: &str, tokenizer: &Tokenizer) -> Result<Fact> {
        let subject = self.subject.as_deref().unwrap_or_default();
        let answer = self.answer.as_deref().unwrap_or_default();
        let traced = TracedFact::from_text(tokenizer, text, subject, self.bos)?;
        Ok(Fact {
            text: text.to_string(),
            traced: traced.with_answer(&tokenizer.encode(answer).context("--answer")?),
        })
    }
}

/// The layers of a window that was asked for; by default so many, or a quarter of a small model's.
pub fn window(asked: Option<usize>, most: usize, n_layers: usize) -> usize {
    asked.unwrap_or(most.min((n_layers / 4).max(1)))
}
