//! The products of one attention head: small matrices, for which a general product would spend
//! its time on packing. Each element is one chain of fused multiply-adds in order of the summed
//! index, so it does not depend on which other elements are computed.

use ndarray::{Array2, ArrayView2, ArrayViewMut2};

use super::linear::matmul;
use super::rows::for_row_pairs;
use super::simd::vectorized;
use super::softmax::{softmax, softmax_backward_row};

const WIDTH: usize = 32;
const BLOCK: usize = 4;

/// Memory of one head's products, reused from head to head.
#[derive(Default)]
pub(crate) struct AttnScratch {
    /// Keys transposed, `[d_head, src rounded up]`.
    keys: Vec<f32>,
    /// Values, `[src, d_head rounded up]`.
    values: Vec<f32>,
    /// Scores, then probabilities, of one destination block.
    rows: Vec<f32>,
}

impl AttnScratch {
    /// Takes in keys, one slice of `d_head` per source position.
    pub(crate) fn load_keys<'a>(
        &mut self,
        d_head: usize,
        n: usize,
        key: impl Fn(usize) -> &'a [f32],
    ) {
        let stride = n.next_multiple_of(WIDTH);
        self.keys.clear();
        self.keys.resize(d_head * stride, 0.0);
        for src in 0..n {
            for (d, v) in key(src).iter().enumerate() {
                self.keys[d * stride + src] = *v;
            }
        }
    }

    /// Takes in values, one slice of `d_head` per source position.
    pub(crate) fn load_values<'a>(
        &mut self,
        d_head: usize,
        n: usize,
        value: impl Fn(usize) -> &'a [f32],
    ) {
        let stride = d_head.next_multiple_of(WIDTH);
        self.values.clear();
        self.values.resize(n * stride, 0.0);
        for (src, row) in self.values.chunks_exact_mut(stride).enumerate() {
            row[..d_head].copy_from_slice(value(src));
        }
    }
}

/// `acc[r][j] += Σ_k a[r][k] · b[k][column + j]` for `k` in `from..to`.
#[inline(always)]
fn accumulate<const R: usize>(
    a: &[&[f32]; R],
    b: &[f32],
    stride: usize,
    column: usize,
    range: std::ops::Range<usize>,
) -> [[f32; WIDTH]; R] {
    let mut acc = [[0.0_f32; WIDTH]; R];
    extend(&mut acc, a, b, (stride, column), range);
    acc
}

#[inline(always)]
fn extend<const R: usize>(
    acc: &mut [[f32; WIDTH]; R],
    a: &[&[f32]; R],
    b: &[f32],
    (stride, column): (usize, usize),
    range: std::ops::Range<usize>,
) {
    let mut local = *acc;
    for k in range {
        let at = k * stride + column;
        let Some(row) = b
            .get(at..at + WIDTH)
            .and_then(|row| row.first_chunk::<WIDTH>())
        else {
            break;
        };
        for (acc, a) in local.iter_mut().zip(a) {
            let factor = a[k];
            for (acc, v) in acc.iter_mut().zip(row) {
                *acc = factor.mul_add(*v, *acc);
            }
        }
    }
    *acc = local;
}

/// Calls `f` on blocks of [`BLOCK`] rows, then on the rest one by one.
macro_rules! in_blocks {
    ($rows:expr, $first:ident, $size:ident, $body:block) => {{
        let rows = $rows;
        let full = rows - rows % BLOCK;
        for $first in (0..full).step_by(BLOCK) {
            const $size: usize = BLOCK;
            $body
        }
        for $first in full..rows {
            const $size: usize = 1;
            $body
        }
    }};
}

/// Scaled, masked scores of a head: `out[r][src] = scale · q[r]·k[src]`, −∞ where
/// `src > dest[r]`.
///
/// # Shapes
/// `q(r)` `[d_head]`, `out` `[dest.len(), n]` with `n` as in [`AttnScratch::load_keys`].
pub(crate) fn scores<'a>(
    scratch: &AttnScratch,
    q: impl Fn(usize) -> &'a [f32],
    dest: &[usize],
    scale: f32,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let n = out.ncols();
    let mut buffer = vec![0.0; n.next_multiple_of(WIDTH)];
    for (r, at) in dest.iter().enumerate() {
        vectorized(
            #[inline(always)]
            || score_rows::<1>(&scratch.keys, &[q(r)], n, scale, &mut buffer),
        );
        let visible = (at + 1).min(n);
        for (src, v) in out.row_mut(r).iter_mut().enumerate() {
            *v = if src < visible {
                buffer[src]
            } else {
                f32::NEG_INFINITY
            };
        }
    }
}

/// Scores of `R` rows against the first `visible` sources, into `R` rows of `out`.
#[inline(always)]
fn score_rows<const R: usize>(
    keys: &[f32],
    q: &[&[f32]; R],
    visible: usize,
    scale: f32,
    out: &mut [f32],
) {
    let d_head = q[0].len();
    let stride = keys.len() / d_head.max(1);
    let width = out.len() / R;
    for column in (0..visible).step_by(WIDTH) {
        let acc = accumulate(q, keys, stride, column, 0..d_head);
        for (r, acc) in acc.iter().enumerate() {
            for (to, v) in out[r * width + column..][..WIDTH].iter_mut().zip(acc) {
                *to = v * scale;
            }
        }
    }
}

/// `z[r] = Σ_src pattern[r][src] · v[src]`, over sources up to the last one with any weight.
///
/// # Shapes
/// `pattern(r)` `[n]`, `z` `[dest.len(), d_head]`.
pub(crate) fn weighted_values<'a>(
    scratch: &AttnScratch,
    pattern: impl Fn(usize) -> &'a [f32],
    mut z: ArrayViewMut2<'_, f32>,
) {
    for r in 0..z.nrows() {
        let row = pattern(r);
        // Sources without weight at the end would only add zeros; leaving them out keeps an
        // infinite value at a later position from reaching back.
        let end = row
            .iter()
            .rposition(|p| *p != 0.0)
            .map_or(0, |last| last + 1);
        vectorized(
            #[inline(always)]
            || {
                value_rows::<1>(&scratch.values, &[row], &[end], |_, column, acc| {
                    write_clipped(&mut z, r, column, acc);
                });
            },
        );
    }
}

#[inline(always)]
fn write_clipped(z: &mut ArrayViewMut2<'_, f32>, r: usize, column: usize, acc: &[f32; WIDTH]) {
    let mut row = z.row_mut(r);
    if let Some(row) = row.as_slice_mut() {
        let to = &mut row[column..];
        let len = to.len().min(WIDTH);
        to[..len].copy_from_slice(&acc[..len]);
    }
}

/// Weighted values of `R` rows, row `r` over sources `0..ends[r]` (ascending ends).
#[inline(always)]
fn value_rows<const R: usize>(
    values: &[f32],
    pattern: &[&[f32]; R],
    ends: &[usize; R],
    mut write: impl FnMut(usize, usize, &[f32; WIDTH]),
    // The stride follows from the pattern's length only where every source was loaded.
) {
    let n = pattern[0].len();
    let stride = values.len() / n.max(1);
    for column in (0..stride).step_by(WIDTH) {
        let mut acc = accumulate(pattern, values, stride, column, 0..ends[0]);
        for r in 0..R {
            let mut one = [acc[r]];
            extend(
                &mut one,
                &[pattern[r]],
                values,
                (stride, column),
                ends[0]..ends[r],
            );
            acc[r] = one[0];
            write(r, column, &acc[r]);
        }
    }
}

/// A whole head at once: scores, softmax and weighted values, row block by row block; the bits
/// of [`scores`], softmax and [`weighted_values`] in turn.
///
/// # Shapes
/// `q(r)` `[d_head]`, `z` `[dest.len(), d_head]`; `dest` ascends.
pub(crate) fn attend<'a>(
    scratch: &mut AttnScratch,
    q: impl Fn(usize) -> &'a [f32],
    dest: &[usize],
    scale: f32,
    mut z: ArrayViewMut2<'_, f32>,
) {
    let AttnScratch { keys, values, rows } = scratch;
    let d_head = z.ncols();
    let n = values.len() / d_head.next_multiple_of(WIDTH);
    let width = n.next_multiple_of(WIDTH);
    rows.clear();
    rows.resize(BLOCK * width, 0.0);
    in_blocks!(dest.len(), first, SIZE, {
        vectorized(
            #[inline(always)]
            || {
                let ends: [usize; SIZE] = std::array::from_fn(|r| dest[first + r] + 1);
                let queries: [&[f32]; SIZE] = std::array::from_fn(|r| q(first + r));
                let block = &mut rows[..SIZE * width];
                score_rows(keys, &queries, ends[SIZE - 1], scale, block);
                for (row, end) in block.chunks_exact_mut(width).zip(ends) {
                    softmax(&mut row[..end]);
                }
                let pattern: [&[f32]; SIZE] =
                    std::array::from_fn(|r| &block[r * width..r * width + n]);
                value_rows(values, &pattern, &ends, |r, column, acc| {
                    write_clipped(&mut z, first + r, column, acc);
                });
            },
        );
    });
}

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
