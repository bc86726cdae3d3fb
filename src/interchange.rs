//! Interchange interventions: does this part of the state carry that variable?
//!
//! ```text
//! h' = h_base + (h_source - h_base)·B·Bᵀ     at the positions that a map names
//! effect = m(base run with h') - m(base run)
//! ```
//!
//! with *B* an orthonormal basis: the whole state, some columns of it (neurons), or a subspace.
//! (Geiger et al. 2021, "Causal Abstractions of Neural Networks", section 3; with subspaces Geiger et
//! al. 2024, "Finding Alignments Between Interpretable Causal Variables and Distributed Neural
//! Representations", section 3.)
//!
//! ```
//! use patchlens::prelude::*;
//! use patchlens::interchange::{Interchange, PositionMap};
//! use patchlens::metric::accuracy;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let base = tokenizer.encode("Ada Brown plays the sport of")?;
//! let source = tokenizer.encode("Clara Evans plays the sport of")?;
//! let study = Interchange::new(&model, &base, &source)?;
//! let subject = PositionMap::same("subject", 0..2);
//! let metric = accuracy(&study.source().likeliest()?);
//! println!("{}", study.run(&[subject], &metric)?.raw()); // [map, layer]
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** By how much the metric of the base prompt changes if it gets the
//! source prompt's state there. With [`accuracy`](crate::metric::accuracy) of what the base prompt
//! should say if the state carried the variable, [`Interchanged::raw`] is the share of pairs that do
//! say it: interchange accuracy.
//!
//! **What it does not mean.** That the model uses the variable like this: a subspace that is searched
//! for can find a path that the model leaves dormant (Makelov et al. 2023), and a whole state
//! carries much besides. Compare with random subspaces of the same size, and with labels that mean
//! nothing. More in [the guide](crate::guide::states).

mod map;

pub use map::PositionMap;

use ndarray::{Array1, ArrayD};

use crate::base::Base;
use crate::effects::{Measured, layer_axis};
use crate::error::{Error, Result};
use crate::hook::{Axes, Site};
use crate::intervention::{Edit, Intervention, Select, Subspace, Target};
use crate::limits::{Limits, limits_methods};
use crate::metric::{Baseline, Metric};
use crate::model::Transformer;
use crate::pairs::averaged;
use crate::prompt::IntoPrompts;
use crate::report::{About, Absent, Axis, Labelled};
use crate::statistics::mean;
use crate::sweep::{Cell, Plan, Sweep, SweepResult};

/// What of a state is exchanged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    #[default]
    Whole,
    /// Some columns of its last axis: neurons of `[pos, d_mlp]`, dimensions of each head's
    /// `d_head`.
    Columns(Select),
    /// What lies in a subspace of its last axis.
    Subspace(Subspace),
}

impl Part {
    fn of(&self, target: Target) -> Target {
        match self {
            Part::Whole => target,
            Part::Columns(columns) => target.at_columns(columns.clone()),
            Part::Subspace(subspace) => target.in_subspace(subspace.clone()),
        }
    }

    fn columns(&self) -> &Select {
        match self {
            Part::Columns(columns) => columns,
            Part::Whole | Part::Subspace(_) => &Select::All,
        }
    }

    fn describe(&self) -> String {
        match self {
            Part::Whole => "states".to_string(),
            Part::Columns(columns) => format!("columns {columns} of states"),
            Part::Subspace(subspace) => format!("states, {subspace}"),
        }
    }
}

/// A study of pairs of a base prompt, which is run, and a source prompt, whose states it gets.
#[derive(Clone, Debug)]
pub struct Interchange<'m> {
    base: Base<'m>,
    source: Base<'m>,
    site: Site,
    part: Part,
    limits: Limits<'m>,
}

/// What states moved from one run into another do to a metric.
#[derive(Clone, Debug)]
pub struct Interchanged {
    /// By how much each changes the metric of the run that gets it: mean over the pairs, with
    /// standard errors where there are several. The baseline `base` is the metric without.
    pub effect: Labelled,
    /// The change for each pair; the last axis is the pair.
    pub per_prompt: ArrayD<f32>,
    /// The metric of each run; the last axis is the pair.
    pub values: ArrayD<f32>,
    raw: Labelled,
    /// The metric of the runs without, `[pair]`.
    pub base: Array1<f32>,
    /// What was run.
    pub plan: Plan,
}

impl Interchanged {
    /// The metric itself, mean over the pairs, with standard errors where there are several.
    pub fn raw(&self) -> &Labelled {
        &self.raw
    }

    /// Labels what a sweep found.
    pub(crate) fn of(
        result: SweepResult,
        axes: Vec<Axis>,
        metric: &Metric,
        mut about: About,
    ) -> Result<Self> {
        let base = Baseline {
            name: "base",
            values: &result.base,
        };
        about.notes = metric.notes(base, None);
        about.unit = metric.name().to_string();
        let whole = mean(result.base.iter().copied());
        about.baselines.insert("base".to_string(), whole);
        let counts = [
            ("prompt pairs", result.base.len() as u64),
            (About::MULTIPLY_ADDS, result.multiply_adds),
            (About::FULL_PASSES, result.plan.naive_multiply_adds),
        ];
        about.counts = counts.map(|(name, n)| (name.to_string(), n)).into();
        about.partial = result.partial;
        let measured = Measured {
            absent: Absent::not_run(&result.finished).collect(),
            values: result.values,
            base: result.base.clone(),
            axes,
        };
        let found = measured.label(about, "base run")?;
        Ok(Interchanged {
            effect: found.effect,
            per_prompt: found.per_prompt,
            values: found.values,
            raw: found.raw,
            base: result.base,
            plan: result.plan,
        })
    }
}

impl<'m> Interchange<'m> {
    /// A study of some pairs: of whole states of the residual stream after each layer, unless said
    /// otherwise. The two prompts of a pair may differ in length; one source prompt may serve all.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run; [`Error::Invalid`]
    /// for another number of source prompts.
    pub fn new(
        model: &'m Transformer,
        base: impl IntoPrompts,
        source: impl IntoPrompts,
    ) -> Result<Self> {
        Self::over(&Base::new(model, base)?, &Base::new(model, source)?)
    }

    /// A study of base runs, which other studies may share.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another number of source prompts than of base prompts, or one.
    pub fn over(base: &Base<'m>, source: &Base<'m>) -> Result<Self> {
        let (sources, pairs) = (source.prompts().len(), base.prompts().len());
        if sources != 1 && sources != pairs {
            let expected = crate::error::one_or_each(pairs, "base prompt");
            return Err(Error::invalid("source prompts", sources, expected));
        }
        Ok(Interchange {
            base: base.clone(),
            source: source.clone(),
            site: Site::ResidPost,
            part: Part::Whole,
            limits: Limits::default(),
        })
    }

    /// Exchanges states at another site than the residual stream after each layer: any but
    /// attention's scores and patterns.
    #[must_use]
    pub fn site(mut self, site: Site) -> Self {
        self.site = site;
        self
    }

    /// Exchanges a part of the states only.
    #[must_use]
    pub fn part(mut self, part: Part) -> Self {
        self.part = part;
        self
    }

    limits_methods!('m);

    /// The runs that get states.
    pub fn base(&self) -> &Base<'m> {
        &self.base
    }

    /// The runs that the states are of.
    pub fn source(&self) -> &Base<'m> {
        &self.source
    }

    /// Exchanges the states at the positions of each map in each layer: `[map, layer]`. A KL
    /// divergence without a reference is measured to the base runs.
    ///
    /// # Errors
    /// [`Error::Invalid`] without maps, for a site of attention and for a map that moves another
    /// number of positions than there are places for; [`Error::OutOfRange`] for a position that a
    /// prompt lacks; else same as [`Sweep::prepare`].
    pub fn run(&self, maps: &[PositionMap], metric: &Metric) -> Result<Interchanged> {
        if maps.is_empty() {
            return Err(Error::invalid("position maps", "none", "at least one"));
        }
        if self.site.axes() == Axes::Attention {
            let found = format!("{} with axes [head, dest, src]", self.site.name());
            let expected = "a site whose last axis does not depend on the prompt";
            return Err(Error::invalid("site of an interchange", found, expected));
        }
        let points = (0..self.base.model().config().n_layers).map(|layer| self.site.at(layer));
        let sources = self.source.held(points.clone())?;
        let mut cells: Vec<Cell> = Vec::new();
        for map in maps {
            let moves = map.moves(self.source.prompts(), self.base.prompts())?;
            for point in points.clone() {
                let values = moves.values(&sources, point, self.part.columns())?;
                let target = self.part.of(moves.target(point));
                cells.push(vec![Intervention::new(target, Edit::Patch(values))]);
            }
        }
        let metric = self.base.refer(metric)?;
        let result = Sweep::limited(&self.base, self.limits.clone()).run(&cells, &metric)?;
        Interchanged::of(result, self.axes(maps), &metric, self.about())
    }

    fn axes(&self, maps: &[PositionMap]) -> Vec<Axis> {
        let n_layers = self.base.model().config().n_layers;
        vec![
            Axis::new("map", maps.iter().map(|map| map.name.as_str())),
            layer_axis(self.site, n_layers),
        ]
    }

    fn about(&self) -> About {
        About {
            title: format!("Interchange of {}", self.part.describe()),
            caption: format!(
                "{} of the source run put into the base run; {}.",
                self.site.name(),
                averaged(self.base.prompts().len(), "prompt pair")
            ),
            ..About::default()
        }
    }
}
