//! The lines of a journal: a header, results, an end; each with a checksum of its own.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::content::Key;
use crate::model::{BlockedRow, BlockedRows};

/// Results in a line, at most.
const IN_LINE: usize = 256;

/// What a journal begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// The version of this format. First, so that a file says at once what it is.
    pub patchlens_journal: u32,
    /// Version of the crate.
    pub version: String,
    /// The vector unit.
    pub vectors: String,
    /// The model's fingerprint.
    pub model: String,
    /// What the caller calls the study.
    pub study: String,
    /// Which part of the study it is of, as `3/10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<String>,
    /// The scheduler's array that the part is one of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<String>,
    /// The shards that a merged journal lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<Vec<String>>,
}

/// What is known of one run.
#[derive(Clone, Debug)]
pub(crate) struct Noted {
    pub value: f32,
    /// A second number, for studies that have one.
    pub second: Option<f32>,
    /// The multiply-adds that it took, where they are not known from planning it again.
    pub work: Option<u64>,
    /// Its rows of attention that had nothing to attend to; boxed, as it is rare.
    pub blocked: Option<Box<BlockedRows>>,
}

impl Noted {
    pub fn of(value: f32) -> Self {
        Noted {
            value,
            second: None,
            work: None,
            blocked: None,
        }
    }

    /// Whether both are the same, bit by bit.
    pub fn agrees(&self, other: &Noted) -> bool {
        let bits = |of: &Noted| (of.value.to_bits(), of.second.map(f32::to_bits));
        bits(self) == bits(other) && self.blocked == other.blocked
    }
}

/// A line of a journal after its header.
#[derive(Debug)]
pub(super) enum Line {
    Results(Vec<(Key, Noted)>),
    /// The study was done, with so many results in this file.
    End(usize),
}

/// A line with its checksum and its end.
pub(super) fn sealed(content: &str) -> String {
    format!(
        "{content} #{:016x}\n",
        XxHash3_64::oneshot(content.as_bytes())
    )
}

/// What a line without its end says, if its checksum is right.
pub(super) fn unsealed(line: &[u8]) -> Option<&str> {
    let line = std::str::from_utf8(line).ok()?;
    let (content, _) = line.rsplit_once(" #")?;
    (sealed(content).strip_suffix('\n') == Some(line)).then_some(content)
}

/// Results as lines.
pub(super) fn results(list: &[(Key, Noted)]) -> String {
    let mut lines = String::new();
    for some in list.chunks(IN_LINE) {
        let mut line = "results".to_string();
        for (key, noted) in some {
            let _ = write!(line, " {key}={:08x}", noted.value.to_bits());
            if let Some(second) = noted.second {
                let _ = write!(line, ",{:08x}", second.to_bits());
            }
            if let Some(work) = noted.work {
                let _ = write!(line, "@{work}");
            }
            if let Some(BlockedRows { rows, first }) = noted.blocked.as_deref() {
                let _ = write!(line, ";{rows}");
                if let Some(first) = first {
                    let _ = write!(line, ":{}:{}:{}", first.layer, first.head, first.dest);
                }
            }
        }
        lines += &sealed(&line);
    }
    lines
}

/// The line that says that the study was done.
pub(super) fn end(results: usize) -> String {
    sealed(&format!("end {results}"))
}

impl Line {
    /// Reads what [`results`] or [`end`] wrote, without checksum.
    pub fn parse(content: &str) -> Option<Self> {
        let mut words = content.split(' ');
        match words.next()? {
            "results" => words.map(result).collect::<Option<_>>().map(Line::Results),
            "end" => Some(Line::End(words.next()?.parse().ok()?)),
            _ => None,
        }
    }
}

fn result(word: &str) -> Option<(Key, Noted)> {
    let (key, rest) = word.split_once('=')?;
    let (values, blocked) = match rest.split_once(';') {
        Some((values, blocked)) => (values, Some(blocked)),
        None => (rest, None),
    };
    let (values, work) = match values.split_once('@') {
        Some((values, work)) => (values, Some(work.parse().ok()?)),
        None => (values, None),
    };
    let bits = |text: &str| u32::from_str_radix(text, 16).ok().map(f32::from_bits);
    let (value, second) = match values.split_once(',') {
        Some((value, second)) => (value, Some(bits(second)?)),
        None => (values, None),
    };
    let noted = Noted {
        value: bits(value)?,
        second,
        work,
        blocked: match blocked {
            Some(text) => Some(Box::new(blocked_rows(text)?)),
            None => None,
        },
    };
    Some((Key::parse(key)?, noted))
}

fn blocked_rows(text: &str) -> Option<BlockedRows> {
    let numbers: Option<Vec<usize>> = text.split(':').map(|n| n.parse().ok()).collect();
    match numbers?[..] {
        [rows] => Some(BlockedRows { rows, first: None }),
        [rows, layer, head, dest] => Some(BlockedRows {
            rows,
            first: Some(BlockedRow {
                // The reader knows which one asks.
                prompt: 0,
                layer,
                head,
                dest,
            }),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;

    #[test]
    fn lines_read_what_they_write() {
        let mut content = Content::default();
        let key = |content: &mut Content<'_>, n| {
            content.number(n);
            content.take_key()
        };
        let first = Some(BlockedRow {
            prompt: 0,
            layer: 1,
            head: 2,
            dest: 3,
        });
        let list = [
            (key(&mut content, 0), Noted::of(f32::from_bits(0xffc0_0001))),
            (
                key(&mut content, 1),
                Noted {
                    value: -0.0,
                    second: Some(1.5),
                    work: Some(12),
                    blocked: Some(Box::new(BlockedRows { rows: 4, first })),
                },
            ),
        ];
        let line = results(&list);
        let content = unsealed(line.trim_end().as_bytes()).unwrap();
        let Some(Line::Results(read)) = Line::parse(content) else {
            panic!("{content}");
        };
        for ((key, noted), (own_key, own)) in read.iter().zip(&list) {
            assert_eq!(key, own_key);
            assert!(noted.agrees(own), "{noted:?} {own:?}");
            assert_eq!(noted.work, own.work);
        }
        let end = end(2);
        let end = unsealed(end.trim_end().as_bytes()).and_then(Line::parse);
        assert!(matches!(end, Some(Line::End(2))));
    }

    #[test]
    fn a_changed_byte_shows() {
        let line = sealed("end 12");
        let line = line.trim_end().as_bytes();
        for i in 0..line.len() {
            let mut damaged = line.to_vec();
            damaged[i] ^= 1;
            assert_eq!(unsealed(&damaged), None, "byte {i}");
        }
    }
}
