//! What all kernels share: the length of chains and vectors, scratch memory, rows as slices, and
//! where sums are written.

use std::cell::RefCell;
use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1, Axis};

/// Length of one chain of fused multiply-adds.
pub(in super::super) const CHAIN: usize = 256;
/// Panels have a multiple of this many columns: the widest vector.
pub(in super::super) const VECTOR: usize = 16;
/// Most rows of `x` at once on a thread: a chain of each stays in a core's second cache while panel
/// after panel passes.
pub(in super::super) const BLOCK: usize = 480;

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch { packed: Vec::new(), sums: Vec::new() })
    };
}

pub(super) struct Scratch {
    pub packed: Vec<f32>,
    pub sums: Vec<f32>,
}

/// Rows of each block of so many: about equal, since every block packs all of `w`, and whole groups.
pub(super) fn block_rows(rows: usize) -> usize {
    const GROUP: usize = 12;
    let blocks = rows.div_ceil(BLOCK).max(1);
    rows.div_ceil(blocks).max(1).next_multiple_of(GROUP)
}

/// Whether rows are contiguous.
pub(in super::super) fn row_major(x: &ArrayView2<'_, f32>) -> bool {
    x.ncols() <= 1 || x.strides()[1] == 1
}

#[inline(always)]
fn add(a: &[f32], b: &[f32], to: &mut [f32]) {
    let terms = a.iter().zip(b);
    to.iter_mut()
        .zip(terms)
        .for_each(|(to, (a, b))| *to = a + b);
}

pub(super) fn slices(x: ArrayView2<'_, f32>) -> Vec<&[f32]> {
    let rows = 0..x.nrows();
    rows.map(|i| contiguous(x.index_axis_move(Axis(0), i)))
        .collect()
}

fn contiguous(row: ArrayView1<'_, f32>) -> &[f32] {
    row.to_slice()
        .expect("the caller sees to it that rows are contiguous")
}

pub(super) fn contiguous_mut(row: ArrayViewMut1<'_, f32>) -> &mut [f32] {
    row.into_slice()
        .expect("the caller sees to it that rows are contiguous")
}

/// Memory on whole cache lines: a vector that lies on two of them costs two loads.
pub(super) fn aligned(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if memory.len() < len + VECTOR {
        // No more than needed, of which plans know; the old memory goes before the new one comes.
        *memory = Vec::new();
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
