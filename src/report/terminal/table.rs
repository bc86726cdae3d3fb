//! The heat map in a terminal.

use std::fmt::{self, Write as _};

use ndarray::Array2;

use super::PrintStyle;
use crate::report::color::{ColorScale, Rgb};
use crate::report::digits::{Decimals, number};
use crate::report::label::{legible, shorten, shorten_apart, width};
use crate::report::labelled::Labelled;
use crate::report::view::{Slice, View};

/// Widest row and column labels and texts of cells, in columns of the terminal.
const ROW_LABEL: usize = 24;
const COL_LABEL: usize = 12;
/// Widest pair of the names of rows and columns.
const CORNER: usize = 28;
const CELL_TEXT: usize = 10;
/// Up to so many cells, standard errors that have no room beside the values get their own table.
const FEW: usize = 400;

/// Writes all slices, with their standard errors.
pub(super) fn write(f: &mut fmt::Formatter<'_>, of: &Labelled, style: PrintStyle) -> fmt::Result {
    let as_is = View::new(of);
    let turned = as_is.turned();
    let [table, other] = [&as_is, &turned].map(|view| Table::new(of, view, style));
    // What would be folded one way and not the other is printed the other way.
    let turn = !table.fits(&as_is, false) && other.is_whole() && other.fits(&turned, false);
    let (view, table) = if turn {
        (turned, other)
    } else {
        (as_is, table)
    };
    let shown: Vec<Slice<'_>> = view.slices().take(style.max_slices).collect();
    let beside = table.fits(&view, true);
    let errors = of.std_error().filter(|_| !beside);
    for slice in &shown {
        if !slice.heading.is_empty() {
            writeln!(f, "\n{}", slice.heading)?;
        }
        table.block(slice, beside).write(f)?;
    }
    let hidden = view.len() - shown.len();
    if hidden > 0 {
        writeln!(f, "... {hidden} more slices of {} not shown", view.len())?;
    }
    match errors {
        Some(errors) if view.len() == 1 && errors.len() <= FEW => {
            writeln!(f, "standard errors:")?;
            table.errors(&shown[0]).write(f)
        }
        Some(errors) => {
            let known = errors.iter().copied().filter(|e| !e.is_nan());
            let largest = number(known.fold(0.0, f32::max));
            writeln!(f, "standard errors: at most {largest}")
        }
        None => Ok(()),
    }
}

/// What all slices of an array share when printed.
struct Table {
    style: PrintStyle,
    scale: ColorScale,
    row_labels: Vec<String>,
    col_labels: Vec<String>,
    corner: String,
    label_width: usize,
    decimals: Decimals,
    /// Rows and columns, with those that are not shown.
    dim: (usize, usize),
}

impl Table {
    fn new(of: &Labelled, view: &View<'_>, style: PrintStyle) -> Self {
        let (rows, cols) = style.max_cells;
        let cut = |labels: Vec<String>, n: usize, limit: usize| {
            shorten_apart(&labels[..labels.len().min(n.max(1))], limit)
        };
        let row_labels = cut(view.row_labels(), rows, ROW_LABEL);
        let names: Vec<String> = [view.rows, view.cols]
            .iter()
            .flatten()
            .map(|axis| legible(&axis.name))
            .collect();
        let corner = shorten(&names.join(" \\ "), CORNER);
        let widest = row_labels.iter().chain([&corner]).map(|l| width(l)).max();
        Table {
            style,
            scale: ColorScale::new(of),
            label_width: widest.unwrap_or(0),
            row_labels,
            col_labels: cut(view.col_labels(), cols, COL_LABEL),
            corner,
            decimals: Decimals::new(&of.values(), 3),
            dim: view.dim(),
        }
    }

    /// Whether all slices that are shown need no folding, with standard errors if `errors`.
    fn fits(&self, view: &View<'_>, errors: bool) -> bool {
        let mut shown = view.slices().take(self.style.max_slices);
        shown.all(|slice| self.block(&slice, errors).end(0) == self.col_labels.len())
    }

    /// Whether no row or column is left out.
    fn is_whole(&self) -> bool {
        self.shown() == self.dim
    }

    fn shown(&self) -> (usize, usize) {
        (self.row_labels.len(), self.col_labels.len())
    }

    /// A slice's texts and values, with their standard errors if `errors`.
    fn block(&self, slice: &Slice<'_>, errors: bool) -> Block<'_> {
        let cells = Array2::from_shape_fn(self.shown(), |at| {
            let value = match slice.absent[at] {
                Some(reason) => reason.to_string(),
                None => self.decimals.format(slice.values[at]),
            };
            let error = slice.std_error.filter(|_| errors).map(|e| e[at]);
            let error = error.filter(|e| !e.is_nan());
            let error = error.map(|e| format!("±{}", self.decimals.format(e)));
            let text = slice
                .texts
                .map(|t| shorten(&legible(&t[at]), CELL_TEXT) + " ");
            let text = text.unwrap_or_default() + &value + &error.unwrap_or_default();
            let color = self.scale.color(slice.values[at], slice.absent[at]);
            (text, Some(color))
        });
        Block::new(self, cells)
    }

    /// The standard errors of a slice.
    fn errors(&self, slice: &Slice<'_>) -> Block<'_> {
        let cells = Array2::from_shape_fn(self.shown(), |at| {
            let error = slice.std_error.map(|e| e[at]).filter(|e| !e.is_nan());
            (
                error.map_or_else(String::new, |e| self.decimals.format(e)),
                None,
            )
        });
        Block::new(self, cells)
    }
}

/// Texts with their background colours, in columns.
struct Block<'a> {
    table: &'a Table,
    cells: Array2<(String, Option<Rgb>)>,
    widths: Vec<usize>,
}

impl<'a> Block<'a> {
    fn new(table: &'a Table, cells: Array2<(String, Option<Rgb>)>) -> Self {
        let columns = table.col_labels.iter().zip(cells.columns());
        let widest = columns.map(|(label, column)| {
            let cells = column.iter().map(|(text, _)| width(text)).max();
            width(label).max(cells.unwrap_or(0))
        });
        let widths = widest.collect();
        Block {
            table,
            cells,
            widths,
        }
    }

    /// The column after the last that fits beside column `start`, which is always shown.
    fn end(&self, start: usize) -> usize {
        let mut used = self.table.label_width;
        let fits = |width: &&usize| {
            used += *width + 1;
            used <= self.table.style.width
        };
        let fitting = self.widths[start..].iter().take_while(fits).count();
        start + fitting.max(1)
    }

    /// Writes the cells, folded where they are wider than the terminal.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.table;
        let (n_rows, n_cols) = table.shown();
        let mut start = 0;
        while start < n_cols {
            let end = self.end(start);
            if end - start < n_cols {
                writeln!(f, "columns {start} to {} of {n_cols}:", end - 1)?;
            }
            self.write_label(f, &table.corner)?;
            for (c, label) in (start..end).zip(&table.col_labels[start..]) {
                f.write_str(&self.pad(c, label))?;
            }
            f.write_char('\n')?;
            for (label, row) in table.row_labels.iter().zip(self.cells.rows()) {
                self.write_label(f, label)?;
                for c in start..end {
                    let (text, color) = &row[c];
                    table.style.write(f, &self.pad(c, text), *color)?;
                }
                f.write_char('\n')?;
            }
            start = end;
        }
        let (rows, cols) = table.dim;
        for (all, shown, what) in [(rows, n_rows, "rows"), (cols, n_cols, "columns")] {
            if all > shown {
                writeln!(f, "... {} more {what} of {all} not shown", all - shown)?;
            }
        }
        Ok(())
    }

    fn write_label(&self, f: &mut fmt::Formatter<'_>, label: &str) -> fmt::Result {
        write!(f, "{label}{:1$}", "", self.table.label_width - width(label))
    }

    /// A text right-aligned in its column, after the space between columns.
    fn pad(&self, col: usize, text: &str) -> String {
        " ".repeat(1 + self.widths[col].saturating_sub(width(text))) + text
    }
}
