//! Attribution patching: the effects of patches to first order.

use std::collections::BTreeMap;

use ndarray::{Array1, Array2, ArrayD, ArrayViewD, Axis as Dim, Zip};

use super::grid::targets;
use super::{ActivationPatching, Grid};
use crate::cache::Selection;
use crate::config::Config;
use crate::effects::Measured;
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::intervention::Target;
use crate::metric::Metric;
use crate::pairs::{GradientRuns, Pairs, Variant, count_pairs};
use crate::report::{About, Absent, Labelled};
use crate::select::Select;

/// The effects of a patching study to first order, by gradients.
#[derive(Clone, Debug)]
pub struct EstimatedPatching {
    /// By how much each patch would change the metric of the run that is patched, to first order:
    /// mean over the prompt pairs, with standard errors where there are several; axes and signs of
    /// [`Patching::effect`](super::Patching::effect).
    pub effect: Labelled,
    /// The same for each pair; the last axis is the pair. NaN for pairs that were not reached
    /// before an observer ended the study.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each corrupted run, `[pair]`.
    pub corrupted: Array1<f32>,
}

impl ActivationPatching<'_> {
    /// Attribution patching: estimates the effect of every cell by one gradient run per pair,
    /// however many cells there are.
    ///
    /// With `a` an activation of the run that is patched, `ã` that of the other run and `m` the
    /// metric,
    ///
    /// ```text
    /// estimate = Σ (ã − a) · ∂m/∂a
    /// ```
    ///
    /// over what the cell holds of it, with the gradient of the run that is patched. It is exact
    /// where everything from there on is linear. It misses what saturates: an attention pattern
    /// close to 0 or 1 has almost no gradient, so effects through queries and keys come out too
    /// small. The sites of a grid may be any hook points of a block, such as those of the inputs
    /// split by head.
    ///
    /// Sources: Nanda 2023 ("Attribution patching"); Syed et al. 2023; Kramár et al. 2024 (arXiv
    /// 2403.00745), who call it AtP and rank by absolute values.
    ///
    /// ```
    /// use patchlens::patching::ActivationPatching;
    /// use patchlens::{Config, Grid, Prompt, Site, Transformer, logit_diff};
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
    /// let study = ActivationPatching::new(&model, &clean, &corrupted)?;
    /// let found = study.estimate(Grid::HeadPositions(Site::Result), &logit_diff(2, 4))?;
    /// assert_eq!(found.effect.values().shape(), [2, 3, 2]); // [layer, pos, head]
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// Same as [`ActivationPatching::run`]; also [`Error::Invalid`](crate::Error::Invalid) for a
    /// metric without gradient (a rank, a closure), for a KL divergence to the very run that is
    /// patched, whose gradient there is zero, and for patched runs under interventions, and
    /// [`Error::MemoryLimit`](crate::Error::MemoryLimit) if one pair does not fit the memory limit.
    pub fn estimate(&self, grid: Grid, metric: &Metric) -> Result<EstimatedPatching> {
        grid.check()?;
        let pairs = &self.pairs;
        pairs.check_gradients(metric, true)?;
        let others = "the other direction, which takes gradients of other runs, or another metric";
        pairs.check_slope(metric, others)?;
        let config = pairs.model().config();
        let axes = grid.axes(config.n_layers, config.n_heads, &self.labels(grid)?);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        let metric = pairs.clean.refer(metric)?;
        let points = Selection::points(self.points(grid));
        let mut runs = GradientRuns::new(pairs, &metric, &self.limits, points.clone(), 1);
        let targets = targets(grid, &shape);
        let mut changes = Array2::from_elem((targets.len(), pairs.len()), f32::NAN);
        let batches = runs.batches(|n| kept_bytes(config, grid, n))?;
        pairs.keep(&points)?;
        for batch in batches {
            if runs.ended() {
                break;
            }
            let gradients = runs.run(&batch, &Variant::Base, &[])?;
            for (pair, gradient) in batch.zip(&gradients) {
                let terms = points.iter().map(|at| {
                    let gradient = gradient.get(at)?;
                    Ok((at, products(pairs, pair, at, gradient)?))
                });
                let terms: BTreeMap<HookPoint, ArrayD<f32>> = terms.collect::<Result<_>>()?;
                for (target, mut to) in targets.iter().zip(changes.rows_mut()) {
                    to[pair] = sum_at(target, pair, terms[&target.point].view());
                }
            }
        }
        let finished = vec![!runs.partial(); targets.len()];
        let (clean, corrupted) = (
            pairs.clean.metric(&metric)?,
            pairs.corrupted.metric(&metric)?,
        );
        let sites: Vec<&str> = grid.sites().iter().map(|s| s.name()).collect();
        let [into, from] = pairs.names();
        let counts = [
            ("prompt pairs", pairs.len() as u64),
            ("gradient runs", runs.done() as u64),
        ];
        let about = About {
            title: format!("Attribution patching of {}", sites.join(", ")),
            caption: format!(
                "One activation of the {from} run patched into the {into} run, to first order, by \
                 the gradient of the {into} run; mean over {}.",
                count_pairs(pairs.len()),
            ),
            partial: runs.partial(),
            counts: counts.map(|(name, n)| (name.to_string(), n)).into(),
            ..self.about_runs(&metric, [&clean, &corrupted])
        };
        let measured = Measured {
            absent: Absent::not_run(&finished).collect(),
            base: Array1::zeros(pairs.len()),
            values: changes,
            axes,
        };
        let found = measured.label(about, &format!("{into} run"))?;
        Ok(EstimatedPatching {
            effect: found.effect,
            per_prompt: found.per_prompt,
            clean,
            corrupted,
        })
    }
}

/// The terms of the estimate at a point, in the activation's shape.
fn products(
    pairs: &Pairs<'_>,
    pair: usize,
    at: HookPoint,
    gradient: ArrayViewD<'_, f32>,
) -> Result<ArrayD<f32>> {
    let [base, donor] = pairs.base_and_donor();
    let (base, donor) = (base.held([at])?, donor.held([at])?);
    let mut terms = donor[pair].get(at)?.to_owned();
    Zip::from(&mut terms)
        .and(base[pair].get(at)?)
        .and(gradient)
        .for_each(|to, base, slope| {
            // Masked scores are the same infinity in both runs.
            let difference = if *to == *base { 0.0 } else { *to - base };
            *to = difference * slope;
        });
    Ok(terms)
}

/// The sum of what a target has of a pair's terms.
fn sum_at(target: &Target, pair: usize, terms: ArrayViewD<'_, f32>) -> f32 {
    let axes = target.point.axes();
    let mut own = terms.into_owned();
    for (axis, name) in axes.names().iter().enumerate() {
        let select = match *name {
            "head" => &target.heads,
            "src" => &target.src,
            _ if axis == axes.pos_axis() => &target.positions,
            _ => &Select::All,
        };
        if *select != Select::All {
            let chosen = select.resolve(pair, own.len_of(Dim(axis)));
            own = own.select(Dim(axis), &chosen);
        }
    }
    own.iter().map(|v| f64::from(*v)).sum::<f64>() as f32
}

/// The gradients of a pair of so many tokens at a grid's sites, their terms, and what one sum
/// copies.
fn kept_bytes(config: &Config, grid: Grid, n: usize) -> u64 {
    let floats = |site: Site| -> usize {
        let shape = site.axes().shape(config, n);
        shape.iter().product::<usize>() * (2 * config.n_layers + 4)
    };
    4 * grid.sites().into_iter().map(floats).sum::<usize>() as u64
}
