//! How well scores of edges agree with others, such as approximate effects with exact ones.

use std::fmt;

use ndarray::Array2;

use super::edge::Edge;
use super::effects::EdgeEffects;
use super::scores::{EdgeScores, Orientation, Ranking};
use super::set::EdgeSet;
use crate::error::{Error, Result};
use crate::report::{About, Axis, Labelled};
use crate::statistics::{pearson, ranks};

/// Scores of the same edges from two methods, side by side.
///
/// ```
/// use patchlens::circuits::{Approximation, EdgeAttribution, EdgeSet, ExactEdges, Ranking};
/// use patchlens::{Config, Prompt, Transformer, logit_diff};
/// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
/// ..Config::gpt2() };
/// let model = Transformer::random(config, 0)?;
/// let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
/// let metric = logit_diff(2, 4);
/// let exact = ExactEdges::new(&model, &clean, &corrupted)?;
/// let exact = exact.run(&EdgeSet::full(exact.graph()), &metric)?;
/// let eap = EdgeAttribution::new(&model, &clean, &corrupted)?;
/// let found = eap.run(Approximation::Eap, &metric)?.agreement(&exact)?;
/// println!("{found}"); // correlations, errors, what the best have in common, the worst edges
/// assert!(found.pearson.is_some_and(|r| r > 0.9));
/// assert!(found.overlap(5, Ranking::Absolute)? >= 0.6);
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// The edges that both methods score, in graph order.
    pub edges: Vec<EdgePair>,
    /// Pearson's correlation of both scores; `None` where one of them is the same for all edges.
    pub pearson: Option<f64>,
    /// Spearman's: that of their ranks, where equals share their mean rank.
    pub spearman: Option<f64>,
    /// Spearman's of the scores' absolute values.
    pub spearman_of_sizes: Option<f64>,
    /// `Σ |found − reference| / Σ |reference|`; `None` if the reference is zero everywhere.
    pub relative_error: Option<f64>,
    /// What the signs of both scores mean.
    pub orientation: Orientation,
}

/// An edge and its scores by two methods.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EdgePair {
    /// The edge.
    pub edge: Edge,
    /// The score that is judged.
    pub found: f32,
    /// The score that it is judged by.
    pub reference: f32,
}

impl EdgePair {
    /// By how much the judged score is larger.
    pub fn error(&self) -> f32 {
        self.found - self.reference
    }
}

impl EdgeScores {
    /// How well these scores agree with others of the same graph. These are turned to the sign that
    /// the others have, if need be.
    ///
    /// # Errors
    /// [`Error::Invalid`] for scores of another graph.
    pub fn agreement(&self, reference: &EdgeScores) -> Result<Agreement> {
        self.graph().expect_same(reference.graph())?;
        let own = self.clone().oriented(reference.orientation());
        let scores = own.values().iter().zip(reference.values());
        let edges = self.graph().edges().zip(scores);
        let pairs = edges.map(|(edge, (found, reference))| EdgePair {
            edge,
            found: *found,
            reference: *reference,
        });
        Ok(Agreement::of(pairs.collect(), reference.orientation()))
    }
}

impl EdgeEffects {
    /// How well these mean effects agree with others, over the edges that both have: the others may
    /// be [exact](super::ExactEdges) ones of a few edges. These are turned to the sign that the
    /// others have, if need be.
    ///
    /// # Errors
    /// [`Error::Invalid`] for effects of another model's edges, for no edges in common, and for an
    /// effect that is not finite.
    pub fn agreement(&self, reference: &EdgeEffects) -> Result<Agreement> {
        let (own, others) = (self.reached(), reference.reached());
        let common = self.edges.intersection(&reference.edges)?;
        let sign = if self.orientation == reference.orientation {
            1.0
        } else {
            -1.0
        };
        let pairs = common.edges().filter_map(|edge| {
            Some(EdgePair {
                edge,
                found: sign * own.get(&edge)?,
                reference: *others.get(&edge)?,
            })
        });
        let pairs: Vec<EdgePair> = pairs.collect();
        if pairs.is_empty() {
            let expected = "at least one that both methods score";
            return Err(Error::invalid("edges that are compared", "none", expected));
        }
        let odd = |pair: &&EdgePair| !(pair.found.is_finite() && pair.reference.is_finite());
        if let Some(pair) = pairs.iter().find(odd) {
            let found = format!("{} and {}", pair.found, pair.reference);
            let what = format!("effects of `{}`", pair.edge);
            return Err(Error::invalid(what, found, "finite numbers"));
        }
        Ok(Agreement::of(pairs, reference.orientation))
    }
}

impl Agreement {
    fn of(edges: Vec<EdgePair>, orientation: Orientation) -> Self {
        let column = |of: fn(&EdgePair) -> f32| -> Vec<f64> {
            edges.iter().map(|pair| f64::from(of(pair))).collect()
        };
        let (found, reference) = (column(|pair| pair.found), column(|pair| pair.reference));
        let sizes = |values: &[f64]| values.iter().map(|v| v.abs()).collect::<Vec<f64>>();
        let total = |values: &[f64]| sizes(values).iter().sum::<f64>();
        let errors: Vec<f64> = found.iter().zip(&reference).map(|(a, b)| a - b).collect();
        let of_ranks = |a: &[f64], b: &[f64]| pearson(&ranks(a), &ranks(b));
        let whole = total(&reference);
        Agreement {
            pearson: pearson(&found, &reference),
            spearman: of_ranks(&found, &reference),
            spearman_of_sizes: of_ranks(&sizes(&found), &sizes(&reference)),
            relative_error: (whole > 0.0).then(|| total(&errors) / whole),
            edges,
            orientation,
        }
    }

    /// The same over those of the edges that are in a set.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a set of another graph, and if none of the edges is in it.
    pub fn within(&self, set: &EdgeSet) -> Result<Agreement> {
        let mut edges = Vec::new();
        for pair in &self.edges {
            if set.contains(pair.edge)? {
                edges.push(*pair);
            }
        }
        if edges.is_empty() {
            let expected = format!("at least one of the {} compared", self.edges.len());
            return Err(Error::invalid("edges in the set", "none", expected));
        }
        Ok(Agreement::of(edges, self.orientation))
    }

    /// Which share of the `n` best edges by the reference are among the `n` best by the judged
    /// scores; of equals, those that come first in graph order.
    ///
    /// # Errors
    /// [`Error::Invalid`] for none, and for more than there are.
    pub fn overlap(&self, n: usize, ranking: Ranking) -> Result<f64> {
        self.check_count(n)?;
        let best = |score: fn(&EdgePair) -> f32| {
            let rank = |i: &usize| ranking.of(score(&self.edges[*i]), self.orientation);
            let mut order: Vec<usize> = (0..self.edges.len()).collect();
            order.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
            order.truncate(n);
            order
        };
        let (found, reference) = (best(|pair| pair.found), best(|pair| pair.reference));
        let common = reference.iter().filter(|edge| found.contains(edge));
        Ok(common.count() as f64 / n as f64)
    }

    /// The edges whose two scores differ most, the worst first; all, if there are not so many.
    pub fn worst(&self, n: usize) -> Vec<EdgePair> {
        let mut edges = self.edges.clone();
        edges.sort_by(|a, b| b.error().abs().total_cmp(&a.error().abs()));
        edges.truncate(n);
        edges
    }

    /// The `n` worst edges as a table `[edge, (found, reference, error)]`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for none, and for more than there are.
    pub fn table(&self, n: usize) -> Result<Labelled> {
        self.check_count(n)?;
        let worst = self.worst(n);
        let values = worst
            .iter()
            .flat_map(|pair| [pair.found, pair.reference, pair.error()]);
        let values = Array2::from_shape_vec((n, 3), values.collect());
        let axes = vec![
            Axis::new("edge", worst.iter().map(|pair| pair.edge.to_string())),
            Axis::new("score", ["found", "reference", "error"]),
        ];
        let about = About {
            title: "Edges whose scores differ most".to_string(),
            caption: format!("{n} of {} edges, the worst first.", self.edges.len()),
            ..About::default()
        };
        Labelled::new(values.expect("three numbers per edge"), axes, about)
    }

    /// How many edges there are, the correlations and the error, in words.
    pub(super) fn summary(&self) -> String {
        let number = |value: Option<f64>| value.map_or("n/a".to_string(), |v| format!("{v:.3}"));
        format!(
            "{} edges: Pearson {}, Spearman {} (of sizes {}), relative error {}",
            self.edges.len(),
            number(self.pearson),
            number(self.spearman),
            number(self.spearman_of_sizes),
            number(self.relative_error),
        )
    }

    fn check_count(&self, n: usize) -> Result<()> {
        let all = self.edges.len();
        if (1..=all).contains(&n) {
            return Ok(());
        }
        let expected = format!("1 to {all}, as many as are compared");
        Err(Error::invalid("number of edges", n, expected))
    }
}

/// The correlations, the error, what the largest twentieth of the edges has in common, and the
/// worst edges.
impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.edges.len().div_ceil(20);
        let overlap = self.overlap(n, Ranking::Absolute);
        let overlap = overlap.expect("there are edges, and a twentieth is at least one");
        writeln!(f, "{}", self.summary())?;
        let common = (overlap * n as f64).round();
        write!(f, "of the {n} largest, {common} in common; worst:")?;
        for EdgePair {
            edge,
            found,
            reference,
        } in self.worst(3)
        {
            write!(f, "\n  {edge}  {found:+.3} for {reference:+.3}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuits::Graph;
    use crate::config::Config;

    /// A model of one layer and one head has eight edges.
    fn scores(values: [f32; 8], orientation: Orientation) -> EdgeScores {
        let config = Config {
            n_layers: 1,
            n_heads: 1,
            d_model: 8,
            ..Config::gpt2()
        };
        EdgeScores::new(Graph::new(&config), values.to_vec(), orientation).unwrap()
    }

    #[test]
    fn by_hand() {
        let negative = Orientation::UsefulIsNegative;
        let reference = scores([0.0, -4.0, 1.0, 0.0, 0.0, -2.0, 0.0, 3.0], negative);
        let judged = [0.0, 3.0, -1.0, 0.0, 0.0, 3.0, -2.0, -3.0];
        let judged = scores(judged, Orientation::UsefulIsPositive);
        let found = judged.agreement(&reference).unwrap();
        assert_eq!(found.orientation, negative);
        // Errors are 1 (a0.h0<k>), -1 (m0 <- a0) and 2 (a0->logits), of 10 in all.
        assert_eq!(found.relative_error, Some(0.4));
        let worst: Vec<_> = found.worst(2).iter().map(|p| p.edge.to_string()).collect();
        assert_eq!(worst, ["a0.h0->logits", "input->a0.h0<k>"]);
        let share = |n, ranking| found.overlap(n, ranking).unwrap();
        // Sizes: 4 3 2 1 at edges 1 7 5 2, against 3 3 3 2 at edges 1 5 7 6.
        let overlaps = [1, 2, 3, 4].map(|n| share(n, Ranking::Absolute));
        assert_eq!(overlaps, [1.0, 0.5, 1.0, 0.75]);
        assert_eq!(share(2, Ranking::Signed), 1.0);
        assert_eq!(share(8, Ranking::Signed), 1.0);
        let text = found.to_string();
        assert!(text.starts_with("8 edges: Pearson 0.9"), "{text}");
        assert!(
            text.contains(
                "of the 1 largest, 1 in common; worst:\n  a0.h0->logits  +2.000 for +0.000"
            )
        );
        let table = found.table(2).unwrap();
        assert_eq!(
            table.values().as_slice().unwrap(),
            [2.0, 0.0, 2.0, -3.0, -4.0, 1.0]
        );
        for n in [0, 9] {
            assert!(found.overlap(n, Ranking::Signed).is_err());
            assert!(found.table(n).is_err());
        }
    }

    #[test]
    fn what_has_no_correlation_says_so() {
        let flat = scores([0.0; 8], Orientation::UsefulIsPositive);
        let found = flat.agreement(&flat).unwrap();
        assert_eq!(
            (found.pearson, found.spearman, found.relative_error),
            (None, None, None)
        );
        assert!(found.to_string().contains("Pearson n/a"));
        let steep = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        let steep = scores(steep, Orientation::UsefulIsPositive);
        let found = steep.agreement(&steep).unwrap();
        assert_eq!(found.relative_error, Some(0.0));
        assert!(found.pearson.is_some_and(|r| (r - 1.0).abs() < 1e-12));
        let other = Graph::new(&Config::gpt2());
        let values = vec![0.0; other.n_edges()];
        let other = EdgeScores::new(other, values, Orientation::UsefulIsPositive).unwrap();
        assert!(steep.agreement(&other).is_err());
    }
}
