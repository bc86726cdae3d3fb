//! Answers of several tokens.

use ndarray::{Array2, ArrayView2};

use super::{Kind, Metric, of};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::ops::log_softmax_row;
use crate::prompt::Prompt;

/// How a metric has the probability of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Itself.
    Linear,
    /// Its natural logarithm.
    Log,
}

/// The natural logarithm of the probability of an answer of one token or several, one answer per
/// prompt or one for all: `Σ log p(token | prompt and the answer's tokens before)`, summed in f64.
///
/// Prompts end with all tokens of the answer but the last one, as
/// [`Prompt::teacher_forced`](crate::Prompt::teacher_forced) makes them (teacher forcing): one run
/// is enough, and of the logits it computes the rows that predict the answer.
/// [`Metric::at_position`] is where the answer's first token is predicted.
///
#[cfg_attr(
    feature = "mini",
    doc = r#"
```
use patchlens::metric::answer_log_probability;
use patchlens::{Base, Tokenizer, Transformer};
let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
let answer = tokenizer.encode(" the store")?; // two tokens
let prompt = tokenizer.encode("When Mary and John went to")?.teacher_forced(&answer);
let metric = answer_log_probability(&[answer.tokens]);
println!("{:.3} nats", Base::new(&model, &prompt)?.metric(&metric)?[0]);
# Ok::<(), patchlens::Error>(())
```
"#
)]
pub fn answer_log_probability(answers: &[Vec<u32>]) -> Metric {
    let name = "log-probability of the answer (nats)";
    Metric::new(name, Kind::Answer(answers.into(), Scale::Log))
}

/// The probability of an answer of one token or several: `exp` of [`answer_log_probability`].
pub fn answer_probability(answers: &[Vec<u32>]) -> Metric {
    let name = "probability of the answer";
    Metric::new(name, Kind::Answer(answers.into(), Scale::Linear))
}

impl Scale {
    /// Of an answer whose tokens are predicted by these rows, `[token, d_vocab]`.
    pub fn of(self, logits: ArrayView2<'_, f32>, answer: &[u32]) -> f32 {
        let rows = logits.rows().into_iter().zip(answer);
        let sum: f64 = rows
            .map(|(row, token)| {
                let mut row = row.to_vec();
                log_softmax_row(&mut row);
                f64::from(row[*token as usize])
            })
            .sum();
        match self {
            Scale::Linear => sum.exp() as f32,
            Scale::Log => sum as f32,
        }
    }

    /// Its gradient at these rows.
    pub fn slope(self, logits: ArrayView2<'_, f32>, answer: &[u32]) -> Array2<f32> {
        let factor = match self {
            Scale::Linear => self.of(logits, answer),
            Scale::Log => 1.0,
        };
        let mut slope = logits.to_owned();
        for (mut row, token) in slope.rows_mut().into_iter().zip(answer) {
            let mut logs = row.to_vec();
            log_softmax_row(&mut logs);
            for (to, log) in row.iter_mut().zip(&logs) {
                *to = -factor * log.exp();
            }
            row[*token as usize] += factor;
        }
        slope
    }
}

impl Metric {
    /// Checks that prompts hold the tokens of their answers that precede the last one.
    ///
    /// # Errors
    /// [`Error::Prompt`] if one does not.
    pub(crate) fn check_prompts(&self, prompts: &[Prompt]) -> Result<()> {
        let Kind::Answer(answers, _) = &self.kind else {
            return Ok(());
        };
        for (i, prompt) in prompts.iter().enumerate() {
            let answer = of::<Vec<u32>>(answers, i);
            let start = self.position(i, prompt.len()).map_or(0, |start| start + 1);
            let (_, given) = answer.split_last().expect("`check` has seen a token");
            if !prompt.tokens[start..].starts_with(given) {
                let end = prompt.len().min(start + given.len());
                return Err(Error::Prompt {
                    at: format!("prompt {i}, from position {start}"),
                    found: format!("tokens {:?}", &prompt.tokens[start..end]),
                    expected: format!(
                        "{given:?}, the answer's tokens but the last, as \
                         `Prompt::teacher_forced` appends them"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Checks that no position that predicts a token of an answer can read it, of answers of several
    /// tokens, which are part of their prompts.
    ///
    /// # Errors
    /// [`Error::Lacks`] for a model whose positions attend to later ones.
    pub(crate) fn check_attention(&self, config: &Config) -> Result<()> {
        match &self.kind {
            Kind::Answer(answers, _) if answers.iter().any(|answer| answer.len() > 1) => {
                config.check_causal(&format!("{} of several tokens", self.name))
            }
            _ => Ok(()),
        }
    }

    /// Checks that a prompt of `n` tokens has room for the tokens of its answer.
    pub(super) fn check_answer(&self, prompt: usize, n: usize, answer: &[u32]) -> Result<()> {
        let what = format!("{} of prompt {prompt}", self.name);
        if answer.is_empty() {
            return Err(Error::invalid(what, "no tokens", "at least one"));
        }
        let end = self.position(prompt, n).map(|start| start + answer.len());
        if end.is_some_and(|end| end <= n) {
            return Ok(());
        }
        let found = format!("{n} tokens for an answer of {}", answer.len());
        let expected = "a position of the prompt to predict each token of the answer at";
        Err(Error::invalid(what, found, expected))
    }
}

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use crate::metric::{answer_log_probability, answer_probability};

    /// Values and gradients by PyTorch 2 in f64: `log_softmax(-1)` of both rows, the sum at tokens
    /// 2 and 1, autograd; the probability is `exp` of it.
    #[test]
    fn b33_value_and_gradient_are_those_of_torch() {
        let logits = arr2(&[[9.0_f32, 9.0, 9.0], [0.5, -1.25, 2.0], [0.25, 1.5, -0.5]]);
        let log = answer_log_probability(&[vec![2, 1]]);
        let value = log.evaluate(0, logits.view()).unwrap();
        assert!((value - VALUE).abs() < 1e-6, "{value}");
        let probability = answer_probability(&[vec![2, 1]]);
        let chance = probability.evaluate(0, logits.view()).unwrap();
        assert!((chance - VALUE.exp()).abs() < 1e-6, "{chance}");
        for (metric, factor) in [(log, 1.0), (probability, VALUE.exp())] {
            let slope = metric.slope(0, logits.view());
            for (found, expected) in slope.iter().zip(SLOPE.as_flattened()) {
                assert!((found - factor * expected).abs() < 1e-6, "{slope}");
            }
        }
        let err = answer_probability(&[vec![1; 4]]).evaluate(0, logits.view());
        let message = err.unwrap_err().to_string();
        assert!(message.contains("3 tokens for an answer of 4"), "{message}");
    }

    const VALUE: f32 = -0.58457385;
    const SLOPE: [[f32; 3]; 3] = [
        [0.00000000, 0.00000000, 0.00000000],
        [-0.17682018, -0.03072674, 0.20754692],
        [-0.20150283, 0.29668602, -0.0951832],
    ];
}
