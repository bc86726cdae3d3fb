//! Gradients of metrics at the logits.

use ndarray::{Array2, ArrayView2};

use super::{Kind, Metric, Reduce, of};
use crate::error::{Error, Result};
use crate::ops::log_softmax_row;

impl Metric {
    /// Checks that it has a gradient.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a rank or a closure.
    pub(crate) fn check_gradient(&self) -> Result<()> {
        match self.kind {
            Kind::Rank(_) | Kind::Closure(_) => Err(Error::invalid(
                "metric whose gradient is taken",
                &self.name,
                "one with a gradient: logits and their differences, probabilities, KL divergence",
            )),
            _ => Ok(()),
        }
    }

    /// The logits of a prompt, with their weights, whose sum at any position it is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a metric that is more than such a sum, or is read at one position.
    pub(crate) fn logit_weights(&self, prompt: usize) -> Result<Vec<(u32, f32)>> {
        let what = "metric that is attributed to parts of the model";
        if let Some(position) = &self.position {
            let found = format!("{} with `at_position({position})`", self.name);
            return Err(Error::invalid(what, found, "one without position"));
        }
        match &self.kind {
            Kind::Logits(weights) => Ok(of(weights, prompt).clone()),
            Kind::LogitDiff(sets, Reduce::Mean) => {
                let (right, wrong) = of(sets, prompt);
                let share = |set: &[u32], sign: f32| -> Vec<(u32, f32)> {
                    set.iter().map(|t| (*t, sign / set.len() as f32)).collect()
                };
                Ok([share(right, 1.0), share(wrong, -1.0)].concat())
            }
            _ => {
                let expected = "a sum of logits: `logit_diff` and its like, `logit`, `logit_sums`";
                Err(Error::invalid(what, &self.name, expected))
            }
        }
    }

    /// Its gradient at a prompt's full logits, `[pos, d_vocab]`, which it must fit; zero for
    /// metrics without gradient.
    pub(crate) fn slope(&self, prompt: usize, logits: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut gradient = Array2::zeros(logits.dim());
        let Some(position) = self.position(prompt, logits.nrows()) else {
            return gradient;
        };
        let mut row = logits.row(position).to_vec();
        log_softmax_row(&mut row);
        row.iter_mut().for_each(|v| *v = v.exp());
        let mut to = gradient.row_mut(position);
        match &self.kind {
            Kind::LogitDiff(sets, reduce) => {
                let (a, b) = of(sets, prompt);
                for (set, sign) in [(a, 1.0), (b, -1.0)] {
                    for (t, weight) in set.iter().zip(reduce.slopes(set, logits.row(position))) {
                        to[*t as usize] += sign * weight;
                    }
                }
            }
            Kind::Probability(sets) => {
                let (a, b) = of(sets, prompt);
                for (set, sign) in [(a, 1.0), (b, -1.0)] {
                    let total: f32 = set.iter().map(|t| row[*t as usize]).sum();
                    to.iter_mut()
                        .zip(&row)
                        .for_each(|(to, p)| *to -= sign * total * p);
                    set.iter()
                        .for_each(|t| to[*t as usize] += sign * row[*t as usize]);
                }
            }
            Kind::Logits(weights) => {
                for (t, weight) in of::<Vec<_>>(weights, prompt) {
                    to[*t as usize] += weight;
                }
            }
            Kind::LogProbability(tokens) => {
                to.iter_mut().zip(&row).for_each(|(to, p)| *to = -p);
                to[*of(tokens, prompt) as usize] += 1.0;
            }
            Kind::Kl(Some(reference)) => {
                let reference: &Vec<f32> = of(reference, prompt);
                let both = row.iter().zip(reference);
                to.iter_mut()
                    .zip(both)
                    .for_each(|(to, (run, reference))| *to = run - reference.exp());
            }
            Kind::Kl(None) | Kind::Rank(_) | Kind::Closure(_) => {}
        }
        gradient
    }
}
