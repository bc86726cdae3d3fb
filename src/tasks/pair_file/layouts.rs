//! The layouts of files of prompt pairs, as entries that no tokenizer has seen yet.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::files::UniqueKeys;

/// A prompt or an answer.
#[derive(Clone, Debug)]
pub(super) enum Text {
    Words(String),
    Ids(Vec<u32>),
}

/// One pair as the file has it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub clean: Text,
    pub corrupted: Option<Text>,
    pub answers: Vec<Text>,
    pub wrong_answers: Vec<Text>,
}

/// An entry, or why it is none.
type Read = Result<Entry, String>;

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Entries with the line that they begin in, where lines count.
    pub entries: Vec<(Option<usize>, Read)>,
    pub labels: Option<Vec<String>>,
    pub words: BTreeMap<String, usize>,
    pub ignored: Vec<String>,
}

/// Reads a file by its extension: CSV, JSON lines, else JSON.
///
/// # Errors
/// What was found, for a text that is none of them.
pub(super) fn read(path: &Path, text: &str) -> Result<Contents, String> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
    match extension.to_ascii_lowercase().as_str() {
        "csv" => csv(text),
        "jsonl" | "ndjson" => Ok(json_lines(text)),
        _ => json(text),
    }
}

type Object = UniqueKeys<Value>;

/// Takes an object's fields one by one; what is left has not been read.
struct Fields {
    left: BTreeMap<String, Value>,
}

impl Fields {
    /// The value of a field under one of its names.
    ///
    /// # Errors
    /// If it stands there under two of them.
    fn take(&mut self, names: &[&str]) -> Result<Option<Value>, String> {
        let mut found = names.iter().filter_map(|name| self.left.remove(*name));
        let first = found.next().filter(|value| !value.is_null());
        match found.next() {
            Some(_) => Err(format!("more than one of `{}`", names.join("`, `"))),
            None => Ok(first),
        }
    }

    fn need(&mut self, names: &[&str]) -> Result<Value, String> {
        let missing = || {
            let others = self.left.keys().map(String::as_str).collect::<Vec<_>>();
            format!("no `{}` among the fields [{}]", names[0], others.join(", "))
        };
        let missing = missing();
        self.take(names)?.ok_or(missing)
    }
}

fn json_lines(text: &str) -> Contents {
    let mut contents = Contents::default();
    let mut ignored = BTreeSet::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let object: Result<Object, _> = serde_json::from_str(line);
        let entry = match object {
            Ok(UniqueKeys(left)) => entry(Fields { left }, &mut ignored),
            Err(error) => Err(error.to_string()),
        };
        contents.entries.push((Some(i + 1), entry));
    }
    contents.ignored = ignored.into_iter().collect();
    contents
}

/// auto-circuit's outer object.
#[derive(Deserialize)]
struct Outer {
    prompts: Vec<Object>,
    seq_labels: Option<Vec<String>>,
    /// `u32`, so that there is room for BOS before any of them.
    word_idxs: Option<UniqueKeys<u32>>,
    #[serde(flatten)]
    others: BTreeMap<String, IgnoredAny>,
}

fn json(text: &str) -> Result<Contents, String> {
    let text = text.trim();
    let mut contents = Contents::default();
    let mut ignored = BTreeSet::new();
    let list: Vec<Object> = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        let outer: Outer = serde_json::from_str(text).map_err(|error| error.to_string())?;
        contents.labels = outer.seq_labels;
        let words = outer.word_idxs.into_iter().flat_map(|words| words.0);
        contents.words = words.map(|(word, at)| (word, at as usize)).collect();
        ignored.extend(outer.others.into_keys());
        outer.prompts
    };
    for UniqueKeys(left) in list {
        let entry = entry(Fields { left }, &mut ignored);
        contents.entries.push((None, entry));
    }
    contents.ignored = ignored.into_iter().collect();
    Ok(contents)
}

/// An entry of JSON: a pair, or an input with its output.
fn entry(mut fields: Fields, ignored: &mut BTreeSet<String>) -> Read {
    let entry = if fields.left.contains_key("input") {
        let answer = texts("output", fields.need(&["output"])?)?;
        Entry {
            clean: text("input", fields.need(&["input"])?)?,
            corrupted: None,
            answers: answer.into_iter().map(after_space).collect(),
            wrong_answers: Vec::new(),
        }
    } else {
        let clean = text("clean", fields.need(&["clean"])?)?;
        let corrupted = fields.take(&["corrupt", "corrupted"])?;
        let answers = fields.need(&["answers", "answer"])?;
        let wrong = fields.take(&["wrong_answers", "wrong_answer"])?;
        Entry {
            clean,
            corrupted: corrupted.map(|value| text("corrupt", value)).transpose()?,
            answers: texts("answers", answers)?,
            wrong_answers: match wrong {
                Some(value) => texts("wrong_answers", value)?,
                None => Vec::new(),
            },
        }
    };
    ignored.extend(fields.left.into_keys());
    Ok(entry)
}

/// Outputs of words come without the space that stands before them in a prompt.
fn after_space(text: Text) -> Text {
    match text {
        Text::Words(words) => Text::Words(spaced(&words)),
        ids => ids,
    }
}

/// An answer as it stands after a word.
pub(super) fn spaced(text: &str) -> String {
    format!(" {}", text.trim_start())
}

/// A prompt: words or token ids.
fn text(field: &str, value: Value) -> Result<Text, String> {
    match value {
        Value::String(words) => Ok(Text::Words(words)),
        Value::Array(ids) => {
            let ids: Result<Vec<u32>, String> = ids.iter().map(|v| id(field, v)).collect();
            Ok(Text::Ids(ids?))
        }
        other => Err(format!(
            "`{field}`: found {other}; expected a text or a list of token ids"
        )),
    }
}

/// Answers: a list of words, token ids or lists of ids, or one word or id.
fn texts(field: &str, value: Value) -> Result<Vec<Text>, String> {
    let one = |value: Value| match value {
        words_or_ids @ (Value::String(_) | Value::Array(_)) => text(field, words_or_ids),
        other => id(field, &other).map(|id| Text::Ids(vec![id])),
    };
    match value {
        Value::Array(list) => list.into_iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

fn id(field: &str, value: &Value) -> Result<u32, String> {
    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| format!("`{field}`: found {value}; expected a text or a token id"))
}

/// What a CSV file's answers are read from.
enum Answers {
    Ids { right: usize, wrong: usize },
    Label(usize),
}

fn csv(text: &str) -> Result<Contents, String> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader.headers().map_err(|e| e.to_string())?.clone();
    let column = |name: &str| -> Result<Option<usize>, String> {
        let mut found = (0..header.len()).filter(|i| header[*i].trim() == name);
        let first = found.next();
        match found.next() {
            Some(_) => Err(format!("two columns `{name}`")),
            None => Ok(first),
        }
    };
    let names = || header.iter().collect::<Vec<_>>().join(",");
    let need = |name: &str| column(name)?.ok_or(format!("no `{name}` in the columns {}", names()));
    let (clean, corrupted) = (need("clean")?, need("corrupted")?);
    let answers = match (column("correct_idx")?, column("incorrect_idx")?) {
        (Some(right), Some(wrong)) => Answers::Ids { right, wrong },
        _ => Answers::Label(need("label").map_err(|_| {
            let names = names();
            format!("neither `correct_idx,incorrect_idx` nor `label` in the columns {names}")
        })?),
    };
    let used = match answers {
        Answers::Ids { right, wrong } => vec![clean, corrupted, right, wrong],
        Answers::Label(label) => vec![clean, corrupted, label],
    };
    let others = (0..header.len()).filter(|i| !used.contains(i));
    let mut contents = Contents {
        ignored: others.map(|i| header[i].to_string()).collect(),
        ..Contents::default()
    };
    for record in reader.records() {
        let (line, entry) = match record {
            Ok(record) => {
                let line = record.position().map(csv::Position::line);
                let words = |column: usize| Text::Words(record[column].to_string());
                let entry = answers.read(&record).map(|[answers, wrong_answers]| Entry {
                    clean: words(clean),
                    corrupted: Some(words(corrupted)),
                    answers,
                    wrong_answers,
                });
                (line, entry)
            }
            Err(error) => (
                error.position().map(csv::Position::line),
                Err(error.to_string()),
            ),
        };
        let line = line.and_then(|line| usize::try_from(line).ok());
        contents.entries.push((line, entry));
    }
    Ok(contents)
}

impl Answers {
    /// Right and wrong answers of a record.
    fn read(&self, record: &csv::StringRecord) -> Result<[Vec<Text>; 2], String> {
        match self {
            Answers::Ids { right, wrong } => {
                let id = |name: &str, column: usize| {
                    let found = record[column].trim();
                    let id = found.parse().map(|id| vec![Text::Ids(vec![id])]);
                    id.map_err(|_| format!("`{name}`: found {found:?}; expected a token id"))
                };
                Ok([id("correct_idx", *right)?, id("incorrect_idx", *wrong)?])
            }
            Answers::Label(column) => {
                let found = record[*column].trim();
                let year = found.parse().ok().filter(|year| *year < 99);
                let year: u32 = year.ok_or_else(|| {
                    format!("`label`: found {found:?}; expected a year's last digits, 0 to 98")
                })?;
                let digits =
                    |of: std::ops::Range<u32>| of.map(|n| Text::Words(format!("{n:02}"))).collect();
                Ok([digits(year + 1..100), digits(0..year + 1)])
            }
        }
    }
}
