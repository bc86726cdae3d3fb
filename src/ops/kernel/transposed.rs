//! Products with a right matrix whose columns are contiguous, as the tied unembedding's: the
//! transposed product. Rows of `x` are packed side by side into panels; the rows of `wᵀ` go
//! through them as they lie.

use ndarray::{ArrayView2, ArrayViewMut2, Axis};
use pulp::{Simd, WithSimd};

use super::super::memory::{self, Matrix};
use super::super::simd::ARCH;
use super::buffers::{CHAIN, Scratch, VECTOR, aligned, contiguous_mut, slices};
use super::tile::{self, Ahead, Sums};

/// Rows of `wᵀ` that go through a panel together: with the widest panel, 20 sums in 32 registers.
/// With 24, some builds of the same code kept sums in memory.
const ROWS: usize = 5;
/// Rows of `wᵀ` at once: with a panel of `xᵀ` they stay in a core's second cache.
const W_BLOCK: usize = 95;

/// `x · w`, shapes as in [`super::product`].
pub(super) fn product(
    x: ArrayView2<'_, f32>,
    w: ArrayView2<'_, f32>,
    scratch: &mut Scratch,
    out: &mut ArrayViewMut2<'_, f32>,
) {
    let (inner, columns) = w.dim();
    let (rows, w_rows) = (slices(x), slices(w.reversed_axes()));
    let widest = ARCH.dispatch(WidestPanel);
    let padded = rows.len().next_multiple_of(VECTOR);
    // As large as its operand, so that it goes on to other matrices rather than stay with the thread.
    let mut packed = Matrix::from(memory::matrix((1, padded * inner + VECTOR)));
    let packed = packed.as_slice_mut().expect("matrices are row-major");
    let start = packed.as_ptr().align_offset(64).min(VECTOR);
    let packed = &mut packed[start..start + padded * inner];
    let sums = aligned(&mut scratch.sums, W_BLOCK * widest);
    pack(&rows, inner, widest, packed);
    for first in (0..columns).step_by(W_BLOCK) {
        let (block, later) = w_rows[first..].split_at(W_BLOCK.min(columns - first));
        let ahead = Ahead::new(&later[..W_BLOCK.min(later.len())], 0..inner);
        let mut done = 0;
        for (some, panel) in (0..rows.len())
            .step_by(widest)
            .zip(packed.chunks(widest * inner))
        {
            let width = panel.len() / inner;
            let sums = &mut sums[..block.len() * width];
            ARCH.dispatch(Panel {
                rows: block,
                panel,
                width,
                sums,
                ahead: ahead.after(done),
            });
            done += block.len().div_ceil(ROWS) * inner.div_ceil(CHAIN);
            let out = out.axis_iter_mut(Axis(0)).skip(some).take(width);
            for (i, to) in out.enumerate() {
                let to = &mut contiguous_mut(to)[first..first + block.len()];
                let from = sums[i..].iter().step_by(width);
                to.iter_mut().zip(from).for_each(|(to, v)| *to = *v);
            }
        }
    }
}

/// Packs rows side by side, `[in, width]` for each panel; lanes beyond the last row are left as
/// they are and not read into any result.
fn pack(rows: &[&[f32]], inner: usize, widest: usize, packed: &mut [f32]) {
    let panels = packed.chunks_mut(widest * inner);
    for (rows, panel) in rows.chunks(widest).zip(panels) {
        let width = panel.len() / inner;
        for (lane, row) in rows.iter().enumerate() {
            let to = panel.chunks_exact_mut(width);
            to.zip(*row).for_each(|(to, v)| to[lane] = *v);
        }
    }
}

/// Columns of the widest panel.
struct WidestPanel;

impl WithSimd for WidestPanel {
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

/// All rows through a panel.
struct Panel<'a> {
    rows: &'a [&'a [f32]],
    /// `[in, width]`
    panel: &'a [f32],
    width: usize,
    /// `[row, width]`
    sums: &'a mut [f32],
    ahead: Ahead<'a>,
}

impl WithSimd for Panel<'_> {
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

impl Panel<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let mut done = 0;
        for (i, panel) in self.panel.chunks(CHAIN * self.width).enumerate() {
            let chain = i * CHAIN..i * CHAIN + panel.len() / self.width;
            let sums = self.sums.chunks_mut(ROWS * self.width);
            for (rows, to) in self.rows.chunks(ROWS).zip(sums) {
                let mut chains: [&[f32]; ROWS] = [&[]; ROWS];
                for (chain_of_row, row) in chains.iter_mut().zip(rows) {
                    *chain_of_row = &row[chain.clone()];
                }
                let sums = Sums { add: i > 0, to };
                tile::apart::<S, V>(
                    simd,
                    &chains[..rows.len()],
                    panel,
                    sums,
                    self.ahead.after(done),
                );
                done += 1;
            }
        }
    }
}
