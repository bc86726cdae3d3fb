//! A pass under way: what happens to the rows between the lines of [`forward`](super::forward).

use std::cell::Cell;
use std::ops::Index;
use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayView1, ArrayView2, Axis};

use super::Transformer;
use super::hooks::{Hooks, Visit};
use super::lane::{Columns, Lane, LayerRows, Positions};
use super::recorder::Recorder;
use super::rows::{Layout, Rows};
use super::stage::Stage;
use crate::hook::{Axes, HookPoint, Site};
use crate::ops::{self, Matrix, part, part_mut};
use crate::parameters::{LayerNorm, Linear};

/// A pass under way.
pub(crate) struct Pass<'p, 'l, H> {
    pub model: &'p Transformer,
    pub lanes: &'p [Lane<'l>],
    pub hooks: &'p mut H,
    pub recorder: Option<&'p mut Recorder>,
    /// The layer that is computed.
    pub(super) layer: usize,
    /// Which rows of the lanes each of its stages has.
    pub(super) layout: Arc<LayerLayout>,
    /// The rows of each lane that differ from its base between two layers.
    dirty: Vec<Positions>,
    all_heads: Positions,
    /// Multiply-adds so far.
    pub(super) macs: Cell<u64>,
    /// Rows that went through an MLP, over all layers and lanes.
    mlp_rows: u64,
}

/// What a pass ends with.
pub(crate) struct PassOutput {
    /// Logits of the rows asked for, or none after an early stop.
    pub logits: LaneLogits,
    /// The residual stream at the end.
    pub residual: Rows,
    pub macs: u64,
    pub mlp_rows: u64,
}

/// Logits of all lanes: the rows of each lane that differ from its base.
pub(crate) struct LaneLogits {
    pub layout: Arc<Layout>,
    /// Lanes that read the whole vocabulary share one matrix; each group of lanes that reads the
    /// same few tokens has its own.
    pub groups: Vec<(Vec<usize>, Arc<Matrix>)>,
}

impl LaneLogits {
    /// Those of a pass of so many lanes that stops before them.
    pub(super) fn none(lanes: usize) -> Self {
        LaneLogits {
            layout: Layout::new((0..lanes).map(|_| &[][..])),
            groups: Vec::new(),
        }
    }

    /// One lane's rows.
    ///
    /// # Panics
    /// If the pass had no such lane, or stopped before the logits.
    pub fn lane(&self, lane: usize) -> Array2<f32> {
        let mut groups = self.groups.iter();
        let (lanes, data) = groups
            .find(|(lanes, _)| lanes.contains(&lane))
            .expect("every lane of a pass that reaches the logits is in a group");
        let before = lanes.iter().take_while(|other| **other < lane);
        let before: usize = before.map(|other| self.layout.range(*other).len()).sum();
        let rows = before..before + self.layout.range(lane).len();
        part(data.view(), 0, rows).to_owned()
    }
}

/// The rows of all lanes at every stage of a layer.
#[derive(Debug, Default)]
pub(super) struct LayerLayout {
    stages: [Arc<Layout>; Stage::COUNT],
    /// The heads of each lane whose attention is computed.
    pub heads: Vec<Positions>,
}

impl LayerLayout {
    fn new(lanes: &[LayerRows]) -> Self {
        let of_stage = |stage: usize| {
            let stage = Stage::ALL[stage];
            Layout::new(lanes.iter().map(|rows| &rows[stage][..]))
        };
        LayerLayout {
            stages: std::array::from_fn(of_stage),
            heads: lanes.iter().map(|rows| Arc::clone(&rows.heads)).collect(),
        }
    }
}

impl Index<Stage> for LayerLayout {
    type Output = Arc<Layout>;

    fn index(&self, stage: Stage) -> &Arc<Layout> {
        &self.stages[stage as usize]
    }
}

impl<'p, 'l, H: Hooks> Pass<'p, 'l, H> {
    pub fn new(
        model: &'p Transformer,
        lanes: &'p [Lane<'l>],
        hooks: &'p mut H,
        recorder: Option<&'p mut Recorder>,
    ) -> Self {
        Pass {
            model,
            lanes,
            hooks,
            recorder,
            layer: 0,
            layout: Arc::default(),
            dirty: lanes.iter().map(Lane::embed_rows).collect(),
            all_heads: (0..model.config().n_heads).collect(),
            macs: Cell::new(0),
            mlp_rows: 0,
        }
    }

    pub(super) fn finish(self, logits: LaneLogits, residual: Rows) -> PassOutput {
        PassOutput {
            logits,
            residual,
            macs: self.macs.get(),
            mlp_rows: self.mlp_rows,
        }
    }

    /// Begins a layer: finds out which rows each of its stages has.
    pub(super) fn enter(&mut self, layer: usize) {
        let last = layer + 1 == self.model.config().n_layers;
        let lanes = self.lanes.iter().zip(&self.dirty);
        let rows: Vec<LayerRows> = lanes
            .map(|(lane, dirty)| lane.layer_rows(layer, last, &self.all_heads, dirty))
            .collect();
        self.dirty = rows
            .iter()
            .map(|rows| Arc::clone(&rows[Stage::ResidPost]))
            .collect();
        self.layer = layer;
        self.layout = Arc::new(LayerLayout::new(&rows));
        self.mlp_rows += self.layout[Stage::MlpIn].len() as u64;
    }

    /// Hook points of this layer.
    pub(super) fn here<const N: usize>(&self, sites: [Site; N]) -> [HookPoint; N] {
        sites.map(|site| site.at(self.layer))
    }

    /// Ends a stage: its rows completed from the base, shown to the hooks and recorded.
    pub(super) fn at(&mut self, site: Site, rows: Rows) -> Rows {
        let rows = self.read(Stage::shown_at(site), rows);
        self.show(site.at(self.layer), rows)
    }

    /// The values at the rows that a stage has, completed from the base.
    pub(super) fn read(&self, stage: Stage, rows: Rows) -> Rows {
        rows.completed(&self.layout[stage], self.base_of(stage))
    }

    /// Only the rows that a stage has.
    pub(super) fn only(&self, stage: Stage, rows: Rows) -> Rows {
        rows.only(&self.layout[stage])
    }

    /// Ends a stage that is a sum: what attention or the MLP puts out, added to the residual
    /// stream that it read.
    pub(super) fn add(&mut self, site: Site, out: Rows, resid: Rows) -> Rows {
        let stage = Stage::shown_at(site);
        let [of_out, of_resid] = stage.summands();
        let bases = [of_out, of_resid, stage].map(|stage| self.base_of(stage));
        let sum = out.plus_completed(&resid, &self.layout[stage], bases);
        drop(resid);
        self.show(site.at(self.layer), sum)
    }

    /// The last block's output at the rows whose logits are read.
    pub(super) fn read_last(&self, resid: Rows) -> Rows {
        let lanes = self.lanes.iter().zip(&self.dirty);
        let read: Vec<Positions> = lanes.map(|(lane, dirty)| lane.final_rows(dirty)).collect();
        let layout = Layout::new(read.iter().map(|r| &r[..]));
        let last = Site::ResidPost.at(self.model.config().n_layers - 1);
        resid.completed(&layout, self.base(last))
    }

    /// The base's rows at a point, for lanes that have a base.
    pub(super) fn base(
        &self,
        at: HookPoint,
    ) -> impl Fn(usize) -> ArrayView2<'l, f32> + use<'p, 'l, H> {
        let lanes = self.lanes;
        move |lane: usize| {
            let base = lanes[lane].base;
            base.expect("a lane without base computes every row")
                .planned(at)
        }
    }

    /// The base's rows that complete a stage.
    fn base_of(&self, stage: Stage) -> impl Fn(usize) -> ArrayView2<'l, f32> + use<'p, 'l, H> {
        let site = stage.entry().base;
        let site = site.expect("a stage that is completed has a base in the table");
        self.base(site.at(self.layer))
    }

    pub(super) fn wanted(&self, at: HookPoint, lane: usize) -> bool {
        self.hooks.wants(at, lane)
    }

    pub(super) fn recorded(&self, at: HookPoint) -> bool {
        self.recorder.as_ref().is_some_and(|r| r.wants(at))
    }

    fn wanted_by_any(&self, at: HookPoint) -> bool {
        self.recorded(at) || (0..self.lanes.len()).any(|lane| self.wanted(at, lane))
    }

    /// Passes the rows of all lanes to the hooks, which may change them, then to the recorder.
    pub(super) fn show(&mut self, at: HookPoint, mut rows: Rows) -> Rows {
        let (model, lanes) = (self.model, self.lanes);
        for (i, lane) in lanes.iter().enumerate() {
            let range = rows.layout.range(i);
            if range.is_empty() || !self.hooks.wants(at, i) {
                continue;
            }
            let positions = rows.layout.positions(i);
            let heads = Arc::clone(&self.all_heads);
            let n = lane.tokens.len();
            let visit = Visit::new(model.config(), at, i, n, positions, &heads);
            let data = Arc::make_mut(&mut rows.data);
            let width = data.ncols();
            let shape = match at.axes() {
                Axes::Head => vec![range.len(), heads.len(), width / heads.len()],
                _ => vec![range.len(), width],
            };
            let view = part_mut(data.view_mut(), 0, range).into_shape_with_order(shape);
            let view = view.expect("rows of a matrix are contiguous");
            self.hooks.visit(&visit, view);
        }
        if let Some(recorder) = self.recorder.as_mut().filter(|r| r.wants(at)) {
            recorder.record(at, &rows, lanes, model.config());
        }
        rows
    }

    /// Passes one lane's values with three axes to the hooks and to the recorder.
    pub(super) fn show_lane(
        &mut self,
        at: HookPoint,
        lane: usize,
        positions: &[usize],
        heads: &[usize],
        values: &mut Array3<f32>,
    ) {
        let of = &self.lanes[lane];
        let (config, n) = (self.model.config(), of.tokens.len());
        let visit = Visit::new(config, at, lane, n, positions, heads);
        if self.hooks.wants(at, lane) {
            self.hooks.visit(&visit, values.view_mut().into_dyn());
        }
        if let Some(recorder) = self.recorder.as_mut().filter(|r| r.wants(at)) {
            recorder.record_lane(&visit, of, values);
        }
    }

    /// All heads of the model.
    pub(super) fn all_heads(&self) -> Positions {
        Arc::clone(&self.all_heads)
    }

    /// Rows of an embedding table, of the rows that differ from the base.
    pub(super) fn lookup(
        &self,
        table: &Array2<f32>,
        index: impl Fn(&Lane<'l>, usize) -> usize,
    ) -> Rows {
        let layout = Layout::new(self.dirty.iter().map(|r| &r[..]));
        let mut data = ops::matrix((layout.len(), table.ncols()));
        for (i, lane) in self.lanes.iter().enumerate() {
            for (row, position) in layout.range(i).zip(layout.positions(i)) {
                data.row_mut(row).assign(&table.row(index(lane, *position)));
            }
        }
        Rows::new(&layout, data)
    }

    /// LayerNorm, which shows its scale `[row, 1]` and what it has normalized `[row, d_model]`.
    pub(super) fn norm(
        &mut self,
        x: Rows,
        ln: &LayerNorm,
        [scale_at, normalized_at]: [HookPoint; 2],
    ) -> Rows {
        let eps = self.model.config().layer_norm_eps;
        let (weight, bias) = (ln.weight.view(), ln.bias.view());
        if !self.wanted_by_any(scale_at) && !self.wanted_by_any(normalized_at) {
            let data = ops::layer_norm_affine(x.view(), weight, bias, eps);
            return Rows::new(&x.layout, data);
        }
        let normalized = ops::layer_norm(x.view(), eps, |scale| {
            let rows = Rows::new(&x.layout, std::mem::take(scale));
            let rows = self.show(scale_at, rows);
            *scale = Arc::unwrap_or_clone(rows.data).into_inner();
        });
        let rows = Rows::new(&x.layout, normalized.normalized);
        let rows = self.show(normalized_at, rows);
        Rows::new(&x.layout, ops::affine(rows.view(), weight, bias))
    }

    /// `x · weight + bias`.
    pub(super) fn linear(&self, x: Rows, linear: &Linear) -> Rows {
        let data = self.product(x.view(), linear.weight.view(), Some(linear.bias.view()));
        Rows::new(&x.layout, data)
    }

    /// The MLP's activation function.
    pub(super) fn activate(&self, x: Rows) -> Rows {
        let activation = self.model.config().activation;
        let data = ops::map_rows(x.data, |_, row| ops::activate_row(activation, row));
        Rows::new(&x.layout, data)
    }

    /// A counted matrix product.
    pub(super) fn product(
        &self,
        x: ArrayView2<'_, f32>,
        w: ArrayView2<'_, f32>,
        bias: Option<ArrayView1<'_, f32>>,
    ) -> Array2<f32> {
        self.count((x.nrows() * w.nrows() * w.ncols()) as u64);
        ops::linear(x, w, bias)
    }

    /// Counts multiply-adds.
    pub(super) fn count(&self, macs: u64) {
        self.macs.set(self.macs.get() + macs);
    }

    /// The unembedding: some columns of the logits.
    pub(super) fn logits(&self, x: Rows, columns: &Columns) -> Rows {
        let parameters = self.model.parameters();
        let w_u = parameters.w_u();
        let bias = parameters.lm_head_bias.as_ref();
        let data = match columns {
            Columns::All => self.product(x.view(), w_u, bias.map(|b| b.view())),
            Columns::Tokens(tokens) => {
                let tokens: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
                // Rows of the tied matrix are contiguous; columns of its transpose are not.
                let some = w_u.t().select(Axis(0), &tokens);
                let bias = bias.map(|b| b.select(Axis(0), &tokens));
                self.product(x.view(), some.t(), bias.as_ref().map(|b| b.view()))
            }
        };
        Rows::new(&x.layout, data)
    }

    /// Lanes that read the same columns, in order of their first lane.
    pub(super) fn lanes_by_columns(&self) -> Vec<(&'p Columns, Vec<usize>)> {
        let mut groups: Vec<(&Columns, Vec<usize>)> = Vec::new();
        for (i, lane) in self.lanes.iter().enumerate() {
            match groups
                .iter_mut()
                .find(|(columns, _)| **columns == lane.columns)
            {
                Some((_, members)) => members.push(i),
                None => groups.push((&lane.columns, vec![i])),
            }
        }
        groups
    }
}
