//! Results with one axis in a terminal: a bar per cell.

use std::fmt;

use super::PrintStyle;
use crate::report::color::ColorScale;
use crate::report::digits::Decimals;
use crate::report::label::{legible, shorten, shorten_apart, width};
use crate::report::labelled::Labelled;
use crate::report::row::{Row, rows, span};

/// Widest label, and widest text of a cell, in columns of the terminal.
const LABEL: usize = 32;
const TEXT: usize = 24;
/// Narrowest and widest bar.
const BAR: (usize, usize) = (8, 40);

/// The cells of a result with one axis or none.
pub(super) struct Bars<'a> {
    of: &'a Labelled,
    style: PrintStyle,
    /// What is shown: a label, a cell, and its value with the error.
    lines: Vec<(String, Row, String)>,
    span: (f64, f64),
}

impl<'a> Bars<'a> {
    pub(super) fn new(of: &'a Labelled, style: PrintStyle) -> Self {
        let mut rows = rows(of);
        let span = span(&rows);
        rows.truncate(style.max_cells.0.max(1));
        let decimals = Decimals::new(&of.values(), 4);
        let labels: Vec<String> = rows.iter().map(|row| row.label.clone()).collect();
        let labels = shorten_apart(&labels, LABEL);
        let errors = rows.iter().filter_map(|row| row.std_error);
        let widest = errors.map(|e| width(&decimals.format(e))).max();
        let line = |(label, row): (String, Row)| {
            let error = row.std_error.map(|e| decimals.format(e));
            let value = match (row.absent, error, widest) {
                (Some(reason), _, _) => reason.to_string(),
                (None, Some(error), Some(widest)) => {
                    format!("{} ± {error:>widest$}", decimals.format(row.value))
                }
                (None, None, Some(widest)) => decimals.format(row.value) + &" ".repeat(widest + 3),
                (None, _, None) => decimals.format(row.value),
            };
            (label, row, value)
        };
        let lines = labels.into_iter().zip(rows).map(line).collect();
        Bars {
            of,
            style,
            lines,
            span,
        }
    }

    pub(super) fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = ColorScale::new(self.of);
        let name = self.of.axes().first().map(|axis| legible(&axis.name));
        let name = shorten(&name.unwrap_or_default(), LABEL);
        let unit = legible(&self.of.about.unit_label());
        let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        let left = widest(&mut self.lines.iter().map(|line| width(&line.0))).max(width(&name));
        let right = widest(&mut self.lines.iter().map(|line| width(&line.2)));
        let room = self.style.width.saturating_sub(left + right + 4);
        let room = room.clamp(BAR.0, BAR.1);
        let pad = |n: usize, text: &str| " ".repeat(n.saturating_sub(width(text)));
        let before = left + room + right + 4;
        let before = before.saturating_sub(width(&name) + width(&unit)).max(1);
        writeln!(f, "{name}{:before$}{unit}", "")?;
        for (label, row, value) in &self.lines {
            write!(f, "{label}{}  ", pad(left, label))?;
            let bar = self.bar(row, room);
            self.style.write_in(f, &bar, scale.of_sign(row.value))?;
            let text = row.text.as_ref().map(|text| shorten(text, TEXT));
            let tail = format!(
                "  {}{value}  {}",
                pad(right, value),
                text.unwrap_or_default()
            );
            writeln!(f, "{}", tail.trim_end())?;
        }
        if self.lines.iter().any(|(_, row, _)| row.std_error.is_some()) {
            writeln!(f, "▒ ░: within one standard error of the value")?;
        }
        let (all, shown) = (self.of.values().len(), self.lines.len());
        if all > shown {
            writeln!(f, "... {} more bars of {all} not shown", all - shown)?;
        }
        Ok(())
    }

    /// From zero to the value: full blocks, lighter ones within a standard error of the value.
    fn bar(&self, row: &Row, room: usize) -> String {
        let (low, high) = self.span;
        let step = (high - low) / room as f64;
        let (value, error) = (row.clamped(self.span), row.std_error.map_or(0.0, f64::from));
        let (from, to) = (value.min(0.0), value.max(0.0));
        let block = |i: usize| {
            let (left, right) = (low + i as f64 * step, low + (i + 1) as f64 * step);
            let covered = (right.min(to) - left.max(from)) / step;
            let near = ((left + right) / 2.0 - value).abs() <= error;
            match (covered, near) {
                (0.5.., true) => '▒',
                (_, true) => '░',
                (0.75.., _) => '█',
                (0.25.., _) if from <= left => '▌',
                (0.25.., _) => '▐',
                // The line of zero, where there are bars to both sides.
                _ if low < 0.0 && left <= 0.0 && 0.0 < right => '│',
                _ => ' ',
            }
        };
        if row.absent.is_some() {
            return " ".repeat(room);
        }
        (0..room).map(block).collect()
    }
}
