//! Search for a circuit by removing edges, one after another (ACDC).

mod agenda;
mod search;

use std::collections::BTreeMap;

use agenda::Agenda;
pub use agenda::Tried;
use ndarray::Array1;
use search::{AHEAD, MOST_AHEAD, Search, Work};

use super::edge::Edge;
use super::evaluation::CircuitEvaluation;
use super::graph::Graph;
use super::set::EdgeSet;
use crate::base::Base;
use crate::error::{Error, Result};
use crate::limits::{Limits, limits_methods};
use crate::metric::Metric;
use crate::model::Transformer;
use crate::pairs::{Pairs, averaged};
use crate::prompt::IntoPrompts;
use crate::report::{About, Absent, Axis, Direction, Labelled};
use crate::statistics;
use crate::sweep::Plan;

/// Automatic circuit discovery (Conmy et al. 2023, algorithm 1): goes through the edges from the
/// logits to the embedding and removes each one whose removal raises the number `F` that is
/// minimised by less than `τ`.
///
/// ```text
/// circuit = all edges
/// for each receiver v, from the last to the first, for each sender u of v:
///     if F(circuit without u→v) − F(circuit) < τ:  remove u→v
/// ```
///
/// `F` is the metric's mean over the pairs where small is good
/// ([`kl_divergence`](crate::metric::kl_divergence)), else minus that mean. A removed edge carries
/// what its source wrote in the corrupted run, see [`CircuitEvaluation`] (with
/// [known nodes](CircuitEvaluation::known_nodes): everything before the edges under trial is whole).
/// Edges into a node whose
/// last edge out has gone go without a run. Receivers come in the order: the logits; by layer, last
/// first, the MLP, then the values, keys and queries, of heads last first; senders: by layer, last
/// first, the MLP, then the heads, first first; the input last. This is the order of the authors'
/// program, and the circuit depends on it.
///
/// Nearly all edges go, so the program runs ahead: it evaluates at once the circuits without the
/// next edge, without the next two, and so on, as if all of them went, twice as many each time
/// that it was right. At the first edge that has to stay it starts again behind it, with half as
/// many. Several thresholds share every run up to the first edge about which they disagree.
/// Decisions and their metric are those of the program that takes one step at a time.
///
/// ```
/// use patchlens::circuits::Acdc;
/// use patchlens::metric::kl_divergence;
/// use patchlens::{Config, Prompt, Transformer};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let found = Acdc::new(&model, &clean, &corrupted)?.run(&[1e-9, 1e-3], &kl_divergence())?;
/// println!("{}", found.kept); // edges by threshold
/// let [fine, coarse] = [&found.searches[0], &found.searches[1]];
/// assert!(coarse.circuit.len() <= fine.circuit.len());
/// let first = coarse.decisions[0]; // what was tried, the metric without it, whether it went
/// assert_eq!(first.tried, fine.decisions[0].tried);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Acdc<'m> {
    pairs: Pairs<'m>,
    evaluation: CircuitEvaluation<'m>,
    limits: Limits<'m>,
    whole_inputs: bool,
}

/// What ACDC found.
#[derive(Clone, Debug)]
pub struct AcdcCircuits {
    /// The number of edges kept, `[threshold]`; no value where an observer ended the search.
    pub kept: Labelled,
    /// One search per threshold, in the order in which they were asked for.
    pub searches: Vec<AcdcSearch>,
    /// How many runs were made, each of a circuit on a pair.
    pub runs: usize,
    /// The metric of each clean run, `[pair]`.
    pub clean: Array1<f32>,
    /// The metric of each corrupted run, `[pair]`.
    pub corrupted: Array1<f32>,
}

/// The search with one threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct AcdcSearch {
    /// The threshold τ, in the metric's unit.
    pub tau: f32,
    /// The edges that are left; where the search was ended early, those not yet tried among them.
    pub circuit: EdgeSet,
    /// The metric of the circuit's runs, mean over the pairs.
    pub metric: f64,
    /// What was tried, in order. Edges that went without a run are not listed.
    pub decisions: Vec<Decision>,
    /// Whether an observer ended the search before the last edge.
    pub partial: bool,
}

/// One step of a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decision {
    /// What was removed to see.
    pub tried: Tried,
    /// The metric without it, mean over the pairs.
    pub metric: f64,
    /// Whether it stays away.
    pub removed: bool,
}

impl<'m> Acdc<'m> {
    /// A search on prompt pairs.
    ///
    /// # Errors
    /// Same as [`CircuitEvaluation::new`].
    pub fn new(
        model: &'m Transformer,
        clean: impl IntoPrompts,
        corrupted: impl IntoPrompts,
    ) -> Result<Self> {
        let pairs = Pairs::new(model, clean, corrupted, Direction::Noising)?;
        Self::over(&pairs.clean, &pairs.corrupted)
    }

    /// A search on base runs, which other studies may share.
    ///
    /// # Errors
    /// Same as [`CircuitEvaluation::over`].
    pub fn over(clean: &Base<'m>, corrupted: &Base<'m>) -> Result<Self> {
        Ok(Acdc {
            evaluation: CircuitEvaluation::over(clean, corrupted)?.known_nodes(true),
            pairs: Pairs::over(clean, corrupted, Direction::Noising)?,
            limits: Limits::default(),
            whole_inputs: false,
        })
    }

    limits_methods!('m);

    /// Whether, before the single edges of a layer's heads, all edges into a head's values are
    /// tried at once, then those into its keys and queries: the edges from `hook_v_input` to
    /// `hook_v` in the authors' program. `false` by default.
    #[must_use]
    pub fn whole_inputs(mut self, whole: bool) -> Self {
        self.whole_inputs = whole;
        self
    }

    /// The graph whose edges the model has.
    pub fn graph(&self) -> Graph {
        self.pairs.graph()
    }

    /// What one threshold takes if every edge stays, which is the most decisions there can be. Runs
    /// that went ahead in vain come on top; edges that go leave fewer decisions, each of a run
    /// that depends on what is left.
    ///
    /// # Errors
    /// Same as [`Acdc::run`].
    pub fn plan(&self, metric: &Metric) -> Result<Plan> {
        let all = EdgeSet::full(self.graph());
        let edges: Vec<Edge> = all.edges().collect();
        let mut whole = Plan::default();
        for some in edges.chunks(MOST_AHEAD) {
            let without = |edge: &Edge| {
                let mut circuit = all.clone();
                circuit.remove(*edge)?;
                Ok(circuit)
            };
            let circuits: Vec<EdgeSet> = some.iter().map(without).collect::<Result<_>>()?;
            whole.add(
                &self
                    .evaluation
                    .limited(self.limits.clone())
                    .plan(&circuits, metric)?,
            );
        }
        Ok(whole)
    }

    /// Searches with each of some thresholds, in the metric's unit. An observer hears how many
    /// edges are decided, over all thresholds.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no threshold and for one that is not finite;
    /// [`Error::MemoryLimit`] if not even one run fits; else same as [`Base::metric`].
    pub fn run(&self, taus: &[f32], metric: &Metric) -> Result<AcdcCircuits> {
        if taus.is_empty() {
            return Err(Error::invalid("thresholds", "none", "at least one"));
        }
        if let Some(tau) = taus.iter().find(|tau| !tau.is_finite()) {
            return Err(Error::invalid("threshold", tau, "a finite number"));
        }
        let metric = self.pairs.clean.refer(metric)?;
        let ends = [&self.pairs.clean, &self.pairs.corrupted];
        let [clean, corrupted] = ends.map(|runs| runs.metric(&metric));
        let (clean, corrupted) = (clean?, corrupted?);
        let agenda = Agenda::new(self.graph(), self.whole_inputs);
        let sign = if metric.smaller_is_better() {
            1.0
        } else {
            -1.0
        };
        let begin = |tau: &f32| Search {
            tau: *tau,
            sign,
            ahead: AHEAD,
            metric: statistics::exact_mean(clean.iter().copied()),
            state: agenda.begin(),
            decisions: Vec::new(),
        };
        let mut work = Work {
            searches: taus.iter().map(begin).collect(),
            agenda,
            runs: 0,
            multiply_adds: 0,
        };
        let partial = self.search(&mut work, &metric)?;
        let about = self.about(&metric, [&clean, &corrupted], &work, partial);
        let searches = work.finished();
        Ok(AcdcCircuits {
            kept: kept(&searches, about)?,
            searches,
            runs: work.runs,
            clean,
            corrupted,
        })
    }

    /// Runs rounds of circuits until every search is through, or an observer ends them, which is
    /// returned.
    fn search(&self, work: &mut Work, metric: &Metric) -> Result<bool> {
        let total = self.graph().n_edges() * work.searches.len();
        // The circuits of a round, and a copy by which they are told apart.
        let sets = self.limits.memory / 8;
        let each = 2 * (self.graph().n_edges() * work.searches.len()) as u64;
        let most = (sets / each).clamp(1, MOST_AHEAD as u64) as usize;
        let limits = self.limits.after(0, total, "edges");
        loop {
            let round = work.round(most);
            if round.circuits.is_empty() {
                return Ok(false);
            }
            let mut part = limits.part(work.decided(), total, "edges");
            part.memory = part.memory.saturating_sub(sets);
            let runs = self.evaluation.limited(part);
            let found = runs.found(&round.circuits, metric);
            let found = found.map_err(|error| match error {
                Error::MemoryLimit { limit, least } => Error::MemoryLimit {
                    limit: limit + sets,
                    least: least + least / 7 + 1,
                },
                other => other,
            })?;
            work.multiply_adds += found.multiply_adds;
            if found.partial() {
                return Ok(true);
            }
            work.runs += found.values.len();
            let means = found.values.rows().into_iter();
            let means = means.map(|row| statistics::exact_mean(row.iter().copied()));
            let means: Vec<f64> = means.collect();
            work.consume(&round, &means);
            if limits.ended() || limits.report(work.decided(), total, "edges").is_break() {
                return Ok(work.decided() < total);
            }
        }
    }

    fn about(
        &self,
        metric: &Metric,
        [clean, corrupted]: [&Array1<f32>; 2],
        work: &Work,
        partial: bool,
    ) -> About {
        let baseline = |values: &Array1<f32>| statistics::mean(values.iter().copied());
        let baselines = [
            ("clean", baseline(clean)),
            ("corrupted", baseline(corrupted)),
        ];
        let counts = [
            ("runs", work.runs as u64),
            ("prompt pairs", clean.len() as u64),
            (About::MULTIPLY_ADDS, work.multiply_adds),
        ];
        About {
            title: "ACDC: edges kept by threshold".to_string(),
            caption: format!(
                "Edges whose removal raises the {} by at least the threshold; {}.",
                if metric.smaller_is_better() {
                    metric.name().to_string()
                } else {
                    format!("negative {}", metric.name())
                },
                averaged(clean.len(), "prompt pair")
            ),
            unit: "edges".to_string(),
            direction: Some(Direction::Noising),
            baselines: BTreeMap::from(baselines.map(|(name, v)| (name.to_string(), v))),
            counts: BTreeMap::from(counts.map(|(name, n)| (name.to_string(), n))),
            partial,
            ..About::default()
        }
    }
}

/// `[threshold]`
fn kept(searches: &[AcdcSearch], about: About) -> Result<Labelled> {
    let taus: Vec<f32> = searches.iter().map(|search| search.tau).collect();
    let counts = searches.iter().map(|search| {
        if search.partial {
            f32::NAN
        } else {
            search.circuit.len() as f32
        }
    });
    let open = searches.iter().map(|s| s.partial.then_some(Absent::NotRun));
    let values = Labelled::new(
        counts.collect::<Array1<f32>>(),
        vec![Axis::numbers("threshold", &taus)],
        about,
    )?;
    values.with_absent(open.collect::<Array1<_>>())
}
