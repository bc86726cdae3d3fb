//! Steering: which direction in the residual stream makes the model say something else?
//!
//! ```text
//! direction = mean(stream on prompts with the property) - mean(stream on prompts without)
//! steered stream = stream + scale * direction
//! ```
//!
//! (Activation addition, Turner et al. 2023; difference of means, Marks & Tegmark 2023;
//! Panickssery et al. 2023.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let prompts = |texts: [&str; 2]| texts.map(|text| tokenizer.encode(text).unwrap());
//! let (yes, no) = (prompts(["When Mary", "While Mary"]), prompts(["When John", "While John"]));
//! let point = Site::ResidPost.at(1);
//! let steering = Steering::difference_of_means(&model, &yes, &no, &[point], Select::Last)?;
//! println!("{}", steering.interventions(2.0)?.len());
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** The metric at each scale; 0 is the model as it is.
//!
//! **What it does not mean.** A direction that works when added need not be one that the model
//! uses. Far outside of what it has seen, everything changes: look at the text, too.

use ndarray::{Array1, ArrayD, Axis as Dim};

use crate::base::Base;
use crate::cache::Selection;
use crate::effects::Measured;
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint};
use crate::intervention::{Edit, Intervention, Select, Target, Values};
use crate::limits::{Limits, batches, limits_methods};
use crate::metric::{Baseline, Metric};
use crate::model::{KeepLogits, Run, Transformer};
use crate::prompt::{IntoPrompts, Prompt};
use crate::report::{About, Absent, Axis, Labelled};
use crate::statistics;
use crate::sweep::{Cell, Plan, Sweep, SweepResult};

/// A direction for each of some points, and the positions where it is added.
///
/// ```
/// use patchlens::{Config, Interventions, Prompt, Select, Site, Transformer};
/// use patchlens::generate::Generation;
/// use patchlens::steering::{DoseResponse, Steering};
/// use patchlens::logit_diff;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (yes, no) = (Prompt::from([1, 2, 3]), Prompt::from([4, 5, 3]));
/// let points = [Site::ResidPost.at(0)];
/// let steering = Steering::difference_of_means(&model, &yes, &no, &points, Select::Last)?;
///
/// let doses = DoseResponse::new(&model, &no, &steering)?;
/// let found = doses.run(&[-1.0, 0.0, 1.0], &logit_diff(6, 7))?;
/// println!("{}", found.effect.curves()?);
///
/// let mut hooks = Interventions::new(steering.interventions(2.0)?);
/// let text = model.generate(&no, &mut hooks, &Generation::greedy(3))?;
/// assert_eq!(hooks.receipt().fired[0].times, 3); // once per step
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Steering {
    /// Where which direction is added, `[d_model]` each, in units of the activation.
    pub directions: Vec<(HookPoint, Array1<f32>)>,
    /// Positions where it is added; by default all, generated ones included.
    pub positions: Select,
}

/// A study of doses: a metric while a multiple of the directions is added.
#[derive(Clone, Debug)]
pub struct DoseResponse<'m> {
    base: Base<'m>,
    steering: Steering,
    by_point: bool,
    limits: Limits<'m>,
}

/// What a study of doses found.
#[derive(Clone, Debug)]
pub struct DoseEffects {
    /// By how much each dose changes the metric of the unsteered runs: mean over the prompts, with
    /// standard errors where there are several, `[scale]` or `[point, scale]`.
    /// [`Labelled::curves`] draws it.
    pub effect: Labelled,
    /// The change for each prompt; the last axis is the prompt.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each steered run; the last axis is the prompt.
    pub values: ArrayD<f32>,
    /// The metric of each unsteered run, `[prompt]`.
    pub unsteered: Array1<f32>,
    /// What was planned (and done, unless the result is partial).
    pub plan: Plan,
    raw: Labelled,
}

impl DoseEffects {
    /// The metric of the steered runs itself, mean over the prompts.
    pub fn raw(&self) -> &Labelled {
        &self.raw
    }
}

impl Steering {
    /// A given direction at each of some points `[pos, d_model]`, at all positions.
    ///
    /// # Errors
    /// [`Error::Invalid`] without points, for a point with other axes, and for a direction that is
    /// zero or not finite.
    pub fn new(directions: Vec<(HookPoint, Array1<f32>)>) -> Result<Self> {
        check_points(directions.iter().map(|(point, _)| *point))?;
        for (point, direction) in &directions {
            let length = direction.dot(direction).sqrt();
            if !(length.is_finite() && length > 0.0) {
                let what = format!("length of the steering direction at {point}");
                return Err(Error::invalid(what, length, "a finite number above 0"));
            }
        }
        Ok(Steering {
            directions,
            positions: Select::All,
        })
    }

    /// The mean activation over `positive` prompts minus that over `negative` ones, at each point
    /// on its own. `read` picks the positions of each prompt that are averaged over; every prompt
    /// counts the same, whatever its length. Scale 1 moves one mean onto the other.
    ///
    /// # Errors
    /// Same as [`Transformer::run`] and [`Steering::new`]; [`Error::OutOfRange`] if a prompt lacks a
    /// position.
    pub fn difference_of_means(
        model: &Transformer,
        positive: &(impl AsRef<[Prompt]> + ?Sized),
        negative: &(impl AsRef<[Prompt]> + ?Sized),
        points: &[HookPoint],
        read: Select,
    ) -> Result<Self> {
        check_points(points.iter().copied())?;
        let sides = [positive.as_ref(), negative.as_ref()];
        for prompts in sides {
            check_read(model, prompts, &read)?;
        }
        let [positive, negative] = sides.map(|prompts| means(model, prompts, points, &read));
        let differences = positive?.into_iter().zip(negative?).map(|(a, b)| a - b);
        let differences = differences.map(|d| d.mapv(|v| v as f32));
        Self::new(points.iter().copied().zip(differences).collect())
    }

    /// Adds it at these positions only.
    #[must_use]
    pub fn at_positions(mut self, positions: impl Into<Select>) -> Self {
        self.positions = positions.into();
        self
    }

    /// `scale` times the direction, added at every point: for runs, sweeps and
    /// [`Transformer::generate`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for a scale that is not finite.
    pub fn interventions(&self, scale: f32) -> Result<Vec<Intervention>> {
        self.dose(&self.directions, scale)
    }

    /// The same with some of the directions.
    fn dose(
        &self,
        directions: &[(HookPoint, Array1<f32>)],
        scale: f32,
    ) -> Result<Vec<Intervention>> {
        let pairs = directions.iter();
        pairs
            .map(|(point, direction)| self.intervention(*point, direction, scale))
            .collect()
    }

    fn intervention(
        &self,
        point: HookPoint,
        direction: &Array1<f32>,
        scale: f32,
    ) -> Result<Intervention> {
        if !scale.is_finite() {
            return Err(Error::invalid("steering scale", scale, "a finite number"));
        }
        let target = Target {
            positions: self.positions.clone(),
            ..Target::new(point)
        };
        Ok(Intervention::new(
            target,
            Edit::Add(Values::array(direction * scale)),
        ))
    }
}

impl<'m> DoseResponse<'m> {
    /// A study of some prompts, with a copy of the directions.
    ///
    /// # Errors
    /// Same as [`Base::new`].
    pub fn new(
        model: &'m Transformer,
        prompts: impl IntoPrompts,
        steering: &Steering,
    ) -> Result<Self> {
        Ok(Self::over(&Base::new(model, prompts)?, steering))
    }

    /// A study of base runs, which other studies may share.
    pub fn over(base: &Base<'m>, steering: &Steering) -> Self {
        DoseResponse {
            base: base.clone(),
            steering: steering.clone(),
            by_point: false,
            limits: Limits::default(),
        }
    }

    /// Whether each point is steered alone: `[point, scale]`. By default, all are at once:
    /// `[scale]`.
    #[must_use]
    pub fn by_point(mut self, by_point: bool) -> Self {
        self.by_point = by_point;
        self
    }

    limits_methods!('m);

    /// Measures each scale.
    ///
    /// # Errors
    /// [`Error::Invalid`] without scales and for one that is not finite; else same as
    /// [`Sweep::prepare`].
    pub fn run(&self, scales: &[f32], metric: &Metric) -> Result<DoseEffects> {
        if scales.is_empty() {
            return Err(Error::invalid("steering scales", 0, "at least one"));
        }
        let all = &self.steering.directions;
        let groups = if self.by_point {
            all.chunks(1).collect()
        } else {
            vec![&all[..]]
        };
        let doses = groups.into_iter().flat_map(|group| {
            let dose = |scale: &f32| self.steering.dose(group, *scale);
            scales.iter().map(dose)
        });
        let cells: Vec<Cell> = doses.collect::<Result<_>>()?;
        let metric = self.base.refer_within(metric, self.limits.room(0))?;
        let result = Sweep::limited(&self.base, self.limits.clone()).run(&cells, &metric)?;
        let mut axes = vec![Axis::numbers("scale", scales)];
        if self.by_point {
            axes.insert(
                0,
                Axis::new("point", all.iter().map(|(at, _)| at.to_string())),
            );
        }
        let about = self.about(&metric, &result);
        let measured = Measured {
            absent: Absent::not_run(&result.finished).collect(),
            values: result.values,
            base: result.base.clone(),
            axes,
        };
        let found = measured.label(about, "unsteered run")?;
        Ok(DoseEffects {
            effect: found.effect,
            per_prompt: found.per_prompt,
            values: found.values,
            unsteered: result.base,
            plan: result.plan,
            raw: found.raw,
        })
    }

    fn about(&self, metric: &Metric, result: &SweepResult) -> About {
        let prompts = result.base.len();
        let counts = [
            ("prompts", prompts as u64),
            (About::MULTIPLY_ADDS, result.multiply_adds),
            (About::FULL_PASSES, result.plan.naive_multiply_adds),
        ];
        let unsteered = statistics::mean(result.base.iter().copied());
        let base = Baseline {
            name: "unsteered",
            values: &result.base,
        };
        About {
            title: "Steering: dose and response".to_string(),
            caption: format!(
                "Mean over {prompts} prompts while scale × direction is added to the activation \
                 at {}.",
                match &self.steering.positions {
                    Select::All => "all positions".to_string(),
                    some => format!("pos {some}"),
                },
            ),
            unit: metric.name().to_string(),
            baselines: [("unsteered".to_string(), unsteered)].into(),
            notes: [metric.notes(base, None), result.notes(base.name).collect()].concat(),
            counts: counts.map(|(name, n)| (name.to_string(), n)).into(),
            partial: result.partial,
            ..About::default()
        }
    }
}

fn check_points(points: impl ExactSizeIterator<Item = HookPoint>) -> Result<()> {
    if points.len() == 0 {
        return Err(Error::invalid("steering points", 0, "at least one"));
    }
    for point in points {
        point.axes().expect(Axes::Model, "steering point", &point)?;
    }
    Ok(())
}

/// Checks prompts, and that each has the positions that are read.
fn check_read(model: &Transformer, prompts: &[Prompt], read: &Select) -> Result<()> {
    model.check_prompts(prompts)?;
    for (i, prompt) in prompts.iter().enumerate() {
        let at = format!("positions to average over in prompt {i}");
        read.check_prompts(&at, "pos", prompts.len())?;
        read.check(&at, "pos", i, prompt.len())?;
    }
    Ok(())
}

/// The mean activation over prompts at each point, `[d_model]`.
fn means(
    model: &Transformer,
    prompts: &[Prompt],
    points: &[HookPoint],
    read: &Select,
) -> Result<Vec<Array1<f64>>> {
    let selection = Selection::points(points.iter().copied());
    let run = Run {
        cache: Some(&selection),
        logits: KeepLogits::None,
        ..Run::default()
    };
    let mut sums = vec![Array1::<f64>::zeros(model.config().d_model); points.len()];
    let mut i = 0;
    for batch in batches(prompts) {
        for cache in model.run(batch, (), &run)?.caches {
            let rows = read.resolve(i, cache.tokens().len());
            for (sum, point) in sums.iter_mut().zip(points) {
                let picked = cache.flat(*point)?.select(Dim(0), &rows).mapv(f64::from);
                *sum += &(picked.sum_axis(Dim(0)) / (rows.len() * prompts.len()) as f64);
            }
            i += 1;
        }
    }
    Ok(sums)
}
