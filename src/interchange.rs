//! Interchange interventions: does this part of the state carry that variable?
//!
//! ```text
//! h' = h_base + s·(h_source - h_base)·B·Bᵀ   at positions that correspond
//! effect = m(base run with h') - m(base run)
//! ```
//!
//! with *B* an orthonormal basis of what is exchanged, and *s* = 1 unless said otherwise: the whole
//! state, some columns of it (neurons), or a subspace. (Geiger et al. 2021, "Causal Abstractions of
//! Neural Networks"; with subspaces Geiger et al. 2024, "Finding Alignments Between Interpretable
//! Causal Variables and Distributed Neural Representations".)
//!
//! ```
//! use patchlens::prelude::*;
//! use patchlens::interchange::Interchange;
//! use patchlens::metric::accuracy;
//! use patchlens::patching::Alignment;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! let base = tokenizer.encode("Ada Brown plays the sport of")?;
//! let source = tokenizer.encode("Leo Green plays the sport of")?;
//! let subject = Alignment::roles([("subject", (0..2).into(), (0..2).into())]);
//! let study = Interchange::new(&model, &base, &source, subject)?;
//! let metric = accuracy(&study.source().likeliest()?);
//! println!("{}", study.run(&metric)?.raw()); // [layer, role]
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

use crate::alignment::{Aligned, Alignment, patches};
use crate::base::Base;
pub use crate::effects::Interchanged;
use crate::effects::layer_axis;
use crate::error::{Error, Result};
use crate::hook::{Axes, Site};
use crate::intervention::{Edit, Intervention, Select, Subspace, Target};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::{RunShape, Transformer};
use crate::pairs::averaged;
use crate::prompt::IntoPrompts;
use crate::report::{About, Axis};
use crate::sweep::Sweep;

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
    aligned: Aligned,
    site: Site,
    part: Part,
    limits: Limits<'m>,
}

impl<'m> Interchange<'m> {
    /// A study of some pairs, whose two prompts may differ in length: the first prompts of the
    /// alignment are those of the base, the second ones the sources. Whole states of the residual
    /// stream after each layer are exchanged, unless said otherwise.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for a prompt that cannot run, or that lacks a
    /// position which is named; [`Error::Invalid`] for another number of source prompts, without
    /// anything that corresponds, and for a position with two partners.
    pub fn new(
        model: &'m Transformer,
        base: impl IntoPrompts,
        source: impl IntoPrompts,
        alignment: Alignment,
    ) -> Result<Self> {
        let [base, source] = [Base::new(model, base)?, Base::new(model, source)?];
        Self::over(&base, &source, alignment)
    }

    /// A study of base runs, which other studies may share.
    ///
    /// # Errors
    /// Same as [`Interchange::new`].
    pub fn over(base: &Base<'m>, source: &Base<'m>, alignment: Alignment) -> Result<Self> {
        Ok(Interchange {
            aligned: alignment.of(base.prompts(), source.prompts())?,
            base: base.clone(),
            source: source.clone(),
            site: Site::ResidPost,
            part: Part::Whole,
            limits: Limits::default(),
        })
    }

    /// Exchanges all positions that correspond at once, rather than those of one role, or one by one.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a position to which roles give two partners.
    pub fn together(mut self) -> Result<Self> {
        self.aligned = self.aligned.joined()?;
        Ok(self)
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

    /// Exchanges the states of each layer at the positions of each column of the alignment:
    /// `[layer, role]`, or `[layer, position]` for a map of positions. A KL divergence without a
    /// reference is measured to the base runs.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a site of attention; [`Error::OutOfRange`] for a column that the site
    /// lacks, [`Error::Shape`] for a subspace of another width; else same as [`Sweep::prepare`].
    pub fn run(&self, metric: &Metric) -> Result<Interchanged> {
        if self.site.axes() == Axes::Attention {
            let found = format!("{} with axes [head, dest, src]", self.site.name());
            let expected = "a site whose last axis does not depend on the prompt";
            return Err(Error::invalid("site of an interchange", found, expected));
        }
        let points = (0..self.base.model().config().n_layers).map(|layer| self.site.at(layer));
        let columns = 0..self.aligned.labels.len();
        let target = |point| {
            let part = &self.part;
            let of = move |column: usize| part.of(Target::new(point).at_positions(column));
            columns.clone().map(of)
        };
        let targets: Vec<Target> = points.clone().flat_map(target).collect();
        self.check_parts(&targets)?;
        let beside = self.limits.room(self.base.held_beside(&self.source));
        let sources = self.source.held_within(points, beside)?;
        let (cells, lacking) = patches(&self.aligned, targets, &sources, true)?;
        let held = self.source.held_beside(&self.base);
        let metric = self.base.refer_within(metric, self.limits.room(held))?;
        let sweep = Sweep::limited(&self.base, self.limits.clone());
        let result = sweep.beside(held).run(&cells, &metric)?;
        let (axes, about) = (self.axes(), self.about());
        Interchanged::of(result, Some(&lacking), axes, about, &metric)
    }

    /// Checks the columns and the subspace, whatever the positions.
    fn check_parts(&self, targets: &[Target]) -> Result<()> {
        let shape = RunShape::whole(self.base.model(), self.base.prompts().lengths());
        targets.iter().try_for_each(|target| {
            let everywhere = target.clone().at_positions(Select::All);
            Intervention::new(everywhere, Edit::Zero).check(&shape)
        })
    }

    fn axes(&self) -> Vec<Axis> {
        let n_layers = self.base.model().config().n_layers;
        let Aligned {
            labels, by_role, ..
        } = &self.aligned;
        let columns = if *by_role {
            Axis::new("role", labels)
        } else {
            Axis::tokens("position", labels)
        };
        vec![layer_axis(self.site, n_layers), columns]
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
