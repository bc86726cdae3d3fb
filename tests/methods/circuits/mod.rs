//! The graph of edges, scores of edges, and the selection of circuits, against the goldens of
//! `circuits.py` and as identities of random models.

mod ablation_goldens;
mod ablations;
mod acdc;
mod agreement;
mod attribution;
mod bootstrap;
mod evaluation;
mod exact;
mod flow;
mod full_passes;
mod identities;
mod nodes;
mod screen;

use std::collections::BTreeMap;

use ndarray::{ArrayD, ArrayView2, Axis, Ix2};
use patchlens::circuits::{EdgeScores, EdgeSet, Graph, Orientation, Ranking, ScoredCircuit};
use patchlens::config::AttentionDirection;
use patchlens::metric::logit_diffs;
use patchlens::{Config, Metric, Prompts, Transformer};
use serde_json::Value;

use crate::common::{difference, dir, tensors};

const MODELS: [(&str, usize); 3] = [("tiny-relu", 46), ("tiny-gelu", 262), ("mini", 479)];

struct Golden {
    name: &'static str,
    model: Transformer,
    graph: Graph,
    metadata: Value,
    tensors: BTreeMap<String, ArrayD<f32>>,
    clean: Prompts,
    corrupted: Prompts,
    /// The difference of logits by which the pairs are measured.
    metric: Metric,
}

impl Golden {
    fn open(name: &'static str) -> Self {
        let model = match name {
            "mini" => {
                let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/mini");
                Transformer::open(assets).unwrap()
            }
            _ => crate::common::open(name),
        };
        let text = std::fs::read_to_string(dir(name).join("circuits.json")).unwrap();
        let metadata: Value = serde_json::from_str(&text).unwrap();
        let pairs = metadata["pairs"].as_array().unwrap();
        let prompts = |kind: &str| {
            let tokens = |pair: &Value| crate::common::tokens(&pair[kind]);
            Prompts::new(pairs.iter().map(tokens)).unwrap()
        };
        let answers = |pair: &Value| {
            let tokens = crate::common::tokens(&pair["metric_tokens"]);
            (tokens[0], tokens[1])
        };
        let answers: Vec<(u32, u32)> = pairs.iter().map(answers).collect();
        Golden {
            name,
            graph: Graph::new(model.config()),
            tensors: tensors(name, "circuits.safetensors"),
            clean: prompts("clean"),
            corrupted: prompts("corrupted"),
            metric: logit_diffs(&answers),
            model,
            metadata,
        }
    }

    /// The mean over pairs of `eap/noising`.
    fn scores(&self) -> EdgeScores {
        let mean = self.tensors["eap/noising"].mean_axis(Axis(0)).unwrap();
        let orientation = Orientation::UsefulIsNegative;
        EdgeScores::new(self.graph, mean.into_iter().collect(), orientation).unwrap()
    }

    /// A tensor `[pair, item]` as `[item, pair]`.
    fn by_pair(&self, key: &str) -> ArrayView2<'_, f32> {
        let found = self.tensors[key].view().into_dimensionality::<Ix2>();
        found.unwrap().reversed_axes()
    }

    /// Fails unless values `[item, pair]` are the golden ones, to a share of each pair's largest.
    fn expect(&self, found: ArrayView2<'_, f32>, expected: ArrayView2<'_, f32>, what: &str) {
        assert_eq!(found.dim(), expected.dim());
        for (pair, (found, expected)) in found
            .columns()
            .into_iter()
            .zip(expected.columns())
            .enumerate()
        {
            let worst = difference(found.into_dyn(), expected.into_dyn());
            assert!(
                worst < 1e-5,
                "{}, pair {pair}, {what}: {worst:e}",
                self.name
            );
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
                "top_n" => golden.scores().top_n(n, ranking),
                _ => golden.scores().greedy(n, ranking),
            };
            assert_eq!(found.unwrap(), golden.circuit(bits), "{model}: {name}");
        }
    }
}

#[test]
fn a_file_of_the_shipped_models_edges_reads_back() {
    let golden = Golden::open("mini");
    let circuit = golden.scores().top_n(48, Ranking::Absolute).unwrap();
    let one = ScoredCircuit::new(golden.scores(), circuit).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circuit.json");
    one.save(&path).unwrap();
    let orientation = Orientation::UsefulIsPositive;
    let found = ScoredCircuit::open(&path, golden.graph, orientation).unwrap();
    assert_eq!(found.circuit, one.circuit);
    let scores = found.scores.oriented(Orientation::UsefulIsNegative);
    assert_eq!(scores, one.scores);
}

/// A model with random weights, some layers and heads of a few dimensions; every fourth seed is one
/// whose positions attend to later ones, too.
fn random_model(n_layers: usize, n_heads: usize, d_head: usize, seed: u64) -> Transformer {
    let config = Config {
        n_layers,
        n_heads,
        d_model: n_heads * d_head,
        d_mlp: 4 * d_head + 1,
        d_vocab: 23,
        n_ctx: 16,
        attention: if seed % 4 == 3 {
            AttentionDirection::Bidirectional
        } else {
            AttentionDirection::Causal
        },
        ..Config::gpt2()
    };
    // Weights as of a trained model, so that attention is not flat.
    Transformer::random(config, seed).unwrap()
}

/// Two prompts per length that differ here and there, with a common start for every other one.
fn random_pairs(lengths: &[usize]) -> [Prompts; 2] {
    [0, 1].map(|which: usize| {
        let prompt = |(i, n): (usize, &usize)| -> Vec<u32> {
            let differs = |p: usize| which * ((p + i) % 2) * usize::from(p >= i % 3);
            (0..*n)
                .map(|p| ((p * 7 + i * 5 + 3 * differs(p)) % 23) as u32)
                .collect()
        };
        Prompts::new(lengths.iter().enumerate().map(prompt)).unwrap()
    })
}
