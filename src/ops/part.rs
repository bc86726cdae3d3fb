//! Parts of arrays along one axis, and lists of indices. `ndarray`'s `s!` expands to an `allow(unsafe_code)`, which this
//! crate forbids.

use std::ops::Range;

use ndarray::{ArrayView, ArrayViewMut, Axis, Dimension};

/// The part of a view along `axis`.
pub(crate) fn part<D: Dimension>(
    mut x: ArrayView<'_, f32, D>,
    axis: usize,
    range: Range<usize>,
) -> ArrayView<'_, f32, D> {
    x.slice_axis_inplace(Axis(axis), range.into());
    x
}

/// The part of a mutable view along `axis`.
pub(crate) fn part_mut<D: Dimension>(
    mut x: ArrayViewMut<'_, f32, D>,
    axis: usize,
    range: Range<usize>,
) -> ArrayViewMut<'_, f32, D> {
    x.slice_axis_inplace(Axis(axis), range.into());
    x
}

/// The indices in ascending order, each once.
pub(crate) fn sorted(indices: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut indices: Vec<usize> = indices.into_iter().collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}
