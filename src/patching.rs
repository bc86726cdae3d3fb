//! Activation patching: which activations, swapped between a clean and a corrupted run, move the
//! answer (Vig et al. 2020; Meng et al. 2022; Wang et al. 2022; TransformerLens's `patching.py`).

mod grid;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::ControlFlow;

use ndarray::{Array1, ArrayD, Axis as Dim};

pub use grid::Grid;
use grid::targets;

use crate::cache::ActivationCache;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::{Edit, Intervention, Target};
use crate::metric::Metric;
use crate::model::{Run, Transformer};
use crate::pairs::{checked_pairs, count_pairs, position_labels, with_reference};
use crate::prompt::Prompt;
use crate::report::{About, Direction, Labelled};
use crate::statistics::shaped;
use crate::sweep::{Cell, DEFAULT_MEMORY_LIMIT, Plan, Progress, Sweep, points_read};

/// A patching study: pairs of prompts, and which run is patched into which.
#[derive(Clone, Debug)]
pub struct ActivationPatching<'m> {
    model: &'m Transformer,
    clean: Vec<Prompt>,
    corrupted: Vec<Prompt>,
    /// Whether clean is patched into corrupted (the default) or the other way round.
    pub direction: Direction,
    /// Bound of the sweep's working memory, in bytes.
    pub memory_limit: u64,
    /// Labels of the positions; by default the tokens, where all prompts agree.
    pub position_labels: Option<Vec<String>>,
}

/// What a patching study gave.
#[derive(Clone, Debug)]
pub struct Patching {
    /// The raw metric, mean over the prompt pairs, with labelled axes and both baselines.
    pub effect: Labelled,
    /// The raw metric of each pair; the last axis is the pair.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each corrupted run, `[pair]`.
    pub corrupted: Array1<f32>,
    /// What was planned (and done, unless the result is partial).
    pub plan: Plan,
}

impl Patching {
    /// The effect as `(m − corrupted) / (clean − corrupted)` of the means: 0 is the corrupted
    /// run, 1 the clean one.
    ///
    /// # Errors
    /// [`Error::Invalid`] if both baselines are equal.
    pub fn normalized(&self) -> Result<Labelled> {
        self.effect.normalized()
    }

    /// Saves the raw effect, see [`Labelled::save`].
    ///
    /// # Errors
    /// As [`Labelled::save`].
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.effect.save(path)
    }
}

/// Patches clean activations into corrupted runs, one grid cell at a time; the result is the
/// metric of each patched run. [`ActivationPatching`] has the other direction and more settings.
///
/// ```
/// use patchlens::{Config, Grid, Prompt, Site, Transformer, activation_patching, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11, ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let metric = logit_diff(2, 4);
/// let found = activation_patching(&model, &clean, &corrupted, Grid::heads(Site::Z), &metric)?;
/// assert_eq!(found.effect.values().shape(), [2, 2]); // [layer, head]
/// println!("{}", found.normalized()?);
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// As [`ActivationPatching::new`] and [`ActivationPatching::run`].
pub fn activation_patching(
    model: &Transformer,
    clean: &(impl AsRef<[Prompt]> + ?Sized),
    corrupted: &(impl AsRef<[Prompt]> + ?Sized),
    grid: Grid,
    metric: &Metric,
) -> Result<Patching> {
    ActivationPatching::new(model, clean, corrupted)?.run(grid, metric)
}

impl<'m> ActivationPatching<'m> {
    /// A study of prompt pairs.
    ///
    /// # Errors
    /// [`Error::Prompt`] if a prompt cannot run, or the two of a pair differ in length.
    pub fn new(
        model: &'m Transformer,
        clean: &(impl AsRef<[Prompt]> + ?Sized),
        corrupted: &(impl AsRef<[Prompt]> + ?Sized),
    ) -> Result<Self> {
        let names = ["clean", "corrupted"];
        let (clean, corrupted) = checked_pairs(model, names, clean, corrupted)?;
        Ok(ActivationPatching {
            model,
            clean,
            corrupted,
            direction: Direction::Denoising,
            memory_limit: DEFAULT_MEMORY_LIMIT,
            position_labels: None,
        })
    }

    /// Runs the study.
    ///
    /// # Errors
    /// [`Error::Prompt`] if the grid has positions and the pairs differ in length;
    /// [`Error::Invalid`] for a site that does not fit the grid; else as [`Sweep::prepare`].
    pub fn run(&self, grid: Grid, metric: &Metric) -> Result<Patching> {
        self.run_observed(grid, metric, |_| ControlFlow::Continue(()))
    }

    /// As [`ActivationPatching::run`], telling an observer how far the sweep has come.
    ///
    /// # Errors
    /// As [`ActivationPatching::run`].
    pub fn run_observed(
        &self,
        grid: Grid,
        metric: &Metric,
        observer: impl FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Patching> {
        grid.check()?;
        let config = self.model.config();
        let axes = grid.axes(config.n_layers, config.n_heads, &self.labels(grid)?);
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        let metric = with_reference(self.model, &self.clean, metric)?;
        let points: Vec<HookPoint> = grid
            .sites()
            .into_iter()
            .flat_map(|site| (0..config.n_layers).map(move |layer| site.at(layer)))
            .collect();
        let (donor, base) = match self.direction {
            Direction::Denoising => (&self.clean, &self.corrupted),
            Direction::Noising => (&self.corrupted, &self.clean),
        };
        let donors = self.donor_caches(donor, &points)?;
        let donor_metric = Sweep::new(self.model, donor)?
            .with_base(&donors)?
            .run(&[], &metric)?
            .base;
        let cells = cells(targets(grid, &shape), &donors)?;
        let sweep = Sweep::new(self.model, base)?
            .with_base_over(&donors)?
            .memory_limit(self.memory_limit);
        let result = sweep.prepare(&cells, &metric)?.run_observed(observer)?;
        let (clean, corrupted) = match self.direction {
            Direction::Denoising => (donor_metric, result.base),
            Direction::Noising => (result.base, donor_metric),
        };
        let mean = result.values.mean_axis(Dim(1)).unwrap_or_default();
        let mut about = self.about(grid, &metric, &clean, &corrupted);
        about.partial = result.partial;
        about
            .counts
            .insert("multiply-adds".to_string(), result.multiply_adds);
        about.counts.insert(
            "multiply-adds, naive".to_string(),
            result.plan.naive_multiply_adds,
        );
        let with_prompts = [&shape[..], &[self.clean.len()]].concat();
        Ok(Patching {
            effect: Labelled::new(shaped(&shape, mean), axes, about)?,
            per_prompt: shaped(&with_prompts, result.values),
            clean,
            corrupted,
            plan: result.plan,
        })
    }

    fn donor_caches(
        &self,
        prompts: &[Prompt],
        points: &[HookPoint],
    ) -> Result<Vec<ActivationCache>> {
        let selection = points_read(self.model.config(), points.iter().copied());
        let run = Run {
            cache: Some(&selection),
            logits: crate::model::KeepLogits::None,
            ..Run::default()
        };
        Ok(self.model.run(prompts, (), &run)?.caches)
    }

    fn labels(&self, grid: Grid) -> Result<Vec<String>> {
        if !grid.by_position() {
            return Ok(Vec::new());
        }
        let labels = position_labels("clean", &self.clean, &self.corrupted)?;
        match &self.position_labels {
            Some(own) if own.len() != labels.len() => Err(Error::invalid(
                "position labels",
                own.len(),
                format!("{}, one a token", labels.len()),
            )),
            own => Ok(own.clone().unwrap_or(labels)),
        }
    }

    fn about(
        &self,
        grid: Grid,
        metric: &Metric,
        clean: &Array1<f32>,
        corrupted: &Array1<f32>,
    ) -> About {
        let sites: Vec<&str> = grid.sites().iter().map(|s| s.name()).collect();
        let (from, into) = match self.direction {
            Direction::Denoising => ("clean", "corrupted"),
            Direction::Noising => ("corrupted", "clean"),
        };
        let pairs = self.clean.len();
        let mean = |values: &Array1<f32>| values.mean().unwrap_or(f32::NAN);
        let baselines = [("clean", mean(clean)), ("corrupted", mean(corrupted))];
        let mut about = About {
            title: format!("Activation patching: {}", sites.join(", ")),
            caption: format!(
                "One activation of the {from} run patched into the {into} run; mean {} over {}.",
                metric.name(),
                count_pairs(pairs),
            ),
            unit: metric.name().to_string(),
            direction: Some(self.direction),
            ..About::default()
        };
        about
            .baselines
            .extend(baselines.map(|(name, value)| (name.to_string(), value)));
        about
            .counts
            .insert("prompt pairs".to_string(), pairs as u64);
        about
    }
}

/// One cell a target of the grid. All cells of a point share its values.
fn cells(targets: Vec<Target>, donors: &[ActivationCache]) -> Result<Vec<Cell>> {
    let mut edits: BTreeMap<HookPoint, Edit> = BTreeMap::new();
    let mut cells = Vec::with_capacity(targets.len());
    for target in targets {
        let edit = match edits.entry(target.point) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Edit::patch(donors, target.point)?),
        };
        cells.push(vec![Intervention::new(target, edit.clone())]);
    }
    Ok(cells)
}
