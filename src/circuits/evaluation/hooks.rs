//! The hooks of circuits' runs: what each part reads is made of the differences that edges carry.

use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMutD, Axis as Dim, Ix2, Ix3};
use rayon::prelude::*;

use super::plan::Planned;
use super::route::{Form, Route};
use super::tables::Tables;
use crate::cache::ActivationCache;
use crate::circuits::edge::{Receiver, Source};
use crate::component::{Head, Qkv};
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::model::lane::Positions;
use crate::model::stage::Kind;
use crate::model::{Hooks, RunShape, Transformer, Visit};
use crate::ops::{self, part};

/// Some rows of a sequence.
struct Part {
    positions: Positions,
    rows: Array2<f32>,
}

impl Part {
    fn row(&self, position: usize) -> Option<usize> {
        self.positions.binary_search(&position).ok()
    }
}

/// A lane's run under way.
pub(super) struct LaneRun<'r> {
    route: &'r Route,
    planned: &'r Planned,
    tables: &'r Tables,
    /// The run that it departs from.
    base: &'r ActivationCache,
    /// By source, what it writes in this run minus what edges carry that are not kept, in the rows
    /// that are computed.
    written: Vec<Option<Part>>,
    /// The stream before a layer.
    stream: Option<(usize, Part)>,
    /// What the heads of a layer have gathered, until what they write is computed.
    z: Option<(usize, Part)>,
    /// The heads' queries, keys or values, as they come.
    made: Vec<(usize, Array2<f32>)>,
}

impl<'r> LaneRun<'r> {
    pub fn new(
        route: &'r Route,
        planned: &'r Planned,
        tables: &'r Tables,
        base: &'r ActivationCache,
    ) -> Self {
        LaneRun {
            route,
            planned,
            tables,
            base,
            written: route.out.iter().map(|_| None).collect(),
            stream: None,
            z: None,
            made: Vec::new(),
        }
    }

    fn wants(&self, at: HookPoint) -> bool {
        let graph = self.route.graph;
        let HookPoint::Block(layer, site) = at else {
            return false;
        };
        let shown = &self.planned.shown[layer];
        let reads = |read: Qkv| !shown.heads[read as usize].is_empty();
        match site {
            Site::ResidPre => self.route.form == Form::Removed && Qkv::ALL.into_iter().any(reads),
            Site::Q => reads(Qkv::Q),
            Site::K => reads(Qkv::K),
            Site::V => reads(Qkv::V),
            Site::Z => !shown.writing.is_empty(),
            Site::MlpIn => !self.route.into(Receiver::Mlp(layer)).is_empty(),
            Site::MlpOut => self.route.out[graph.source_index(Source::Mlp(layer))],
            Site::ResidPost => layer + 1 == graph.n_layers(),
            _ => false,
        }
    }

    /// Notes what a source writes in some rows.
    fn write(&mut self, source: Source, positions: &Positions, mut rows: Array2<f32>) {
        let index = self.route.graph.source_index(source);
        let carried = self.tables.carried[index].as_ref();
        let carried = carried.expect("tables hold every source of the route");
        for (mut row, position) in rows.rows_mut().into_iter().zip(positions.iter()) {
            row -= &carried.row(*position);
        }
        self.written[index] = Some(Part {
            positions: Arc::clone(positions),
            rows,
        });
    }

    /// What a source writes in a row, minus what edges carry that are not kept; none where that is
    /// the same.
    fn difference(&self, source: usize, position: usize) -> Option<ArrayView1<'_, f32>> {
        let written = self.written[source].as_ref();
        let own = written.and_then(|w| Some(w.rows.row(w.row(position)?)));
        let of_full = self.route.form == Form::Removed || self.route.known[source];
        let tables = if of_full {
            &self.tables.full
        } else {
            &self.tables.empty
        };
        own.or_else(|| tables[source].as_ref().map(|table| table.row(position)))
    }

    /// Makes a row of what a receiver reads out of that row of the stream.
    fn add(&self, to: Receiver, position: usize, x: &mut [f32]) {
        for source in self.route.into(to) {
            let Some(row) = self.difference(*source, position) else {
                continue;
            };
            let both = x.iter_mut().zip(row);
            match self.route.form {
                Form::Kept => both.for_each(|(x, d)| *x += d),
                Form::Removed => both.for_each(|(x, d)| *x -= d),
            }
        }
    }

    /// A row of what a head's reader reads.
    fn input(&self, to: Receiver, position: usize, x: &mut [f32]) {
        let at = to.stream(self.route.graph.n_layers());
        let stream = self
            .stream
            .as_ref()
            .filter(|(layer, _)| at.layer() == Some(*layer));
        let own = stream.and_then(|(_, own)| Some(own.rows.row(own.row(position)?)));
        let base = self.base.planned(at);
        let row = own.unwrap_or_else(|| base.row(position));
        x.iter_mut().zip(row).for_each(|(x, v)| *x = *v);
        self.add(to, position, x);
    }

    /// Makes what an MLP or the logits read.
    fn read(&self, to: Receiver, positions: &[usize], x: ArrayViewMutD<'_, f32>) {
        let x = x.into_dimensionality::<Ix2>();
        let x = x.expect("the stream has positions and d_model");
        let at = to.stream(self.route.graph.n_layers());
        ops::for_rows(x, |i, x| {
            if self.route.form == Form::Kept {
                let base = self.base.planned(at);
                let base = base.row(positions[i]);
                x.iter_mut().zip(base).for_each(|(x, v)| *x = *v);
            }
            self.add(to, positions[i], x);
        });
    }
}

/// The hooks of a chunk of lanes.
pub(super) struct CircuitHooks<'r> {
    model: &'r Transformer,
    lanes: Vec<LaneRun<'r>>,
    /// The layer and the reader whose inputs have been made.
    made: Option<(usize, Qkv)>,
    /// Multiply-adds done here.
    pub macs: u64,
}

impl<'r> CircuitHooks<'r> {
    pub fn new(model: &'r Transformer, lanes: Vec<LaneRun<'r>>) -> Self {
        CircuitHooks {
            model,
            lanes,
            made: None,
            macs: 0,
        }
    }

    /// Makes the queries, keys or values of a layer's heads that read other inputs than the base's:
    /// each head's rows of all lanes are one product.
    fn make(&mut self, layer: usize, read: Qkv) {
        if self.made == Some((layer, read)) {
            return;
        }
        self.made = Some((layer, read));
        self.write_heads();
        let heads = 0..self.model.config().n_heads;
        let (lanes, model) = (&self.lanes, self.model);
        let made: Vec<Vec<(usize, Array2<f32>)>> = heads
            .into_par_iter()
            .map(|head| project(model, lanes, Head::new(layer, head), read))
            .collect();
        self.lanes.iter_mut().for_each(|lane| lane.made.clear());
        let size = self.model.config().d_model * self.model.config().d_head();
        for (head, by_lane) in made.into_iter().enumerate() {
            for (lane, rows) in by_lane {
                self.macs += (rows.nrows() * size) as u64;
                self.lanes[lane].made.push((head, rows));
            }
        }
    }

    /// Computes what the heads write that have gathered their values: each head's rows of all lanes
    /// are one product.
    fn write_heads(&mut self) {
        let Some(layer) = self.lanes.iter().find_map(|lane| Some(lane.z.as_ref()?.0)) else {
            return;
        };
        let config = self.model.config();
        let (lanes, model) = (&self.lanes, self.model);
        let made: Vec<Vec<(usize, Array2<f32>)>> = (0..config.n_heads)
            .into_par_iter()
            .map(|head| outputs(model, lanes, Head::new(layer, head)))
            .collect();
        let size = config.d_model * config.d_head();
        let z: Vec<_> = self.lanes.iter_mut().map(|lane| lane.z.take()).collect();
        for (head, by_lane) in made.into_iter().enumerate() {
            for (lane, rows) in by_lane {
                self.macs += (rows.nrows() * size) as u64;
                let (_, z) = z[lane].as_ref().expect("its values were gathered");
                let source = Source::Head(Head::new(layer, head));
                self.lanes[lane].write(source, &z.positions, rows);
            }
        }
    }
}

/// Queries, keys or values of one head in the lanes where it reads other inputs, `[row, d_head]` by
/// lane.
fn project(
    model: &Transformer,
    lanes: &[LaneRun<'_>],
    head: Head,
    read: Qkv,
) -> Vec<(usize, Array2<f32>)> {
    let positions = |lane: &LaneRun<'_>| {
        let shown = &lane.planned.shown[head.layer];
        let reads = shown.heads[read as usize].contains(&head.head);
        reads.then(|| Arc::clone(&shown.read[read as usize]))
    };
    let reading = lanes.iter().enumerate();
    let reading: Vec<(usize, Positions)> = reading
        .filter_map(|(i, lane)| Some((i, positions(lane)?)))
        .filter(|(_, positions)| !positions.is_empty())
        .collect();
    let n_rows = reading.iter().map(|(_, positions)| positions.len()).sum();
    let config = model.config();
    let (d, d_head) = (config.d_model, config.d_head());
    let mut x = ops::matrix((n_rows, d));
    let rows = || {
        let all = reading.iter();
        all.flat_map(|(lane, positions)| positions.iter().map(move |p| (*lane, *p)))
    };
    for (mut x, (lane, position)) in x.rows_mut().into_iter().zip(rows()) {
        let x = x.as_slice_mut().expect("a fresh matrix is row-major");
        lanes[lane].input(Receiver::Head(head, read), position, x);
    }
    let block = &model.parameters().h[head.layer];
    let mut normed = block.ln_1.apply(config, x);
    if read != Qkv::V && Kind::of(config).reads_positions() {
        for (mut to, (_, position)) in normed.rows_mut().into_iter().zip(rows()) {
            to += &model.parameters().wpe.row(position);
        }
    }
    let c_attn = &block.attn.c_attn;
    let first = read as usize * config.d_heads() + head.head * d_head;
    let columns = first..first + d_head;
    let weight = part(c_attn.weight.view(), 1, columns.clone());
    let bias = part(c_attn.bias.view(), 0, columns);
    let made = ops::linear(normed.view(), weight, Some(bias));
    split(made.view(), &reading)
}

/// What one head writes in the lanes that want it, `[row, d_model]` by lane.
fn outputs(model: &Transformer, lanes: &[LaneRun<'_>], head: Head) -> Vec<(usize, Array2<f32>)> {
    let writing = lanes.iter().enumerate().filter_map(|(i, lane)| {
        let (_, z) = lane.z.as_ref()?;
        let writes = lane.planned.shown[head.layer].writing.contains(&head.head);
        writes.then(|| (i, Arc::clone(&z.positions)))
    });
    let writing: Vec<(usize, Positions)> = writing.collect();
    let d_head = model.config().d_head();
    let columns = head.head * d_head..(head.head + 1) * d_head;
    let n_rows = writing.iter().map(|(_, positions)| positions.len()).sum();
    let mut gathered = ops::matrix((n_rows, d_head));
    let mut first = 0;
    for (lane, positions) in &writing {
        let (_, z) = lanes[*lane].z.as_ref().expect("it was just there");
        let own = part(z.rows.view(), 1, columns.clone());
        let rows = first..first + positions.len();
        ops::part_mut(gathered.view_mut(), 0, rows).assign(&own);
        first += positions.len();
    }
    let made = ops::linear(gathered.view(), model.output_map(head), None);
    split(made.view(), &writing)
}

/// Rows by lane.
fn split(rows: ArrayView2<'_, f32>, lanes: &[(usize, Positions)]) -> Vec<(usize, Array2<f32>)> {
    let mut first = 0;
    let each = lanes.iter().map(|(lane, positions)| {
        first += positions.len();
        let own = part(rows, 0, first - positions.len()..first);
        (*lane, own.to_owned())
    });
    each.collect()
}

impl Hooks for CircuitHooks<'_> {
    fn wants(&self, at: HookPoint, lane: usize) -> bool {
        self.lanes[lane].wants(at)
    }

    fn visit(&mut self, at: &Visit<'_>, activation: ArrayViewMutD<'_, f32>) {
        let HookPoint::Block(layer, site) = at.point else {
            return;
        };
        let lane = at.sequence;
        let copy = |activation: ArrayViewMutD<'_, f32>| {
            let rows = activation.shape()[0];
            let width = activation.len() / rows;
            let flat = activation.to_owned().into_shape_with_order((rows, width));
            Part {
                positions: at.positions.into(),
                rows: flat.expect("an owned copy is contiguous"),
            }
        };
        match site {
            Site::ResidPre => self.lanes[lane].stream = Some((layer, copy(activation))),
            Site::Z => {
                let earlier = |run: &LaneRun<'_>| run.z.as_ref().is_some_and(|(l, _)| *l < layer);
                if self.lanes.iter().any(earlier) {
                    self.write_heads();
                }
                self.lanes[lane].z = Some((layer, copy(activation)));
            }
            Site::Q => self.set(lane, layer, Qkv::Q, activation),
            Site::K => self.set(lane, layer, Qkv::K, activation),
            Site::V => self.set(lane, layer, Qkv::V, activation),
            Site::MlpIn => {
                self.write_heads();
                self.lanes[lane].read(Receiver::Mlp(layer), at.positions, activation);
            }
            Site::MlpOut => {
                let own = copy(activation);
                self.lanes[lane].write(Source::Mlp(layer), &own.positions, own.rows);
            }
            Site::ResidPost => {
                self.write_heads();
                self.lanes[lane].read(Receiver::Logits, at.positions, activation);
            }
            _ => {}
        }
    }

    fn begin(&mut self, _run: &RunShape<'_>) -> Result<()> {
        Ok(())
    }
}

impl CircuitHooks<'_> {
    /// Sets the queries, keys or values of the heads that read other inputs.
    fn set(&mut self, lane: usize, layer: usize, read: Qkv, activation: ArrayViewMutD<'_, f32>) {
        self.make(layer, read);
        let heads = activation.into_dimensionality::<Ix3>();
        let mut heads = heads.expect("queries, keys and values have positions, heads and d_head");
        for (head, rows) in &self.lanes[lane].made {
            heads.index_axis_mut(Dim(1), *head).assign(rows);
        }
    }
}
