//! The matrix product's kernel: tiles of rows and columns whose sums stay in registers, over packed
//! panels.
//!
//! Each element is the sum, in order, of chains of [`CHAIN`] fused multiply-adds: the order of
//! `matrixmultiply` (behind ndarray's `.dot`), whatever the number of rows or columns.

use std::cell::RefCell;
use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis};
use pulp::Arch;

use super::simd::ARCH;

mod columns;
mod tile;
mod transposed;

pub(super) use columns::Left;

/// Length of one chain of fused multiply-adds.
pub(super) const CHAIN: usize = 256;
/// Panels have a multiple of this many columns: the widest vector.
pub(super) const VECTOR: usize = 16;
/// Most rows of `x` at once on a thread: a chain of each stays in a core's second cache while panel
/// after panel passes.
pub(super) const BLOCK: usize = 480;

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { packed: Vec::new(), sums: Vec::new() })
    };
}

pub(super) struct Scratch {
    pub packed: Vec<f32>,
    pub sums: Vec<f32>,
}

/// Whether [`product`] does these products, with the bits of `.dot`. Without fused multiply-adds
/// in the machine it would have other bits, and be slow.
pub(super) fn suits(
    x: &ArrayView2<'_, f32>,
    w: &ArrayView2<'_, f32>,
    out: &ArrayViewMut2<'_, f32>,
) -> bool {
    let fused = !matches!(*ARCH, Arch::Scalar);
    fused
        && !x.is_empty()
        && row_major(x)
        && row_major(&out.view())
        && (row_major(w) || row_major(&w.t()))
}

/// `x · w + bias` on one thread, where it [`suits`].
///
/// # Shapes
/// `x` `[rows, in]`, `w` `[in, out]`, `bias` `[out]`, `out` `[rows, out]`; the rows of `x` and of
/// `out`, and either the rows or the columns of `w`, are contiguous.
pub(super) fn product(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let block = block_rows(x.nrows());
    let blocks = x.axis_chunks_iter(Axis(0), block);
    for (x, mut out) in blocks.zip(out.axis_chunks_iter_mut(Axis(0), block)) {
        if row_major(&w) {
            Left::new(x).times(w, bias, out);
            continue;
        }
        SCRATCH.with_borrow_mut(|scratch| transposed::product(x, w, scratch, &mut out));
        if let Some(bias) = bias {
            out += &bias;
        }
    }
}

/// Rows of each block of so many: about equal, since every block packs all of `w`, and whole groups.
fn block_rows(rows: usize) -> usize {
    const GROUP: usize = 12;
    let blocks = rows.div_ceil(BLOCK).max(1);
    rows.div_ceil(blocks).max(1).next_multiple_of(GROUP)
}

/// Whether rows are contiguous.
pub(super) fn row_major(x: &ArrayView2<'_, f32>) -> bool {
    x.ncols() <= 1 || x.strides()[1] == 1
}

#[inline(always)]
fn add(a: &[f32], b: &[f32], to: &mut [f32]) {
    let terms = a.iter().zip(b);
    to.iter_mut()
        .zip(terms)
        .for_each(|(to, (a, b))| *to = a + b);
}

fn slices(x: ArrayView2<'_, f32>) -> Vec<&[f32]> {
    let rows = 0..x.nrows();
    rows.map(|i| contiguous(x.index_axis_move(Axis(0), i)))
        .collect()
}

fn contiguous(row: ArrayView1<'_, f32>) -> &[f32] {
    row.to_slice()
        .unwrap_or_else(|| unreachable!("the caller sees to it that rows are contiguous"))
}

fn contiguous_mut(row: ArrayViewMut1<'_, f32>) -> &mut [f32] {
    row.into_slice()
        .unwrap_or_else(|| unreachable!("the caller sees to it that rows are contiguous"))
}

/// Memory on whole cache lines: a vector that lies on two of them costs two loads.
pub(super) fn aligned(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if memory.len() < len + VECTOR {
        // No more than needed, of which plans know.
        memory.clear();
        memory.reserve_exact(len + VECTOR);
        memory.resize(len + VECTOR, 0.0);
    }
    let start = memory.as_ptr().align_offset(64).min(VECTOR);
    &mut memory[start..start + len]
}

/// Some columns of the product's rows.
pub(super) struct Finish<'a, 'o> {
    pub out: &'a mut [&'o mut [f32]],
    pub columns: Range<usize>,
    pub bias: Option<&'a [f32]>,
}

impl<'a, 'o> Finish<'a, 'o> {
    pub fn new(
        out: &'a mut [&'o mut [f32]],
        columns: Range<usize>,
        bias: Option<&'a [f32]>,
    ) -> Self {
        Finish { out, columns, bias }
    }

    /// Writes some rows, from the first on.
    #[inline(always)]
    pub fn write(&mut self, first: usize, sums: &[f32], width: usize) {
        for (to, from) in self.out[first..].iter_mut().zip(sums.chunks_exact(width)) {
            let to = &mut to[self.columns.clone()];
            match self.bias {
                Some(bias) => add(&from[..to.len()], &bias[self.columns.clone()], to),
                None => to.copy_from_slice(&from[..to.len()]),
            }
        }
    }
}

#[cfg(test)]
mod tests;
