//! Faithfulness over the size of the circuit.

use super::{CircuitEvaluation, EvaluatedCircuits};
use crate::circuits::scores::{EdgeScores, Ranking};
use crate::circuits::set::EdgeSet;
use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::report::{Axis, Labelled};

/// The faithfulness of circuits of the best edges, from few to all.
#[derive(Clone, Debug)]
pub struct FaithfulnessCurve {
    /// The share of all edges that were selected, ascending, before pruning.
    pub shares: Vec<f64>,
    /// The circuits, pruned.
    pub circuits: Vec<EdgeSet>,
    /// What is left of the metric in each; the axis is the share of the edges.
    pub evaluated: EvaluatedCircuits,
    /// The faithfulness of each, over the share of the edges.
    pub faithfulness: Labelled,
}

impl FaithfulnessCurve {
    /// MIB's sizes (Mueller et al. 2025), as shares of all edges.
    pub const MIB_SHARES: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

    /// The area under the curve, by trapezoids over the share of the edges: over
    /// [`FaithfulnessCurve::MIB_SHARES`] and by [`Ranking::Signed`] MIB's CPR, where higher is
    /// better. 0.999 for a curve that is 1 everywhere; edges that work against the behaviour,
    /// left out, raise it beyond. `None` if a circuit was not reached.
    pub fn area(&self) -> Option<f64> {
        self.integral(|faithfulness| faithfulness)
    }

    /// The area between the curve and 1: over [`FaithfulnessCurve::MIB_SHARES`] and by
    /// [`Ranking::Absolute`] MIB's CMD, where lower is better. `None` if a circuit was not reached.
    pub fn distance(&self) -> Option<f64> {
        self.integral(|faithfulness| (1.0 - faithfulness).abs())
    }

    fn integral(&self, of: impl Fn(f64) -> f64) -> Option<f64> {
        let values = self.faithfulness.values();
        let heights: Vec<f64> = values.iter().map(|f| of(f64::from(*f))).collect();
        let widths = self.shares.windows(2).map(|ends| ends[1] - ends[0]);
        let trapezoids = heights.windows(2).zip(widths);
        let area: f64 = trapezoids
            .map(|(ends, w)| w * (ends[0] + ends[1]) / 2.0)
            .sum();
        (!area.is_nan()).then_some(area)
    }
}

impl CircuitEvaluation<'_> {
    /// The faithfulness of the circuits of the best edges by some scores: of each share of all
    /// edges, rounded down to whole edges, [pruned](EdgeSet::pruned).
    ///
    /// ```
    /// use patchlens::circuits::{Approximation, CircuitEvaluation, EdgeAttribution};
    /// use patchlens::circuits::{FaithfulnessCurve, Ranking};
    /// use patchlens::{Config, Prompt, Transformer, logit_diff};
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let model = Transformer::random(config, 0)?;
    /// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
    /// let metric = logit_diff(2, 4);
    /// let scores = EdgeAttribution::new(&model, &clean, &corrupted)?;
    /// let scores = scores.run(Approximation::Eap, &metric)?.scores()?;
    /// let study = CircuitEvaluation::new(&model, &clean, &corrupted)?;
    /// let shares = FaithfulnessCurve::MIB_SHARES;
    /// let curve = study.curve(&scores, Ranking::Signed, &shares, &metric)?;
    /// assert_eq!(curve.circuits.last().map(|all| all.len()), Some(46));
    /// assert!(curve.area().is_some());
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] unless shares ascend within `0..=1`, and if the clean and the corrupted
    /// runs do not differ in the metric; else same as [`CircuitEvaluation::run`].
    pub fn curve(
        &self,
        scores: &EdgeScores,
        ranking: Ranking,
        shares: &[f64],
        metric: &Metric,
    ) -> Result<FaithfulnessCurve> {
        self.graph().expect_same(scores.graph())?;
        let ascending = shares.windows(2).all(|two| two[0] < two[1]);
        let inside = shares.iter().all(|share| (0.0..=1.0).contains(share));
        if !(ascending && inside) {
            let found = format!("{shares:?}");
            let expected = "ascending numbers within 0..=1";
            return Err(Error::invalid("shares of the edges", found, expected));
        }
        let n_edges = self.graph().n_edges() as f64;
        let circuits = shares.iter().map(|share| {
            let best = scores.top_n((share * n_edges) as usize, ranking)?;
            Ok(best.pruned())
        });
        let circuits: Vec<EdgeSet> = circuits.collect::<Result<_>>()?;
        let labels: Vec<f32> = shares.iter().map(|share| *share as f32).collect();
        let axis = Axis::numbers("share of all edges", &labels);
        let evaluated = self.run_as(&circuits, metric, axis)?;
        Ok(FaithfulnessCurve {
            shares: shares.to_vec(),
            faithfulness: evaluated.faithfulness()?,
            circuits,
            evaluated,
        })
    }
}
