//! What is traced: a prompt and where its subject stands.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tasks::FactPrompt;

/// A fact to trace. One from text is a [`FactPrompt`], which converts into this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedFact {
    /// The text up to the answer.
    pub prompt: Prompt,
    /// Positions of the subject's tokens.
    pub subject: Range<usize>,
    /// The right answer, where known.
    pub attribute: Option<u32>,
}

impl From<&FactPrompt> for TracedFact {
    fn from(fact: &FactPrompt) -> Self {
        TracedFact {
            prompt: fact.prompt.clone(),
            subject: fact.subject.clone(),
            attribute: Some(fact.attribute),
        }
    }
}

impl TracedFact {
    /// A prompt whose subject stands at these positions.
    ///
    /// # Errors
    /// [`Error::Prompt`] if they are empty or beyond the prompt.
    pub fn new(prompt: Prompt, subject: Range<usize>) -> Result<Self> {
        if subject.is_empty() || subject.end > prompt.len() {
            return Err(Error::Prompt {
                at: "subject".to_string(),
                found: format!("positions {subject:?}"),
                expected: format!("at least one of the prompt's positions 0..{}", prompt.len()),
            });
        }
        Ok(TracedFact {
            prompt,
            subject,
            attribute: None,
        })
    }

    /// A prompt whose subject is these tokens.
    ///
    /// # Errors
    /// [`Error::Prompt`] if they do not occur in the prompt, or more than once.
    pub fn from_tokens(prompt: Prompt, subject: &[u32]) -> Result<Self> {
        let starts: Vec<usize> = (0..prompt.len())
            .filter(|start| !subject.is_empty() && prompt.tokens[*start..].starts_with(subject))
            .collect();
        match starts[..] {
            [start] => Self::new(prompt, start..start + subject.len()),
            _ => Err(Error::Prompt {
                at: format!("subject {subject:?}"),
                found: match starts.len() {
                    0 => "no such tokens in the prompt".to_string(),
                    n => format!("{n} occurrences, at positions {starts:?}"),
                },
                expected: "the subject exactly once; `TracedFact::new` takes positions".to_string(),
            }),
        }
    }

    /// The same fact with its right answer, which decides whether the model knows it.
    #[must_use]
    pub fn with_attribute(mut self, attribute: u32) -> Self {
        self.attribute = Some(attribute);
        self
    }

    /// The subject's tokens.
    pub fn subject_tokens(&self) -> &[u32] {
        &self.prompt.tokens[self.subject.clone()]
    }

    /// The tokens' labels, the subject's marked by `*` as in the paper's figures.
    pub(super) fn labels(&self) -> Vec<String> {
        let labels = self.prompt.labels.iter().enumerate();
        labels
            .map(|(i, label)| {
                let mark = if self.subject.contains(&i) { "*" } else { "" };
                format!("{label}{mark}")
            })
            .collect()
    }

    pub(super) fn check(&self, d_vocab: usize) -> Result<()> {
        Self::new(self.prompt.clone(), self.subject.clone())?;
        match self.prompt.tokens.iter().find(|t| **t as usize >= d_vocab) {
            Some(token) => Err(Error::OutOfRange {
                at: "fact".to_string(),
                axis: "token",
                found: *token as usize,
                expected: format!("0..{d_vocab}"),
            }),
            None => Ok(()),
        }
    }
}
