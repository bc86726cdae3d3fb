//! Matrix products.

use std::ops::Range;

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
/// `x` `[rows, in]`, `w` `[in, out]`, `bias` `[out]`; returns `[rows, out]`.
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

/// The columns of [`linear`] in so many matrices of equal width. One step for the threads, and `x`
/// is put in order once for all.
pub(crate) fn linear_parts(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: ArrayView1<'_, f32>,
    parts: usize,
) -> Vec<Array2<f32>> {
    let width = w.ncols() / parts;
    let mut out: Vec<Array2<f32>> = (0..parts)
        .map(|_| memory::matrix((x.nrows(), width)))
        .collect();
    let views = out.iter_mut().map(|out| out.view_mut()).collect();
    Product {
        x,
        w,
        bias: Some(bias),
    }
    .into_parts(views);
    out
}

/// `x · w`, shapes as in [`linear`].
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul(x: ArrayView2<'_, f32>, w: ArrayView2<'_, f32>) -> Array2<f32> {
    linear(x, w, None)
}

/// Same as [`linear`], into given memory. Each element is summed over `in` in an order that depends
/// on `in` alone, so the split over threads does not show in the bits.
///
/// # Panics
/// If the shapes do not fit.
pub fn matmul_into(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    out: ArrayViewMut2<'_, f32>,
) {
    Product { x, w, bias }.into_parts(vec![out]);
}

/// `x · w (+ bias)`, shapes as in [`linear`].
struct Product<'a> {
    x: ArrayView2<'a, f32>,
    w: ArrayView2<'a, f32>,
    bias: Option<ArrayView1<'a, f32>>,
}

impl<'a> Product<'a> {
    /// Writes the columns, from left to right, to matrices of equal width.
    fn into_parts(self, mut out: Vec<ArrayViewMut2<'_, f32>>) {
        let columns: usize = out.iter().map(ArrayViewMut2::ncols).sum();
        let rows = out.first().map_or(0, ArrayViewMut2::nrows);
        let Product { x, w, bias } = &self;
        assert_eq!(
            (x.nrows(), x.ncols(), bias.map_or(w.ncols(), |b| b.len())),
            (rows, w.nrows(), columns),
            "shapes of a product"
        );
        if rows * columns == 0 {
            return;
        }
        let threads = rayon::current_num_threads();
        if threads == 1 || rows * columns * x.ncols() < PARALLEL_FROM {
            return self.on_one_thread(out);
        }
        let parts = columns.div_ceil(COLUMNS_PER_THREAD);
        let least = if parts < threads {
            FEW_ROWS_PER_THREAD
        } else {
            ROWS_PER_THREAD
        };
        if rows < least * threads {
            return self.by_columns(out);
        }
        let chunk = rows.div_ceil(threads);
        let out = out.iter_mut();
        let mut out: Vec<_> = out
            .map(|out| out.axis_chunks_iter_mut(Axis(0), chunk))
            .collect();
        let each = x.axis_chunks_iter(Axis(0), chunk);
        let each = each.map(|x| (x, out.iter_mut().filter_map(Iterator::next).collect()));
        each.collect::<Vec<(_, Vec<_>)>>()
            .into_par_iter()
            .for_each(|(x, out)| {
                let (w, bias) = (w.view(), bias.as_ref().map(|bias| bias.view()));
                Product { x, w, bias }.on_one_thread(out);
            });
    }

    /// Some columns, as those of a part of some width.
    fn columns(&self, range: Range<usize>) -> Product<'a> {
        Product {
            x: self.x,
            w: part(self.w, 1, range.clone()),
            bias: self.bias.map(|bias| part(bias, 0, range)),
        }
    }

    /// Columns split over threads.
    fn by_columns(self, mut out: Vec<ArrayViewMut2<'_, f32>>) {
        let threads = rayon::current_num_threads();
        let width = out[0].ncols();
        let chunk = width.div_ceil(threads).next_multiple_of(COLUMNS_PER_THREAD);
        let suits = out.iter().all(|out| kernel::suits(&self.x, &self.w, out));
        let left = (suits && kernel::row_major(&self.w)).then(|| kernel::Left::new(self.x));
        let chunks = out.iter_mut().enumerate().flat_map(|(i, out)| {
            let first = i * width;
            let chunks = out.axis_chunks_iter_mut(Axis(1), chunk).enumerate();
            chunks.map(move |(i, out)| (first + i * chunk, out))
        });
        chunks
            .collect::<Vec<_>>()
            .into_par_iter()
            .for_each(|(first, out)| {
                let some = self.columns(first..first + out.ncols());
                match &left {
                    Some(left) => left.times(some.w, some.bias, out),
                    None => some.on_one_thread(vec![out]),
                }
            });
    }

    fn on_one_thread(self, mut out: Vec<ArrayViewMut2<'_, f32>>) {
        if out.iter().all(|out| kernel::suits(&self.x, &self.w, out)) {
            return kernel::product(self.x, self.w, self.bias, out);
        }
        let width = out[0].ncols();
        for (i, out) in out.iter_mut().enumerate() {
            let Product { x, w, bias } = self.columns(i * width..(i + 1) * width);
            general_mat_mul(1.0, &x, &w, 0.0, out);
            if let Some(bias) = bias {
                *out += &bias;
            }
        }
    }
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
