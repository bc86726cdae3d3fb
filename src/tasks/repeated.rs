//! Repeated random sequences (Elhage et al. 2021; Olsson et al. 2022, "In-context Learning and
//! Induction Heads"): from the second repeat on, every token can be copied from the repeat before.

use std::ops::Range;

use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use super::rng;
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

/// Most tokens of a sequence without BOS, far beyond any context.
const LONGEST: usize = 1_000_000;

/// A random sequence, repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepeatedPrompt {
    /// Tokens and labels.
    pub prompt: Prompt,
    /// The position where the first repeat begins: 1 with BOS, else 0.
    pub start: usize,
    /// Tokens of one repeat.
    pub period: usize,
}

impl RepeatedPrompt {
    /// The positions whose next token is within the first repeat, BOS's included: nothing shows
    /// which it is.
    pub(crate) fn first(&self) -> Range<usize> {
        0..self.start + self.period - 1
    }

    /// Checks that sequences have one length and repeat, and what comes next in the second repeat
    /// is known.
    pub(crate) fn check_all(repeated: &[Self]) -> Result<()> {
        let first = repeated.first().map_or(0, |r| r.prompt.len());
        for (i, r) in repeated.iter().enumerate() {
            let n = r.prompt.len();
            if r.period < 2 || r.predictable().is_empty() || n != first {
                return Err(Error::Prompt {
                    at: format!("repeated sequence {i}"),
                    found: format!("{n} tokens with a period of {}", r.period),
                    expected: format!("{first} tokens, and two repeats of at least 2 tokens"),
                });
            }
            let tokens = &r.prompt.tokens;
            let other = |at: &usize| tokens[*at] != tokens[*at - r.period];
            if let Some(at) = (r.start + r.period..n).find(other) {
                return Err(Error::Prompt {
                    at: format!("repeated sequence {i}, position {at}"),
                    found: format!("token {}", tokens[at]),
                    expected: format!(
                        "{}, as {} positions before",
                        tokens[at - r.period],
                        r.period
                    ),
                });
            }
        }
        Ok(())
    }

    /// The positions whose *next* token can be known by copying: from the second repeat's first
    /// token to the last but one of all; none where there is one repeat only.
    pub fn predictable(&self) -> Range<usize> {
        let first = self.start.saturating_add(self.period);
        first..self.prompt.len().saturating_sub(1).max(first)
    }
}

impl From<&RepeatedPrompt> for Prompt {
    fn from(repeated: &RepeatedPrompt) -> Self {
        repeated.prompt.clone()
    }
}

/// The generator of repeated random sequences. Within a repeat no token occurs twice, so that
/// what comes next is never ambiguous.
///
#[cfg_attr(
    feature = "mini",
    doc = r#"
```
use patchlens::tasks::Repeated;
use patchlens::Tokenizer;

let tokenizer = Tokenizer::mini();
let repeated = &Repeated::new(&tokenizer)?.with_bos()?.prompts(1, 10, 2, 0)?[0];
let tokens = &repeated.prompt.tokens;
assert_eq!(tokens.len(), 1 + 2 * 10);
assert_eq!(tokens[1..11], tokens[11..]);
assert_eq!(repeated.predictable(), 11..20);
# Ok::<(), patchlens::Error>(())
```
"#
)]
#[derive(Clone, Debug)]
pub struct Repeated<'t> {
    tokenizer: Option<&'t Tokenizer>,
    pool: Vec<u32>,
    bos: Option<u32>,
}

impl<'t> Repeated<'t> {
    /// Draws from the whole vocabulary but the special tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when there are fewer than 2 tokens.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self> {
        Self::from_pool(tokenizer, tokenizer.ordinary_tokens())
    }

    /// Draws from the tokens given.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when one is not in the vocabulary, [`Error::Tokenizer`] when there
    /// are fewer than 2 different ones.
    pub fn from_pool(tokenizer: &'t Tokenizer, pool: Vec<u32>) -> Result<Self> {
        pool.iter().try_for_each(|&token| tokenizer.check(token))?;
        Ok(Repeated {
            tokenizer: Some(tokenizer),
            ..Repeated::from_tokens(pool)?
        })
    }

    /// Draws from the tokens given, for a model without tokenizer: labels are the tokens' ids.
    ///
    /// ```
    /// use patchlens::tasks::Repeated;
    /// let repeated = &Repeated::from_tokens((1..50).collect())?.with_bos_token(0).prompts(1, 10,
    /// 2, 0)?[0];
    /// assert_eq!((repeated.prompt.len(), repeated.start), (21, 1));
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when there are fewer than 2 different ones.
    pub fn from_tokens(mut pool: Vec<u32>) -> Result<Repeated<'static>> {
        pool.sort_unstable();
        pool.dedup();
        if pool.len() < 2 {
            let found = format!("{} tokens for random sequences", pool.len());
            return Err(Error::tokenizer(found, "at least 2 different ones"));
        }
        Ok(Repeated {
            tokenizer: None,
            pool,
            bos: None,
        })
    }

    /// Puts BOS before every sequence, once.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer has none, or there is no tokenizer.
    pub fn with_bos(self) -> Result<Self> {
        let Some(tokenizer) = self.tokenizer else {
            return Err(Error::tokenizer(
                "none",
                "one that knows BOS, or `with_bos_token`",
            ));
        };
        Ok(self.with_bos_token(tokenizer.bos()?))
    }

    /// Puts this token before every sequence, once.
    pub fn with_bos_token(mut self, bos: u32) -> Self {
        self.bos = Some(bos);
        self
    }

    /// `n` sequences of `period` tokens, each repeated `repeats` times in all.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `period` is 0 or more than the pool has, or when `repeats` is 0 or
    /// makes a sequence of more than a million tokens; [`Error::OutOfRange`] for a BOS that the
    /// tokenizer lacks.
    pub fn prompts(
        &self,
        n: usize,
        period: usize,
        repeats: usize,
        seed: u64,
    ) -> Result<Vec<RepeatedPrompt>> {
        let mut rng = rng(seed);
        (0..n)
            .map(|_| self.draw(period, repeats, &mut rng))
            .collect()
    }

    pub(super) fn draw(
        &self,
        period: usize,
        repeats: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<RepeatedPrompt> {
        if period == 0 || period > self.pool.len() {
            let expected = format!(
                "1 to {}, the number of tokens to draw from",
                self.pool.len()
            );
            return Err(Error::invalid("period", period, expected));
        }
        let most = LONGEST / period;
        if repeats == 0 || repeats > most {
            let expected = format!("1 to {most}, at most {LONGEST} tokens");
            return Err(Error::invalid("repeats", repeats, expected));
        }
        let sequence: Vec<u32> = sample(rng, self.pool.len(), period)
            .iter()
            .map(|i| self.pool[i])
            .collect();
        let tokens: Vec<u32> = self
            .bos
            .into_iter()
            .chain(sequence.repeat(repeats))
            .collect();
        let prompt = match self.tokenizer {
            Some(tokenizer) => tokenizer.prompt(tokens),
            None => Prompt::from(tokens),
        };
        Ok(RepeatedPrompt {
            prompt,
            start: usize::from(self.bos.is_some()),
            period,
        })
    }
}
