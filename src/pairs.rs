//! What methods over pairs of prompts share: checks, captions, labels of positions.

use crate::base::Base;
use crate::error::{Error, Result};
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompt, Prompts};

/// The base runs of pairs of prompts, the second ones as lanes over the first. `names` say what
/// the two of a pair are called.
///
/// # Errors
/// Same as [`Base::new`] and [`check_pairs`].
pub(crate) fn pairs<'m>(
    model: &'m Transformer,
    names: [&str; 2],
    first: impl IntoPrompts,
    second: impl IntoPrompts,
) -> Result<[Base<'m>; 2]> {
    let (first, second) = (Base::new(model, first)?, second.into_prompts()?);
    check_pairs(names, first.prompts(), &second)?;
    let second = Base::over(&first, second, Vec::new())?;
    Ok([first, second])
}

/// Checks that there are as many prompts of both kinds, and those of each pair have one length.
///
/// # Errors
/// [`Error::Invalid`] for another number of second prompts, [`Error::Prompt`] for a pair of
/// different lengths.
pub(crate) fn check_pairs(names: [&str; 2], first: &Prompts, second: &Prompts) -> Result<()> {
    let [a, b] = names;
    if first.len() != second.len() {
        let expected = format!("{}, one per {a} prompt", first.len());
        let what = format!("{b} prompts");
        return Err(Error::invalid(what, second.len(), expected));
    }
    let mut lengths = first.iter().map(Prompt::len).zip(second).enumerate();
    match lengths.find(|(_, (n, prompt))| prompt.len() != *n) {
        None => Ok(()),
        Some((i, (n, prompt))) => Err(Error::Prompt {
            at: format!("{b} prompt {i}"),
            found: format!("{} tokens", prompt.len()),
            expected: format!("{n} as the {a} prompt, so that positions correspond"),
        }),
    }
}

/// `32 prompt pairs`, as captions have it.
pub(crate) fn count_pairs(pairs: usize) -> String {
    format!("{pairs} prompt pair{}", if pairs == 1 { "" } else { "s" })
}

/// Labels of the positions of pairs of one length: a token where all prompts agree, both where
/// the two of a single pair differ. `name` is what the first prompts are called.
///
/// # Errors
/// [`Error::Prompt`] if lengths differ.
pub(crate) fn position_labels(
    name: &str,
    first: &Prompts,
    second: &Prompts,
) -> Result<Vec<String>> {
    let n = first[0].len();
    if let Some(i) = first.iter().position(|p| p.len() != n) {
        return Err(Error::Prompt {
            at: format!("{name} prompt {i}"),
            found: format!("{} tokens", first[i].len()),
            expected: format!("{n} as prompt 0: this grid has a position axis"),
        });
    }
    let all = || first.iter().chain(second);
    let label = |p: usize| {
        let (a, b) = (&first[0].labels[p], &second[0].labels[p]);
        if all().all(|prompt| prompt.labels[p] == *a) {
            a.clone()
        } else if first.len() == 1 {
            format!("{a}/{}", b.trim_start())
        } else {
            "(differs)".to_string()
        }
    };
    Ok((0..n).map(label).collect())
}
