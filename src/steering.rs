//! Steering: adding a direction to the residual stream (activation addition, Turner et al. 2023;
//! difference of means, Marks & Tegmark 2023; Panickssery et al. 2023).

use ndarray::{Array1, Axis as Dim};

use crate::cache::Selection;
use crate::error::{Error, Result};
use crate::hook::{Axes, HookPoint};
use crate::intervention::{Edit, Intervention, Select, Target, Values};
use crate::metric::Metric;
use crate::model::{KeepLogits, Run, Transformer};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::statistics::{labelled_means, shaped};
use crate::sweep::{Cell, DEFAULT_MEMORY_LIMIT, Sweep};

/// A direction for each of some points, and the positions where it is added.
///
/// ```
/// use patchlens::{Config, Interventions, Prompt, Select, Site, Transformer};
/// use patchlens::generate::Generation;
/// use patchlens::steering::Steering;
/// use patchlens::logit_diff;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (yes, no) = (Prompt::from([1, 2, 3]), Prompt::from([4, 5, 3]));
/// let points = [Site::ResidPost.at(0)];
/// let steering = Steering::difference_of_means(&model, &yes, &no, &points, Select::Last)?;
///
/// let curve = steering.dose_response(&model, &no, &logit_diff(6, 7), &[-1.0, 0.0, 1.0])?;
/// println!("{}", curve.curves()?);
///
/// let mut hooks = Interventions::new(steering.interventions(2.0)?);
/// let text = model.generate(&no, &mut hooks, &Generation::greedy(3))?;
/// assert_eq!(hooks.receipt().fired[0].times, 3); // once a step
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Steering {
    /// Where which direction is added, `[d_model]` each, in units of the activation.
    pub directions: Vec<(HookPoint, Array1<f32>)>,
    /// Positions where it is added; by default all, generated ones included.
    pub positions: Select,
    /// Bound of the sweep's working memory, in bytes.
    pub memory_limit: u64,
}

impl Steering {
    /// A given direction at each of some points `[pos, d_model]`, at all positions.
    ///
    /// # Errors
    /// [`Error::Invalid`] without points, for a point with other axes, and for a direction that is
    /// zero or not finite.
    pub fn new(directions: Vec<(HookPoint, Array1<f32>)>) -> Result<Self> {
        if directions.is_empty() {
            return Err(Error::invalid("steering points", 0, "at least one"));
        }
        for (point, direction) in &directions {
            check_axes(*point)?;
            let length = direction.dot(direction).sqrt();
            if !(length.is_finite() && length > 0.0) {
                let what = format!("length of the steering direction at {point}");
                return Err(Error::invalid(what, length, "a finite number above 0"));
            }
        }
        Ok(Steering {
            directions,
            positions: Select::All,
            memory_limit: DEFAULT_MEMORY_LIMIT,
        })
    }

    /// The mean activation over `positive` prompts minus that over `negative` ones, at each point
    /// on its own. `read` picks the positions of each prompt that are averaged over; every prompt
    /// counts the same, whatever its length. Scale 1 moves one mean onto the other.
    ///
    /// # Errors
    /// As [`Transformer::run`] and [`Steering::new`]; [`Error::OutOfRange`] if a prompt lacks a
    /// position.
    pub fn difference_of_means(
        model: &Transformer,
        positive: &(impl AsRef<[Prompt]> + ?Sized),
        negative: &(impl AsRef<[Prompt]> + ?Sized),
        points: &[HookPoint],
        read: Select,
    ) -> Result<Self> {
        points.iter().try_for_each(|point| check_axes(*point))?;
        let positive = means(model, positive.as_ref(), points, &read)?;
        let negative = means(model, negative.as_ref(), points, &read)?;
        let differences = positive.into_iter().zip(negative).map(|(a, b)| a - b);
        let differences = differences.map(|d| d.mapv(|v| v as f32));
        Self::new(points.iter().copied().zip(differences).collect())
    }

    /// Adds it at these positions only.
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
        let pairs = self.directions.iter();
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

    /// The metric's mean over prompts for each scale, the direction added at all points at once:
    /// `[scale]`, with standard errors; the unsteered mean is the baseline `unsteered`.
    /// [`Labelled::curves`] draws it.
    ///
    /// # Errors
    /// [`Error::Invalid`] without scales; as [`Sweep::prepare`].
    pub fn dose_response(
        &self,
        model: &Transformer,
        prompts: &(impl AsRef<[Prompt]> + ?Sized),
        metric: &Metric,
        scales: &[f32],
    ) -> Result<Labelled> {
        let cells = scales.iter().map(|scale| self.interventions(*scale));
        let cells: Vec<Cell> = cells.collect::<Result<_>>()?;
        self.curve(
            model,
            prompts.as_ref(),
            metric,
            (&cells, Vec::new(), scales),
        )
    }

    /// As [`Steering::dose_response`] with each point alone: `[point, scale]`.
    ///
    /// # Errors
    /// As [`Steering::dose_response`].
    pub fn dose_response_by_point(
        &self,
        model: &Transformer,
        prompts: &(impl AsRef<[Prompt]> + ?Sized),
        metric: &Metric,
        scales: &[f32],
    ) -> Result<Labelled> {
        let of_point = |(point, direction): &(HookPoint, Array1<f32>)| {
            let one = |scale: &f32| Ok(vec![self.intervention(*point, direction, *scale)?]);
            scales.iter().map(one).collect::<Result<Vec<Cell>>>()
        };
        let cells: Vec<Vec<Cell>> = self
            .directions
            .iter()
            .map(of_point)
            .collect::<Result<_>>()?;
        let names = self.directions.iter().map(|(point, _)| point.to_string());
        let series = vec![Axis::new("point", names)];
        self.curve(
            model,
            prompts.as_ref(),
            metric,
            (&cells.concat(), series, scales),
        )
    }

    fn curve(
        &self,
        model: &Transformer,
        prompts: &[Prompt],
        metric: &Metric,
        (cells, mut axes, scales): (&[Cell], Vec<Axis>, &[f32]),
    ) -> Result<Labelled> {
        if scales.is_empty() {
            return Err(Error::invalid("steering scales", 0, "at least one"));
        }
        axes.push(Axis::numbers("scale", scales));
        let sweep = Sweep::new(model, prompts)?.memory_limit(self.memory_limit);
        let result = sweep.run(cells, metric)?;
        let mut shape: Vec<usize> = axes.iter().map(|axis| axis.labels.len()).collect();
        shape.push(prompts.len());
        let mut about = About {
            title: "Steering: dose and response".to_string(),
            caption: format!(
                "Mean {} over {} prompts while scale × direction is added to the activation at {}.",
                metric.name(),
                prompts.len(),
                match &self.positions {
                    Select::All => "all positions".to_string(),
                    some => format!("pos {some}"),
                },
            ),
            unit: metric.name().to_string(),
            ..About::default()
        };
        let unsteered = result.base.mean().unwrap_or(f32::NAN);
        about.baselines.insert("unsteered".to_string(), unsteered);
        about
            .counts
            .insert("prompts".to_string(), prompts.len() as u64);
        about
            .counts
            .insert("multiply-adds".to_string(), result.multiply_adds);
        labelled_means(shaped(&shape, result.values).view(), axes, about)
    }
}

fn check_axes(point: HookPoint) -> Result<()> {
    point.axes().expect(Axes::Model, "steering point", &point)
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
    let caches = model.run(prompts, (), &run)?.caches;
    for (i, cache) in caches.iter().enumerate() {
        let n = cache.tokens().len();
        let at = format!("positions to average over in prompt {i}");
        read.check_prompts(&at, "pos", prompts.len())?;
        read.check(&at, "pos", i, n)?;
        let rows = read.resolve(i, n);
        for (sum, point) in sums.iter_mut().zip(points) {
            let picked = cache.flat(*point)?.select(Dim(0), &rows).mapv(f64::from);
            *sum += &(picked.sum_axis(Dim(0)) / (rows.len() * prompts.len()) as f64);
        }
    }
    Ok(sums)
}
