//! What is left of a behaviour when only a circuit's edges carry it.

mod ablation;
mod curve;
mod flow;
mod hooks;
mod plan;
mod route;
mod runs;
mod tables;

use std::collections::BTreeMap;

pub use ablation::EdgeAblation;
use ablation::Ends;
pub use curve::FaithfulnessCurve;
use ndarray::{Array1, Array2};
use runs::{Found, Runs, Setting};

use super::graph::Graph;
use super::set::EdgeSet;
use crate::base::Base;
use crate::effects::Measured;
use crate::error::{Error, Result};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::pairs::{Pairs, averaged};
use crate::prompt::IntoPrompts;
use crate::report::{About, Absent, Axis, Direction, Labelled};
use crate::statistics;
use crate::sweep::Plan;

/// Runs of clean prompts in which only the edges of a circuit carry what their sources write in
/// this very run; every other edge carries an [ablation](EdgeAblation), by default what its source wrote
/// in the corrupted run (Hanna et al. 2024; MIB). [`CircuitRun`] names the other meaning that a
/// circuit's run can have. No edge kept is the corrupted run, and all kept the clean one, to the
/// bit.
///
/// With `a_u` what source `u` writes in this run and `ã_u` what it is ablated to, receiver `v`
/// reads
///
/// ```text
/// x_v = (the stream at v of the run in which no edge is kept) + Σ over kept u→v of (a_u − ã_u)
/// ```
///
/// in graph order; for circuits of more than half of all edges, this run's own stream plus
/// `ã_u − a_u` for each edge outside. Both differ by rounding only. The runs are lanes over the run
/// that they depart from: in a small circuit only its own nodes are computed, and in a large one
/// what is downstream of the edges left out. A circuit's bits do not depend on the order of its edges
/// nor on what runs beside it.
///
/// With `m` the metric, averaged over the pairs, the [faithfulness](EvaluatedCircuits::faithfulness)
/// of a circuit is
///
/// ```text
/// (m(circuit) − m(corrupted)) / (m(clean) − m(corrupted))
/// ```
///
/// 1 is all of the behaviour, 0 none; it can exceed 1 where edges that work against the behaviour
/// are left out. It is a ratio of means: a mean of ratios is dominated by pairs on which the two
/// runs hardly differ (Miller et al. 2024).
///
/// ```
/// use patchlens::circuits::{Approximation, CircuitEvaluation, EdgeAttribution, Ranking};
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let metric = logit_diff(2, 4);
/// let scores = EdgeAttribution::new(&model, &clean, &corrupted)?;
/// let scores = scores.run(Approximation::Eap, &metric)?.scores()?;
/// let circuits = [5, 15, 46].map(|n| scores.top_n(n, Ranking::Signed));
/// let circuits = circuits.into_iter().collect::<Result<Vec<_>, _>>()?;
/// let found = CircuitEvaluation::new(&model, &clean, &corrupted)?.run(&circuits, &metric)?;
/// println!("{}", found.faithfulness()?);
/// assert_eq!(found.values[[2, 0]], found.clean[0]); // all 46 edges
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CircuitEvaluation<'m> {
    pairs: Pairs<'m>,
    limits: Limits<'m>,
    ablation: EdgeAblation,
    ends: Ends<'m>,
    circuit_run: CircuitRun,
    known_nodes: bool,
}

/// What the edges of a circuit carry. The two are different numbers (both are in UFO-101's
/// auto-circuit, as `TREE_PATCH` and `EDGE_PATCH`).
///
/// ```
/// use patchlens::circuits::{CircuitEvaluation, CircuitRun, EdgeSet};
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let tree = CircuitEvaluation::new(&model, &clean, &corrupted)?;
/// let edge = tree.clone().circuit_run(CircuitRun::Edge);
/// // Nothing feeds the head: by itself it carries nothing, corrected it carries the clean value.
/// let circuit = [EdgeSet::from_names(tree.graph(), ["a1.h0->logits"])?];
/// let metric = logit_diff(2, 4);
/// let [tree, edge] = [tree.run(&circuit, &metric)?, edge.run(&circuit, &metric)?];
/// assert_eq!(tree.values.row(0), tree.corrupted);
/// assert_ne!(edge.values.row(0), edge.corrupted);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CircuitRun {
    /// What their sources write in this very run, of the clean prompt, in which all other edges
    /// are ablated: the circuit alone computes.
    #[default]
    Tree,
    /// What their sources wrote in the clean run, in a run of the corrupted prompt in which all
    /// other edges carry what their sources write: the whole model computes, corrected along the
    /// circuit. With [`EdgeAblation::Corrupted`] and [`EdgeAblation::Resample`] only.
    Edge,
}

/// What is left of a metric in some circuits.
#[derive(Clone, Debug)]
pub struct EvaluatedCircuits {
    /// The metric of each circuit's runs minus that of the runs in which no edge is kept,
    /// `[circuit]`: mean over the pairs, with standard errors where there are several.
    pub effect: Labelled,
    /// The metric of each circuit on each pair, `[circuit, pair]`; NaN for what was not reached
    /// before an observer ended the study.
    pub values: Array2<f32>,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each run in which no edge is kept, `[pair]`: of each corrupted run, unless
    /// edges carry another [`EdgeAblation`].
    pub corrupted: Array1<f32>,
}

impl EvaluatedCircuits {
    /// The share of the behaviour that each circuit carries, `[circuit]`: the mean effect over
    /// `clean − corrupted` of the means. Standard errors are scaled alike: the baselines' own are
    /// left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] if both baselines are equal or not finite.
    pub fn faithfulness(&self) -> Result<Labelled> {
        let mut share = self.effect.normalized()?;
        share.about.title = "Faithfulness of circuits".to_string();
        Ok(share)
    }
}

impl<'m> CircuitEvaluation<'m> {
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
        Self::of(Pairs::new(model, clean, corrupted, Direction::Denoising)?)
    }

    /// A study of base runs, which other studies may share.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many corrupted prompts as prompts, and for clean runs
    /// under interventions, which circuits' runs would lack; [`Error::Prompt`] if the two of a pair
    /// differ in length; [`Error::NotCached`] if given caches lack an activation.
    pub fn over(clean: &Base<'m>, corrupted: &Base<'m>) -> Result<Self> {
        if let Some(first) = clean.interventions().first() {
            let found = format!("runs under an intervention at `{}`", first.target);
            return Err(Error::invalid("clean runs", found, "plain ones"));
        }
        Self::of(Pairs::over(clean, corrupted, Direction::Denoising)?)
    }

    fn of(pairs: Pairs<'m>) -> Result<Self> {
        Ok(CircuitEvaluation {
            ends: Ends::corrupted(&pairs)?,
            pairs,
            limits: Limits::default(),
            ablation: EdgeAblation::Corrupted,
            circuit_run: CircuitRun::default(),
            known_nodes: false,
        })
    }

    /// The same within other limits.
    pub(super) fn limited(&self, limits: Limits<'m>) -> Self {
        CircuitEvaluation {
            limits,
            ..self.clone()
        }
    }

    limits_methods!('m);

    /// What edges outside a circuit carry; [`EdgeAblation::Corrupted`] by default. Means run their
    /// prompts.
    ///
    /// # Errors
    /// [`Error::Prompt`] or [`Error::OutOfRange`] for prompts to average over that the model cannot
    /// run; [`Error::Invalid`] if none of them has as many tokens as a pair, or if there is no other
    /// pair of its length to resample from.
    pub fn ablation(mut self, ablation: EdgeAblation) -> Result<Self> {
        self.ends = Ends::new(&self.pairs, &ablation)?;
        self.ablation = ablation;
        Ok(self)
    }

    /// What the edges of a circuit carry; [`CircuitRun::Tree`] by default.
    #[must_use]
    pub fn circuit_run(mut self, circuit_run: CircuitRun) -> Self {
        self.circuit_run = circuit_run;
        self
    }

    /// Whether nodes are taken from the clean run whose every edge is kept, all the way from the
    /// input, rather than computed from the stream of ablations. The same up to rounding, and
    /// cheaper for circuits that are whole up to some layer, as [`Acdc`](super::Acdc)'s are on the
    /// way. `false` by default.
    #[must_use]
    pub fn known_nodes(mut self, known: bool) -> Self {
        self.known_nodes = known;
        self
    }

    /// The graph whose edges the model has.
    pub fn graph(&self) -> Graph {
        self.pairs.graph()
    }

    /// What will be done for some circuits. Its `cells` are the circuits.
    ///
    /// # Errors
    /// Same as [`CircuitEvaluation::run`].
    pub fn plan(&self, circuits: &[EdgeSet], metric: &Metric) -> Result<Plan> {
        let metric = self.pairs.clean.refer(metric)?;
        let (ends, circuits) = self.runs_of(circuits)?;
        Runs::new(&ends, &circuits, &metric, self.setting())?.plan()
    }

    /// The metric of some circuits, each by one run per pair.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no circuit, for one of another model's edges, and for
    /// [`CircuitRun::Edge`] with an ablation that is no plain run; [`Error::MemoryLimit`] if not even one run fits the memory limit; else same as
    /// [`Base::metric`].
    pub fn run(&self, circuits: &[EdgeSet], metric: &Metric) -> Result<EvaluatedCircuits> {
        let label = |(i, circuit): (usize, &EdgeSet)| format!("{i}: {} edges", circuit.len());
        let labels = circuits.iter().enumerate().map(label);
        self.run_as(circuits, metric, Axis::new("circuit", labels))
    }

    /// The same, with labels for the circuits.
    fn run_as(
        &self,
        circuits: &[EdgeSet],
        metric: &Metric,
        axis: Axis,
    ) -> Result<EvaluatedCircuits> {
        let metric = self.pairs.clean.refer(metric)?;
        let found = self.found(circuits, &metric)?;
        let clean = self.pairs.clean.metric(&metric)?;
        let corrupted = self.ends.empty.metric(&metric)?;
        let about = self.about(&metric, [&clean, &corrupted], circuits.len(), &found);
        let absent = |circuit| (!found.reached(circuit)).then_some(Absent::NotRun);
        let measured = Measured {
            axes: vec![axis],
            absent: (0..circuits.len()).map(absent).collect(),
            values: found.values.clone(),
            base: corrupted.clone(),
        };
        Ok(EvaluatedCircuits {
            effect: measured.label(about, self.against())?.effect,
            values: found.values,
            clean,
            corrupted,
        })
    }

    /// The metric of each circuit on each pair, and what it took.
    pub(super) fn found(&self, circuits: &[EdgeSet], metric: &Metric) -> Result<Found> {
        let (ends, circuits) = self.runs_of(circuits)?;
        let runs = Runs::new(&ends, &circuits, metric, self.setting())?;
        runs.run(&self.limits)
    }

    fn setting(&self) -> Setting {
        Setting {
            limit: self.limits.memory,
            known_nodes: self.known_nodes,
        }
    }

    /// The circuits as sets of edges that carry what their sources write, between these runs.
    fn runs_of(&self, circuits: &[EdgeSet]) -> Result<(Ends<'m>, Vec<EdgeSet>)> {
        if circuits.is_empty() {
            return Err(Error::invalid("circuits", "none", "at least one"));
        }
        let graph = self.graph();
        let mut graphs = circuits.iter().map(EdgeSet::graph);
        graphs.try_for_each(|other| graph.expect_same(other))?;
        Ok(match self.circuit_run {
            CircuitRun::Tree => (self.ends.clone(), circuits.to_vec()),
            CircuitRun::Edge => {
                let outside = circuits.iter().map(EdgeSet::complement);
                (self.ends.clone().exchanged()?, outside.collect())
            }
        })
    }

    fn against(&self) -> &'static str {
        match self.ablation {
            EdgeAblation::Corrupted | EdgeAblation::Resample { .. } => "corrupted run",
            _ => "empty circuit",
        }
    }

    fn caption(&self) -> String {
        let ablated = self.ablation.describe();
        let pairs = averaged(self.pairs.len(), "prompt pair");
        match self.circuit_run {
            CircuitRun::Tree => format!(
                "Clean runs in which every edge outside the circuit carries {ablated}; {pairs}."
            ),
            CircuitRun::Edge => format!(
                "Corrupted runs in which every edge of the circuit carries what its source wrote \
                 in the clean run; {pairs}."
            ),
        }
    }

    fn about(
        &self,
        metric: &Metric,
        [clean, corrupted]: [&Array1<f32>; 2],
        circuits: usize,
        found: &Found,
    ) -> About {
        let mean = |values: &Array1<f32>| statistics::mean(values.iter().copied());
        let baselines = [("clean", mean(clean)), ("corrupted", mean(corrupted))];
        let counts = [
            ("circuits", circuits as u64),
            ("prompt pairs", clean.len() as u64),
            (About::MULTIPLY_ADDS, found.multiply_adds),
        ];
        About {
            title: "Circuits".to_string(),
            caption: self.caption(),
            unit: metric.name().to_string(),
            direction: Some(Direction::Denoising),
            baselines: BTreeMap::from(baselines.map(|(name, v)| (name.to_string(), v))),
            counts: BTreeMap::from(counts.map(|(name, n)| (name.to_string(), n))),
            partial: found.partial(),
            ..About::default()
        }
    }
}
