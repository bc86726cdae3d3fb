//! Words and their counterparts.

use std::path::Path;

use anyhow::{Result, ensure};
use patchlens::tasks::PairFile;
use patchlens::{Tokenizer, read_text};

use super::{InContext, LARGEST_TEXT};
use crate::output::Output;
use crate::session::Session;

const ANTONYMS: &str = "hot cold\nbig small\nup down\nleft right\nopen closed\nfast slow\n\
    good bad\nrich poor\nyoung old\nhappy sad\nhigh low\nlight dark\nhard soft\nearly late\n\
    strong weak\nlong short\nblack white\nday night\ntrue false\nfull empty";

/// Words and their counterparts, each one token.
#[derive(Default)]
pub struct WordPairs {
    pub keys: Vec<u32>,
    pub values: Vec<u32>,
    /// Entries read.
    of: usize,
    /// What is wrong with the entries left out.
    left_out: Vec<String>,
}

impl WordPairs {
    /// Takes the lines that are two words, each one token with a space before it, and new.
    fn of_lines(text: &str, tokenizer: &Tokenizer) -> Self {
        let mut pairs = WordPairs::default();
        for (i, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let added = match words[..] {
                [key, value] => pairs.add(key, value, tokenizer),
                [] => Err("empty".to_string()),
                _ => Err(format!("found {} words; expected 2", words.len())),
            };
            pairs.note(&format!("line {}", i + 1), added);
        }
        pairs
    }

    /// Takes the inputs and outputs of a file of pairs.
    fn of_file(path: &Path, tokenizer: &Tokenizer) -> Result<Self> {
        let file = PairFile::open(path, tokenizer, false)?;
        let mut pairs = WordPairs::default();
        for skipped in &file.skipped {
            pairs.note("", Err(skipped.to_string()));
        }
        for pair in &file.pairs {
            let added = match pair.answers.first() {
                Some(value) => {
                    let value = tokenizer.token_text(*value);
                    pairs.add(pair.text.trim(), value.trim(), tokenizer)
                }
                None => Err("found an answer of several tokens; expected one".to_string()),
            };
            pairs.note(&format!("pair {}", pair.index), added);
        }
        Ok(pairs)
    }

    fn add(&mut self, key: &str, value: &str, tokenizer: &Tokenizer) -> Result<(), String> {
        let token = |word: &str, taken: &[u32]| {
            let token = tokenizer.token(&format!(" {word}"));
            let token = token.map_err(|_| format!("{word:?} is not one token"))?;
            if taken.contains(&token) {
                Err(format!("{word:?} was there before"))
            } else {
                Ok(token)
            }
        };
        let (key, value) = (token(key, &self.keys)?, token(value, &self.values)?);
        self.keys.push(key);
        self.values.push(value);
        Ok(())
    }

    fn note(&mut self, place: &str, added: Result<(), String>) {
        self.of += 1;
        if let Err(reason) = added {
            let colon = if place.is_empty() { "" } else { ": " };
            self.left_out.push(format!("{place}{colon}{reason}"));
        }
    }

    /// Says on stderr which entries of a file are left out, and how many are used.
    fn tell(&self, path: &Path, output: &Output) {
        const SHOWN: usize = 10;
        for what in self.left_out.iter().take(SHOWN) {
            output.note(format_args!("{}, {what}: left out", path.display()));
        }
        let more = self.left_out.len().saturating_sub(SHOWN);
        if more > 0 {
            output.note(format_args!("{}: {more} more left out", path.display()));
        }
        output.note(format_args!(
            "{}: {} of {} pairs used",
            path.display(),
            self.keys.len(),
            self.of
        ));
    }
}

impl InContext {
    /// The words for function vectors, if the vocabulary has enough of them; too few of a file
    /// that was asked for are an error.
    pub(super) fn words(&self, session: &Session) -> Result<Option<WordPairs>> {
        let (tokenizer, needed) = (&session.tokenizer, self.shots + 1);
        let Some(path) = &self.pairs else {
            let pairs = WordPairs::of_lines(ANTONYMS, tokenizer);
            let enough = pairs.keys.len() >= needed;
            if !enough {
                session.output.say(format_args!(
                    "function vectors from examples: left out, the vocabulary has {} of the {} \
                     antonyms as single tokens, {needed} are needed for {} shots\n",
                    pairs.keys.len(),
                    pairs.of,
                    self.shots
                ))?;
            }
            return Ok(enough.then_some(pairs));
        };
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        let pairs = if ["json", "jsonl", "ndjson"].contains(&extension) {
            WordPairs::of_file(path, tokenizer)?
        } else {
            let text = read_text(path, LARGEST_TEXT)?;
            WordPairs::of_lines(&text, tokenizer)
        };
        pairs.tell(path, &session.output);
        ensure!(
            pairs.keys.len() >= needed,
            "{}: found {} usable pairs among {}; expected at least {needed}, one more than --shots",
            path.display(),
            pairs.keys.len(),
            pairs.of
        );
        Ok(Some(pairs))
    }
}
