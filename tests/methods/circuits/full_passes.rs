//! Runs of circuits by one hooked full pass each, as their definition has them: slow, and with the
//! same arithmetic as the lanes.

use ndarray::{Array2, ArrayViewMut2, ArrayViewMutD, Axis, Ix2};
use patchlens::circuits::{EdgeSet, Graph, Receiver, Source};
use patchlens::hook::HookPoint;
use patchlens::model::{Hooks, Run, RunShape, Visit};
use patchlens::{Head, Metric, Prompt, Prompts, Site, Transformer};

/// The hook point of what a source writes, and its head.
fn output(source: Source) -> (HookPoint, Option<Head>) {
    match source {
        Source::Input => (HookPoint::Embed, None),
        Source::Head(head) => (Site::Result.at(head.layer), Some(head)),
        Source::Mlp(layer) => (Site::MlpOut.at(layer), None),
    }
}

/// The hook point of what a receiver reads, and its head.
fn input(to: Receiver, n_layers: usize) -> (HookPoint, Option<Head>) {
    match to {
        Receiver::Head(head, read) => (read.input_site().at(head.layer), Some(head)),
        Receiver::Mlp(layer) => (Site::MlpIn.at(layer), None),
        Receiver::Logits => (Site::ResidPost.at(n_layers - 1), None),
    }
}

fn part_of(head: Option<Head>, activation: ArrayViewMutD<'_, f32>) -> ArrayViewMut2<'_, f32> {
    let part = match head {
        Some(head) => activation.index_axis_move(Axis(1), head.head),
        None => activation,
    };
    part.into_dimensionality::<Ix2>().unwrap()
}

/// What happens at the inputs of a run's parts.
enum Inputs<'i> {
    /// They are only noted.
    Noted(Vec<Array2<f32>>),
    /// They are made of what a circuit's edges carry.
    Made {
        circuit: &'i EdgeSet,
        other: &'i Plain,
    },
}

/// A run's hooks.
struct Parts<'i> {
    graph: Graph,
    written: Vec<Array2<f32>>,
    inputs: Inputs<'i>,
}

/// A plain run.
pub struct Plain {
    /// By source.
    written: Vec<Array2<f32>>,
    /// By receiver.
    read: Vec<Array2<f32>>,
}

impl Parts<'_> {
    fn read(&mut self, index: usize, to: Receiver, mut x: ArrayViewMut2<'_, f32>) {
        match &mut self.inputs {
            Inputs::Noted(read) => read.push(x.to_owned()),
            Inputs::Made { circuit, other } => {
                let inside = &circuit.mask()[self.graph.edges_into(to).unwrap()];
                let from_clean = 2 * circuit.len() > self.graph.n_edges();
                if !from_clean {
                    x.assign(&other.read[index]);
                }
                for (source, kept) in inside.iter().enumerate() {
                    if *kept != from_clean {
                        let (own, other) = (&self.written[source], &other.written[source]);
                        let (to, from) = if *kept { (own, other) } else { (other, own) };
                        x += &(to - from);
                    }
                }
            }
        }
    }
}

impl Hooks for Parts<'_> {
    fn wants(&self, at: HookPoint, _sequence: usize) -> bool {
        let graph = self.graph;
        graph.sources().any(|source| output(source).0 == at)
            || graph
                .receivers()
                .any(|to| input(to, graph.n_layers()).0 == at)
    }

    fn visit(&mut self, at: &Visit<'_>, mut activation: ArrayViewMutD<'_, f32>) {
        let graph = self.graph;
        for source in graph.sources() {
            let (point, head) = output(source);
            if point == at.point {
                let part = part_of(head, activation.view_mut()).to_owned();
                self.written.push(part);
            }
        }
        for (index, to) in graph.receivers().enumerate() {
            let (point, head) = input(to, graph.n_layers());
            if point == at.point {
                self.read(index, to, part_of(head, activation.view_mut()));
            }
        }
    }

    fn begin(&mut self, _run: &RunShape<'_>) -> patchlens::Result<()> {
        Ok(())
    }
}

fn plain(model: &Transformer, prompt: &Prompt) -> Plain {
    let mut parts = Parts {
        graph: Graph::new(model.config()),
        written: Vec::new(),
        inputs: Inputs::Noted(Vec::new()),
    };
    model.run(prompt, &mut parts, &Run::default()).unwrap();
    let Inputs::Noted(read) = parts.inputs else {
        unreachable!("it was begun so")
    };
    Plain {
        written: parts.written,
        read,
    }
}

/// The metric of some circuits, `[circuit, pair]`.
pub fn by_full_passes(
    model: &Transformer,
    [clean, corrupted]: [&Prompts; 2],
    circuits: &[EdgeSet],
    metric: &Metric,
) -> Array2<f32> {
    let others: Vec<Plain> = corrupted
        .iter()
        .map(|prompt| plain(model, prompt))
        .collect();
    Array2::from_shape_fn((circuits.len(), clean.len()), |(circuit, pair)| {
        let parts = Parts {
            graph: Graph::new(model.config()),
            written: Vec::new(),
            inputs: Inputs::Made {
                circuit: &circuits[circuit],
                other: &others[pair],
            },
        };
        let output = model.run(&clean[pair], parts, &Run::default()).unwrap();
        metric.evaluate(pair, output.logits.get(0)).unwrap()
    })
}
