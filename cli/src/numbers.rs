//! Numbers of options, checked as they are read: a bad one is told before any work.

use std::fmt::Display;
use std::ops::RangeBounds;
use std::str::FromStr;

use clap::builder::RangedU64ValueParser;

/// Most prompts that a task draws. More are a slip: to draw millions takes minutes and gigabytes
/// before the first of them runs, and cannot be ended.
pub const MOST_PROMPTS: u32 = 100_000;

/// A whole number in a range.
pub fn count(range: impl RangeBounds<u64>) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(range)
}

/// How many prompts.
pub fn prompts() -> RangedU64ValueParser<u32> {
    RangedU64ValueParser::new().range(1..=u64::from(MOST_PROMPTS))
}

/// How many threads. Beyond some per core, more of them only take longer to start.
pub fn threads() -> RangedU64ValueParser<u16> {
    RangedU64ValueParser::new().range(1..=1024)
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
    use super::{finite, share, size};

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
        assert!(share("0").is_err() && share("1.5").is_err() && size("-1").is_err());
    }
}
