//! Heads whose attention is close to a pattern given as a matrix (TransformerLens's
//! `head_detector`).

use ndarray::{Array2, ArrayView2, Axis as Dim};

use crate::error::{Error, Result};
use crate::heads::scores::{about, measure, summary};
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompts};
use crate::report::Labelled;

/// How a pattern is compared with one that is looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Closeness {
    /// `Σ(A·D) / ΣA`: the share of the attention that falls on the pattern.
    #[default]
    Mul,
    /// `1 − Σ|A − D| / n` for `n` tokens: 1 where both are equal.
    Abs,
}

/// Settings of [`detect_heads`], TransformerLens's.
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
    fn score(&self, attention: ArrayView2<'_, f32>, wanted: &Array2<f32>) -> f32 {
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

/// How close every head's attention is to a pattern given as a matrix `[dest, src]`, one per
/// prompt, `[layer, head]`: mean and standard error over the prompts. TransformerLens's
/// `detect_head`, but `abs` is not rounded.
/// [`AttentionPattern::matrix`](crate::heads::AttentionPattern::matrix) makes the usual ones.
///
/// # Errors
/// [`Error::Invalid`] if the patterns are not as many as the prompts or not lower triangular,
/// [`Error::Shape`] for another size than its prompt's; else same as [`Transformer::run`].
pub fn detect_heads(
    model: &Transformer,
    prompts: impl IntoPrompts,
    patterns: &[Array2<f32>],
    detection: Detection,
) -> Result<Labelled> {
    let prompts = prompts.into_prompts()?;
    check_patterns(&prompts, patterns)?;
    let samples = measure(model, &prompts, 1, |prompt, attention| {
        vec![detection.score(attention, &patterns[prompt])]
    })?;
    let (caption, unit) = match detection.measure {
        Closeness::Mul => (
            "Share of the attention on the pattern.",
            "share of attention",
        ),
        Closeness::Abs => ("1 − Σ|A − D| / n.", "closeness"),
    };
    let samples = samples.index_axis_move(Dim(0), 0);
    let about = about("Head detection", caption, unit);
    summary(samples.view().into_dyn(), None, about)
}

fn check_patterns(prompts: &Prompts, patterns: &[Array2<f32>]) -> Result<()> {
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
            .find(|((d, s), v)| s > d && **v != 0.0);
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
