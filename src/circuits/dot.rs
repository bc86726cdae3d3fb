//! Circuits in DOT, the language of Graphviz.

use std::fmt::Write;

use super::edge::{Edge, Receiver, Source};
use super::scores::{EdgeScores, Orientation};
use super::set::EdgeSet;
use crate::component::Qkv;
use crate::error::Result;

/// The widest line, in points.
const WIDEST: f32 = 5.0;
/// The thinnest line.
const THINNEST: f32 = 0.6;

impl EdgeSet {
    /// The circuit in DOT, the language of Graphviz: the input at the bottom, a layer's heads side by
    /// side, edges labelled and coloured by what a head reads them for. With scores, the larger a score
    /// the wider its line; dashed where the edge works against the behaviour.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for scores of another graph.
    pub fn to_dot(&self, scores: Option<&EdgeScores>) -> Result<String> {
        let lines = scores.map(|scores| self.widths(scores)).transpose()?;
        let mut dot = String::from("digraph circuit {\n  rankdir=BT;\n  node [shape=box];\n");
        let reads = |edge: Edge| [Some(edge.from), edge.to.source()].into_iter().flatten();
        let mut nodes: Vec<Source> = self.edges().flat_map(reads).collect();
        nodes.sort_by_key(|&node| self.graph().source_index(node));
        nodes.dedup();
        for layer in 0..self.graph().n_layers() {
            let heads = nodes.iter().filter(|node| {
                node.component()
                    .head()
                    .is_some_and(|head| head.layer == layer)
            });
            let heads: Vec<String> = heads.map(|head| format!("\"{head}\";")).collect();
            if !heads.is_empty() {
                line(&mut dot, &format!("{{ rank=same; {} }}", heads.join(" ")));
            }
        }
        for (i, edge) in self.edges().enumerate() {
            let to = edge.to.source();
            let to = to.map_or_else(|| edge.to.to_string(), |node| node.to_string());
            let width = lines.as_ref().map_or("", |lines| &lines[i]);
            let style = [label(edge.to), width].concat();
            line(
                &mut dot,
                &format!("\"{}\" -> \"{to}\" [{style}];", edge.from),
            );
        }
        dot.push_str("}\n");
        Ok(dot)
    }

    /// The width, and the dashes, of each edge's line.
    fn widths(&self, scores: &EdgeScores) -> Result<Vec<String>> {
        self.graph().expect_same(scores.graph())?;
        let scores = scores.clone().oriented(Orientation::UsefulIsPositive);
        let values: Result<Vec<f32>> = self.edges().map(|edge| scores.of(edge)).collect();
        let values = values?;
        let largest = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let width = |value: f32| {
            let share = if largest > 0.0 {
                value.abs() / largest
            } else {
                0.0
            };
            THINNEST.max(WIDEST * share)
        };
        let dashes = |value: f32| if value < 0.0 { ", style=dashed" } else { "" };
        let lines = values
            .iter()
            .map(|&v| format!(", penwidth={:.2}{}", width(v), dashes(v)));
        Ok(lines.collect())
    }
}

fn label(to: Receiver) -> &'static str {
    match to {
        Receiver::Head(_, Qkv::Q) => "label=q, color=\"#0072b2\"",
        Receiver::Head(_, Qkv::K) => "label=k, color=\"#009e73\"",
        Receiver::Head(_, Qkv::V) => "label=v, color=\"#d55e00\"",
        Receiver::Mlp(_) | Receiver::Logits => "color=\"#555555\"",
    }
}

fn line(dot: &mut String, text: &str) {
    writeln!(dot, "  {text}").expect("a text grows");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::circuits::Graph;
    use crate::config::Config;

    #[test]
    fn a_small_circuit_by_hand() {
        let config = Config {
            n_layers: 1,
            n_heads: 1,
            d_model: 8,
            ..Config::gpt2()
        };
        let graph = Graph::new(&config);
        let names = ["input->a0.h0<v>", "input->m0", "a0.h0->logits"];
        let circuit = EdgeSet::from_names(graph, names).unwrap();
        let values = vec![0.0, 0.0, -4.0, 0.0, 0.0, 0.0, 2.0, 9.0];
        let scores = EdgeScores::new(graph, values, Orientation::UsefulIsNegative).unwrap();
        let expected = r##"digraph circuit {
  rankdir=BT;
  node [shape=box];
  { rank=same; "a0.h0"; }
  "input" -> "a0.h0" [label=v, color="#d55e00", penwidth=5.00];
  "input" -> "m0" [color="#555555", penwidth=0.60];
  "a0.h0" -> "logits" [color="#555555", penwidth=2.50, style=dashed];
}
"##;
        assert_eq!(circuit.to_dot(Some(&scores)).unwrap(), expected);
        let plain = circuit.to_dot(None).unwrap();
        assert!(plain.contains("[label=v, color=\"#d55e00\"];"), "{plain}");
        let other = EdgeSet::empty(Graph::new(&Config::gpt2()));
        assert!(other.to_dot(Some(&scores)).is_err());
    }
}
