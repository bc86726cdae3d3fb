//! The mechanics of a pass: where rows are completed from the base, shown to hooks and recorded.
//! What it computes is on one page, in `forward.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMutD};

use super::Transformer;
use super::blocked::BlockedRows;
use super::hooks::{Hooks, Sequence, Visit};
use super::lane::{Lane, Layer, LayerRows, Positions};
use super::recorder::Recorder;
use super::rows::{Layout, Rows};
use super::stage::{Frozen, Kind, Stage};
use crate::config::Element;
use crate::hook::{Axes, HookPoint, Site};
use crate::ops::{self, Matrix, part, part_mut};
use crate::parameters::{Block, LayerNorm, Linear};

/// A pass under way.
pub(crate) struct Pass<'p, 'l, H> {
    pub model: &'p Transformer,
    pub lanes: &'p [Lane<'l>],
    pub hooks: &'p mut H,
    pub recorder: Option<&'p mut Recorder>,
    /// Multiply-adds done so far.
    pub macs: u64,
    /// Rows that went through an MLP, over all layers and lanes.
    pub mlp_rows: u64,
    /// By lane, the rows of attention that had nothing to attend to.
    pub blocked: BTreeMap<usize, BlockedRows>,
    /// All heads.
    pub heads: Positions,
    /// What the model's blocks have.
    pub(super) kind: Kind,
    /// The position embeddings, where each layer reads them by itself.
    pub(super) positions: Option<Rows>,
    /// The rows of each lane that differ from its base at the present point.
    pub dirty: Vec<Positions>,
    /// The block under way.
    pub(super) here: Layouts,
}

/// What a pass ends with.
pub(crate) struct PassOutput {
    /// Logits of the rows asked for, or nothing after an early stop.
    pub logits: LaneLogits,
    /// The residual stream at the end.
    pub residual: Rows,
    pub macs: u64,
    pub mlp_rows: u64,
    /// By lane, the rows of attention that had nothing to attend to.
    pub blocked: BTreeMap<usize, BlockedRows>,
}

impl PassOutput {
    /// The rows of all lanes' attention that had nothing to attend to.
    pub fn blocked(&self) -> BlockedRows {
        let mut all = BlockedRows::default();
        self.blocked.values().for_each(|rows| all.extend(*rows));
        all
    }
}

/// Logits of all lanes: the rows of each lane that differ from its base.
pub(crate) struct LaneLogits {
    pub rows: Arc<Layout>,
    /// Lanes that read the whole vocabulary share one matrix; each group of lanes that reads the
    /// same few tokens has its own.
    pub groups: Vec<(Vec<usize>, Arc<Matrix>)>,
}

impl LaneLogits {
    /// Of a run that stops before the unembedding.
    pub(super) fn none(lanes: usize) -> Self {
        LaneLogits {
            rows: Layout::new((0..lanes).map(|_| &[][..])),
            groups: Vec::new(),
        }
    }

    /// One lane's rows: none where none differ from its base.
    ///
    /// # Panics
    /// If the pass has no such lane.
    pub fn lane(&self, lane: usize) -> ArrayView2<'_, f32> {
        let rows = self.rows.range(lane).len();
        let found = self
            .groups
            .iter()
            .find_map(|(lanes, data)| Some((lanes, data, lanes.binary_search(&lane).ok()?)));
        let Some((lanes, data, index)) = found else {
            assert_eq!(rows, 0, "lane {lane} has rows in no group");
            return ArrayView2::from_shape((0, 0), &[]).expect("no values are needed");
        };
        let before: usize = lanes[..index]
            .iter()
            .map(|l| self.rows.range(*l).len())
            .sum();
        part(data.view(), 0, before..before + rows)
    }
}

/// The stacked rows of every stage of a block.
#[derive(Debug, Default)]
pub(super) struct Layouts {
    pub layer: usize,
    rows: Vec<Arc<Layout>>,
    /// The heads whose attention is computed, by lane.
    pub heads: Vec<Positions>,
}

impl Layouts {
    fn new(kind: Kind, layer: usize, lanes: &[LayerRows]) -> Self {
        let mut rows: Vec<Arc<Layout>> = Vec::with_capacity(Stage::COUNT);
        for (i, stage) in Stage::ALL.iter().enumerate() {
            // Most stages have the rows of the one before.
            let mut before = Stage::ALL[..i].iter().rev().copied();
            let before = before.find(|stage| kind.has(*stage));
            let same = before.filter(|before| {
                let mut lanes = lanes.iter();
                lanes.all(|lane| Arc::ptr_eq(&lane[*before], &lane[*stage]))
            });
            rows.push(match same {
                Some(before) => Arc::clone(&rows[before as usize]),
                None => Layout::new(lanes.iter().map(|lane| &lane[*stage][..])),
            });
        }
        Layouts {
            layer,
            rows,
            heads: lanes.iter().map(|r| Positions::clone(&r.heads)).collect(),
        }
    }

    /// The rows of a stage.
    pub fn of(&self, stage: Stage) -> &Arc<Layout> {
        &self.rows[stage as usize]
    }
}

impl Rows {
    /// What a block has at a hook point: completed from the base, shown to hooks, recorded.
    pub(super) fn at<H: Hooks>(self, site: Site, pass: &mut Pass<'_, '_, H>) -> Rows {
        let mut rows = pass.complete(Stage::shown_at(site), self);
        pass.visit(site.at(pass.here.layer), &mut rows);
        rows
    }

    /// Shown to hooks and recorded, at a point outside of the blocks.
    pub(super) fn shown<H: Hooks>(mut self, at: HookPoint, pass: &mut Pass<'_, '_, H>) -> Rows {
        pass.visit(at, &mut self);
        self
    }
}

impl<'p, 'l, H: Hooks> Pass<'p, 'l, H> {
    pub fn new(
        model: &'p Transformer,
        lanes: &'p [Lane<'l>],
        hooks: &'p mut H,
        recorder: Option<&'p mut Recorder>,
    ) -> Self {
        let kind = Kind::of(model.config());
        Pass {
            model,
            lanes,
            hooks,
            recorder,
            macs: 0,
            mlp_rows: 0,
            blocked: BTreeMap::new(),
            heads: (0..model.config().n_heads).collect(),
            kind,
            positions: None,
            dirty: lanes.iter().map(|lane| lane.embed_rows(kind)).collect(),
            here: Layouts::default(),
        }
    }

    pub(super) fn finish(self, logits: LaneLogits, residual: Rows) -> PassOutput {
        PassOutput {
            logits,
            residual,
            macs: self.macs,
            mlp_rows: self.mlp_rows,
            blocked: self.blocked,
        }
    }

    /// Finds out which rows each stage of a block has; returns the block's weights.
    pub(super) fn enter(&mut self, layer: usize) -> &'p Block {
        let of = Layer {
            kind: self.kind,
            index: layer,
            last: layer + 1 == self.model.config().n_layers,
            heads: Positions::clone(&self.heads),
        };
        let lanes = self.lanes.iter().zip(&self.dirty);
        let rows: Vec<LayerRows> = lanes
            .map(|(lane, dirty)| lane.layer_rows(&of, dirty))
            .collect();
        let after = rows.iter().map(|r| Positions::clone(&r[Stage::ResidPost]));
        self.dirty = after.collect();
        self.here = Layouts::new(self.kind, layer, &rows);
        self.mlp_rows += self.here.of(Stage::MlpIn).len() as u64;
        &self.model.parameters().h[layer]
    }

    /// The rows of a stage of the block under way: those at hand, the others from the base.
    pub(super) fn complete(&self, stage: Stage, rows: Rows) -> Rows {
        let layout = self.here.of(stage);
        match stage.entry().base {
            Some(site) => rows.completed(layout, self.base(site.at(self.here.layer))),
            None => rows.subset(layout),
        }
    }

    /// The rows of the stage `sum`: what a half of the block writes (`out`, the first input of that
    /// stage) plus the residual stream (`resid`, its second input). Where only one of them differs
    /// from the base, the other one is the base's.
    pub(super) fn add(&self, sum: Stage, out: Rows, resid: Rows) -> Rows {
        let inputs = sum.inputs(self.kind, Frozen::default());
        let [from, stream] = [0, 1].map(|i| inputs[i].stage());
        let base = |stage: Stage| {
            let site = stage.entry().base.expect("summands have a base");
            self.base(site.at(self.here.layer))
        };
        let layout = out.layout.with(self.here.of(stream), self.here.of(sum));
        out.completed(&layout, base(from))
            .plus(&resid, base(stream))
    }

    /// The base's rows at a point, for lanes that have a base.
    pub(super) fn base(
        &self,
        at: HookPoint,
    ) -> impl Fn(usize) -> ArrayView2<'l, f32> + use<'p, 'l, H> {
        let lanes = self.lanes;
        move |lane: usize| {
            let base = lanes[lane].base;
            base.expect("a lane without base has every row").planned(at)
        }
    }

    pub(super) fn wanted(&self, at: HookPoint, lane: usize) -> bool {
        self.hooks.wants(at, lane)
    }

    pub(super) fn wanted_by_any(&self, at: HookPoint) -> bool {
        self.recorded(at) || (0..self.lanes.len()).any(|lane| self.hooks.wants(at, lane))
    }

    pub(super) fn recorded(&self, at: HookPoint) -> bool {
        self.recorder.as_ref().is_some_and(|r| r.wants(at))
    }

    /// Shows rows to hooks, then to the recorder.
    pub(super) fn visit(&mut self, at: HookPoint, rows: &mut Rows) {
        for lane in 0..self.lanes.len() {
            let range = rows.layout.range(lane);
            if range.is_empty() || !self.hooks.wants(at, lane) {
                continue;
            }
            let heads = Positions::clone(&self.heads);
            let layout = Arc::clone(&rows.layout);
            let data = Arc::make_mut(&mut rows.data);
            let width = data.ncols();
            let shape = if at.axes() == Axes::Head {
                vec![range.len(), heads.len(), width / heads.len()]
            } else {
                vec![range.len(), width]
            };
            let view = part_mut(data.view_mut(), 0, range)
                .into_shape_with_order(shape)
                .expect("rows are contiguous");
            self.show(at, lane, layout.positions(lane), &heads, view);
        }
        if let Some(recorder) = self.recorder.as_mut().filter(|r| r.wants(at)) {
            recorder.record(at, rows, self.lanes, self.model.config());
        }
    }

    /// Shows some positions and heads of one lane to the hooks.
    pub(super) fn show(
        &mut self,
        at: HookPoint,
        lane: usize,
        positions: &[usize],
        heads: &[usize],
        values: ArrayViewMutD<'_, f32>,
    ) {
        let of = Sequence {
            index: lane,
            length: self.lanes[lane].tokens.len(),
        };
        let visit = Visit::new(self.model.config(), at, of, positions, heads);
        match &mut self.recorder {
            Some(recorder) => {
                recorder.watch(lane, values, |values| self.hooks.visit(&visit, values));
            }
            None => self.hooks.visit(&visit, values),
        }
    }

    /// `x · weight + bias`, row by row.
    pub(super) fn linear(&mut self, x: Rows, linear: &Linear) -> Rows {
        let data = self.product(x.view(), linear.weight.view(), Some(linear.bias.view()));
        Rows::new(&x.layout, data)
    }

    /// A counted matrix product.
    pub(super) fn product(
        &mut self,
        x: ArrayView2<'_, f32>,
        w: ArrayView2<'_, f32>,
        bias: Option<ArrayView1<'_, f32>>,
    ) -> Array2<f32> {
        self.macs += (x.nrows() * w.nrows() * w.ncols()) as u64;
        ops::linear(x, w, bias)
    }

    /// What the LayerNorm of a half makes of rows of the stream; the rows themselves in a model
    /// without.
    pub(super) fn norm(&mut self, ln: &LayerNorm, x: Rows, points: [HookPoint; 2]) -> Rows {
        if self.model.config().has(Element::Norm) {
            self.layer_norm(ln, x, points)
        } else {
            x
        }
    }

    /// LayerNorm with its two hook points, of its scale and before its weight and bias.
    pub(super) fn layer_norm(&mut self, ln: &LayerNorm, x: Rows, points: [HookPoint; 2]) -> Rows {
        let eps = self.model.config().layer_norm_eps;
        let wanted = points.iter().any(|at| self.wanted_by_any(*at));
        if let Some([weight, bias]) = ln.affine().filter(|_| !wanted) {
            let data = ops::layer_norm_affine(x.view(), weight, bias, eps);
            return Rows::new(&x.layout, data);
        }
        let [scale_at, normalized_at] = points;
        let normalized = ops::layer_norm(x.view(), eps, |scale| {
            let shown = Rows::new(&x.layout, std::mem::take(scale)).shown(scale_at, self);
            *scale = Arc::unwrap_or_clone(shown.data).into_inner();
        });
        let shown = Rows::new(&x.layout, normalized.normalized).shown(normalized_at, self);
        match ln.affine() {
            Some([weight, bias]) => Rows::new(&x.layout, ops::affine(shown.view(), weight, bias)),
            None => shown,
        }
    }

    /// What queries and keys are made of: the stream after LayerNorm, and in some models the
    /// position embeddings of its rows.
    pub(super) fn placed(&self, normed: &Rows) -> Rows {
        match &self.positions {
            None => normed.clone(),
            Some(positions) => {
                let base = self.base(HookPoint::PosEmbed);
                let positions = positions.clone().completed(&normed.layout, base);
                positions.plus(normed, self.base(HookPoint::PosEmbed))
            }
        }
    }
    /// Adds the position embeddings of these rows, `(lane, position)`, where each layer reads them
    /// by itself.
    pub(super) fn place(
        &self,
        normed: &mut Array2<f32>,
        rows: impl Iterator<Item = (usize, usize)>,
    ) {
        let Some(positions) = &self.positions else {
            return;
        };
        for (mut to, (lane, position)) in normed.rows_mut().into_iter().zip(rows) {
            match positions.layout.find(lane, position) {
                Some(row) => to += &positions.data.row(row),
                None => to += &self.base(HookPoint::PosEmbed)(lane).row(position),
            }
        }
    }
}
