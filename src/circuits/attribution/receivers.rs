//! Receiver-exact scores: what a receiver makes of an edge, computed anew, times the gradient of
//! what it makes.
//!
//! The gradients are taken at `z` and `mlp.hook_post`, where `W_O` and `W_out` are behind: so neither
//! is needed. Rows that a source leaves as they are, are not computed.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2, Axis as Dim};
use rayon::prelude::*;

use super::products::{Slopes, Written};
use crate::cache::ActivationCache;
use crate::circuits::edge::Receiver;
use crate::circuits::graph::Graph;
use crate::component::{Head, Qkv};
use crate::config::{AttentionDirection, Config, Element};
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::metric::Metric;
use crate::model::rows::Layout;
use crate::model::stage::Kind;
use crate::ops::{self, AttnScratch, part};
use crate::pairs::Pairs;
use crate::parameters::LayerNorm;

/// What sources send at a time takes about this much memory at most; more gains nothing.
const CHUNK_BYTES: u64 = 16 << 20;

/// The receivers of one pair.
pub(super) struct Receivers<'r> {
    pub pairs: &'r Pairs<'r>,
    pub pair: usize,
    pub metric: &'r Metric,
    /// The metric of the run that is changed.
    pub unchanged: f32,
    pub written: &'r Written,
    pub slopes: &'r Slopes,
}

/// What some sources send to the receivers of one place.
struct Sent {
    /// The first of them, by its place among the sources.
    first: usize,
    /// The rows that each changes.
    rows: Arc<Layout>,
    /// The changed rows of what is read, after LayerNorm, `[row, d_model]`.
    normed: Array2<f32>,
}

/// The heads of one layer, as they are and with what sources send.
struct Heads<'h> {
    rows: &'h Layout,
    d_head: usize,
    scale: f32,
    direction: AttentionDirection,
    /// Queries, keys and values of the run that is changed, `[pos, d_model]`, and anew, `[row,
    /// d_model]`.
    own: [ArrayView2<'h, f32>; 3],
    new: [Array2<f32>; 3],
    /// `z` of the run that is changed, and the gradient there, `[pos, d_model]`.
    z: ArrayView2<'h, f32>,
    slope: ArrayView2<'h, f32>,
}

/// Where gradients are taken.
pub(super) fn outputs(graph: Graph) -> impl Iterator<Item = HookPoint> {
    let sites = [Some(Site::Z), graph.has_mlps().then_some(Site::MlpPost)];
    let of_layer = move |layer| sites.into_iter().flatten().map(move |site| site.at(layer));
    (0..graph.n_layers()).flat_map(of_layer)
}

/// What is read of the runs that are changed.
pub(super) fn reads(graph: Graph) -> impl Iterator<Item = HookPoint> {
    use Site::{K, Q, V};
    let streams = graph.receivers().map(move |to| to.stream(graph.n_layers()));
    let of_layer = |layer| [Q, K, V].map(|site| site.at(layer));
    let projected = (0..graph.n_layers()).flat_map(of_layer);
    streams.chain(projected).chain(outputs(graph))
}

/// Memory that the scores of a pair of so many tokens take: the gradients of one run and their sum,
/// the differences, and what some sources send, one at least.
pub(super) fn bytes(config: &Config, metric: &Metric, n: usize) -> u64 {
    let (d, graph) = (config.d_model, Graph::new(config));
    // Matrices may have a quarter more memory than they need, copies have not.
    let gradients = (5 + 4) * n * graph.n_layers() * (config.d_heads() + config.d_mlp);
    let differences = 4 * n * d * (graph.n_sources() + 4);
    let scores = 8 * graph.n_edges() + 64 * 3 * graph.n_heads() * graph.n_sources();
    let threads = rayon::current_num_threads();
    let attention = 4 * threads * 3 * (n + 32) * (config.d_head() + 36);
    let one = bytes_per_source(config, metric, n);
    let sent = one.max((one * graph.n_sources() as u64).min(CHUNK_BYTES));
    (gradients + differences + scores + attention) as u64 + sent
}

/// What one source sends to a place, and what the receivers make of it; matrices may have a quarter
/// more memory than they need.
fn bytes_per_source(config: &Config, metric: &Metric, n: usize) -> u64 {
    let d = config.d_model;
    let needs = metric.needs(0, n);
    let logits = needs
        .tokens
        .map_or(config.d_logits(), |tokens| tokens.len());
    let widest = (n * config.d_mlp.max(3 * config.d_heads() + d)).max(2 * logits);
    5 * (2 * n * d + widest) as u64
}

impl Receivers<'_> {
    /// The scores of all edges, in graph order, if they carry something at these positions alone.
    pub fn scores(&self, positions: Range<usize>) -> Result<Vec<f32>> {
        let mut scores = vec![0.0; self.graph().n_edges()];
        for layer in 0..self.graph().n_layers() {
            let ln = &self.pairs.model().parameters().h[layer].ln_1;
            let first = Receiver::Head(Head::new(layer, 0), Qkv::Q);
            self.send(first, ln, &positions, |sent| {
                self.heads(layer, sent, &mut scores)
            })?;
            if self.graph().has_mlps() {
                let ln = &self.pairs.model().parameters().h[layer].ln_2;
                self.send(Receiver::Mlp(layer), ln, &positions, |sent| {
                    self.mlp(layer, sent, &mut scores)
                })?;
            }
        }
        let ln = &self.pairs.model().parameters().ln_f;
        let read = self.metric.needs(self.pair, self.len()).positions;
        let read = read.into_iter().filter(|p| positions.contains(p));
        let read = read.map(|p| p..p + 1);
        for position in read {
            self.send(Receiver::Logits, ln, &position, |sent| {
                self.logits(sent, &mut scores)
            })?;
        }
        Ok(scores)
    }

    fn graph(&self) -> Graph {
        self.pairs.graph()
    }

    fn config(&self) -> &Config {
        self.pairs.model().config()
    }

    /// Number of tokens.
    fn len(&self) -> usize {
        self.pairs.clean.prompts()[self.pair].len()
    }

    /// The runs that are changed, with these activations.
    fn held<const N: usize>(&self, points: [HookPoint; N]) -> Result<Arc<[ActivationCache]>> {
        let [base, _] = self.pairs.base_and_donor();
        base.held(points)
    }

    /// Hands what a receiver's sources send, some sources at a time, to `each`.
    fn send(
        &self,
        to: Receiver,
        ln: &LayerNorm,
        positions: &Range<usize>,
        mut each: impl FnMut(&Sent) -> Result<()>,
    ) -> Result<()> {
        let n_sources = self.graph().edges_into(to)?.len();
        let one = bytes_per_source(self.config(), self.metric, self.len());
        let at_once = (CHUNK_BYTES / one).clamp(1, n_sources as u64) as usize;
        for first in (0..n_sources).step_by(at_once) {
            let sources = first..n_sources.min(first + at_once);
            each(&self.sent(to, ln, positions, sources)?)?;
        }
        Ok(())
    }

    fn sent(
        &self,
        to: Receiver,
        ln: &LayerNorm,
        positions: &Range<usize>,
        sources: Range<usize>,
    ) -> Result<Sent> {
        let d_model = self.config().d_model;
        let difference = |source| self.written.of(source, d_model);
        let changed = |source: usize| -> Vec<usize> {
            let rows = difference(source);
            let acts = |p: &usize| rows.row(*p).iter().any(|v| *v != 0.0);
            positions.clone().filter(acts).collect()
        };
        let changed: Vec<Vec<usize>> = sources.clone().map(changed).collect();
        let rows = Layout::new(changed.iter().map(|rows| &rows[..]));
        let at = to.stream(self.graph().n_layers());
        let caches = self.held([at])?;
        let stream = caches[self.pair].flat(at)?;
        let mut x = ops::matrix((rows.len(), d_model));
        for (lane, source) in sources.clone().enumerate() {
            for (row, position) in rows.range(lane).zip(rows.positions(lane)) {
                let mut to = x.row_mut(row);
                to.assign(&stream.row(*position));
                to += &difference(source).row(*position);
            }
        }
        let normed = ops::on_pool(|| ln.apply(self.config(), x));
        let first = sources.start;
        Ok(Sent {
            first,
            rows,
            normed,
        })
    }

    /// The scores of edges into the heads of a layer.
    fn heads(&self, layer: usize, sent: &Sent, scores: &mut [f32]) -> Result<()> {
        let points = [Site::Q, Site::K, Site::V, Site::Z].map(|site| site.at(layer));
        let caches = self.held(points)?;
        let own = |at: HookPoint| caches[self.pair].flat(at);
        let placed = self.placed(sent);
        let heads = Heads {
            rows: &sent.rows,
            d_head: self.config().d_head(),
            scale: self.config().attn_scale(layer),
            direction: self.config().attention,
            own: [own(points[0])?, own(points[1])?, own(points[2])?],
            new: Qkv::ALL.map(|read| {
                let input = if read == Qkv::V {
                    &sent.normed
                } else {
                    &placed
                };
                self.pairs.project(layer, read, input.view())
            }),
            z: own(points[3])?,
            slope: self.slopes.rows(points[3]),
        };
        let mut tasks = Vec::new();
        for head in 0..self.config().n_heads {
            for read in Qkv::ALL {
                let edges = self
                    .graph()
                    .edges_into(Receiver::Head(Head::new(layer, head), read))?;
                let sources = 0..sent.rows.lanes();
                let first = edges.start + sent.first;
                tasks.extend(sources.map(|source| (first + source, source, head, read)));
            }
        }
        let found = ops::on_pool(|| {
            let each = tasks.into_par_iter();
            let score = |scratch: &mut AttnScratch, (edge, source, head, read)| {
                (edge, heads.score(scratch, source, head, read))
            };
            each.map_init(AttnScratch::default, score)
                .collect::<Vec<(usize, f32)>>()
        });
        found
            .into_iter()
            .for_each(|(edge, score)| scores[edge] = score);
        Ok(())
    }

    /// What queries and keys are made of: what is read, and in some models the position embeddings.
    fn placed(&self, sent: &Sent) -> Array2<f32> {
        let mut placed = sent.normed.clone();
        let model = self.pairs.model();
        if Kind::of(model.config()).reads_positions() {
            let wpe = &model.parameters().wpe;
            for lane in 0..sent.rows.lanes() {
                for (row, position) in sent.rows.range(lane).zip(sent.rows.positions(lane)) {
                    let mut to = placed.row_mut(row);
                    to += &wpe.row(*position);
                }
            }
        }
        placed
    }

    /// The scores of edges into an MLP.
    fn mlp(&self, layer: usize, sent: &Sent, scores: &mut [f32]) -> Result<()> {
        let (config, at) = (self.config(), Site::MlpPost.at(layer));
        let mlp = &self.pairs.model().parameters().h[layer].mlp;
        let hidden = ops::on_pool(|| {
            let (weight, bias) = (mlp.c_fc.weight.view(), mlp.c_fc.bias.view());
            let mut hidden = ops::linear(sent.normed.view(), weight, Some(bias));
            ops::activate(config.activation, hidden.view_mut());
            if config.has(Element::InnerNorm) {
                hidden = mlp.ln.normalize(config, hidden);
            }
            hidden
        });
        let caches = self.held([at])?;
        let (own, slope) = (caches[self.pair].flat(at)?, self.slopes.rows(at));
        let first = self.graph().edges_into(Receiver::Mlp(layer))?.start + sent.first;
        for source in 0..sent.rows.lanes() {
            let rows = sent.rows.range(source).zip(sent.rows.positions(source));
            let terms = rows.map(|(row, p)| onwards(hidden.row(row), own.row(*p), slope.row(*p)));
            scores[first + source] = terms.sum::<f64>() as f32;
        }
        Ok(())
    }

    /// The effects of edges into the logits, which are exact.
    fn logits(&self, sent: &Sent, scores: &mut [f32]) -> Result<()> {
        let needs = self.metric.needs(self.pair, self.len());
        let parameters = self.pairs.model().parameters();
        let (w_u, bias) = parameters.unembedding(needs.tokens.as_deref());
        let bias = bias.as_ref().map(|bias| bias.view());
        let logits = ops::on_pool(|| ops::linear(sent.normed.view(), w_u.view(), bias));
        let first = self.graph().edges_into(Receiver::Logits)?.start + sent.first;
        for source in 0..sent.rows.lanes() {
            for row in sent.rows.range(source) {
                let row = logits.row(row).insert_axis(Dim(0));
                scores[first + source] = self.metric.read(self.pair, row) - self.unchanged;
            }
        }
        Ok(())
    }
}

impl Heads<'_> {
    /// The score of an edge from a source into one head's queries, keys or values.
    fn score(&self, scratch: &mut AttnScratch, source: usize, head: usize, read: Qkv) -> f32 {
        let columns = head * self.d_head..(head + 1) * self.d_head;
        let of = |which: Qkv, position: usize| -> &[f32] {
            let sent = (which == read).then(|| self.rows.find(source, position));
            match sent.flatten() {
                Some(row) => cut(self.new[which as usize].view(), row, columns.clone()),
                None => cut(self.own[which as usize], position, columns.clone()),
            }
        };
        let differs = |position: &usize| {
            let own = cut(self.own[read as usize], *position, columns.clone());
            let mut pairs = of(read, *position).iter().zip(own);
            pairs.any(|(a, b)| a.to_bits() != b.to_bits())
        };
        let changed = self.rows.positions(source).iter().copied();
        let changed: Vec<usize> = changed.filter(differs).collect();
        let Some(first) = changed.first().copied() else {
            return 0.0;
        };
        let n = self.z.nrows();
        let dest = if read == Qkv::Q {
            changed
        } else {
            (self.direction.first_reader(first)..n).collect()
        };
        let last = self.direction.last_sources(&dest, n);
        scratch.load_keys(self.d_head, n, |src| of(Qkv::K, src));
        scratch.load_values(self.d_head, n, |src| of(Qkv::V, src));
        let mut z = Array2::zeros((dest.len(), self.d_head));
        let query = |row: usize| of(Qkv::Q, dest[row]);
        ops::attend(scratch, query, &last, self.scale, z.view_mut());
        let [own, slope] = [self.z, self.slope].map(|all| part(all, 1, columns.clone()));
        let terms = dest.iter().zip(z.rows());
        let terms = terms.map(|(p, new)| onwards(new, own.row(*p), slope.row(*p)));
        terms.sum::<f64>() as f32
    }
}

/// The change of a row times the gradient there.
fn onwards(new: ArrayView1<'_, f32>, own: ArrayView1<'_, f32>, slope: ArrayView1<'_, f32>) -> f64 {
    let rows = new.iter().zip(own).zip(slope);
    let terms = rows.map(|((new, own), slope)| f64::from(new - own) * f64::from(*slope));
    terms.sum()
}

/// One head's part of a row.
fn cut<'v>(all: ArrayView2<'v, f32>, row: usize, columns: Range<usize>) -> &'v [f32] {
    let row = all.index_axis_move(Dim(0), row).to_slice();
    &row.expect("matrices and caches are row-major")[columns]
}
