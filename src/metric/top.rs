//! The likeliest tokens.

use ndarray::ArrayView1;

use crate::ops::largest;

/// The `k` tokens of the largest logits or probabilities `[d_vocab]` (all of them, if there are
/// fewer), largest first, equal ones by rising id. A token whose number is NaN is left out.
///
/// ```
/// use patchlens::metric::top_tokens;
/// let logits = ndarray::arr2(&[[0.5, 2.0, -1.0, 2.0]]); // [pos, d_vocab]
/// assert_eq!(top_tokens(logits.row(0), 3), [1, 3, 0]);
/// ```
pub fn top_tokens(row: ArrayView1<'_, f32>, k: usize) -> Vec<u32> {
    let tokens: Vec<usize> = (0..row.len()).filter(|t| !row[*t].is_nan()).collect();
    let best = largest(tokens.len(), k, |i| f64::from(row[tokens[i]]));
    best.into_iter().map(|i| tokens[i] as u32).collect()
}
