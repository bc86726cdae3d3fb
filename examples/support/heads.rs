//! What the examples on heads share, and the test of their labels: repeated random sequences, and
//! what knocking heads out costs.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use patchlens::report::Labelled;
use patchlens::tasks::{IoiPrompt, Repeated, RepeatedPrompt};
use patchlens::{Ablation, HeadTask, Prompts, Replacement, Tokenizer, Transformer};

/// Options for repeated random sequences.
#[derive(clap::Args, Debug)]
pub struct Sequences {
    /// Random sequences
    #[arg(long, default_value_t = 8)]
    pub sequences: usize,
    /// Tokens of one repeat [default: at most 24, so that two fit the context;
    /// in_context_learning: a third of the late token, at most 50]
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

/// A spinner on stderr that names what is computed, gone when dropped.
pub struct Stage(ProgressBar);

/// Shows a stage of the work; nothing where stderr is not a terminal.
pub fn stage(what: &str) -> Stage {
    let style = ProgressStyle::with_template("{spinner} {msg}, {elapsed}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style);
    spinner.set_message(what.to_string());
    spinner.enable_steady_tick(Duration::from_millis(100));
    Stage(spinner)
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Words and their counterparts, from lines of two words.
pub struct WordPairs {
    /// First words.
    pub keys: Vec<u32>,
    /// Their counterparts.
    pub values: Vec<u32>,
    /// Lines read.
    pub lines: usize,
    /// What is wrong with the lines left out.
    left_out: Vec<String>,
}

impl WordPairs {
    /// Takes the lines that are two words, each one token with a space before it, and new.
    pub fn read(text: &str, tokenizer: &Tokenizer) -> Self {
        let mut pairs = WordPairs {
            keys: Vec::new(),
            values: Vec::new(),
            lines: text.lines().count(),
            left_out: Vec::new(),
        };
        for (i, line) in text.lines().enumerate() {
            match pairs.pair(line, tokenizer) {
                Ok((key, value)) => {
                    pairs.keys.push(key);
                    pairs.values.push(value);
                }
                Err(reason) => pairs.left_out.push(format!("line {}: {reason}", i + 1)),
            }
        }
        pairs
    }

    fn pair(&self, line: &str, tokenizer: &Tokenizer) -> Result<(u32, u32), String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [key, value] = words[..] else {
            return Err(match words.len() {
                0 => "empty".to_string(),
                n => format!("found {n} words; expected 2"),
            });
        };
        let token = |word: &str, taken: &[u32]| {
            let token = tokenizer.token(&format!(" {word}"));
            let token = token.map_err(|_| format!("{word:?} is not one token"))?;
            if taken.contains(&token) {
                return Err(format!("{word:?} was there before"));
            }
            Ok(token)
        };
        Ok((token(key, &self.keys)?, token(value, &self.values)?))
    }

    /// Says on stderr which lines of a file are left out, and how many are used.
    pub fn tell(&self, path: &Path) {
        const SHOWN: usize = 10;
        for what in self.left_out.iter().take(SHOWN) {
            eprintln!("{}, {what}: left out", path.display());
        }
        let more = self.left_out.len().saturating_sub(SHOWN);
        if more > 0 {
            eprintln!("{}: {more} more lines left out", path.display());
        }
        eprintln!(
            "{}: {} of {} lines used",
            path.display(),
            self.keys.len(),
            self.lines
        );
    }
}

/// What IOI's logit difference loses when each head is knocked out at END: replaced by its mean
/// over prompts of the same template with other names (Wang et al. 2022), `[layer, head]`.
pub fn cost_at_end(
    model: &Transformer,
    clean: &[IoiPrompt],
    others: &[IoiPrompt],
) -> Result<Labelled> {
    let templates = |of: &[IoiPrompt]| of.iter().map(|p| p.template).collect();
    let replacement = Replacement::TemplateMean {
        templates: templates(clean),
        counterfactual: Prompts::new(others)?,
        counterfactual_templates: templates(others),
    };
    let task = HeadTask::ioi(clean);
    let ends = clean.iter().map(|p| vec![p.positions.end]).collect();
    let ablation = Ablation::new(model, clean, replacement)?.with_class("END", ends)?;
    Ok(ablation.heads_at("END", &task.metric)?.lost()?)
}
