//! Differences of what sources write, times gradients at what receivers read.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;

use ndarray::{Array2, ArrayD, ArrayView2, Axis as Dim};

use crate::cache::ActivationCache;
use crate::circuits::edge::Receiver;
use crate::circuits::graph::Graph;
use crate::error::Result;
use crate::hook::HookPoint;
use crate::ops::{self, part};
use crate::pairs::Pairs;

/// How what the sources write in the donor run of a pair differs from what they write in the base,
/// `[source, pos × d_model]`.
pub(super) struct Written(Array2<f32>);

/// The mean over some runs of a pair of the metric's gradient at some hook points, in the shapes of
/// the activations there.
#[derive(Default)]
pub(super) struct Slopes(BTreeMap<HookPoint, ArrayD<f32>>);

impl Written {
    pub fn new(pairs: &Pairs<'_>, pair: usize) -> Result<Self> {
        let graph = pairs.graph();
        let n = pairs.clean.prompts()[pair].len();
        let mut all = Array2::zeros((graph.n_sources(), n * graph.d_model()));
        for (source, mut row) in graph.sources().zip(all.rows_mut()) {
            let difference = pairs.difference(source, pair)?;
            row.iter_mut().zip(&difference).for_each(|(to, v)| *to = *v);
        }
        Ok(Written(all))
    }

    /// A source's, by its place among the sources, `[pos, d_model]`.
    pub fn of(&self, source: usize, d_model: usize) -> ArrayView2<'_, f32> {
        let row = self.0.row(source);
        let n = row.len() / d_model;
        let rows = row.into_shape_with_order((n, d_model));
        rows.expect("a row of a row-major matrix is contiguous")
    }
}

impl Slopes {
    /// Adds the gradients of another run to the sums of those before, one per pair.
    pub fn add_each(sums: &mut Vec<Self>, gradients: &[ActivationCache]) -> Result<()> {
        sums.resize_with(gradients.len(), Slopes::default);
        for (sum, of_pair) in sums.iter_mut().zip(gradients) {
            for point in of_pair.points() {
                let more = of_pair.get(point)?;
                match sum.0.entry(point) {
                    Entry::Vacant(entry) => {
                        entry.insert(more.to_owned());
                    }
                    Entry::Occupied(mut entry) => *entry.get_mut() += &more,
                }
            }
        }
        Ok(())
    }

    pub fn divide(&mut self, by: f32) {
        self.0.values_mut().for_each(|sum| *sum /= by);
    }

    /// At a point with one row per position, heads side by side, `[pos, width]`.
    pub fn rows(&self, at: HookPoint) -> ArrayView2<'_, f32> {
        let all = &self.0[&at];
        let n = all.len_of(Dim(0));
        let rows = all.view().into_shape_with_order((n, all.len() / n));
        rows.expect("gradients are row-major")
    }

    /// What receivers that read at one point have there, `[receiver, pos × d_model]`.
    fn by_receiver(&self, at: HookPoint) -> Array2<f32> {
        let mut all = self.0[&at].view();
        if at.axes().has_heads() {
            all.swap_axes(0, 1);
        } else {
            all.insert_axis_inplace(Dim(0));
        }
        let receivers = all.len_of(Dim(0));
        let width = all.len() / receivers;
        let own = all.as_standard_layout().into_owned();
        let flat = own.into_shape_with_order((receivers, width));
        flat.expect("the array is contiguous")
    }
}

/// The scores of all edges, in graph order, summed over these positions: what is [written] times
/// the slopes at what [receivers read](inputs).
///
/// [written]: Written
pub(super) fn scores(
    graph: Graph,
    slopes: &Slopes,
    written: &Written,
    positions: Range<usize>,
) -> Result<Vec<f32>> {
    let columns = positions.start * graph.d_model()..positions.end * graph.d_model();
    let mut scores = vec![0.0; graph.n_edges()];
    let receivers: Vec<Receiver> = graph.receivers().collect();
    let point = |to: &Receiver| to.point(graph.n_layers());
    for readers in receivers.chunk_by(|a, b| point(a) == point(b)) {
        let edges = readers.iter().map(|to| graph.edges_into(*to));
        let edges: Vec<Range<usize>> = edges.collect::<Result<_>>()?;
        // The receivers of one place have the same sources, the first ones.
        let sources = part(written.0.view(), 0, 0..edges[0].len());
        let sources = part(sources, 1, columns.clone());
        let gradient = slopes.by_receiver(point(&readers[0]));
        let gradient = part(gradient.view(), 1, columns.clone());
        let products = ops::on_pool(|| ops::matmul(sources, gradient.t()));
        for (edges, column) in edges.into_iter().zip(products.columns()) {
            let to = scores[edges].iter_mut().zip(column);
            to.for_each(|(to, product)| *to = *product);
        }
    }
    Ok(scores)
}

/// The hook points at which receivers read.
pub(super) fn inputs(graph: Graph) -> impl Iterator<Item = HookPoint> {
    graph.receivers().map(move |to| to.point(graph.n_layers()))
}

/// Memory that the scores of a pair of so many tokens take: the gradients of one run and their sum,
/// the differences, which products pack, and copies of the split inputs of one layer.
pub(super) fn bytes(graph: Graph, n: usize) -> u64 {
    let rows = 2 * graph.n_receivers() + 3 * graph.n_sources() + 8 * graph.n_heads();
    (4 * n * graph.d_model() * rows) as u64
}
