//! What of a circuit its runs have to compute, known before there is a run.

use std::sync::Arc;

use super::flow::{Flow, PairRows};
use crate::cache::ActivationCache;
use crate::circuits::edge::{Receiver, Source};
use crate::circuits::graph::Graph;
use crate::circuits::set::EdgeSet;
use crate::component::{Head, Qkv};
use crate::config::Config;
use crate::hook::{HookPoint, Site};
use crate::metric::Needs;
use crate::model::cost::{Cost, Hidden};
use crate::model::lane::{Change, Columns, Lane, Layer, Positions};
use crate::model::stage::{Frozen, Kind, Stage};

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

/// The rows of a layer at which a lane's parts are shown.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    /// By reader.
    pub read: [Positions; 3],
    pub z: Positions,
    /// The heads whose own inputs the hooks make, by reader.
    pub heads: [Vec<usize>; 3],
    /// The heads of which the hooks compute what they write.
    pub writing: Vec<usize>,
}

/// A run of one circuit on one pair.
pub(super) struct Planned {
    pub circuit: usize,
    pub pair: usize,
    pub changes: Vec<Change>,
    /// By layer.
    pub shown: Vec<Shown>,
    pub cost: Cost,
}

/// What the runs of a pair have in common.
pub(super) struct OfPair<'p> {
    pub config: &'p Config,
    pub tokens: &'p [u32],
    pub base: &'p ActivationCache,
    pub needs: &'p Needs,
}

impl<'p> OfPair<'p> {
    /// A lane that departs from the base.
    pub fn lane(&self, form: Form, changes: Vec<Change>) -> Lane<'p> {
        let columns = match &self.needs.tokens {
            Some(tokens) => Columns::Tokens(Arc::from(&tokens[..])),
            None => Columns::All,
        };
        Lane {
            tokens: self.tokens,
            base: Some(self.base),
            fresh: Positions::default(),
            changes,
            outputs: self.needs.positions.clone(),
            columns,
            narrow: true,
            frozen: form.frozen(),
        }
    }
}

impl Route {
    /// The places where the run departs from its base; none where it has the base's bits.
    fn changes(&self, rows: &PairRows, outputs: &[usize]) -> Option<Vec<Change>> {
        let mut flow = Flow::new(self, rows);
        let n_layers = self.graph.n_layers();
        let mut changes: Vec<Change> = (0..n_layers).flat_map(|l| flow.layer(l)).collect();
        let read = flow.read(Receiver::Logits);
        let changed = outputs.iter().any(|row| read[*row]);
        let same = match self.form {
            Form::Kept => !changed,
            Form::Removed => changes.is_empty() && !changed,
        };
        // All rows that are read go through, so that logits are not put together from two runs.
        changes.push(Change {
            point: Site::ResidPost.at(n_layers - 1),
            rows: outputs.to_vec(),
            heads: Vec::new(),
        });
        (!same).then_some(changes)
    }

    /// Plans a run, if there is something to run.
    pub fn plan(
        &self,
        of: &OfPair<'_>,
        rows: &PairRows,
    ) -> Option<(Vec<Change>, Vec<Shown>, Cost)> {
        let changes = self.changes(rows, &of.needs.positions)?;
        let lane = of.lane(self.form, changes);
        let mut cost = lane.cost(of.config, Hidden::InPlace, &|_| None);
        let shown = self.shown(&lane, of.config);
        let (d, d_head) = (of.config.d_model, of.config.d_head());
        let own = |shown: &Shown| {
            let read = (0..3).map(|read| shown.read[read].len() * shown.heads[read].len());
            read.sum::<usize>() + shown.z.len() * shown.writing.len()
        };
        let heads: usize = shown.iter().map(own).sum();
        cost.macs += (heads * d * d_head) as u64;
        cost.bytes += held_bytes(&lane, of.config);
        Some((lane.changes, shown, cost))
    }

    fn shown(&self, lane: &Lane<'_>, config: &Config) -> Vec<Shown> {
        let mut of = Layer {
            kind: Kind::of(config),
            index: 0,
            last: false,
            heads: (0..config.n_heads).collect(),
        };
        let mut dirty = lane.embed_rows();
        let n_layers = self.graph.n_layers();
        let layers = (0..n_layers).map(|layer| {
            (of.index, of.last) = (layer, layer + 1 == n_layers);
            let rows = lane.layer_rows(&of, &dirty);
            dirty = Arc::clone(&rows[Stage::ResidPost]);
            let changed = |at: HookPoint| lane.changes.iter().find(move |c| c.point == at);
            let of_reader = |read: Qkv| -> Vec<usize> {
                match self.form {
                    Form::Kept => {
                        changed(read.site().at(layer)).map_or_else(Vec::new, |c| c.heads.clone())
                    }
                    Form::Removed => (0..config.n_heads)
                        .filter(|h| {
                            !self
                                .into(Receiver::Head(Head::new(layer, *h), read))
                                .is_empty()
                        })
                        .collect(),
                }
            };
            let reading = Qkv::ALL.map(of_reader);
            let writes = |head: &usize| {
                let source = Source::Head(Head::new(layer, *head));
                let computed = match self.form {
                    Form::Kept => reading.iter().any(|heads| heads.contains(head)),
                    Form::Removed => true,
                };
                computed && self.out[self.graph.source_index(source)]
            };
            Shown {
                read: [Stage::Q, Stage::K, Stage::V].map(|stage| Arc::clone(&rows[stage])),
                z: Arc::clone(&rows[Stage::Z]),
                writing: (0..config.n_heads).filter(writes).collect(),
                heads: reading,
            }
        });
        layers.collect()
    }
}

/// A bound of what a lane's hooks and plan hold: what its parts write, in all rows; the stream, what
/// one reader reads, the heads' values; and on each thread, what one head reads, before and after
/// LayerNorm.
fn held_bytes(lane: &Lane<'_>, config: &Config) -> u64 {
    let graph = Graph::new(config);
    let working = 4 + 3 * rayon::current_num_threads();
    let width = config.d_model.max(config.d_heads());
    let rows = lane.tokens.len() * (graph.n_sources() + working) * width;
    let book = config.n_layers * (64 * lane.tokens.len() + 64 * config.n_heads + 1024);
    (5 * rows + book) as u64
}

/// The places at which circuits' runs depart from a base.
pub(super) fn departures(graph: Graph) -> impl Iterator<Item = HookPoint> {
    let n_layers = graph.n_layers();
    let of_layer = move |layer| {
        let reads = Qkv::ALL.map(|read| read.site().at(layer));
        let mlp = graph.has_mlps().then(|| Site::MlpIn.at(layer));
        reads.into_iter().chain(mlp)
    };
    let last = Site::ResidPost.at(n_layers - 1);
    (0..n_layers).flat_map(of_layer).chain([last])
}

/// The memory of a run in which every part computes every row.
pub(super) fn largest(of: &OfPair<'_>, form: Form) -> u64 {
    let change = |point: HookPoint| Change {
        point,
        rows: (0..of.tokens.len()).collect(),
        heads: (0..of.config.n_heads).collect(),
    };
    let points = departures(Graph::new(of.config));
    let lane = of.lane(form, points.map(change).collect());
    lane.cost(of.config, Hidden::InPlace, &|_| None).bytes + held_bytes(&lane, of.config)
}
