//! The matrix product's kernel: tiles of rows and columns whose sums stay in registers, over packed
//! panels.
//!
//! Each element is the sum, in order, of chains of 256 fused multiply-adds: the order of
//! `matrixmultiply` (behind ndarray's `.dot`), whatever the number of rows or columns.

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use pulp::Arch;

use super::part::{part, part_mut};
use super::simd::ARCH;

mod buffers;
mod columns;
mod stream;
mod tile;
mod transposed;

pub(super) use buffers::{BLOCK, VECTOR, row_major};
use buffers::{SCRATCH, block_rows};
pub(super) use columns::Left;

/// Whether [`product`] does any products: without fused multiply-adds in the machine it would have
/// other bits than `.dot`, and be slow.
pub(super) fn runs() -> bool {
    !matches!(*ARCH, Arch::Scalar)
}

/// Whether [`product`] does these products, with the bits of `.dot`.
pub(super) fn suits(
    x: &ArrayView2<'_, f32>,
    w: &ArrayView2<'_, f32>,
    out: &ArrayViewMut2<'_, f32>,
) -> bool {
    runs()
        && !x.is_empty()
        && row_major(x)
        && row_major(&out.view())
        && (row_major(w) || row_major(&w.t()))
}

/// Most bytes that a thread keeps for products: a panel or the chains of few rows, sums, and
/// references to the rows of operands with so many columns.
pub(super) fn scratch_bytes(inner: usize, columns: usize) -> u64 {
    const PANEL: usize = 384 << 10;
    let sums = 4 * columns::COLUMNS * BLOCK;
    // And the bias.
    let references = 20 * (inner + columns + 2 * BLOCK);
    (PANEL + sums + references) as u64
}

/// `x · w + bias` on one thread, where it [`suits`]; its columns, from left to right, in matrices of
/// equal width.
///
/// # Shapes
/// `x` `[rows, in]`, `w` `[in, columns]`, `bias` `[columns]`, `out` `[rows, width]` each; the rows of
/// `x` and of `out`, and either the rows or the columns of `w`, are contiguous.
pub(super) fn product(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    mut out: Vec<ArrayViewMut2<'_, f32>>,
) {
    let block = block_rows(x.nrows());
    for (i, x) in x.axis_chunks_iter(Axis(0), block).enumerate() {
        let left = row_major(&w).then(|| Left::new(x));
        let mut columns = 0..0;
        for out in &mut out {
            columns = columns.end..columns.end + out.ncols();
            let w = part(w, 1, columns.clone());
            let bias = bias.map(|bias| part(bias, 0, columns.clone()));
            let rows = i * block..i * block + x.nrows();
            let mut out = part_mut(out.view_mut(), 0, rows);
            if let Some(left) = &left {
                left.times(w, bias, out);
                continue;
            }
            SCRATCH.with_borrow_mut(|scratch| transposed::product(x, w, scratch, &mut out));
            if let Some(bias) = bias {
                out += &bias;
            }
        }
    }
}

#[cfg(test)]
mod tests;
