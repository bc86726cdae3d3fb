//! Approximate effects of edges: differences of activations times gradients.

mod method;
mod products;
mod receivers;

use std::ops::Range;

use ndarray::{Array2, Array3};

pub use method::{Approximation, Steps};

use products::{Slopes, Written};
use receivers::Receivers;

use super::edge::Source;
use super::effects::{EdgeEffects, Found, PositionEffects};
use super::pairs::edge_study_methods;
use super::set::EdgeSet;
use crate::effects::Zeros;
use crate::error::Result;
use crate::hook::HookPoint;
use crate::limits::Limits;
use crate::metric::Metric;
use crate::pairs::{GradientRuns, Pairs};

/// Approximate effects of all edges, by a few gradient runs: what
/// [`ExactEdges`](super::ExactEdges) computes edge by edge, to first order.
///
/// With `a_u` what source `u` writes in the run that is changed (the clean one with noising, the
/// default), `ã_u` what it writes in the donor run (the corrupted one), `x_v` what receiver `v`
/// reads and `m` the metric,
///
/// ```text
/// score(u→v) = Σ_pos (ã_u − a_u) · mean ∂m/∂x_v
/// ```
///
/// where the [`Approximation`] says which runs' gradients the mean is over, and whether what the
/// receiver makes of the change is computed instead. This estimates the change of the metric if the edge carries the donor's values, so a score has the sign, unit
/// and [orientation](EdgeEffects::orientation) of an exact effect: under noising, a logit
/// difference falls, hence is negative, by an edge that it needs. (EAP-IG's program is handed a
/// loss, and has the other sign.) A score is exact where everything between the receiver and the
/// metric is linear; LayerNorm, attention and the MLPs' activation are not.
///
/// The scores of all edges out of a source add up to attribution patching of the source, but for
/// [receiver-exact](Approximation::ReceiverExact) ones.
///
/// Sources: Syed, Rager and Conmy 2023 (arXiv 2310.10348); Hanna, Pezzelle and Belinkov 2024 (arXiv
/// 2403.17806).
///
/// ```
/// use patchlens::circuits::{Approximation, EdgeAttribution, Ranking, Steps};
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let study = EdgeAttribution::new(&model, &clean, &corrupted)?;
/// let found = study.run(Approximation::EapIg(Steps::Left(5)), &logit_diff(2, 4))?;
/// assert_eq!(found.per_prompt.dim(), (46, 1)); // [edge, pair]
/// let circuit = found.scores()?.top_n(10, Ranking::Absolute)?.pruned();
/// assert!(circuit.len() <= 10);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct EdgeAttribution<'m> {
    pairs: Pairs<'m>,
    limits: Limits<'m>,
}

impl<'m> EdgeAttribution<'m> {
    edge_study_methods!('m);

    /// The approximate effects of all edges. If an observer ends the study, the pairs that were
    /// reached have their values in [`EdgeEffects::per_prompt`].
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for a metric without gradient (a rank, a closure),
    /// for [`Approximation::Eap`] and [`Approximation::ReceiverExact`] by a KL divergence to the
    /// very run whose gradient is taken, where that is zero, for no steps, and for runs under interventions;
    /// [`Error::MemoryLimit`](crate::Error::MemoryLimit) if one pair does not fit the memory limit;
    /// else same as [`Base::metric`](crate::Base::metric).
    pub fn run(&self, method: Approximation, metric: &Metric) -> Result<EdgeEffects> {
        let graph = self.graph();
        let mut per_prompt = Array2::from_elem((graph.n_edges(), self.pairs.len()), f32::NAN);
        let metric = self.checked(method, metric)?;
        let runs = self.each_pair(method, &metric, |pair, terms| {
            let n = self.pairs.clean.prompts()[pair].len();
            let mut column = per_prompt.column_mut(pair);
            let scores = terms.scores(0..n)?;
            scores.for_each(|(edge, score)| column[edge] = score);
            Ok(())
        })?;
        let [base, donor] = self.pairs.names();
        let found = Found {
            title: method.name(),
            caption: format!(
                "One edge of the {base} run carries what its source wrote in the {donor} run, {}",
                method.describe(base)
            ),
            edges: EdgeSet::full(graph),
            zeros: Zeros::Estimated,
            counts: vec![("gradient runs", runs.done() as u64)],
            reached: vec![!runs.partial(); per_prompt.nrows()],
            per_prompt,
        };
        found.label(&self.pairs, &metric, &self.limits)
    }

    /// The same by position: elsewhere the edge carries what it carries anyway. These are the terms
    /// of the sum, but for [receiver-exact](Approximation::ReceiverExact) scores of edges into keys
    /// and values: there, softmax has them all.
    ///
    /// # Errors
    /// Same as [`EdgeAttribution::run`]; [`Error::Prompt`](crate::Error::Prompt) if the pairs
    /// differ in length.
    pub fn run_by_position(
        &self,
        method: Approximation,
        metric: &Metric,
    ) -> Result<PositionEffects> {
        let (graph, n) = (self.graph(), self.pairs.common_len()?);
        let shape = (graph.n_edges(), n, self.pairs.len());
        let mut per_prompt = Array3::from_elem(shape, f32::NAN);
        let metric = self.checked(method, metric)?;
        let runs = self.each_pair(method, &metric, |pair, terms| {
            for position in 0..n {
                let scores = terms.scores(position..position + 1)?;
                scores.for_each(|(edge, score)| per_prompt[[edge, position, pair]] = score);
            }
            Ok(())
        })?;
        Ok(PositionEffects {
            edges: graph.edges().collect(),
            partial: runs.partial(),
            per_prompt,
        })
    }

    /// The metric, which may be referred to the clean runs, once it is known to have gradients.
    fn checked(&self, method: Approximation, metric: &Metric) -> Result<Metric> {
        method.check(&self.pairs, metric)?;
        self.pairs.check_sources()?;
        let metric = self.pairs.clean.refer(metric)?;
        method.check_positions(&self.pairs.clean, &metric)?;
        Ok(metric)
    }

    /// Hands to `each`, pair by pair, what the sources write and the mean gradients of a group of
    /// runs, until the observer ends the work.
    fn each_pair<'r>(
        &'r self,
        method: Approximation,
        metric: &'r Metric,
        mut each: impl FnMut(usize, &Terms<'_>) -> Result<()>,
    ) -> Result<GradientRuns<'r>> {
        let (graph, groups) = (self.graph(), method.groups(self.graph()));
        let per_pair = groups.iter().map(|group| group.variants.len()).sum();
        let (pairs, limits) = (&self.pairs, &self.limits);
        let mut runs = GradientRuns::new(pairs, metric, limits, method.points(graph), per_pair);
        let batches = runs.batches(|n| method.bytes(pairs.model().config(), metric, n))?;
        let [base, donor] = pairs.base_and_donor();
        let unchanged = base.metric(metric)?;
        let sources: Vec<HookPoint> = graph.sources().map(Source::point).collect();
        base.held(sources.iter().copied().chain(method.reads(graph)))?;
        donor.held(sources)?;
        for batch in batches {
            for group in &groups {
                let mut sums: Vec<Slopes> = Vec::new();
                for variant in &group.variants {
                    if runs.ended() {
                        return Ok(runs);
                    }
                    let gradients = runs.run(&batch, variant, &method.constant(variant))?;
                    Slopes::add_each(&mut sums, gradients)?;
                }
                for (pair, slopes) in batch.clone().zip(&mut sums) {
                    slopes.divide(group.variants.len());
                    let terms = Terms {
                        study: self,
                        method,
                        metric,
                        pair,
                        unchanged: unchanged[pair],
                        source: group.source,
                        written: Written::new(pairs, pair)?,
                        slopes,
                    };
                    each(pair, &terms)?;
                }
            }
        }
        Ok(runs)
    }
}

/// What the scores of one pair are made of.
struct Terms<'t> {
    study: &'t EdgeAttribution<'t>,
    method: Approximation,
    metric: &'t Metric,
    pair: usize,
    /// The metric of the run that is changed.
    unchanged: f32,
    /// The only source whose edges have their scores from these gradients, if there is one.
    source: Option<Source>,
    written: Written,
    slopes: &'t Slopes,
}

impl Terms<'_> {
    /// Edges, as their numbers, and their scores, if they carry something at some positions alone.
    fn scores(&self, positions: Range<usize>) -> Result<impl Iterator<Item = (usize, f32)>> {
        let (graph, source) = (self.study.graph(), self.source);
        let scores = if self.method.computes_receivers() {
            self.receivers().scores(positions)?
        } else {
            products::scores(graph, self.slopes, &self.written, positions)?
        };
        let edges = graph.edges().zip(scores).enumerate();
        let own = edges.filter(move |(_, (edge, _))| source.is_none_or(|own| edge.from == own));
        Ok(own.map(|(index, (_, score))| (index, score)))
    }

    fn receivers(&self) -> Receivers<'_> {
        Receivers {
            pairs: &self.study.pairs,
            pair: self.pair,
            metric: self.metric,
            unchanged: self.unchanged,
            written: &self.written,
            slopes: self.slopes,
        }
    }
}
