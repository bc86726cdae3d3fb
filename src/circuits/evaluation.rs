//! What is left of a behaviour when only a circuit's edges carry it.

mod curve;
mod masked;

use std::collections::BTreeMap;

pub use curve::FaithfulnessCurve;

use ndarray::{Array1, Array2};

use super::edge::Source;
use super::graph::Graph;
use super::set::EdgeSet;
use crate::base::Base;
use crate::config::Config;
use crate::effects::Measured;
use crate::error::{Error, Result};
use crate::hook::HookPoint;
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::{Run, Transformer};
use crate::ops::Thrift;
use crate::pairs::{Pairs, averaged, fixed_bytes};
use crate::prompt::{IntoPrompts, Prompt};
use crate::report::{About, Absent, Axis, Direction, Labelled};
use crate::statistics;
use masked::{Corrupted, Masked, MaskedRun};

/// As much as circuits that run at a time take, whatever the memory limit allows.
const BATCH_BYTES: u64 = 128 << 20;

/// Runs of clean prompts in which only the edges of a circuit carry what their sources write in
/// this very run; every other edge carries what its source wrote in the corrupted run (Hanna et al.
/// 2024; MIB; "tree" patching in UFO-101's auto-circuit). No edge kept is the corrupted run, and all
/// kept the clean one, to the bit.
///
/// What receiver `v` reads is the corrupted run's stream there, plus `a_u − ã_u` for each kept edge
/// `u→v`, with `a_u` what the source writes in this run and `ã_u` in the corrupted one; for circuits
/// of more than half of all edges, this run's own stream plus `ã_u − a_u` for each edge outside.
/// Both differ by rounding only.
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
}

/// What is left of a metric in some circuits.
#[derive(Clone, Debug)]
pub struct EvaluatedCircuits {
    /// The metric of each circuit's runs minus that of the corrupted runs, `[circuit]`: mean over
    /// the pairs, with standard errors where there are several.
    pub effect: Labelled,
    /// The metric of each circuit on each pair, `[circuit, pair]`; NaN for what was not reached
    /// before an observer ended the study.
    pub values: Array2<f32>,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each corrupted run, `[pair]`.
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
        let pairs = Pairs::new(model, clean, corrupted, Direction::Denoising)?;
        Ok(Self::of(pairs))
    }

    /// A study of base runs, which other studies may share.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are not as many corrupted prompts as prompts, and for clean runs
    /// under interventions, which circuits' runs would lack; [`Error::Prompt`] if the two of a pair
    /// differ in length.
    pub fn over(clean: &Base<'m>, corrupted: &Base<'m>) -> Result<Self> {
        if let Some(first) = clean.interventions().first() {
            let found = format!("runs under an intervention at `{}`", first.target);
            return Err(Error::invalid("clean runs", found, "plain ones"));
        }
        let pairs = Pairs::over(clean, corrupted, Direction::Denoising)?;
        Ok(Self::of(pairs))
    }

    fn of(pairs: Pairs<'m>) -> Self {
        CircuitEvaluation {
            pairs,
            limits: Limits::default(),
        }
    }

    limits_methods!('m);

    /// The graph whose edges the model has.
    pub fn graph(&self) -> Graph {
        self.pairs.graph()
    }

    /// The metric of some circuits, each by one run per pair.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no circuit, and for one of another model's edges;
    /// [`Error::MemoryLimit`] if not even one run fits the memory limit; else same as
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
        if circuits.is_empty() {
            return Err(Error::invalid("circuits", "none", "at least one"));
        }
        let graph = self.graph();
        let mut graphs = circuits.iter().map(EdgeSet::graph);
        graphs.try_for_each(|other| graph.expect_same(other))?;
        let metric = self.pairs.clean.refer(metric)?;
        let (clean, corrupted) = (
            self.pairs.clean.metric(&metric)?,
            self.pairs.corrupted.metric(&metric)?,
        );
        let at_once = self.at_once()?;
        let _thrift = Thrift::new(self.limits.memory);
        let mut values = Array2::from_elem((circuits.len(), self.pairs.len()), f32::NAN);
        let partial = self.fill(circuits, &metric, at_once, &mut values)?;
        let about = self.about(&metric, [&clean, &corrupted], circuits.len(), partial);
        let reached = values.rows().into_iter().map(|row| {
            let missing = partial && row.iter().any(|value| value.is_nan());
            missing.then_some(Absent::NotRun)
        });
        let measured = Measured {
            axes: vec![axis],
            absent: reached.collect(),
            values: values.clone(),
            base: corrupted.clone(),
        };
        Ok(EvaluatedCircuits {
            effect: measured.label(about, "corrupted run")?.effect,
            values,
            clean,
            corrupted,
        })
    }

    /// Runs the circuits, so many at a time, and says whether the observer ended the work before
    /// the last.
    fn fill(
        &self,
        circuits: &[EdgeSet],
        metric: &Metric,
        at_once: usize,
        values: &mut Array2<f32>,
    ) -> Result<bool> {
        let graph = self.graph();
        let total = values.len();
        let mut done = 0;
        let written = graph.sources().map(Source::point);
        let points: Vec<HookPoint> = Masked::reads(graph).chain(written).collect();
        let caches = self.pairs.corrupted.held(points)?;
        for (pair, prompt) in self.pairs.clean.prompts().iter().enumerate() {
            let cache = &caches[pair];
            let written = graph.sources().map(|u| u.output(self.pairs.model(), cache));
            let written = written.collect::<Result<_>>()?;
            let corrupted = Corrupted { written, cache };
            for (first, some) in (0..).step_by(at_once).zip(circuits.chunks(at_once)) {
                let runs = some.iter().map(|circuit| MaskedRun {
                    circuit,
                    corrupted: &corrupted,
                });
                let hooks = Masked::new(graph, runs.collect());
                let prompts: Vec<Prompt> = vec![prompt.clone(); some.len()];
                let output = self.pairs.model().run(&prompts, hooks, &Run::default())?;
                for (i, logits) in output.logits.iter().enumerate() {
                    values[[first + i, pair]] = metric.evaluate(pair, logits)?;
                }
                done += some.len();
                let flow = self.limits.report(done, total, "circuit runs");
                if flow.is_break() && done < total {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// How many circuits run at a time.
    fn at_once(&self) -> Result<usize> {
        let config = self.pairs.model().config();
        let lengths = self.pairs.clean.prompts().lengths();
        let longest = lengths.into_iter().max().unwrap_or(0);
        let limit = self.limits.memory;
        let shared = shared_bytes(config, longest) + fixed_bytes(config, limit);
        let each = run_bytes(config, longest);
        if shared + each > limit {
            let least = shared + each;
            return Err(Error::MemoryLimit { limit, least });
        }
        let room = (limit - shared).min(BATCH_BYTES.max(each));
        Ok(usize::try_from(room / each).unwrap_or(usize::MAX))
    }

    fn about(
        &self,
        metric: &Metric,
        [clean, corrupted]: [&Array1<f32>; 2],
        circuits: usize,
        partial: bool,
    ) -> About {
        let mean = |values: &Array1<f32>| statistics::mean(values.iter().copied());
        let baselines = [("clean", mean(clean)), ("corrupted", mean(corrupted))];
        let counts = [("circuits", circuits), ("prompt pairs", clean.len())];
        let counts = counts.map(|(name, n)| (name.to_string(), n as u64));
        About {
            title: "Circuits".to_string(),
            caption: format!(
                "Clean runs in which every edge outside the circuit carries what its source wrote \
                 in the corrupted run; {}.",
                averaged(clean.len(), "prompt pair")
            ),
            unit: metric.name().to_string(),
            direction: Some(Direction::Denoising),
            baselines: BTreeMap::from(baselines.map(|(name, v)| (name.to_string(), v))),
            counts: BTreeMap::from(counts),
            partial,
            ..About::default()
        }
    }
}

/// What the runs of a pair of so many tokens share: what the sources write in the corrupted run.
fn shared_bytes(config: &Config, n: usize) -> u64 {
    (4 * n * config.d_model * Graph::new(config).n_sources()) as u64
}

/// A bound of the memory that one run takes: what its sources write, the layer that is being
/// computed, with per-head results and split inputs, and the logits.
fn run_bytes(config: &Config, n: usize) -> u64 {
    let (d, heads) = (config.d_model, config.n_heads);
    let rows = d * (Graph::new(config).n_sources() + 14 * heads + 20);
    let rest = 4 * config.hidden_width() + 4 * heads * n + 3 * config.d_logits();
    // Matrices may have a quarter more memory than they need.
    (5 * n * (rows + rest)) as u64
}
