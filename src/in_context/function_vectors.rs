//! Function vectors (Todd et al. 2024, "Function Vectors in Large Language Models"): what a few
//! heads write after examples of a task, and whether that alone makes the model do the task.

use ndarray::{Array1, Array2, ArrayD};

use crate::base::Base;
use crate::cache::Selection;
use crate::component::Head;
use crate::effects::Measured;
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::intervention::{Edit, Intervention, Select, Target, Values};
use crate::limits::{Limits, limits_methods};
use crate::metric::{Baseline, probability};
use crate::model::{KeepLogits, Run, Transformer};
use crate::ops::largest;
use crate::prompt::IntoPrompts;
use crate::report::{About, Absent, Axis, Labelled};
use crate::statistics::mean;
use crate::sweep::{Cell, Plan, Sweep};

/// The mean outputs of all heads at the last position of prompts that show a task by examples.
///
/// ```
/// use patchlens::{Config, Head, Prompt, Transformer};
/// use patchlens::in_context::FunctionVectors;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let shown = [Prompt::from([1, 2, 3, 4, 5]), Prompt::from([3, 4, 1, 2, 5])];
/// let vectors = FunctionVectors::new(&model, &shown)?;
/// let vector = vectors.vector(&[Head::new(0, 1), Head::new(1, 0)])?; // [d_model]
/// let effects = vectors.effects(&vector, &Prompt::from([5]), &[6])?;
/// assert_eq!(effects.effect.values().shape(), [2]); // [layer]
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FunctionVectors<'m> {
    model: &'m Transformer,
    /// By layer, mean `z` at the last position, `[head, d_head]`.
    means: Vec<Array2<f32>>,
    limits: Limits<'m>,
}

/// What became of the answers' probability.
#[derive(Clone, Debug)]
pub struct FunctionEffects {
    /// By how much it changes: mean over prompts, `[layer, head]` or `[layer]`, with standard
    /// errors where there are several prompts. Positive where the function is carried out.
    pub effect: Labelled,
    /// The change for each prompt; the last axis is the prompt.
    pub per_prompt: ArrayD<f32>,
    /// The probability in each changed run; the last axis is the prompt.
    pub values: ArrayD<f32>,
    raw: Labelled,
    /// The probability in the run that was not changed, `[prompt]`.
    pub without: Array1<f32>,
    /// What was run.
    pub plan: Plan,
}

impl FunctionEffects {
    /// The probability in the changed runs itself, mean over prompts, with standard errors where
    /// there are several.
    pub fn raw(&self) -> &Labelled {
        &self.raw
    }

    /// The `n` heads that raise the probability most, strongest first, of those with a value; none
    /// of effects by layer.
    pub fn top_heads(&self, n: usize) -> Vec<Head> {
        let [_, n_heads] = *self.effect.values().shape() else {
            return Vec::new();
        };
        let effects = self.effect.values();
        let run: Vec<(usize, f64)> = effects
            .iter()
            .enumerate()
            .filter(|(_, effect)| !effect.is_nan())
            .map(|(head, effect)| (head, f64::from(*effect)))
            .collect();
        let best = largest(run.len(), n, |i| run[i].1).into_iter();
        best.map(|i| run[i].0)
            .map(|head| Head::new(head / n_heads, head % n_heads))
            .collect()
    }
}

impl<'m> FunctionVectors<'m> {
    /// Runs the prompts and takes the means.
    ///
    /// # Errors
    /// Same as [`Transformer::run`].
    pub fn new(model: &'m Transformer, prompts: impl IntoPrompts) -> Result<Self> {
        let config = model.config();
        let prompts = prompts.into_prompts()?;
        model.check_prompts(prompts.as_slice())?;
        let points = (0..config.n_layers).map(|layer| Site::Z.at(layer));
        let mut sums = vec![Array1::<f64>::zeros(config.d_heads()); config.n_layers];
        for prompt in &prompts {
            let selection = Selection::points(points.clone()).at_positions(Select::Last);
            let run = Run {
                cache: Some(&selection),
                logits: KeepLogits::None,
                ..Run::default()
            };
            let caches = model.run(prompt, (), &run)?.caches;
            for (sum, point) in sums.iter_mut().zip(points.clone()) {
                *sum += &caches[0].flat(point)?.row(0).mapv(f64::from);
            }
        }
        let mean = |sum: Array1<f64>| {
            sum.mapv(|v| (v / prompts.len() as f64) as f32)
                .into_shape_with_order((config.n_heads, config.d_head()))
                .expect("heads side by side")
        };
        Ok(FunctionVectors {
            model,
            means: sums.into_iter().map(mean).collect(),
            limits: Limits::default(),
        })
    }

    limits_methods!('m);

    /// The average indirect effect of every head, `[layer, head]`: on prompts that do not show
    /// the task (whose examples are shuffled, say), how much the probability of the
    /// answer rises when the head's output at the last position is set to its mean over the good
    /// prompts.
    ///
    /// # Errors
    /// Same as [`Sweep::prepare`]; one answer per prompt, or one for all.
    pub fn indirect_effects(
        &self,
        shuffled: impl IntoPrompts,
        answers: &[u32],
    ) -> Result<FunctionEffects> {
        let config = self.model.config();
        let cell = |head: Head| {
            let target = Target::new(Site::Z.at(head.layer)).at_heads(head.head);
            let mean = self.means[head.layer].row(head.head).to_owned();
            let edit = Edit::Set(Values::array(mean));
            vec![Intervention::new(target.at_positions(Select::Last), edit)]
        };
        let cells: Vec<Cell> = Head::all(config).map(cell).collect();
        let about = About {
            title: "Average indirect effect of heads".to_string(),
            caption:
                "Head output at the last position of prompts that do not show the task set to \
                      its mean over prompts that do."
                    .to_string(),
            ..About::default()
        };
        let axes = vec![Axis::layers(config.n_layers), Axis::heads(config.n_heads)];
        self.changes(shuffled, &cells, answers, axes, about)
    }

    /// How much each cell changes the answers' probability.
    fn changes(
        &self,
        prompts: impl IntoPrompts,
        cells: &[Cell],
        answers: &[u32],
        axes: Vec<Axis>,
        about: About,
    ) -> Result<FunctionEffects> {
        let sweep = Sweep::limited(&Base::new(self.model, prompts)?, self.limits.clone());
        let metric = probability(answers);
        let found = sweep.run(cells, &metric)?;
        let base = Baseline {
            name: "unchanged",
            values: &found.base,
        };
        let counts = [
            ("prompts", found.base.len() as u64),
            (About::MULTIPLY_ADDS, found.multiply_adds),
            (About::FULL_PASSES, found.plan.naive_multiply_adds),
        ];
        let about = About {
            unit: "answer's probability".to_string(),
            baselines: [("without".to_string(), mean(found.base.iter().copied()))].into(),
            counts: counts.map(|(name, n)| (name.to_string(), n)).into(),
            notes: [metric.notes(base, None), found.notes(base.name).collect()].concat(),
            partial: found.partial,
            ..about
        };
        let without = found.base.clone();
        let measured = Measured {
            absent: Absent::not_run(&found.finished).collect(),
            values: found.values,
            base: found.base,
            axes,
        };
        let effects = measured.label(about, "run without")?;
        Ok(FunctionEffects {
            effect: effects.effect,
            per_prompt: effects.per_prompt,
            values: effects.values,
            raw: effects.raw,
            without,
            plan: found.plan,
        })
    }

    /// The function vector of some heads, `[d_model]`: the sum of their mean outputs through
    /// `W_O`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a head that the model lacks.
    pub fn vector(&self, heads: &[Head]) -> Result<Array1<f32>> {
        let mut vector = Array1::zeros(self.model.config().d_model);
        for head in heads {
            head.check(self.model.config())?;
            let mean = self.means[head.layer].row(head.head);
            vector += &mean.dot(&self.model.output_map(*head));
        }
        Ok(vector)
    }

    /// The change of the answers' probability when the vector is added to `resid_post` at the
    /// last position of prompts without examples, by the layer where it is added, `[layer]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a vector of another width; else same as [`Sweep::prepare`].
    pub fn effects(
        &self,
        vector: &Array1<f32>,
        prompts: impl IntoPrompts,
        answers: &[u32],
    ) -> Result<FunctionEffects> {
        let config = self.model.config();
        if vector.len() != config.d_model {
            return Err(Error::Shape {
                at: "function vector".to_string(),
                found: vec![vector.len()],
                expected: format!("[{}] (d_model)", config.d_model),
            });
        }
        let edit = Edit::Add(Values::array(vector.clone()));
        let cell = |layer| {
            let target = Target::new(Site::ResidPost.at(layer)).at_positions(Select::Last);
            vec![Intervention::new(target, edit.clone())]
        };
        let cells: Vec<Cell> = (0..config.n_layers).map(cell).collect();
        let about = About {
            title: "Effect of the function vector".to_string(),
            caption: "Added to resid_post at the last position of prompts without examples."
                .to_string(),
            ..About::default()
        };
        let axes = vec![Axis::layers(config.n_layers)];
        self.changes(prompts, &cells, answers, axes, about)
    }
}
