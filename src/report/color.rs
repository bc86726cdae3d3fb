//! Colours of values: one scale for the terminal, pictures and pages.

use colorgrad::Gradient;

use super::about::Palette;
use super::absent::Absent;
use super::digits::number;
use super::labelled::{Labelled, finite_range};

/// Red, green, blue.
pub(super) type Rgb = [u8; 3];

/// Steps of a scale: as many as an 8-bit display can tell apart.
const STEPS: usize = 255;

/// Maps values to colours.
pub(super) struct ColorScale {
    /// The value of the first colour.
    low: f32,
    /// The value of the last colour.
    high: f32,
    colors: Vec<Rgb>,
    /// The steps that a colour bar shows: not the half that no value reaches.
    shown: (usize, usize),
    /// The finite values.
    found: (f32, f32),
}

impl ColorScale {
    /// The scale of a result: over the range set for it, or over its finite values.
    pub(super) fn new(of: &Labelled) -> Self {
        let found = finite_range(&of.values());
        let set = of.color_range().map(|range| (*range.start(), *range.end()));
        let (min, max) = set.unwrap_or(found);
        let one_sign = min <= max && (min >= 0.0 || max <= 0.0);
        let mut scale = if of.about.palette == Palette::Sequential && one_sign {
            // Equal values: from zero, so that the scale has two ends.
            let (low, high) = if min < max {
                (min, max)
            } else {
                (min.min(0.0), max.max(0.0))
            };
            let high = if low == high { 1.0 } else { high };
            ColorScale::over(low, high, &colorgrad::preset::viridis())
        } else {
            let limit = if min <= max { max.max(-min) } else { 0.0 };
            let limit = if limit == 0.0 { 1.0 } else { limit };
            let mut scale = ColorScale::over(-limit, limit, &colorgrad::preset::rd_bu());
            let middle = STEPS / 2;
            match (scale.step(min), scale.step(max)) {
                (low, high) if low >= middle && high > middle => scale.shown.0 = middle,
                (low, high) if low < middle && high <= middle => scale.shown.1 = middle,
                _ => {}
            }
            scale
        };
        scale.found = found;
        scale
    }

    fn over(low: f32, high: f32, gradient: &impl Gradient) -> Self {
        let step = |i: usize| gradient.at(i as f32 / (STEPS - 1) as f32).to_rgba8();
        let colors = (0..STEPS).map(step).map(|[r, g, b, _]| [r, g, b]).collect();
        ColorScale {
            low,
            high,
            colors,
            shown: (0, STEPS - 1),
            found: (low, high),
        }
    }

    /// The step of a value; infinities take the ends of the scale.
    fn step(&self, value: f32) -> usize {
        // In f64, because the span of two finite f32 can overflow.
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let part = ((f64::from(value) - low) / (high - low)).clamp(0.0, 1.0);
        (part * (STEPS - 1) as f64).round() as usize
    }

    /// The colour of a cell.
    pub(super) fn color(&self, value: f32, absent: Option<Absent>) -> Rgb {
        absent.map_or_else(|| self.colors[self.step(value)], missing)
    }

    /// The colours of a colour bar, from its low to its high end.
    pub(super) fn bar(&self) -> &[Rgb] {
        &self.colors[self.shown.0..=self.shown.1]
    }

    /// The first and the last of [`ColorScale::colors`] that a colour bar shows.
    pub(super) fn shown(&self) -> [usize; 2] {
        [self.shown.0, self.shown.1]
    }

    /// The values at the ends and in the middle of a colour bar.
    pub(super) fn ends(&self) -> [f64; 3] {
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let at = |step: usize| low + (high - low) * step as f64 / (STEPS - 1) as f64;
        let [low, high] = [self.shown.0, self.shown.1].map(at);
        [low, (low + high) / 2.0, high]
    }

    /// The colour of bars up or down from zero.
    pub(super) fn of_sign(&self, value: f32) -> Rgb {
        let end = if value < 0.0 { self.low } else { self.high };
        self.colors[self.step(end * 0.7)]
    }

    /// What a reader might not expect of the scale: a half left out, values beyond its ends.
    pub(super) fn note(&self) -> Option<String> {
        let (min, max) = self.found;
        let [low, _, high] = self.ends();
        let half = match self.shown {
            (0, last) if last == STEPS - 1 => None,
            (0, _) => Some(("below", "largest", max)),
            _ => Some(("above", "smallest", min)),
        };
        if min < self.low || max > self.high {
            return Some(format!(
                "colours: from {} to {}; the values go from {} to {}",
                number(low as f32),
                number(high as f32),
                number(min),
                number(max)
            ));
        }
        half.map(|(side, name, value)| {
            let value = number(value);
            format!(
                "colours: only the half of the scale {side} 0 is used; the {name} value is {value}"
            )
        })
    }

    /// All colours, from the lowest to the highest value.
    pub(super) fn colors(&self) -> &[Rgb] {
        &self.colors
    }

    /// The values of the first and of the last colour.
    pub(super) fn limits(&self) -> [f32; 2] {
        [self.low, self.high]
    }
}

/// A colour as CSS and SVG write it.
pub(super) fn css([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The colour of a cell without a value; no colour of the scales is grey like these.
pub(super) fn missing(reason: Absent) -> Rgb {
    match reason {
        Absent::NotANumber => [0x60; 3],
        Absent::NotRun => [0x9c; 3],
        Absent::NoPath | Absent::NotAsked | Absent::NoSamples | Absent::Unstated => [0xb8; 3],
    }
}

/// Black or white, whichever is easier to read on a colour (relative luminance of WCAG 2).
pub(super) fn ink(background: Rgb) -> Rgb {
    let linear = |c: u8| (f32::from(c) / 255.0).powf(2.2);
    let [r, g, b] = background.map(linear);
    if 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 {
        [0, 0, 0]
    } else {
        [255, 255, 255]
    }
}
