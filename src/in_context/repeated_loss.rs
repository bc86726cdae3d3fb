//! How well a model predicts repeated random sequences, by position and by half.

use ndarray::Array2;

use crate::error::{Error, Result};
use crate::metric::next_token_loss;
use crate::model::Transformer;
use crate::ops::part;
use crate::prompt::Prompt;
use crate::report::{About, Axis, AxisKind, Labelled};
use crate::statistics::{Estimate, over_first};
use crate::tasks::RepeatedPrompt;

/// How well a model predicts repeated random sequences.
#[derive(Clone, Debug)]
pub struct RepeatedLoss {
    /// Loss of the next token in nats, `[position]`: mean over prompts with standard error.
    pub loss: Labelled,
    /// Share of prompts where the likeliest token is the next one, `[position]`, with its error.
    pub accuracy: Labelled,
    /// Mean loss within the first repeat, with its standard error over prompts.
    pub first_loss: Estimate,
    /// Mean loss where copying predicts the next token, with its standard error.
    pub second_loss: Estimate,
    /// Accuracy where copying predicts the next token, with its standard error.
    pub second_accuracy: Estimate,
    /// First minus second loss: what the repetition gains, with its standard error.
    pub gain: Estimate,
}

/// The logits' rows within the first repeat, BOS's included.
pub(crate) fn first_rows(repeated: &RepeatedPrompt) -> std::ops::Range<usize> {
    0..repeated.start + repeated.period - 1
}

pub(crate) fn check(repeated: &[RepeatedPrompt]) -> Result<()> {
    let first = repeated.first().map_or(0, |r| r.prompt.len());
    for (i, r) in repeated.iter().enumerate() {
        let n = r.prompt.len();
        if r.period < 2 || r.predictable().is_empty() || n != first {
            return Err(Error::Prompt {
                at: format!("repeated sequence {i}"),
                found: format!("{n} tokens with a period of {}", r.period),
                expected: format!("{first} tokens, and two repeats of at least 2 tokens"),
            });
        }
    }
    Ok(())
}

pub(crate) fn mean(values: &[f32]) -> f32 {
    Estimate::of(values.iter().copied()).mean
}

/// Loss and accuracy on repeated random sequences, by position and by half.
///
/// # Errors
/// [`Error::Prompt`] if the sequences differ in length or have less than two repeats; else as
/// [`Transformer::run`].
pub fn repeated_loss(model: &Transformer, repeated: &[RepeatedPrompt]) -> Result<RepeatedLoss> {
    check(repeated)?;
    let prompts: Vec<Prompt> = repeated.iter().map(Prompt::from).collect();
    model.check_prompts(&prompts)?;
    let n = prompts[0].len() - 1;
    let mut losses = Array2::zeros((prompts.len(), n));
    let mut hits = losses.clone();
    for (i, prompt) in prompts.iter().enumerate() {
        let logits = model.forward(prompt)?;
        let (_, per_token) = next_token_loss(logits.view(), &prompt.tokens)?;
        for (t, loss) in per_token.into_iter().enumerate() {
            losses[[i, t]] = loss;
            let row = logits.row(t);
            let own = row[prompt.tokens[t + 1] as usize];
            hits[[i, t]] = f32::from(u8::from(row.iter().filter(|v| **v >= own).count() == 1));
        }
    }
    let halves = |of: &Array2<f32>, rows: &dyn Fn(&RepeatedPrompt) -> std::ops::Range<usize>| {
        let halves = repeated
            .iter()
            .enumerate()
            .map(|(i, r)| mean(&part(of.row(i), 0, rows(r)).to_vec()));
        halves.collect::<Vec<f32>>()
    };
    let first = halves(&losses, &first_rows);
    let second = halves(&losses, &RepeatedPrompt::predictable);
    let gain = first.iter().zip(&second).map(|(a, b)| a - b);
    Ok(RepeatedLoss {
        gain: Estimate::of(gain),
        first_loss: Estimate::of(first),
        second_loss: Estimate::of(second),
        second_accuracy: Estimate::of(halves(&hits, &RepeatedPrompt::predictable)),
        loss: by_position(losses, "Loss on repeated sequences", "loss (nats)")?,
        accuracy: by_position(hits, "Accuracy on repeated sequences", "accuracy")?,
    })
}

fn by_position(values: Array2<f32>, title: &str, unit: &str) -> Result<Labelled> {
    let (mean, error) = over_first(values.view().into_dyn());
    let sequences = values.nrows() as u64;
    let axis =
        Axis::new("position", (0..mean.len()).map(|i| i.to_string())).of_kind(AxisKind::Numbers);
    let about = About {
        title: title.to_string(),
        caption: "At each position, of the token that follows it.".to_string(),
        unit: unit.to_string(),
        counts: [("sequences".to_string(), sequences)].into(),
        ..About::default()
    };
    Labelled::new(mean, vec![axis], about)?.with_std_error(error)
}
