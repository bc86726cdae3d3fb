//! Values of edges as a table `[source, receiver]`.

use ndarray::Array2;

use super::edge::Edge;
use super::graph::Graph;
use super::set::EdgeSet;
use crate::error::Result;
use crate::report::{About, Absent, Axis, Labelled};

/// A value per edge of a set, and why it has none, as a table `[source, receiver]` without values
/// elsewhere.
pub(super) fn tabulate(
    edges: &EdgeSet,
    values: impl Iterator<Item = (f32, Option<Absent>)>,
    about: About,
) -> Result<Labelled> {
    let graph = edges.graph();
    let (values, reasons): (Vec<f32>, Vec<_>) = values.unzip();
    let mut absent = spread(edges, Some(Absent::NoPath), reasons.into_iter());
    for edge in edges.complement().edges() {
        absent[graph.cell(edge)] = Some(Absent::NotAsked);
    }
    let values = spread(edges, f32::NAN, values.into_iter());
    let axes = vec![
        Axis::new("source", graph.sources().map(|s| s.to_string())),
        Axis::new("receiver", graph.receivers().map(|r| r.to_string())),
    ];
    Labelled::new(values, axes, about)?.with_absent(absent)
}

/// One item per edge of a set in its place in a table `[source, receiver]`.
pub(super) fn spread<T: Clone>(
    edges: &EdgeSet,
    elsewhere: T,
    items: impl Iterator<Item = T>,
) -> Array2<T> {
    let graph = edges.graph();
    let shape = (graph.n_sources(), graph.n_receivers());
    let mut table = Array2::from_elem(shape, elsewhere);
    for (edge, item) in edges.edges().zip(items) {
        table[graph.cell(edge)] = item;
    }
    table
}

impl Graph {
    /// An edge's place in a table `[source, receiver]`.
    fn cell(&self, edge: Edge) -> (usize, usize) {
        (self.source_index(edge.from), self.receiver_index(edge.to))
    }
}
