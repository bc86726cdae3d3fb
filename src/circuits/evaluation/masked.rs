//! A run in which only a circuit's edges carry what their sources write.

use std::collections::BTreeSet;

use ndarray::{Array2, ArrayViewMut2, ArrayViewMutD, Axis as Dim, Ix2};

use crate::cache::ActivationCache;
use crate::circuits::edge::{Receiver, Source};
use crate::circuits::graph::Graph;
use crate::circuits::pairs::matrix;
use crate::circuits::set::EdgeSet;
use crate::component::Head;
use crate::error::Result;
use crate::hook::HookPoint;
use crate::model::{Hooks, RunShape, Visit};

/// What edges outside a circuit carry in the runs of one pair.
pub(super) struct Corrupted<'r> {
    /// What each source writes, in order.
    pub written: Vec<Array2<f32>>,
    /// The run, for the stream that each receiver reads.
    pub cache: &'r ActivationCache,
}

/// One run: a circuit, and the corrupted run of the pair.
pub(super) struct MaskedRun<'r> {
    pub circuit: &'r EdgeSet,
    pub corrupted: &'r Corrupted<'r>,
}

/// The hooks of a batch of runs of clean prompts.
pub(super) struct Masked<'r> {
    graph: Graph,
    /// Where sources write and receivers read.
    points: BTreeSet<HookPoint>,
    runs: Vec<MaskedRun<'r>>,
    /// What the sources have written so far, by run, in order.
    written: Vec<Vec<Array2<f32>>>,
}

impl<'r> Masked<'r> {
    pub fn new(graph: Graph, runs: Vec<MaskedRun<'r>>) -> Self {
        let n_layers = graph.n_layers();
        let receivers = graph.receivers().map(|to| to.point(n_layers));
        let sources = graph.sources().map(Source::output_point);
        Masked {
            graph,
            points: sources.chain(receivers).collect(),
            written: runs.iter().map(|_| Vec::new()).collect(),
            runs,
        }
    }

    /// What receivers read, where they read it in the corrupted run.
    pub fn reads(graph: Graph) -> impl Iterator<Item = HookPoint> {
        graph.receivers().map(move |to| to.stream(graph.n_layers()))
    }
}

impl MaskedRun<'_> {
    /// Makes what a receiver reads out of the online stream, or out of the corrupted one, whichever
    /// takes fewer differences over all edges.
    fn read(
        &self,
        to: Receiver,
        written: &[Array2<f32>],
        mut x: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        let graph = self.circuit.graph();
        let edges = graph.edges_into(to)?;
        let inside = &self.circuit.mask()[edges];
        let from_clean = 2 * self.circuit.len() > graph.n_edges();
        if !from_clean {
            x.assign(&matrix(self.corrupted.cache, to.stream(graph.n_layers()))?);
        }
        for (source, kept) in inside.iter().enumerate() {
            if *kept != from_clean {
                let (own, other) = (&written[source], &self.corrupted.written[source]);
                let (to, from) = if *kept { (own, other) } else { (other, own) };
                x += &(to - from);
            }
        }
        Ok(())
    }
}

impl Hooks for Masked<'_> {
    fn wants(&self, at: HookPoint, _sequence: usize) -> bool {
        self.points.contains(&at)
    }

    fn visit(&mut self, at: &Visit<'_>, mut activation: ArrayViewMutD<'_, f32>) {
        let (graph, written) = (self.graph, &mut self.written[at.sequence]);
        for source in graph
            .sources()
            .filter(|from| from.output_point() == at.point)
        {
            let head = source.component().head();
            written.push(part_of(head, activation.view_mut()).to_owned());
        }
        let n_layers = graph.n_layers();
        for to in graph
            .receivers()
            .filter(|to| to.point(n_layers) == at.point)
        {
            let head = match to {
                Receiver::Head(head, _) => Some(head),
                Receiver::Mlp(_) | Receiver::Logits => None,
            };
            let x = part_of(head, activation.view_mut());
            let read = self.runs[at.sequence].read(to, written, x);
            read.expect("the corrupted run was asked to keep what receivers read");
        }
    }

    fn begin(&mut self, _run: &RunShape<'_>) -> Result<()> {
        Ok(())
    }
}

/// What a head has of an activation `[pos, head, d_model]`, or all of one `[pos, d_model]`.
fn part_of(head: Option<Head>, activation: ArrayViewMutD<'_, f32>) -> ArrayViewMut2<'_, f32> {
    let part = match head {
        Some(head) => activation.index_axis_move(Dim(1), head.head),
        None => activation,
    };
    let part = part.into_dimensionality::<Ix2>();
    part.expect("an activation has positions, d_model and perhaps heads")
}
