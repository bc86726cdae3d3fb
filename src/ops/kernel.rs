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
        let vectors = self.width / S::F32_LANES;
        // As many sums as there are registers: up to 24 of 32, or 12 of 16.
        match (vectors, S::F32_LANES == WIDEST) {
            (4, true) if R <= 6 => self.run::<S, 4>(simd),
            (3, true) if R <= 6 => self.run::<S, 3>(simd),
            (_, wide) if vectors % 2 == 0 && (wide || R <= 6) => self.run::<S, 2>(simd),
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

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use crate::ops::{linear, matmul};

    fn noise(rows: usize, columns: usize, seed: u32) -> Array2<f32> {
        let mut state = seed | 1;
        Array2::from_shape_simple_fn((rows, columns), || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        })
    }

    fn bits(x: &Array2<f32>) -> Vec<u32> {
        x.iter().map(|v| v.to_bits()).collect()
    }

    /// Straight from the definition: chains of fused multiply-adds, summed in order.
    fn by_definition(x: &Array2<f32>, w: &Array2<f32>) -> Array2<f32> {
        Array2::from_shape_fn((x.nrows(), w.ncols()), |(i, j)| {
            let (row, column) = (x.row(i).to_vec(), w.column(j).to_vec());
            let chains = row.chunks(super::CHAIN).zip(column.chunks(super::CHAIN));
            let chain = |(a, b): (&[f32], &[f32])| {
                let pairs = a.iter().zip(b);
                pairs.fold(0.0_f32, |sum, (a, b)| a.mul_add(*b, sum))
            };
            chains.map(chain).reduce(|sum, c| sum + c).unwrap_or(0.0)
        })
    }

    #[test]
    fn every_element_is_its_chains_whatever_the_shape_and_layout() {
        for (rows, inner, columns) in [
            (1, 1, 1),
            (1, 768, 70),
            (5, 300, 64),
            (6, 256, 65),
            (7, 257, 16),
            (13, 513, 33),
            (31, 40, 129),
            (64, 700, 300),
            (300, 20, 3),
        ] {
            let (x, w) = (noise(rows, inner, 3), noise(inner, columns, 7));
            let expected = bits(&by_definition(&x, &w));
            let (x_t, w_t) = (
                x.t().as_standard_layout().into_owned(),
                w.t().as_standard_layout().into_owned(),
            );
            let wide = noise(inner, 2 * columns, 9);
            let mut strided = wide.clone();
            strided
                .columns_mut()
                .into_iter()
                .step_by(2)
                .zip(w.columns())
                .for_each(|(mut to, c)| to.assign(&c));
            let mut every_other = strided.view();
            every_other.slice_axis_inplace(ndarray::Axis(1), ndarray::Slice::new(0, None, 2));
            let shape = format!("{rows} x {inner} x {columns}");
            assert_eq!(bits(&matmul(x.view(), w.view())), expected, "{shape}");
            assert_eq!(
                bits(&matmul(x.view(), w_t.t())),
                expected,
                "{shape}, w transposed"
            );
            assert_eq!(
                bits(&matmul(x_t.t(), w.view())),
                expected,
                "{shape}, x transposed"
            );
            assert_eq!(
                bits(&matmul(x.view(), every_other)),
                expected,
                "{shape}, w with gaps"
            );
        }
    }

    #[test]
    fn the_bias_is_added_last() {
        let (x, w, bias) = (noise(9, 300, 3), noise(300, 100, 7), noise(1, 100, 5));
        let expected = by_definition(&x, &w) + &bias.row(0);
        for layout in [
            w.clone(),
            w.t().as_standard_layout().into_owned().reversed_axes(),
        ] {
            let found = linear(x.view(), layout.view(), Some(bias.row(0)));
            assert_eq!(bits(&found), bits(&expected));
        }
    }

    #[test]
    fn what_a_panel_held_before_does_not_matter() {
        let (x, w) = (noise(3, 50, 3), noise(50, 17, 7));
        let expected = bits(&matmul(x.view(), w.view()));
        let poison = Array2::from_elem((50, 64), f32::NAN);
        matmul(x.view(), poison.view());
        assert_eq!(bits(&matmul(x.view(), w.view())), expected);
    }
}
