//! Results with one axis, cell by cell, the way bars show them.

use super::absent::Absent;
use super::label::legible;
use super::labelled::Labelled;

/// A cell of a result with one axis or none.
pub(super) struct Row {
    /// Its label as it is shown.
    pub(super) label: String,
    pub(super) value: f32,
    /// The standard error, if known.
    pub(super) std_error: Option<f32>,
    pub(super) absent: Option<Absent>,
    /// The cell's text as it is shown.
    pub(super) text: Option<String>,
}

/// The cells of a result with one axis or none, in order.
pub(super) fn rows(of: &Labelled) -> Vec<Row> {
    let axis = of.axes().first();
    let row = |i: usize| {
        let index = &[i][..of.axes().len()];
        let error = of.std_error().map(|errors| errors[index]);
        Row {
            label: axis.map_or_else(String::new, |axis| legible(&axis.labels[i])),
            value: of.values()[index],
            std_error: error.filter(|error| !error.is_nan()),
            absent: of.absent()[index],
            text: of.texts().map(|texts| legible(&texts[index])),
        }
    };
    (0..of.values().len()).map(row).collect()
}

/// What the bars reach over: zero and all finite values with their errors.
pub(super) fn span(rows: &[Row]) -> (f64, f64) {
    let reach = |row: &Row| {
        let error = f64::from(row.std_error.unwrap_or(0.0));
        [-error, error].map(|error| f64::from(row.value) + error)
    };
    let ends = rows.iter().flat_map(reach).filter(|end| end.is_finite());
    let (low, high) = ends.fold((0.0, 0.0), |(low, high), end| {
        (f64::min(low, end), f64::max(high, end))
    });
    if low < high { (low, high) } else { (0.0, 1.0) }
}

impl Row {
    /// Where the bar ends: infinities at the ends of the span.
    pub(super) fn clamped(&self, (low, high): (f64, f64)) -> f64 {
        f64::from(self.value).clamp(low, high)
    }
}
