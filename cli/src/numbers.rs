//! Numbers of options, checked as they are read: a bad one is told before any work.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// Most prompts that a task draws. More are a slip: to draw millions takes minutes and gigabytes
/// before the first of them runs, and cannot be ended.
pub const MOST_PROMPTS: u64 = 100_000;

/// A whole number in a range.
pub fn whole<T: TryFrom<u64>>(
    range: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    let expected = match (*range.start(), *range.end()) {
        (least, u64::MAX) => format!("a whole number of at least {least}"),
        (least, most) => format!("a whole number from {least} to {most}"),
    };
    move |text| {
        let value = number(text, &expected, |value| range.contains(value))?;
        T::try_from(value).map_err(|_| format!("found `{text}`; expected a smaller number"))
    }
}

/// How many prompts.
pub fn prompts<T: TryFrom<u64>>() -> impl Fn(&str) -> Result<T, String> + Clone {
    whole(1..=MOST_PROMPTS)
}

/// How many threads. Beyond some per core, more of them only take longer to start.
pub fn threads() -> impl Fn(&str) -> Result<u16, String> + Clone {
    whole(1..=1024)
}

/// A seed, a layer, a position: 0 is one, too.
pub fn from_0<T: TryFrom<u64>>() -> impl Fn(&str) -> Result<T, String> + Clone {
    whole(0..=u64::MAX)
}

/// How many of something, without a bound.
pub fn from_1<T: TryFrom<u64>>() -> impl Fn(&str) -> Result<T, String> + Clone {
    whole(1..=u64::MAX)
}

/// A number that is neither infinite nor NaN.
pub fn finite(text: &str) -> Result<f32, String> {
    number(text, "a finite number", |value: &f32| value.is_finite())
}

/// A share that is not nothing.
pub fn share(text: &str) -> Result<f32, String> {
    let is_share = |value: &f32| *value > 0.0 && *value <= 1.0;
    number(text, "a share above 0, at most 1", is_share)
}

/// A finite number that is not negative.
pub fn size(text: &str) -> Result<f64, String> {
    let is_size = |value: &f64| value.is_finite() && *value >= 0.0;
    number(text, "a finite number of at least 0", is_size)
}

fn number<T: FromStr>(
    text: &str,
    expected: impl Display,
    is_right: impl Fn(&T) -> bool,
) -> Result<T, String> {
    let value = text.parse().ok().filter(is_right);
    value.ok_or_else(|| format!("found `{text}`; expected {expected}"))
}

#[cfg(test)]
mod tests {
    use super::{finite, from_0, share, size, threads};

    #[test]
    fn numbers_are_checked() {
        assert_eq!(
            (finite("-2"), share("1"), size("0")),
            (Ok(-2.0), Ok(1.0), Ok(0.0))
        );
        for text in ["nan", "inf", "x", ""] {
            assert!(
                finite(text)
                    .unwrap_err()
                    .starts_with(&format!("found `{text}`; expected"))
            );
            assert!(share(text).is_err() && size(text).is_err(), "{text}");
        }
        assert_eq!((from_0::<u64>()("0"), threads()("8")), (Ok(0), Ok(8)));
        let below = from_0::<u64>()("-1").unwrap_err();
        assert_eq!(below, "found `-1`; expected a whole number of at least 0");
        let above = threads()("65535").unwrap_err();
        assert_eq!(
            above,
            "found `65535`; expected a whole number from 1 to 1024"
        );
        assert!(share("0").is_err() && share("1.5").is_err() && size("-1").is_err());
    }
}
