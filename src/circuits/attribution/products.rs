//! Differences of what sources write, times gradients at what receivers read.

use std::collections::BTreeMap;
use std::ops::Range;

use ndarray::{Array2, ArrayD, ArrayView2, ArrayViewD, Axis as Dim};
use rayon::prelude::*;

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
pub(super) enum Slopes {
    /// Of one run.
    Of(ActivationCache),
    /// The sum of so many runs, or their mean.
    Sum(BTreeMap<HookPoint, ArrayD<f32>>),
}

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
    pub fn add_each(sums: &mut Vec<Self>, gradients: Vec<ActivationCache>) -> Result<()> {
        if sums.is_empty() {
            sums.extend(gradients.into_iter().map(Slopes::Of));
            return Ok(());
        }
        let pairs = sums.par_iter_mut().zip(gradients);
        pairs.try_for_each(|(sum, more)| sum.add(&more))
    }

    fn add(&mut self, more: &ActivationCache) -> Result<()> {
        let before = std::mem::replace(self, Slopes::Sum(BTreeMap::new()));
        let mut sums = match before {
            Slopes::Sum(sums) => sums,
            Slopes::Of(first) => {
                let own = |point| Ok((point, first.get(point)?.to_owned()));
                first.points().map(own).collect::<Result<_>>()?
            }
        };
        for (point, sum) in &mut sums {
            *sum += &more.get(*point)?;
        }
        *self = Slopes::Sum(sums);
        Ok(())
    }

    /// From the sum of so many runs to their mean.
    pub fn divide(&mut self, runs: usize) {
        if let Slopes::Sum(sums) = self {
            sums.values_mut().for_each(|sum| *sum /= runs as f32);
        }
    }

    fn at(&self, at: HookPoint) -> ArrayViewD<'_, f32> {
        match self {
            Slopes::Of(gradients) => gradients.get(at).expect("the runs were asked for it"),
            Slopes::Sum(sums) => sums[&at].view(),
        }
    }

    /// At a point with one row per position, heads side by side, `[pos, width]`.
    pub fn rows(&self, at: HookPoint) -> ArrayView2<'_, f32> {
        let all = self.at(at);
        let (n, len) = (all.len_of(Dim(0)), all.len());
        let rows = all.into_shape_with_order((n, len / n));
        rows.expect("gradients are row-major")
    }

    /// What receivers that read at one point have there, `[receiver, pos × d_model]`.
    fn by_receiver(&self, at: HookPoint) -> Array2<f32> {
        let mut all = self.at(at);
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
    let places: Vec<&[Receiver]> = receivers.chunk_by(|a, b| point(a) == point(b)).collect();
    let of_place = |readers: &&[Receiver]| -> Result<(Vec<Range<usize>>, Array2<f32>)> {
        let edges = readers.iter().map(|to| graph.edges_into(*to));
        let edges: Vec<Range<usize>> = edges.collect::<Result<_>>()?;
        // The receivers of one place have the same sources, the first ones.
        let sources = part(written.0.view(), 0, 0..edges[0].len());
        let sources = part(sources, 1, columns.clone());
        let gradient = slopes.by_receiver(point(&readers[0]));
        let gradient = part(gradient.view(), 1, columns.clone());
        Ok((edges, ops::matmul(sources, gradient.t())))
    };
    let products: Result<Vec<_>> = places.par_iter().map(of_place).collect();
    for (edges, products) in products? {
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
