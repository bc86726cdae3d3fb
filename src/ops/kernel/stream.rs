//! The product of a few rows. Reading the matrix is all that such a product costs, so it is read
//! once and in the order in which it lies in memory, a few of its rows side by side, the next ones
//! on their way; the sums of all rows stay in a core's own cache meanwhile. The bits are those of
//! [`super::kernel`].

use prefetch_index::prefetch_index;
use pulp::{Simd, WithSimd};

use super::super::simd::ARCH;
use super::buffers::{CHAIN, Finish, Scratch, VECTOR, aligned};

/// Up to this many rows, reading the matrix takes longer than multiplying.
pub(super) const FEW_ROWS: usize = 20;
/// Columns come in multiples of this.
pub(super) const COLUMNS: usize = 2 * VECTOR;
/// Columns at once, for the sums to stay in the cache.
const MOST_COLUMNS: usize = 1536;

/// `rows · w` for the columns of `finish`, a multiple of [`COLUMNS`].
///
/// # Shapes
/// `rows` `[rows][in]`, `w` `[in][columns]`.
pub(super) fn product(
    rows: &[&[f32]],
    w: &[&[f32]],
    scratch: &mut Scratch,
    mut finish: Finish<'_, '_>,
) {
    let columns = finish.columns.clone();
    for first in columns.clone().step_by(MOST_COLUMNS) {
        let width = (columns.end - first).min(MOST_COLUMNS);
        let chain = aligned(&mut scratch.packed, rows.len() * width);
        let sums = aligned(&mut scratch.sums, rows.len() * width);
        for (i, w) in w.chunks(CHAIN).enumerate() {
            ARCH.dispatch(Chain {
                rows,
                start: i * CHAIN,
                w,
                first,
                width,
                chain: &mut *chain,
                sums: &mut *sums,
            });
        }
        finish.columns = first..first + width;
        finish.write(0, sums, width);
    }
}

/// One chain of all elements.
struct Chain<'a> {
    rows: &'a [&'a [f32]],
    /// Where the chain starts in each row.
    start: usize,
    /// The rows of the matrix for this chain.
    w: &'a [&'a [f32]],
    first: usize,
    width: usize,
    /// `[row, width]`, this chain's results so far.
    chain: &'a mut [f32],
    /// `[row, width]`, those of the chains before.
    sums: &'a mut [f32],
}

impl WithSimd for Chain<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As much of the matrix as fits in half the registers: 16 of 32, or 8 of 16.
        if S::F32_LANES == VECTOR {
            self.run::<S, 8>(simd);
        } else {
            self.run::<S, 4>(simd);
        }
        let (chain, _) = S::as_simd_f32s(self.chain);
        let (sums, _) = S::as_mut_simd_f32s(self.sums);
        for (sum, v) in sums.iter_mut().zip(chain) {
            *sum = if self.start == 0 {
                *v
            } else {
                simd.add_f32s(*v, *sum)
            };
        }
    }
}

impl Chain<'_> {
    #[inline(always)]
    fn run<S: Simd, const B: usize>(&mut self, simd: S) {
        let whole = self.w.len() - self.w.len() % B;
        for at in (0..whole).step_by(B) {
            self.step::<S, B>(simd, at);
        }
        for at in whole..self.w.len() {
            self.step::<S, 1>(simd, at);
        }
    }

    /// `B` rows of the matrix, times that many elements of each row.
    #[inline(always)]
    fn step<S: Simd, const B: usize>(&mut self, simd: S, at: usize) {
        const V: usize = 2;
        let columns = self.first..self.first + self.width;
        let w: [&[S::f32s]; B] = std::array::from_fn(
            #[inline(always)]
            |b| S::as_simd_f32s(&self.w[at + b][columns.clone()]).0,
        );
        let later = self.w.get(at + B..at + 2 * B).unwrap_or_default();
        let vectors = self.width / S::F32_LANES;
        let (chain, _) = S::as_mut_simd_f32s(&mut *self.chain);
        for v in (0..vectors).step_by(V) {
            for (row, line) in later.iter().flat_map(|row| [(row, v), (row, v + 1)]) {
                prefetch_index(row, self.first + line * S::F32_LANES);
            }
            let w: [[S::f32s; V]; B] = std::array::from_fn(
                #[inline(always)]
                |b| [w[b][v], w[b][v + 1]],
            );
            for (row, chain) in self.rows.iter().zip(chain.chunks_exact_mut(vectors)) {
                let factors = &row[self.start + at..][..B];
                let chain = &mut chain[v..v + V];
                let mut acc = match at {
                    0 => [simd.splat_f32s(0.0); V],
                    _ => [chain[0], chain[1]],
                };
                for (factor, w) in factors.iter().zip(&w) {
                    let factor = simd.splat_f32s(*factor);
                    acc[0] = simd.mul_add_f32s(factor, w[0], acc[0]);
                    acc[1] = simd.mul_add_f32s(factor, w[1], acc[1]);
                }
                chain.copy_from_slice(&acc);
            }
        }
    }
}
