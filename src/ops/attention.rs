//! The products of one attention head: small matrices, for which a general product would spend
//! its time on packing. Each element is one chain of fused multiply-adds in order of the summed
//! index, so it does not depend on which other elements are computed.

use std::ops::Range;

use ndarray::{ArrayViewMut1, ArrayViewMut2};
use pulp::{Simd, WithSimd};

use super::simd::ARCH;
use super::softmax::attention_softmax;

mod backward;

pub(crate) use backward::{HeadGradients, HeadViews, attend_backward};

const WIDTH: usize = 32;
/// Rows whose sums are made together, and how many where fewer are left.
const BLOCK: usize = 8;
const SMALL_BLOCK: usize = 4;
/// Keys that are transposed together: a whole cache line is written at a time.
const TRANSPOSED: usize = 16;

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
        // What another head left beyond the last source is read into no result.
        self.keys.resize(d_head * stride, 0.0);
        let whole = n - n % TRANSPOSED;
        for first in (0..whole).step_by(TRANSPOSED) {
            let some: [&[f32]; TRANSPOSED] = std::array::from_fn(|i| &key(first + i)[..d_head]);
            for (d, to) in self.keys.chunks_exact_mut(stride).enumerate() {
                let line: [f32; TRANSPOSED] = std::array::from_fn(|i| some[i][d]);
                to[first..first + TRANSPOSED].copy_from_slice(&line);
            }
        }
        for src in whole..n {
            for (to, v) in self.keys.chunks_exact_mut(stride).zip(key(src)) {
                to[src] = *v;
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
        self.values.resize(n * stride, 0.0);
        for (src, row) in self.values.chunks_exact_mut(stride).enumerate() {
            row[..d_head].copy_from_slice(value(src));
        }
    }
}

/// Two vectors of sums for each of `R` rows.
type Sums<S, const R: usize> = [[<S as Simd>::f32s; 2]; R];

/// `acc[r] += Σ_k a[r][k] · b[k][column..]` for `k` in a range.
#[inline(always)]
fn extend<S: Simd, const R: usize>(
    simd: S,
    acc: &mut Sums<S, R>,
    a: [&[f32]; R],
    b: (&[f32], usize, usize),
    range: Range<usize>,
) {
    let (b, stride, column) = b;
    let a = a.map(
        #[inline(always)]
        |a| &a[range.clone()],
    );
    let rows = b[range.start * stride..].chunks(stride).take(range.len());
    for (k, row) in rows.enumerate() {
        let (row, _) = S::as_simd_f32s(&row[column..column + 2 * S::F32_LANES]);
        let row = [row[0], row[1]];
        for r in 0..R {
            let factor = simd.splat_f32s(a[r][k]);
            for v in 0..2 {
                acc[r][v] = simd.mul_add_f32s(factor, row[v], acc[r][v]);
            }
        }
    }
}

/// Runs a body on blocks of [`BLOCK`] rows, then of [`SMALL_BLOCK`], then on the rest one by one.
macro_rules! in_blocks {
    ($rows:expr, $first:ident, $size:ident, $body:block) => {{
        let rows = $rows;
        let large = rows - rows % BLOCK;
        let small = rows - rows % SMALL_BLOCK;
        for $first in (0..large).step_by(BLOCK) {
            const $size: usize = BLOCK;
            $body
        }
        for $first in (large..small).step_by(SMALL_BLOCK) {
            const $size: usize = SMALL_BLOCK;
            $body
        }
        for $first in small..rows {
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
    let width = n.next_multiple_of(WIDTH);
    let mut buffer = vec![0.0; BLOCK * width];
    let mut rows = out.rows_mut().into_iter().map(contiguous);
    in_blocks!(dest.len(), first, SIZE, {
        let visible: [usize; SIZE] = std::array::from_fn(|r| (dest[first + r] + 1).min(n));
        ARCH.dispatch(ScoreRows::<SIZE> {
            keys: &scratch.keys,
            queries: std::array::from_fn(|r| q(first + r)),
            visible: visible.into_iter().max().unwrap_or(0),
            scale,
            out: &mut buffer[..SIZE * width],
        });
        for (visible, scores) in visible.into_iter().zip(buffer.chunks_exact(width)) {
            let (seen, ahead) = rows.next().unwrap_or_default().split_at_mut(visible);
            seen.copy_from_slice(&scores[..visible]);
            ahead.fill(f32::NEG_INFINITY);
        }
    });
}

/// Scores of some rows against the first sources.
struct ScoreRows<'a, const R: usize> {
    keys: &'a [f32],
    queries: [&'a [f32]; R],
    visible: usize,
    scale: f32,
    out: &'a mut [f32],
}

impl<const R: usize> WithSimd for ScoreRows<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (queries, visible) = (self.queries, self.visible);
        score_rows(simd, self.keys, queries, visible, self.scale, self.out);
    }
}

/// Scores of `R` rows against the first `visible` sources, into `R` rows of `out`.
#[inline(always)]
fn score_rows<S: Simd, const R: usize>(
    simd: S,
    keys: &[f32],
    q: [&[f32]; R],
    visible: usize,
    scale: f32,
    out: &mut [f32],
) {
    let d_head = q[0].len();
    let stride = keys.len() / d_head.max(1);
    let width = out.len() / R;
    let scale = simd.splat_f32s(scale);
    for column in (0..visible).step_by(2 * S::F32_LANES) {
        let mut acc = [[simd.splat_f32s(0.0); 2]; R];
        extend(simd, &mut acc, q, (keys, stride, column), 0..d_head);
        for (r, acc) in acc.iter().enumerate() {
            let to = &mut out[r * width + column..][..2 * S::F32_LANES];
            let (to, _) = S::as_mut_simd_f32s(to);
            for (to, v) in to.iter_mut().zip(acc) {
                *to = simd.mul_f32s(*v, scale);
            }
        }
    }
}

/// `z[r] = Σ_src pattern[r][src] · v[src]`, over the sources up to the destination `dest[r]`, as
/// [`attend`] has them, and on to the last one with any weight behind the mask.
///
/// # Shapes
/// `pattern(r)` `[n]`, `z` `[dest.len(), d_head]`.
pub(crate) fn weighted_values<'a>(
    scratch: &AttnScratch,
    pattern: impl Fn(usize) -> &'a [f32],
    dest: &[usize],
    mut z: ArrayViewMut2<'_, f32>,
) {
    // Without weight, sources behind the mask are left out: zero times an infinite value would
    // reach back. Before it they count, with or without weight.
    let end = |row: &[f32], at: usize| {
        let seen = (at + 1).min(row.len());
        let ahead = row[seen..].iter().rposition(|p| *p != 0.0);
        seen + ahead.map_or(0, |last| last + 1)
    };
    let mut z = z.rows_mut().into_iter().map(contiguous);
    in_blocks!(dest.len(), first, SIZE, {
        let rows: [&[f32]; SIZE] = std::array::from_fn(|r| pattern(first + r));
        ARCH.dispatch(ValueRows::<SIZE> {
            values: &scratch.values,
            ends: std::array::from_fn(|r| end(rows[r], dest[first + r])),
            rows,
            z: std::array::from_fn(|_| z.next().unwrap_or_default()),
        });
    });
}

/// Weighted values of some rows.
struct ValueRows<'a, 'z, const R: usize> {
    values: &'a [f32],
    rows: [&'a [f32]; R],
    ends: [usize; R],
    z: [&'z mut [f32]; R],
}

impl<const R: usize> WithSimd for ValueRows<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        value_rows(simd, self.values, self.rows, self.ends, self.z);
    }
}

/// Weighted values of `R` rows, row `r` over sources `0..ends[r]`.
#[inline(always)]
fn value_rows<S: Simd, const R: usize>(
    simd: S,
    values: &[f32],
    pattern: [&[f32]; R],
    ends: [usize; R],
    z: [&mut [f32]; R],
) {
    let d_head = z[0].len();
    let stride = d_head.next_multiple_of(WIDTH);
    let common = ends.into_iter().min().unwrap_or(0);
    for column in (0..d_head).step_by(2 * S::F32_LANES) {
        let mut acc = [[simd.splat_f32s(0.0); 2]; R];
        let at = (values, stride, column);
        extend(simd, &mut acc, pattern, at, 0..common);
        for r in 0..R {
            let mut one = [acc[r]];
            extend(simd, &mut one, [pattern[r]], at, common..ends[r]);
            let mut sums = [0.0; WIDTH];
            let (to, _) = S::as_mut_simd_f32s(&mut sums[..2 * S::F32_LANES]);
            to.copy_from_slice(&one[0]);
            let real = (d_head - column).min(2 * S::F32_LANES);
            z[r][column..column + real].copy_from_slice(&sums[..real]);
        }
    }
}

/// A whole head at once: scores, softmax and weighted values, row block by row block; the bits
/// of [`scores`], softmax and [`weighted_values`] in turn. Returns the rows, by their index in
/// `dest`, whose scores leave nothing to attend to: their z is zero.
///
/// # Shapes
/// `q(r)` `[d_head]`, `z` `[dest.len(), d_head]`; `dest` ascends.
pub(crate) fn attend<'a>(
    scratch: &mut AttnScratch,
    q: impl Fn(usize) -> &'a [f32],
    dest: &[usize],
    scale: f32,
    mut z: ArrayViewMut2<'_, f32>,
) -> Vec<usize> {
    let mut blocked_rows = Vec::new();
    let AttnScratch { keys, values, rows } = scratch;
    let d_head = z.ncols();
    let n = values.len() / d_head.next_multiple_of(WIDTH);
    let width = n.next_multiple_of(WIDTH);
    rows.clear();
    rows.resize(BLOCK * width, 0.0);
    let mut z = z.rows_mut().into_iter().map(contiguous);
    in_blocks!(dest.len(), first, SIZE, {
        let blocked = ARCH.dispatch(Block::<SIZE> {
            keys,
            values,
            rows: &mut rows[..SIZE * width],
            queries: std::array::from_fn(|r| q(first + r)),
            ends: std::array::from_fn(|r| dest[first + r] + 1),
            scale,
            z: std::array::from_fn(|_| z.next().unwrap_or_default()),
        });
        blocked_rows.extend((0..SIZE).filter(|r| blocked[*r]).map(|r| first + r));
    });
    blocked_rows
}

/// Some destination rows of a head.
struct Block<'a, 'z, const R: usize> {
    keys: &'a [f32],
    values: &'a [f32],
    rows: &'a mut [f32],
    queries: [&'a [f32]; R],
    ends: [usize; R],
    scale: f32,
    z: [&'z mut [f32]; R],
}

impl<const R: usize> WithSimd for Block<'_, '_, R> {
    /// Whether each row has nothing to attend to.
    type Output = [bool; R];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [bool; R] {
        let mut blocked = [false; R];
        let width = self.rows.len() / R;
        let visible = self.ends[R - 1];
        score_rows(
            simd,
            self.keys,
            self.queries,
            visible,
            self.scale,
            self.rows,
        );
        let rows = self.rows.chunks_exact_mut(width).zip(self.ends);
        for ((row, end), blocked) in rows.zip(&mut blocked) {
            *blocked = attention_softmax(&mut row[..end]);
        }
        let pattern: [&[f32]; R] = std::array::from_fn(
            #[inline(always)]
            |r| &self.rows[r * width..(r + 1) * width],
        );
        value_rows(simd, self.values, pattern, self.ends, self.z);
        blocked
    }
}

fn contiguous(row: ArrayViewMut1<'_, f32>) -> &mut [f32] {
    row.into_slice()
        .expect("a head's columns of a row-major matrix are contiguous")
}
