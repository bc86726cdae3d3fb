//! Gradients of metrics at the logits.

use ndarray::{Array2, ArrayView2, Axis as Dim, Slice};

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
            Kind::Rank(_) | Kind::Top(..) | Kind::Closure(_) => Err(Error::invalid(
                "metric whose gradient is taken",
                &self.name,
                "one with a gradient: logits and their differences, probabilities, divergences",
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
        if let Kind::Answer(answers, scale) = &self.kind {
            let answer = of::<Vec<u32>>(answers, prompt);
            let rows = Slice::from(position..position + answer.len());
            let slope = scale.slope(logits.slice_axis(Dim(0), rows), answer);
            gradient.slice_axis_mut(Dim(0), rows).assign(&slope);
            return gradient;
        }
        let mut row = logits.row(position).to_vec();
        log_softmax_row(&mut row);
        let logs = row.clone();
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
            Kind::Divergence(which, Some(reference)) => {
                let slope = which.slope(of::<Vec<f32>>(reference, prompt), &logs);
                to.assign(&ndarray::ArrayView1::from(&slope));
            }
            Kind::Divergence(_, None)
            | Kind::Rank(_)
            | Kind::Top(..)
            | Kind::Answer(..)
            | Kind::Closure(_) => {}
        }
        gradient
    }
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use crate::metric::{accuracy, js_divergence, top_k};

    /// Value and gradient by PyTorch 2 in f64: `0.5·(p·(log p − log m)).sum() + 0.5·(q·(log q −
    /// log m)).sum()` of the softmax of both rows, and autograd at the second one's logits.
    #[test]
    fn the_js_divergence_and_its_gradient_are_those_of_torch() {
        let clean = arr2(&[[0.5_f32, -1.25, 2.0, 0.0, 0.75]]);
        let run = arr2(&[[1.5_f32, 0.25, -0.5, 2.0, 0.75]]);
        let metric = js_divergence().with_reference(&[clean.view()]).unwrap();
        let value = metric.evaluate(0, run.view()).unwrap();
        assert!((value - 0.245_523_78).abs() < 1e-6, "{value}");
        assert_eq!(metric.evaluate(0, clean.view()).unwrap(), 0.0);
        let expected = [
            0.004_937_682,
            0.006_846_787,
            -0.045_577_75,
            0.060_633_06,
            -0.026_839_78,
        ];
        let slope = metric.slope(0, run.view());
        for (found, expected) in slope.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{slope}");
        }
        // What only one of both can say is ln 2 away.
        let [one, other] = [[f32::NEG_INFINITY, 0.0], [0.0, f32::NEG_INFINITY]];
        let apart = js_divergence().with_reference(&[arr2(&[one]).view()]);
        let value = apart.unwrap().evaluate(0, arr2(&[other]).view()).unwrap();
        assert!((value - std::f32::consts::LN_2).abs() < 1e-6, "{value}");
    }

    #[test]
    fn guesses_are_right_or_wrong() {
        let logits = arr2(&[[1.0_f32, 3.0, 2.0, 3.0]]);
        let of = |metric: crate::Metric| metric.evaluate(0, logits.view()).unwrap();
        assert_eq!(
            [of(accuracy(&[1])), of(accuracy(&[3])), of(accuracy(&[2]))],
            [1.0, 1.0, 0.0]
        );
        assert_eq!(
            [of(top_k(&[2], 2)), of(top_k(&[2], 3)), of(top_k(&[0], 3))],
            [0.0, 1.0, 0.0]
        );
        let unknown = arr2(&[[f32::NAN, 1.0]]);
        assert!(accuracy(&[1]).evaluate(0, unknown.view()).unwrap().is_nan());
        let none = top_k(&[1], 0)
            .evaluate(0, logits.view())
            .unwrap_err()
            .to_string();
        assert!(none.contains("at least 1"), "{none}");
        assert!(accuracy(&[1]).check_gradient().is_err());
    }
}
