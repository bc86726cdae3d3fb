//! Softmax over a row.

use super::simd::{exp, reduce, sum, vectorized};

/// Softmax in place. Entries of −∞ become exactly 0, and trailing ones do not change the bits of
/// the others. A row of only −∞ becomes NaN.
pub fn softmax_row(row: &mut [f32]) {
    vectorized!(softmax(row));
}

#[inline(always)]
pub(super) fn softmax(row: &mut [f32]) {
    let max = reduce(row, f32::NEG_INFINITY, max);
    for v in row.iter_mut() {
        *v = exp(*v - max);
    }
    let total = sum(row);
    for v in row.iter_mut() {
        *v /= total;
    }
}

#[inline(always)]
fn max(a: f32, b: f32) -> f32 {
    // `f32::max` drops NaN, which must reach the result.
    if a >= b || a.is_nan() { a } else { b }
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
