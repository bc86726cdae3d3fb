//! The forward pass of a GPT-2 on one page, over the rows of all lanes.
//!
//! It reads like nanoGPT's with TransformerLens's hooks: `x.at(Z, self)` is `x` as the hook point
//! `hook_z` has it, completed from the lanes' bases, shown to hooks and recorded. Which rows each
//! stage has follows from the table in `stage.rs`; a plain run has all of them.

use ndarray::{Array2, ArrayView2, Axis};

use super::hooks::Hooks;
use super::lane::{Columns, Lane, Positions};
use super::pass::{LaneLogits, Pass, PassOutput};
use super::rows::{Layout, Rows};
use super::split::SplitInputs;
use super::stage::{Half, Stage, Write};
use crate::component::Qkv;
use crate::config::Element;
use crate::hook::HookPoint::{self, Embed, LnFinalNormalized, LnFinalScale, PosEmbed};
use crate::hook::Site::{
    K, Ln1Normalized, Ln1Scale, Ln2Normalized, Ln2Scale, MlpIn, MlpMid, MlpNormNormalized,
    MlpNormScale, MlpPost, MlpPre, Q, ResidPost, ResidPre, V, Z,
};
use crate::ops;
use crate::parameters::Block;

impl<'p, H: Hooks> Pass<'p, '_, H> {
    /// Runs all blocks before `stop`, and the unembedding if there is no stop.
    pub fn run(mut self, stop: Option<usize>) -> PassOutput {
        let mut resid = self.embed();
        for layer in 0..stop.unwrap_or(self.model.config().n_layers) {
            resid = self.block(layer, resid);
        }
        let logits = if stop.is_none() {
            self.unembed(&resid)
        } else {
            LaneLogits::none(self.lanes.len())
        };
        self.finish(logits, resid)
    }

    /// Token plus position embeddings.
    fn embed(&mut self) -> Rows {
        let (p, lanes) = (self.model.parameters(), self.lanes);
        let tokens = self.lookup(&p.wte, |lane, pos| lanes[lane].tokens[pos] as usize);
        let tokens = tokens.shown(Embed, self);
        if !self.model.config().has(Element::Positions) {
            return tokens;
        }
        let positions = self.lookup(&p.wpe, |_, pos| pos).shown(PosEmbed, self);
        if self.kind.reads_positions() {
            self.positions = Some(positions);
            return tokens;
        }
        let base = self.base(PosEmbed);
        tokens.plus(&positions, base)
    }

    /// From the residual stream before a layer to the one after it.
    fn block(&mut self, layer: usize, resid: Rows) -> Rows {
        let w = self.enter(layer);
        let mut stream = resid.at(ResidPre, self);
        for Write { half, out, sum } in self.kind.writes() {
            let written = match half {
                Half::Attention => self.attention(w, stream.clone()),
                Half::Mlp => self.mlp(w, stream.clone()),
            };
            let written = written.at(out.site(), self);
            stream = self.add(sum, written, stream).at(sum.site(), self);
        }
        stream
    }

    /// What attention adds to the stream. Where hooks want them, `attend` shows scores and pattern,
    /// `write_heads` each head's result.
    fn attention(&mut self, w: &Block, pre: Rows) -> Rows {
        let [q, k, v] = self.queries_keys_values(w, pre);
        let z = self.attend(q, k, v).at(Z, self);
        self.write_heads(&w.attn.c_proj, z)
    }

    /// Queries, keys and values of all heads. `SplitInputs` are what hooks made of `attn_in`,
    /// `q_input`, `k_input` and `v_input`.
    fn queries_keys_values(&mut self, w: &Block, pre: Rows) -> [Rows; 3] {
        let ln_1 = [Ln1Scale, Ln1Normalized].map(|site| site.at(self.here.layer));
        let input = self.complete(Stage::AttnIn, pre);
        let split = SplitInputs::collect(self, &input);
        let input = self.complete(Stage::Ln1, input);
        let normed = self.norm(&w.ln_1, input, ln_1);
        let [q, k, v] = self.project(&w.attn, normed);
        let q = self.read(Qkv::Q, q, &split).at(Q, self);
        let k = self.read(Qkv::K, k, &split).at(K, self);
        let v = self.read(Qkv::V, v, &split).at(V, self);
        [q, k, v]
    }

    /// What the MLP adds to the stream.
    fn mlp(&mut self, w: &Block, mid: Rows) -> Rows {
        let ln_2 = [Ln2Scale, Ln2Normalized].map(|site| site.at(self.here.layer));
        let input = mid.at(MlpIn, self);
        let normed = self.norm(&w.ln_2, input, ln_2);
        let hidden = self.linear(normed, &w.mlp.c_fc).at(MlpPre, self);
        let hidden = self.activate(hidden);
        let hidden = self.norm_hidden(w, hidden).at(MlpPost, self);
        self.linear(hidden, &w.mlp.c_proj)
    }

    /// The LayerNorm inside the MLP, where there is one.
    fn norm_hidden(&mut self, w: &Block, hidden: Rows) -> Rows {
        if !self.kind.has(Stage::MlpMid) {
            return hidden;
        }
        let points = [MlpNormScale, MlpNormNormalized].map(|site| site.at(self.here.layer));
        let mid = hidden.at(MlpMid, self);
        self.layer_norm(&w.mlp.ln, mid, points)
    }

    /// The final LayerNorm and the unembedding, of the rows that are read.
    fn unembed(&mut self, resid: &Rows) -> LaneLogits {
        let ln_f = &self.model.parameters().ln_f;
        let last = ResidPost.at(self.model.config().n_layers - 1);
        let lanes = self.lanes.iter().zip(&self.dirty);
        let read: Vec<Positions> = lanes.map(|(lane, dirty)| lane.final_rows(dirty)).collect();
        let rows = Layout::new(read.iter().map(|r| &r[..]));
        let resid = resid.clone().completed(&rows, self.base(last));
        let normed = self.norm(ln_f, resid, [LnFinalScale, LnFinalNormalized]);

        let mut groups = Vec::new();
        for (columns, lanes) in group_by_columns(self.lanes) {
            let some: Vec<usize> = lanes.iter().flat_map(|lane| rows.range(*lane)).collect();
            let logits = if some.len() == rows.len() {
                self.logits(normed.view(), columns)
            } else {
                self.logits(normed.data.select(Axis(0), &some).view(), columns)
            };
            let mut logits = Rows::new(&rows.only(&lanes), logits);
            if *columns == Columns::All {
                logits = logits.shown(HookPoint::Logits, self);
            }
            groups.push((lanes, logits.data));
        }
        LaneLogits { rows, groups }
    }

    /// Rows of an embedding table.
    fn lookup(&self, table: &Array2<f32>, index: impl Fn(usize, usize) -> usize) -> Rows {
        let layout = Layout::new(self.dirty.iter().map(|r| &r[..]));
        let mut data = ops::matrix((layout.len(), table.ncols()));
        for lane in 0..self.lanes.len() {
            for (row, position) in layout.range(lane).zip(layout.positions(lane)) {
                data.row_mut(row).assign(&table.row(index(lane, *position)));
            }
        }
        Rows::new(&layout, data)
    }

    fn activate(&self, hidden: Rows) -> Rows {
        let activation = self.model.config().activation;
        let data = ops::map_rows(hidden.data, |_, row| ops::activate_row(activation, row));
        Rows::new(&hidden.layout, data)
    }

    fn logits(&mut self, x: ArrayView2<'_, f32>, columns: &Columns) -> Array2<f32> {
        let tokens = match columns {
            Columns::All => None,
            Columns::Tokens(tokens) => Some(&tokens[..]),
        };
        let (w_u, bias) = self.model.parameters().unembedding(tokens);
        self.product(x, w_u.view(), bias.as_ref().map(|bias| bias.view()))
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
