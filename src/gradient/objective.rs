//! Objectives for [`Transformer::gradients`](crate::Transformer::gradients).

use ndarray::{Array2, ArrayView2};

use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::model::RunShape;
use crate::ops;
use crate::prompt::Prompt;

/// What a backward pass starts from: a number read off each prompt's logits `[pos, d_vocab]`, and
/// its gradient there. A [`Metric`] is one, such as `&logit_diff(3, 5)`, and so is a closure
/// `|prompt: usize, logits: ArrayView2<'_, f32>|` that returns both; [`cross_entropy`] makes one.
pub trait Objective: Sync {
    /// Called once before the run: checks that there is a value for each prompt, and a gradient.
    ///
    /// # Errors
    /// Says for which prompt there is none, and why.
    fn begin(&self, _run: &RunShape<'_>, _prompts: &[Prompt]) -> Result<()> {
        Ok(())
    }

    /// The value of a prompt's logits `[pos, d_vocab]`, and the value's gradient, in their shape.
    /// It may be called on several threads at once.
    ///
    /// # Errors
    /// For logits that it does not fit.
    fn at(&self, prompt: usize, logits: ArrayView2<'_, f32>) -> Result<(f64, Array2<f32>)>;
}

impl<F> Objective for F
where
    F: Fn(usize, ArrayView2<'_, f32>) -> (f64, Array2<f32>) + Sync,
{
    fn at(&self, prompt: usize, logits: ArrayView2<'_, f32>) -> Result<(f64, Array2<f32>)> {
        Ok(self(prompt, logits))
    }
}

/// Its gradient is exact; that of a largest logit (`Reduce::Max`) is shared by equal ones. A rank
/// and a closure have none, which is an error.
impl Objective for Metric {
    fn begin(&self, run: &RunShape<'_>, prompts: &[Prompt]) -> Result<()> {
        self.check_gradient()?;
        self.check_attention(run.config)?;
        self.check(&run.lengths, run.config.d_logits())?;
        self.check_prompts(prompts)
    }

    fn at(&self, prompt: usize, logits: ArrayView2<'_, f32>) -> Result<(f64, Array2<f32>)> {
        self.check_gradient()?;
        let value = self.evaluate(prompt, logits)?;
        Ok((f64::from(value), self.slope(prompt, logits)))
    }
}

/// Same as that of the metric.
impl Objective for &Metric {
    fn begin(&self, run: &RunShape<'_>, prompts: &[Prompt]) -> Result<()> {
        Objective::begin(*self, run, prompts)
    }

    fn at(&self, prompt: usize, logits: ArrayView2<'_, f32>) -> Result<(f64, Array2<f32>)> {
        Objective::at(*self, prompt, logits)
    }
}

/// Weighted next-token loss: prompt `i` has the value
/// `Σ_pos weights[i][pos] · -log p(tokens[pos + 1])`, in nats.
///
/// It is for these prompts: for others (of another number or length) it is NaN, hence an error.
///
/// The mean loss of a prompt of `n` tokens is that with all weights `1 / (n - 1)`.
///
/// ```
/// use patchlens::{Config, Prompts, Transformer};
/// use patchlens::gradient::{Backward, cross_entropy};
/// let config = Config { n_layers: 1, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = Prompts::new([vec![1, 2, 3], vec![4, 5]])?;
/// let weights = [vec![0.5, 0.5], vec![1.0]];
/// let loss = cross_entropy(&prompts, &weights)?;
/// let want = Backward { parameters: true, ..Backward::default() };
/// let result = model.gradients(&prompts, (), loss, &want)?;
/// assert!((result.values[0] - 11.0_f64.ln()).abs() < 0.1); // an untrained model knows nothing
/// assert_eq!(result.parameters.unwrap().wte.shape(), [11, 8]);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// [`Error::Shape`] unless there is one list of weights per prompt, each one shorter than the
/// prompt; [`Error::Invalid`] for a weight that is not finite.
pub fn cross_entropy<'a>(
    prompts: &'a (impl AsRef<[Prompt]> + ?Sized),
    weights: &'a [Vec<f32>],
) -> Result<impl Fn(usize, ArrayView2<'_, f32>) -> (f64, Array2<f32>) + Sync + 'a> {
    let prompts = prompts.as_ref();
    if prompts.len() != weights.len() {
        return Err(Error::Shape {
            at: "weights of the loss".to_string(),
            found: vec![weights.len()],
            expected: format!("[{}], the number of prompts", prompts.len()),
        });
    }
    for (i, (prompt, weights)) in prompts.iter().zip(weights).enumerate() {
        let at = format!("weights of the loss of prompt {i}");
        if weights.len() + 1 != prompt.len() {
            return Err(Error::Shape {
                at,
                found: vec![weights.len()],
                expected: format!("[{}], one less than tokens", prompt.len().saturating_sub(1)),
            });
        }
        if let Some(weight) = weights.iter().find(|w| !w.is_finite()) {
            return Err(Error::invalid(at, weight, "finite numbers"));
        }
    }
    Ok(move |i: usize, logits: ArrayView2<'_, f32>| {
        let fits = |prompt: &&Prompt| {
            let known = |token: &u32| (*token as usize) < logits.ncols();
            prompt.len() == logits.nrows() && prompt.tokens.iter().all(known)
        };
        match prompts.get(i).filter(fits) {
            Some(prompt) => weighted_loss(&prompt.tokens[1..], &weights[i], logits),
            None => (f64::NAN, Array2::zeros(logits.dim())),
        }
    })
}

/// The value, and its gradient at the logits: `weight * (softmax - one-hot)` row by row.
fn weighted_loss(
    targets: &[u32],
    weights: &[f32],
    logits: ArrayView2<'_, f32>,
) -> (f64, Array2<f32>) {
    let mut value = 0.0;
    let mut gradient = Array2::zeros(logits.dim());
    for (pos, (target, weight)) in targets.iter().zip(weights).enumerate() {
        if *weight == 0.0 {
            continue;
        }
        let mut row = gradient.row_mut(pos);
        row.assign(&logits.row(pos));
        if let Some(row) = row.as_slice_mut() {
            let target = *target as usize;
            value += f64::from(*weight) * ops::softmax_and_loss(row, target);
            row[target] -= 1.0;
            row.iter_mut().for_each(|v| *v *= weight);
        }
    }
    (value, gradient)
}
