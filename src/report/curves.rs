//! Results over a number, such as dose-response curves: plots with one line per series.

use std::fmt;

#[cfg(feature = "pictures")]
use std::path::Path;

use super::axis::AxisKind;
use super::digits::number;
use super::label::{legible, width};
use super::labelled::Labelled;
#[cfg(feature = "pictures")]
use super::save::save_as;
use crate::error::{Error, Result};

/// A [`Labelled`] array with the axes `[series, x]` or `[x]`, where `x` is an axis of numbers.
/// Prints as a plot of characters; the standard errors become error bars in pictures.
///
/// ```
/// use ndarray::array;
/// use patchlens::report::{About, Axis, Labelled};
/// let x = Axis::numbers("scale", &[-1.0, 0.0, 1.0]);
/// let curve = Labelled::new(array![-0.5, 0.1, 0.9], vec![x], About::default())?;
/// println!("{}", curve.curves()?);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Curves<'a> {
    pub(super) of: &'a Labelled,
    /// The numbers of the last axis.
    pub(super) x: Vec<f64>,
}

/// A point with its standard error.
#[derive(Clone, Copy)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) std_error: Option<f64>,
}

impl Labelled {
    /// This result as lines over its last axis.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there are one or two axes, [`Error::Invalid`] unless the last one is
    /// of numbers ([`Axis::numbers`](super::Axis::numbers)), all of them finite.
    pub fn curves(&self) -> Result<Curves<'_>> {
        let (Some(last), 1..=2) = (self.axes().last(), self.axes().len()) else {
            return Err(Error::Shape {
                at: "curves".to_string(),
                found: self.values().shape().to_vec(),
                expected: "the axes [x] or [series, x]".to_string(),
            });
        };
        let what = format!("labels of axis `{}`", last.name);
        if last.kind != AxisKind::Numbers {
            return Err(Error::invalid(
                what,
                "names",
                "numbers, see `Axis::numbers`",
            ));
        }
        let parse = |label: &String| {
            let number = label.parse::<f64>().ok().filter(|x| x.is_finite());
            number.ok_or_else(|| Error::invalid(&what, format!("`{label}`"), "finite numbers"))
        };
        let x = last.labels.iter().map(parse).collect::<Result<_>>()?;
        Ok(Curves { of: self, x })
    }
}

impl Curves<'_> {
    /// The names of the lines.
    pub(super) fn names(&self) -> Vec<String> {
        match self.of.axes() {
            [series, _] => series.legible(),
            _ => vec![self.of.about.unit_label()],
        }
    }

    /// The finite points of a line, in order of `x`; `None` where a value is missing or infinite.
    pub(super) fn points(&self, series: usize) -> Vec<Option<Point>> {
        let n = self.x.len();
        let row = |array: ndarray::ArrayViewD<'_, f32>| -> Vec<Option<f64>> {
            let line = array.iter().skip(series * n).take(n);
            line.map(|&v| Some(f64::from(v)).filter(|v| v.is_finite()))
                .collect()
        };
        let y = row(self.of.values());
        let errors = self.of.std_error().map_or_else(|| vec![None; n], row);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| self.x[a].total_cmp(&self.x[b]));
        let point = |i: usize| {
            let (x, std_error) = (self.x[i], errors[i]);
            y[i].map(|y| Point { x, y, std_error })
        };
        order.into_iter().map(point).collect()
    }

    /// Smallest and largest `x`, and `y` with its error bars; wider where they would be equal.
    pub(super) fn bounds(&self) -> [(f64, f64); 2] {
        let lines = (0..self.names().len()).map(|series| self.points(series));
        let points: Vec<Point> = lines.flatten().flatten().collect();
        let ends = |p: &Point| {
            let error = p.std_error.unwrap_or(0.0);
            [p.y - error, p.y + error]
        };
        [
            span(self.x.iter().copied()),
            span(points.iter().flat_map(ends)),
        ]
    }

    /// Writes a line plot as `.svg` or `.png`. For other formats, save the [`Labelled`] itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another extension; [`Error::Io`].
    #[cfg(feature = "pictures")]
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let svg = |of: &Self| of.to_svg().map(String::into_bytes);
        save_as(self, &[("svg", svg), ("png", Self::to_png)], path.as_ref())
    }
}

fn span(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
        (low.min(v), high.max(v))
    });
    match (low, high) {
        (low, high) if low < high => (low, high),
        (low, _) if low.is_finite() => (
            low - 0.5 * low.abs().max(1.0),
            low + 0.5 * low.abs().max(1.0),
        ),
        _ => (0.0, 1.0),
    }
}

/// Characters of the printed plot.
const PLOT: (usize, usize) = (72, 17);

impl Curves<'_> {
    /// The lines as characters: each has a letter, `*` where several meet.
    fn grid(&self, [(x0, x1), (y0, y1)]: [(f64, f64); 2]) -> Vec<Vec<char>> {
        let (cols, rows) = PLOT;
        let mut grid = vec![vec![' '; cols]; rows];
        let place = |part: f64, n: usize| (part * (n - 1) as f64).round() as usize;
        for series in 0..self.names().len() {
            for point in self.points(series).into_iter().flatten() {
                let row = place((y1 - point.y) / (y1 - y0), rows);
                let cell = &mut grid[row][place((point.x - x0) / (x1 - x0), cols)];
                *cell = if *cell == ' ' { letter(series) } else { '*' };
            }
        }
        grid
    }
}

impl fmt::Display for Curves<'_> {
    /// A plot of characters with the ends of the axes, and a letter per line below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(x0, x1), (y0, y1)] = self.bounds();
        let ends = [x0, x1, y0, (y0 + y1) / 2.0, y1].map(|v| number(v as f32));
        let [left, right, low, middle, high] = &ends;
        let margin = [low, middle, high]
            .map(|text| width(text))
            .into_iter()
            .max()
            .unwrap_or(0);
        for (row, line) in self.grid(self.bounds()).into_iter().enumerate() {
            let label = match row {
                0 => high,
                r if r == PLOT.1 / 2 => middle,
                r if r == PLOT.1 - 1 => low,
                _ => "",
            };
            writeln!(
                f,
                "{label:>margin$} |{}|",
                line.into_iter().collect::<String>()
            )?;
        }
        writeln!(f, "{:margin$}  {left}{right:>1$}", "", PLOT.0 - width(left))?;
        let x_name = self.of.axes().last().map_or("", |axis| &axis.name);
        writeln!(f, "{} over {}", self.of.about.unit_label(), legible(x_name))?;
        for (series, name) in self.names().iter().enumerate() {
            writeln!(f, "{} {name}", letter(series))?;
        }
        Ok(())
    }
}

/// The letter of a line; after the alphabet's 26 small and 26 capital ones they begin again.
fn letter(series: usize) -> char {
    ('a'..='z').chain('A'..='Z').nth(series % 52).unwrap_or('*')
}
