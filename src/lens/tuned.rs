//! The tuned lens: an affine translator per point, fitted and kept in files.

mod file;

use std::collections::BTreeMap;

use nalgebra::DMatrix;
use ndarray::{Array1, Array2, ArrayD, ArrayView2, Axis as Dim};

use super::check_axes;
use crate::cache::Selection;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::hook::{HookPoint, Site};
use crate::limits::{Limits, batches, observe_method};
use crate::model::{KeepLogits, Run, Transformer};
use crate::ops;
use crate::prompt::{IntoPrompts, Prompts};

/// Translators from points of the residual stream to the final one: `r + r·W + b`. With `W` and
/// `b` zero, the tuned lens is the logit lens to the bit.
///
/// In a file (safetensors, F32) each point has two tensors, named by its hook:
/// `blocks.3.hook_resid_pre.weight` `[d_model in, d_model out]` and `blocks.3.hook_resid_pre.bias`
/// `[d_model]`. The `tuned_lens` package has the same form with `W` transposed, for `resid_pre`.
#[derive(Clone, Debug, PartialEq)]
pub struct TunedLens {
    translators: BTreeMap<HookPoint, Translator>,
    /// The model that it was fitted on, if that is known.
    of: Option<Fingerprint>,
}

/// An affine map that is added to its input.
#[derive(Clone, Debug, PartialEq)]
struct Translator {
    /// `[d_model in, d_model out]`
    weight: Array2<f32>,
    bias: Array1<f32>,
}

/// Sums over rows, in f64: what least squares needs of the data.
struct Sums {
    rows: f64,
    x: Array1<f64>,
    y: Array1<f64>,
    /// `[d_model, d_model]` each.
    xx: Array2<f64>,
    xy: Array2<f64>,
}

/// Fits a [`TunedLens`] by least squares: each translator predicts the final residual stream (the
/// last block's `hook_resid_post`) from its point, over all positions of the prompts.
///
/// Minimises `Σ ‖final − (r + r·W + b)‖² + λ‖W‖²` by the normal equations in f64, with `λ` = the
/// ridge × the mean diagonal of the centred `rᵀr`: the ridge draws towards the logit lens. (Belrose
/// et al. 2023, section 3, minimise the KL divergence by gradient descent instead.)
///
/// ```
/// use patchlens::lens::LensFit;
/// use patchlens::{Config, Prompts, Site, Transformer};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let prompts = Prompts::new([[1, 2, 3, 4], [5, 6, 7, 8]])?;
/// let fitted = LensFit::new(&model, &prompts)?.points(&[Site::ResidPre.at(1)]).run(1e-3)?;
/// assert_eq!(fitted.lens.points().count(), 1);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Debug)]
pub struct LensFit<'m> {
    model: &'m Transformer,
    prompts: Prompts,
    points: Vec<HookPoint>,
    limits: Limits<'m>,
}

impl<'m> LensFit<'m> {
    /// A fit at `resid_pre` of every layer, on some prompts.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run.
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        let prompts = prompts.into_prompts()?;
        model.check_prompts(prompts.as_slice())?;
        Ok(LensFit {
            model,
            prompts,
            points: (0..model.config().n_layers)
                .map(|layer| Site::ResidPre.at(layer))
                .collect(),
            limits: Limits::default(),
        })
    }

    /// Fits translators at these points.
    #[must_use]
    pub fn points(mut self, points: &[HookPoint]) -> Self {
        self.points = points.to_vec();
        self
    }

    observe_method!('m);

    /// Runs the prompts, up to 4,096 tokens at a time, and solves. If an observer ends it early, the
    /// lens is that of the prompts seen by then.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a layer that the model lacks; [`Error::Invalid`] for a point with
    /// axes other than `[pos, d_model]`, and for a ridge that is negative or not finite, or too
    /// small for the data (fewer independent rows than `d_model` need one above 0).
    pub fn run(&self, ridge: f64) -> Result<FittedLens> {
        let config = self.model.config();
        check_points(config, &self.points)?;
        if !(ridge.is_finite() && ridge >= 0.0) {
            return Err(Error::invalid("ridge", ridge, "a finite number from 0 on"));
        }
        let last = Site::ResidPost.at(config.n_layers - 1);
        let selection = Selection::points(self.points.iter().copied().chain([last]));
        let mut sums: Vec<Sums> = self
            .points
            .iter()
            .map(|_| Sums::new(config.d_model))
            .collect();
        let run = Run {
            cache: Some(&selection),
            logits: KeepLogits::None,
            ..Run::default()
        };
        let mut done = 0;
        for batch in batches(self.prompts.as_slice()) {
            for cache in self.model.run(batch, (), &run)?.caches {
                let truth = cache.flat(last)?;
                for (sums, point) in sums.iter_mut().zip(&self.points) {
                    sums.add(cache.flat(*point)?, truth);
                }
            }
            done += batch.len();
            if self
                .limits
                .report(done, self.prompts.len(), "prompts")
                .is_break()
            {
                break;
            }
        }
        let fitted = self.points.iter().zip(&sums);
        let fitted = fitted.map(|(point, sums)| Ok((*point, sums.solve(*point, ridge)?)));
        let translators = fitted.collect::<Result<_>>()?;
        Ok(FittedLens {
            lens: TunedLens {
                translators,
                of: Some(self.model.fingerprint()),
            },
            prompts: done,
            partial: done < self.prompts.len(),
        })
    }
}

/// What a [`LensFit`] found.
#[derive(Clone, Debug, PartialEq)]
pub struct FittedLens {
    /// The translators.
    pub lens: TunedLens,
    /// The number of prompts that they are fitted on.
    pub prompts: usize,
    /// Whether the observer ended the fit before all prompts were seen.
    pub partial: bool,
}

impl TunedLens {
    /// Translators that change nothing.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a layer that the model lacks, [`Error::Invalid`] for a point with
    /// axes other than `[pos, d_model]`.
    pub fn identity(config: &Config, points: &[HookPoint]) -> Result<Self> {
        check_points(config, points)?;
        let d = config.d_model;
        let zero = Translator {
            weight: Array2::zeros((d, d)),
            bias: Array1::zeros(d),
        };
        let translators = points.iter().map(|point| (*point, zero.clone()));
        Ok(TunedLens {
            translators: translators.collect(),
            of: None,
        })
    }

    /// The points with a translator, in order of execution.
    pub fn points(&self) -> impl Iterator<Item = HookPoint> {
        self.translators.keys().copied()
    }

    /// A point's weight `[d_model in, d_model out]` and bias `[d_model]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a point without translator.
    pub fn get(&self, point: HookPoint) -> Result<(&Array2<f32>, &Array1<f32>)> {
        match self.translators.get(&point) {
            Some(translator) => Ok((&translator.weight, &translator.bias)),
            None => {
                let points: Vec<String> = self.points().map(|p| p.to_string()).collect();
                let what = "point without translator in the tuned lens";
                Err(Error::invalid(
                    what,
                    point,
                    format!("one of {}", points.join(", ")),
                ))
            }
        }
    }

    /// Lets it be used on another model than that which it was fitted on, such as a fine-tuned one.
    #[must_use]
    pub fn of_other_model(mut self) -> Self {
        self.of = None;
        self
    }

    /// Checks that the translators are for this model, or, if that is not known, for one of its
    /// shape.
    pub(super) fn check(&self, model: &Transformer) -> Result<()> {
        if let Some(of) = self.of.filter(|of| *of != model.fingerprint()) {
            return Err(Error::Provenance {
                at: "tuned lens".to_string(),
                found: format!("one of model {of}"),
                expected: format!(
                    "one of this model, {}, unless it is taken `of_other_model`",
                    model.fingerprint()
                ),
            });
        }
        let config = model.config();
        for (point, translator) in &self.translators {
            point.check(config)?;
            let d = config.d_model;
            if translator.weight.dim() != (d, d) {
                return Err(Error::Shape {
                    at: format!("tuned lens at `{point}` (is it for another model?)"),
                    found: translator.weight.shape().to_vec(),
                    expected: format!("[{d}, {d}], the model's d_model"),
                });
            }
        }
        Ok(())
    }

    /// `r + r·W + b` for rows `[pos, d_model]`.
    pub(super) fn translate(
        &self,
        point: HookPoint,
        residual: ArrayView2<'_, f32>,
    ) -> Result<Array2<f32>> {
        let (weight, bias) = self.get(point)?;
        Ok(ops::linear(residual, weight.view(), Some(bias.view())) + residual)
    }
}

impl Translator {
    /// From arrays of checked shapes.
    fn from_dyn(weight: ArrayD<f32>, bias: ArrayD<f32>) -> Self {
        let checked = "`take` has checked the number of axes";
        Translator {
            weight: weight.into_dimensionality().expect(checked),
            bias: bias.into_dimensionality().expect(checked),
        }
    }
}

impl Sums {
    fn new(d: usize) -> Self {
        Sums {
            rows: 0.0,
            x: Array1::zeros(d),
            y: Array1::zeros(d),
            xx: Array2::zeros((d, d)),
            xy: Array2::zeros((d, d)),
        }
    }

    /// Adds rows `[pos, d_model]` and what is to be predicted from them; the target is their
    /// difference.
    fn add(&mut self, residual: ArrayView2<'_, f32>, truth: ArrayView2<'_, f32>) {
        let x = residual.mapv(f64::from);
        let y = truth.mapv(f64::from) - &x;
        self.rows += x.nrows() as f64;
        self.x += &x.sum_axis(Dim(0));
        self.y += &y.sum_axis(Dim(0));
        self.xx += &x.t().dot(&x);
        self.xy += &x.t().dot(&y);
    }

    fn solve(&self, point: HookPoint, ridge: f64) -> Result<Translator> {
        let d = self.x.len();
        let (x, y) = (&self.x / self.rows, &self.y / self.rows);
        let outer = |i: usize, sums: &Array1<f64>, j: usize| self.x[i] * sums[j] / self.rows;
        let mut xx = DMatrix::from_fn(d, d, |i, j| self.xx[[i, j]] - outer(i, &self.x, j));
        let xy = DMatrix::from_fn(d, d, |i, j| self.xy[[i, j]] - outer(i, &self.y, j));
        let lambda = ridge * xx.trace() / d as f64;
        for i in 0..d {
            xx[(i, i)] += lambda;
        }
        let Some(cholesky) = xx.cholesky() else {
            let what = format!("ridge of the tuned lens at `{point}`");
            let expected = format!("a larger one, or more than {} tokens", self.rows);
            return Err(Error::invalid(what, ridge, expected));
        };
        let weight = cholesky.solve(&xy);
        let weight = Array2::from_shape_fn((d, d), |(i, j)| weight[(i, j)]);
        Ok(Translator {
            bias: (y - x.dot(&weight)).mapv(|v| v as f32),
            weight: weight.mapv(|v| v as f32),
        })
    }
}

fn check_points(config: &Config, points: &[HookPoint]) -> Result<()> {
    if points.is_empty() {
        return Err(Error::invalid("points of a tuned lens", 0, "at least one"));
    }
    points.iter().try_for_each(|point| {
        point.check(config)?;
        check_axes(*point)
    })
}
