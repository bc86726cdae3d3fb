//! The backward pass from the logits to the embeddings, over the stacked rows of all prompts.

use std::sync::Arc;

use ndarray::{Array2, ArrayView2, ArrayViewD, Axis};

use super::Backward;
use super::tape::reaches;
use crate::cache::{ActivationCache, Selection};
use crate::config::Element;
use crate::hook::{HookPoint, Site};
use crate::model::Transformer;
use crate::model::lane::Lane;
use crate::model::recorder::Recorder;
use crate::model::rows::{Layout, Rows};
use crate::model::stage::{Half, Kind, Write};
use crate::ops;
use crate::parameters::{LayerNorm, Linear, Parameters};

/// A backward pass under way.
pub(super) struct Reverse<'r> {
    pub model: &'r Transformer,
    pub lanes: &'r [Lane<'r>],
    /// All rows of all prompts.
    pub rows: Arc<Layout>,
    /// The forward's activations, one cache per prompt.
    pub tape: &'r [ActivationCache],
    pub recorder: Recorder,
    want: &'r Backward<'r>,
    kind: Kind,
    /// The gradient at the position embeddings, where each layer reads them by itself.
    pub positions: Option<Array2<f32>>,
    parameters: Option<Parameters>,
}

/// The hook points of one LayerNorm: its input, scale and output.
pub(super) type NormPoints = [HookPoint; 3];

impl<'r> Reverse<'r> {
    pub fn new(
        model: &'r Transformer,
        lanes: &'r [Lane<'r>],
        tape: &'r [ActivationCache],
        want: &'r Backward<'r>,
    ) -> Self {
        let none = Selection::default();
        Reverse {
            model,
            lanes,
            rows: Layout::new(lanes.iter().map(|lane| &lane.fresh[..])),
            tape,
            recorder: Recorder::new(want.gradients.unwrap_or(&none), lanes, model.identity()),
            want,
            kind: Kind::of(model.config()),
            positions: None,
            parameters: want.parameters.then(|| model.parameters().zeros_like()),
        }
    }

    /// Goes back from the gradient at the logits, `[rows, d_vocab]`.
    pub fn run(mut self, logits: Array2<f32>) -> (Vec<ActivationCache>, Option<Parameters>) {
        self.walk(logits);
        let caches = match self.want.gradients {
            Some(_) => self.recorder.finish_gradients(self.lanes),
            None => Vec::new(),
        };
        (caches, self.parameters)
    }

    /// The points in reverse order of execution; `None` as soon as nothing upstream is wanted.
    fn walk(&mut self, logits: Array2<f32>) -> Option<()> {
        let mut resid = self.unembed(logits)?;
        for layer in (0..self.model.config().n_layers).rev() {
            for Write { half, sum, .. } in self.kind.writes().rev() {
                self.record(sum.site().at(layer), &resid);
                resid = match half {
                    Half::Attention => self.attention(layer, resid)?,
                    Half::Mlp => self.mlp(layer, resid)?,
                };
            }
            self.record(Site::ResidPre.at(layer), &resid);
        }
        let positions = match self.positions.take() {
            Some(own) => self.stack(own),
            None => resid.clone(),
        };
        self.record(HookPoint::PosEmbed, &positions);
        self.record(HookPoint::Embed, &resid);
        self.embed(&resid, &positions);
        Some(())
    }

    /// `Some` if the backward pass has to go on to this point.
    pub fn on_to(&self, point: HookPoint) -> Option<()> {
        reaches(self.want, point).then_some(())
    }

    /// The gradient at a point as it goes on upstream: none where the point counts as a constant.
    pub fn through(&self, at: HookPoint, gradient: &Rows) -> Rows {
        if self.want.constant.contains(&at) {
            self.stack(Array2::zeros(gradient.view().dim()))
        } else {
            gradient.clone()
        }
    }

    pub fn record(&mut self, at: HookPoint, gradient: &Rows) {
        if self.recorder.wants(at) {
            let config = self.model.config();
            self.recorder.record(at, gradient, self.lanes, config);
        }
    }

    /// The forward's activation, the rows of all prompts one below another.
    pub fn saved(&self, at: HookPoint) -> ArrayView2<'r, f32> {
        self.tape[0].stacked(at)
    }

    pub fn stack(&self, data: Array2<f32>) -> Rows {
        Rows::new(&self.rows, data)
    }

    /// From the logits to the last block's output.
    fn unembed(&mut self, logits: Array2<f32>) -> Option<Rows> {
        let logits = self.stack(logits);
        self.record(HookPoint::Logits, &logits);
        self.on_to(HookPoint::LnFinalNormalized)?;
        let model = self.model;
        let (w_u, ln) = (model.parameters().w_u(), &model.parameters().ln_f);
        let (data, some) = (&logits.data, rows_with_any(logits.view()));
        let gradient = if some.len() == data.nrows() {
            ops::matmul(data.view(), w_u.t())
        } else {
            // A metric reads few positions; the gradient at the others is 0.
            let mut all = Array2::zeros((data.nrows(), w_u.nrows()));
            let product = ops::matmul(data.select(Axis(0), &some).view(), w_u.t());
            for (row, values) in some.iter().zip(product.rows()) {
                all.row_mut(*row).assign(&values);
            }
            all
        };
        let input = Site::ResidPost.at(model.config().n_layers - 1);
        let points = [input, HookPoint::LnFinalScale, HookPoint::LnFinalNormalized];
        let x = self.wants_parameters().then(|| self.normed(points, ln));
        if let (Some(to), Some(x)) = (&mut self.parameters, x) {
            let table = to.lm_head.as_mut().unwrap_or(&mut to.wte);
            ops::matmul_into(data.t(), x.view(), None, table.view_mut());
            if let Some(bias) = &mut to.lm_head_bias {
                *bias = ops::sum_rows(data.view(), None);
            }
        }
        let gradient = self.norm(points, ln, gradient, |p| &mut p.ln_f);
        Some(self.stack(gradient))
    }

    /// From a block's output to the residual between attention and MLP.
    fn mlp(&mut self, layer: usize, post: Rows) -> Option<Rows> {
        let model = self.model;
        let block = &model.parameters().h[layer];
        let at = |site: Site| site.at(layer);
        self.record(at(Site::MlpOut), &post);
        self.on_to(at(Site::MlpPost))?;
        if self.parameters.is_some() {
            let hidden = self.saved(at(Site::MlpPost));
            self.linear_weights(hidden, post.view(), |p| &mut p.h[layer].mlp.c_proj);
        }
        let out = self.through(at(Site::MlpOut), &post);
        let mut hidden = self.stack(ops::matmul(out.view(), block.mlp.c_proj.weight.t()));
        drop(out);
        self.record(at(Site::MlpPost), &hidden);
        if model.config().has(Element::InnerNorm) {
            let points = [Site::MlpMid, Site::MlpNormScale, Site::MlpNormNormalized].map(at);
            let (ln, gradient) = (
                &block.mlp.ln,
                Arc::unwrap_or_clone(hidden.data).into_inner(),
            );
            let back = self.layer_norm(points, ln, gradient, |p| &mut p.h[layer].mlp.ln);
            hidden = self.stack(back);
            self.record(at(Site::MlpMid), &hidden);
        }
        ops::activate_backward(
            model.config().activation,
            self.saved(at(Site::MlpPre)),
            Arc::make_mut(&mut hidden.data).view_mut(),
        );
        self.record(at(Site::MlpPre), &hidden);
        let points = [Site::MlpIn, Site::Ln2Scale, Site::Ln2Normalized].map(at);
        if self.parameters.is_some() {
            let x = self.normed(points, &block.ln_2);
            self.linear_weights(x.view(), hidden.view(), |p| &mut p.h[layer].mlp.c_fc);
        }
        let gradient = ops::matmul(hidden.view(), block.mlp.c_fc.weight.t());
        drop(hidden);
        let gradient = self.norm(points, &block.ln_2, gradient, |p| &mut p.h[layer].ln_2);
        let input = self.stack(gradient);
        self.record(at(Site::MlpIn), &input);
        Some(post.plus(&input, no_base))
    }

    /// Through the LayerNorm of a half, from the gradient at its output to that at its input: the
    /// same in a model without.
    pub fn norm(
        &mut self,
        points: NormPoints,
        ln: &LayerNorm,
        gradient: Array2<f32>,
        pick: impl Fn(&mut Parameters) -> &mut LayerNorm,
    ) -> Array2<f32> {
        if self.model.config().has(Element::Norm) {
            self.layer_norm(points, ln, gradient, pick)
        } else {
            gradient
        }
    }

    /// Through a LayerNorm, from the gradient at its output to that at its input.
    fn layer_norm(
        &mut self,
        points: NormPoints,
        ln: &LayerNorm,
        mut gradient: Array2<f32>,
        pick: impl Fn(&mut Parameters) -> &mut LayerNorm,
    ) -> Array2<f32> {
        let [input, scale, normalized] = points;
        let config = self.model.config();
        let affine = ln.affine();
        if let Some(parameters) = self.parameters.as_mut().filter(|_| affine.is_some()) {
            let to = pick(parameters);
            let saved = self.tape[0].stacked(normalized);
            to.weight = ops::sum_rows(gradient.view(), Some(saved));
            to.bias = ops::sum_rows(gradient.view(), None);
        }
        if let Some([weight, _]) = affine {
            ops::affine_backward(gradient.view_mut(), weight);
        }
        let gradient = self.stack(gradient);
        self.record(normalized, &gradient);
        let (x, divisor) = (self.saved(input), self.saved(scale));
        if self.recorder.wants(scale) {
            let at_scale = ops::layer_norm_scale_backward(x, divisor, gradient.view());
            let at_scale = self.stack(at_scale);
            self.record(scale, &at_scale);
        }
        ops::layer_norm_backward(x, divisor, config.layer_norm_eps, gradient.view())
    }

    /// What a LayerNorm returned in the forward, with weight and bias; its input in a model without.
    pub fn normed(&self, points: NormPoints, ln: &LayerNorm) -> Array2<f32> {
        let [input, _, normalized] = points;
        if !self.model.config().has(Element::Norm) {
            return self.saved(input).to_owned();
        }
        match ln.affine() {
            Some([weight, bias]) => ops::affine(self.saved(normalized), weight, bias),
            None => self.saved(normalized).to_owned(),
        }
    }

    /// The gradient of a linear layer's weight and bias, from its input and the gradient at its
    /// output.
    pub fn linear_weights(
        &mut self,
        x: ArrayView2<'_, f32>,
        gradient: ArrayView2<'_, f32>,
        pick: impl Fn(&mut Parameters) -> &mut Linear,
    ) {
        if let Some(parameters) = &mut self.parameters {
            let to = pick(parameters);
            ops::matmul_into(x.t(), gradient, None, to.weight.view_mut());
            to.bias = ops::sum_rows(gradient, None);
        }
    }

    /// Adds to the gradient of the parameters, if it is wanted.
    pub fn add_to_weights(&mut self, add: impl FnOnce(&mut Parameters)) {
        if let Some(parameters) = &mut self.parameters {
            add(parameters);
        }
    }

    pub fn wants_parameters(&self) -> bool {
        self.parameters.is_some()
    }

    /// Adds to the rows of the embedding tables that were looked up.
    fn embed(&mut self, resid: &Rows, positions: &Rows) {
        let placed = self.model.config().has(Element::Positions);
        let Some(to) = &mut self.parameters else {
            return;
        };
        for (i, lane) in self.lanes.iter().enumerate() {
            for (token, row) in lane.tokens.iter().zip(resid.lane(i).rows()) {
                let mut token = to.wte.row_mut(*token as usize);
                token += &row;
            }
            let positions = positions.lane(i);
            let rows = positions.rows().into_iter().enumerate();
            for (pos, row) in rows.filter(|_| placed) {
                let mut position = to.wpe.row_mut(pos);
                position += &row;
            }
        }
    }
}

/// For [`Rows::plus`] of stacks that have all rows.
pub(super) fn no_base<'b>(lane: usize) -> ArrayView2<'b, f32> {
    unreachable!("a gradient has every row of prompt {lane}")
}

/// The rows that are not all zero.
fn rows_with_any(x: ArrayView2<'_, f32>) -> Vec<usize> {
    let rows = x.rows().into_iter().enumerate();
    rows.filter(|(_, row)| row.iter().any(|v| *v != 0.0))
        .map(|(i, _)| i)
        .collect()
}

/// An activation of one prompt, for its shape.
pub(super) fn of_prompt<'c>(cache: &'c ActivationCache, at: HookPoint) -> ArrayViewD<'c, f32> {
    cache
        .get(at)
        .expect("the tape names all that the backward pass reads")
}
