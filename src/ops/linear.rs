//! Matrix products.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;

use super::part::part;
use super::{kernel, memory};

/// From this many rows per thread on, rows are split over threads instead of columns.
const ROWS_PER_THREAD: usize = 256;
/// The same where there are too few columns for all threads.
const FEW_ROWS_PER_THREAD: usize = 48;
/// Least columns per thread: whole cache lines, and more than a panel.
const COLUMNS_PER_THREAD: usize = 64;
/// Products below this many multiply-adds run on one thread.
const PARALLEL_FROM: usize = 1 << 18;

/// `x · w (+ bias)`.
///
/// # Shapes
/// `x` `[rows, in]`, `w` `[in, out]`, `bias` `[out]`; gives `[rows, out]`.
///
/// # Panics
/// If the shapes do not fit.
pub fn linear(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
) -> Array2<f32> {
    let mut out = memory::matrix((x.nrows(), w.ncols()));
    matmul_into(x, w, bias, out.view_mut());
    out
}

/// `x · w`, shapes as in [`linear`].
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul(x: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    linear(x, w, None)
}

/// As [`linear`], into given memory. Each element is summed over `in` in an order that depends on
/// `in` alone, so the split over threads does not show in the bits.
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul_into(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let (rows, columns) = out.dim();
    assert_eq!(
        (x.nrows(), x.ncols(), bias.map_or(w.ncols(), |b| b.len())),
        (rows, w.nrows(), columns),
        "shapes of a product"
    );
    if out.is_empty() {
        return;
    }
    let threads = rayon::current_num_threads();
    if threads == 1 || rows * columns * x.ncols() < PARALLEL_FROM {
        return product(x, w, bias, out);
    }
    let parts = columns.div_ceil(COLUMNS_PER_THREAD);
    let least = if parts < threads {
        FEW_ROWS_PER_THREAD
    } else {
        ROWS_PER_THREAD
    };
    if rows >= least * threads {
        let chunk = rows.div_ceil(threads);
        out.axis_chunks_iter_mut(Axis(0), chunk)
            .into_par_iter()
            .zip(x.axis_chunks_iter(Axis(0), chunk))
            .for_each(|(out, x)| product(x, w, bias, out));
        return;
    }
    by_columns(x, w, bias, out);
}

/// Columns split over threads.
fn by_columns(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let threads = rayon::current_num_threads();
    let chunk = w
        .ncols()
        .div_ceil(threads)
        .next_multiple_of(COLUMNS_PER_THREAD);
    let left = (kernel::suits(&x, &w, &out) && kernel::row_major(&w)).then(|| kernel::Left::new(x));
    out.axis_chunks_iter_mut(Axis(1), chunk)
        .into_par_iter()
        .zip(w.axis_chunks_iter(Axis(1), chunk))
        .enumerate()
        .for_each(|(i, (out, w))| {
            let bias = bias.map(|b| part(b, 0, i * chunk..i * chunk + w.ncols()));
            match &left {
                Some(left) => left.times(w, bias, out),
                None => product(x, w, bias, out),
            }
        });
}

/// Most bytes that products take on each thread besides their operands, which have up to `inner`
/// columns on the left.
pub(crate) fn product_bytes(inner: usize) -> u64 {
    // Rows of one product interleaved, in memory of up to half more, those of another packed.
    PANELS_AND_SUMS + 10 * (kernel::BLOCK * inner) as u64
}

/// What threads keep for products, on all of them: right matrices have up to `columns` columns.
pub(crate) fn kept_for_products(inner: usize, columns: usize) -> u64 {
    let each = if kernel::runs() {
        kernel::scratch_bytes(inner, columns)
    } else {
        product_bytes(inner)
    };
    each * rayon::current_num_threads() as u64
}

/// What products of so many rows take besides, on all threads, while they run: threads share the
/// interleaved rows of one product, or have some each, and each packs those of a transposed one. In
/// memory of up to half more.
pub(crate) fn rows_of_products(rows: usize, inner: usize) -> u64 {
    let threads = rayon::current_num_threads();
    let interleaved = rows.min(kernel::BLOCK * threads);
    let packed = threads * rows.min(kernel::BLOCK).next_multiple_of(kernel::VECTOR);
    6 * (interleaved.max(packed) * inner) as u64
}

/// More than products take on a thread besides rows that are put side by side, whoever does them.
const PANELS_AND_SUMS: u64 = 2 << 20;

fn product(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    if kernel::suits(&x, &w, &out) {
        return kernel::product(x, w, bias, out);
    }
    general_mat_mul(1.0, &x, &w, 0.0, &mut out);
    if let Some(bias) = bias {
        out += &bias;
    }
}
