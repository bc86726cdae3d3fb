//! What methods over pairs of prompts share: checks, labels of positions, references of metrics.

use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::model::{Run, Transformer};
use crate::prompt::Prompt;

/// The prompts of pairs, checked: all can run, and those of a pair have the same length. `names`
/// say what the two of a pair are called.
///
/// # Errors
/// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run, [`Error::Invalid`]
/// for another number of second prompts, [`Error::Prompt`] for a pair of different lengths.
pub(crate) fn checked_pairs(
    model: &Transformer,
    names: [&str; 2],
    first: &(impl AsRef<[Prompt]> + ?Sized),
    second: &(impl AsRef<[Prompt]> + ?Sized),
) -> Result<(Vec<Prompt>, Vec<Prompt>)> {
    let (first, second) = (first.as_ref(), second.as_ref());
    model.check_prompts(first)?;
    model.check_prompts(second)?;
    let [a, b] = names;
    if first.len() != second.len() {
        let expected = format!("{}, one a {a} prompt", first.len());
        return Err(Error::invalid(
            format!("{b} prompts"),
            second.len(),
            expected,
        ));
    }
    let mut lengths = first.iter().map(Prompt::len).zip(second).enumerate();
    match lengths.find(|(_, (n, prompt))| prompt.len() != *n) {
        None => Ok((first.to_vec(), second.to_vec())),
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
/// the two of a single pair differ.
///
/// # Errors
/// [`Error::Prompt`] if lengths differ.
pub(crate) fn position_labels(
    name: &str,
    first: &[Prompt],
    second: &[Prompt],
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
        match all().all(|prompt| prompt.labels[p] == *a) {
            true => a.clone(),
            false if first.len() == 1 => format!("{a}/{}", b.trim_start()),
            false => "*".to_string(),
        }
    };
    Ok((0..n).map(label).collect())
}

/// The metric, with these prompts' runs as what a KL divergence is measured to.
///
/// # Errors
/// As [`Transformer::run`].
pub(crate) fn with_reference(
    model: &Transformer,
    prompts: &[Prompt],
    metric: &Metric,
) -> Result<Metric> {
    if !metric.lacks_reference() {
        return Ok(metric.clone());
    }
    let logits = model.run(prompts, (), &Run::default())?.logits;
    let views: Vec<_> = logits.iter().collect();
    Ok(metric.clone().with_reference(&views))
}
