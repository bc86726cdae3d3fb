//! The strongest cells of a result, as a list.

use std::fmt;

use ndarray::Dimension as _;

use super::label::{legible, number, width};
use super::labelled::Labelled;
use crate::ops::largest;
use crate::statistics::write_with_error;

/// A cell with its place in the array. Prints as its value with the error, where that is known:
/// `+1.23 ± 0.04` by `{:+.2}`.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedCell {
    /// One index per axis.
    pub index: Vec<usize>,
    /// One label per axis, raw.
    pub labels: Vec<String>,
    /// The value; those of a ranking are never NaN.
    pub value: f32,
    /// Its standard error, if known.
    pub std_error: Option<f32>,
}

/// Cells in order of falling magnitude; prints as an aligned list.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// The unit of the values.
    pub unit: String,
    /// The names of the axes.
    pub axes: Vec<String>,
    /// The cells, strongest first; ties in row-major order.
    pub cells: Vec<RankedCell>,
    /// How many cells have a value.
    pub of: usize,
}

impl Labelled {
    /// The `n` cells of largest magnitude (all of them, if there are fewer); NaN cells never rank.
    pub fn top(&self, n: usize) -> Ranking {
        let ranked = self.ranked();
        let of = ranked.len();
        let best = largest(of, n, |i| f64::from(ranked[i].1.abs()));
        Ranking {
            unit: self.about.unit_label(),
            axes: self.axes().iter().map(|axis| axis.name.clone()).collect(),
            cells: best.into_iter().map(|i| self.cell(&ranked[i].0)).collect(),
            of,
        }
    }

    /// One cell by its indices.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn cell(&self, index: &[usize]) -> RankedCell {
        RankedCell {
            index: index.to_vec(),
            labels: self
                .labels_at(index)
                .into_iter()
                .map(String::from)
                .collect(),
            value: self.values()[index],
            std_error: self.std_error().map(|errors| errors[index]),
        }
    }

    /// Every cell that has a value, in row-major order.
    pub(super) fn ranked(&self) -> Vec<(Vec<usize>, f32)> {
        let values = self.values();
        let cells = values.indexed_iter().filter(|(_, value)| !value.is_nan());
        cells
            .map(|(index, &value)| (index.slice().to_vec(), value))
            .collect()
    }

    /// The labels of one cell.
    pub(super) fn labels_at(&self, index: &[usize]) -> Vec<&str> {
        let pairs = self.axes().iter().zip(index);
        pairs.map(|(axis, &i)| axis.labels[i].as_str()).collect()
    }
}

impl fmt::Display for RankedCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_with_error(f, self.value, self.std_error)
    }
}

impl fmt::Display for Ranking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["#".to_string()]
            .into_iter()
            .chain(self.axes.iter().map(|name| legible(name)));
        let mut rows = vec![header.chain([legible(&self.unit)]).collect::<Vec<_>>()];
        for (rank, cell) in self.cells.iter().enumerate() {
            let labels = cell.labels.iter().map(|label| legible(label));
            let error = cell.std_error.map(|e| format!(" ± {}", number(e)));
            let value = number(cell.value) + error.as_deref().unwrap_or_default();
            rows.push(
                [(rank + 1).to_string()]
                    .into_iter()
                    .chain(labels)
                    .chain([value])
                    .collect(),
            );
        }
        let columns = self.axes.len() + 2;
        let widest = |c: usize| rows.iter().map(|row| width(&row[c])).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        for row in &rows {
            let cell = |(c, text): (usize, &String)| {
                let space = " ".repeat(widths[c] - width(text));
                // Ranks and values are numbers: right-aligned.
                let left = c > 0 && c + 1 < columns;
                if left {
                    text.clone() + &space
                } else {
                    space + text
                }
            };
            let cells: Vec<String> = row.iter().enumerate().map(cell).collect();
            writeln!(f, "{}", cells.join("  "))?;
        }
        writeln!(f, "{} of {} cells", self.cells.len(), self.of)
    }
}
