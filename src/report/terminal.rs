//! The heat map in a terminal.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use anstyle::{RgbColor, Style};
use ndarray::ArrayView2;

use super::color::{ColorScale, ink};
use super::label::{legible, number, shorten, width, wrap};
use super::labelled::Labelled;
use super::view::View;

/// Which colours a terminal gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ColorMode {
    /// None.
    #[default]
    Plain,
    /// The 256 colours of xterm.
    Ansi256,
    /// 24-bit colours.
    TrueColor,
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrintStyle {
    /// The colours.
    pub color: ColorMode,
    /// Columns of the terminal; wider tables are folded.
    pub width: usize,
    /// Rows and columns shown of each slice; a note tells how many are left out.
    pub max_cells: (usize, usize),
    /// Slices shown of an array with more than two axes.
    pub max_slices: usize,
}

impl Default for PrintStyle {
    fn default() -> Self {
        PrintStyle {
            color: ColorMode::Plain,
            width: 100,
            max_cells: (128, 128),
            max_slices: 16,
        }
    }
}

/// Whether standard output should get colours: it is a terminal, `NO_COLOR` is unset or empty, and
/// `TERM` is not `dumb`.
pub fn use_color() -> bool {
    let [no_color, term] = ["NO_COLOR", "TERM"].map(std::env::var_os);
    color_allowed(
        std::io::stdout().is_terminal(),
        no_color.as_deref(),
        term.as_deref(),
    )
}

/// <https://no-color.org>: any value but the empty one switches colours off.
fn color_allowed(terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty) && term != Some(OsStr::new("dumb"))
}

impl ColorMode {
    /// The richest mode that the environment announces, if `color`.
    fn detect(color: bool) -> Self {
        let announced = std::env::var("COLORTERM").unwrap_or_default();
        match (color, announced.as_str()) {
            (false, _) => ColorMode::Plain,
            (true, "truecolor" | "24bit") => ColorMode::TrueColor,
            (true, _) => ColorMode::Ansi256,
        }
    }
}

/// A [`Labelled`] array that prints in a chosen style.
#[derive(Clone, Copy, Debug)]
pub struct Printed<'a> {
    of: &'a Labelled,
    style: PrintStyle,
}

impl Labelled {
    /// Prints with colours or without: `println!("{}", effect.colored(use_color()))`.
    pub fn colored(&self, color: bool) -> Printed<'_> {
        let color = ColorMode::detect(color);
        self.print_style(PrintStyle {
            color,
            ..PrintStyle::default()
        })
    }

    /// Prints in the given style.
    pub fn print_style(&self, style: PrintStyle) -> Printed<'_> {
        Printed { of: self, style }
    }
}

impl fmt::Display for Labelled {
    /// Without colours, 100 columns wide.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.print_style(PrintStyle::default()).fmt(f)
    }
}

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = &self.of.about;
        write_lines(f, [&about.title, &about.caption], self.style.width)?;
        let table = Table::new(self.of, self.style);
        for slice in table.view.slices().take(self.style.max_slices) {
            if !slice.heading.is_empty() {
                writeln!(f, "\n{}", slice.heading)?;
            }
            table.write(f, &slice.values)?;
        }
        let hidden = table.view.len().saturating_sub(self.style.max_slices);
        if hidden > 0 {
            writeln!(
                f,
                "... {hidden} more slices of {} not shown",
                table.view.len()
            )?;
        }
        self.write_legend(f, &table)?;
        write_lines(f, about.facts(), self.style.width)
    }
}

impl Printed<'_> {
    /// The colour scale, the extremes and where they are, and what `n/a` means.
    fn write_legend(&self, f: &mut fmt::Formatter<'_>, table: &Table<'_>) -> fmt::Result {
        writeln!(f, "unit: {}", self.of.about.unit_label())?;
        if self.style.color != ColorMode::Plain {
            let (low, high) = (table.scale.low, table.scale.high);
            write!(f, "scale: {} ", number(low))?;
            for i in 0..=32 {
                let value =
                    f64::from(low) + (f64::from(high) - f64::from(low)) * f64::from(i) / 32.0;
                table.write_cell(f, " ", value as f32)?;
            }
            writeln!(f, " {}", number(high))?;
        }
        let ranked = self.of.ranked();
        let by_value = |a: &&_, b: &&_| f32::total_cmp(value_of(a), value_of(b));
        let extremes = [
            ranked.iter().min_by(by_value),
            ranked.iter().max_by(by_value),
        ];
        for (name, extreme) in ["min", "max"].into_iter().zip(extremes) {
            if let Some((index, value)) = extreme {
                let place = self
                    .of
                    .labels_at(index)
                    .iter()
                    .map(|l| legible(l))
                    .collect::<Vec<_>>();
                writeln!(f, "{name}: {} at ({})", number(*value), place.join(", "))?;
            }
        }
        let missing = self.of.values().len() - ranked.len();
        if missing > 0 {
            writeln!(f, "n/a: no value (not run, or no path): {missing} cells")?;
        }
        Ok(())
    }
}

fn value_of<I>((_, value): &(I, f32)) -> &f32 {
    value
}

fn write_lines<T: AsRef<str>>(
    f: &mut fmt::Formatter<'_>,
    texts: impl IntoIterator<Item = T>,
    width: usize,
) -> fmt::Result {
    for text in texts {
        for line in wrap(text.as_ref(), width) {
            writeln!(f, "{line}")?;
        }
    }
    Ok(())
}

/// Everything that all slices of an array share when printed.
struct Table<'a> {
    view: View<'a>,
    scale: ColorScale,
    style: PrintStyle,
    row_labels: Vec<String>,
    col_labels: Vec<String>,
    corner: String,
    label_width: usize,
    col_widths: Vec<usize>,
    decimals: Decimals,
}

/// Widest row and column labels, in columns of the terminal.
const ROW_LABEL: usize = 24;
const COL_LABEL: usize = 12;

impl<'a> Table<'a> {
    fn new(of: &'a Labelled, style: PrintStyle) -> Self {
        let view = View::new(of);
        let (rows, cols) = style.max_cells;
        let cut = |labels: Vec<String>, n: usize, limit: usize| -> Vec<String> {
            let kept = labels.into_iter().take(n.max(1));
            kept.map(|label| shorten(&label, limit)).collect()
        };
        let row_labels = cut(view.row_labels(), rows, ROW_LABEL);
        let col_labels = cut(view.col_labels(), cols, COL_LABEL);
        let names: Vec<String> = [view.rows, view.cols]
            .iter()
            .flatten()
            .map(|axis| legible(&axis.name))
            .collect();
        let corner = shorten(&names.join(" \\ "), ROW_LABEL);
        let widest = |labels: &[String]| labels.iter().map(|l| width(l)).max().unwrap_or(0);
        let decimals = Decimals::new(of);
        let numbers = of.values();
        let number_width = numbers
            .iter()
            .map(|&v| width(&decimals.format(v)))
            .max()
            .unwrap_or(0);
        Table {
            scale: ColorScale::new(&of.values(), of.about.palette),
            label_width: widest(&row_labels).max(width(&corner)),
            col_widths: col_labels
                .iter()
                .map(|label| width(label).max(number_width))
                .collect(),
            view,
            style,
            row_labels,
            col_labels,
            corner,
            decimals,
        }
    }

    /// One slice, folded into blocks of columns that fit the width.
    fn write(&self, f: &mut fmt::Formatter<'_>, values: &ArrayView2<'_, f32>) -> fmt::Result {
        let (n_rows, n_cols) = (self.row_labels.len(), self.col_labels.len());
        let mut start = 0;
        while start < n_cols {
            let end = self.block_end(start);
            if end - start < n_cols {
                writeln!(f, "columns {start} to {} of {n_cols}:", end - 1)?;
            }
            self.write_row(f, &self.corner, |f| {
                (start..end).try_for_each(|c| f.write_str(&self.pad(c, &self.col_labels[c])))
            })?;
            for (label, row) in self.row_labels.iter().zip(values.rows()) {
                self.write_row(f, label, |f| {
                    (start..end).try_for_each(|c| {
                        let text = self.pad(c, &self.decimals.format(row[c]));
                        self.write_cell(f, &text, row[c])
                    })
                })?;
            }
            start = end;
        }
        let (all_rows, all_cols) = self.view.dim();
        for (all, shown, what) in [(all_rows, n_rows, "rows"), (all_cols, n_cols, "columns")] {
            if all > shown {
                writeln!(f, "... {} more {what} of {all} not shown", all - shown)?;
            }
        }
        Ok(())
    }

    fn write_row(
        &self,
        f: &mut fmt::Formatter<'_>,
        label: &str,
        cells: impl FnOnce(&mut fmt::Formatter<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write!(f, "{label}{:1$}", "", self.label_width - width(label))?;
        cells(f)?;
        f.write_char('\n')
    }

    /// The column after the last that fits beside column `start`, which is always shown.
    fn block_end(&self, start: usize) -> usize {
        let mut used = self.label_width;
        let fits = |width: &&usize| {
            used += *width + 1;
            used <= self.style.width
        };
        let fitting = self.col_widths[start..].iter().take_while(fits).count();
        start + fitting.max(1)
    }

    /// A text right-aligned in its column, after the space between columns.
    fn pad(&self, col: usize, text: &str) -> String {
        " ".repeat(1 + self.col_widths[col].saturating_sub(width(text))) + text
    }

    fn write_cell(&self, f: &mut fmt::Formatter<'_>, text: &str, value: f32) -> fmt::Result {
        let background = self.scale.color(value);
        let [fg, bg] = [ink(background), background].map(|[r, g, b]| RgbColor(r, g, b));
        let style = Style::new();
        let style = match self.style.color {
            ColorMode::Plain => style,
            ColorMode::TrueColor => style.fg_color(Some(fg.into())).bg_color(Some(bg.into())),
            ColorMode::Ansi256 => style
                .fg_color(Some(anstyle_lossy::rgb_to_xterm(fg).into()))
                .bg_color(Some(anstyle_lossy::rgb_to_xterm(bg).into())),
        };
        write!(f, "{style}{text}{style:#}")
    }
}

/// How the numbers of one table are written: all alike, three digits of the largest.
enum Decimals {
    Fixed(usize),
    Scientific,
}

impl Decimals {
    fn new(of: &Labelled) -> Self {
        let values = of.values();
        let finite = values.iter().copied().filter(|v| v.is_finite());
        let largest = finite.map(f32::abs).fold(0.0, f32::max);
        match largest {
            0.0 => Decimals::Fixed(2),
            1e-4..1e6 => Decimals::Fixed((2 - largest.log10().floor() as i32).clamp(0, 6) as usize),
            _ => Decimals::Scientific,
        }
    }

    fn format(&self, value: f32) -> String {
        match self {
            _ if !value.is_finite() => number(value),
            Decimals::Scientific => format!("{value:.2e}"),
            Decimals::Fixed(n) => {
                let text = format!("{value:.n$}");
                // `-0.00` would suggest a sign that the digits do not show.
                let zero = text.bytes().all(|b| b"-0.".contains(&b));
                if zero { text.replace('-', "") } else { text }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_need_a_terminal_and_no_objection() {
        let some = |text: &'static str| Some(OsStr::new(text));
        for (terminal, no_color, term, expected) in [
            (true, None, some("xterm"), true),
            (true, None, None, true),
            (true, some(""), None, true),
            (true, some("1"), None, false),
            (true, some("0"), None, false),
            (false, None, some("xterm"), false),
            (true, None, some("dumb"), false),
        ] {
            let allowed = color_allowed(terminal, no_color, term);
            assert_eq!(allowed, expected, "{terminal} {no_color:?} {term:?}");
        }
    }
}
