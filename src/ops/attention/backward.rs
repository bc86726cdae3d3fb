//! The backward pass of one attention head.

use ndarray::{Array2, ArrayView2};

use super::super::linear::matmul;
use super::super::rows::for_row_pairs;
use super::super::softmax::softmax_backward_row;

/// What one head's attention saw and made, all positions.
pub(crate) struct HeadViews<'a> {
    /// `[n, d_head]` each.
    pub q: ArrayView2<'a, f32>,
    pub k: ArrayView2<'a, f32>,
    pub v: ArrayView2<'a, f32>,
    /// What weighted the values, `[n, n]`.
    pub pattern: ArrayView2<'a, f32>,
    /// The softmax of the scores, `[n, n]`: the pattern, unless that was edited.
    pub softmax: ArrayView2<'a, f32>,
}

/// Gradients within one head.
pub(crate) struct HeadGradients {
    /// `[n, d_head]` each.
    pub q: Array2<f32>,
    pub k: Array2<f32>,
    pub v: Array2<f32>,
    /// `[n, n]` each.
    pub pattern: Array2<f32>,
    pub scores: Array2<f32>,
}

/// The backward of one head, from the gradient at z, `[n, d_head]`.
pub(crate) fn attend_backward(
    head: &HeadViews<'_>,
    scale: f32,
    z: ArrayView2<'_, f32>,
) -> HeadGradients {
    let pattern = matmul(z, head.v.t());
    let mut scores = pattern.clone();
    for_row_pairs(scores.view_mut(), head.softmax, |_, gradient, softmax| {
        softmax_backward_row(softmax, gradient);
    });
    let mut q = matmul(scores.view(), head.k);
    let mut k = matmul(scores.t(), head.q);
    q *= scale;
    k *= scale;
    HeadGradients {
        q,
        k,
        v: matmul(head.pattern.t(), z),
        pattern,
        scores,
    }
}
