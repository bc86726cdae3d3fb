//! Differences of what sources write, times gradients at what receivers read.

use std::ops::Range;

use ndarray::{Array2, Axis as Dim};

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

/// The metric's gradient at what the receivers of a pair's run read.
pub(super) struct Slopes(Vec<ReadAt>);

/// The receivers that read at one hook point, and their part of something.
struct ReadAt {
    point: HookPoint,
    readers: Vec<Receiver>,
    /// `[receiver, pos × d_model]`
    values: Array2<f32>,
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
}

impl Slopes {
    /// The hook points that have the gradients, each once.
    pub fn points(graph: Graph) -> impl Iterator<Item = HookPoint> {
        let first_head = move |to: &Receiver| match to {
            Receiver::Head(head, _) => head.head == 0,
            Receiver::Mlp(_) | Receiver::Logits => true,
        };
        let places = graph.receivers().filter(first_head);
        places.map(move |to| to.point(graph.n_layers()))
    }

    /// From the gradients at [`Slopes::points`].
    fn of(graph: Graph, gradients: &ActivationCache) -> Result<Self> {
        let mut places: Vec<ReadAt> = Vec::new();
        for to in graph.receivers() {
            let point = to.point(graph.n_layers());
            match places.last_mut() {
                Some(last) if last.point == point => last.readers.push(to),
                _ => places.push(ReadAt {
                    point,
                    readers: vec![to],
                    values: by_receiver(gradients, point)?,
                }),
            }
        }
        Ok(Slopes(places))
    }

    /// Adds the gradients of another run to the sums of those before, one per pair.
    pub fn add_each(
        sums: &mut Vec<Self>,
        graph: Graph,
        gradients: &[ActivationCache],
    ) -> Result<()> {
        for (i, of_pair) in gradients.iter().enumerate() {
            let more = Slopes::of(graph, of_pair)?;
            match sums.get_mut(i) {
                None => sums.push(more),
                Some(sum) => {
                    let places = sum.0.iter_mut().zip(more.0);
                    places.for_each(|(sum, more)| sum.values += &more.values);
                }
            }
        }
        Ok(())
    }

    pub fn divide(&mut self, by: f32) {
        for place in &mut self.0 {
            place.values /= by;
        }
    }

    /// The scores of all edges, in graph order, summed over these positions.
    pub fn scores(
        &self,
        graph: Graph,
        written: &Written,
        positions: Range<usize>,
    ) -> Result<Vec<f32>> {
        let columns = positions.start * graph.d_model()..positions.end * graph.d_model();
        let mut scores = vec![0.0; graph.n_edges()];
        for place in &self.0 {
            let edges = place.readers.iter().map(|to| graph.edges_into(*to));
            let edges: Vec<Range<usize>> = edges.collect::<Result<_>>()?;
            // The receivers of one place have the same sources, the first ones.
            let sources = part(written.0.view(), 0, 0..edges[0].len());
            let sources = part(sources, 1, columns.clone());
            let gradient = part(place.values.view(), 1, columns.clone());
            let products = ops::on_pool(|| ops::matmul(sources, gradient.t()));
            for (edges, column) in edges.into_iter().zip(products.columns()) {
                let to = scores[edges].iter_mut().zip(column);
                to.for_each(|(to, product)| *to = *product);
            }
        }
        Ok(scores)
    }
}

/// What a cache has at a point, `[receiver, pos × d_model]`.
fn by_receiver(cache: &ActivationCache, at: HookPoint) -> Result<Array2<f32>> {
    let mut all = cache.get(at)?;
    if at.axes().has_heads() {
        all.swap_axes(0, 1);
    } else {
        all.insert_axis_inplace(Dim(0));
    }
    let receivers = all.len_of(Dim(0));
    let width = all.len() / receivers;
    let own = all.as_standard_layout().into_owned();
    let flat = own.into_shape_with_order((receivers, width));
    Ok(flat.expect("the array is contiguous"))
}
