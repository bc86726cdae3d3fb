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
        let shares = scores.map(|scores| self.shares(scores)).transpose()?;
        let lines = shares.map(|shares| shares.into_iter().map(width).collect::<Vec<_>>());
        let mut dot = String::from("digraph circuit {\n  rankdir=BT;\n  node [shape=box];\n");
        let nodes = self.ends();
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
            let style = label(edge.to) + width;
            line(
                &mut dot,
                &format!("\"{}\" -> \"{to}\" [{style}];", edge.from),
            );
        }
        dot.push_str("}\n");
        Ok(dot)
    }

    /// What its edges lead from and to, besides the logits, in graph order.
    pub(super) fn ends(&self) -> Vec<Source> {
        let reads = |edge: Edge| [Some(edge.from), edge.to.source()].into_iter().flatten();
        let mut nodes: Vec<Source> = self.edges().flat_map(reads).collect();
        nodes.sort_by_key(|&node| self.graph().source_index(node));
        nodes.dedup();
        nodes
    }

    /// The score of each edge over the largest one's size, in graph order; negative where the edge
    /// works against the behaviour.
    pub(super) fn shares(&self, scores: &EdgeScores) -> Result<Vec<f32>> {
        self.graph().expect_same(scores.graph())?;
        let scores = scores.clone().oriented(Orientation::UsefulIsPositive);
        let values: Result<Vec<f32>> = self.edges().map(|edge| scores.of(edge)).collect();
        let values = values?;
        let largest = values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let share = |value: f32| if largest > 0.0 { value / largest } else { 0.0 };
        Ok(values.into_iter().map(share).collect())
    }
}

/// The width, and the dashes, of an edge's line.
fn width(share: f32) -> String {
    let dashes = if share < 0.0 { ", style=dashed" } else { "" };
    let width = THINNEST.max(WIDEST * share.abs());
    format!(", penwidth={width:.2}{dashes}")
}

/// Red, green and blue of an edge, by what reads it. From Okabe and Ito's colours, which the
/// colour-blind can tell apart.
pub(super) fn color(to: Receiver) -> [u8; 3] {
    match to {
        Receiver::Head(_, Qkv::Q) => [0x00, 0x72, 0xb2],
        Receiver::Head(_, Qkv::K) => [0x00, 0x9e, 0x73],
        Receiver::Head(_, Qkv::V) => [0xd5, 0x5e, 0x00],
        Receiver::Mlp(_) | Receiver::Logits => [0x55, 0x55, 0x55],
    }
}

fn label(to: Receiver) -> String {
    let [r, g, b] = color(to);
    let color = format!("color=\"#{r:02x}{g:02x}{b:02x}\"");
    match to {
        Receiver::Head(_, read) => format!("label={read}, {color}"),
        Receiver::Mlp(_) | Receiver::Logits => color,
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
