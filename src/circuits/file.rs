//! Circuits as EAP-IG and MIB write them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::edge::{Edge, Receiver, Source};
use super::graph::Graph;
use super::scores::{EdgeScores, Orientation};
use super::set::EdgeSet;
use crate::error::Result;
use crate::files::{UniqueKeys, format_error, read_text, write_atomically};

/// The largest file that is read: all edges of GPT-2 XL are about 150 MB.
const LIMIT: u64 = 1 << 30;

/// A circuit and the scores that it was selected by: the contents of one of EAP-IG's JSON files, which
/// is also what the circuit track of MIB takes.
///
/// ```json
/// {"cfg": {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": false, "d_model": 768},
///  "nodes": {"input": {"in_graph": true}, "a0.h0": {"in_graph": false}, …},
///  "edges": {"input->a0.h0<q>": {"score": 0.01, "in_graph": false}, …}}
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredCircuit {
    /// A score for every edge.
    pub scores: EdgeScores,
    /// The edges inside.
    pub circuit: EdgeSet,
}

#[derive(Serialize, Deserialize)]
struct Contents<N, E> {
    cfg: Shape,
    nodes: N,
    edges: E,
}

#[derive(Serialize, Deserialize)]
struct Shape {
    n_layers: usize,
    n_heads: usize,
    #[serde(default)]
    parallel_attn_mlp: bool,
    d_model: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeEntry {
    in_graph: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EdgeEntry {
    score: f32,
    in_graph: bool,
}

type Read = Contents<UniqueKeys<NodeEntry>, UniqueKeys<EdgeEntry>>;
type Written = Contents<BTreeMap<String, NodeEntry>, BTreeMap<String, EdgeEntry>>;

impl ScoredCircuit {
    /// Joins both.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for different graphs.
    pub fn new(scores: EdgeScores, circuit: EdgeSet) -> Result<Self> {
        scores.graph().expect_same(circuit.graph())?;
        Ok(ScoredCircuit { scores, circuit })
    }

    /// Writes a file, in which useful edges have positive scores, as the format has it. A node is in
    /// the circuit if it has edges in and out.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let text = self.to_json();
        write_atomically(path.as_ref(), |file| file.write_all(text.as_bytes()))
    }

    /// The contents of the file.
    pub fn to_json(&self) -> String {
        let graph = self.circuit.graph();
        let scores = self.scores.clone().oriented(Orientation::UsefulIsPositive);
        let inside = self.circuit.nodes();
        let nodes = graph.sources().map(|source| {
            let in_graph = inside.contains(&source);
            (source.to_string(), NodeEntry { in_graph })
        });
        let logits = (Receiver::Logits.to_string(), NodeEntry { in_graph: true });
        let edges = graph.edges().zip(scores.values()).zip(self.circuit.mask());
        let edges = edges
            .map(|((edge, &score), &in_graph)| (edge.to_string(), EdgeEntry { score, in_graph }));
        let contents: Written = Contents {
            cfg: Shape {
                n_layers: graph.n_layers(),
                n_heads: graph.n_heads(),
                parallel_attn_mlp: false,
                d_model: graph.d_model(),
            },
            nodes: nodes.chain([logits]).collect(),
            edges: edges.collect(),
        };
        serde_json::to_string(&contents).expect("finite numbers under texts")
    }

    /// Reads a file of a model of this graph. What the sign of its scores means is not written in
    /// the format, and differs: `orientation`. Whether nodes are in the circuit follows from its
    /// edges; what the file says of them is not used.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::Format`](crate::Error::Format) for anything that is
    /// not the format, another graph, edges that are missing, unknown or given twice, scores that are
    /// not finite, and for scores of nodes and neurons, which this type does not hold.
    pub fn open(path: impl AsRef<Path>, graph: Graph, orientation: Orientation) -> Result<Self> {
        let path = path.as_ref();
        let text = read_text(path, LIMIT)?;
        let contents: Read = serde_json::from_str(&text)
            .map_err(|error| format_error(path, error.to_string(), "a circuit of EAP-IG"))?;
        let malformed = |found: String, expected: &str| Err(format_error(path, found, expected));
        let Shape {
            n_layers,
            n_heads,
            parallel_attn_mlp,
            d_model,
        } = contents.cfg;
        if (n_layers, n_heads, d_model) != (graph.n_layers(), graph.n_heads(), graph.d_model()) {
            let found = format!("{n_layers} layers of {n_heads} heads, d_model {d_model}");
            return malformed(found, &graph.describe());
        }
        if parallel_attn_mlp {
            return malformed("`parallel_attn_mlp` true".to_string(), "false");
        }
        for name in contents.nodes.0.keys() {
            let known = name
                .parse::<Source>()
                .and_then(|source| graph.index(Edge::new(source, Receiver::Logits)));
            if name != "logits" && known.is_err() {
                return malformed(format!("node `{name}`"), "a node of the graph");
            }
        }
        let mut entries = contents.edges.0;
        let mut values = Vec::with_capacity(graph.n_edges());
        let mut circuit = EdgeSet::empty(graph);
        for edge in graph.edges() {
            let Some(entry) = entries.remove(&edge.to_string()) else {
                return malformed(format!("no edge `{edge}`"), "every edge of the graph");
            };
            values.push(entry.score);
            if entry.in_graph {
                circuit.insert(edge)?;
            }
        }
        if let Some(name) = entries.keys().next() {
            return malformed(format!("edge `{name}`"), "an edge of the graph");
        }
        let scores = EdgeScores::new(graph, values, orientation);
        let scores = scores.map_err(|e| format_error(path, e.to_string(), "finite scores"))?;
        ScoredCircuit::new(scores, circuit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn one() -> ScoredCircuit {
        let config = Config {
            n_layers: 1,
            n_heads: 1,
            d_model: 8,
            ..Config::gpt2()
        };
        let graph = Graph::new(&config);
        let values = vec![0.5, -1.0, 0.25, 1e-8, 0.1, 0.0, 3.0, -2.5];
        let scores = EdgeScores::new(graph, values, Orientation::UsefulIsNegative).unwrap();
        let names = ["input->a0.h0<k>", "a0.h0->logits", "input->m0"];
        let circuit = EdgeSet::from_names(graph, names).unwrap();
        ScoredCircuit::new(scores, circuit).unwrap()
    }

    fn opened(text: &str) -> Result<ScoredCircuit> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("circuit.json");
        std::fs::write(&path, text).unwrap();
        let graph = one().circuit.graph();
        ScoredCircuit::open(&path, graph, Orientation::UsefulIsPositive)
    }

    #[test]
    fn what_is_written_reads_back() {
        let expected = one().scores.oriented(Orientation::UsefulIsPositive);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("circuit.json");
        one().save(&path).unwrap();
        let graph = one().circuit.graph();
        let found = ScoredCircuit::open(&path, graph, Orientation::UsefulIsPositive).unwrap();
        assert_eq!(found.circuit, one().circuit);
        assert_eq!(found.scores, expected);
        let json: serde_json::Value = serde_json::from_str(&one().to_json()).unwrap();
        assert_eq!(json["cfg"]["parallel_attn_mlp"], false);
        assert_eq!(json["edges"]["input->a0.h0<k>"]["score"], 1.0);
        // m0 reads, but nothing reads it.
        let nodes =
            ["input", "a0.h0", "m0", "logits"].map(|n| json["nodes"][n]["in_graph"].clone());
        assert_eq!(nodes, [true, true, false, true]);
    }

    #[test]
    fn files_that_are_not_the_format_are_errors() {
        let text = one().to_json();
        let message = |from: &str, to: &str| {
            assert!(text.contains(from), "{text}");
            opened(&text.replacen(from, to, 1)).unwrap_err().to_string()
        };
        let cases = [
            (
                r#""n_heads":1"#,
                r#""n_heads":2"#,
                "found 1 layers of 2 heads",
            ),
            (
                "false,\"d",
                "true,\"d",
                "`parallel_attn_mlp` true; expected false",
            ),
            ("m0->logits", "m0->a0.h0<q>", "no edge `m0->logits`"),
            (
                "\"input->m0\":",
                "\"m1->m0\":{\"score\":1,\"in_graph\":true},\"input->m0\":",
                "edge `m1->m0`",
            ),
            (
                "\"input->m0\":",
                "\"a0.h0->m0\":{\"score\":1,\"in_graph\":true},\"input->m0\":",
                "occurs twice",
            ),
            ("\"m0\":{", "\"m7\":{", "node `m7`"),
            (
                "\"m0\":{",
                "\"m0\":{\"score\":1.0,",
                "unknown field `score`",
            ),
            ("\"score\":1.0", "\"score\":1e60", "finite"),
        ];
        for (from, to, expected) in cases {
            let message = message(from, to);
            let expected = expected.trim_start_matches("found ");
            assert!(message.contains(expected), "{message}");
        }
    }
}
