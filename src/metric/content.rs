//! What a metric reads of a prompt, for a journal's keys.

use super::{Kind, Metric, of};
use crate::content::Content;
use crate::error::{Error, Result};

impl Metric {
    /// Adds what it is of a prompt of `n` tokens.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a closure, which has no content that could be compared.
    pub(crate) fn content<'a>(
        &'a self,
        to: &mut Content<'a>,
        prompt: usize,
        n: usize,
    ) -> Result<()> {
        let sets = |to: &mut Content<'_>, (right, wrong): &(Vec<u32>, Vec<u32>)| {
            to.tokens(right);
            to.tokens(wrong);
        };
        match &self.kind {
            Kind::LogitDiff(all, reduce) => {
                to.text("logit difference");
                to.text(&format!("{reduce:?}"));
                sets(to, of(all, prompt));
            }
            Kind::Logits(all) => {
                let weights = of::<Vec<_>>(all, prompt);
                to.text("logits");
                to.number(weights.len());
                for (token, weight) in weights {
                    to.number(*token as usize);
                    to.float(*weight);
                }
            }
            Kind::Probability(all) => {
                to.text("probability");
                sets(to, of(all, prompt));
            }
            Kind::LogProbability(tokens) => {
                to.text("log-probability");
                to.number(*of(tokens, prompt) as usize);
            }
            Kind::Answer(answers, scale) => {
                to.text("answer");
                to.text(&format!("{scale:?}"));
                to.tokens(of::<Vec<u32>>(answers, prompt));
            }
            Kind::Rank(tokens) => {
                to.text("rank");
                to.number(*of(tokens, prompt) as usize);
            }
            Kind::Top(tokens, k) => {
                to.text("top");
                to.number(*k);
                to.number(*of(tokens, prompt) as usize);
            }
            Kind::Divergence(which, reference) => {
                to.text(&format!("{which:?}"));
                if let Some(rows) = reference {
                    let row = ndarray::ArrayView1::from(of::<Vec<f32>>(rows, prompt));
                    to.array(row.into_dyn());
                }
            }
            Kind::Closure(_) => {
                return Err(Error::invalid(
                    format!("metric `{}` of a study with a journal", self.name),
                    "a closure",
                    "one of `patchlens::metric`: closures cannot be told apart",
                ));
            }
        }
        to.numbers(self.needs(prompt, n).positions);
        Ok(())
    }
}
