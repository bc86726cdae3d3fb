//! Heads whose attention is close to a pattern given as a matrix (TransformerLens's
//! `head_detector`).

use ndarray::{Array2, ArrayView2};

use crate::config::AttentionDirection;
use crate::error::{Error, Result};
use crate::heads::scores::about;
use crate::prompt::Prompts;
use crate::report::About;

/// How a pattern is compared with one that is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Closeness {
    /// `Σ(A·D) / ΣA`: the share of the attention that falls on the pattern.
    #[default]
    Mul,
    /// `1 − Σ|A − D| / n` for `n` tokens: 1 where both are equal.
    Abs,
}

/// How attention is compared with matrices, TransformerLens's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Detection {
    /// The measure.
    pub measure: Closeness,
    /// Leaves out the attention to the first token.
    pub exclude_bos: bool,
    /// Leaves out the attention of tokens to themselves.
    pub exclude_current_token: bool,
}

impl Detection {
    /// How close an attention pattern is to the one looked for, both `[dest, src]`.
    pub(crate) fn score(&self, attention: ArrayView2<'_, f32>, wanted: &Array2<f32>) -> f32 {
        let (mut on, mut all, mut off) = (0.0_f64, 0.0_f64, 0.0_f64);
        for ((dest, src), a) in attention.indexed_iter() {
            let excluded =
                (self.exclude_bos && src == 0) || (self.exclude_current_token && src == dest);
            if !excluded {
                let (a, d) = (f64::from(*a), f64::from(wanted[[dest, src]]));
                on += a * d;
                all += a;
                off += (a - d).abs();
            }
        }
        let score = match self.measure {
            Closeness::Mul => on / all,
            Closeness::Abs => 1.0 - off / attention.nrows() as f64,
        };
        score as f32
    }
}

pub(crate) fn detection_about(detection: Detection) -> About {
    let (caption, unit) = match detection.measure {
        Closeness::Mul => (
            "Share of the attention on the pattern.",
            "share of attention",
        ),
        Closeness::Abs => ("1 − Σ|A − D| / n.", "closeness"),
    };
    about("Head detection", caption, unit)
}

pub(crate) fn check_patterns(
    direction: AttentionDirection,
    prompts: &Prompts,
    patterns: &[Array2<f32>],
) -> Result<()> {
    if prompts.len() != patterns.len() {
        let expected = format!("{}, one per prompt", prompts.len());
        return Err(Error::invalid(
            "detection patterns",
            patterns.len(),
            expected,
        ));
    }
    for (i, (prompt, pattern)) in prompts.iter().zip(patterns).enumerate() {
        let n = prompt.len();
        if pattern.dim() != (n, n) {
            return Err(Error::Shape {
                at: format!("detection pattern {i}"),
                found: pattern.shape().to_vec(),
                expected: format!("[{n}, {n}] for {n} tokens"),
            });
        }
        let above = pattern
            .indexed_iter()
            .find(|((d, s), v)| *s > direction.last_source(*d, n) && **v != 0.0);
        if let Some(((dest, src), value)) = above {
            return Err(Error::invalid(
                format!("detection pattern {i}"),
                format!("{value} at [{dest}, {src}]"),
                "zeros where src > dest: heads cannot look ahead",
            ));
        }
    }
    Ok(())
}
