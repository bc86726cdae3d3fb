//! What a journal is of.

use std::path::Path;

use super::VERSION;
use super::record::Header;
use crate::error::Result;
use crate::files::format_error;
use crate::model::Transformer;
use crate::ops::vector_unit;

/// The header of a new journal.
pub(super) fn header(model: &Transformer, study: &str) -> Header {
    Header {
        patchlens_journal: VERSION,
        version: env!("CARGO_PKG_VERSION").to_string(),
        vectors: vector_unit().to_string(),
        model: model.fingerprint().to_string(),
        study: study.to_string(),
        shard: None,
        array: None,
        lacks: None,
    }
}

/// Checks that a journal is what the caller takes it for.
pub(super) fn check_header(path: &Path, found: &Header, expected: &Header) -> Result<()> {
    let same = |what: &str, found: &str, expected: &str| {
        if found == expected {
            return Ok(());
        }
        let found = format!("a journal of {what} `{found}`");
        Err(format_error(path, found, format!("of {what} `{expected}`")))
    };
    same("study", &found.study, &expected.study)?;
    same("model", &found.model, &expected.model)?;
    same("patchlens version", &found.version, &expected.version)?;
    same("vector unit", &found.vectors, &expected.vectors)?;
    let shard = |of: &Header| of.shard.clone().unwrap_or("the whole study".into());
    same("shard", &shard(found), &shard(expected))
}
