//! Replacement of heads, one at a time: what a metric loses without each.

use ndarray::{Array1, Array2, Axis as Dim};

use super::circuits::Head;
use super::statistics::{mean_and_error, over_first};
use crate::cache::Selection;
use crate::error::Result;
use crate::hook::Site;
use crate::intervention::{Edit, Intervention, Select, Target, Values};
use crate::metric::Metric;
use crate::model::{KeepLogits, Run, Transformer};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::sweep::{DEFAULT_MEMORY_LIMIT, Sweep};

/// What takes the place of a head's output.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Replacement {
    /// Zeros.
    Zero,
    /// The head's mean output over all positions of all prompts.
    #[default]
    Mean,
}

impl Replacement {
    /// For each layer, the edit of a site with a head axis that ablates whichever heads it is
    /// aimed at.
    pub(crate) fn edits(
        self,
        model: &Transformer,
        prompts: &[Prompt],
        site: Site,
    ) -> Result<Vec<Edit>> {
        let layers = 0..model.config().n_layers;
        match self {
            Replacement::Zero => Ok(layers.map(|_| Edit::Zero).collect()),
            Replacement::Mean => layers
                .map(|layer| {
                    let mean = mean_at(model, prompts, layer, site)?;
                    Ok(Edit::Mean(Values::array(mean)))
                })
                .collect(),
        }
    }
}

/// The mean over all positions of all prompts, `[head, d_head or d_model]`.
pub(crate) fn mean_at(
    model: &Transformer,
    prompts: &[Prompt],
    layer: usize,
    site: Site,
) -> Result<Array2<f32>> {
    let point = site.at(layer);
    let selection = Selection::points([point]);
    let run = Run {
        cache: Some(&selection),
        stop_at_layer: Some(layer + 1),
        logits: KeepLogits::None,
    };
    let caches = model.run(prompts, (), &run)?.caches;
    let n_heads = model.config().n_heads;
    let mut sum: Option<Array1<f64>> = None;
    let mut rows = 0;
    for cache in &caches {
        let flat = cache.flat(point)?;
        let part = flat.mapv(f64::from).sum_axis(Dim(0));
        rows += flat.nrows();
        sum = Some(match sum {
            Some(sum) => sum + part,
            None => part,
        });
    }
    let mean = sum.unwrap_or_default().mapv(|v| (v / rows as f64) as f32);
    let width = mean.len() / n_heads;
    Ok(mean
        .into_shape_with_order((n_heads, width))
        .unwrap_or_else(|_| unreachable!("rows are heads side by side")))
}

/// One cell a head: its output `z` ablated at the positions given.
pub(crate) fn ablation_cells(
    heads: &[Head],
    edits: &[Edit],
    positions: &Select,
) -> Vec<Vec<Intervention>> {
    let cell = |head: &Head| {
        let target = Target::new(Site::Z.at(head.layer)).at_heads(head.head);
        let target = target.at_positions(positions.clone());
        vec![Intervention::new(target, edits[head.layer].clone())]
    };
    heads.iter().map(cell).collect()
}

/// What the ablation of each head gave.
#[derive(Clone, Debug)]
pub struct HeadAblation {
    /// What the metric loses, whole − ablated, `[layer, head]`: mean over prompts with its
    /// standard error. Positive where the head helps.
    pub lost: Labelled,
    /// The metric with each head ablated, `[layer * n_heads + head, prompt]`.
    pub ablated: Array2<f32>,
    /// The metric of the whole model, `[prompt]`.
    pub base: Array1<f32>,
}

impl HeadAblation {
    /// Mean and standard error over prompts of the whole model's metric.
    pub fn base_mean(&self) -> (f32, f32) {
        mean_and_error(self.base.iter().copied())
    }
}

/// Ablates every head in turn at all positions, in one sweep.
///
/// ```
/// use patchlens::{Replacement, Config, Prompt, Transformer, head_ablation, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let found = head_ablation(&model, &Prompt::from([1, 2, 3]), &logit_diff(4, 5), Replacement::Zero)?;
/// assert_eq!(found.lost.values().shape(), [2, 2]); // [layer, head]
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// As [`Sweep::new`] and [`Sweep::prepare`].
pub fn head_ablation(
    model: &Transformer,
    prompts: &(impl AsRef<[Prompt]> + ?Sized),
    metric: &Metric,
    ablation: Replacement,
) -> Result<HeadAblation> {
    ablate(
        model,
        prompts.as_ref(),
        metric,
        ablation,
        DEFAULT_MEMORY_LIMIT,
    )
}

/// As [`head_ablation`], with the sweep's working memory bounded.
pub(crate) fn ablate(
    model: &Transformer,
    prompts: &[Prompt],
    metric: &Metric,
    ablation: Replacement,
    memory_limit: u64,
) -> Result<HeadAblation> {
    let sweep = Sweep::new(model, prompts)?.memory_limit(memory_limit);
    let heads: Vec<Head> = Head::all(model.config()).collect();
    let edits = ablation.edits(model, prompts, Site::Z)?;
    let result = sweep.run(&ablation_cells(&heads, &edits, &Select::All), metric)?;
    let lost = &result.base - &result.values;
    let mut about = About {
        title: "Heads ablated one at a time".to_string(),
        caption: format!("What is lost by {ablation:?} ablation of a head at all positions."),
        unit: metric.name().to_string(),
        ..About::default()
    };
    about
        .counts
        .insert("prompts".to_string(), prompts.len() as u64);
    let (base, _) = mean_and_error(result.base.iter().copied());
    about.baselines.insert("whole".to_string(), base);
    Ok(HeadAblation {
        lost: per_head(model, lost, about)?,
        ablated: result.values,
        base: result.base,
    })
}

/// Mean and standard error over prompts of `[layer * n_heads + head, prompt]`.
pub(crate) fn per_head(model: &Transformer, values: Array2<f32>, about: About) -> Result<Labelled> {
    let config = model.config();
    let (mean, error) = over_first(values.t().into_dyn());
    let shape = [config.n_layers, config.n_heads];
    let [mean, error] = [mean, error].map(|array| {
        array
            .into_shape_with_order(shape)
            .unwrap_or_else(|_| unreachable!("one value a head"))
    });
    let axes = vec![Axis::layers(shape[0]), Axis::heads(shape[1])];
    Labelled::new(mean, axes, about)?.with_std_error(error)
}
