//! Products with a row-major right matrix.
//!
//! Some columns of one chain of its rows make a panel, which fits in a core's first cache. The rows
//! of the left matrix, whose elements lie side by side in groups, go through panel after panel: the
//! first group takes the columns from where they lie and copies them into the panel on the way,
//! which costs next to nothing beside its sums. Meanwhile the next block of columns is on its way
//! from memory.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::super::memory::{self, Matrix};
use super::super::simd::ARCH;
use super::buffers::{
    CHAIN, Finish, SCRATCH, Scratch, VECTOR, aligned, block_rows, contiguous_mut, row_major, slices,
};
use super::stream;
use super::tile::{self, Ahead, Columns, Sums};

/// Most columns of a block: with the rows they stay in a core's second cache.
pub(super) const COLUMNS: usize = 128;
/// Fewer elements than these are interleaved on one thread.
const INTERLEAVED_ALONE: usize = 1 << 14;

/// The left matrix of a product, for the right one or its columns in several parts.
pub(in super::super) struct Left<'a> {
    rows: Vec<&'a [f32]>,
    /// `None` for few rows, which are streamed.
    groups: Option<Matrix>,
}

impl<'a> Left<'a> {
    pub fn new(x: ArrayView2<'a, f32>) -> Self {
        let rows = slices(x);
        let few = rows.len() <= stream::FEW_ROWS;
        let groups = (!few).then(|| interleaved(&rows));
        Left { rows, groups }
    }

    /// `x · w + bias`, shapes as in [`super::product`].
    pub fn times(
        &self,
        w: ArrayView2<'_, f32>,
        bias: Option<ArrayView1<'_, f32>>,
        mut out: ArrayViewMut2<'_, f32>,
    ) {
        debug_assert!(row_major(&w), "columns are packed from contiguous rows");
        let streamed = match self.groups {
            Some(_) => 0,
            None => w.ncols() - w.ncols() % stream::COLUMNS,
        };
        let bias = bias.map(|b| b.to_vec());
        let (all, w) = (streamed..w.ncols(), slices(w));
        let mut out: Vec<&mut [f32]> = out.rows_mut().into_iter().map(contiguous_mut).collect();
        // Before the scratch is borrowed: this may wait for other threads and meanwhile begin
        // another product.
        let rest = (self.groups.is_none() && !all.is_empty()).then(|| interleaved(&self.rows));
        let bias = bias.as_deref();
        SCRATCH.with_borrow_mut(|scratch| {
            if streamed > 0 {
                let finish = Finish::new(&mut out, 0..streamed, bias);
                stream::product(&self.rows, &w, scratch, finish);
            }
            let groups = self.groups.as_ref().or(rest.as_ref());
            if let Some(groups) = groups.and_then(|groups| groups.as_slice()) {
                let finish = Finish::new(&mut out, all, bias);
                blocks(groups, &w, scratch, finish);
            }
        });
    }
}

/// The columns of `finish`, in blocks of columns and rows.
fn blocks(groups: &[f32], w: &[&[f32]], scratch: &mut Scratch, finish: Finish<'_, '_>) {
    let Finish {
        out,
        columns: all,
        bias,
    } = finish;
    let tile = ARCH.dispatch(LargestTile);
    let rows = block_rows(out.len());
    let last = out.len().div_ceil(rows) - 1;
    for first in all.clone().step_by(COLUMNS) {
        let columns = first..all.end.min(first + COLUMNS);
        let after = columns.end..all.end.min(columns.end + COLUMNS);
        let panels = columns.len().div_ceil(tile.columns);
        let groups = groups.chunks(rows * w.len());
        for (i, (groups, out)) in groups.zip(out.chunks_mut(rows)).enumerate() {
            let sums = panels * out.len() * tile.columns;
            ARCH.dispatch(Block {
                tile,
                groups,
                w,
                packed: aligned(&mut scratch.packed, CHAIN * tile.columns),
                sums: aligned(&mut scratch.sums, sums),
                finish: Finish::new(out, columns.clone(), bias),
                next: if i < last {
                    columns.clone()
                } else {
                    after.clone()
                },
            });
        }
    }
}

/// Groups of rows, the elements of each group side by side: `[in, row]`.
fn interleaved(rows: &[&[f32]]) -> Matrix {
    let inner = rows.first().map_or(0, |row| row.len());
    let size = ARCH.dispatch(LargestTile).rows;
    let mut groups = memory::matrix((rows.len(), inner));
    groups
        .as_slice_mut()
        .unwrap_or_default()
        .par_chunks_mut((size * inner).max(1))
        .zip(rows.par_chunks(size))
        .with_min_len(INTERLEAVED_ALONE / (size * inner).max(1) + 1)
        .for_each(|(to, rows)| match size {
            12 if rows.len() == 12 => interleave::<12>(rows, to),
            6 if rows.len() == 6 => interleave::<6>(rows, to),
            _ => {
                for (i, row) in rows.iter().enumerate() {
                    let to = to[i..].iter_mut().step_by(rows.len());
                    to.zip(*row).for_each(|(to, v)| *to = *v);
                }
            }
        });
    groups.into()
}

fn interleave<const R: usize>(rows: &[&[f32]], to: &mut [f32]) {
    let (to, _) = to.as_chunks_mut::<R>();
    let rows: [&[f32]; R] = std::array::from_fn(|r| &rows[r][..to.len()]);
    for (k, to) in to.iter_mut().enumerate() {
        *to = std::array::from_fn(|r| rows[r][k]);
    }
}

/// How many rows and columns make a tile: their sums, the vectors of a panel's row and a factor
/// take nearly all registers.
#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
}

/// The largest tile of this machine.
struct LargestTile;

impl WithSimd for LargestTile {
    type Output = Tile;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Tile {
        let (rows, columns) = match S::F32_LANES {
            VECTOR => (12, 2 * VECTOR),
            _ => (6, VECTOR),
        };
        Tile { rows, columns }
    }
}

/// Some rows times some columns.
struct Block<'a, 'o> {
    tile: Tile,
    /// `[in, row]` each.
    groups: &'a [f32],
    w: &'a [&'a [f32]],
    /// A panel, `[chain, column]`.
    packed: &'a mut [f32],
    /// `[panel, row, column]`
    sums: &'a mut [f32],
    finish: Finish<'a, 'o>,
    /// Columns that are packed after this.
    next: Range<usize>,
}

impl WithSimd for Block<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let columns = self.finish.columns.clone();
        for i in 0..self.w.len().div_ceil(CHAIN) {
            for first in columns.clone().step_by(self.tile.columns) {
                let real = (columns.end - first).min(self.tile.columns);
                match real.div_ceil(VECTOR) * VECTOR / S::F32_LANES {
                    1 => self.panel::<S, 1>(simd, i, first),
                    2 => self.panel::<S, 2>(simd, i, first),
                    _ => self.panel::<S, 4>(simd, i, first),
                }
            }
        }
    }
}

impl Block<'_, '_> {
    /// A chain of all rows through the panel whose first column is given.
    #[inline(always)]
    fn panel<S: Simd, const V: usize>(&mut self, simd: S, chain: usize, first: usize) {
        let (inner, width) = (self.w.len(), V * S::F32_LANES);
        let steps = chain * CHAIN..inner.min((chain + 1) * CHAIN);
        let Range { start, end } = self.finish.columns;
        let panel = (first - start) / self.tile.columns;
        let packed = &mut self.packed[..steps.len() * width];
        let groups = self.groups.chunks(self.tile.rows * inner);
        let rows = self.finish.out.len();
        let sums = &mut self.sums[panel * rows * self.tile.columns..][..rows * width];
        let later = &self.w[steps.end..];
        let ahead = match later {
            [] => Ahead::new(&self.w[..inner.min(CHAIN)], self.next.clone()),
            _ => Ahead::new(&later[..later.len().min(CHAIN)], start..end),
        };
        let ahead = ahead.after(panel * groups.len());
        let real = first..end.min(first + self.tile.columns);
        let chain_rows = &self.w[steps.clone()];
        // The first group makes the panel, unless it is less than a whole tile.
        let whole = rows >= self.tile.rows && real.len() == self.tile.columns;
        if !whole {
            pack(chain_rows, real.clone(), packed, width);
        }
        let Finish { out, bias, .. } = &mut self.finish;
        let mut finish = (steps.end == inner).then(|| Finish::new(out, real, *bias));
        let to = sums.chunks_mut(self.tile.rows * width);
        for (i, (group, to)) in groups.zip(to).enumerate() {
            let count = group.len() / inner;
            let group = &group[steps.start * count..steps.end * count];
            let chain = Sums {
                add: chain > 0,
                to: &mut *to,
            };
            let ahead = ahead.after(i);
            if whole && i == 0 {
                let columns = Columns {
                    rows: chain_rows,
                    first,
                    panel: &mut *packed,
                };
                tile::packing(simd, group, columns, chain, ahead);
            } else {
                tile::interleaved::<S, V>(simd, count, group, packed, chain, ahead);
            }
            if let Some(finish) = &mut finish {
                finish.write(i * self.tile.rows, to, width);
            }
        }
    }
}

/// Copies some columns into a panel of this width.
#[inline(always)]
fn pack(w: &[&[f32]], columns: Range<usize>, panel: &mut [f32], width: usize) {
    for (row, to) in w.iter().zip(panel.chunks_exact_mut(width)) {
        to[..columns.len()].copy_from_slice(&row[columns.clone()]);
    }
}
