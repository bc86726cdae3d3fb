//! How far two distributions are apart.

use crate::ops::kl_row;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Divergence {
    /// KL(reference ‖ run).
    Kl,
    /// Jensen-Shannon.
    Js,
}

impl Divergence {
    /// Of two rows of log-probabilities, in nats.
    pub fn of(self, reference: &[f32], run: &[f32]) -> f32 {
        match self {
            Divergence::Kl => kl_row(reference.into(), run.into()),
            Divergence::Js => {
                let both = reference.iter().zip(run);
                let terms = both.map(|(p, q)| {
                    let (p, q) = (f64::from(*p), f64::from(*q));
                    let middle = middle(p, q);
                    weighed(p, p - middle) + weighed(q, q - middle)
                });
                (terms.sum::<f64>() / 2.0) as f32
            }
        }
    }

    /// The gradient of the same in the run's logits.
    pub fn slope(self, reference: &[f32], run: &[f32]) -> Vec<f32> {
        let both = || reference.iter().zip(run);
        match self {
            Divergence::Kl => both().map(|(p, q)| q.exp() - p.exp()).collect(),
            Divergence::Js => {
                let half = |(p, q): (&f32, &f32)| {
                    let (p, q) = (f64::from(*p), f64::from(*q));
                    (q.exp(), weighed(q, q - middle(p, q)) / 2.0)
                };
                let mean: f64 = both().map(|both| half(both).1).sum();
                let slope = |(q, own): (f64, f64)| (own - q * mean) as f32;
                both().map(|both| slope(half(both))).collect()
            }
        }
    }
}

/// The logarithm of the mean of two probabilities, given by theirs.
fn middle(p: f64, q: f64) -> f64 {
    let largest = p.max(q);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + ((p - largest).exp() + (q - largest).exp()).ln() - std::f64::consts::LN_2
}

/// A probability times a difference of logarithms; what cannot happen adds nothing.
fn weighed(log: f64, difference: f64) -> f64 {
    if log == f64::NEG_INFINITY {
        0.0
    } else {
        log.exp() * difference
    }
}
