//! Numbers as people read them.

use ndarray::ArrayViewD;

/// Four significant digits; `NaN` for NaN.
pub(crate) fn number(value: f32) -> String {
    let magnitude = value.abs();
    if value == 0.0 {
        "0".to_string()
    } else if !value.is_finite() {
        value.to_string()
    } else if (1e-3..1e6).contains(&magnitude) {
        let decimals = (3 - magnitude.log10().floor() as i32).clamp(0, 6);
        format!("{value:.*}", decimals as usize)
    } else {
        format!("{value:.3e}")
    }
}

/// A value with its standard error: the error to two significant digits, the value as far. An
/// error that is unknown is left out.
pub(super) fn estimate(value: f32, std_error: Option<f32>) -> String {
    match std_error.filter(|error| !error.is_nan()) {
        None => number(value),
        Some(error) if value.is_finite() && (1e-5..1e4).contains(&error) && value.abs() < 1e6 => {
            let decimals = (1 - error.log10().floor() as i32).max(0) as usize;
            format!("{value:.decimals$} ± {error:.decimals$}")
        }
        Some(error) => format!("{} ± {}", number(value), number(error)),
    }
}

/// A count, with commas; from a million on in words.
pub(crate) fn count(n: u64) -> String {
    let words = [(1e12, "trillion"), (1e9, "billion"), (1e6, "million")];
    if let Some((unit, word)) = words.into_iter().find(|(unit, _)| n as f64 >= *unit) {
        return format!("{:.1} {word}", n as f64 / unit);
    }
    match (n / 1000, n % 1000) {
        (0, n) => n.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

/// How the numbers of one table are written: all alike, so many digits of the largest.
#[derive(Clone, Copy, Debug)]
pub(super) enum Decimals {
    Fixed(usize),
    Scientific,
}

impl Decimals {
    pub(super) fn new(values: &ArrayViewD<'_, f32>, digits: i32) -> Self {
        let finite = values.iter().copied().filter(|v| v.is_finite());
        let largest = finite.map(f32::abs).fold(0.0, f32::max);
        match largest {
            0.0 => Decimals::Fixed(digits as usize - 1),
            1e-4..1e6 => {
                let decimals = digits - 1 - largest.log10().floor() as i32;
                Decimals::Fixed(decimals.clamp(0, 6) as usize)
            }
            _ => Decimals::Scientific,
        }
    }

    pub(super) fn format(self, value: f32) -> String {
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
