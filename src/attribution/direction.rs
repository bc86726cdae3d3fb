//! What is attributed.

use crate::error::{Error, Result};
use crate::model::Transformer;

/// A weighted sum of logits, the number that is attributed.
#[derive(Clone, Debug, PartialEq)]
pub struct LogitDirection {
    /// Tokens with their weights.
    pub weights: Vec<(u32, f32)>,
    /// The unit of the results.
    pub name: String,
}

impl LogitDirection {
    /// The logit of one token.
    pub fn logit(token: u32) -> Self {
        LogitDirection {
            weights: vec![(token, 1.0)],
            name: "logit".to_string(),
        }
    }

    /// The logit of token `a` minus that of token `b`.
    pub fn difference(a: u32, b: u32) -> Self {
        LogitDirection {
            weights: vec![(a, 1.0), (b, -1.0)],
            name: "logit difference".to_string(),
        }
    }

    /// At least one token, all of the model's vocabulary, with finite weights.
    pub(super) fn check(&self, model: &Transformer) -> Result<()> {
        let d_vocab = model.config().d_vocab;
        let weights = &self.weights;
        if weights.is_empty() || weights.iter().any(|(_, w)| !w.is_finite()) {
            let expected = "at least one token, finite weights";
            return Err(Error::invalid(
                "logit direction",
                format!("{weights:?}"),
                expected,
            ));
        }
        match weights.iter().find(|(token, _)| *token as usize >= d_vocab) {
            Some((token, _)) => Err(Error::OutOfRange {
                at: "logit direction".to_string(),
                axis: "token",
                found: *token as usize,
                expected: format!("0..{d_vocab}"),
            }),
            None => Ok(()),
        }
    }
}
