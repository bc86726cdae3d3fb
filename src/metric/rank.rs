//! Where a token stands among all.

use ndarray::ArrayView1;

/// A token's rank in a row of logits: 0 is the likeliest, equals count half; NaN among NaN.
pub(crate) fn rank_in(row: ArrayView1<'_, f32>, token: usize) -> f32 {
    if row.iter().any(|v| v.is_nan()) {
        return f32::NAN;
    }
    let own = row[token];
    let above = row.iter().filter(|v| **v > own).count();
    let equal = row.iter().filter(|v| **v == own).count().saturating_sub(1);
    above as f32 + equal as f32 / 2.0
}

/// How many tokens of a row of logits are likelier; `None` where one is NaN.
pub(super) fn best_rank_in(row: ArrayView1<'_, f32>, token: usize) -> Option<usize> {
    let own = row[token];
    let known = !row.iter().any(|v| v.is_nan());
    known.then(|| row.iter().filter(|v| **v > own).count())
}
