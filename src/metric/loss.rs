//! The loss that models are trained by.

use ndarray::ArrayView2;

use crate::error::{Error, Result};
use crate::ops::log_softmax_row;

/// The mean next-token loss of a prompt's logits, in nats, and the loss at each position but the
/// last: `−log p(token[t + 1])` at `t`.
///
/// # Errors
/// [`Error::Prompt`] for fewer than two tokens or another number of logits rows,
/// [`Error::OutOfRange`] for a token that the logits lack.
pub fn next_token_loss(logits: ArrayView2<'_, f32>, tokens: &[u32]) -> Result<(f32, Vec<f32>)> {
    let n = tokens.len();
    if n < 2 || logits.nrows() != n {
        return Err(Error::Prompt {
            at: "next-token loss".to_string(),
            found: format!("{n} tokens and {} rows of logits", logits.nrows()),
            expected: "as many rows as tokens, at least 2".to_string(),
        });
    }
    if let Some(token) = tokens.iter().find(|t| **t as usize >= logits.ncols()) {
        return Err(Error::OutOfRange {
            at: "next-token loss".to_string(),
            axis: "token",
            found: *token as usize,
            expected: format!("0..{}", logits.ncols()),
        });
    }
    let per_token: Vec<f32> = logits
        .rows()
        .into_iter()
        .zip(&tokens[1..])
        .map(|(row, next)| {
            let mut row = row.to_vec();
            log_softmax_row(&mut row);
            -row[*next as usize]
        })
        .collect();
    let sum: f64 = per_token.iter().map(|v| f64::from(*v)).sum();
    Ok(((sum / per_token.len() as f64) as f32, per_token))
}
