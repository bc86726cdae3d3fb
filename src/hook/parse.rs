//! Hook points by their names.

use std::str::FromStr;

use strsim::levenshtein;

use super::{GLOBALS, HookPoint, Site};
use crate::error::{Error, Result};

impl FromStr for HookPoint {
    type Err = Error;

    /// # Errors
    /// [`Error::UnknownHook`] with the nearest valid name; also for TransformerLens's
    /// `unembed.hook_in`, at which there is no hook.
    fn from_str(name: &str) -> Result<Self> {
        let global = GLOBALS.into_iter().find(|point| point.to_string() == name);
        global
            .or_else(|| parse_block(name))
            .ok_or_else(|| unknown(name))
    }
}

fn unknown(name: &str) -> Error {
    // The one name of TransformerLens for GPT-2 without a counterpart.
    let (point, note) = if name == "unembed.hook_in" {
        let note = " That is the final LayerNorm's output before weight and bias, \
                    `parameters().ln_f`; what follows them is the input of the unembedding, at \
                    which there is no hook.";
        (HookPoint::LnFinalNormalized, note)
    } else {
        (nearest(name), "")
    };
    Error::UnknownHook {
        name: name.to_string(),
        suggestion: point.to_string(),
        note,
    }
}

fn parse_block(name: &str) -> Option<HookPoint> {
    let (layer, site) = name.strip_prefix("blocks.")?.split_once('.')?;
    let site = Site::ALL.iter().find(|s| s.name() == site)?;
    Some(site.at(parse_index(layer)?))
}

/// An index as it prints: `+3` and `03` parse as numbers, but would not print back as they were.
pub(crate) fn parse_index(text: &str) -> Option<usize> {
    let canonical =
        text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| canonical)
}

/// Longer than any name: more of a text would take long to compare, and say nothing.
const COMPARED: usize = 100;

/// The valid name with the smallest edit distance, in the layer that the text seems to mean.
fn nearest(name: &str) -> HookPoint {
    let name: &str = &name.chars().take(COMPARED).collect::<String>();
    let layer = name
        .split(|c: char| !c.is_ascii_digit())
        .find_map(|digits| digits.parse().ok())
        .unwrap_or(0);
    let blocks = Site::ALL.iter().map(|site| site.at(layer));
    GLOBALS
        .into_iter()
        .chain(blocks)
        .min_by_key(|point| {
            let full = point.to_string();
            // Users often give only the last part, as in `hook_z`.
            let last = full.rsplit('.').next().unwrap_or(&full).to_string();
            levenshtein(name, &full).min(1 + levenshtein(name, &last))
        })
        .expect("there are points to choose from")
}
