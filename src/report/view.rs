//! Any array as a stack of 2-D slices, the way terminal, pictures and pages show it.

use ndarray::{ArrayView, ArrayView2, Axis as Dim, IxDyn};

use super::absent::Absent;
use super::axis::{Axis, Part};
use super::label::legible;
use super::labelled::Labelled;

/// A labelled array seen as slices of rows and columns: its last two axes. An array with fewer
/// axes has a row, or a row and a column, without label.
pub(super) struct View<'a> {
    of: &'a Labelled,
    leading: &'a [Axis],
    /// The axis of the rows, if there is one.
    pub(super) rows: Option<&'a Axis>,
    /// The axis of the columns, if there is one.
    pub(super) cols: Option<&'a Axis>,
    /// Whether rows are those of the array, or its columns.
    turned: bool,
}

/// One 2-D slice with the labels of its leading indices; all arrays are `[row, col]`.
pub(super) struct Slice<'a> {
    /// The leading indices.
    #[cfg(feature = "pictures")]
    pub(super) indices: Vec<usize>,
    /// `component = q, layer = L3`; empty where the array has no further axes.
    pub(super) heading: String,
    /// The values.
    pub(super) values: ArrayView2<'a, f32>,
    /// Why values are absent.
    pub(super) absent: ArrayView2<'a, Option<Absent>>,
    /// The standard errors.
    pub(super) std_error: Option<ArrayView2<'a, f32>>,
    /// The cells' texts, raw.
    pub(super) texts: Option<ArrayView2<'a, String>>,
}

impl<'a> View<'a> {
    pub(super) fn new(of: &'a Labelled) -> Self {
        let axes = of.axes();
        let (leading, inner) = axes.split_at(axes.len().saturating_sub(2));
        View {
            of,
            leading,
            rows: (inner.len() == 2).then(|| &inner[0]),
            cols: inner.last(),
            turned: false,
        }
    }

    /// The same with rows and columns exchanged.
    pub(super) fn turned(&self) -> Self {
        View {
            of: self.of,
            leading: self.leading,
            rows: self.cols,
            cols: self.rows,
            turned: !self.turned,
        }
    }

    /// The number of slices.
    pub(super) fn len(&self) -> usize {
        self.leading.iter().map(|axis| axis.labels.len()).product()
    }

    /// Rows and columns of every slice.
    pub(super) fn dim(&self) -> (usize, usize) {
        let n = |axis: Option<&Axis>| axis.map_or(1, |axis| axis.labels.len());
        (n(self.rows), n(self.cols))
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
        let shape: Vec<usize> = self.leading.iter().map(|axis| axis.labels.len()).collect();
        let mut rest = number;
        let mut indices = vec![0; shape.len()];
        for (index, n) in indices.iter_mut().zip(&shape).rev() {
            *index = rest % n;
            rest /= n;
        }
        let parts = Part::all(self.leading);
        let headings = parts.iter().map(|part| {
            let label = part.at(&indices, &shape);
            format!("{} = {}", legible(&part.name), legible(label))
        });
        let turned = self.turned;
        Slice {
            heading: headings.collect::<Vec<_>>().join(", "),
            values: at(self.of.values(), &indices, turned),
            absent: at(self.of.absent(), &indices, turned),
            std_error: self.of.std_error().map(|e| at(e, &indices, turned)),
            texts: self.of.texts().map(|texts| at(texts, &indices, turned)),
            #[cfg(feature = "pictures")]
            indices,
        }
    }
}

/// The slice at the indices of all axes but the last two, which are exchanged if `turned`; missing
/// axes are of length 1.
fn at<'a, T>(
    mut array: ArrayView<'a, T, IxDyn>,
    indices: &[usize],
    turned: bool,
) -> ArrayView2<'a, T> {
    while array.ndim() < 2 {
        array.insert_axis_inplace(Dim(0));
    }
    for index in indices {
        array = array.index_axis_move(Dim(0), *index);
    }
    let slice: ArrayView2<'a, T> = array
        .into_dimensionality()
        .expect("the leading indices leave two axes");
    if turned { slice.reversed_axes() } else { slice }
}
