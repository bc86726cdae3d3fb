//! The in-context-learning score: how much better a model predicts late tokens than early ones
//! (Olsson et al. 2022; Kaplan et al. 2020).

mod function_vectors;
mod repeated_loss;

pub use function_vectors::FunctionVectors;
pub use repeated_loss::{RepeatedLoss, repeated_loss};

use ndarray::Array1;

use crate::ablation::Ablation;
use crate::base::Base;
use crate::error::{Error, Result};
use crate::metric::{Metric, log_probability};
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompts};
use crate::report::{About, Labelled};
use crate::statistics::{Estimate, labelled_means};

/// Which tokens' losses are compared, counted from 1: the loss of the `n`-th token is that of its
/// prediction from the `n − 1` tokens before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenPair {
    /// The late token.
    pub late: usize,
    /// The early token.
    pub early: usize,
}

impl Default for TokenPair {
    /// The 500th and the 50th token.
    fn default() -> Self {
        TokenPair {
            late: 500,
            early: 50,
        }
    }
}

impl TokenPair {
    fn check(self, prompts: &Prompts) -> Result<()> {
        if self.early < 2 || self.late <= self.early {
            let found = format!("early {}, late {}", self.early, self.late);
            let expected = "2 ≤ early < late: the first token has no prediction";
            return Err(Error::invalid("token pair", found, expected));
        }
        match prompts.iter().position(|prompt| prompt.len() < self.late) {
            Some(i) => Err(Error::Prompt {
                at: format!("prompt {i}"),
                found: format!("{} tokens", prompts[i].len()),
                expected: format!("at least {}", self.late),
            }),
            None => Ok(()),
        }
    }

    /// The log-probabilities of the late and of the early token.
    fn metrics(self, prompts: &Prompts) -> [Metric; 2] {
        [self.late, self.early].map(|n| {
            let tokens: Vec<u32> = prompts.iter().map(|p| p.tokens[n - 1]).collect();
            log_probability(&tokens).at_position(n - 2)
        })
    }
}

/// Loss at a late token minus loss at an early one, in nats: negative where context helps.
#[derive(Clone, Debug, PartialEq)]
pub struct InContextScore {
    /// Mean over prompts and its standard error.
    pub score: Estimate,
    /// Mean loss at the late token and its standard error.
    pub late_loss: Estimate,
    /// Mean loss at the early token and its standard error.
    pub early_loss: Estimate,
    /// The score of each prompt.
    pub per_prompt: Array1<f32>,
}

/// The in-context-learning score over a set of texts.
///
/// ```
/// use patchlens::{Config, Prompt, Transformer};
/// use patchlens::in_context::{TokenPair, in_context_score};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = [Prompt::from([1, 2, 3, 4, 5]), Prompt::from([5, 6, 7, 8, 9])];
/// let found = in_context_score(&model, &prompts, TokenPair { late: 5, early: 2 })?;
/// assert!((found.late_loss.mean - found.early_loss.mean - found.score.mean).abs() < 1e-5);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] unless `2 ≤ early < late`, [`Error::Prompt`] for a prompt that is shorter
/// than the late token; else same as [`Transformer::run`].
pub fn in_context_score(
    model: &Transformer,
    prompts: impl IntoPrompts,
    tokens: TokenPair,
) -> Result<InContextScore> {
    let base = Base::new(model, prompts)?;
    tokens.check(base.prompts())?;
    let [late, early] = tokens.metrics(base.prompts());
    let [late, early] = [base.metric(&late)?, base.metric(&early)?].map(|p| -p);
    let per_prompt = &late - &early;
    Ok(InContextScore {
        score: Estimate::of(per_prompt.iter().copied()),
        late_loss: Estimate::of(late),
        early_loss: Estimate::of(early),
        per_prompt,
    })
}

/// How the score changes when each head is ablated, `[layer, head]`: mean over the study's prompts;
/// with standard errors where there are several. Positive where the model without the head learns
/// less from its context.
///
/// # Errors
/// Same as [`in_context_score`].
pub fn in_context_score_by_head(ablation: &Ablation<'_>, tokens: TokenPair) -> Result<Labelled> {
    let prompts = ablation.base().prompts();
    tokens.check(prompts)?;
    let [late, early] = tokens.metrics(prompts);
    let (late, early) = (ablation.heads(&late)?, ablation.heads(&early)?);
    let base = &early.clean - &late.clean;
    let changed = &early.per_prompt - &late.per_prompt - &base;
    let about = About {
        title: "Change of the in-context-learning score".to_string(),
        caption: format!(
            "Loss at token {} minus loss at token {}, with a head replaced by {}, minus the same \
             of the whole model.",
            tokens.late,
            tokens.early,
            ablation.replacement()
        ),
        unit: "change of the score (nats)".to_string(),
        baselines: [("whole".to_string(), Estimate::of(base).mean)].into(),
        counts: [("prompts".to_string(), prompts.len() as u64)].into(),
        partial: late.effect.about.partial || early.effect.about.partial,
        ..About::default()
    };
    labelled_means(changed.view(), late.effect.axes().to_vec(), about)
}
