//! The strongest cells of a result, as a list.

use std::fmt;

use ndarray::Dimension as _;

use super::absent::Absent;
use super::axis::Part;
use super::digits::estimate;
use super::label::{legible, width};
use super::labelled::Labelled;
use crate::ops::largest;
use crate::statistics::write_with_error;

/// A cell with its place in the array. Prints as its value with the error, where that is known:
/// `+1.23 ± 0.04` by `{:+.2}`; where there is no value, as the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedCell {
    /// One index per axis.
    pub index: Vec<usize>,
    /// One label per axis, raw.
    pub labels: Vec<String>,
    /// What the cell is called, raw: as the labels, but a layer and what lies in it have one name
    /// (`3.1`), see [`AxisKind::InLayer`](super::AxisKind::InLayer).
    pub names: Vec<String>,
    /// The value; those of a ranking are never NaN.
    pub value: f32,
    /// Why there is no value, where there is none.
    pub absent: Option<Absent>,
    /// Its standard error, if known.
    pub std_error: Option<f32>,
    /// The cell's text, raw, if it has one.
    pub text: Option<String>,
}

/// Cells in order of falling magnitude; prints as an aligned list.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// The unit of the values.
    pub unit: String,
    /// What the cells' names are names of.
    pub names: Vec<String>,
    /// The cells, strongest first; ties in row-major order.
    pub cells: Vec<RankedCell>,
    /// How many cells have a value.
    pub of: usize,
    /// Whether the run ended before every cell was computed: others may be stronger.
    pub partial: bool,
}

impl Labelled {
    /// The `n` cells of largest magnitude (all of them, if there are fewer); NaN cells never rank.
    pub fn top(&self, n: usize) -> Ranking {
        let ranked = self.ranked();
        let of = ranked.len();
        let best = largest(of, n, |i| f64::from(ranked[i].1.abs()));
        let parts = self.parts();
        let cell = |i: usize| self.cell_of(&parts, &ranked[i].0);
        Ranking {
            unit: self.about.unit_label(),
            names: parts.iter().map(|part| part.name.clone()).collect(),
            cells: best.into_iter().map(cell).collect(),
            of,
            partial: self.about.partial,
        }
    }

    /// One cell by its indices.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn cell(&self, index: &[usize]) -> RankedCell {
        self.cell_of(&self.parts(), index)
    }

    fn cell_of(&self, parts: &[Part], index: &[usize]) -> RankedCell {
        let values = self.values();
        let name = |part: &Part| part.at(index, values.shape()).to_string();
        let labels = self.labels_at(index).into_iter();
        RankedCell {
            index: index.to_vec(),
            labels: labels.map(String::from).collect(),
            names: parts.iter().map(name).collect(),
            value: values[index],
            absent: self.absent()[index],
            std_error: self.std_error().map(|errors| errors[index]),
            text: self.texts().map(|texts| texts[index].clone()),
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
        match self.absent {
            Some(reason) => write!(f, "{reason}"),
            None => write_with_error(f, self.value, self.std_error),
        }
    }
}

impl fmt::Display for Ranking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = self.cells.iter().any(|cell| cell.text.is_some());
        let mut header = vec!["#".to_string()];
        header.extend(self.names.iter().map(|name| legible(name)));
        header.extend(texts.then(|| "text".to_string()));
        header.push(legible(&self.unit));
        let mut rows = vec![header];
        for (rank, cell) in self.cells.iter().enumerate() {
            let mut row = vec![(rank + 1).to_string()];
            row.extend(
                cell.names
                    .iter()
                    .chain(&cell.text)
                    .map(|name| legible(name)),
            );
            row.push(estimate(cell.value, cell.std_error));
            rows.push(row);
        }
        let columns = rows[0].len();
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
        let partial = match self.partial {
            true => "; PARTIAL: the run ended before every cell was computed",
            false => "",
        };
        writeln!(f, "{} of {} cells{partial}", self.cells.len(), self.of)
    }
}
