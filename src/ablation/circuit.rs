//! Circuits, and how well they explain a behaviour.

use std::collections::BTreeMap;
use std::fmt;

use ndarray::ArrayView1;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::{Ablation, Removed, nodes};
use crate::component::{Component, Head};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::statistics::{Estimate, mean};

/// A node at a class of positions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CircuitNode {
    /// The head or MLP.
    pub node: Component,
    /// The class, see [`Ablation::with_class`]; `None` for every position.
    pub class: Option<String>,
}

/// A subset of a circuit's nodes, and the metric without it and one more node.
type Trial<'v> = (Vec<usize>, &'v [f32]);

impl CircuitNode {
    /// A head at every position.
    pub fn head(layer: usize, head: usize) -> Self {
        CircuitNode {
            node: Head::new(layer, head).into(),
            class: None,
        }
    }

    /// An MLP at every position.
    pub fn mlp(layer: usize) -> Self {
        CircuitNode {
            node: Component::Mlp(layer),
            class: None,
        }
    }

    /// The same node at a class of positions only.
    #[must_use]
    pub fn at(mut self, class: impl Into<String>) -> Self {
        self.class = Some(class.into());
        self
    }
}

impl From<Head> for CircuitNode {
    /// At every position.
    fn from(head: Head) -> Self {
        CircuitNode::head(head.layer, head.head)
    }
}

impl fmt::Display for CircuitNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.class {
            Some(class) => write!(f, "{}@{class}", self.node),
            None => write!(f, "{}", self.node),
        }
    }
}

/// A circuit: nodes, each at a class of positions. All else is knocked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circuit {
    nodes: Vec<CircuitNode>,
}

impl Circuit {
    /// A circuit of these nodes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none, or one is given twice.
    pub fn new(nodes: Vec<CircuitNode>) -> Result<Self> {
        if nodes.is_empty() {
            return Err(Error::invalid("circuit", "no nodes", "at least one"));
        }
        let twice = |(i, node): (usize, &CircuitNode)| nodes[..i].contains(node);
        if let Some(i) = nodes.iter().enumerate().position(twice) {
            let found = format!("{} twice", nodes[i]);
            return Err(Error::invalid("circuit", found, "each node once"));
        }
        Ok(Circuit { nodes })
    }

    /// Every head of a model at every position, and its MLPs where asked for: the whole model.
    ///
    /// # Errors
    /// None for a model that exists.
    pub fn full(config: &Config, mlps: bool) -> Result<Self> {
        let node = |node| CircuitNode { node, class: None };
        Self::new(nodes(config, mlps).into_iter().map(node).collect())
    }

    /// Its nodes.
    pub fn nodes(&self) -> &[CircuitNode] {
        &self.nodes
    }

    /// Subsets of the nodes, by index: each node is in each with probability 1/2, as in the
    /// paper's completeness scores.
    pub fn random_subsets(&self, count: usize, seed: u64) -> Vec<Vec<usize>> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut subset = || (0..self.nodes.len()).filter(|_| rng.random()).collect();
        (0..count).map(|_| subset()).collect()
    }

    fn check_subsets(&self, subsets: &[Vec<usize>]) -> Result<()> {
        let n = self.nodes.len();
        match subsets.iter().flatten().find(|i| **i >= n) {
            Some(&found) => Err(Error::OutOfRange {
                at: "subset of the circuit".to_string(),
                axis: "node",
                found,
                expected: format!("0..{n}"),
            }),
            None => Ok(()),
        }
    }

    /// The nodes without a subset.
    fn without(&self, subset: &[usize]) -> Vec<CircuitNode> {
        let nodes = self.nodes.iter().enumerate();
        let kept = nodes.filter(|(i, _)| !subset.contains(i));
        kept.map(|(_, node)| node.clone()).collect()
    }

    fn only(&self, subset: &[usize]) -> Vec<CircuitNode> {
        subset.iter().map(|i| self.nodes[*i].clone()).collect()
    }
}

/// How much of the whole model's metric a circuit has. F is the mean of the metric over the
/// prompts, with its standard error; NaN if an observer ended the study before all were reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faithfulness {
    /// F(M), the whole model's.
    pub full: Estimate,
    /// F(C), the circuit's: all other nodes are knocked out.
    pub circuit: Estimate,
    /// F(∅): all nodes are knocked out.
    pub empty: Estimate,
    /// F(C) − F(M), with the standard error of the difference.
    pub change: Estimate,
}

impl Faithfulness {
    /// The paper's |F(M) − F(C)|; 0 is best. [`Faithfulness::change`] has the error of it.
    pub fn gap(&self) -> f32 {
        (self.full.mean - self.circuit.mean).abs()
    }

    /// F(C) / F(M), the paper's 87 %; 1 for the whole model.
    pub fn ratio(&self) -> f32 {
        self.circuit.mean / self.full.mean
    }

    /// (F(C) − F(∅)) / (F(M) − F(∅)): 0 for no nodes, 1 for the whole model.
    pub fn recovered(&self) -> f32 {
        (self.circuit.mean - self.empty.mean) / (self.full.mean - self.empty.mean)
    }
}

/// Whether a circuit behaves like the model when both lack the same nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Completeness {
    /// K, by index of the circuit's nodes.
    pub subsets: Vec<Vec<usize>>,
    /// F(M∖K) of each.
    pub full: Vec<f32>,
    /// F(C∖K) of each.
    pub circuit: Vec<f32>,
}

impl Completeness {
    /// |F(C∖K) − F(M∖K)| of each K; 0 is complete.
    pub fn incompleteness(&self) -> Vec<f32> {
        let pairs = self.full.iter().zip(&self.circuit);
        pairs
            .map(|(full, circuit)| (circuit - full).abs())
            .collect()
    }

    /// The mean of [`Completeness::incompleteness`].
    pub fn mean_incompleteness(&self) -> f32 {
        mean(self.incompleteness().into_iter())
    }
}

/// What each node adds to a circuit.
#[derive(Clone, Debug, PartialEq)]
pub struct Minimality {
    /// In the circuit's order.
    pub nodes: Vec<NodeMinimality>,
}

/// What a node `v` adds: for the K, of those tried, where it matters most.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeMinimality {
    /// v.
    pub node: CircuitNode,
    /// K, by index of the circuit's nodes, without v.
    pub subset: Vec<usize>,
    /// F(C∖K).
    pub with: f32,
    /// F(C∖(K ∪ {v})).
    pub without: f32,
}

impl NodeMinimality {
    /// |F(C∖(K ∪ {v})) − F(C∖K)|; a node with 0 is superfluous.
    pub fn score(&self) -> f32 {
        (self.without - self.with).abs()
    }
}

/// The mean over prompts; NaN if one of them has no value.
fn over_prompts(values: ArrayView1<'_, f32>) -> Estimate {
    let found = Estimate::of(values.iter().copied());
    if found.n == values.len() {
        return found;
    }
    Estimate {
        mean: f32::NAN,
        std_error: f32::NAN,
        ..found
    }
}

impl Ablation<'_> {
    /// F(M), F(C) and F(∅).
    ///
    /// # Errors
    /// [`Error::Invalid`] for a class without a name here, or an MLP where MLPs always stay
    /// ([`Ablation::with_mlps`]); [`Error::OutOfRange`] for a node that the model lacks; else same
    /// as [`Sweep::prepare`](crate::Sweep::prepare).
    pub fn faithfulness(&self, circuit: &Circuit, metric: &Metric) -> Result<Faithfulness> {
        let removed = [
            self.outside(&circuit.nodes)?,
            self.complement(&Removed::new())?,
        ];
        let found = self.sweep(&removed, metric)?;
        let circuit = found.values.row(0);
        Ok(Faithfulness {
            full: over_prompts(found.base.view()),
            circuit: over_prompts(circuit),
            empty: over_prompts(found.values.row(1)),
            change: over_prompts((&circuit - &found.base).view()),
        })
    }

    /// F(M∖K) and F(C∖K) for subsets K of the circuit's nodes, such as
    /// [`Circuit::random_subsets`].
    ///
    /// # Errors
    /// Same as [`Ablation::faithfulness`]; [`Error::OutOfRange`] for a node that the circuit lacks.
    pub fn completeness(
        &self,
        circuit: &Circuit,
        subsets: &[Vec<usize>],
        metric: &Metric,
    ) -> Result<Completeness> {
        circuit.check_subsets(subsets)?;
        let mut removed = Vec::with_capacity(2 * subsets.len());
        for subset in subsets {
            removed.push(self.places(&circuit.only(subset))?);
            removed.push(self.outside(&circuit.without(subset))?);
        }
        let values = self.means(removed, metric)?;
        Ok(Completeness {
            subsets: subsets.to_vec(),
            full: values.iter().step_by(2).copied().collect(),
            circuit: values.iter().skip(1).step_by(2).copied().collect(),
        })
    }

    /// For each node v, the largest |F(C∖(K ∪ {v})) − F(C∖K)| over K = ∅ and the given subsets
    /// (without v).
    ///
    /// # Errors
    /// Same as [`Ablation::completeness`].
    pub fn minimality(
        &self,
        circuit: &Circuit,
        subsets: &[Vec<usize>],
        metric: &Metric,
    ) -> Result<Minimality> {
        circuit.check_subsets(subsets)?;
        let tried: Vec<Vec<usize>> = [vec![Vec::new()], subsets.to_vec()].concat();
        let mut removed = Vec::new();
        let mut trials = Vec::new();
        for v in 0..circuit.nodes.len() {
            for subset in &tried {
                let subset: Vec<usize> = subset.iter().copied().filter(|i| *i != v).collect();
                removed.push(self.outside(&circuit.without(&subset))?);
                let more = [&subset[..], &[v]].concat();
                removed.push(self.outside(&circuit.without(&more))?);
                trials.push(subset);
            }
        }
        let values = self.means(removed, metric)?;
        let trials: Vec<_> = trials.into_iter().zip(values.chunks_exact(2)).collect();
        let of_node = |(v, trials): (usize, &[Trial<'_>])| {
            let scored = trials.iter().map(|(subset, values)| NodeMinimality {
                node: circuit.nodes[v].clone(),
                subset: subset.clone(),
                with: values[0],
                without: values[1],
            });
            scored.max_by(|a, b| a.score().total_cmp(&b.score()))
        };
        let nodes = trials.chunks(tried.len()).enumerate().filter_map(of_node);
        Ok(Minimality {
            nodes: nodes.collect(),
        })
    }

    /// All nodes outside a circuit, which must lie among those that can be knocked out.
    fn outside(&self, nodes: &[CircuitNode]) -> Result<Removed> {
        let mlp = |n: &&CircuitNode| matches!(n.node, Component::Mlp(_));
        if let Some(node) = nodes.iter().find(mlp).filter(|_| !self.mlps) {
            return Err(Error::invalid(
                "circuit",
                format!("{node}, but MLPs always stay"),
                "heads only, or `Ablation::with_mlps`",
            ));
        }
        self.complement(&self.places(nodes)?)
    }

    /// The mean metric with each of these knocked out; what occurs often runs once.
    fn means(&self, removed: Vec<Removed>, metric: &Metric) -> Result<Vec<f32>> {
        let mut unique: BTreeMap<&Removed, usize> = BTreeMap::new();
        let mut cells = Vec::new();
        let mut index = Vec::with_capacity(removed.len());
        for one in &removed {
            let next = unique.len();
            let at = *unique.entry(one).or_insert(next);
            if at == next {
                cells.push(one.clone());
            }
            index.push(at);
        }
        let values = self.sweep(&cells, metric)?.values;
        let means: Vec<f32> = values
            .rows()
            .into_iter()
            .map(|r| mean(r.iter().copied()))
            .collect();
        Ok(index.into_iter().map(|i| means[i]).collect())
    }
}
