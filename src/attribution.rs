//! Direct logit attribution: which parts write the answer into the logits?
//!
//! The final residual stream is the sum of what all parts wrote, so with the final LayerNorm's
//! scale *σ* held at the run's, a logit difference is a sum of shares:
//!
//! ```text
//! share(part) = (part - mean(part)) / σ * ln_f.w · (W_U[answer] - W_U[rival])
//! ```
//!
//! (Elhage et al. 2021, "A Mathematical Framework"; TransformerLens's `logit_attrs`.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
//! use patchlens::attribution::{Decomposition, direct_logit_attribution};
//! let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);
//! let shares = direct_logit_attribution(&model, &clean, Decomposition::Heads, &metric)?;
//! println!("{}", shares.top(3));
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** Logits, and the shares add up to the logit difference; a sum that misses
//! it is an error.
//!
//! **What it does not mean.** Only what goes straight to the logits counts: a head that tells later
//! heads where to look has no share. Nothing is changed here, so no share is a cause by itself. More
//! in [the guide](crate::guide::lenses).

mod fine;
mod parts;
mod prompts;

use ndarray::{Array1, Array2, ArrayView2, ArrayView3};

pub use parts::{Decomposition, Part};
pub use prompts::{Attributed, LogitAttribution, direct_logit_attribution};

use crate::cache::{ActivationCache, RunKind, Selection};
use crate::config::Element;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};

/// Direct logit attribution of one prompt's run.
///
/// The contribution of a residual vector `r` at a position is
/// `((r − mean r) / scale ⊙ ln_final.w) · (W_U[:, a] − W_U[:, b])` with the run's own `scale`.
/// It is linear in `r`, so that rows which sum to the residual sum, with the rows
/// `ln_final.bias` and `b_U`, to the true logit difference. Each method that takes the whole
/// residual apart checks this at run time within [`DirectLogitAttribution::TOLERANCE`].
#[derive(Clone, Debug)]
pub struct DirectLogitAttribution<'m> {
    model: &'m Transformer,
    cache: ActivationCache,
    /// The name of the sum of logits.
    unit: String,
    labels: Vec<String>,
    /// `ln_final.w ⊙ W_U · weights`, centred, `[d_model]`: a residual's dot product with it, over
    /// the scale, is its contribution. Without LayerNorm neither weighted nor centred.
    reader: Array1<f64>,
    /// Contributions of `ln_final.bias` and `b_U`.
    constants: [f64; 2],
    /// LayerNorm scales, `[pos]`; 1 in a model without.
    scale: Array1<f64>,
    /// The logits' weighted sum, `[pos]`.
    truth: Array1<f64>,
}

impl<'m> DirectLogitAttribution<'m> {
    /// The sum of the rows and the true value may differ by this much of the sum of the rows'
    /// magnitudes: rounding of f32 along the residual stream.
    pub const TOLERANCE: f64 = 1e-4;

    /// What a run must cache for [`DirectLogitAttribution::from_cache`].
    pub fn selection(model: &Transformer) -> Selection {
        use Site::{AttnOut, MlpOut, MlpPost, Pattern, ResidMid, ResidPost, ResidPre, V, Z};
        let sites = [AttnOut, MlpOut, MlpPost, Pattern, ResidMid, ResidPre, V, Z];
        let last = ResidPost.at(model.config().n_layers - 1);
        Selection::matching(model.config(), |point| match point {
            HookPoint::Block(_, site) => sites.contains(&site) || point == last,
            HookPoint::LnFinalNormalized => false,
            _ => true,
        })
    }

    /// Runs a prompt. The metric is a sum of logits: a logit difference, a
    /// [`logit`](crate::metric::logit), [`logit_sums`](crate::metric::logit_sums).
    ///
    /// # Errors
    /// Same as [`Transformer::run`] and [`DirectLogitAttribution::from_cache`].
    pub fn new(model: &'m Transformer, prompt: &Prompt, metric: &Metric) -> Result<Self> {
        check_prompts(model, std::slice::from_ref(prompt), metric)?;
        Self::of_prompt(model, prompt, metric, 0)
    }

    /// Runs one of the prompts that a metric knows, which have been checked.
    fn of_prompt(
        model: &'m Transformer,
        prompt: &Prompt,
        metric: &Metric,
        index: usize,
    ) -> Result<Self> {
        let (_, cache) = model.run_with_cache(prompt, &Self::selection(model))?;
        let weights = metric.logit_weights(index)?;
        Self::of_cache(model, cache, prompt.labels.clone(), &weights, metric.name())
    }

    /// From a run of this model already made, perhaps under interventions: with all positions, and
    /// the points of [`DirectLogitAttribution::selection`]. `labels` name the positions.
    ///
    /// # Errors
    /// [`Error::NotCached`], [`Error::Provenance`] for a cache of another model or of gradients,
    /// [`Error::Shape`] for a cache of some positions only or another number
    /// of labels, [`Error::OutOfRange`] for a token that the vocabulary lacks, [`Error::Invalid`]
    /// for a metric that is no sum of logits, or has a position of its own.
    pub fn from_cache(
        model: &'m Transformer,
        cache: ActivationCache,
        labels: Vec<String>,
        metric: &Metric,
    ) -> Result<Self> {
        metric.check(&[cache.tokens().len()], model.config().d_logits())?;
        let weights = metric.logit_weights(0)?;
        Self::of_cache(model, cache, labels, &weights, metric.name())
    }

    fn of_cache(
        model: &'m Transformer,
        cache: ActivationCache,
        labels: Vec<String>,
        weights: &[(u32, f32)],
        unit: &str,
    ) -> Result<Self> {
        let kinds = [RunKind::Plain, RunKind::UnderHooks];
        model.check_cache("cache of a direct logit attribution", &cache, &kinds)?;
        let n = cache.tokens().len();
        if !cache.is_whole() || labels.len() != n {
            return Err(Error::Shape {
                at: "direct logit attribution: positions kept, labels".to_string(),
                found: vec![cache.positions().len(), labels.len()],
                expected: format!("{n} each, one per token"),
            });
        }
        let parameters = model.parameters();
        let (w_u, norm) = (parameters.w_u(), &parameters.ln_f);
        let mut unembed = Array1::<f64>::zeros(model.config().d_model);
        let mut b_u = 0.0;
        let mut truth = Array1::<f64>::zeros(n);
        let logits = cache.flat(HookPoint::Logits)?;
        for &(token, weight) in weights {
            let (token, weight) = (token as usize, f64::from(weight));
            unembed.zip_mut_with(&w_u.column(token), |to, v| *to += weight * f64::from(*v));
            truth.zip_mut_with(&logits.column(token), |to, v| *to += weight * f64::from(*v));
            let bias = parameters.lm_head_bias.as_ref();
            b_u += weight * bias.map_or(0.0, |b| f64::from(b[token]));
        }
        let mut reader = unembed.clone();
        let mut norm_bias = 0.0;
        if let Some([weight, bias]) = norm.affine() {
            reader *= &weight.mapv(f64::from);
            norm_bias = bias.mapv(f64::from).dot(&unembed);
        }
        let scale = if model.config().has(Element::Norm) {
            reader -= reader.sum() / reader.len() as f64;
            let scale = cache.flat(HookPoint::LnFinalScale)?;
            scale.column(0).mapv(f64::from)
        } else {
            Array1::ones(n)
        };
        Ok(DirectLogitAttribution {
            constants: [norm_bias, b_u],
            reader,
            scale,
            truth,
            model,
            cache,
            unit: unit.to_string(),
            labels,
        })
    }

    /// The true value at each position, `[pos]`.
    pub fn truth(&self) -> Array1<f32> {
        self.truth.mapv(|v| v as f32)
    }

    /// The contribution of each part at each position, `[component, pos]`, in the order of
    /// [`Decomposition::parts`]. Columns sum to the truth.
    ///
    /// # Errors
    /// [`Error::Invalid`] if they do not, as after an intervention on the sum itself (`resid_pre`,
    /// `ln_final.hook_normalized`, per-head results, logits); [`Error::NotCached`].
    pub fn decompose(&self, by: Decomposition) -> Result<Labelled> {
        let parts = by.parts(self.model.config());
        let rows = self.contributions(&parts)?;
        for (position, truth) in self.truth.iter().enumerate() {
            let column = || rows.iter().map(|row| row[position]);
            let magnitude = column().map(f64::abs).sum();
            let what = format!("components at position {position}");
            check_sum(&what, column().sum(), *truth, magnitude)?;
        }
        let names: Vec<String> = parts.iter().map(ToString::to_string).collect();
        self.labelled(&names, rows, by.describe())
    }

    /// The contribution of the accumulated residual stream at each point, with the final scale:
    /// `[component, pos]`, rows `0_pre`, `0_mid`, `1_pre`, ..., `final_post`, without constants.
    ///
    /// # Errors
    /// [`Error::NotCached`].
    pub fn accumulated(&self) -> Result<Labelled> {
        let n_layers = self.model.config().n_layers;
        let points = HookPoint::residual(self.model.config());
        let rows = points.iter().map(|point| self.at(*point));
        let rows: Vec<Array1<f64>> = rows.collect::<Result<_>>()?;
        let names = points.iter().map(|point| point.residual_name(n_layers));
        self.labelled(
            &names.collect::<Vec<_>>(),
            rows,
            "The accumulated residual stream",
        )
    }

    /// The contributions of any residual vectors, `[component, pos]`, without constants.
    ///
    /// # Shapes
    /// `vectors` `[component, pos, d_model]`, one name per component.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    pub fn attribute(&self, names: &[String], vectors: ArrayView3<'_, f32>) -> Result<Labelled> {
        let expected = (names.len(), self.scale.len(), self.reader.len());
        if vectors.dim() != expected {
            return Err(Error::Shape {
                at: "vectors to attribute logits to".to_string(),
                found: vectors.shape().to_vec(),
                expected: format!("{expected:?}, [name, pos, d_model]"),
            });
        }
        let rows = vectors.outer_iter().map(|row| self.contribution(row));
        let rows = rows.collect::<Result<_>>()?;
        self.labelled(names, rows, "The given vectors")
    }

    /// The contribution of residual vectors `[pos, d_model]`, `[pos]`.
    fn contribution(&self, vectors: ArrayView2<'_, f32>) -> Result<Array1<f64>> {
        Ok(vectors.mapv(f64::from).dot(&self.reader) / &self.scale)
    }

    fn labelled(&self, names: &[String], rows: Vec<Array1<f64>>, what: &str) -> Result<Labelled> {
        let mut values = Array2::zeros((rows.len(), self.scale.len()));
        for (mut to, row) in values.rows_mut().into_iter().zip(&rows) {
            to.zip_mut_with(row, |to, v| *to = *v as f32);
        }
        let axes = vec![
            Axis::new("component", names.iter().cloned()),
            Axis::tokens("position", &self.labels),
        ];
        Labelled::new(values, axes, self.about(what))
    }

    fn about(&self, what: &str) -> About {
        let last = self.truth[self.truth.len() - 1] as f32;
        let name = &self.unit;
        let normed = if self.model.config().has(Element::Norm) {
            ", centred, over the run's final LayerNorm scale"
        } else {
            ""
        };
        let mut about = About {
            title: format!("Direct logit attribution. {what}"),
            caption: format!("{what}{normed}, through W_U to the {name}."),
            unit: name.clone(),
            ..About::default()
        };
        let key = format!("{name} at the last position");
        about.baselines.insert(key, last);
        about
    }

    fn check_position(&self, position: usize) -> Result<()> {
        let n = self.scale.len();
        if position < n {
            return Ok(());
        }
        Err(Error::OutOfRange {
            at: "direct logit attribution".to_string(),
            axis: "pos",
            found: position,
            expected: format!("0..{n}"),
        })
    }
}

/// Checks that each of some prompts can run and has a sum of logits.
fn check_prompts(model: &Transformer, prompts: &[Prompt], metric: &Metric) -> Result<()> {
    model.check_prompts(prompts)?;
    let lengths: Vec<usize> = prompts.iter().map(Prompt::len).collect();
    metric.check(&lengths, model.config().d_logits())?;
    metric.logit_weights(0).map(drop)
}

fn check_sum(what: &str, sum: f64, truth: f64, magnitude: f64) -> Result<()> {
    let bound = DirectLogitAttribution::TOLERANCE * (magnitude + truth.abs());
    if (sum - truth).abs() <= bound {
        return Ok(());
    }
    Err(Error::invalid(
        format!("direct logit attribution: the sum of {what}"),
        sum,
        format!("{truth} ± {bound:e} (was the sum itself intervened on?)"),
    ))
}
