//! Colours of values: one scale for the terminal, pictures and pages.

use colorgrad::Gradient;
use ndarray::ArrayViewD;
use serde::{Deserialize, Serialize};

/// The colour scale of a heat map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Palette {
    /// Red (negative) over white (zero) to blue (positive), equally far to both sides.
    #[default]
    Diverging,
    /// From the smallest to the largest value, where all have one sign; else as `Diverging`.
    Sequential,
}

/// Maps values to colours.
pub(super) struct ColorScale {
    /// The value of the first colour.
    pub(super) low: f32,
    /// The value of the last colour.
    pub(super) high: f32,
    colors: Vec<Rgb>,
}

/// Red, green, blue.
pub(super) type Rgb = [u8; 3];

/// The colour of a cell without a value; no colour of the scales is grey like this.
pub(super) const MISSING: Rgb = [0xb4, 0xb4, 0xb4];

/// Steps of a scale: as many as an 8-bit display can tell apart.
const STEPS: usize = 255;

impl ColorScale {
    /// The scale that spans the finite values.
    pub(super) fn new(values: &ArrayViewD<'_, f32>, palette: Palette) -> Self {
        let finite = || values.iter().copied().filter(|v| v.is_finite());
        let min = finite().fold(f32::INFINITY, f32::min);
        let max = finite().fold(f32::NEG_INFINITY, f32::max);
        let one_sign = min <= max && (min >= 0.0 || max <= 0.0);
        if palette == Palette::Sequential && one_sign {
            // Equal values: from zero, so that the scale has two ends.
            let (low, high) = if min < max {
                (min, max)
            } else {
                (min.min(0.0), max.max(0.0))
            };
            let high = if low == high { 1.0 } else { high };
            return ColorScale::over(low, high, &colorgrad::preset::viridis());
        }
        let limit = finite().map(f32::abs).fold(0.0, f32::max);
        let limit = if limit == 0.0 { 1.0 } else { limit };
        ColorScale::over(-limit, limit, &colorgrad::preset::rd_bu())
    }

    fn over(low: f32, high: f32, gradient: &impl Gradient) -> Self {
        let step = |i: usize| gradient.at(i as f32 / (STEPS - 1) as f32).to_rgba8();
        let colors = (0..STEPS).map(step).map(|[r, g, b, _]| [r, g, b]).collect();
        ColorScale { low, high, colors }
    }

    /// The colour of a value; infinities take the ends of the scale.
    pub(super) fn color(&self, value: f32) -> Rgb {
        if value.is_nan() {
            return MISSING;
        }
        // In f64, because the span of two finite f32 can overflow.
        let (low, high) = (f64::from(self.low), f64::from(self.high));
        let part = ((f64::from(value) - low) / (high - low)).clamp(0.0, 1.0);
        self.colors[(part * (STEPS - 1) as f64).round() as usize]
    }

    /// All colours, from `low` to `high`.
    pub(super) fn colors(&self) -> &[Rgb] {
        &self.colors
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
