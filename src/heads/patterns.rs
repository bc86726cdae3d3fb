//! Where heads of known kinds look.

use std::fmt;
use std::str::FromStr;

use ndarray::{Array2, ArrayView2};

use crate::component::serde_as_text;
use crate::error::{Error, Result};
use crate::hook::parse_index;

/// Where a head of a known kind looks, given the tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionPattern {
    /// The token before.
    PreviousToken,
    /// The token itself.
    CurrentToken,
    /// The first token (BOS, where there is one); the first row, which has no choice, is left out.
    FirstToken,
    /// Every earlier occurrence of the same token.
    DuplicateToken,
    /// Every token that follows an earlier occurrence of the same token.
    Induction,
    /// The token this far back: on a random sequence of `n` tokens given twice, `Offset(n)` is
    /// the duplicate-token stripe and `Offset(n - 1)` the induction stripe.
    Offset(usize),
}

/// What stands before the distance in the name of an [`AttentionPattern::Offset`].
const OFFSET: &str = "offset ";

impl fmt::Display for AttentionPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttentionPattern::PreviousToken => "previous token",
            AttentionPattern::CurrentToken => "current token",
            AttentionPattern::FirstToken => "first token",
            AttentionPattern::DuplicateToken => "duplicate token",
            AttentionPattern::Induction => "induction",
            AttentionPattern::Offset(distance) => return write!(f, "{OFFSET}{distance}"),
        })
    }
}

impl FromStr for AttentionPattern {
    type Err = Error;

    /// # Errors
    /// [`Error::Invalid`] for a name that no pattern has.
    fn from_str(text: &str) -> Result<Self> {
        let named = Self::STANDARD.into_iter().find(|p| p.to_string() == text);
        let offset = || parse_index(text.strip_prefix(OFFSET)?).map(AttentionPattern::Offset);
        named.or_else(offset).ok_or_else(|| {
            let names = Self::STANDARD.map(|p| format!("`{p}`")).join(", ");
            let expected = format!("{names} or `{OFFSET}3`");
            Error::invalid("attention pattern", format!("`{text}`"), expected)
        })
    }
}

serde_as_text!(AttentionPattern);

impl AttentionPattern {
    /// The kinds that need no parameter.
    pub const STANDARD: [AttentionPattern; 5] = [
        AttentionPattern::PreviousToken,
        AttentionPattern::CurrentToken,
        AttentionPattern::FirstToken,
        AttentionPattern::DuplicateToken,
        AttentionPattern::Induction,
    ];

    /// Whether `src` is where such a head looks from `dest`.
    fn holds(self, tokens: &[u32], dest: usize, src: usize) -> bool {
        match self {
            AttentionPattern::PreviousToken => src + 1 == dest,
            AttentionPattern::CurrentToken => src == dest,
            AttentionPattern::FirstToken => src == 0 && dest > 0,
            AttentionPattern::DuplicateToken => src < dest && tokens[src] == tokens[dest],
            AttentionPattern::Induction => {
                0 < src && src <= dest && tokens[src - 1] == tokens[dest]
            }
            AttentionPattern::Offset(distance) => src + distance == dest,
        }
    }

    /// The pattern as a matrix of zeros and ones `[dest, src]`. For the previous token,
    /// duplicate tokens and induction these are TransformerLens's detection patterns.
    pub fn matrix(self, tokens: &[u32]) -> Array2<f32> {
        let n = tokens.len();
        Array2::from_shape_fn((n, n), |(dest, src)| {
            f32::from(u8::from(self.holds(tokens, dest, src)))
        })
    }

    /// The attention that a head gives to the pattern: the mean, over the destinations where the
    /// pattern has a source at all, of the attention to its sources; NaN where there is none.
    ///
    /// # Errors
    /// [`Error::Shape`] if `attention` `[dest, src]` does not have as many rows and columns as
    /// there are
    /// tokens.
    pub fn score(self, attention: ArrayView2<'_, f32>, tokens: &[u32]) -> Result<f32> {
        let n = tokens.len();
        if attention.dim() == (n, n) {
            return Ok(self.mean_over(attention, tokens));
        }
        Err(Error::Shape {
            at: "attention".to_string(),
            found: attention.shape().to_vec(),
            expected: format!("[{n}, {n}] for {n} tokens"),
        })
    }

    /// Same as [`AttentionPattern::score`], of attention that fits.
    pub(crate) fn mean_over(self, attention: ArrayView2<'_, f32>, tokens: &[u32]) -> f32 {
        let mut rows = 0;
        let mut total = 0.0_f64;
        for (dest, row) in attention.outer_iter().enumerate() {
            let mut sources = (0..=dest)
                .filter(|src| self.holds(tokens, dest, *src))
                .peekable();
            rows += usize::from(sources.peek().is_some());
            total += sources.map(|src| f64::from(row[src])).sum::<f64>();
        }
        (total / rows as f64) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_print_and_parse() {
        let offset = AttentionPattern::Offset(12);
        for pattern in AttentionPattern::STANDARD.into_iter().chain([offset]) {
            assert_eq!(
                pattern.to_string().parse::<AttentionPattern>().unwrap(),
                pattern
            );
        }
        let error = "offset +1"
            .parse::<AttentionPattern>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("found `offset +1`; expected `previous token`"),
            "{error}"
        );
    }
}
