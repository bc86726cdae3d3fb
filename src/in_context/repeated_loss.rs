//! How well a model predicts repeated random sequences, by position and by half.

use ndarray::Array2;

use crate::error::Result;
use crate::metric::next_token_loss;
use crate::model::Transformer;
use crate::ops::part;
use crate::prompt::Prompt;
use crate::report::{About, Axis, AxisKind, Labelled, labelled_means};
use crate::statistics::{Estimate, mean};
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

/// Loss and accuracy on repeated random sequences, by position and by half.
///
/// # Errors
/// [`Error::Prompt`](crate::Error::Prompt) if the sequences differ in length or have less than two
/// repeats; [`Error::Lacks`](crate::Error::Lacks) for a model whose logits are of other tokens than
/// it reads, or whose positions attend to later ones; else same as [`Transformer::run`].
pub fn repeated_loss(model: &Transformer, repeated: &[RepeatedPrompt]) -> Result<RepeatedLoss> {
    RepeatedPrompt::check_all(repeated)?;
    model
        .config()
        .check_predicts("the loss on repeated sequences")?;
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
            .map(|(i, r)| mean(part(of.row(i), 0, rows(r)).iter().copied()));
        halves.collect::<Vec<f32>>()
    };
    let first = halves(&losses, &RepeatedPrompt::first);
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

/// Means over sequences of `[sequence, position]`.
fn by_position(values: Array2<f32>, title: &str, unit: &str) -> Result<Labelled> {
    let sequences = values.nrows() as u64;
    let axis = Axis::new("position", (0..values.ncols()).map(|i| i.to_string()));
    let axis = axis.of_kind(AxisKind::Numbers);
    let about = About {
        title: title.to_string(),
        caption: "At each position, of the token that follows it.".to_string(),
        unit: unit.to_string(),
        counts: [("sequences".to_string(), sequences)].into(),
        ..About::default()
    };
    labelled_means(values.t().into_dyn(), vec![axis], about)
}
