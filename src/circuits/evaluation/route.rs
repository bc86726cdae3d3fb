//! The edges by which a circuit's runs differ from the runs that they depart from.

use crate::circuits::edge::Receiver;
use crate::circuits::graph::Graph;
use crate::circuits::set::EdgeSet;
use crate::model::stage::Frozen;

/// Which of the two runs a circuit's run departs from, by which edges it adds differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// From the run in which no edge is kept: each part reads that run's stream and the differences
    /// that kept edges carry. Only parts that kept edges lead through are computed.
    Kept,
    /// From the run in which every edge is kept: each part reads its own stream and the
    /// differences that removed edges carry. Everything downstream of them is computed.
    Removed,
}

impl Form {
    /// Halves of the blocks that read nothing but what they are given.
    pub fn frozen(self) -> Frozen {
        let all = self == Form::Kept;
        Frozen {
            attention: all,
            mlps: all,
        }
    }
}

/// The edges by which a circuit's run differs from the run that it departs from.
pub(super) struct Route {
    pub graph: Graph,
    pub form: Form,
    /// By receiver, the sources of these edges, in order.
    pub into: Vec<Vec<usize>>,
    /// By source, whether such an edge leads out of it.
    pub out: Vec<bool>,
    /// By source, whether it is taken to write what it writes where every edge is kept. In runs that
    /// depart from there, none need be.
    pub known: Vec<bool>,
}

/// How circuits' runs are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Whether a part that reads ablations alone writes its own ablation.
    pub consistent: bool,
    /// Whether nodes are known whose every edge is kept, all the way from the input.
    pub known_nodes: bool,
}

impl Route {
    /// Whichever form takes fewer differences over all edges.
    pub fn new(circuit: &EdgeSet, manner: Manner) -> Self {
        let graph = circuit.graph();
        let form = if 2 * circuit.len() > graph.n_edges() {
            Form::Removed
        } else {
            Form::Kept
        };
        let mut route = Route {
            graph,
            form,
            into: vec![Vec::new(); graph.n_receivers()],
            out: vec![false; graph.n_sources()],
            known: vec![false; graph.n_sources()],
        };
        if form == Form::Kept {
            // The embedding is the prompt's own wherever its edges are kept.
            route.known[0] = true;
            if manner.known_nodes {
                route.know(circuit);
            }
        }
        route.lead(circuit);
        if form == Form::Kept && manner.consistent {
            route.drop_dead();
        }
        route
    }

    fn receivers(&self) -> impl DoubleEndedIterator<Item = (usize, Receiver)> + use<> {
        let receivers: Vec<Receiver> = self.graph.receivers().collect();
        receivers.into_iter().enumerate()
    }

    fn own(&self, to: Receiver) -> Option<usize> {
        to.source().map(|source| self.graph.source_index(source))
    }

    /// Finds the nodes all of whose edges are kept, all the way from the input.
    fn know(&mut self, circuit: &EdgeSet) {
        self.known.fill(true);
        for (_, to) in self.receivers() {
            let edges = self.graph.edges_into(to);
            let edges = edges.expect("it is one of its receivers");
            let from = &self.known[..edges.len()];
            let whole = circuit.mask()[edges].iter().chain(from).all(|kept| *kept);
            if let Some(own) = self.own(to) {
                self.known[own] &= whole;
            }
        }
    }

    /// Finds the edges that make a difference, from the last to the first: those out of a node are
    /// known before those into it.
    fn lead(&mut self, circuit: &EdgeSet) {
        let kept = self.form == Form::Kept;
        for (index, to) in self.receivers().rev() {
            let own = self.own(to);
            let computed = own.is_none_or(|own| self.out[own] && !self.known[own]);
            if kept && !computed {
                continue;
            }
            let edges = self.graph.edges_into(to);
            let edges = edges.expect("it is one of its receivers");
            let inside = circuit.mask()[edges].iter().enumerate();
            let used = inside.filter(|(_, inside)| **inside == kept);
            self.into[index] = used.map(|(source, _)| source).collect();
            self.into[index].iter().for_each(|u| self.out[*u] = true);
        }
    }

    /// Leaves out edges from nodes that read ablations alone.
    fn drop_dead(&mut self) {
        let mut alive = self.known.clone();
        self.out.fill(false);
        for (index, to) in self.receivers() {
            self.into[index].retain(|u| alive[*u]);
            self.into[index].iter().for_each(|u| self.out[*u] = true);
            if let Some(own) = self.own(to) {
                alive[own] |= !self.into[index].is_empty();
            }
        }
    }

    pub fn into(&self, to: Receiver) -> &[usize] {
        &self.into[self.graph.receiver_index(to)]
    }
}
