//! What is traced: a prompt and where its subject stands.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tasks::{FactPrompt, subject_span};
use crate::tokenizer::Tokenizer;

/// A fact to trace. One from text is a [`FactPrompt`], which converts into this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedFact {
    /// The text up to the answer; of an answer of several tokens, up to its last one.
    pub prompt: Prompt,
    /// Positions of the subject's tokens.
    pub subject: Range<usize>,
    /// The right answer, where known.
    pub attribute: Option<Vec<u32>>,
}

impl From<&FactPrompt> for TracedFact {
    fn from(fact: &FactPrompt) -> Self {
        TracedFact {
            prompt: fact.prompt.clone(),
            subject: fact.subject.clone(),
            attribute: Some(vec![fact.attribute]),
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

    /// A text, whose subject is the part that is given; with `bos`, the prompt begins with that
    /// token.
    ///
    /// # Errors
    /// Same as [`FactPrompt::new`]; [`Error::Tokenizer`] without a BOS token that is asked for.
    pub fn from_text(tokenizer: &Tokenizer, text: &str, subject: &str, bos: bool) -> Result<Self> {
        let prompt = tokenizer.encode(text)?;
        let span = subject_span(tokenizer, &prompt, text, subject)?;
        if !bos {
            return Self::new(prompt, span);
        }
        let prompt_with_bos = tokenizer.encode_with_bos(text)?;
        let before = prompt_with_bos.len() - prompt.len();
        Self::new(prompt_with_bos, span.start + before..span.end + before)
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

    /// The same fact with its right answer, one token, which decides whether the model knows it.
    #[must_use]
    pub fn with_attribute(mut self, attribute: u32) -> Self {
        self.attribute = Some(vec![attribute]);
        self
    }

    /// The same fact with its right answer of one token or several, whose probability is then
    /// traced: the product of its tokens' probabilities, each after the ones before it. The
    /// prompt is followed by all of them but the last ([`Prompt::teacher_forced`]).
    #[must_use]
    pub fn with_answer(mut self, answer: &Prompt) -> Self {
        self.prompt = self.prompt.teacher_forced(answer);
        self.attribute = Some(answer.tokens.clone());
        self
    }

    /// How many tokens the answer has; one if it is not known.
    pub(super) fn answer_len(&self) -> usize {
        self.attribute
            .as_ref()
            .map_or(1, |tokens| tokens.len().max(1))
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
