//! The strongest cells of a result, as a list.

use std::fmt;

use ndarray::Dimension as _;

use super::label::{legible, width};
use super::labelled::Labelled;
use super::number::estimate;

/// A cell with its place in the array.
#[derive(Clone, Debug, PartialEq)]
pub struct RankedCell {
    /// One index per axis.
    pub index: Vec<usize>,
    /// One label per axis, raw.
    pub labels: Vec<String>,
    /// What the cell is called, raw: as the labels, but a layer and what lies in it have one name
    /// (`3.1`), see [`AxisKind::InLayer`](super::AxisKind::InLayer).
    pub names: Vec<String>,
    /// The value, never NaN.
    pub value: f32,
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
}

impl Labelled {
    /// The `n` cells of largest magnitude (all of them, if there are fewer); NaN cells never rank.
    pub fn top(&self, n: usize) -> Ranking {
        let mut ranked = self.ranked();
        let of = ranked.len();
        // Stable: ties stay in row-major order.
        ranked.sort_by(|(_, a), (_, b)| b.abs().total_cmp(&a.abs()));
        let (parts, shape) = (self.parts(), self.values().shape().to_vec());
        let cell = |(index, value): (Vec<usize>, f32)| {
            let at = index.as_slice();
            RankedCell {
                labels: self.labels_at(at).into_iter().map(String::from).collect(),
                names: parts.iter().map(|part| part.at(at, &shape).to_string()).collect(),
                std_error: self.std_error().map(|errors| errors[at]),
                text: self.texts().map(|texts| texts[at].clone()),
                index,
                value,
            }
        };
        Ranking {
            unit: self.about.unit_label(),
            names: parts.iter().map(|part| part.name.clone()).collect(),
            cells: ranked.into_iter().take(n).map(cell).collect(),
            of,
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
            row.extend(cell.names.iter().chain(&cell.text).map(|name| legible(name)));
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
        writeln!(f, "{} of {} cells", self.cells.len(), self.of)
    }
}
