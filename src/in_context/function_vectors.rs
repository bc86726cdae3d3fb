//! Function vectors (Todd et al. 2024, "Function Vectors in Large Language Models"): what a few
//! heads write after examples of a task, and whether that alone makes the model do the task.

use ndarray::{Array1, Array2};

use crate::ablation::heads::per_head;
use crate::cache::Selection;
use crate::component::Head;
use crate::error::{Error, Result};
use crate::hook::Site;
use crate::intervention::{Edit, Intervention, Select, Target, Values};
use crate::metric::probability;
use crate::model::{KeepLogits, Run, Transformer};
use crate::ops::largest;
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::statistics::{Estimate, over_first};
use crate::sweep::{Cell, Sweep};

/// The mean outputs of all heads at the last position of prompts that show a task by examples.
///
/// ```
/// use patchlens::{Config, Head, Prompt, Transformer};
/// use patchlens::in_context::FunctionVectors;
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let shown = [Prompt::from([1, 2, 3, 4, 5]), Prompt::from([3, 4, 1, 2, 5])];
/// let vectors = FunctionVectors::new(&model, &shown)?;
/// let vector = vectors.vector(&[Head::new(0, 1), Head::new(1, 0)])?; // [d_model]
/// let effects = vectors.effects(&vector, &Prompt::from([5]), &[6])?;
/// assert_eq!(effects.values().shape(), [2]); // [layer]
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FunctionVectors<'m> {
    model: &'m Transformer,
    /// By layer, mean `z` at the last position, `[head, d_head]`.
    means: Vec<Array2<f32>>,
}

impl<'m> FunctionVectors<'m> {
    /// Runs the prompts and takes the means.
    ///
    /// # Errors
    /// As [`Transformer::run`].
    pub fn new(model: &'m Transformer, prompts: &(impl AsRef<[Prompt]> + ?Sized)) -> Result<Self> {
        let config = model.config();
        let prompts = prompts.as_ref();
        model.check_prompts(prompts)?;
        let points = (0..config.n_layers).map(|layer| Site::Z.at(layer));
        let mut sums = vec![Array1::<f64>::zeros(config.d_model); config.n_layers];
        for prompt in prompts {
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
                .unwrap_or_else(|_| unreachable!("heads side by side"))
        };
        Ok(FunctionVectors {
            model,
            means: sums.into_iter().map(mean).collect(),
        })
    }

    /// The average indirect effect of every head, `[layer, head]`, with standard errors: on
    /// prompts that do not show the task (whose examples are shuffled, say), how much the probability of the answer rises when the
    /// head's output at the last position is set to its mean over the good prompts.
    ///
    /// # Errors
    /// As [`Sweep::prepare`]; one answer a prompt, or one for all.
    pub fn indirect_effects(
        &self,
        shuffled: &(impl AsRef<[Prompt]> + ?Sized),
        answers: &[u32],
    ) -> Result<Labelled> {
        let cell = |head: Head| {
            let target = Target::new(Site::Z.at(head.layer)).at_heads(head.head);
            let mean = self.means[head.layer].row(head.head).to_owned();
            let edit = Edit::Set(Values::array(mean));
            vec![Intervention::new(target.at_positions(Select::Last), edit)]
        };
        let cells: Vec<Cell> = Head::all(self.model.config()).map(cell).collect();
        let found =
            Sweep::new(self.model, shuffled.as_ref())?.run(&cells, &probability(answers))?;
        let about = About {
            title: "Average indirect effect of heads".to_string(),
            caption:
                "Head output at the last position of prompts that do not show the task set to \
                      its mean over prompts that do."
                    .to_string(),
            unit: "change of the answer's probability".to_string(),
            baselines: [(
                "without".to_string(),
                Estimate::of(found.base.iter().copied()).mean,
            )]
            .into(),
            ..About::default()
        };
        per_head(self.model, &found.values - &found.base, about)
    }

    /// The heads with the largest effects, strongest first.
    pub fn top_heads(effects: &Labelled, n: usize) -> Vec<Head> {
        let n_heads = effects.values().shape().last().copied().unwrap_or(1);
        let flat: Vec<f64> = effects.values().iter().copied().map(f64::from).collect();
        let best = largest(flat.len(), n, |i| flat[i]).into_iter();
        best.map(|i| Head::new(i / n_heads, i % n_heads)).collect()
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
    /// last position of prompts without examples, by the layer where it is added, `[layer]`: mean
    /// and standard error.
    ///
    /// # Errors
    /// [`Error::Shape`] for a vector of another width; else as [`Sweep::prepare`].
    pub fn effects(
        &self,
        vector: &Array1<f32>,
        prompts: &(impl AsRef<[Prompt]> + ?Sized),
        answers: &[u32],
    ) -> Result<Labelled> {
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
        let found = Sweep::new(self.model, prompts.as_ref())?.run(&cells, &probability(answers))?;
        let changes = &found.values - &found.base;
        let (mean, error) = over_first(changes.t().into_dyn());
        let base = Estimate::of(found.base.iter().copied()).mean;
        let about = About {
            title: "Effect of the function vector".to_string(),
            caption: "Added to resid_post at the last position of prompts without examples."
                .to_string(),
            unit: "change of the answer's probability".to_string(),
            baselines: [("without".to_string(), base)].into(),
            counts: [("prompts".to_string(), found.base.len() as u64)].into(),
            ..About::default()
        };
        Labelled::new(mean, vec![Axis::layers(config.n_layers)], about)?.with_std_error(error)
    }
}
