//! Softmax over a row.

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
pub fn softmax_backward_row(probabilities: &[f32], gradient: &mut [f32]) {
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
