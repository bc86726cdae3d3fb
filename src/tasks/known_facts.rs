//! Facts from a file in the format of ROME's `known_1000.json`.

use std::path::Path;

use serde::Deserialize;

use super::FactPrompt;
use crate::error::Result;
use crate::files::{format_error, parse_error, read_text};
use crate::tokenizer::Tokenizer;

/// Longest file that is read: a hundred times `known_1000.json`.
const LIMIT: u64 = 64 << 20;

/// One entry; other fields are ignored.
#[derive(Deserialize)]
struct Entry {
    prompt: String,
    subject: String,
    attribute: String,
    #[serde(default)]
    relation_id: Option<String>,
}

/// Facts read from a file: a JSON list of `{"prompt", "subject", "attribute"}`, where `relation_id`
/// may be given too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFacts {
    /// The facts that this tokenizer can express, in the order of the file.
    pub facts: Vec<FactPrompt>,
    /// The others.
    pub skipped: Vec<SkippedFact>,
}

/// A fact that a tokenizer cannot express.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedFact {
    /// Its index in the file.
    pub index: usize,
    /// Its prompt.
    pub text: String,
    /// Why: the subject does not occur once as whole tokens, or the attribute (with a space
    /// before it) is not one token.
    pub reason: String,
}

impl KnownFacts {
    /// Reads a file; with `bos`, every prompt begins with that token. (The authors' code has
    /// none.)
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for anything but such a list, or one without a single
    /// fact that the tokenizer can express; [`Error::Tokenizer`] if it lacks BOS.
    ///
    /// [`Error::Io`]: crate::Error::Io
    /// [`Error::Format`]: crate::Error::Format
    /// [`Error::Tokenizer`]: crate::Error::Tokenizer
    pub fn open(path: impl AsRef<Path>, tokenizer: &Tokenizer, bos: bool) -> Result<Self> {
        let path = path.as_ref();
        let expected = "a JSON list of facts with `prompt`, `subject` and `attribute`";
        let entries: Vec<Entry> = serde_json::from_str(&read_text(path, LIMIT)?)
            .map_err(|error| parse_error(path, error, expected))?;
        if bos {
            tokenizer.bos()?;
        }
        let (mut facts, mut skipped) = (Vec::new(), Vec::new());
        for (index, entry) in entries.iter().enumerate() {
            match entry.fact(tokenizer, bos) {
                Ok(fact) => facts.push(fact),
                Err(error) => skipped.push(SkippedFact {
                    index,
                    text: entry.prompt.clone(),
                    reason: error.to_string(),
                }),
            }
        }
        if facts.is_empty() {
            let first = skipped.first().map_or("it is empty", |s| &s.reason);
            let found = format!("no usable fact among {}: {first}", entries.len());
            return Err(format_error(path, found, expected));
        }
        Ok(KnownFacts { facts, skipped })
    }
}

impl Entry {
    fn fact(&self, tokenizer: &Tokenizer, bos: bool) -> Result<FactPrompt> {
        let attribute = format!(" {}", self.attribute.trim_start());
        let relation = self.relation_id.as_deref().unwrap_or_default();
        let text = self.prompt.trim_end();
        let fact = FactPrompt::new(tokenizer, text, &self.subject, &attribute, relation)?;
        if bos {
            fact.with_bos(tokenizer)
        } else {
            Ok(fact)
        }
    }
}
