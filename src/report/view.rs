//! Any array as a stack of 2-D slices, the way terminal, pictures and pages show it.

use ndarray::{ArrayView2, ArrayViewD, Axis as Dim};

use super::label::{Axis, legible};
use super::labelled::Labelled;

/// A labelled array seen as slices of rows and columns: its last two axes. An array with fewer
/// axes has a row, or a row and a column, without label.
pub(super) struct View<'a> {
    values: ArrayViewD<'a, f32>,
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
}

impl<'a> View<'a> {
    pub(super) fn new(of: &'a Labelled) -> Self {
        let axes = of.axes();
        let (leading, inner) = axes.split_at(axes.len().saturating_sub(2));
        let mut values = of.values();
        for _ in inner.len()..2 {
            values.insert_axis_inplace(Dim(0));
        }
        View {
            values,
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
        let mut values = self.values.clone();
        let mut heading = Vec::new();
        for (i, axis) in self.leading.iter().enumerate().rev() {
            let index = rest % axis.labels.len();
            rest /= axis.labels.len();
            values = values.index_axis_move(Dim(i), index);
            heading.push(format!(
                "{} = {}",
                legible(&axis.name),
                legible(&axis.labels[index])
            ));
        }
        heading.reverse();
        Slice {
            heading: heading.join(", "),
            values: values
                .into_dimensionality()
                .expect("`new` leaves at least two axes, of which all but the last two are gone"),
        }
    }
}
