//! Any array as a stack of 2-D slices, the way terminal, pictures and pages show it.

use ndarray::{ArrayView, ArrayView2, ArrayViewD, Axis as Dim, IxDyn};

use super::label::{Axis, legible};
use super::labelled::Labelled;

/// A labelled array seen as slices of rows and columns: its last two axes. An array with fewer
/// axes has a row, or a row and a column, without label.
pub(super) struct View<'a> {
    values: ArrayViewD<'a, f32>,
    texts: Option<ArrayView<'a, String, IxDyn>>,
    leading: &'a [Axis],
    /// The axis of the rows, if there is one.
    pub(super) rows: Option<&'a Axis>,
    /// The axis of the columns, if there is one.
    pub(super) cols: Option<&'a Axis>,
}

/// One 2-D slice with the labels of its leading indices.
pub(super) struct Slice<'a> {
    /// `component = q, layer = L3`; empty where the array has no further axes.
    pub(super) heading: String,
    /// The values, `[row, col]`.
    pub(super) values: ArrayView2<'a, f32>,
    /// The cells' texts, raw.
    #[cfg_attr(
        not(feature = "pictures"),
        expect(dead_code, reason = "pictures alone draw them")
    )]
    pub(super) texts: Option<ArrayView2<'a, String>>,
}

impl<'a> View<'a> {
    pub(super) fn new(of: &'a Labelled) -> Self {
        let axes = of.axes();
        let (leading, inner) = axes.split_at(axes.len().saturating_sub(2));
        let missing = 2_usize.saturating_sub(inner.len());
        View {
            values: with_axes(of.values(), missing),
            texts: of.texts().map(|texts| with_axes(texts, missing)),
            leading,
            rows: (inner.len() == 2).then(|| &inner[0]),
            cols: inner.last(),
        }
    }

    /// The number of slices.
    pub(super) fn len(&self) -> usize {
        self.leading.iter().map(|axis| axis.labels.len()).product()
    }

    /// Rows and columns of every slice.
    pub(super) fn dim(&self) -> (usize, usize) {
        let shape = self.values.shape();
        (shape[shape.len() - 2], shape[shape.len() - 1])
    }

    /// Labels of the rows, fit to be shown.
    pub(super) fn row_labels(&self) -> Vec<String> {
        self.rows.map_or_else(|| vec![String::new()], Axis::legible)
    }

    /// Labels of the columns, fit to be shown.
    pub(super) fn col_labels(&self) -> Vec<String> {
        self.cols.map_or_else(|| vec![String::new()], Axis::legible)
    }

    /// The slices in row-major order of the leading indices.
    pub(super) fn slices(&self) -> impl Iterator<Item = Slice<'a>> {
        (0..self.len()).map(|number| self.slice(number))
    }

    fn slice(&self, number: usize) -> Slice<'a> {
        let mut rest = number;
        let mut indices = vec![0; self.leading.len()];
        let mut heading = Vec::new();
        for (i, axis) in self.leading.iter().enumerate().rev() {
            let index = rest % axis.labels.len();
            rest /= axis.labels.len();
            indices[i] = index;
            heading.push(format!(
                "{} = {}",
                legible(&axis.name),
                legible(&axis.labels[index])
            ));
        }
        heading.reverse();
        Slice {
            heading: heading.join(", "),
            values: at(&self.values, &indices),
            texts: self.texts.as_ref().map(|texts| at(texts, &indices)),
        }
    }
}

/// An array with so many axes of length 1 before its own.
fn with_axes<T>(mut array: ArrayView<'_, T, IxDyn>, count: usize) -> ArrayView<'_, T, IxDyn> {
    (0..count).for_each(|_| array.insert_axis_inplace(Dim(0)));
    array
}

/// The slice at the indices of all axes but the last two.
fn at<'a, T>(array: &ArrayView<'a, T, IxDyn>, indices: &[usize]) -> ArrayView2<'a, T> {
    let mut array = array.clone();
    for index in indices {
        array = array.index_axis_move(Dim(0), *index);
    }
    array
        .into_dimensionality()
        .expect("`new` leaves at least two axes, of which all but the last two are gone")
}
