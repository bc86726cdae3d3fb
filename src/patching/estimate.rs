//! Attribution patching: the effects of patches to first order.

mod terms;

use ndarray::{Array1, Array2, ArrayD};

use super::{ActivationPatching, Grid};
use crate::cache::ActivationCache;
use crate::config::Config;
use crate::effects::Measured;
use crate::error::{Error, Result};
use crate::hook::{HookPoint, Site};
use crate::intervention::{Subspace, Target};
use crate::metric::Metric;
use crate::pairs::{GradientRuns, Variant, averaged};
use crate::report::{About, Absent, Labelled};
use terms::Terms;

/// What estimates of patches correct. Both are from Kramár et al. 2024 (arXiv 2403.00745).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Corrections {
    /// For queries and keys, the exact change of the attention pattern times the gradient at the
    /// pattern (section 3.1, "QK fix"): a saturated pattern has almost no gradient, yet a patch may
    /// turn it over. A cell of several positions has the sum of theirs.
    pub qk_fix: bool,
    /// The mean over layers of the *absolute* estimate by a gradient without what flows through
    /// that layer's attention and MLP outputs (section 3.2, "GradDrop"), so that effects along two
    /// ways do not cancel. A cell gets nothing where its own layer is left out, hence the mean is
    /// over the other layers. Takes as many gradient runs per pair as there are layers.
    pub grad_drop: bool,
}

impl Corrections {
    /// Both: AtP*.
    pub const STAR: Corrections = Corrections {
        qk_fix: true,
        grad_drop: true,
    };

    /// Rejects grids whose cells have no term of their own: a pattern's change is that by a whole
    /// query or key.
    fn check(self, grid: Grid, subspace: Option<&Subspace>) -> Result<()> {
        let queries_or_keys = |site: &Site| matches!(site, Site::Q | Site::K);
        if let Some(subspace) = subspace.filter(|_| self.qk_fix)
            && let Some(site) = grid.sites().into_iter().find(queries_or_keys)
        {
            let found = format!("{} {subspace}", site.name());
            let expected = "whole queries and keys, or no QK fix";
            return Err(Error::invalid("grid for the QK fix", found, expected));
        }
        match grid {
            Grid::Columns(site @ (Site::Q | Site::K), _) if self.qk_fix => {
                let found = format!("columns of {}", site.name());
                let expected = "whole queries and keys, or no QK fix";
                Err(Error::invalid("grid for the QK fix", found, expected))
            }
            _ => Ok(()),
        }
    }

    /// Through what no gradient flows, by run.
    fn dropped(self, config: &Config) -> Result<Vec<Vec<HookPoint>>> {
        if !self.grad_drop {
            return Ok(vec![Vec::new()]);
        }
        if config.n_layers < 2 {
            return Err(Error::invalid("layers for GradDrop", 1, "at least 2"));
        }
        let writes = |layer| [Site::AttnOut, Site::MlpOut].map(|site| site.at(layer));
        let there = |point: &HookPoint| point.check(config).is_ok();
        let of_layer = |l| writes(l).into_iter().filter(there).collect();
        Ok((0..config.n_layers).map(of_layer).collect())
    }

    /// What was done, for a title and for a caption.
    fn describe(self, base: &str) -> (&'static str, String) {
        let gradient = format!("the gradient of the {base} run");
        let dropped = format!(
            "{gradient}, as the mean absolute value over gradients that leave out one layer each"
        );
        let fixed = "with exact changes of the attention patterns";
        match (self.qk_fix, self.grad_drop) {
            (false, false) => ("Attribution patching", gradient),
            (true, false) => (
                "Attribution patching (QK fix)",
                format!("{gradient}, {fixed}"),
            ),
            (false, true) => ("Attribution patching (GradDrop)", dropped),
            (true, true) => ("Attribution patching (AtP*)", format!("{dropped}, {fixed}")),
        }
    }
}

/// The effects of a patching study to first order, by gradients.
#[derive(Clone, Debug)]
pub struct EstimatedPatching {
    /// By how much each patch would change the metric of the run that is patched, to first order:
    /// mean over the prompt pairs, with standard errors where there are several; axes and signs of
    /// [`Patching::effect`](super::Patching::effect), but no signs with
    /// [GradDrop](Corrections::grad_drop).
    pub effect: Labelled,
    /// The same for each pair; the last axis is the pair. NaN for pairs that were not reached
    /// before an observer ended the study.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each corrupted run, `[pair]`.
    pub corrupted: Array1<f32>,
}

/// What gradient runs are to estimate.
struct Work<'w> {
    corrections: Corrections,
    /// Through what no gradient flows, by run.
    dropped: Vec<Vec<HookPoint>>,
    terms: Terms<'w>,
    targets: Vec<Target>,
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
    /// small; [`ActivationPatching::estimate_with`] has corrections. The sites of a grid may be any
    /// hook points of a block, such as those of the inputs split by head.
    ///
    /// Sources: Nanda 2023 ("Attribution patching"); Syed et al. 2023; Kramár et al. 2024, who call
    /// it AtP and rank by absolute values.
    ///
    /// ```
    /// use patchlens::patching::{ActivationPatching, Corrections};
    /// use patchlens::{Config, Grid, Prompt, Site, Transformer, logit_diff};
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
    /// let study = ActivationPatching::new(&model, &clean, &corrupted)?;
    /// let found = study.estimate(Grid::HeadPositions(Site::Result), &logit_diff(2, 4))?;
    /// assert_eq!(found.effect.values().shape(), [2, 3, 2]); // [layer, pos, head]
    /// let grid = Grid::HeadPositions(Site::Q);
    /// let star = study.estimate_with(Corrections::STAR, grid, &logit_diff(2, 4))?;
    /// assert!(star.effect.values().iter().all(|size| *size >= 0.0));
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// Same as [`ActivationPatching::run`]; also [`Error::Invalid`] for a metric without gradient
    /// (a rank, a closure), for [aligned](ActivationPatching::aligned) prompts, for a KL divergence to the very run that is patched, whose gradient
    /// there is zero, and for patched runs under interventions, and [`Error::MemoryLimit`] if one
    /// pair does not fit the memory limit.
    pub fn estimate(&self, grid: Grid, metric: &Metric) -> Result<EstimatedPatching> {
        self.estimate_with(Corrections::default(), grid, metric)
    }

    /// The same with [`Corrections`]; [`Corrections::STAR`] is AtP*.
    ///
    /// # Errors
    /// Same as [`ActivationPatching::estimate`]; [`Error::Invalid`] for GradDrop in a model of one
    /// layer, and for the QK fix of [`Grid::Columns`] of queries or keys.
    pub fn estimate_with(
        &self,
        corrections: Corrections,
        grid: Grid,
        metric: &Metric,
    ) -> Result<EstimatedPatching> {
        self.check_estimate(corrections, grid, metric)?;
        let pairs = &self.pairs;
        let config = pairs.model().config();
        let dropped = corrections.dropped(config)?;
        let axes = grid.axes(config, &self.labels(grid)?);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        let metric = pairs.clean.refer(metric)?;
        let targets = self.targets(grid, &shape)?;
        let terms = Terms {
            pairs,
            qk_fix: corrections.qk_fix,
            subspace: self.subspace.as_ref(),
            points: grid.points(config),
        };
        let (limits, gradients) = (&self.limits, terms.gradients());
        let mut runs = GradientRuns::new(pairs, &metric, limits, gradients, dropped.len());
        let work = Work {
            corrections,
            dropped,
            terms,
            targets,
        };
        let values = self.fill(&work, &mut runs)?;
        let finished = vec![!runs.partial(); values.nrows()];
        let measured = Measured {
            absent: Absent::not_run(&finished).collect(),
            base: Array1::zeros(pairs.len()),
            values,
            axes,
        };
        let ends = [
            pairs.clean.metric(&metric)?,
            pairs.corrupted.metric(&metric)?,
        ];
        let about = About {
            partial: runs.partial(),
            counts: [
                ("prompt pairs".to_string(), pairs.len() as u64),
                ("gradient runs".to_string(), runs.done() as u64),
            ]
            .into(),
            ..self.about_estimate(corrections, grid, &metric, &ends)
        };
        let found = measured.label_estimates(about, &format!("{} run", pairs.names()[0]))?;
        let [clean, corrupted] = ends;
        Ok(EstimatedPatching {
            effect: found.effect,
            per_prompt: found.per_prompt,
            clean,
            corrupted,
        })
    }

    /// Checks that there is an estimate.
    fn check_estimate(&self, corrections: Corrections, grid: Grid, metric: &Metric) -> Result<()> {
        if self.aligned.is_some() {
            let found = "prompts aligned position by position";
            let expected = "prompts of one length whose positions correspond, by `new` or `over`";
            return Err(Error::invalid("pairs to estimate", found, expected));
        }
        grid.check(self.pairs.model().config())?;
        corrections.check(grid, self.subspace.as_ref())?;
        self.pairs.check_gradients(metric, true)?;
        let others = "the other direction, which takes gradients of other runs, or another metric";
        self.pairs.check_slope(metric, others)
    }

    /// The estimates, `[cell, pair]`; NaN for pairs that were not reached.
    fn fill(&self, work: &Work<'_>, runs: &mut GradientRuns<'_>) -> Result<Array2<f32>> {
        let mut values = Array2::from_elem((work.targets.len(), self.pairs.len()), f32::NAN);
        let batches = runs.batches(|n| work.terms.bytes(n))?;
        self.pairs.keep(&work.terms.activations())?;
        for batch in batches {
            let mut sums = Array2::zeros((work.targets.len(), batch.len()));
            for constant in &work.dropped {
                if runs.ended() {
                    return Ok(values);
                }
                let gradients = runs.run(&batch, &Variant::Base, constant)?;
                let columns = batch.clone().zip(sums.columns_mut());
                for ((pair, mut sums), gradient) in columns.zip(&gradients) {
                    let found = work.estimates(pair, gradient, constant)?;
                    sums.iter_mut().zip(found).for_each(|(to, v)| *to += v);
                }
            }
            for (pair, sums) in batch.zip(sums.columns()) {
                let sums = sums.mapv(|sum: f64| sum as f32);
                values.column_mut(pair).assign(&sums);
            }
        }
        Ok(values)
    }

    fn about_estimate(
        &self,
        corrections: Corrections,
        grid: Grid,
        metric: &Metric,
        [clean, corrupted]: &[Array1<f32>; 2],
    ) -> About {
        let sites: Vec<&str> = grid.sites().iter().map(|s| s.name()).collect();
        let [into, from] = self.pairs.names();
        let (title, by) = corrections.describe(into);
        About {
            title: format!("{title} of {}{}", sites.join(", "), self.of_subspace()),
            caption: format!(
                "One activation of the {from} run patched into the {into} run, to first order, by \
                 {by}; {}.",
                averaged(self.pairs.len(), "prompt pair"),
            ),
            ..self.about_runs(metric, [clean, corrupted])
        }
    }
}

impl Work<'_> {
    /// What one gradient run of a pair adds to the estimate of each cell.
    fn estimates(
        &self,
        pair: usize,
        gradient: &ActivationCache,
        constant: &[HookPoint],
    ) -> Result<Vec<f64>> {
        let terms = self.terms.of(pair, gradient)?;
        let own = |target: &Target| match target.point {
            // What a constant output is the sum of goes no further than the output.
            HookPoint::Block(layer, Site::Result) => constant.contains(&Site::AttnOut.at(layer)),
            point => constant.contains(&point),
        };
        let others = self.dropped.len().saturating_sub(1) as f64;
        let estimate = |target: &Target| {
            if own(target) {
                return 0.0;
            }
            let sum = terms::sum_at(target, pair, terms[&target.point].view());
            if self.corrections.grad_drop {
                sum.abs() / others
            } else {
                sum
            }
        };
        Ok(self.targets.iter().map(estimate).collect())
    }
}
