//! What the run of a circuit on a pair computes, and what it costs, known before it is run.

use std::sync::Arc;

use super::flow::{Flow, PairRows};
use super::route::{Form, Route};
use crate::cache::ActivationCache;
use crate::circuits::edge::{Receiver, Source};
use crate::circuits::graph::Graph;
use crate::component::{Head, Qkv};
use crate::config::Config;
use crate::hook::{HookPoint, Site};
use crate::metric::Needs;
use crate::model::cost::{Cost, Hidden};
use crate::model::lane::{Change, Columns, Lane, Layer, Positions};
use crate::model::stage::{Kind, Stage};

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
        let mut dirty = lane.embed_rows(of.kind);
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
