//! Results in a terminal: heat maps, and bars where there is one axis.

mod bars;
mod table;

use std::ffi::OsStr;
use std::fmt;
use std::io::IsTerminal as _;

use anstyle::{RgbColor, Style};

use super::color::{ColorScale, Rgb, ink};
use super::digits::{estimate, number};
use super::label::{legible, wrap};
use super::labelled::Labelled;

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
    /// Columns of the terminal; wider tables have rows and columns exchanged if that fits, else they
    /// are folded.
    pub width: usize,
    /// Rows and columns shown of each slice, or bars; a note says how many are left out.
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
        if self.of.axes().len() < 2 {
            bars::Bars::new(self.of, self.style).write(f)?;
        } else {
            table::write(f, self.of, self.style)?;
            self.write_extremes(f)?;
        }
        for (reason, cells) in self.of.absent_by_reason() {
            let what = reason.describe();
            let cells = match cells.len() {
                1 => "1 cell".to_string(),
                n => format!("{n} cells"),
            };
            writeln!(f, "{reason}: {cells} ({what})")?;
        }
        write_lines(f, about.facts(), self.style.width)
    }
}

impl Printed<'_> {
    /// The unit, the colour scale, the extremes and where they are.
    fn write_extremes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let style = self.style;
        writeln!(f, "unit: {}", legible(&self.of.about.unit_label()))?;
        if style.color != ColorMode::Plain {
            let scale = ColorScale::new(self.of);
            let [low, _, high] = scale.ends().map(|v| number(v as f32));
            write!(f, "scale: {low} ")?;
            let colors = scale.bar();
            for i in 0..=32 {
                let color = colors[i * (colors.len() - 1) / 32];
                style.write(f, " ", Some(color))?;
            }
            writeln!(f, " {high}")?;
            write_lines(f, scale.note(), style.width)?;
        }
        let ranked = self.of.ranked();
        let by_value = |a: &&(_, f32), b: &&(_, f32)| a.1.total_cmp(&b.1);
        let ends = [
            ranked.iter().min_by(by_value),
            ranked.iter().max_by(by_value),
        ];
        let parts = self.of.parts();
        let shape = self.of.values().shape().to_vec();
        for (name, end) in ["min", "max"].into_iter().zip(ends) {
            if let Some((index, value)) = end {
                let error = self.of.std_error().map(|e| e[index.as_slice()]);
                let places = parts.iter().map(|part| legible(part.at(index, &shape)));
                let place = places.collect::<Vec<_>>().join(", ");
                writeln!(f, "{name}: {} at {place}", estimate(*value, error))?;
            }
        }
        Ok(())
    }
}

impl PrintStyle {
    /// A text on a background.
    fn write(self, f: &mut fmt::Formatter<'_>, text: &str, background: Option<Rgb>) -> fmt::Result {
        let Some(background) = background else {
            return f.write_str(text);
        };
        let [fg, bg] = [ink(background), background].map(|color| self.color(color));
        let style = Style::new().fg_color(fg).bg_color(bg);
        write!(f, "{style}{text}{style:#}")
    }

    /// A text in a colour.
    fn write_in(self, f: &mut fmt::Formatter<'_>, text: &str, color: Rgb) -> fmt::Result {
        let style = Style::new().fg_color(self.color(color));
        write!(f, "{style}{text}{style:#}")
    }

    fn color(self, [r, g, b]: Rgb) -> Option<anstyle::Color> {
        let color = RgbColor(r, g, b);
        match self.color {
            ColorMode::Plain => None,
            ColorMode::TrueColor => Some(color.into()),
            ColorMode::Ansi256 => Some(anstyle_lossy::rgb_to_xterm(color).into()),
        }
    }
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
