//! Learning from the context: how much does the model gain from it, by which heads, and as which
//! vectors?
//!
//! ```text
//! in-context score = mean loss at a late token - mean loss at an early one   (below 0: it learns)
//! ```
//!
//! (Olsson et al. 2022; Kaplan et al. 2020; function vectors: Todd et al. 2024.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let repeated = patchlens::tasks::Repeated::new(&tokenizer)?.prompts(4, 12, 2, 0)?;
//! let loss = patchlens::in_context::repeated_loss(&model, &repeated)?;
//! println!("{} nats, then {}", loss.first_loss, loss.second_loss);
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** Nats per token. On random tokens that repeat, the second loss is what
//! induction leaves.
//!
//! **What it does not mean.** Later tokens of natural text can be easier for other reasons. More in
//! [the guide](crate::guide::heads).

mod function_vectors;
mod repeated_loss;

pub use function_vectors::{FunctionEffects, FunctionVectors};
pub use repeated_loss::{RepeatedLoss, repeated_loss};

use ndarray::Array1;

use crate::ablation::{Ablation, Each, KnockOut};
use crate::base::Base;
use crate::error::{Error, Result};
use crate::metric::{Metric, log_probability};
use crate::model::Transformer;
use crate::prompt::{IntoPrompts, Prompts};
use crate::report::About;
use crate::statistics::Estimate;

/// The positions of the tokens whose losses are compared, counted from 0 as everywhere: the loss of
/// the token at position `p` is that of its prediction from the `p` tokens before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenPair {
    /// The late token's position.
    pub late: usize,
    /// The early token's position.
    pub early: usize,
}

impl Default for TokenPair {
    /// The 500th and the 50th token, at positions 499 and 49.
    fn default() -> Self {
        TokenPair {
            late: 499,
            early: 49,
        }
    }
}

impl TokenPair {
    fn check(self, prompts: &Prompts) -> Result<()> {
        if self.early < 1 || self.late <= self.early {
            let found = format!("early {}, late {}", self.early, self.late);
            let expected = "1 ≤ early < late: the token at position 0 has no prediction";
            return Err(Error::invalid("token pair", found, expected));
        }
        match prompts.iter().position(|prompt| prompt.len() <= self.late) {
            Some(i) => Err(Error::Prompt {
                at: format!("prompt {i}"),
                found: format!("{} tokens", prompts[i].len()),
                expected: format!("at least {}, for position {}", self.late + 1, self.late),
            }),
            None => Ok(()),
        }
    }

    /// The log-probabilities of the late and of the early token.
    fn metrics(self, prompts: &Prompts) -> [Metric; 2] {
        [self.late, self.early].map(|position| {
            let tokens: Vec<u32> = prompts.iter().map(|p| p.tokens[position]).collect();
            log_probability(&tokens).at_position(position - 1)
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

/// What needs models that predict the next token.
const SCORE: &str = "the in-context-learning score";

/// The in-context-learning score over a set of texts.
///
/// ```
/// use patchlens::{Config, Prompt, Transformer};
/// use patchlens::in_context::{TokenPair, in_context_score};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = [Prompt::from([1, 2, 3, 4, 5]), Prompt::from([5, 6, 7, 8, 9])];
/// let found = in_context_score(&model, &prompts, TokenPair { late: 4, early: 1 })?;
/// assert!((found.late_loss.mean - found.early_loss.mean - found.score.mean).abs() < 1e-5);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] unless `1 ≤ early < late`, [`Error::Prompt`] for a prompt that ends before
/// the late token; else same as [`Transformer::run`].
pub fn in_context_score(
    model: &Transformer,
    prompts: impl IntoPrompts,
    tokens: TokenPair,
) -> Result<InContextScore> {
    model.config().check_predicts(SCORE)?;
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

/// How the score changes when each head is knocked out, `[layer, head]`: a positive effect where the
/// model without the head learns less from its context.
///
/// # Errors
/// Same as [`in_context_score`].
pub fn in_context_score_by_head(ablation: &Ablation<'_>, tokens: TokenPair) -> Result<KnockOut> {
    ablation.base().model().config().check_predicts(SCORE)?;
    let prompts = ablation.base().prompts();
    tokens.check(prompts)?;
    let [late, early] = tokens.metrics(prompts);
    let (late, early) = (
        ablation.run(Each::Head, &late)?,
        ablation.run(Each::Head, &early)?,
    );
    let about = About {
        title: "In-context-learning score without a head".to_string(),
        caption: format!(
            "Loss at position {} minus loss at position {}, with a head replaced by {}.",
            tokens.late,
            tokens.early,
            ablation.replacement()
        ),
        unit: "in-context-learning score (nats)".to_string(),
        ..About::default()
    };
    early.minus(&late, about)
}
