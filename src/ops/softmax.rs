//! Softmax over a row.

use ndarray::ArrayView1;

use super::rows::assert_shape;
use super::simd::{dot, exp, reduce, sum, vectorized};

/// Softmax in place. Entries of −∞ become exactly 0, and trailing ones do not change the bits of
/// the others. A row of only −∞ becomes NaN.
pub fn softmax_row(row: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            softmax(row);
        },
    );
}

/// Softmax of a row of attention scores, in place. A row without any source, whose scores are all −∞
/// or not all numbers, becomes zeros instead of NaN; returns whether it is one.
#[inline(always)]
pub(super) fn attention_softmax(row: &mut [f32]) -> bool {
    let (_, total) = softmax(row);
    let blocked = total.is_nan();
    if blocked {
        row.fill(0.0);
    }
    blocked
}

/// Same, compiled for the widest vectors. What is behind the last score that is not −∞ becomes 0
/// without any work.
pub(crate) fn attention_softmax_row(row: &mut [f32]) -> bool {
    let last = row.iter().rposition(|score| *score != f32::NEG_INFINITY);
    let (row, behind) = row.split_at_mut(last.map_or(0, |last| last + 1));
    behind.fill(0.0);
    row.is_empty()
        || vectorized(
            #[inline(always)]
            || attention_softmax(row),
        )
}

/// Softmax in place, in f32; returns `-log p[target]`.
pub(crate) fn softmax_and_loss(row: &mut [f32], target: usize) -> f64 {
    let logit = row[target];
    let (max, total) = vectorized(
        #[inline(always)]
        || softmax(row),
    );
    f64::from(total).ln() - f64::from(logit - max)
}

/// Returns the largest score and the sum of exponentials of the differences from it.
#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) -> (f32, f32) {
    let max = reduce(row, f32::NEG_INFINITY, larger);
    for v in row.iter_mut() {
        *v = exp(*v - max);
    }
    let total = sum(row);
    for v in row.iter_mut() {
        *v /= total;
    }
    (max, total)
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    // `f32::max` drops NaN, which must reach the result.
    if a >= b || a.is_nan() { a } else { b }
}

/// The backward of [`softmax_row`]: turns the gradient at the probabilities into that at the
/// scores, in place. It is 0 where the probability is 0.
///
/// # Panics
/// If the lengths differ.
pub fn softmax_backward_row(probabilities: &[f32], gradient: &mut [f32]) {
    let what = "the gradient of `softmax_backward_row`";
    assert_shape(what, &[gradient.len()], &[probabilities.len()]);
    vectorized(
        #[inline(always)]
        || {
            let mean = dot(probabilities, gradient);
            for (g, p) in gradient.iter_mut().zip(probabilities) {
                *g = p * (*g - mean);
            }
        },
    );
}

/// Log-softmax in place, computed in f64.
pub fn log_softmax_row(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = row.iter().map(|v| f64::from(*v - max).exp()).sum();
    let log_total = f64::from(max) + total.ln();
    for v in row.iter_mut() {
        *v = (f64::from(*v) - log_total) as f32;
    }
}

/// KL(p ‖ q) of two rows of log-probabilities `[d_vocab]`, in nats, summed in f64. What
/// `p` excludes (−∞) counts nothing; any other NaN shows.
pub(crate) fn kl_row(p: ArrayView1<'_, f32>, q: ArrayView1<'_, f32>) -> f32 {
    // Not `is_finite`, which would leave NaN out.
    let terms = p.iter().zip(q).filter(|(p, _)| **p != f32::NEG_INFINITY);
    let sum: f64 = terms
        .map(|(p, q)| f64::from(*p).exp() * (f64::from(*p) - f64::from(*q)))
        .sum();
    sum as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_by_hand_and_nan_shows() {
        let kl = |p: &[f32], q: &[f32]| kl_row(ArrayView1::from(p), ArrayView1::from(q));
        let [half, third, rest] = [0.5_f32, 1.0 / 3.0, 2.0 / 3.0].map(f32::ln);
        let expected = 0.5 * 1.5_f32.ln() + 0.5 * 0.75_f32.ln();
        assert!((kl(&[half, half], &[third, rest]) - expected).abs() < 1e-7);
        // What is impossible under `p` counts nothing.
        let none = f32::NEG_INFINITY;
        assert_eq!(kl(&[none, 0.0], &[half, half]), 2.0_f32.ln());
        assert_eq!(kl(&[none, 0.0], &[none, 0.0]), 0.0);
        assert_eq!(kl(&[half, half], &[none, 0.0]), f32::INFINITY);
        assert!(kl(&[f32::NAN, 0.0], &[half, half]).is_nan());
        assert!(kl(&[half, half], &[f32::NAN, 0.0]).is_nan());
    }
}
