//! Replacement of heads, one at a time: what a metric loses without each.

use ndarray::{Array1, Array2, ArrayD, Axis as Dim};

use crate::cache::{ActivationCache, Selection};
use crate::component::Head;
use crate::error::Result;
use crate::heads::Role;
use crate::hook::{HookPoint, Site};
use crate::intervention::{Edit, Intervention, Select, Target, Values};
use crate::metric::Metric;
use crate::model::{KeepLogits, Run, Transformer};
use crate::prompt::Prompt;
use crate::report::{About, Axis, Labelled};
use crate::statistics::{Estimate, over_first};
use crate::sweep::{Cell, DEFAULT_MEMORY_LIMIT, Sweep};

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

/// What runs without hooks have at one point of a block; they stop behind that block.
pub(crate) fn caches_at(
    model: &Transformer,
    prompts: &[Prompt],
    point: HookPoint,
) -> Result<Vec<ActivationCache>> {
    let selection = Selection::points([point]);
    let run = Run {
        cache: Some(&selection),
        stop_at_layer: point.layer().map(|layer| layer + 1),
        logits: KeepLogits::None,
    };
    Ok(model.run(prompts, (), &run)?.caches)
}

/// The mean over all positions of all prompts, `[head, d_head or d_model]`.
pub(crate) fn mean_at(
    model: &Transformer,
    prompts: &[Prompt],
    layer: usize,
    site: Site,
) -> Result<Array2<f32>> {
    let point = site.at(layer);
    let caches = caches_at(model, prompts, point)?;
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

/// Sequences, and the positions in them.
pub(crate) type Place = (Select, Select);

/// Every position of every sequence.
pub(crate) const EVERYWHERE: [Place; 1] = [(Select::All, Select::All)];

/// One cell a head: its output `z` ablated at the places given.
pub(crate) fn ablation_cells(heads: &[Head], edits: &[Edit], places: &[Place]) -> Vec<Cell> {
    let cell = |head: &Head| {
        let one = |(sequences, positions): &Place| {
            let target = Target::new(Site::Z.at(head.layer)).at_heads(head.head);
            let target = target.at_sequences(sequences.clone());
            let target = target.at_positions(positions.clone());
            Intervention::new(target, edits[head.layer].clone())
        };
        places.iter().map(one).collect()
    };
    heads.iter().map(cell).collect()
}

/// What the ablation of each head gave, everywhere or along some paths.
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
    fn new(
        model: &Transformer,
        metric: &Metric,
        base: Array1<f32>,
        ablated: Array2<f32>,
        caption: String,
    ) -> Result<Self> {
        let mut about = About {
            title: "Heads ablated one at a time".to_string(),
            caption,
            unit: metric.name().to_string(),
            ..About::default()
        };
        let whole = Estimate::of(base.iter().copied()).mean;
        about.baselines.insert("whole".to_string(), whole);
        Ok(HeadAblation {
            lost: per_head(model, &base - &ablated, about)?,
            ablated,
            base,
        })
    }

    /// Mean and standard error over prompts of the whole model's metric.
    pub fn base_mean(&self) -> Estimate {
        Estimate::of(self.base.iter().copied())
    }
}

/// Ablates every head in turn at all positions, in one sweep.
///
/// ```
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// use patchlens::ablation::{Replacement, head_ablation};
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
    ablate_at(model, prompts, metric, ablation, memory_limit, None)
}

/// As [`ablate`], at a labelled position of each prompt alone, if one is given.
pub(crate) fn ablate_at(
    model: &Transformer,
    prompts: &[Prompt],
    metric: &Metric,
    ablation: Replacement,
    memory_limit: u64,
    at: Option<&Role>,
) -> Result<HeadAblation> {
    let sweep = Sweep::new(model, prompts)?.memory_limit(memory_limit);
    let heads: Vec<Head> = Head::all(model.config()).collect();
    let edits = ablation.edits(model, prompts, Site::Z)?;
    at.map_or(Ok(()), |role| role.check(prompts))?;
    let places = at.map_or(EVERYWHERE.to_vec(), Role::places);
    let cells = ablation_cells(&heads, &edits, &places);
    let place = at.map_or("all positions", |role| &role.name);
    let caption = format!("What is lost by {ablation:?} ablation of a head at {place}.");
    let result = sweep.run(&cells, metric)?;
    HeadAblation::new(model, metric, result.base, result.values, caption)
}

/// What each head adds to the metric directly: its output is taken out of the last `resid_post`
/// alone (and its mean put there, under mean ablation), so that no later head and no MLP sees the
/// change; the final LayerNorm is computed anew, so that a head which writes much of anything else
/// makes room for the rest when it goes, and has a negative effect. The rest of what
/// [`head_ablation`] measures goes through later parts of the model. (Wang et al. 2022, section 3.1, path patching of heads to the
/// logits with MLPs frozen.)
///
/// ```
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// use patchlens::ablation::{Replacement, head_direct_effect};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let found = head_direct_effect(&model, &Prompt::from([1, 2, 3]), &logit_diff(4, 5), Replacement::Zero)?;
/// assert_eq!(found.lost.values().shape(), [2, 2]); // [layer, head]
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// As [`Sweep::new`] and [`Sweep::prepare`].
pub fn head_direct_effect(
    model: &Transformer,
    prompts: &(impl AsRef<[Prompt]> + ?Sized),
    metric: &Metric,
    ablation: Replacement,
) -> Result<HeadAblation> {
    let limit = DEFAULT_MEMORY_LIMIT;
    direct_effect(model, prompts.as_ref(), metric, ablation, limit)
}

/// As [`head_direct_effect`], with the sweep's working memory bounded.
pub(crate) fn direct_effect(
    model: &Transformer,
    prompts: &[Prompt],
    metric: &Metric,
    ablation: Replacement,
    memory_limit: u64,
) -> Result<HeadAblation> {
    let config = model.config();
    let sweep = Sweep::new(model, prompts)?.memory_limit(memory_limit);
    let last = Site::ResidPost.at(config.n_layers - 1);
    let mut values = Array2::zeros((config.n_layers * config.n_heads, prompts.len()));
    let mut rows = values.rows_mut().into_iter();
    let mut base = Array1::default(0);
    for layer in 0..config.n_layers {
        let without = taken_out(model, prompts, layer, ablation)?.into_iter();
        let cell = |arrays| vec![Intervention::new(last, Edit::Add(Values::arrays(arrays)))];
        let cells: Vec<Cell> = without.map(cell).collect();
        let result = sweep.run(&cells, metric)?;
        // In this order, so that the end of a layer does not swallow a row.
        for (found, mut row) in result.values.outer_iter().zip(rows.by_ref()) {
            row.assign(&found);
        }
        base = result.base;
    }
    let caption = "What is lost when a head's output is taken out of the last resid_post alone.";
    HeadAblation::new(model, metric, base, values, caption.to_string())
}

/// For each head of a layer and each prompt, what takes its output out of the residual stream
/// where it is added, `[pos, d_model]`: minus its output, plus its mean under mean ablation.
pub(crate) fn taken_out(
    model: &Transformer,
    prompts: &[Prompt],
    layer: usize,
    ablation: Replacement,
) -> Result<Vec<Vec<ArrayD<f32>>>> {
    let point = Site::Result.at(layer);
    let caches = caches_at(model, prompts, point)?;
    let means = match ablation {
        Replacement::Mean => Some(mean_at(model, prompts, layer, Site::Result)?),
        Replacement::Zero => None,
    };
    let of_head = |head: usize| {
        let of_prompt = |cache: &ActivationCache| {
            let output = cache.get(point)?.index_axis_move(Dim(1), head).mapv(|v| -v);
            Ok(match &means {
                Some(means) => output + means.row(head),
                None => output,
            })
        };
        caches.iter().map(of_prompt).collect()
    };
    (0..model.config().n_heads).map(of_head).collect()
}

/// Mean and standard error over prompts of `[layer * n_heads + head, prompt]`; says how many they
/// are.
pub(crate) fn per_head(
    model: &Transformer,
    values: Array2<f32>,
    mut about: About,
) -> Result<Labelled> {
    let config = model.config();
    let prompts = values.ncols() as u64;
    about.counts.insert("prompts".to_string(), prompts);
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
