//! The matrix product's kernel: a few rows times a packed panel of columns.
//!
//! Each element is the sum, in order, of chains of [`CHAIN`] fused multiply-adds: the order of
//! `matrixmultiply` (behind ndarray's `.dot`), whatever the number of rows or columns. Unlike it,
//! the kernel packs only one operand, and only row by row where that operand is row-major, which
//! is most of the time of a product of few rows.

use std::cell::RefCell;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use pulp::{Simd, WithSimd};

use super::part::{part, part_mut};
use super::simd::ARCH;

/// Length of one chain of fused multiply-adds.
const CHAIN: usize = 256;
/// Most columns of a packed panel.
const PANEL: usize = 64;
/// Panels have a multiple of this many columns: the widest vector.
const WIDEST: usize = 16;

thread_local! {
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `x · w + bias` on one thread, for rows that are slices.
///
/// # Shapes
/// `x` `[rows, in]`, `w` `[in, out]`, `bias` `[out]`, `out` `[rows, out]`; the rows of `x`, and
/// either the rows or the columns of `w`, are contiguous.
pub(super) fn product(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    mut out: ArrayViewMut2<'_, f32>,
) {
    let write_row = |mut to: ndarray::ArrayViewMut1<'_, f32>, from: &[f32], first: usize| {
        let columns = first..first + from.len();
        to = part_mut(to, 0, columns.clone());
        match &bias {
            Some(bias) => {
                let bias = part(bias.view(), 0, columns);
                to.iter_mut()
                    .zip(from)
                    .zip(bias)
                    .for_each(|((to, v), b)| *to = v + b);
            }
            None => to.iter_mut().zip(from).for_each(|(to, v)| *to = *v),
        }
    };
    PACKED.with_borrow_mut(|packed| {
        if row_major(&w) {
            // Columns of `w` are packed, rows of `x` go through them.
            panels(x, w, packed, |row, column, values| {
                write_row(out.row_mut(row), values, column);
            });
        } else {
            // The transposed product: columns of `xᵀ` are packed, rows of `wᵀ` go through them.
            panels(w.t(), x.t(), packed, |column, row, values| {
                let bias = bias.map(|b| b[column]);
                for (i, v) in values.iter().enumerate() {
                    out[[row + i, column]] = bias.map_or(*v, |b| v + b);
                }
            });
        }
    });
}

/// Whether rows are contiguous.
pub(super) fn row_major(x: &ArrayView2<'_, f32>) -> bool {
    x.ncols() <= 1 || x.strides()[1] == 1
}

/// Calls `write(row, first column, values)` for each row of `a · b` and each panel of columns.
fn panels(
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    packed: &mut Vec<f32>,
    mut write: impl FnMut(usize, usize, &[f32]),
) {
    let (rows, columns) = (a.nrows(), b.ncols());
    for first in (0..columns).step_by(PANEL) {
        let real = (columns - first).min(PANEL);
        let width = real.next_multiple_of(WIDEST);
        pack(part(b.view(), 1, first..first + real), width, packed);
        let mut row = 0;
        while row < rows {
            // Fewer columns leave registers for more rows.
            let most = if width > 2 * WIDEST { 6 } else { 12 };
            let group = match rows - row {
                left if left >= most => most,
                left if left >= 6 => 6,
                left => left,
            };
            let mut emit = |i, values: &[f32]| write(row + i, first, &values[..real]);
            let some = part(a.view(), 0, row..row + group);
            match group {
                12 => multiply::<12>(some, packed, width, &mut emit),
                6 => multiply::<6>(some, packed, width, &mut emit),
                5 => multiply::<5>(some, packed, width, &mut emit),
                4 => multiply::<4>(some, packed, width, &mut emit),
                3 => multiply::<3>(some, packed, width, &mut emit),
                2 => multiply::<2>(some, packed, width, &mut emit),
                _ => multiply::<1>(some, packed, width, &mut emit),
            }
            row += group;
        }
    }
}

/// Copies columns side by side, `[in, width]`; what is beyond them is left as it is and not read
/// into any result.
fn pack(b: ArrayView2<'_, f32>, width: usize, packed: &mut Vec<f32>) {
    packed.resize(b.nrows() * width, 0.0);
    if row_major(&b) {
        for (to, from) in packed.chunks_exact_mut(width).zip(b.rows()) {
            to.iter_mut().zip(from).for_each(|(to, v)| *to = *v);
        }
        return;
    }
    for (column, from) in b.columns().into_iter().enumerate() {
        let to = packed.chunks_exact_mut(width);
        to.zip(from).for_each(|(to, v)| to[column] = *v);
    }
}

/// `R` rows times a packed panel.
fn multiply<const R: usize>(
    a: ArrayView2<'_, f32>,
    panel: &[f32],
    width: usize,
    emit: &mut impl FnMut(usize, &[f32]),
) {
    let rows: [&[f32]; R] = std::array::from_fn(|r| {
        a.index_axis_move(Axis(0), r)
            .to_slice()
            .unwrap_or_else(|| unreachable!("rows were checked to be contiguous"))
    });
    let mut sums = [[0.0; PANEL]; R];
    ARCH.dispatch(Chains {
        rows,
        panel,
        width,
        sums: &mut sums,
    });
    for (r, sums) in sums.iter().enumerate() {
        emit(r, sums);
    }
}

struct Chains<'a, const R: usize> {
    rows: [&'a [f32]; R],
    panel: &'a [f32],
    width: usize,
    sums: &'a mut [[f32; PANEL]; R],
}

impl<const R: usize> WithSimd for Chains<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match self.width / S::F32_LANES {
            // As many sums as there are registers: 24 of 32, or 12 of 16.
            4.. if S::F32_LANES == WIDEST && R <= 6 => self.run::<S, 4>(simd),
            2.. if R <= 6 || S::F32_LANES == WIDEST => self.run::<S, 2>(simd),
            _ => self.run::<S, 1>(simd),
        }
    }
}

impl<const R: usize> Chains<'_, R> {
    /// Goes through the panel `V` vectors at a time.
    #[inline(always)]
    fn run<S: Simd, const V: usize>(&mut self, simd: S) {
        let step = V * S::F32_LANES;
        for column in (0..self.width).step_by(step) {
            let chains = self.panel.chunks(CHAIN * self.width).enumerate();
            for (i, block) in chains {
                let start = i * CHAIN;
                let length = block.len() / self.width;
                let rows = self.rows.map(
                    #[inline(always)]
                    |row| &row[start..start + length],
                );
                let chain = chain::<S, R, V>(simd, &rows, block, (self.width, column));
                for (sums, chain) in self.sums.iter_mut().zip(chain) {
                    let (sums, _) = S::as_mut_simd_f32s(&mut sums[column..column + step]);
                    for (sum, v) in sums.iter_mut().zip(chain) {
                        *sum = if i == 0 { v } else { simd.add_f32s(v, *sum) };
                    }
                }
            }
        }
    }
}

/// One chain of each element: `R` rows by `V` vectors of columns.
#[inline(always)]
fn chain<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[&[f32]; R],
    block: &[f32],
    (width, column): (usize, usize),
) -> [[S::f32s; V]; R] {
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    for (k, b) in block.chunks_exact(width).enumerate() {
        let (b, _) = S::as_simd_f32s(&b[column..column + V * S::F32_LANES]);
        let b: [S::f32s; V] = std::array::from_fn(
            #[inline(always)]
            |v| b[v],
        );
        for r in 0..R {
            let factor = simd.splat_f32s(rows[r][k]);
            for v in 0..V {
                acc[r][v] = simd.mul_add_f32s(factor, b[v], acc[r][v]);
            }
        }
    }
    acc
}
