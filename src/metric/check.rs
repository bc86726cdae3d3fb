//! Whether a metric can be read off what there is.

use std::collections::HashSet;

use super::{Kind, Metric, Needs, of};
use crate::config::Config;
use crate::error::{Error, Result, one_or_each};
use crate::prompt::Prompts;
use crate::select::Select;

/// Right and wrong tokens.
type Sets = (Vec<u32>, Vec<u32>);

impl Metric {
    /// Checks it against prompts of these lengths.
    pub(crate) fn check(&self, lengths: &[usize], d_vocab: usize) -> Result<()> {
        let count = self.targets();
        if count != 1 && count != lengths.len() {
            let what = format!("{}: number of targets", self.name);
            let expected = one_or_each(lengths.len(), "prompt");
            return Err(Error::invalid(what, count, expected));
        }
        if let Some(position) = &self.position {
            position.check_prompts(&self.name, "pos", lengths.len())?;
        }
        let mut prompts = lengths.iter().enumerate();
        prompts.try_for_each(|(prompt, n)| self.check_one(prompt, *n, d_vocab))
    }

    /// What it reads of each of some prompts, against which it is checked.
    ///
    /// # Errors
    /// Same as [`Metric::check`] and [`Metric::check_prompts`].
    pub(crate) fn needs_of(&self, prompts: &Prompts, config: &Config) -> Result<Vec<Needs>> {
        let lengths = prompts.lengths();
        self.check(&lengths, config.d_logits())?;
        self.check_prompts(prompts.as_slice())?;
        self.check_attention(config)?;
        let lengths = lengths.into_iter().enumerate();
        Ok(lengths.map(|(i, n)| self.needs(i, n)).collect())
    }

    pub(super) fn check_one(&self, prompt: usize, n: usize, d_vocab: usize) -> Result<()> {
        if self.lacks_reference() {
            return Err(Error::invalid(
                &self.name,
                "no reference",
                "`with_reference` before use, after `at_position`",
            ));
        }
        let count = self.targets();
        if count == 0 || (count > 1 && prompt >= count) {
            let expected = format!("1, or one for prompt {prompt}");
            let what = format!("{}: number of targets", self.name);
            return Err(Error::invalid(what, count, expected));
        }
        if matches!(self.kind, Kind::Closure(_)) {
            return match &self.position {
                Some(position) => Err(Error::invalid(
                    &self.name,
                    format!("`at_position({position})`"),
                    "none: a closure gets all positions",
                )),
                None => Ok(()),
            };
        }
        match &self.kind {
            Kind::Answer(answers, _) => {
                if self.position.is_some() {
                    self.check_position(prompt, n)?;
                }
                self.check_answer(prompt, n, of::<Vec<u32>>(answers, prompt))?;
            }
            _ => self.check_position(prompt, n)?,
        }
        self.check_targets(prompt, d_vocab)?;
        let mut tokens = self.tokens(prompt).into_iter();
        match tokens.find(|t| *t as usize >= d_vocab) {
            Some(token) => Err(self.out_of_range(prompt, "token", token as usize, d_vocab)),
            None => Ok(()),
        }
    }

    /// Checks what a prompt's logits are compared with, as far as it needs no look at them.
    fn check_targets(&self, prompt: usize, d_vocab: usize) -> Result<()> {
        match &self.kind {
            Kind::LogitDiff(sets, _) => {
                let (right, wrong) = of::<Sets>(sets, prompt);
                for (what, set) in [("right", right), ("wrong", wrong)] {
                    if set.is_empty() {
                        let what = format!("{}: {what} tokens of prompt {prompt}", self.name);
                        return Err(Error::invalid(what, "none", "at least one"));
                    }
                }
                self.check_sets(prompt, right, wrong)
            }
            Kind::Logits(weights) => self.check_weights(prompt, of::<Vec<_>>(weights, prompt)),
            Kind::Probability(sets) => {
                let (right, wrong) = of::<Sets>(sets, prompt);
                if right.is_empty() && wrong.is_empty() {
                    let what = format!("{}: tokens of prompt {prompt}", self.name);
                    return Err(Error::invalid(what, "none", "at least one"));
                }
                self.check_sets(prompt, right, wrong)
            }
            Kind::Top(_, 0) => {
                let what = format!("{}: number of guesses", self.name);
                Err(Error::invalid(what, 0, "at least 1"))
            }
            Kind::Divergence(_, Some(rows)) if of(rows, prompt).len() != d_vocab => {
                let what = format!("{}: logits of the reference", self.name);
                let expected = format!("{d_vocab} at the position read");
                Err(Error::invalid(what, of(rows, prompt).len(), expected))
            }
            _ => Ok(()),
        }
    }

    /// Checks that there are tokens, with finite weights.
    fn check_weights(&self, prompt: usize, weights: &[(u32, f32)]) -> Result<()> {
        let what = format!("{}: tokens of prompt {prompt}", self.name);
        if weights.is_empty() {
            return Err(Error::invalid(what, "none", "at least one"));
        }
        match weights.iter().find(|(_, weight)| !weight.is_finite()) {
            Some((token, weight)) => {
                let found = format!("weight {weight} of token {token}");
                Err(Error::invalid(what, found, "finite weights"))
            }
            None => Ok(()),
        }
    }

    /// Checks that no token counts twice, which would make probabilities above 1, or is right and
    /// wrong at once: it would say nothing, and alone it would make a metric that is always 0.
    fn check_sets(&self, prompt: usize, right: &[u32], wrong: &[u32]) -> Result<()> {
        let what = || format!("{}: tokens of prompt {prompt}", self.name);
        let mut seen: HashSet<&u32> = HashSet::new();
        for side in [right, wrong] {
            let mut own = HashSet::new();
            if let Some(token) = side.iter().find(|token| !own.insert(*token)) {
                let found = format!("token {token} twice");
                return Err(Error::invalid(what(), found, "each token once"));
            }
            if let Some(token) = side.iter().find(|token| seen.contains(*token)) {
                let found = format!("token {token} on both sides");
                let expected = "each token on one side of the difference";
                return Err(Error::invalid(what(), found, expected));
            }
            seen.extend(own);
        }
        Ok(())
    }

    /// Checks that a prompt of `n` tokens has the one position that it reads.
    pub(crate) fn check_position(&self, prompt: usize, n: usize) -> Result<()> {
        let position = self.position.as_ref().unwrap_or(&Select::Last);
        let at = format!("{} of prompt {prompt}", self.name);
        if !matches!(position.of(prompt), Some([_])) {
            let what = format!("{at}: positions");
            return Err(Error::invalid(
                what,
                position.in_prompt(prompt),
                "exactly one",
            ));
        }
        position.check(&at, "pos", prompt, n)
    }

    fn out_of_range(&self, prompt: usize, axis: &'static str, found: usize, end: usize) -> Error {
        Error::OutOfRange {
            at: format!("{} of prompt {prompt}", self.name),
            axis,
            found,
            expected: format!("0..{end}"),
        }
    }
}
