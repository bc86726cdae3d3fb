//! The one forward pass: embeddings, blocks and unembedding over the stacked rows of all lanes.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2, Axis};

use super::Transformer;
use super::hooks::{Hooks, Visit};
use super::lane::{Columns, Lane, LayerRows, Rows};
use super::stack::{RowMap, Stack};
use crate::cache::Recorder;
use crate::hook::{Axes, HookPoint, Site};
use crate::ops::{self, Matrix, part, part_mut};
use crate::parameters::{LayerNorm, Linear};

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
    /// All heads.
    heads: Rows,
    /// The rows of each lane that differ from its base at the present point.
    dirty: Vec<Rows>,
}

/// What a pass ends with.
pub(crate) struct PassOutput {
    /// Logits of the rows asked for, or nothing after an early stop.
    pub logits: LaneLogits,
    /// The residual stream at the end.
    pub residual: Stack,
    pub macs: u64,
    pub mlp_rows: u64,
}

/// Logits of all lanes: the rows of each lane that differ from its base.
pub(crate) struct LaneLogits {
    pub rows: Arc<RowMap>,
    /// Lanes that read the whole vocabulary share one matrix; each group of lanes that reads the
    /// same few tokens has its own.
    pub groups: Vec<(Vec<usize>, Arc<Matrix>)>,
}

impl LaneLogits {
    /// One lane's rows.
    pub fn lane(&self, lane: usize) -> Array2<f32> {
        for (lanes, data) in &self.groups {
            let Some(index) = lanes.binary_search(&lane).ok() else {
                continue;
            };
            let before: usize = lanes[..index]
                .iter()
                .map(|l| self.rows.range(*l).len())
                .sum();
            let rows = before..before + self.rows.range(lane).len();
            return part(data.view(), 0, rows).to_owned();
        }
        Array2::zeros((0, 0))
    }
}

/// The stacked rows of every stage of a layer.
pub(super) struct LayerMaps {
    pub pre: Arc<RowMap>,
    pub kv: Arc<RowMap>,
    pub q: Arc<RowMap>,
    pub q_live: Arc<RowMap>,
    pub k_live: Arc<RowMap>,
    pub v_live: Arc<RowMap>,
    pub dest: Arc<RowMap>,
    pub heads: Vec<Rows>,
    pub z: Arc<RowMap>,
    pub attn_out: Arc<RowMap>,
    pub mid: Arc<RowMap>,
    pub mlp_in: Arc<RowMap>,
    pub mlp_pre: Arc<RowMap>,
    pub mlp_post: Arc<RowMap>,
    pub mlp_out: Arc<RowMap>,
    pub post: Arc<RowMap>,
}

impl LayerMaps {
    fn new(lanes: &[LayerRows]) -> Self {
        let map = |f: fn(&LayerRows) -> &[usize]| RowMap::new(lanes.iter().map(f));
        LayerMaps {
            pre: map(|r| &r.pre),
            kv: map(|r| &r.kv),
            q: map(|r| &r.q),
            q_live: map(|r| &r.q_live),
            k_live: map(|r| &r.k_live),
            v_live: map(|r| &r.v_live),
            dest: map(|r| &r.dest),
            heads: lanes.iter().map(|r| Rows::clone(&r.heads)).collect(),
            z: map(|r| &r.z),
            attn_out: map(|r| &r.attn_out),
            mid: map(|r| &r.mid),
            mlp_in: map(|r| &r.mlp_in),
            mlp_pre: map(|r| &r.mlp_pre),
            mlp_post: map(|r| &r.mlp_post),
            mlp_out: map(|r| &r.mlp_out),
            post: map(|r| &r.post),
        }
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
            macs: 0,
            mlp_rows: 0,
            heads: (0..model.config().n_heads).collect(),
            dirty: lanes.iter().map(Lane::embed_rows).collect(),
        }
    }

    /// Runs all blocks before `stop`, and the unembedding if there is no stop.
    pub fn run(mut self, stop: Option<usize>) -> PassOutput {
        let n_layers = self.model.config().n_layers;
        let mut resid = self.embed();
        for layer in 0..stop.unwrap_or(n_layers) {
            resid = self.block(layer, resid);
        }
        let logits = match stop {
            None => self.unembed(&resid),
            Some(_) => LaneLogits {
                rows: RowMap::new(self.lanes.iter().map(|_| &[][..])),
                groups: Vec::new(),
            },
        };
        PassOutput {
            logits,
            residual: resid,
            macs: self.macs,
            mlp_rows: self.mlp_rows,
        }
    }

    /// The base's rows at a point, for lanes that have a base.
    pub(super) fn base(
        &self,
        at: HookPoint,
    ) -> impl Fn(usize) -> ArrayView2<'l, f32> + use<'p, 'l, H> {
        let lanes = self.lanes;
        move |lane: usize| match lanes[lane].base {
            Some(base) => base.planned(at),
            None => unreachable!("`{at}` of a lane without base"),
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

    /// Shows a stack to hooks, then to the recorder.
    pub(super) fn visit(&mut self, at: HookPoint, stack: &mut Stack) {
        for (sequence, lane) in self.lanes.iter().enumerate() {
            let range = stack.rows.range(sequence);
            if range.is_empty() || !self.hooks.wants(at, sequence) {
                continue;
            }
            let whole = at.axes().shape(self.model.config(), lane.tokens.len());
            let visit = Visit {
                point: at,
                shape: &whole,
                sequence,
                length: lane.tokens.len(),
                positions: stack.rows.positions(sequence),
                heads: if at.axes().has_heads() {
                    &self.heads
                } else {
                    &[]
                },
            };
            let data = Arc::make_mut(&mut stack.data);
            let width = data.ncols();
            let rows = part_mut(data.view_mut(), 0, range.clone());
            let shape = match at.axes() {
                Axes::Head => vec![range.len(), self.heads.len(), width / self.heads.len()],
                _ => vec![range.len(), width],
            };
            let view = rows
                .into_shape_with_order(shape)
                .unwrap_or_else(|_| unreachable!("rows of a stack are contiguous"));
            self.hooks.visit(&visit, view);
        }
        self.record(at, stack);
    }

    fn record(&mut self, at: HookPoint, stack: &Stack) {
        if let Some(recorder) = self.recorder.as_mut().filter(|r| r.wants(at)) {
            recorder.record(at, stack, self.lanes, self.model.config());
        }
    }

    /// `x · weight + bias` on a stack.
    pub(super) fn linear(&mut self, x: &Stack, linear: &Linear) -> Stack {
        let data = self.product(x.view(), linear.weight.view(), Some(linear.bias.view()));
        Stack::new(&x.rows, data)
    }

    /// A counted matrix product.
    pub(super) fn product(
        &mut self,
        x: ArrayView2<'_, f32>,
        w: ArrayView2<'_, f32>,
        bias: Option<ndarray::ArrayView1<'_, f32>>,
    ) -> Array2<f32> {
        self.macs += (x.nrows() * w.nrows() * w.ncols()) as u64;
        ops::linear(x, w, bias)
    }

    /// LayerNorm with its two hook points.
    pub(super) fn norm(
        &mut self,
        x: &Stack,
        ln: &LayerNorm,
        scale_at: HookPoint,
        normalized_at: HookPoint,
    ) -> Stack {
        let eps = self.model.config().layer_norm_eps;
        let (weight, bias) = (ln.weight.view(), ln.bias.view());
        if !self.wanted_by_any(scale_at) && !self.wanted_by_any(normalized_at) {
            return Stack::new(&x.rows, ops::layer_norm_affine(x.view(), weight, bias, eps));
        }
        let normalized = ops::layer_norm(x.view(), eps, |scale| {
            let mut stack = Stack::new(&x.rows, std::mem::take(scale));
            self.visit(scale_at, &mut stack);
            *scale = Arc::unwrap_or_clone(stack.data).into_inner();
        });
        let mut stack = Stack::new(&x.rows, normalized.normalized);
        self.visit(normalized_at, &mut stack);
        Stack::new(&x.rows, ops::affine(stack.view(), weight, bias))
    }

    /// Token plus position embeddings of the rows that differ from the base.
    fn embed(&mut self) -> Stack {
        let rows = RowMap::new(self.dirty.iter().map(|r| &r[..]));
        let (model, lanes) = (self.model, self.lanes);
        let lookup = |table: &Array2<f32>, index: &dyn Fn(usize, usize) -> usize| {
            let mut data = ops::matrix((rows.len(), table.ncols()));
            for lane in 0..lanes.len() {
                for (row, position) in rows.range(lane).zip(rows.positions(lane)) {
                    data.row_mut(row).assign(&table.row(index(lane, *position)));
                }
            }
            Stack::new(&rows, data)
        };
        let parameters = model.parameters();
        let mut tokens = lookup(&parameters.wte, &|lane, pos| {
            lanes[lane].tokens[pos] as usize
        });
        self.visit(HookPoint::Embed, &mut tokens);
        let mut positions = lookup(&parameters.wpe, &|_, pos| pos);
        self.visit(HookPoint::PosEmbed, &mut positions);
        let mut sum = Arc::unwrap_or_clone(tokens.data);
        *sum += &**positions.data;
        Stack::new(&rows, sum)
    }

    fn block(&mut self, layer: usize, resid: Stack) -> Stack {
        let config = self.model.config();
        let last = layer + 1 == config.n_layers;
        let rows: Vec<LayerRows> = self
            .lanes
            .iter()
            .enumerate()
            .map(|(i, lane)| lane.layer_rows(layer, last, &self.heads, &self.dirty[i]))
            .collect();
        self.dirty = rows.iter().map(|r| Rows::clone(&r.post)).collect();
        let maps = LayerMaps::new(&rows);
        let mut pre = resid.with_rows(&maps.pre, self.base(Site::ResidPre.at(layer)));
        drop(resid);
        self.visit(Site::ResidPre.at(layer), &mut pre);
        let mid = self.attention(layer, &maps, pre);
        self.mlp(layer, &maps, mid)
    }

    fn mlp(&mut self, layer: usize, maps: &LayerMaps, mid: Stack) -> Stack {
        let model = self.model;
        let block = &model.parameters().h[layer];
        let at = |site: Site| site.at(layer);
        let mut input = mid.with_rows(&maps.mlp_in, self.base(at(Site::ResidMid)));
        self.visit(at(Site::MlpIn), &mut input);
        self.mlp_rows += input.rows.len() as u64;
        let normed = self.norm(
            &input,
            &block.ln_2,
            at(Site::Ln2Scale),
            at(Site::Ln2Normalized),
        );
        drop(input);

        let hidden = self.linear(&normed, &block.mlp.c_fc);
        drop(normed);
        let mut hidden = hidden.into_rows(&maps.mlp_pre, self.base(at(Site::MlpPre)));
        self.visit(at(Site::MlpPre), &mut hidden);
        let activation = model.config().activation;
        let data = ops::map_rows(hidden.data, |_, row| ops::activate_row(activation, row));
        let hidden = Stack::new(&hidden.rows, data);
        let mut hidden = hidden.into_rows(&maps.mlp_post, self.base(at(Site::MlpPost)));
        self.visit(at(Site::MlpPost), &mut hidden);

        let out = self.linear(&hidden, &block.mlp.c_proj);
        drop(hidden);
        let mut out = out.into_rows(&maps.mlp_out, self.base(at(Site::MlpOut)));
        self.visit(at(Site::MlpOut), &mut out);
        let post = out.plus(&mid, self.base(at(Site::ResidMid)));
        let mut post = post.into_rows(&maps.post, self.base(at(Site::ResidPost)));
        self.visit(at(Site::ResidPost), &mut post);
        post
    }

    fn unembed(&mut self, resid: &Stack) -> LaneLogits {
        let model = self.model;
        let (parameters, config) = (model.parameters(), model.config());
        let last = self.lanes.iter().zip(&self.dirty);
        let read: Vec<Rows> = last.map(|(lane, dirty)| lane.final_rows(dirty)).collect();
        let rows = RowMap::new(read.iter().map(|r| &r[..]));
        let last = Site::ResidPost.at(config.n_layers - 1);
        let resid = resid.with_rows(&rows, self.base(last));
        let (scale, normalized) = (HookPoint::LnFinalScale, HookPoint::LnFinalNormalized);
        let normed = self.norm(&resid, &parameters.ln_f, scale, normalized);

        let mut groups = Vec::new();
        for (columns, lanes) in group_by_columns(self.lanes) {
            let some: Vec<usize> = lanes.iter().flat_map(|lane| rows.range(*lane)).collect();
            let logits = if some.len() == normed.rows.len() {
                self.logits(normed.view(), columns)
            } else {
                self.logits(normed.data.select(Axis(0), &some).view(), columns)
            };
            let mut stack = Stack::new(&rows.only(&lanes), logits);
            if *columns == Columns::All {
                self.visit(HookPoint::Logits, &mut stack);
            }
            groups.push((lanes, stack.data));
        }
        LaneLogits { rows, groups }
    }

    fn logits(&mut self, x: ArrayView2<'_, f32>, columns: &Columns) -> Array2<f32> {
        let parameters = self.model.parameters();
        let w_u = parameters.w_u();
        let bias = parameters.lm_head_bias.as_ref();
        match columns {
            Columns::All => self.product(x, w_u, bias.map(|b| b.view())),
            Columns::Tokens(tokens) => {
                let tokens: Vec<usize> = tokens.iter().map(|t| *t as usize).collect();
                // Rows of the tied matrix are contiguous; columns of its transpose are not.
                let some = w_u.t().select(Axis(0), &tokens);
                let bias = bias.map(|b| b.select(Axis(0), &tokens));
                self.product(x, some.t(), bias.as_ref().map(|b| b.view()))
            }
        }
    }
}

/// Lanes that read the same columns, in order of their first lane.
fn group_by_columns<'c>(lanes: &'c [Lane<'_>]) -> Vec<(&'c Columns, Vec<usize>)> {
    let mut groups: Vec<(&Columns, Vec<usize>)> = Vec::new();
    for (i, lane) in lanes.iter().enumerate() {
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
