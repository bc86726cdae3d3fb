//! By how much a tokenizer may lengthen texts: replacements that multiply would fill the memory with
//! a text of a few words, which no guard can catch.

use std::path::Path;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::Result;
use crate::files::{format_error, parse_error};

/// Real ones replace a space by `▁`, three bytes, and a quotation mark or two.
const MOST: usize = 4096;

/// Checks that a normalizer's or a decoder's replacements, one after the other, make no more than
/// [`MOST`] bytes of one.
pub(super) fn check(path: &Path, part: &str, json: &RawValue) -> Result<()> {
    let value: Value = serde_json::from_str(json.get())
        .map_err(|error| parse_error(path, error, format!("a {part}")))?;
    if factor(&value) <= MOST {
        return Ok(());
    }
    let found = format!("a {part} whose replacements may make more than {MOST} bytes of one");
    Err(format_error(path, found, "replacements of a few bytes"))
}

/// Bytes that may be made of one.
fn factor(part: &Value) -> usize {
    let all = |parts: &mut dyn Iterator<Item = &Value>| {
        let factors = parts.map(factor);
        factors.fold(1, |product: usize, factor| product.saturating_mul(factor))
    };
    match part {
        Value::Array(parts) => all(&mut parts.iter()),
        Value::Object(fields) => {
            let within = all(&mut fields.values());
            let replaces = fields.get("type").is_some_and(|kind| kind == "Replace");
            // A pattern may match between any two bytes.
            let content = fields.get("content").and_then(Value::as_str);
            let own = content
                .filter(|_| replaces)
                .map_or(1, |text| text.len() + 1);
            within.saturating_mul(own)
        }
        _ => 1,
    }
}
