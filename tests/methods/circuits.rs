//! The graph of edges and the selection of circuits, against the goldens of `circuits.py`.

use patchlens::Transformer;
use patchlens::circuits::{EdgeScores, EdgeSet, Graph, Orientation, Ranking, ScoredCircuit};
use serde_json::Value;

use crate::common::{dir, tensors};

const MODELS: [(&str, usize); 3] = [("tiny-relu", 46), ("tiny-gelu", 262), ("mini", 479)];

struct Golden {
    graph: Graph,
    metadata: Value,
    /// The mean over pairs of `eap/noising`.
    scores: EdgeScores,
}

impl Golden {
    fn open(model: &str) -> Self {
        let config = match model {
            "mini" => {
                let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/mini");
                Transformer::open(assets).unwrap().config().clone()
            }
            _ => crate::common::open(model).config().clone(),
        };
        let graph = Graph::new(&config);
        let text = std::fs::read_to_string(dir(model).join("circuits.json")).unwrap();
        let by_pair = &tensors(model, "circuits.safetensors")["eap/noising"];
        let mean = by_pair.mean_axis(ndarray::Axis(0)).unwrap();
        let orientation = Orientation::UsefulIsNegative;
        Golden {
            graph,
            metadata: serde_json::from_str(&text).unwrap(),
            scores: EdgeScores::new(graph, mean.into_iter().collect(), orientation).unwrap(),
        }
    }

    /// A circuit written as one digit per edge.
    fn circuit(&self, bits: &Value) -> EdgeSet {
        let bits = bits.as_str().unwrap().bytes();
        let edges = self.graph.edges().zip(bits);
        let inside = edges.filter_map(|(edge, bit)| (bit == b'1').then_some(edge));
        EdgeSet::new(self.graph, inside).unwrap()
    }
}

#[test]
fn nodes_and_edges_have_the_same_names_in_the_same_order() {
    for (model, n_edges) in MODELS {
        let golden = Golden::open(model);
        let words = |key: &str| {
            let text = golden.metadata[key].as_str().unwrap();
            text.split(' ').map(String::from).collect::<Vec<_>>()
        };
        let sources: Vec<_> = golden.graph.sources().map(|s| s.to_string()).collect();
        assert_eq!(sources, words("sources"));
        let receivers: Vec<_> = golden.graph.receivers().map(|r| r.to_string()).collect();
        assert_eq!(receivers, words("receivers"));
        let lines = golden.metadata["edges"].as_array().unwrap().iter();
        let expected: Vec<&str> = lines.flat_map(|l| l.as_str().unwrap().split(' ')).collect();
        let edges: Vec<_> = golden.graph.edges().map(|e| e.to_string()).collect();
        assert_eq!(edges, expected);
        assert_eq!(edges.len(), n_edges);
    }
}

#[test]
fn circuits_are_pruned_as_the_reference_prunes_them() {
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        let list = |key: &str| golden.metadata[key].as_array().unwrap().clone();
        let mut removed = 0;
        for (whole, pruned) in list("circuits").iter().zip(&list("pruned")) {
            let (whole, pruned) = (golden.circuit(whole), golden.circuit(pruned));
            assert_eq!(whole.pruned(), pruned, "{model}");
            removed += whole.len() - pruned.len();
        }
        assert!(removed > 0, "{model}");
    }
}

#[test]
fn circuits_are_selected_as_the_reference_selects_them() {
    for (model, _) in MODELS {
        let golden = Golden::open(model);
        for (name, bits) in golden.metadata["selected"].as_object().unwrap() {
            let parts: Vec<&str> = name.split('/').collect();
            let ranking = match parts[1] {
                "signed" => Ranking::Signed,
                _ => Ranking::Absolute,
            };
            let n = parts[2].parse().unwrap();
            let found = match parts[0] {
                "top_n" => golden.scores.top_n(n, ranking),
                _ => golden.scores.greedy(n, ranking),
            };
            assert_eq!(found.unwrap(), golden.circuit(bits), "{model}: {name}");
        }
    }
}

#[test]
fn a_file_of_the_shipped_models_edges_reads_back() {
    let golden = Golden::open("mini");
    let circuit = golden.scores.top_n(48, Ranking::Absolute).unwrap();
    let one = ScoredCircuit::new(golden.scores, circuit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circuit.json");
    one.save(&path).unwrap();
    let orientation = Orientation::UsefulIsPositive;
    let found = ScoredCircuit::open(&path, golden.graph, orientation).unwrap();
    assert_eq!(found.circuit, one.circuit);
    let scores = found.scores.oriented(Orientation::UsefulIsNegative);
    assert_eq!(scores, one.scores);
}
