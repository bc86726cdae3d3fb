//! What ACDC tries, in order, and the state of one search.

use crate::circuits::edge::{Edge, Receiver, Source};
use crate::circuits::graph::Graph;
use crate::circuits::set::EdgeSet;
use crate::component::{Head, Qkv};

/// What was removed at once, to see what the metric makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tried {
    /// One edge.
    Edge(Edge),
    /// All edges into one of a head's inputs, where these are tried before single edges.
    Inputs(Receiver),
}

/// One step of the program.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub tried: Tried,
    /// The numbers of the edges that it removes.
    edges: Vec<usize>,
    /// The place among the sources of the node whose input it concerns; `None` for the logits.
    node: Option<usize>,
}

/// All steps, in order.
#[derive(Clone, Debug)]
pub(super) struct Agenda {
    graph: Graph,
    pub attempts: Vec<Attempt>,
}

impl Agenda {
    /// Receivers from the last to the first: the logits; by layer, last first, the MLP, then the
    /// values, keys and queries of the heads, last first. Senders of each: by layer, last first,
    /// the MLP, then the heads, first first; the input last.
    pub fn new(graph: Graph, whole_inputs: bool) -> Self {
        let mut attempts = into(graph, Receiver::Logits);
        for layer in (0..graph.n_layers()).rev() {
            if graph.has_mlps() {
                attempts.extend(into(graph, Receiver::Mlp(layer)));
            }
            let heads = || {
                (0..graph.n_heads())
                    .rev()
                    .map(|head| Head::new(layer, head))
            };
            let reads = Qkv::ALL.into_iter().rev();
            let inputs: Vec<Receiver> = reads
                .flat_map(|read| heads().map(move |head| Receiver::Head(head, read)))
                .collect();
            if whole_inputs {
                attempts.extend(inputs.iter().map(|to| whole(graph, *to)));
            }
            attempts.extend(inputs.iter().flat_map(|to| into(graph, *to)));
        }
        Agenda { graph, attempts }
    }

    /// How many edges have been decided when a step is next.
    pub fn edges_before(&self, next: usize) -> usize {
        let single = |attempt: &&Attempt| matches!(attempt.tried, Tried::Edge(_));
        self.attempts[..next].iter().filter(single).count()
    }
}

/// The single edges into a receiver.
fn into(graph: Graph, to: Receiver) -> Vec<Attempt> {
    let mut edges: Vec<Edge> = graph
        .sources()
        .map(|from| Edge::new(from, to))
        .filter(|edge| edge.leads_forward())
        .collect();
    edges.sort_by_key(|edge| match edge.from {
        Source::Mlp(layer) => (false, std::cmp::Reverse(layer), 0),
        Source::Head(head) => (false, std::cmp::Reverse(head.layer), 1 + head.head),
        Source::Input => (true, std::cmp::Reverse(0), 0),
    });
    let attempt = |edge: Edge| Attempt {
        tried: Tried::Edge(edge),
        edges: vec![graph.index(edge).expect("it is an edge of this graph")],
        node: node(graph, to),
    };
    edges.into_iter().map(attempt).collect()
}

/// All edges into a receiver at once.
fn whole(graph: Graph, to: Receiver) -> Attempt {
    let edges = graph.edges_into(to);
    Attempt {
        tried: Tried::Inputs(to),
        edges: edges.expect("it is a receiver of this graph").collect(),
        node: node(graph, to),
    }
}

fn node(graph: Graph, to: Receiver) -> Option<usize> {
    to.source().map(|source| graph.source_index(source))
}

/// How far a search has come.
#[derive(Clone, Debug)]
pub(super) struct State {
    graph: Graph,
    kept: Vec<bool>,
    /// How many kept edges lead out of each source.
    outward: Vec<usize>,
    /// The step that is next.
    pub next: usize,
}

impl State {
    /// Every edge kept, nothing tried.
    pub fn new(graph: Graph) -> Self {
        let mut outward = vec![0; graph.n_sources()];
        graph
            .edges()
            .for_each(|edge| outward[graph.source_index(edge.from)] += 1);
        State {
            graph,
            kept: vec![true; graph.n_edges()],
            outward,
            next: 0,
        }
    }

    /// The edges that are kept.
    pub fn circuit(&self) -> EdgeSet {
        EdgeSet::from_mask(self.graph, self.kept.clone())
    }

    /// The next step that takes a run. Edges into nodes that nothing reads any more go without one.
    pub fn attempt<'a>(&mut self, agenda: &'a Agenda) -> Option<&'a Attempt> {
        loop {
            let attempt = agenda.attempts.get(self.next)?;
            let read = attempt.node.is_none_or(|node| self.outward[node] > 0);
            if read && attempt.edges.iter().any(|edge| self.kept[*edge]) {
                return Some(attempt);
            }
            if !read {
                self.remove(attempt);
            }
            self.next += 1;
        }
    }

    /// Goes on from the step that is next.
    pub fn decide(&mut self, agenda: &Agenda, removed: bool) {
        if removed {
            self.remove(&agenda.attempts[self.next]);
        }
        self.next += 1;
    }

    fn remove(&mut self, attempt: &Attempt) {
        for edge in &attempt.edges {
            if std::mem::replace(&mut self.kept[*edge], false) {
                self.outward[self.graph.source_index(self.graph.edge(*edge).from)] -= 1;
            }
        }
    }

    /// The circuits without the next steps' edges: the first without the first one's, the second
    /// without those of the first two, and so on.
    pub fn prefixes(&self, agenda: &Agenda, most: usize) -> Vec<EdgeSet> {
        let mut ahead = self.clone();
        let mut circuits = Vec::new();
        while circuits.len() < most && ahead.attempt(agenda).is_some() {
            ahead.decide(agenda, true);
            circuits.push(ahead.circuit());
        }
        circuits
    }
}

impl Agenda {
    /// A search that begins.
    pub fn begin(&self) -> State {
        State::new(self.graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn edges_are_tried_from_the_logits_down() {
        let graph = Graph::new(&Config {
            n_layers: 2,
            n_heads: 2,
            d_model: 8,
            ..Config::gpt2()
        });
        let agenda = Agenda::new(graph, false);
        let mut numbers: Vec<usize> = Vec::new();
        let mut receivers: Vec<String> = Vec::new();
        for attempt in &agenda.attempts {
            let Tried::Edge(edge) = attempt.tried else {
                panic!("no whole inputs were asked for")
            };
            numbers.extend(&attempt.edges);
            receivers.push(edge.to.to_string());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..graph.n_edges()).collect::<Vec<_>>());
        receivers.dedup();
        let of_layer = |l: usize| {
            let heads = [1, 0].map(|head| format!("a{l}.h{head}"));
            let inputs = ["v", "k", "q"].map(|read| heads.clone().map(|h| format!("{h}<{read}>")));
            [vec![format!("m{l}")], inputs.concat()].concat()
        };
        let expected = [vec!["logits".to_string()], of_layer(1), of_layer(0)].concat();
        assert_eq!(receivers, expected);
        assert_eq!(agenda.edges_before(agenda.attempts.len()), graph.n_edges());
    }
}
