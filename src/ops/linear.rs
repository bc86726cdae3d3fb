//! Matrix products.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, CowArray, Ix2};
use rayon::prelude::*;

use super::kernel::{product, row_major};
use super::part::part;

/// Products below this many multiply-adds run on one thread.
const PARALLEL_FROM: usize = 1 << 18;
/// Parts that a product is cut into, for each thread.
const PARTS: usize = 2;
/// Parts have a multiple of this many columns.
const COLUMNS: usize = 64;

/// `x · w (+ bias)`.
///
/// # Shapes
/// `x` `[rows, in]`, `w` `[in, out]`, `bias` `[out]`; gives `[rows, out]`.
pub fn linear(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
) -> Array2<f32> {
    let mut out = Array2::zeros((x.nrows(), w.ncols()));
    matmul_into(x, w, bias, out.view_mut());
    out
}

/// `x · w`, shapes as in [`linear`].
pub fn matmul(x: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    linear(x, w, None)
}

/// As [`linear`], into given memory. Each element is summed over `in` in an order that depends on
/// `in` alone, so neither the split over threads nor the other rows show in the bits.
pub fn matmul_into(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let (rows, columns) = out.dim();
    if out.is_empty() {
        return;
    }
    let x = with_contiguous_rows(x);
    let w = match row_major(&w.t()) {
        true => w.into(),
        false => with_contiguous_rows(w),
    };
    let threads = rayon::current_num_threads();
    if threads == 1 || rows * columns * x.ncols() < PARALLEL_FROM {
        return product(x.view(), w.view(), bias, out);
    }
    if columns < COLUMNS * threads {
        let chunk = rows.div_ceil(PARTS * threads);
        out.axis_chunks_iter_mut(Axis(0), chunk)
            .into_par_iter()
            .zip(x.axis_chunks_iter(Axis(0), chunk))
            .for_each(|(out, x)| product(x, w.view(), bias, out));
        return;
    }
    let chunk = columns.div_ceil(PARTS * threads).next_multiple_of(COLUMNS);
    out.axis_chunks_iter_mut(Axis(1), chunk)
        .into_par_iter()
        .zip(w.axis_chunks_iter(Axis(1), chunk))
        .enumerate()
        .for_each(|(i, (out, w))| {
            let columns = i * chunk..i * chunk + w.ncols();
            let bias = bias.map(|b| part(b, 0, columns));
            product(x.view(), w, bias, out);
        });
}

fn with_contiguous_rows(x: ArrayView2<'_, f32>) -> CowArray<'_, f32, Ix2> {
    match row_major(&x) {
        true => x.into(),
        false => x.as_standard_layout().into_owned().into(),
    }
}
