//! Work split over the rows of a matrix.

use ndarray::{ArrayViewMut2, Axis};
use rayon::prelude::*;

/// Below this many elements a split over threads costs more than it gains.
const PARALLEL_FROM: usize = 1 << 15;

/// Calls `f(index, row)` on each row of a row-major matrix, over threads where that pays.
pub(crate) fn for_rows(mut x: ArrayViewMut2<'_, f32>, f: impl Fn(usize, &mut [f32]) + Sync) {
    if x.is_empty() {
        return;
    }
    let run = |first: usize, mut block: ArrayViewMut2<'_, f32>| {
        for (i, mut row) in block.rows_mut().into_iter().enumerate() {
            match row.as_slice_mut() {
                Some(slice) => f(first + i, slice),
                None => {
                    let mut copy = row.to_vec();
                    f(first + i, &mut copy);
                    row.iter_mut().zip(copy).for_each(|(to, from)| *to = from);
                }
            }
        }
    };
    let threads = rayon::current_num_threads();
    if threads == 1 || x.len() < PARALLEL_FROM {
        return run(0, x);
    }
    let chunk = x.nrows().div_ceil(4 * threads);
    x.axis_chunks_iter_mut(Axis(0), chunk)
        .into_par_iter()
        .enumerate()
        .for_each(|(i, block)| run(i * chunk, block));
}
