//! GPT-2's first files, `vocab.json` and `merges.txt`, as one `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{END_OF_TEXT, MAX_BYTES};
use crate::error::Result;
use crate::files::{UniqueKeys, format_error, parse_error, read_text};

pub(super) const VOCAB: &str = "vocab.json";
const MERGES: &str = "merges.txt";
const ADDED: &str = "added_tokens.json";

/// The bytes of the `tokenizer.json` that a folder lacks.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); [`Error::Format`](crate::Error::Format), also where one of the
/// two files is missing.
pub(super) fn tokenizer_json(dir: &Path) -> Result<Vec<u8>> {
    let (vocab_path, merges_path) = (dir.join(VOCAB), dir.join(MERGES));
    if !(vocab_path.exists() && merges_path.exists()) {
        return Err(no_tokenizer(dir));
    }
    let vocab = token_ids(&vocab_path)?;
    let merges = merges(&merges_path, &vocab)?;
    let mut added = Vec::new();
    if let Some(id) = vocab.get(END_OF_TEXT) {
        added.push(added_token(END_OF_TEXT, *id, true));
    }
    let added_path = dir.join(ADDED);
    if added_path.exists() {
        let mut more: Vec<_> = token_ids(&added_path)?.into_iter().collect();
        more.sort_by_key(|(_, id)| *id);
        let new = more.iter().filter(|(token, _)| token != END_OF_TEXT);
        added.extend(new.map(|(token, id)| added_token(token, *id, false)));
    }
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    Ok(tokenizer.to_string().into_bytes())
}

/// A JSON object of tokens and their ids.
fn token_ids(path: &Path) -> Result<BTreeMap<String, u32>> {
    let text = read_text(path, MAX_BYTES)?;
    let ids: UniqueKeys<u32> = serde_json::from_str(&text)
        .map_err(|error| parse_error(path, error, "a JSON object of tokens and their ids"))?;
    Ok(ids.0)
}

/// The pairs of `merges.txt`, one per line after an optional line `#version: ..`.
fn merges<'v>(path: &Path, vocab: &'v BTreeMap<String, u32>) -> Result<Vec<[&'v str; 2]>> {
    let text = read_text(path, MAX_BYTES)?;
    let token = |text: &str| Some(vocab.get_key_value(text)?.0.as_str());
    let pair = |line: &str| {
        let (left, right) = line.split_once(' ')?;
        token(&format!("{left}{right}"))?;
        Some([token(left)?, token(right)?])
    };
    let lines = text.lines().enumerate();
    let merges =
        lines.filter(|(i, line)| !line.is_empty() && (*i > 0 || !line.starts_with("#version")));
    merges
        .map(|(i, line)| {
            pair(line).ok_or_else(|| {
                let shown: String = line.chars().take(60).collect();
                let found = format!("`{shown}` in line {}", i + 1);
                let expected = format!("two tokens of {VOCAB} that make a third one");
                format_error(path, found, expected)
            })
        })
        .collect()
}

fn added_token(content: &str, id: u32, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": special,
    })
}

/// The error of a folder without tokenizer.
fn no_tokenizer(dir: &Path) -> crate::Error {
    let there = [VOCAB, MERGES].map(|file| dir.join(file).exists());
    let found = match there {
        [true, false] => format!("no such file, and {VOCAB} without {MERGES}"),
        [false, true] => format!("no such file, and {MERGES} without {VOCAB}"),
        _ => format!("no such file, nor {VOCAB} and {MERGES}"),
    };
    let expected = "a tokenizer: `./weights-fetch.sh gpt2` fetches GPT-2's; in Python, \
                    `AutoTokenizer.from_pretrained(NAME).save_pretrained(DIR)` writes one";
    format_error(&dir.join("tokenizer.json"), found, expected)
}
