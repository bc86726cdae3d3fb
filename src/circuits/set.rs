//! Sets of edges.

use std::ops::{BitAnd, BitOr};

use super::edge::{Edge, Receiver, Source};
use super::graph::Graph;
use crate::error::{Error, Result};

/// Some of the edges of a model: a circuit, or what is left out of one.
///
/// ```
/// use patchlens::Config;
/// use patchlens::circuits::{EdgeSet, Graph};
/// let graph = Graph::new(&Config::gpt2());
/// let names = ["input->m0", "m0->a9.h9<q>", "m0->a9.h9<v>", "a9.h9->logits"];
/// let circuit = EdgeSet::from_names(graph, names)?;
/// assert_eq!(circuit.pruned(), circuit);
/// let half = EdgeSet::from_names(graph, &names[..3])?;
/// assert_eq!(circuit.jaccard(&half)?, 0.75);
/// assert!(half.pruned().is_empty()); // nothing reaches the logits
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EdgeSet {
    graph: Graph,
    /// By edge, in graph order.
    inside: Vec<bool>,
}

impl EdgeSet {
    /// No edge.
    pub fn empty(graph: Graph) -> Self {
        EdgeSet {
            graph,
            inside: vec![false; graph.n_edges()],
        }
    }

    /// Every edge.
    pub fn full(graph: Graph) -> Self {
        EdgeSet::empty(graph).complement()
    }

    /// These edges; one that is named twice counts once.
    ///
    /// # Errors
    /// For an edge that the graph lacks, see [`Graph::index`].
    pub fn new(graph: Graph, edges: impl IntoIterator<Item = Edge>) -> Result<Self> {
        let mut set = EdgeSet::empty(graph);
        for edge in edges {
            set.insert(edge)?;
        }
        Ok(set)
    }

    /// The edges of these names.
    ///
    /// # Errors
    /// For a text that names no edge, or none of the graph.
    pub fn from_names<T: AsRef<str>>(
        graph: Graph,
        names: impl IntoIterator<Item = T>,
    ) -> Result<Self> {
        let edges: Result<Vec<Edge>> = names.into_iter().map(|n| n.as_ref().parse()).collect();
        EdgeSet::new(graph, edges?)
    }

    /// The edges of these numbers, all of them numbers of the graph's edges.
    pub(super) fn from_indices(graph: Graph, indices: impl IntoIterator<Item = usize>) -> Self {
        let mut set = EdgeSet::empty(graph);
        for index in indices {
            set.inside[index] = true;
        }
        set
    }

    /// Whether each edge is inside, in graph order.
    pub(super) fn from_mask(graph: Graph, inside: Vec<bool>) -> Self {
        debug_assert_eq!(inside.len(), graph.n_edges());
        EdgeSet { graph, inside }
    }

    /// The circuit of some nodes: every edge among them, and between them and the two ends (`input`
    /// and the logits), which belong to every circuit.
    ///
    /// # Errors
    /// For a node that the graph lacks.
    pub fn among(graph: Graph, nodes: &[Source]) -> Result<Self> {
        for &node in nodes {
            graph.index(Edge::new(node, Receiver::Logits))?;
        }
        let inside = |node: Source| node == Source::Input || nodes.contains(&node);
        let edges = graph.edges();
        EdgeSet::new(
            graph,
            edges.filter(|edge| inside(edge.from) && edge.to.source().is_none_or(inside)),
        )
    }

    /// The graph whose edges they are.
    pub fn graph(&self) -> Graph {
        self.graph
    }

    /// How many edges it has.
    pub fn len(&self) -> usize {
        self.inside.iter().filter(|&&inside| inside).count()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        !self.inside.contains(&true)
    }

    /// The edges in graph order.
    pub fn edges(&self) -> impl Iterator<Item = Edge> + '_ {
        let all = self.graph.edges().zip(&self.inside);
        all.filter_map(|(edge, &inside)| inside.then_some(edge))
    }

    /// Whether each edge is inside, in graph order.
    pub fn mask(&self) -> &[bool] {
        &self.inside
    }

    /// Whether an edge is inside.
    ///
    /// # Errors
    /// For an edge that the graph lacks.
    pub fn contains(&self, edge: Edge) -> Result<bool> {
        Ok(self.inside[self.graph.index(edge)?])
    }

    /// Adds an edge.
    ///
    /// # Errors
    /// For an edge that the graph lacks.
    pub fn insert(&mut self, edge: Edge) -> Result<()> {
        let index = self.graph.index(edge)?;
        self.inside[index] = true;
        Ok(())
    }

    /// Takes an edge out.
    ///
    /// # Errors
    /// For an edge that the graph lacks.
    pub fn remove(&mut self, edge: Edge) -> Result<()> {
        let index = self.graph.index(edge)?;
        self.inside[index] = false;
        Ok(())
    }

    /// The edges that are not in it.
    pub fn complement(&self) -> EdgeSet {
        EdgeSet {
            graph: self.graph,
            inside: self.inside.iter().map(|inside| !inside).collect(),
        }
    }

    /// The edges of one or the other.
    ///
    /// # Errors
    /// [`Error::Invalid`] for sets of different graphs.
    pub fn union(&self, other: &EdgeSet) -> Result<EdgeSet> {
        self.joined(other, bool::bitor)
    }

    /// The edges that are in both sets.
    ///
    /// # Errors
    /// [`Error::Invalid`] for sets of different graphs.
    pub fn intersection(&self, other: &EdgeSet) -> Result<EdgeSet> {
        self.joined(other, bool::bitand)
    }

    /// The edges that `other` lacks.
    ///
    /// # Errors
    /// [`Error::Invalid`] for sets of different graphs.
    pub fn difference(&self, other: &EdgeSet) -> Result<EdgeSet> {
        self.joined(other, |this, that| this && !that)
    }

    fn joined(&self, other: &EdgeSet, join: impl Fn(bool, bool) -> bool) -> Result<EdgeSet> {
        self.graph.expect_same(other.graph)?;
        let both = self.inside.iter().zip(&other.inside);
        Ok(EdgeSet {
            graph: self.graph,
            inside: both.map(|(&this, &that)| join(this, that)).collect(),
        })
    }

    /// The share of the edges of either that both have: 1 for equal sets, among them two empty ones.
    ///
    /// # Errors
    /// [`Error::Invalid`] for sets of different graphs.
    pub fn jaccard(&self, other: &EdgeSet) -> Result<f64> {
        let either = self.union(other)?.len();
        if either == 0 {
            return Ok(1.0);
        }
        Ok(self.intersection(other)?.len() as f64 / either as f64)
    }

    /// The edges that lead from the input to the logits: as long as there are any, edges of nodes that
    /// read nothing or are read by nothing are left out. A head reads if its queries, keys or
    /// values do.
    ///
    /// With ablations from one corrupted run per prompt this leaves a circuit's output as it is: the
    /// nodes left out write what they wrote in that run, or are read by nothing. With means and zeros
    /// it does not, since a node that reads means does not write its mean.
    pub fn pruned(&self) -> EdgeSet {
        let mut left = self.clone();
        loop {
            let [read, written] = left.connected();
            let linked = |source: Source| {
                let index = self.graph.source_index(source);
                (source == Source::Input || read[index]) && written[index]
            };
            let edges = left.edges();
            let linked_edges = edges
                .filter(|edge| linked(edge.from) && edge.to.source().is_none_or(linked))
                .map(|edge| self.graph.index(edge).expect("it is an edge of this graph"));
            let next = EdgeSet::from_indices(self.graph, linked_edges);
            if next == left {
                return left;
            }
            left = next;
        }
    }

    /// The nodes that have an edge in and an edge out, and the input if it has one out.
    pub fn nodes(&self) -> Vec<Source> {
        let [read, written] = self.connected();
        let sources = self.graph.sources().enumerate();
        let linked = sources.filter(|&(i, _)| (i == 0 || read[i]) && written[i]);
        linked.map(|(_, source)| source).collect()
    }

    /// By source: whether its node reads an edge, and whether an edge reads it.
    fn connected(&self) -> [Vec<bool>; 2] {
        let mut read = vec![false; self.graph.n_sources()];
        let mut written = read.clone();
        for edge in self.edges() {
            written[self.graph.source_index(edge.from)] = true;
            if let Some(node) = edge.to.source() {
                read[self.graph.source_index(node)] = true;
            }
        }
        [read, written]
    }
}

impl Graph {
    /// # Errors
    /// [`Error::Invalid`] for another graph.
    pub(super) fn expect_same(self, other: Graph) -> Result<()> {
        if self == other {
            return Ok(());
        }
        Err(Error::invalid("graph", other.describe(), self.describe()))
    }

    /// In words.
    pub(super) fn describe(self) -> String {
        let (layers, heads, d_model) = (self.n_layers(), self.n_heads(), self.d_model());
        let mlps = if self.has_mlps() { "" } else { ", no MLPs" };
        format!("{layers} layers of {heads} heads, d_model {d_model}{mlps}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;

    fn graph() -> Graph {
        Graph::new(&Config {
            n_layers: 3,
            n_heads: 2,
            d_model: 8,
            ..Config::gpt2()
        })
    }

    fn sets() -> impl Strategy<Value = EdgeSet> {
        let edges = prop::collection::vec(0..graph().n_edges(), 0..40);
        edges.prop_map(|indices| EdgeSet::from_indices(graph(), indices))
    }

    /// Edges that lie on a path, found by following every edge from both ends.
    fn on_a_path(set: &EdgeSet) -> EdgeSet {
        let edges: Vec<Edge> = set.edges().collect();
        let mut reached = vec![Source::Input];
        // In graph order every edge into a node comes before those out of it.
        for edge in &edges {
            if reached.contains(&edge.from) {
                reached.extend(edge.to.source());
            }
        }
        let mut leading = Vec::new();
        for edge in edges.iter().rev() {
            if edge.to.source().is_none_or(|node| leading.contains(&node)) {
                leading.push(edge.from);
            }
        }
        let both = |node| reached.contains(&node) && leading.contains(&node);
        let edges = edges.into_iter();
        let kept = edges.filter(|e| both(e.from) && e.to.source().is_none_or(both));
        EdgeSet::new(set.graph(), kept).unwrap()
    }

    proptest! {
        #[test]
        fn sets_obey_their_laws(a in sets(), b in sets()) {
            let (or, and) = (a.union(&b).unwrap(), a.intersection(&b).unwrap());
            prop_assert_eq!(or.len() + and.len(), a.len() + b.len());
            let rest = a.difference(&b).unwrap();
            prop_assert_eq!(rest.union(&and).unwrap(), a.clone());
            prop_assert_eq!(&rest, &a.intersection(&b.complement()).unwrap());
            prop_assert_eq!(a.jaccard(&b).unwrap(), b.jaccard(&a).unwrap());
            prop_assert_eq!(a.jaccard(&a).unwrap(), 1.0);
            let names: Vec<_> = a.edges().map(|edge| edge.to_string()).collect();
            prop_assert_eq!(EdgeSet::from_names(graph(), &names).unwrap(), a);
        }

        #[test]
        fn pruning_keeps_what_lies_on_paths(a in sets()) {
            let pruned = a.pruned();
            prop_assert_eq!(&pruned.pruned(), &pruned);
            prop_assert_eq!(&pruned, &on_a_path(&a));
            for edge in pruned.edges() {
                prop_assert!(pruned.nodes().contains(&edge.from));
            }
        }
    }

    #[test]
    fn edges_come_and_go() {
        let mut set = EdgeSet::empty(graph());
        let edge: Edge = "m0->m2".parse().unwrap();
        set.insert(edge).unwrap();
        assert!(set.contains(edge).unwrap());
        assert_eq!(set.len(), 1);
        set.remove(edge).unwrap();
        assert!(set.is_empty());
        assert_eq!(EdgeSet::full(graph()).len(), graph().n_edges());
        assert!(set.insert("m2->m0".parse().unwrap()).is_err());
    }

    #[test]
    fn nodes_bring_all_edges_among_them() {
        let nodes: Vec<Source> = ["a0.h1", "m2"].map(|name| name.parse().unwrap()).into();
        let set = EdgeSet::among(graph(), &nodes).unwrap();
        let names: Vec<_> = set.edges().map(|edge| edge.to_string()).collect();
        let expected = [
            "input->a0.h1<q>",
            "input->a0.h1<k>",
            "input->a0.h1<v>",
            "input->m2",
            "a0.h1->m2",
            "input->logits",
            "a0.h1->logits",
            "m2->logits",
        ];
        assert_eq!(names, expected);
        assert_eq!(set.nodes(), [vec![Source::Input], nodes].concat());
        assert!(EdgeSet::among(graph(), &[Source::Mlp(3)]).is_err());
    }

    #[test]
    fn sets_of_different_graphs_do_not_mix() {
        let other = EdgeSet::empty(Graph::new(&Config::gpt2()));
        let message = EdgeSet::empty(graph())
            .union(&other)
            .unwrap_err()
            .to_string();
        let expected = "graph: found 12 layers of 12 heads, d_model 768; \
                        expected 3 layers of 2 heads, d_model 8";
        assert_eq!(message, expected);
    }
}
