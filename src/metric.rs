//! Metrics: which number says whether the model does it?
//!
//! ```text
//! logit_diff(a, b) = logit[a] - logit[b]        probability(a) = softmax(logits)[a]
//! kl_divergence    = Σ p · (log p - log q)      next_token_loss = -log softmax(logits)[next]
//! ```
//!
//! A metric declares which positions and tokens it needs, so that a sweep computes nothing else.
//! (Which to choose: Zhang and Nanda 2023, "Towards Best Practices of Activation Patching",
//! section 4.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let prompt = tokenizer.encode("Ada Brown plays the sport of")?;
//! let metric = logit_diff(tokenizer.token(" golf")?, tokenizer.token(" rugby")?);
//! println!("{:?}", patchlens::Base::new(&model, &prompt)?.metric(&metric)?); // one per prompt
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** A logit difference of 3: the first token is e³ ≈ 20 times as likely as
//! the second. It is linear in what the last layer writes, so that effects add up.
//!
//! **What it does not mean.** That the answer is likely: both tokens may be improbable. A
//! probability near 0 or 1 hardly moves whatever is patched; a result with no room left says so.

mod answer;
mod check;
mod content;
mod divergence;
mod gradient;
mod loss;
mod rank;
mod reduce;
mod reference;
mod room;
mod top;

use std::fmt;
use std::sync::Arc;

use ndarray::ArrayView2;

use answer::Scale;
pub use answer::{answer_log_probability, answer_probability};
use divergence::Divergence;
pub use loss::next_token_loss;
use rank::best_rank_in;
pub(crate) use rank::rank_in;
pub use reduce::Reduce;
pub(crate) use room::Baseline;
pub use top::top_tokens;

use crate::error::Result;
use crate::ops::log_softmax_row;
use crate::select::Select;

/// What a closure metric gets: the prompt's index and its logits `[pos, d_vocab]`.
pub type MetricFn = Arc<dyn Fn(usize, ArrayView2<'_, f32>) -> f32 + Send + Sync>;

#[derive(Clone)]
enum Kind {
    /// Logits of some tokens, reduced to one number, minus that of others, by prompt.
    LogitDiff(Arc<[(Vec<u32>, Vec<u32>)]>, Reduce),
    /// A weighted sum of logits, by prompt.
    Logits(Arc<[Vec<(u32, f32)>]>),
    /// Total probability of some tokens minus that of others, by prompt.
    Probability(Arc<[(Vec<u32>, Vec<u32>)]>),
    LogProbability(Arc<[u32]>),
    /// Of answers of several tokens, by prompt; as a probability, or its logarithm.
    Answer(Arc<[Vec<u32>]>, Scale),
    Rank(Arc<[u32]>),
    /// Whether fewer than so many tokens are likelier, by prompt.
    Top(Arc<[u32]>, usize),
    /// To a reference; its log-probabilities by prompt, once they are known.
    Divergence(Divergence, Option<Arc<[Vec<f32>]>>),
    Closure(MetricFn),
}

/// One number per prompt, read off the logits at one position (the last, unless
/// [`Metric::at_position`] says otherwise).
///
/// ```
/// use patchlens::logit_diff;
/// let metric = logit_diff(3, 5);
/// let logits = ndarray::arr2(&[[0.0, 0.0, 0.0, 2.0, 0.0, 0.5]]); // [pos, d_vocab]
/// assert_eq!(metric.evaluate(0, logits.view())?, 1.5);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone)]
pub struct Metric {
    name: String,
    kind: Kind,
    /// Where it reads, if it was said; the last position otherwise.
    position: Option<Select>,
}

impl fmt::Debug for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

/// The logit of token `a` minus that of token `b`, for every prompt.
pub fn logit_diff(a: u32, b: u32) -> Metric {
    logit_diffs(&[(a, b)])
}

/// The logit of the first token minus that of the second: one pair per prompt, or one for all.
pub fn logit_diffs(pairs: &[(u32, u32)]) -> Metric {
    let sets: Vec<_> = pairs.iter().map(|(a, b)| (vec![*a], vec![*b])).collect();
    logit_diff_sets(&sets, Reduce::Mean)
}

/// The logits of the right tokens, reduced to one number, minus those of the wrong ones: one pair
/// of sets `(right, wrong)` per prompt, or one for all. Neither set may be empty.
///
/// ```
/// use patchlens::metric::{Reduce, logit_diff_sets};
/// let logits = ndarray::arr2(&[[5.0, 1.0, 4.0, 2.0]]); // [pos, d_vocab]
/// let sets = [(vec![0], vec![1, 2, 3])];
/// let mean = logit_diff_sets(&sets, Reduce::Mean).evaluate(0, logits.view())?;
/// let margin = logit_diff_sets(&sets, Reduce::Max).evaluate(0, logits.view())?;
/// assert_eq!((mean, margin), (5.0 - 7.0 / 3.0, 1.0));
/// # Ok::<(), patchlens::Error>(())
/// ```
pub fn logit_diff_sets(sets: &[(Vec<u32>, Vec<u32>)], reduce: Reduce) -> Metric {
    let name = match reduce {
        Reduce::Mean => "logit difference",
        Reduce::Max => "logit difference of the likeliest",
        Reduce::LogSumExp => "log-odds (nats)",
    };
    Metric::new(name, Kind::LogitDiff(sets.into(), reduce))
}

/// The logit of one token per prompt, or of one for all.
pub fn logit(tokens: &[u32]) -> Metric {
    let weights = tokens.iter().map(|t| vec![(*t, 1.0)]).collect();
    Metric::new("logit", Kind::Logits(weights))
}

/// A weighted sum of logits: one list of tokens with their weights per prompt, or one for all. No
/// list may be empty, and weights are finite.
///
/// ```
/// use patchlens::metric::logit_sums;
/// let logits = ndarray::arr2(&[[5.0, 1.0, 4.0, 2.0]]); // [pos, d_vocab]
/// let over_rivals = logit_sums(&[vec![(0, 1.0), (1, -0.5), (3, -0.5)]]);
/// assert_eq!(over_rivals.evaluate(0, logits.view())?, 3.5);
/// # Ok::<(), patchlens::Error>(())
/// ```
pub fn logit_sums(weights: &[Vec<(u32, f32)>]) -> Metric {
    Metric::new("weighted sum of logits", Kind::Logits(weights.into()))
}

/// The probability of one token per prompt, or of one for all.
pub fn probability(tokens: &[u32]) -> Metric {
    let sets = tokens.iter().map(|t| (vec![*t], Vec::new())).collect();
    Metric::new("probability", Kind::Probability(sets))
}

/// The total probability of the first tokens minus that of the second ones: one pair of sets per
/// prompt, or one for all. With later and earlier years, Hanna et al. (2023)'s greater-than metric.
pub fn probability_diff(sets: &[(Vec<u32>, Vec<u32>)]) -> Metric {
    Metric::new("probability difference", Kind::Probability(sets.into()))
}

/// The natural logarithm of the probability of one token per prompt, or of one for all.
pub fn log_probability(tokens: &[u32]) -> Metric {
    Metric::new(
        "log-probability (nats)",
        Kind::LogProbability(tokens.into()),
    )
}

/// The rank of one token per prompt, or of one for all: 0 is the likeliest. Equal logits count
/// half, so that a token among `k` equals has their mean rank.
pub fn rank(tokens: &[u32]) -> Metric {
    Metric::new("rank", Kind::Rank(tokens.into()))
}

/// 1 where one token per prompt, or one for all, is the likeliest, else 0; also where another is
/// as likely. Its mean over prompts is the accuracy.
pub fn accuracy(tokens: &[u32]) -> Metric {
    Metric::new("accuracy", Kind::Top(tokens.into(), 1))
}

/// 1 where fewer than `k` tokens are likelier than one token per prompt, or one for all, else 0.
/// Its mean over prompts is the accuracy of the first `k` guesses.
pub fn top_k(tokens: &[u32], k: usize) -> Metric {
    Metric::new(&format!("top-{k} accuracy"), Kind::Top(tokens.into(), k))
}

/// The Jensen-Shannon divergence of the clean run's and this run's probabilities, in nats:
/// `½ KL(p ‖ m) + ½ KL(q ‖ m)` with `m = (p + q) / 2`, at most ln 2. Experiments measure it to the
/// clean run, as [`kl_divergence`].
pub fn js_divergence() -> Metric {
    let name = "JS divergence to the clean run (nats)";
    Metric::new(name, Kind::Divergence(Divergence::Js, None))
}

/// KL(clean ‖ run) in nats. Experiments measure it to the clean run;
/// [`Metric::with_reference`] does so by hand.
pub fn kl_divergence() -> Metric {
    let name = "KL divergence to the clean run (nats)";
    Metric::new(name, Kind::Divergence(Divergence::Kl, None))
}

/// What of a prompt's logits a metric reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Positions, ascending.
    pub positions: Vec<usize>,
    /// Tokens; `None` for the whole vocabulary.
    pub tokens: Option<Vec<u32>>,
}

impl Metric {
    fn new(name: &str, kind: Kind) -> Self {
        Metric {
            name: name.to_string(),
            kind,
            position: None,
        }
    }

    /// Any closure of the prompt's index and its logits `[pos, d_vocab]`. It makes a sweep
    /// compute all logits of all positions.
    pub fn from_fn(
        name: impl Into<String>,
        f: impl Fn(usize, ArrayView2<'_, f32>) -> f32 + Send + Sync + 'static,
    ) -> Self {
        Metric {
            name: name.into(),
            kind: Kind::Closure(Arc::new(f)),
            position: None,
        }
    }

    /// Reads the logits at this position instead of the last: the same in every prompt, such as
    /// `3` or `-2`, or one per prompt, see [`Select::each`] and [`Select::role`]. A KL divergence
    /// that had its reference read elsewhere needs it anew; a closure, which reads all positions,
    /// is rejected.
    pub fn at_position(mut self, position: impl Into<Select>) -> Self {
        let position = Some(position.into());
        if self.position != position
            && let Kind::Divergence(_, reference) = &mut self.kind
        {
            *reference = None;
        }
        self.position = position;
        self
    }

    /// The position that it reads of a prompt of `n` tokens, of several the first; `None` if the
    /// prompt lacks it.
    fn position(&self, prompt: usize, n: usize) -> Option<usize> {
        if let (Kind::Answer(answers, _), None) = (&self.kind, &self.position) {
            return n.checked_sub(of::<Vec<u32>>(answers, prompt).len());
        }
        let position = self.position.as_ref().unwrap_or(&Select::Last);
        position.resolve(prompt, n).into_iter().next()
    }

    /// What it measures, with the unit.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the answer is the likelier, the smaller it is: a divergence, a rank.
    pub(crate) fn smaller_is_better(&self) -> bool {
        matches!(self.kind, Kind::Divergence(..) | Kind::Rank(_))
    }

    /// Number of prompts that it knows targets of; 1 is one for all.
    fn targets(&self) -> usize {
        match &self.kind {
            Kind::LogitDiff(sets, _) | Kind::Probability(sets) => sets.len(),
            Kind::Logits(weights) => weights.len(),
            Kind::Answer(answers, _) => answers.len(),
            Kind::LogProbability(tokens) | Kind::Rank(tokens) | Kind::Top(tokens, _) => {
                tokens.len()
            }
            Kind::Divergence(_, Some(rows)) => rows.len(),
            Kind::Divergence(_, None) | Kind::Closure(_) => 1,
        }
    }

    /// The tokens it names for a prompt, each once.
    fn tokens(&self, prompt: usize) -> Vec<u32> {
        let mut tokens = match &self.kind {
            Kind::LogitDiff(sets, _) | Kind::Probability(sets) => {
                let (a, b) = of(sets, prompt);
                [&a[..], b].concat()
            }
            Kind::Logits(weights) => of::<Vec<_>>(weights, prompt)
                .iter()
                .map(|(t, _)| *t)
                .collect(),
            Kind::LogProbability(tokens) | Kind::Rank(tokens) | Kind::Top(tokens, _) => {
                vec![*of(tokens, prompt)]
            }
            Kind::Answer(answers, _) => of::<Vec<u32>>(answers, prompt).clone(),
            Kind::Divergence(..) | Kind::Closure(_) => Vec::new(),
        };
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// What it reads of a prompt of `n` tokens.
    pub(crate) fn needs(&self, prompt: usize, n: usize) -> Needs {
        let positions = match self.kind {
            Kind::Closure(_) => (0..n).collect(),
            Kind::Answer(ref answers, _) => {
                let start = self.position(prompt, n).into_iter();
                let rows = of::<Vec<u32>>(answers, prompt).len();
                start.flat_map(|start| start..start + rows).collect()
            }
            _ => self.position(prompt, n).into_iter().collect(),
        };
        let few = matches!(self.kind, Kind::LogitDiff(..) | Kind::Logits(_));
        let tokens = few.then(|| self.tokens(prompt));
        Needs { positions, tokens }
    }

    /// The metric of a prompt's full logits `[pos, d_vocab]`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`](crate::Error::OutOfRange) for a position or token that they lack;
    /// [`Error::Invalid`](crate::Error::Invalid) for a KL divergence without reference, or with
    /// one of another vocabulary, and for a prompt that the metric has no target of.
    pub fn evaluate(&self, prompt: usize, logits: ArrayView2<'_, f32>) -> Result<f32> {
        let (n, d_vocab) = logits.dim();
        self.check_one(prompt, n, d_vocab)?;
        let needs = self.needs(prompt, n);
        let rows = logits.select(ndarray::Axis(0), &needs.positions);
        Ok(match &needs.tokens {
            Some(tokens) => {
                let columns: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
                self.read(prompt, rows.select(ndarray::Axis(1), &columns).view())
            }
            None => self.read(prompt, rows.view()),
        })
    }

    /// The metric of what [`Metric::needs`] asked for: rows are its positions, columns its tokens.
    pub(crate) fn read(&self, prompt: usize, logits: ArrayView2<'_, f32>) -> f32 {
        let log_probabilities = || {
            let mut row = logits.row(0).to_vec();
            log_softmax_row(&mut row);
            row
        };
        // Columns are the named tokens.
        let named = || {
            let tokens = self.tokens(prompt);
            move |t: &u32| tokens.binary_search(t).map_or(f32::NAN, |c| logits[[0, c]])
        };
        match &self.kind {
            Kind::LogitDiff(sets, reduce) => {
                let (column, (a, b)) = (named(), of(sets, prompt));
                reduce.of(a.iter().map(&column)) - reduce.of(b.iter().map(&column))
            }
            Kind::Logits(weights) => {
                let (column, weights) = (named(), of::<Vec<_>>(weights, prompt));
                weights.iter().map(|(t, weight)| weight * column(t)).sum()
            }
            Kind::Probability(sets) => {
                let row = log_probabilities();
                let total = |set: &[u32]| set.iter().map(|t| row[*t as usize].exp()).sum::<f32>();
                let (a, b) = of(sets, prompt);
                total(a) - total(b)
            }
            Kind::Answer(answers, scale) => scale.of(logits, of::<Vec<u32>>(answers, prompt)),
            Kind::LogProbability(tokens) => log_probabilities()[*of(tokens, prompt) as usize],
            Kind::Rank(tokens) => rank_in(logits.row(0), *of(tokens, prompt) as usize),
            Kind::Top(tokens, k) => {
                let rank = best_rank_in(logits.row(0), *of(tokens, prompt) as usize);
                rank.map_or(f32::NAN, |rank| f32::from(u8::from(rank < *k)))
            }
            Kind::Divergence(which, reference) => reference.as_ref().map_or(f32::NAN, |rows| {
                which.of(of::<Vec<f32>>(rows, prompt), &log_probabilities())
            }),
            Kind::Closure(f) => f(prompt, logits),
        }
    }
}

/// One entry for all, or one per prompt.
fn of<T>(list: &[T], prompt: usize) -> &T {
    if list.len() == 1 {
        &list[0]
    } else {
        &list[prompt]
    }
}
