//! Gradients: in which direction would an activation have to move to change the answer?
//!
//! ```text
//! g = dm/dx    for any scalar m of the logits, at every hook point x, and for all parameters
//! ```
//!
//! The forward is [`Transformer::run`], asked to keep what the backward pass reads; there is no
//! second copy of it. Each op's backward stands beside its forward in [`ops`].
//! (Rumelhart et al. 1986; attribution by gradients: [`patching`](crate::patching) and
//! [`circuits`](crate::circuits).)
//!
//! ```
//! use patchlens::gradient::Backward;
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let prompt = tokenizer.encode("Ada Brown plays the sport of")?;
//! let metric = logit_diff(tokenizer.token(" golf")?, tokenizer.token(" rugby")?);
//! let points = Selection::points([Site::ResidPost.at(0)]);
//! let want = Backward { gradients: Some(&points), ..Backward::default() };
//! let result = model.gradients(&prompt, (), metric, &want)?;
//! println!("{:.3}", result.gradients[0].get(Site::ResidPost.at(0))?); // [pos, d_model]
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** A small change `d` of the activation changes the metric by about
//! `g · d`, everything downstream recomputed.
//!
//! **What it does not mean.** That a large change does the same: a saturated softmax, or a metric
//! at its limit, has gradients near 0 where a patch changes everything. A large gradient says
//! nothing about what the activation holds now.

mod attention;
mod objective;
mod reverse;
mod split;
mod tape;

use ndarray::{Array2, Axis, concatenate};
use rayon::prelude::*;

pub use objective::{Objective, cross_entropy};

use crate::cache::{ActivationCache, Selection};
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::model::lane::Lane;
use crate::model::{BlockedRows, Hooks, Logits, Run, RunShape, Transformer, check_selection};
use crate::ops;
use crate::parameters::Parameters;
use crate::prompt::Prompt;
use reverse::Reverse;

/// What a backward pass is to give.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backward<'s> {
    /// Points whose gradients are wanted. Those upstream of the first one cost nothing.
    pub gradients: Option<&'s Selection>,
    /// Activations of the same run to keep.
    pub activations: Option<&'s Selection>,
    /// Whether the gradient of the parameters is wanted.
    pub parameters: bool,
    /// What counts as a constant: `hook_attn_out` and `hook_mlp_out` of some layers. Nothing flows
    /// through these points to what they are computed from; their own gradients stay.
    pub constant: &'s [HookPoint],
}

/// What a backward pass returns.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// The objective, one value per prompt.
    pub values: Vec<f64>,
    /// One cache per prompt: the gradient of *its* value at the points asked for, in the shapes of
    /// the activations. Empty unless [`Backward::gradients`] asked for it.
    pub gradients: Vec<ActivationCache>,
    /// One cache per prompt; empty unless [`Backward::activations`] asked for it.
    pub activations: Vec<ActivationCache>,
    /// The gradient of the *sum* of all values, if [`Backward::parameters`] asked for it. Where
    /// embedding and unembedding are tied, `wte` has the sum of both uses.
    pub parameters: Option<Parameters>,
}

impl Transformer {
    /// Runs prompts forward under hooks, asks `objective` for a scalar of each one's logits, and
    /// goes back.
    ///
    /// The objective is a [`Metric`](crate::Metric), [`cross_entropy`], or a closure that gets the
    /// prompt's index and its logits `[pos, d_vocab]`, and returns its value and the value's
    /// gradient at the logits, in their shape. It may be called on several threads at once.
    ///
    /// Conventions: a gradient is that of what downstream computation read at the point, so what
    /// a hook changed counts as an added constant. LayerNorm is computed once for queries, keys
    /// and values, hence the gradient at its points is the sum over the three. At `hook_q_input`
    /// and the like stands the gradient through that reader and head alone, at `hook_attn_in` the
    /// sum over the three readers. What a hook has changed there goes through a LayerNorm of its
    /// own, hence has no part in the gradient at the points of the shared one. At masked scores the
    /// gradient is 0; where a hook has set such a score to a number, gradients at that row's query
    /// and the later key take that number for `q·k`, and are not to be relied on.
    ///
    /// A prompt's gradients have the bits that they would have alone, whatever the number of
    /// threads; those of the parameters depend on the batch and its order, not on the threads.
    ///
    /// ```
    /// use ndarray::{Array2, ArrayView2};
    /// use patchlens::{Config, Prompt, Selection, Site, Transformer, logit_diff};
    /// use patchlens::gradient::Backward;
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// let points = Selection::points([Site::Z.at(0), Site::ResidPost.at(1)]);
    /// let want = Backward { gradients: Some(&points), ..Backward::default() };
    /// let prompt = Prompt::from([1, 2, 3]);
    /// let result = model.gradients(&prompt, (), logit_diff(3, 5), &want)?;
    /// assert_eq!(result.gradients[0].get(Site::Z.at(0))?.shape(), [3, 2, 4]); // [pos, head, d_head]
    /// // The same, written as a closure.
    /// let difference = |_prompt: usize, logits: ArrayView2<'_, f32>| {
    ///     let last = logits.nrows() - 1;
    ///     let mut gradient = Array2::zeros(logits.dim());
    ///     gradient[[last, 3]] = 1.0;
    ///     gradient[[last, 5]] = -1.0;
    ///     (f64::from(logits[[last, 3]] - logits[[last, 5]]), gradient)
    /// };
    /// assert_eq!(model.gradients(&prompt, (), difference, &want)?.values, result.values);
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// Same as [`Transformer::run`], before anything is computed; also for points and positions
    /// whose gradient is asked for. [`Error::Invalid`] for hooks at the split inputs (`hook_attn_in`,
    /// `hook_q_input`, `hook_k_input`, `hook_v_input`) where the gradient of the parameters is
    /// wanted, for other constant points than [`Backward::constant`] names, and for a metric
    /// without gradient (a rank, a closure) or that does not fit the prompts.
    /// After the forward pass, [`Error::Invalid`] for an objective that is not finite, for gradients
    /// that are not numbers because a hook wrote such queries or keys into rows of attention which
    /// have nothing to attend to, and
    /// [`Error::Shape`] for a gradient of another shape than the logits'.
    pub fn gradients<H: Hooks>(
        &self,
        prompts: &(impl AsRef<[Prompt]> + ?Sized),
        mut hooks: H,
        objective: impl Objective,
        want: &Backward<'_>,
    ) -> Result<Gradients> {
        let prompts = prompts.as_ref();
        self.check_prompts(prompts)?;
        let shape = RunShape::whole(self, prompts.iter().map(Prompt::len).collect());
        for selection in [want.gradients, want.activations].into_iter().flatten() {
            check_selection(&shape, selection)?;
        }
        objective.begin(&shape, prompts)?;
        hooks.begin(&shape)?;
        let hooked = |point| (0..prompts.len()).any(|i| hooks.wants(point, i));
        if want.parameters {
            self.check_split_inputs(hooked)?;
        }
        check_constant(&shape, want.constant)?;
        let mut tape = tape::points(self.config(), want, hooked);
        tape.extend(want.activations.into_iter().flat_map(Selection::iter));
        let run = Run {
            cache: Some(&tape),
            ..Run::default()
        };
        let output = self.run_begun(prompts, &mut hooks, &run);
        if want.gradients.or(want.activations).is_some() {
            // The caches leave, and may outlive the model.
            self.fingerprint();
        }
        let (values, logits) = evaluate(&output.logits, &objective)?;

        let lanes: Vec<Lane<'_>> = prompts
            .iter()
            .map(|prompt| Lane::full(&prompt.tokens, Vec::new()))
            .collect();
        let reverse = Reverse::new(self, &lanes, &output.caches, want);
        let (gradients, parameters) = ops::on_pool(|| reverse.run(logits));
        if output.blocked.rows > 0 {
            check_numbers(&gradients, output.blocked)?;
        }
        let activations = want.activations.map_or_else(Vec::new, |selection| {
            let caches = output.caches.iter().enumerate();
            caches
                .map(|(i, cache)| cache.narrowed(selection, i))
                .collect()
        });
        Ok(Gradients {
            values,
            gradients,
            activations,
            parameters,
        })
    }

    fn check_split_inputs(&self, hooked: impl Fn(HookPoint) -> bool) -> Result<()> {
        let layers = 0..self.config().n_layers;
        let mut points = layers.flat_map(|layer| tape::SPLIT_INPUTS.map(|site| site.at(layer)));
        match points.find(|point| hooked(*point)) {
            None => Ok(()),
            Some(point) => Err(Error::invalid(
                "hooks of a run with gradients of the parameters",
                format!("a hook at `{point}`"),
                "hooks at other points than the inputs split by head",
            )),
        }
    }
}

fn check_constant(shape: &RunShape<'_>, points: &[HookPoint]) -> Result<()> {
    for point in points {
        shape.check_point(*point)?;
        if !matches!(point, HookPoint::Block(_, Site::AttnOut | Site::MlpOut)) {
            return Err(Error::invalid(
                "constant point",
                format!("`{point}`"),
                "`hook_attn_out` or `hook_mlp_out` of a layer",
            ));
        }
    }
    Ok(())
}

/// The objective of each prompt, and its gradient at the logits of all, one above another.
fn evaluate(logits: &Logits, objective: &impl Objective) -> Result<(Vec<f64>, Array2<f32>)> {
    let each: Vec<Result<(f64, Array2<f32>)>> = (0..logits.len())
        .into_par_iter()
        .map(|i| objective.at(i, logits.get(i)))
        .collect();
    let each = each.into_iter().collect::<Result<Vec<_>>>()?;
    for (i, (value, gradient)) in each.iter().enumerate() {
        check_objective(i, *value, gradient, logits.get(i).dim())?;
    }
    let gradients: Vec<_> = each.iter().map(|(_, gradient)| gradient.view()).collect();
    let stacked =
        concatenate(Axis(0), &gradients).expect("there are prompts, and widths were compared");
    Ok((each.iter().map(|(value, _)| *value).collect(), stacked))
}

fn check_objective(
    prompt: usize,
    value: f64,
    gradient: &Array2<f32>,
    (rows, width): (usize, usize),
) -> Result<()> {
    if !value.is_finite() {
        let what = format!("objective of prompt {prompt}");
        return Err(Error::invalid(what, value, "a finite number"));
    }
    let at = format!("gradient at the logits of prompt {prompt}");
    if gradient.dim() != (rows, width) {
        return Err(Error::Shape {
            at,
            found: gradient.shape().to_vec(),
            expected: format!("[{rows}, {width}], the logits' shape"),
        });
    }
    match gradient.iter().find(|g| !g.is_finite()) {
        Some(found) => Err(Error::invalid(at, found, "finite numbers")),
        None => Ok(()),
    }
}

/// Checks gradients of a run with rows of attention that were blocked whole: these leave no trace in
/// the logits, but a query there that is no number would be multiplied by zeros.
fn check_numbers(gradients: &[ActivationCache], blocked: BlockedRows) -> Result<()> {
    for cache in gradients {
        for point in cache.points() {
            if cache.get(point)?.iter().any(|v| v.is_nan()) {
                let found = format!("NaN; {blocked}");
                let expected = "numbers: queries and keys that are, or no such rows";
                return Err(Error::invalid(
                    format!("gradient at `{point}`"),
                    found,
                    expected,
                ));
            }
        }
    }
    Ok(())
}
