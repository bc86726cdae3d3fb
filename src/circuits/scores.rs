//! A number for every edge, and the circuits that it selects.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::edge::Edge;
use super::graph::Graph;
use super::set::EdgeSet;
use super::table::tabulate;
use crate::error::{Error, Result};
use crate::report::{About, Labelled};

/// What the sign of a score means. Programs differ: EAP-IG is handed a loss, so that its useful edges
/// are positive; a change of the metric through corruption is negative for useful edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Orientation {
    /// The more positive, the more the behaviour needs the edge. Also for scores without a sign.
    UsefulIsPositive,
    /// The more negative, the more the behaviour needs the edge.
    UsefulIsNegative,
}

/// How edges are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ranking {
    /// By usefulness: edges that work against the behaviour come last.
    Signed,
    /// By size, whatever the sign.
    Absolute,
}

impl Ranking {
    /// By what a score is ranked: larger comes first.
    pub(super) fn of(self, score: f32, orientation: Orientation) -> f32 {
        // Of equals, 0 and −0 among them, the first in graph order comes first.
        0.0 + match (self, orientation) {
            (Ranking::Absolute, _) => score.abs(),
            (Ranking::Signed, Orientation::UsefulIsPositive) => score,
            (Ranking::Signed, Orientation::UsefulIsNegative) => -score,
        }
    }
}

/// A score for every edge of a graph, `[edge]` in graph order, and what its sign means.
#[derive(Clone, Debug, PartialEq)]
pub struct EdgeScores {
    graph: Graph,
    values: Vec<f32>,
    orientation: Orientation,
}

impl EdgeScores {
    /// Scores `[edge]` in graph order.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of scores than edges, [`Error::Invalid`] for a score that
    /// is not finite: it could not be ranked.
    pub fn new(graph: Graph, values: Vec<f32>, orientation: Orientation) -> Result<Self> {
        if values.len() != graph.n_edges() {
            return Err(Error::Shape {
                at: "scores".to_string(),
                found: vec![values.len()],
                expected: format!("[edge], {} of {}", graph.n_edges(), graph.describe()),
            });
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let what = format!("score of `{}`", graph.edge(index));
            return Err(Error::invalid(what, values[index], "a finite number"));
        }
        Ok(EdgeScores {
            graph,
            values,
            orientation,
        })
    }

    /// The graph whose edges are scored.
    pub fn graph(&self) -> Graph {
        self.graph
    }

    /// The scores as they are, `[edge]` in graph order.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// What the sign means.
    pub fn orientation(&self) -> Orientation {
        self.orientation
    }

    /// The score of an edge, as it is.
    ///
    /// # Errors
    /// For an edge that the graph lacks, see [`Graph::index`].
    pub fn of(&self, edge: Edge) -> Result<f32> {
        Ok(self.values[self.graph.index(edge)?])
    }

    /// The same scores with the sign that this orientation asks for.
    pub fn oriented(mut self, orientation: Orientation) -> Self {
        if self.orientation != orientation {
            self.values.iter_mut().for_each(|value| *value = -*value);
            self.orientation = orientation;
        }
        self
    }

    /// By what an edge is ranked: larger comes first.
    fn rank(&self, index: usize, ranking: Ranking) -> f32 {
        ranking.of(self.values[index], self.orientation)
    }

    fn candidate(&self, index: usize, ranking: Ranking) -> Candidate {
        let rank = self.rank(index, ranking);
        Candidate { rank, index }
    }

    /// All edges with their scores, best first; equals in graph order.
    pub fn ranked(&self, ranking: Ranking) -> Vec<(Edge, f32)> {
        let order = self.order(ranking).into_iter();
        order
            .map(|i| (self.graph.edge(i), self.values[i]))
            .collect()
    }

    fn order(&self, ranking: Ranking) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.values.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(self.candidate(i, ranking)));
        order
    }

    /// The `n` best edges; of equals, those that come first in graph order.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more edges than there are.
    pub fn top_n(&self, n: usize, ranking: Ranking) -> Result<EdgeSet> {
        self.check_count(n)?;
        let order = self.order(ranking).into_iter();
        Ok(EdgeSet::from_indices(self.graph, order.take(n)))
    }

    /// The edges whose usefulness (or size) is at least this.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a NaN.
    pub fn threshold(&self, at_least: f32, ranking: Ranking) -> Result<EdgeSet> {
        if at_least.is_nan() {
            return Err(Error::invalid("threshold", at_least, "a number"));
        }
        let edges = (0..self.values.len()).filter(|&i| self.rank(i, ranking) >= at_least);
        Ok(EdgeSet::from_indices(self.graph, edges))
    }

    /// `n` edges, grown from the logits: always the best edge into a node that is already in. A head
    /// that comes in offers the edges into its queries, keys and values alike (EAP-IG's
    /// `apply_greedy`).
    /// Of equals, the first in graph order.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more edges than there are.
    pub fn greedy(&self, n: usize, ranking: Ranking) -> Result<EdgeSet> {
        self.check_count(n)?;
        let mut circuit = EdgeSet::empty(self.graph);
        let mut inside = vec![false; self.graph.n_sources()];
        let by_node = self.edges_by_node();
        let offers = |edges: &[usize]| -> Vec<Candidate> {
            edges.iter().map(|&i| self.candidate(i, ranking)).collect()
        };
        let (into_logits, into_node) = by_node.split_last().expect("the logits are a node");
        let mut offered = BinaryHeap::from(offers(into_logits));
        for _ in 0..n {
            let best = offered.pop().expect("every edge is offered in the end");
            let edge = self.graph.edge(best.index);
            circuit.insert(edge)?;
            let node = self.graph.source_index(edge.from);
            if !inside[node] {
                inside[node] = true;
                offered.extend(offers(&into_node[node]));
            }
        }
        Ok(circuit)
    }

    /// The numbers of the edges into each node, and last those into the logits.
    fn edges_by_node(&self) -> Vec<Vec<usize>> {
        let n_sources = self.graph.n_sources();
        let mut by_node = vec![Vec::new(); n_sources + 1];
        for (index, edge) in self.graph.edges().enumerate() {
            let node = edge.to.source();
            by_node[node.map_or(n_sources, |node| self.graph.source_index(node))].push(index);
        }
        by_node
    }

    fn check_count(&self, n: usize) -> Result<()> {
        let n_edges = self.values.len();
        if n <= n_edges {
            return Ok(());
        }
        let expected = format!("at most {n_edges}, as many as there are");
        Err(Error::invalid("number of edges", n, expected))
    }

    /// The scores as a table `[source, receiver]`, NaN where there is no edge. Title, unit and what
    /// else is known come from `about`.
    pub fn table(&self, about: About) -> Labelled {
        let values = self.values.iter().map(|value| (*value, None));
        tabulate(&EdgeSet::full(self.graph), values, about)
            .expect("one finite value per edge, and labels for all")
    }
}

/// An edge on offer: greater is better, and of equals the first in graph order.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    rank: f32,
    index: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        // 0 and -0 are equals.
        let by_rank = self.rank.partial_cmp(&other.rank);
        let by_rank = by_rank.expect("scores are finite");
        by_rank.then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    fn graph() -> Graph {
        Graph::new(&Config {
            n_layers: 2,
            n_heads: 2,
            d_model: 8,
            ..Config::gpt2()
        })
    }

    /// Few different values, so that there are equals.
    fn scores() -> impl Strategy<Value = EdgeScores> {
        let values = prop::collection::vec((-6..=6_i8).prop_map(f32::from), graph().n_edges());
        let orientation = prop::sample::select(vec![
            Orientation::UsefulIsPositive,
            Orientation::UsefulIsNegative,
        ]);
        (values, orientation).prop_map(|(v, o)| EdgeScores::new(graph(), v, o).unwrap())
    }

    fn rankings() -> impl Strategy<Value = Ranking> {
        prop::sample::select(vec![Ranking::Signed, Ranking::Absolute])
    }

    proptest! {
        #[test]
        fn the_best_are_inside(scores in scores(), n in 0..=46_usize, ranking in rankings()) {
            let top = scores.top_n(n, ranking).unwrap();
            prop_assert_eq!(top.len(), n);
            let rank = |i: usize| scores.rank(i, ranking);
            for i in (0..46).filter(|&i| top.mask()[i]) {
                for j in (0..46).filter(|&j| !top.mask()[j]) {
                    prop_assert!(rank(i) > rank(j) || rank(i) == rank(j) && i < j);
                }
            }
            let first = scores.ranked(ranking).into_iter().take(n);
            prop_assert_eq!(&EdgeSet::new(graph(), first.map(|(edge, _)| edge)).unwrap(), &top);
            // A threshold at the last one's rank has it, and its equals besides.
            if let Some(last) = (0..46).filter(|&i| top.mask()[i]).map(rank).reduce(f32::min) {
                let above = scores.threshold(last, ranking).unwrap();
                prop_assert_eq!(above.intersection(&top).unwrap(), top);
            }
        }

        #[test]
        fn signs_do_not_change_what_is_selected(scores in scores(), n in 0..=46_usize, ranking in rankings()) {
            let turned = scores.clone().oriented(Orientation::UsefulIsPositive);
            prop_assert_eq!(scores.top_n(n, ranking).unwrap(), turned.top_n(n, ranking).unwrap());
            prop_assert_eq!(scores.greedy(n, ranking).unwrap(), turned.greedy(n, ranking).unwrap());
        }

        #[test]
        fn greedy_circuits_reach_the_logits(scores in scores(), n in 1..=46_usize, ranking in rankings()) {
            let circuit = scores.greedy(n, ranking).unwrap();
            prop_assert_eq!(circuit.len(), n);
            // Every node that reads an edge is read in turn, down to the logits.
            for edge in circuit.edges() {
                let mut readers = circuit.edges().map(|other| other.from);
                prop_assert!(edge.to.source().is_none_or(|node| readers.any(|from| from == node)));
            }
        }
    }

    #[test]
    fn a_head_that_comes_in_offers_all_its_inputs() {
        let mut values = vec![0.0; 46];
        let edges = [
            ("a1.h0->logits", 3.0),
            ("input->a1.h0<q>", 2.0),
            ("m0->a1.h0<k>", 4.0),
            ("input->m1", 9.0), // into a node that nothing in the circuit reads
        ];
        for (name, value) in edges {
            values[graph().index(name.parse().unwrap()).unwrap()] = value;
        }
        let scores = EdgeScores::new(graph(), values, Orientation::UsefulIsPositive).unwrap();
        let circuit = scores.greedy(3, Ranking::Signed).unwrap();
        let expected = ["a1.h0->logits", "input->a1.h0<q>", "m0->a1.h0<k>"];
        assert_eq!(circuit, EdgeSet::from_names(graph(), expected).unwrap());
    }

    #[test]
    fn the_table_has_no_value_where_there_is_no_edge() {
        let values = (0..46_u8).map(f32::from).collect();
        let scores = EdgeScores::new(graph(), values, Orientation::UsefulIsPositive).unwrap();
        let table = scores.table(About::default());
        assert_eq!(table.values().shape(), [7, 15]);
        let edges = table
            .values()
            .iter()
            .filter(|value| !value.is_nan())
            .count();
        assert_eq!(edges, 46);
        assert_eq!(table.axes()[1].labels[1], "a0.h1<q>");
        let last = scores.of("m1->logits".parse().unwrap()).unwrap();
        assert_eq!((last, table.values()[[6, 14]]), (45.0, 45.0));
    }

    #[test]
    fn bad_scores_are_errors() {
        let new = |values| EdgeScores::new(graph(), values, Orientation::UsefulIsPositive);
        let message = new(vec![0.0; 45]).unwrap_err().to_string();
        assert!(
            message.starts_with("scores: found shape [45]; expected [edge], 46"),
            "{message}"
        );
        let mut values = vec![0.0; 46];
        values[1] = f32::NAN;
        let message = new(values).unwrap_err().to_string();
        assert_eq!(
            message,
            "score of `input->a0.h1<q>`: found NaN; expected a finite number"
        );
        let scores = new(vec![0.0; 46]).unwrap();
        assert!(scores.top_n(47, Ranking::Signed).is_err());
        assert!(scores.greedy(47, Ranking::Signed).is_err());
        assert!(scores.threshold(f32::NAN, Ranking::Signed).is_err());
    }
}
