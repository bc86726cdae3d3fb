//! Circuits: the graph of a model's heads and MLPs, sets of its edges, and scores of them.
//!
//! Heads, MLPs and the token embedding write into the residual stream; the queries, keys and values
//! of later heads, later MLPs and the logits read it. An edge is one writer's contribution to
//! what one reader reads, at all positions. The position embedding and the biases belong to no edge:
//! they are always there. A model of `L` layers with `H` heads has
//! `L(3H+1) + (H+1)(3H+1)·L(L−1)/2 + L·H + 1 + L(H+1)` edges; GPT-2 small has 32,491.
//!
//! With a metric `m`, a clean prompt and a corrupted one, the effect of an edge is
//!
//! ```text
//! effect(u→v) = m(clean run in which v reads what u wrote in the corrupted run) − m(clean run)
//! ```
//!
//! or the same with the two runs exchanged ([`Direction::Denoising`](crate::report::Direction)).
//! [`ExactEdges`] computes it, edge by edge; [`EdgeAttribution`] estimates all effects by a few
//! gradient runs ([`Approximation`] names the ways: EAP, EAP-IG, receiver-exact and others);
//! [`Agreement`] says how good an estimate is, and [`ScreenedEdges`] ranks all edges by one and
//! verifies the best. [`EdgeScores`] rank edges and select circuits, [`Acdc`] removes edges one
//! after another, and [`CircuitEvaluation`] measures what is left of the behaviour in a circuit, under
//! any [`EdgeAblation`] of the other edges; [`Bootstrap`] says how much of that is chance.
//!
//! **What a number means.** The change of the metric, in its unit, mean over the pairs. 0: the edge
//! carries nothing that matters to the metric. By a logit difference and under noising, an edge that
//! the answer needs is negative; programs that are handed a loss have the other sign, so every
//! result says what [its sign](Orientation) means. Effects of edges do not add up: two edges may
//! carry the same thing.
//!
//! Names, and the order of writers and readers, are those of EAP-IG (Hanna et al. 2024) and of the
//! circuit track of MIB (Mueller et al. 2025), whose files [`ScoredCircuit`] reads and writes.
//!
//! ```
//! use patchlens::circuits::{EdgeScores, Graph, Orientation, Ranking};
//! use patchlens::Config;
//!
//! let graph = Graph::new(&Config::gpt2());
//! assert_eq!(graph.n_edges(), 32_491);
//!
//! let mut changes = vec![0.0; graph.n_edges()]; // of the metric, by a method of your choice
//! changes[graph.index("a9.h9->logits".parse()?)?] = -5.6;
//! changes[graph.index("input->a9.h9<q>".parse()?)?] = -0.5;
//! let scores = EdgeScores::new(graph, changes, Orientation::UsefulIsNegative)?;
//! let circuit = scores.top_n(2, Ranking::Signed)?.pruned();
//! let names: Vec<_> = circuit.edges().map(|edge| edge.to_string()).collect();
//! assert_eq!(names, ["input->a9.h9<q>", "a9.h9->logits"]);
//! # Ok::<(), patchlens::Error>(())
//! ```

mod acdc;
mod agreement;
mod attribution;
mod bootstrap;
mod dot;
#[cfg(feature = "pictures")]
mod drawing;
mod edge;
mod effects;
mod evaluation;
mod exact;
mod file;
mod flow;
mod graph;
mod pairs;
#[cfg(feature = "pictures")]
mod scatter;
mod scores;
mod screen;
mod set;
mod table;

pub use acdc::{Acdc, AcdcCircuits, AcdcSearch, Decision, Tried};
pub use agreement::{Agreement, EdgePair};
pub use attribution::{Approximation, EdgeAttribution, Steps};
pub use bootstrap::{Bootstrap, Interval, Stability};
#[cfg(feature = "pictures")]
pub use drawing::CircuitDrawing;
pub use edge::{Edge, Receiver, Source};
pub use effects::{EdgeEffects, PositionEffects};
pub use evaluation::{
    CircuitEvaluation, CircuitRun, EdgeAblation, EvaluatedCircuits, FaithfulnessCurve,
};
pub use exact::ExactEdges;
pub use file::ScoredCircuit;
pub use flow::{FlowScores, InformationFlow};
pub use graph::Graph;
pub use scores::{EdgeScores, Orientation, Ranking};
pub use screen::{SampleBound, Screened, ScreenedEdges, Verify};
pub use set::EdgeSet;
