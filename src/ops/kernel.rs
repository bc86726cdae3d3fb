//! The matrix product's kernel: six rows at a time times a packed panel of columns.
//!
//! Each element is the sum, in order, of chains of [`CHAIN`] fused multiply-adds: the order of
//! `matrixmultiply` (behind ndarray's `.dot`), whatever the number of rows or columns. Unlike it,
//! the kernel packs only one operand, and copies a panel of a row-major matrix while the first
//! rows go through it, so that most of the copy is hidden behind their multiply-adds.

use std::cell::RefCell;
use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis};
use pulp::{Arch, Simd, WithSimd};

use super::part::part;
use super::simd::ARCH;
use super::stream;

/// Length of one chain of fused multiply-adds.
pub(super) const CHAIN: usize = 256;
/// Rows that go through a panel together: with the widest panel, 24 sums in 32 registers.
const ROWS: usize = 6;
/// Panels have a multiple of this many columns: the widest vector.
pub(super) const VECTOR: usize = 16;
/// Most rows of `x` at once: in a core's own cache while panel after panel passes.
const BLOCK: usize = 480;
/// Rows of `wᵀ` at once: with a panel of `xᵀ` they stay in a core's own cache.
const TRANSPOSED_BLOCK: usize = 96;

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
    fused && row_major(x) && row_major(&out.view()) && (row_major(w) || row_major(&w.t()))
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
    let blocks = x.axis_chunks_iter(Axis(0), BLOCK);
    SCRATCH.with_borrow_mut(|scratch| {
        for (x, mut out) in blocks.zip(out.axis_chunks_iter_mut(Axis(0), BLOCK)) {
            if row_major(&w) {
                by_columns(x, w, bias, scratch, &mut out);
            } else {
                transposed(x, w, scratch, &mut out);
                if let Some(bias) = bias {
                    out += &bias;
                }
            }
        }
    });
}

/// Whether rows are contiguous.
fn row_major(x: &ArrayView2<'_, f32>) -> bool {
    x.ncols() <= 1 || x.strides()[1] == 1
}

/// Panels of columns of a row-major `w`; the rows of `x` go through them.
fn by_columns(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    scratch: &mut Scratch,
    out: &mut ArrayViewMut2<'_, f32>,
) {
    let bias = bias.map(|b| b.to_vec());
    let (rows, w_rows) = (slices(x), slices(w));
    let rest = out.rows_mut().into_iter();
    let mut out_rows: Vec<&mut [f32]> = rest.map(contiguous_mut).collect();
    let mut done = 0;
    if rows.len() <= stream::FEW_ROWS {
        done = w.ncols() - w.ncols() % stream::COLUMNS;
        let finish = Finish {
            out: &mut out_rows,
            columns: 0..done,
            bias: bias.as_deref(),
        };
        stream::product(&rows, &w_rows, scratch, finish);
    }
    let widest = ARCH.dispatch(Widest);
    let packed = aligned(&mut scratch.packed, CHAIN * widest);
    let sums = aligned(&mut scratch.sums, rows.len() * widest);
    for first in (done..w.ncols()).step_by(widest) {
        let real = (w.ncols() - first).min(widest);
        let width = real.next_multiple_of(VECTOR);
        for (i, some) in w_rows.chunks(CHAIN).enumerate() {
            let whole = real == width;
            if !whole {
                for (from, to) in some.iter().zip(packed.chunks_exact_mut(width)) {
                    to[..real].copy_from_slice(&from[first..first + real]);
                }
            }
            let last = (i + 1) * CHAIN >= w_rows.len();
            ARCH.dispatch(Panel {
                rows: &rows,
                start: i * CHAIN,
                source: whole.then_some((some, first)),
                packed: &mut packed[..some.len() * width],
                sums,
                width,
                finish: last.then(|| Finish {
                    out: &mut out_rows,
                    columns: first..first + real,
                    bias: bias.as_deref(),
                }),
            });
        }
    }
}

/// The transposed product, where the columns of `w` are contiguous: panels of columns of `xᵀ`;
/// the rows of `wᵀ` go through them.
fn transposed(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    scratch: &mut Scratch,
    out: &mut ArrayViewMut2<'_, f32>,
) {
    let (inner, columns) = w.dim();
    let rows = slices(x);
    let widest = ARCH.dispatch(Widest);
    let packed = aligned(
        &mut scratch.packed,
        rows.len().next_multiple_of(VECTOR) * inner,
    );
    let sums = aligned(&mut scratch.sums, TRANSPOSED_BLOCK * widest);
    pack_rows(&rows, inner, widest, packed);
    for first in (0..columns).step_by(TRANSPOSED_BLOCK) {
        let real = (columns - first).min(TRANSPOSED_BLOCK);
        let w_rows = slices(part(w.view(), 1, first..first + real).reversed_axes());
        let panels = packed.chunks_mut(widest * inner);
        for (some, packed) in (0..rows.len()).step_by(widest).zip(panels) {
            let width = packed.len() / inner;
            for (i, packed) in packed.chunks_mut(CHAIN * width).enumerate() {
                ARCH.dispatch(Panel {
                    rows: &w_rows,
                    start: i * CHAIN,
                    source: None,
                    packed,
                    sums: &mut sums[..real * width],
                    width,
                    finish: None,
                });
            }
            let out = out.axis_iter_mut(Axis(0)).skip(some).take(width);
            for (i, to) in out.enumerate() {
                let to = &mut contiguous_mut(to)[first..first + real];
                let from = sums[i..].iter().step_by(width);
                to.iter_mut().zip(from).for_each(|(to, v)| *to = *v);
            }
        }
    }
}

/// Packs rows side by side, `[in, width]` for each panel; lanes beyond the last row are left as
/// they are and not read into any result.
fn pack_rows(rows: &[&[f32]], inner: usize, widest: usize, packed: &mut [f32]) {
    let panels = packed.chunks_mut(widest * inner);
    for (rows, panel) in rows.chunks(widest).zip(panels) {
        let width = panel.len() / inner;
        for (lane, row) in rows.iter().enumerate() {
            let to = panel.chunks_exact_mut(width);
            to.zip(*row).for_each(|(to, v)| to[lane] = *v);
        }
    }
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
        memory.resize(len + VECTOR, 0.0);
    }
    let start = memory.as_ptr().align_offset(64).min(VECTOR);
    &mut memory[start..start + len]
}

/// Columns of the widest panel.
struct Widest;

impl WithSimd for Widest {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        if S::F32_LANES == VECTOR {
            4 * VECTOR
        } else {
            VECTOR
        }
    }
}

/// One chain of all rows through a panel.
struct Panel<'a, 'o> {
    rows: &'a [&'a [f32]],
    /// Where the chain starts in each row.
    start: usize,
    /// Rows to copy into the panel, from this column on; `None` if it is packed.
    source: Option<(&'a [&'a [f32]], usize)>,
    /// `[chain, width]`
    packed: &'a mut [f32],
    /// `[row, width]`: the chain's results are added, those of the first chain are put there.
    sums: &'a mut [f32],
    width: usize,
    /// Where the sums go after the last chain.
    finish: Option<Finish<'a, 'o>>,
}

/// Some columns of the product's rows.
pub(super) struct Finish<'a, 'o> {
    pub out: &'a mut [&'o mut [f32]],
    pub columns: Range<usize>,
    pub bias: Option<&'a [f32]>,
}

impl Finish<'_, '_> {
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

impl WithSimd for Panel<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.width / S::F32_LANES {
            1 => self.run::<S, 1>(simd),
            2 => self.run::<S, 2>(simd),
            3 => self.run::<S, 3>(simd),
            _ => self.run::<S, 4>(simd),
        }
    }
}

impl Panel<'_, '_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(mut self, simd: S) {
        let groups = self.rows.chunks(ROWS);
        for (i, rows) in groups.enumerate() {
            let sums = &mut self.sums[i * ROWS * self.width..][..rows.len() * self.width];
            let source = if i == 0 { self.source } else { None };
            let packed = &mut *self.packed;
            match rows.len() {
                1 => group::<S, 1, V>(simd, rows, self.start, source, packed, sums),
                2 => group::<S, 2, V>(simd, rows, self.start, source, packed, sums),
                3 => group::<S, 3, V>(simd, rows, self.start, source, packed, sums),
                4 => group::<S, 4, V>(simd, rows, self.start, source, packed, sums),
                5 => group::<S, 5, V>(simd, rows, self.start, source, packed, sums),
                _ => group::<S, ROWS, V>(simd, rows, self.start, source, packed, sums),
            }
            if let Some(finish) = &mut self.finish {
                finish.write(i * ROWS, sums, self.width);
            }
        }
    }
}

/// One chain of each element: `R` rows by `V` vectors of columns.
#[inline(always)]
fn group<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[&[f32]],
    start: usize,
    source: Option<(&[&[f32]], usize)>,
    packed: &mut [f32],
    sums: &mut [f32],
) {
    let (packed, _) = S::as_mut_simd_f32s(packed);
    let length = packed.len() / V;
    let rows: [&[f32]; R] = std::array::from_fn(
        #[inline(always)]
        |r| &rows[r][start..start + length],
    );
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    if let Some((source, column)) = source {
        let source = source[..length].iter().enumerate();
        for ((k, from), to) in source.zip(packed.chunks_exact_mut(V)) {
            let (from, _) = S::as_simd_f32s(&from[column..column + V * S::F32_LANES]);
            let b = vectors::<S, V>(from);
            to.copy_from_slice(&b);
            multiply_add(simd, &rows, k, b, &mut acc);
        }
    } else {
        for (k, b) in packed.chunks_exact(V).enumerate().take(length) {
            multiply_add(simd, &rows, k, vectors::<S, V>(b), &mut acc);
        }
    }
    let (sums, _) = S::as_mut_simd_f32s(sums);
    for (sums, acc) in sums.chunks_exact_mut(V).zip(acc) {
        for (sum, v) in sums.iter_mut().zip(acc) {
            *sum = if start == 0 {
                v
            } else {
                simd.add_f32s(v, *sum)
            };
        }
    }
}
#[inline(always)]
fn vectors<S: Simd, const V: usize>(from: &[S::f32s]) -> [S::f32s; V] {
    std::array::from_fn(
        #[inline(always)]
        |v| from[v],
    )
}

/// One step of all chains: element `k` of each row times `b`.
#[inline(always)]
fn multiply_add<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[&[f32]; R],
    k: usize,
    b: [S::f32s; V],
    acc: &mut [[S::f32s; V]; R],
) {
    for (row, acc) in rows.iter().zip(acc) {
        let factor = simd.splat_f32s(row[k]);
        for (acc, b) in acc.iter_mut().zip(b) {
            *acc = simd.mul_add_f32s(factor, b, *acc);
        }
    }
}

#[cfg(test)]
mod tests;
