//! Work split over the rows of a matrix.

use ndarray::{Array1, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::simd::vectorized;

/// Below this many elements a split over threads costs more than it gains.
pub(super) const PARALLEL_FROM: usize = 1 << 15;
/// Rows whose sum is taken in one go: fixed, so that sums do not depend on the threads.
const SUM_BLOCK: usize = 128;

/// Runs `f` on a thread of the pool. From any other thread each parallel step inside would hand
/// its work to the pool and sleep, which costs more than a small step itself.
pub(crate) fn on_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

/// Calls `f(index, row)` on each row of a row-major matrix, over threads where that pays.
pub(crate) fn for_rows(mut x: ArrayViewMut2<'_, f32>, f: impl Fn(usize, &mut [f32]) + Sync) {
    if x.is_empty() {
        return;
    }
    let run = |first: usize, mut block: ArrayViewMut2<'_, f32>| {
        for (i, mut row) in block.rows_mut().into_iter().enumerate() {
            match row.as_slice_mut() {
                Some(slice) => f(first + i, slice),
                None => {
                    let mut copy = row.to_vec();
                    f(first + i, &mut copy);
                    row.iter_mut().zip(copy).for_each(|(to, from)| *to = from);
                }
            }
        }
    };
    let threads = rayon::current_num_threads();
    if threads == 1 || x.len() < PARALLEL_FROM {
        return run(0, x);
    }
    let chunk = x.nrows().div_ceil(4 * threads);
    x.axis_chunks_iter_mut(Axis(0), chunk)
        .into_par_iter()
        .enumerate()
        .for_each(|(i, block)| run(i * chunk, block));
}

/// Same as [`for_rows`], with the rows of another matrix of as many rows: `f(index, row, other row)`.
pub(crate) fn for_row_pairs(
    x: ArrayViewMut2<'_, f32>,
    other: ArrayView2<'_, f32>,
    f: impl Fn(usize, &mut [f32], &[f32]) + Sync,
) {
    let other = other.as_standard_layout();
    for_rows(x, |i, row| {
        if let Some(other) = other.row(i).as_slice() {
            f(i, row, other);
        }
    });
}

/// Checks an operand's shape, where an operation would otherwise compute a part of its answer.
///
/// # Panics
/// If it is not the one expected; says both.
#[track_caller]
pub(super) fn assert_shape(what: &str, found: &[usize], expected: &[usize]) {
    assert!(
        found == expected,
        "shape of {what}: found {found:?}; expected {expected:?}"
    );
}

/// Sums over the rows of `x`, or of `x * factor`: the gradient of a vector that is added to, or
/// multiplied with, every row.
///
/// # Shapes
/// Both `[rows, width]`; returns `[width]`.
///
/// # Panics
/// If the shapes differ.
pub fn sum_rows(x: ArrayView2<'_, f32>, factor: Option<ArrayView2<'_, f32>>) -> Array1<f32> {
    if let Some(factor) = &factor {
        assert_shape("the factor of `sum_rows`", factor.shape(), x.shape());
    }
    let (x, factor) = (
        x.as_standard_layout(),
        factor.as_ref().map(|f| f.as_standard_layout()),
    );
    let blocks = x.nrows().div_ceil(SUM_BLOCK);
    let sum_block = |block: usize| {
        let rows = block * SUM_BLOCK..x.nrows().min((block + 1) * SUM_BLOCK);
        let mut sum = vec![0.0_f32; x.ncols()];
        for i in rows {
            let (x, factor) = (x.row(i), factor.as_ref().map(|f| f.row(i)));
            match (x.as_slice(), factor.as_ref().and_then(|f| f.as_slice())) {
                (Some(x), Some(factor)) => vectorized(
                    #[inline(always)]
                    || add_product(&mut sum, x, factor),
                ),
                (Some(x), None) => vectorized(
                    #[inline(always)]
                    || add(&mut sum, x),
                ),
                (None, _) => {}
            }
        }
        sum
    };
    let sums: Vec<Vec<f32>> = if x.len() < PARALLEL_FROM {
        (0..blocks).map(sum_block).collect()
    } else {
        (0..blocks).into_par_iter().map(sum_block).collect()
    };
    let mut total = vec![0.0; x.ncols()];
    sums.iter().for_each(|sum| add(&mut total, sum));
    total.into()
}

#[inline(always)]
fn add(sum: &mut [f32], x: &[f32]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
}

#[inline(always)]
fn add_product(sum: &mut [f32], x: &[f32], factor: &[f32]) {
    for ((sum, x), factor) in sum.iter_mut().zip(x).zip(factor) {
        *sum = x.mul_add(*factor, *sum);
    }
}

/// In order, without duplicates.
pub(crate) fn sorted(rows: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut rows: Vec<usize> = rows.into_iter().collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}
