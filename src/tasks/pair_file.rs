//! Prompt pairs from a file, in the layouts that published code and data sets have.

mod entry;
mod layouts;

use std::collections::BTreeMap;
use std::path::Path;

use layouts::{Entry, Text, read};

use crate::error::{Error, Result};
use crate::files::{format_error, read_text};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

/// Longest file that is read: some forty times the largest published one.
const LIMIT: u64 = 64 << 20;
/// What a file may be.
const LAYOUTS: &str = "prompt pairs as JSON (`{\"prompts\": [{\"clean\", \"corrupt\", \
     \"answers\", \"wrong_answers\"}]}` or a list of `{\"input\", \"output\"}`), as JSON lines of \
     such entries (.jsonl), or as CSV (.csv) with the columns `clean,corrupted,correct_idx,\
     incorrect_idx` or `clean,corrupted,label`";

/// A clean prompt with its right and wrong answers and, where there is one, a corrupted prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptPair {
    /// Its place in the file, counted from 0.
    pub index: usize,
    /// The text of the clean prompt; of one given by token ids, their decoding.
    pub text: String,
    /// The clean prompt.
    pub clean: Prompt,
    /// The corrupted prompt. Entries of `{"input", "output"}` have none.
    pub corrupted: Option<Prompt>,
    /// Right answers, each one token: at least one, or none beside a [`long_answer`].
    ///
    /// [`long_answer`]: Self::long_answer
    pub answers: Vec<u32>,
    /// Wrong answers, each one token; may be empty.
    pub wrong_answers: Vec<u32>,
    /// The one right answer, if it has several tokens. Then both prompts end with all of its tokens
    /// but the last one ([`Prompt::teacher_forced`]), as
    /// [`answer_log_probability`](crate::metric::answer_log_probability) reads it.
    pub long_answer: Option<Vec<u32>>,
}

/// An entry of a file that cannot be used with this tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedPair {
    /// Its place in the file, counted from 0.
    pub index: usize,
    /// Its first line, counted from 1, in files of lines (CSV and JSON lines).
    pub line: Option<usize>,
    /// Why: what was found and what was expected.
    pub reason: String,
}

/// A pair whose two prompts have different numbers of tokens, so that their positions do not
/// correspond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnequalPair {
    /// The pair's place in the file, counted from 0.
    pub index: usize,
    /// Tokens of the clean prompt.
    pub clean: usize,
    /// Tokens of the corrupted prompt.
    pub corrupted: usize,
}

/// Prompt pairs read from a file. Three layouts are known:
///
/// - auto-circuit's JSON: `{"prompts": [{"clean": "..", "corrupt": "..", "answers": [" Mary"],
///   "wrong_answers": [" John"]}]}`, also as a bare list or one entry per line (`.jsonl`); prompts
///   and answers may be token ids. `seq_labels` and `word_idxs` name positions.
/// - EAP-IG's CSV, with `clean,corrupted,correct_idx,incorrect_idx` (token ids) or
///   `clean,corrupted,label`, where `label` is the number of greater-than (Hanna et al. 2023): two
///   digits above it are right, the others wrong.
/// - the function vectors' JSON (Todd et al. 2024): a list of `{"input": "hot", "output": "cold"}`.
///
/// Answers are single tokens. Where every entry of the file has one right answer and no wrong one,
/// answers may have several: each pair's is then [`PromptPair::answer`]. Beside other answers a
/// longer one is a reason to skip the pair, as a difference of two would need two runs.
///
#[cfg_attr(
    feature = "mini",
    doc = r##"
```
use patchlens::Tokenizer;
use patchlens::tasks::PairFile;

let folder = tempfile::tempdir()?;
let path = folder.path().join("pairs.jsonl");
std::fs::write(&path, r#"{"clean": "When Mary and John went to the store, John gave a drink to",
    "corrupt": "When Mary and John went to the store, Mary gave a drink to",
    "answers": [" Mary"], "wrong_answers": [" John"]}"#.replace('\n', " "))?;
let tokenizer = Tokenizer::mini();
let file = PairFile::open(&path, &tokenizer, false)?;
assert_eq!(file.pairs[0].answers, [tokenizer.token(" Mary")?]);
assert!(file.skipped.is_empty() && file.unequal().is_empty());
# Ok::<(), Box<dyn std::error::Error>>(())
```
"##
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFile {
    /// What this tokenizer can express, in the order of the file.
    pub pairs: Vec<PromptPair>,
    /// The other entries.
    pub skipped: Vec<SkippedPair>,
    /// Names of positions, where the file has them (`seq_labels`); only for prompts as long as
    /// this.
    pub labels: Option<Vec<String>>,
    /// Positions of words that the file names (`word_idxs`).
    pub words: BTreeMap<String, usize>,
    /// Columns and fields that nothing is read from, by name.
    pub ignored: Vec<String>,
}

impl PromptPair {
    /// A pair from texts; with `bos`, both prompts begin with that token. Answers are single
    /// tokens, usually with a space before them: `" Mary"`. One right answer without a wrong one may
    /// have several.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] for a text that the tokenizer cannot tell, or an answer of several
    /// tokens beside others; [`Error::Invalid`] without a right answer, or for a token that is right
    /// and wrong.
    pub fn new(
        tokenizer: &Tokenizer,
        clean: &str,
        corrupted: Option<&str>,
        answers: &[String],
        wrong_answers: &[String],
        bos: bool,
    ) -> Result<Self> {
        let text = |text: &str| Text::Words(text.to_string());
        let all = |of: &[String]| of.iter().map(|answer| text(answer)).collect();
        let entry = Entry {
            clean: text(clean),
            corrupted: corrupted.map(text),
            answers: all(answers),
            wrong_answers: all(wrong_answers),
        };
        entry.pair(0, tokenizer, bos, entry.is_one_answer())
    }

    /// The tokens of the right answer, if there is only one.
    pub fn answer(&self) -> Option<&[u32]> {
        let single = (self.answers.len() == 1).then_some(&self.answers[..]);
        self.long_answer.as_deref().or(single)
    }

    /// Whether the two prompts have as many tokens as each other, or there is only one.
    pub fn is_equal_length(&self) -> bool {
        let corrupted = self.corrupted.as_ref().unwrap_or(&self.clean);
        corrupted.len() == self.clean.len()
    }
}

impl PairFile {
    /// Reads a file; with `bos`, every prompt begins with that token.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Format`] for anything but the layouts above, for more than 64 MiB,
    /// or for a file without a single pair that the tokenizer can express; [`Error::Tokenizer`] if
    /// it lacks BOS.
    pub fn open(path: impl AsRef<Path>, tokenizer: &Tokenizer, bos: bool) -> Result<Self> {
        let path = path.as_ref();
        let text = read_text(path, LIMIT)?;
        let read = read(path, text.trim_start_matches('\u{feff}'))
            .map_err(|found| format_error(path, found, LAYOUTS))?;
        if bos {
            tokenizer.bos()?;
        }
        let mut entries = read
            .entries
            .iter()
            .filter_map(|(_, entry)| entry.as_ref().ok());
        let long = entries.all(Entry::is_one_answer);
        let (mut pairs, mut skipped) = (Vec::new(), Vec::new());
        for (index, (line, entry)) in read.entries.into_iter().enumerate() {
            let pair = entry.and_then(|entry| {
                let pair = entry.pair(index, tokenizer, bos, long);
                pair.map_err(|error| error.to_string())
            });
            match pair {
                Ok(pair) => pairs.push(pair),
                Err(reason) => skipped.push(SkippedPair {
                    index,
                    line,
                    reason,
                }),
            }
        }
        if pairs.is_empty() {
            let found = match skipped.first() {
                Some(first) => format!("no usable pair among {}: {first}", skipped.len()),
                None => "no pairs".to_string(),
            };
            return Err(format_error(path, found, LAYOUTS));
        }
        let mut file = PairFile {
            pairs,
            skipped,
            labels: read.labels,
            words: read.words,
            ignored: read.ignored,
        };
        if bos {
            file.shift(tokenizer.token_label(tokenizer.bos()?));
        }
        Ok(file)
    }

    /// Makes room for BOS in the names of positions.
    fn shift(&mut self, bos: String) {
        if let Some(labels) = &mut self.labels {
            labels.insert(0, bos);
        }
        self.words.values_mut().for_each(|position| *position += 1);
    }

    /// The pairs whose two prompts differ in their number of tokens: none of these can be patched
    /// position by position.
    pub fn unequal(&self) -> Vec<UnequalPair> {
        let unequal = self.pairs.iter().filter_map(|pair| {
            let (clean, corrupted) = (pair.clean.len(), pair.corrupted.as_ref()?.len());
            (clean != corrupted).then_some(UnequalPair {
                index: pair.index,
                clean,
                corrupted,
            })
        });
        unequal.collect()
    }

    /// The number of tokens that all prompts share.
    ///
    /// # Errors
    /// [`Error::Prompt`] with a list of lengths and of the pairs that have them, if they differ:
    /// then a result cannot have an axis of positions.
    pub fn common_len(&self) -> Result<usize> {
        let mut lengths: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for pair in &self.pairs {
            let mut both = vec![pair.clean.len()];
            both.extend(pair.corrupted.as_ref().map(Prompt::len));
            both.dedup();
            for length in both {
                lengths.entry(length).or_default().push(pair.index);
            }
        }
        match lengths.keys().collect::<Vec<_>>()[..] {
            [length] => Ok(*length),
            _ => Err(Error::Prompt {
                at: "prompt pairs by position".to_string(),
                found: listed(&lengths),
                expected: "one length, so that positions correspond; by head, lengths may differ \
                           from pair to pair"
                    .to_string(),
            }),
        }
    }
}

/// `14 tokens (pairs 0, 2), 15 tokens (pair 1)`, of many pairs the first.
fn listed(lengths: &BTreeMap<usize, Vec<usize>>) -> String {
    const SHOWN: usize = 8;
    let one = |(length, pairs): (&usize, &Vec<usize>)| {
        let shown: Vec<String> = pairs.iter().take(SHOWN).map(usize::to_string).collect();
        let more = match pairs.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let pairs = if pairs.len() == 1 { "pair" } else { "pairs" };
        format!("{length} tokens ({pairs} {}{more})", shown.join(", "))
    };
    lengths.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl std::fmt::Display for SkippedPair {
    /// `pair 3 (line 5): right answer: ...`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = self.line.map(|line| format!(" (line {line})"));
        let line = line.unwrap_or_default();
        write!(f, "pair {}{line}: {}", self.index, self.reason)
    }
}

impl std::fmt::Display for UnequalPair {
    /// `pair 3: 14 tokens clean, 15 corrupted`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "pair {}: {} tokens clean, {} corrupted",
            self.index, self.clean, self.corrupted
        )
    }
}
