//! Activation patching: which activations, put from one run into another, move the answer?
//!
//! With a metric *m*, a clean prompt and a corrupted one, the effect of an activation *a* is
//!
//! ```text
//! effect(a) = m(corrupted run with a taken from the clean run) - m(corrupted run)
//! ```
//!
//! (Vig et al. 2020; Meng et al. 2022; Wang et al. 2022; TransformerLens's `patching.py`; how to
//! read it: Heimersheim & Nanda 2024.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
//! let corrupted = tokenizer.encode("When Mary and John went to the store, Mary gave a drink to")?;
//! let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);
//! let found = activation_patching(&model, &clean, &corrupted, Grid::Heads(Site::Z), &metric)?;
//! println!("{}\n{}", found.effect, found.effect.top(3));
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** 0: the patch changes nothing. In units of the metric, mean over the
//! prompt pairs with its standard error; [`Patching::normalized`] scales the difference of the
//! two runs to 1. This direction (denoising) finds what is enough to bring the answer back;
//! [`Direction::Noising`] what it cannot do without. Parts joined by "and" show under noising only,
//! parts joined by "or" under denoising only.
//!
//! **What it does not mean.** A patch carries everything that the two prompts differ in. A part
//! that others can replace shows little. A probability that is near 0 or 1 in both runs hides
//! effects: look at [`Patching::clean`] and [`Patching::corrupted`] first. More in
//! [the guide](crate::guide::patching).

mod aligned;
mod estimate;
mod grid;
mod subspace;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use ndarray::{Array1, Array2, ArrayD};

pub use estimate::{Corrections, EstimatedPatching};
pub use grid::Grid;

use crate::alignment::Aligned;
pub use crate::alignment::Alignment;
use crate::base::Base;
use crate::cache::ActivationCache;
use crate::effects::Measured;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::intervention::{Edit, Intervention, Subspace, Target};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::model::stage::Frozen;
use crate::pairs::{Pairs, averaged, position_labels};
use crate::prompt::IntoPrompts;
pub use crate::report::Direction;
use crate::report::{About, Absent, Labelled};
use crate::statistics;
use crate::sweep::{Cell, Plan, Sweep, SweepResult};

/// A patching study: pairs of prompts, and which run is patched into which.
///
/// The runs are made once, whatever the number of grids.
#[derive(Clone, Debug)]
pub struct ActivationPatching<'m> {
    pairs: Pairs<'m>,
    aligned: Option<Aligned>,
    subspace: Option<Subspace>,
    position_labels: Option<Vec<String>>,
    limits: Limits<'m>,
}

/// What a patching study found.
#[derive(Clone, Debug)]
pub struct Patching {
    /// By how much each patch changes the metric of the run that is patched (the corrupted one
    /// when denoising, the clean one when noising): mean over the prompt pairs, with standard
    /// errors where there are several. 0 is no change.
    pub effect: Labelled,
    /// The change for each pair; the last axis is the pair. [`Patching::per_prompt_absent`] says
    /// why one is NaN.
    pub per_prompt: ArrayD<f32>,
    /// Why a pair has no value; the last axis is the pair. [`Absent::NoSamples`] where the two
    /// prompts of an aligned pair have nothing that corresponds.
    pub per_prompt_absent: ArrayD<Option<Absent>>,
    /// The metric of each patched run; the last axis is the pair.
    pub values: ArrayD<f32>,
    raw: Labelled,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each corrupted run, `[pair]`.
    pub corrupted: Array1<f32>,
    /// What was planned (and done, unless the result is partial).
    pub plan: Plan,
}

impl Patching {
    /// The metric of the patched runs itself, mean over the prompt pairs, as TransformerLens has
    /// it: with standard errors where there are several pairs.
    pub fn raw(&self) -> &Labelled {
        &self.raw
    }

    /// The effect over `clean − corrupted` of the means: 0 where a patch changes nothing; 1 where
    /// it restores the clean run's metric (denoising), −1 where it takes all that the corrupted
    /// run lacks (noising). Standard errors are scaled alike: the baselines' own are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] if both baselines are equal or not finite.
    pub fn normalized(&self) -> Result<Labelled> {
        self.effect.normalized()
    }

    /// Saves the effect, see [`Labelled::save`].
    ///
    /// # Errors
    /// Same as [`Labelled::save`].
    pub fn save(&self, path: impl AsRef<std::path::Path>) -> Result<()> {
        self.effect.save(path)
    }
}

/// Patches clean activations into corrupted runs, one grid cell at a time; the effect is the change
/// of the metric from the corrupted run. [`ActivationPatching`] has the other direction and more
/// settings.
///
/// ```
/// use patchlens::{Config, Grid, Prompt, Site, Transformer, activation_patching, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let metric = logit_diff(2, 4);
/// let found = activation_patching(&model, &clean, &corrupted, Grid::Heads(Site::Z), &metric)?;
/// assert_eq!(found.effect.values().shape(), [2, 2]); // [layer, head]
/// println!("{}", found.effect.top(3)); // the heads whose patch changes the metric most
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// Same as [`ActivationPatching::new`] and [`ActivationPatching::run`].
pub fn activation_patching(
    model: &Transformer,
    clean: impl IntoPrompts,
    corrupted: impl IntoPrompts,
    grid: Grid,
    metric: &Metric,
) -> Result<Patching> {
    ActivationPatching::new(model, clean, corrupted)?.run(grid, metric)
}

impl<'m> ActivationPatching<'m> {
    /// A study of prompt pairs.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] if a prompt cannot run, [`Error::Invalid`] for
    /// another number of corrupted prompts, [`Error::Prompt`] if the two of a pair differ in
    /// length.
    pub fn new(
        model: &'m Transformer,
        clean: impl IntoPrompts,
        corrupted: impl IntoPrompts,
    ) -> Result<Self> {
        let pairs = Pairs::new(model, clean, corrupted, Direction::Denoising)?;
        Ok(Self::of(pairs))
    }

    /// A study of prompt pairs of different lengths: what one run has at a position is patched in
    /// where the other one has its partner. Grids by position have a column per role or per
    /// position of the clean prompts; grids without positions patch all that correspond at once.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] if a prompt cannot run or lacks a position that
    /// is named, [`Error::Invalid`] for another number of corrupted prompts, without anything that
    /// corresponds, and for a position with two partners.
    pub fn aligned(
        model: &'m Transformer,
        clean: impl IntoPrompts,
        corrupted: impl IntoPrompts,
        alignment: Alignment,
    ) -> Result<Self> {
        let clean = Base::new(model, clean)?;
        let corrupted = Base::new(model, corrupted)?;
        let aligned = alignment.of(clean.prompts(), corrupted.prompts())?;
        let direction = Direction::Denoising;
        let mut study = Self::of(Pairs {
            clean,
            corrupted,
            direction,
        });
        study.aligned = Some(aligned);
        Ok(study)
    }

    /// A study of base runs, which other studies may share.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many corrupted prompts as prompts,
    /// [`Error::Prompt`] if the two
    /// of a pair differ in length.
    pub fn over(clean: &Base<'m>, corrupted: &Base<'m>) -> Result<Self> {
        let pairs = Pairs::over(clean, corrupted, Direction::Denoising)?;
        Ok(Self::of(pairs))
    }

    fn of(pairs: Pairs<'m>) -> Self {
        ActivationPatching {
            pairs,
            aligned: None,
            subspace: None,
            position_labels: None,
            limits: Limits::default(),
        }
    }

    /// Whether clean is patched into corrupted (the default) or the other way round.
    #[must_use]
    pub fn direction(mut self, direction: Direction) -> Self {
        self.pairs.direction = direction;
        self
    }

    /// Labels of the positions; by default the tokens, where all prompts agree.
    #[must_use]
    pub fn position_labels(mut self, labels: Vec<String>) -> Self {
        self.position_labels = Some(labels);
        self
    }

    limits_methods!('m);

    /// Runs the study.
    ///
    /// # Errors
    /// [`Error::Prompt`] if the grid has positions and the pairs differ in length;
    /// [`Error::Invalid`] for a site that does not fit the grid, [`Error::OutOfRange`] for a layer
    /// that the model lacks; [`Error::Shape`] for a subspace of another width; else same as
    /// [`Sweep::prepare`].
    pub fn run(&self, grid: Grid, metric: &Metric) -> Result<Patching> {
        let config = self.pairs.model().config();
        grid.check(config)?;
        let labels = self.labels(grid)?;
        let mut axes = grid.axes(config, &labels);
        if let Some(aligned) = &self.aligned {
            aligned::name_roles(aligned, &mut axes, &labels);
        }
        let shape: Vec<usize> = axes.iter().map(|a| a.labels.len()).collect();
        let (points, targets) = (grid.points(config), self.targets(grid, &shape)?);
        let [base, donor] = self.pairs.base_and_donor();
        for runs in [donor, base] {
            runs.expect(points.iter().copied(), Frozen::default());
        }
        let room = |held| self.limits.room(held);
        let metric = self.pairs.clean.refer_within(metric, room(0))?;
        let donors = donor.held_within(points, room(base.held_beside(donor)))?;
        let (cells, lacking) = self.cells(grid, targets, &donors)?;
        let sweep = Sweep::limited(base, self.limits.clone());
        let sweep = sweep.beside(donor.held_beside(base));
        let result = sweep.run(&cells, &metric)?;
        let beside = room(base.held_beside(donor));
        let mut runs = [donor.metric_within(&metric, beside)?, result.base.clone()];
        if self.pairs.direction == Direction::Noising {
            runs.reverse();
        }
        let [clean, corrupted] = runs;
        let about = self.about(grid, &metric, [&clean, &corrupted], &result);
        let measured = Measured {
            absent: Absent::not_run(&result.finished).collect(),
            values: result.values,
            base: result.base,
            axes,
        };
        let per_prompt_absent = measured.absent_by_prompt(lacking.as_ref());
        let against = format!("{} run", self.pairs.names()[0]);
        let found = match &lacking {
            None => measured.label(about, &against)?,
            Some(lacking) => measured.label_without(lacking, about, &against)?,
        };
        Ok(Patching {
            effect: found.effect,
            per_prompt: found.per_prompt,
            per_prompt_absent,
            values: found.values,
            raw: found.raw,
            clean,
            corrupted,
            plan: result.plan,
        })
    }

    /// The cells of a grid, and which pairs lack what a cell is about, `[cell, pair]`.
    fn cells(
        &self,
        grid: Grid,
        targets: Vec<Target>,
        donors: &[ActivationCache],
    ) -> Result<(Vec<Cell>, Option<Array2<bool>>)> {
        let Some(aligned) = &self.aligned else {
            return Ok((cells(targets, donors)?, None));
        };
        let into_clean = self.pairs.direction == Direction::Noising;
        let (cells, lacking) = aligned::cells(aligned, grid, targets, donors, into_clean)?;
        Ok((cells, Some(lacking)))
    }

    fn labels(&self, grid: Grid) -> Result<Vec<String>> {
        if !grid.by_position() {
            return Ok(Vec::new());
        }
        let [clean, corrupted] = [&self.pairs.clean, &self.pairs.corrupted].map(Base::prompts);
        let labels = match &self.aligned {
            None => position_labels("clean", clean, corrupted)?,
            Some(aligned) => aligned.labels.clone(),
        };
        match &self.position_labels {
            Some(own) if own.len() != labels.len() => Err(Error::invalid(
                "position labels",
                own.len(),
                format!("{}, one per position", labels.len()),
            )),
            own => Ok(own.clone().unwrap_or(labels)),
        }
    }

    fn about(
        &self,
        grid: Grid,
        metric: &Metric,
        runs: [&Array1<f32>; 2],
        result: &SweepResult,
    ) -> About {
        let about = self.about_runs(metric, runs);
        let sites: Vec<&str> = grid.sites().iter().map(|s| s.name()).collect();
        let [into, from] = self.pairs.names();
        let counts = [
            ("prompt pairs", self.pairs.len() as u64),
            (About::MULTIPLY_ADDS, result.multiply_adds),
            (About::FULL_PASSES, result.plan.naive_multiply_adds),
        ];
        About {
            title: format!(
                "Activation patching of {}{}",
                sites.join(", "),
                self.of_subspace()
            ),
            caption: format!(
                "One activation of the {from} run patched into the {into} run; {}.",
                averaged(self.pairs.len(), "prompt pair"),
            ),
            partial: result.partial,
            counts: counts.map(|(name, n)| (name.to_string(), n)).into(),
            notes: about
                .notes
                .into_iter()
                .chain(result.note_of_cells())
                .collect(),
            ..about
        }
    }

    /// What is known of the two runs by themselves.
    fn about_runs(&self, metric: &Metric, [clean, corrupted]: [&Array1<f32>; 2]) -> About {
        let mean = |values: &Array1<f32>| statistics::mean(values.iter().copied());
        let baselines = [("clean", mean(clean)), ("corrupted", mean(corrupted))];
        About {
            unit: metric.name().to_string(),
            direction: Some(self.pairs.direction),
            notes: self.pairs.notes(metric, clean, corrupted),
            baselines: baselines.map(|(name, v)| (name.to_string(), v)).into(),
            ..About::default()
        }
    }
}

/// One cell per target of the grid. All cells of a point share its values.
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
