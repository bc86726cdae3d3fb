//! Small tokenizers made on the spot, and what the tests on them share.
#![allow(dead_code, reason = "every test file uses some of them")]

use std::collections::HashSet;

use patchlens::Tokenizer;
use patchlens::tasks::IoiPrompt;
use serde_json::{Value, json};

/// The built-in model's tokenizer, whether or not it is built in.
pub fn mini() -> Tokenizer {
    let json = patchlens::tasks::mini_tokenizer_json().unwrap();
    Tokenizer::from_bytes(json.as_bytes()).unwrap()
}

/// A `tokenizer.json` of whole words with their leading spaces, without `[UNK]` or BOS.
pub fn word_level_json(words: &[&str]) -> Value {
    let vocab: serde_json::Map<String, Value> = (0..)
        .zip(words)
        .map(|(id, word): (u32, _)| (word.to_string(), id.into()))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": r" ?\p{L}+| ?\d{2}|[\s\S]"},
            "behavior": "Isolated",
            "invert": false
        },
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}
    })
}

pub fn from_json(json: &Value) -> Tokenizer {
    Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

pub fn word_level(words: &[&str]) -> Tokenizer {
    from_json(&word_level_json(words))
}

/// GPT-2's scheme without a single merge: every byte is a token, in the order of its alphabet.
pub fn bytes() -> Tokenizer {
    let printable = |b: &u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let letters = (0..256).filter(printable).chain(256..256 + 68);
    let vocab: serde_json::Map<String, Value> = (0..)
        .zip(letters)
        .map(|(id, c): (u32, _)| (char::from_u32(c).unwrap().to_string(), id.into()))
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    from_json(&json!({
        "version": "1.0",
        "added_tokens": [{
            "id": 256, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true
        }],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []}
    }))
}

pub fn message<T: std::fmt::Debug>(result: patchlens::Result<T>) -> String {
    result.unwrap_err().to_string()
}

pub fn differing(a: &[u32], b: &[u32]) -> Vec<usize> {
    assert_eq!(a.len(), b.len());
    (0..a.len()).filter(|&i| a[i] != b[i]).collect()
}

pub fn name_pairs(prompts: &[IoiPrompt]) -> HashSet<[u32; 2]> {
    let pair = |p: &IoiPrompt| [p.io.min(p.s), p.io.max(p.s)];
    prompts.iter().map(pair).collect()
}
