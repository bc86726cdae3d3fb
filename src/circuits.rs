//! Circuits: the graph of a model's heads and MLPs, sets of its edges, and scores of them.
//!
//! Heads, MLPs and the token embedding write into the residual stream; the queries, keys and values
//! of later heads, later MLPs and the logits read it. An edge is one writer's contribution to
//! what one reader
//! reads, at all positions. The position embedding and the biases belong to no edge: they are always
//! there. A model of `L` layers with `H` heads has
//! `L(3H+1) + (H+1)(3H+1)·L(L−1)/2 + L·H + 1 + L(H+1)` edges; GPT-2 small has 32,491.
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

mod dot;
mod edge;
mod effects;
mod exact;
mod file;
mod graph;
mod pairs;
mod scores;
mod set;
mod table;

pub use edge::{Edge, Receiver, Source};
pub use effects::EdgeEffects;
pub use exact::{ExactEdges, PositionEffects};
pub use file::ScoredCircuit;
pub use graph::Graph;
pub use scores::{EdgeScores, Orientation, Ranking};
pub use set::EdgeSet;
