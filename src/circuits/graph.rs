//! All edges of a model, numbered.

use super::edge::{Edge, Receiver, Source};
use crate::component::{Head, Qkv};
use crate::config::{Config, Element};
use crate::error::{Error, Result};

/// All edges between the token embedding, heads, MLPs and logits of a model with `n_layers` layers
/// of `n_heads` heads each.
///
/// Writers are numbered `input`; then by layer the heads, then the MLP. Readers by layer: the queries
/// of all heads, the keys, the values, the MLP; the logits last. Edges are numbered by reader, then by
/// writer. This is *graph order*: sums run in it, and it breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Graph {
    n_layers: usize,
    n_heads: usize,
    d_model: usize,
    /// MLPs per layer: 0 in attention-only models.
    mlps: usize,
}

impl Graph {
    /// The graph of models of this shape.
    pub fn new(config: &Config) -> Self {
        Graph {
            n_layers: config.n_layers,
            n_heads: config.n_heads,
            d_model: config.d_model,
            mlps: usize::from(config.has(Element::Mlp)),
        }
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// Heads per layer.
    pub fn n_heads(&self) -> usize {
        self.n_heads
    }

    /// Width of the residual stream.
    pub fn d_model(&self) -> usize {
        self.d_model
    }

    /// Whether layers have MLPs.
    pub fn has_mlps(&self) -> bool {
        self.mlps > 0
    }

    /// `1 + L(H + 1)`, without MLPs `1 + LH`.
    pub fn n_sources(&self) -> usize {
        self.written_before(2 * self.n_layers)
    }

    /// `L(3H + 1) + 1`, without MLPs `3LH + 1`.
    pub fn n_receivers(&self) -> usize {
        self.n_layers * self.readers_in_layer() + 1
    }

    /// `L(3H+1) + (H+1)(3H+1)·L(L−1)/2 + L·H + 1 + L(H+1)`, without MLPs
    /// `3HL + 3H²·L(L−1)/2 + 1 + LH`.
    pub fn n_edges(&self) -> usize {
        self.edges_before_layer(self.n_layers) + self.n_sources()
    }

    /// The writers in order.
    pub fn sources(&self) -> impl Iterator<Item = Source> + use<> {
        let (n_heads, mlps) = (self.n_heads, self.mlps);
        let of_layer = move |layer| {
            let heads = (0..n_heads).map(move |head| Source::Head(Head::new(layer, head)));
            heads.chain([Source::Mlp(layer)].into_iter().take(mlps))
        };
        [Source::Input]
            .into_iter()
            .chain((0..self.n_layers).flat_map(of_layer))
    }

    /// The readers in order.
    pub fn receivers(&self) -> impl Iterator<Item = Receiver> + use<> {
        let (n_heads, mlps) = (self.n_heads, self.mlps);
        let of_layer = move |layer| {
            let inputs = Qkv::ALL.into_iter().flat_map(move |read| {
                (0..n_heads).map(move |head| Receiver::Head(Head::new(layer, head), read))
            });
            inputs.chain([Receiver::Mlp(layer)].into_iter().take(mlps))
        };
        (0..self.n_layers)
            .flat_map(of_layer)
            .chain([Receiver::Logits])
    }

    /// The edges in order.
    pub fn edges(&self) -> impl Iterator<Item = Edge> + use<> {
        let graph = *self;
        graph.receivers().flat_map(move |to| {
            let written = graph.written_before(graph.time(to));
            graph
                .sources()
                .take(written)
                .map(move |from| Edge::new(from, to))
        })
    }

    /// The edge of a number.
    ///
    /// # Panics
    /// If there are not so many edges.
    pub fn edge(&self, index: usize) -> Edge {
        let n_edges = self.n_edges();
        assert!(index < n_edges, "edge {index} of {n_edges}");
        let mut layers = 0..=self.n_layers;
        let layer = layers.rfind(|&l| self.edges_before_layer(l) <= index);
        let layer = layer.expect("layer 0 has no edges before it");
        let past = index - self.edges_before_layer(layer);
        let (to, from) = if layer == self.n_layers {
            (Receiver::Logits, past)
        } else {
            let per_input = self.written_before(2 * layer);
            let input = past / per_input;
            if input < 3 * self.n_heads {
                let head = Head::new(layer, input % self.n_heads);
                let to = Receiver::Head(head, Qkv::ALL[input / self.n_heads]);
                (to, past % per_input)
            } else {
                (Receiver::Mlp(layer), past - 3 * self.n_heads * per_input)
            }
        };
        Edge::new(self.source(from), to)
    }

    /// The number of an edge, in graph order.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for layers and heads that the model lacks, [`Error::Invalid`] for an edge
    /// whose reader reads before its writer writes.
    pub fn index(&self, edge: Edge) -> Result<usize> {
        self.check(edge)?;
        if !edge.leads_forward() {
            let expected = "a writer before its reader (heads of one layer do not read each other)";
            return Err(Error::invalid("edge", format!("`{edge}`"), expected));
        }
        Ok(self.first_into(edge.to) + self.source_index(edge.from))
    }

    /// The numbers of the edges into a reader, in order of their writers.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a reader that the model lacks.
    pub fn edges_into(&self, to: Receiver) -> Result<std::ops::Range<usize>> {
        self.check(Edge::new(Source::Input, to))?;
        let first = self.first_into(to);
        Ok(first..first + self.written_before(self.time(to)))
    }

    /// # Errors
    /// [`Error::OutOfRange`] for layers and heads that the model lacks, [`Error::Lacks`] for MLPs.
    fn check(&self, edge: Edge) -> Result<()> {
        let parts = [Some(edge.from), edge.to.source()].into_iter().flatten();
        let mut mlps = parts.clone().filter(|part| matches!(part, Source::Mlp(_)));
        if !self.has_mlps() && mlps.next().is_some() {
            return Err(Error::Lacks {
                at: format!("edge `{edge}`"),
                reason: Element::Mlp.absence().to_string(),
            });
        }
        let axes = parts.flat_map(|source| {
            let component = source.component();
            let layer = component
                .layer()
                .map(|found| ("layer", found, self.n_layers));
            let head = component.head().map(|one| ("head", one.head, self.n_heads));
            [layer, head].into_iter().flatten()
        });
        let mut beyond = axes.filter(|(_, found, end)| found >= end);
        match beyond.next() {
            None => Ok(()),
            Some((axis, found, end)) => Err(Error::OutOfRange {
                at: format!("edge `{edge}`"),
                axis,
                found,
                expected: format!("0..{end}"),
            }),
        }
    }

    /// A writer's place among the writers.
    pub(super) fn source_index(&self, source: Source) -> usize {
        match source {
            Source::Input => 0,
            Source::Head(head) => 1 + head.layer * self.writers_in_layer() + head.head,
            Source::Mlp(layer) => (layer + 1) * self.writers_in_layer(),
        }
    }

    /// A reader's place among the readers.
    pub(super) fn receiver_index(&self, to: Receiver) -> usize {
        let per_layer = self.readers_in_layer();
        match to {
            Receiver::Head(head, read) => {
                head.layer * per_layer + read as usize * self.n_heads + head.head
            }
            Receiver::Mlp(layer) => (layer + 1) * per_layer - 1,
            Receiver::Logits => self.n_layers * per_layer,
        }
    }

    fn source(&self, index: usize) -> Source {
        let Some(past) = index.checked_sub(1) else {
            return Source::Input;
        };
        let per_layer = self.writers_in_layer();
        let (layer, head) = (past / per_layer, past % per_layer);
        if head < self.n_heads {
            Source::Head(Head::new(layer, head))
        } else {
            Source::Mlp(layer)
        }
    }

    fn first_into(&self, to: Receiver) -> usize {
        match to {
            Receiver::Head(head, read) => {
                let input = read as usize * self.n_heads + head.head;
                self.edges_before_layer(head.layer) + input * self.written_before(2 * head.layer)
            }
            Receiver::Mlp(layer) => {
                let of_heads = 3 * self.n_heads * self.written_before(2 * layer);
                self.edges_before_layer(layer) + of_heads
            }
            Receiver::Logits => self.edges_before_layer(self.n_layers),
        }
    }

    /// Edges into all readers of the layers before this one.
    fn edges_before_layer(&self, layer: usize) -> usize {
        let (l, h, m) = (layer, self.n_heads, self.mlps);
        let pairs = l * l.saturating_sub(1) / 2;
        // The embeddings to all, heads to their layer's MLP, and what earlier layers write.
        l * (3 * h + m) + l * m * h + self.readers_in_layer() * self.writers_in_layer() * pairs
    }

    fn writers_in_layer(&self) -> usize {
        self.n_heads + self.mlps
    }

    fn readers_in_layer(&self) -> usize {
        3 * self.n_heads + self.mlps
    }

    fn time(&self, to: Receiver) -> usize {
        to.time().min(2 * self.n_layers)
    }

    /// How many writers' outputs the stream holds at a reader's time.
    fn written_before(&self, time: usize) -> usize {
        1 + time / 2 * self.writers_in_layer() + time % 2 * self.n_heads
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn graph(n_layers: usize, n_heads: usize) -> Graph {
        Graph {
            n_layers,
            n_heads,
            d_model: 8,
            mlps: 1,
        }
    }

    fn attention_only(n_layers: usize, n_heads: usize) -> Graph {
        Graph {
            mlps: 0,
            ..graph(n_layers, n_heads)
        }
    }

    #[test]
    fn counts_are_those_of_other_programs() {
        assert_eq!(graph(2, 2).n_edges(), 46); // auto-circuit 1.0.1
        assert_eq!(graph(4, 4).n_edges(), 479);
        let counts = [
            (Config::gpt2(), 32_491), // EAP-IG
            (Config::gpt2_medium(), 231_877),
            (Config::gpt2_large(), 810_703),
            (Config::gpt2_xl(), 2_235_025),
        ];
        for (config, expected) in counts {
            assert_eq!(Graph::new(&config).n_edges(), expected);
        }
        // Two layers of eight heads without MLPs, counted by hand.
        assert_eq!(attention_only(2, 8).n_edges(), 257);
        let mlp: Edge = "input->m0".parse().unwrap();
        let error = attention_only(2, 8).index(mlp).unwrap_err();
        assert_eq!(
            error.to_string(),
            "edge `input->m0`: this model has no MLPs"
        );
        let small = Graph::new(&Config::gpt2());
        assert_eq!((small.n_sources(), small.n_receivers()), (157, 445));
    }

    #[test]
    fn one_layer_of_one_head_by_hand() {
        let names: Vec<_> = graph(1, 1).edges().map(|e| e.to_string()).collect();
        let inputs = ["input->a0.h0<q>", "input->a0.h0<k>", "input->a0.h0<v>"];
        let mlp = ["input->m0", "a0.h0->m0"];
        let logits = ["input->logits", "a0.h0->logits", "m0->logits"];
        assert_eq!(names, [&inputs[..], &mlp, &logits].concat());
    }

    proptest! {
        #[test]
        fn numbers_and_edges_belong_together(
            n_layers in 1..5_usize,
            n_heads in 1..5_usize,
            mlps in 0..2_usize,
        ) {
            let graph = Graph { mlps, ..graph(n_layers, n_heads) };
            prop_assert_eq!(graph.sources().count(), graph.n_sources());
            prop_assert_eq!(graph.receivers().count(), graph.n_receivers());
            for (i, to) in graph.receivers().enumerate() {
                prop_assert_eq!(graph.receiver_index(to), i);
            }
            let edges: Vec<Edge> = graph.edges().collect();
            prop_assert_eq!(edges.len(), graph.n_edges());
            for (i, &edge) in edges.iter().enumerate() {
                prop_assert_eq!(graph.index(edge).unwrap(), i);
                prop_assert_eq!(graph.edge(i), edge);
                prop_assert!(graph.edges_into(edge.to).unwrap().contains(&i));
            }
            // Every pair whose writer comes first is an edge, and no other.
            for to in graph.receivers() {
                for from in graph.sources() {
                    let edge = Edge::new(from, to);
                    let is_one = from.time() <= to.time();
                    prop_assert_eq!(graph.index(edge).is_ok(), is_one);
                    prop_assert_eq!(edges.contains(&edge), is_one);
                }
            }
        }
    }

    #[test]
    fn what_is_no_edge_of_the_model_is_an_error() {
        let message = |text: &str| {
            let edge: Edge = text.parse().unwrap();
            graph(2, 2).index(edge).unwrap_err().to_string()
        };
        let expected = "edge `a0.h2->m1`: head 2 is out of range; expected 0..2";
        assert_eq!(message("a0.h2->m1"), expected);
        let expected = "edge `input->m2`: layer 2 is out of range; expected 0..2";
        assert_eq!(message("input->m2"), expected);
        let expected = "edge: found `a1.h0->a1.h1<q>`; expected a writer before its reader \
                        (heads of one layer do not read each other)";
        assert_eq!(message("a1.h0->a1.h1<q>"), expected);
    }
}
