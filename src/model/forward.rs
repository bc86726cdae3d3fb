//! The forward pass on a page. Everything that runs the model runs this: plain, hooked and cached
//! runs, generation and sweeps, as lanes whose rows lie one below another.
//!
//! The comments say what each line's hook points show. [`Pass::at`] ends a stage: it completes
//! the rows with those that the stage takes from the base, passes them to the hooks, which may
//! change them, and to the recorder. [`Pass::read`] only completes, [`Pass::show`] only passes on,
//! and [`Pass::add`] ends a stage that is a sum.

use super::hooks::Hooks;
use super::lane::Columns;
use super::pass::{LaneLogits, Pass, PassOutput};
use super::rows::Rows;
use super::split::SplitInputs;
use super::stage::Stage;
use crate::component::Qkv;
use crate::hook::{HookPoint, Site};
use crate::parameters::Block;

impl<H: Hooks> Pass<'_, '_, H> {
    /// Runs all blocks before `stop`, and the unembedding if there is no stop.
    pub fn run(mut self, stop: Option<usize>) -> PassOutput {
        let mut resid = self.embed();
        for layer in 0..stop.unwrap_or(self.model.config().n_layers) {
            resid = self.block(layer, resid);
        }
        let logits = match stop {
            None => self.unembed(resid.clone()),
            Some(_) => LaneLogits::none(self.lanes.len()),
        };
        self.finish(logits, resid)
    }

    /// Token plus position embedding.
    fn embed(&mut self) -> Rows {
        let w = self.model.parameters();
        let tokens = self.lookup(&w.wte, |lane, position| lane.tokens[position] as usize);
        let tokens = self.show(HookPoint::Embed, tokens); // [row, d_model]
        let positions = self.lookup(&w.wpe, |_, position| position);
        let positions = self.show(HookPoint::PosEmbed, positions); // [row, d_model]
        tokens.plus(&positions)
    }

    /// The residual stream, plus what attention makes of it, plus what the MLP makes of that.
    fn block(&mut self, layer: usize, resid: Rows) -> Rows {
        let w = &self.model.parameters().h[layer];
        self.enter(layer);
        let pre = self.at(Site::ResidPre, resid); // [row, d_model]
        let out = self.attention(w, pre.clone());
        let mid = self.add(Site::ResidMid, out, pre); // [row, d_model]
        let out = self.mlp(w, mid.clone());
        self.add(Site::ResidPost, out, mid) // [row, d_model]
    }

    fn attention(&mut self, w: &Block, resid: Rows) -> Rows {
        let x = self.read(Stage::AttnIn, resid);
        let split = SplitInputs::show(self, &x); // attn_in, q_, k_, v_input: [row, head, d_model]
        let x = self.only(Stage::Ln1, x);
        let x = self.norm(x, &w.ln_1, self.here([Site::Ln1Scale, Site::Ln1Normalized]));
        let x_of_q = self.only(Stage::Ln1OfQueries, x.clone());
        let q = self.project(Qkv::Q, &x_of_q, &split); // [row, head, d_head]
        let k = self.project(Qkv::K, &x, &split); // [row, head, d_head]
        let v = self.project(Qkv::V, &x, &split); // [row, head, d_head]
        drop((x, x_of_q));
        let z = self.attend(q, &k, &v); // attn_scores, pattern: [head, dest, src]
        drop((k, v));
        let z = self.at(Site::Z, z); // [row, head, d_head]
        let out = self.write(z, &w.attn.c_proj); // result: [row, head, d_model]
        self.at(Site::AttnOut, out) // [row, d_model]
    }

    fn mlp(&mut self, w: &Block, resid: Rows) -> Rows {
        let x = self.at(Site::MlpIn, resid); // [row, d_model]
        let x = self.norm(x, &w.ln_2, self.here([Site::Ln2Scale, Site::Ln2Normalized]));
        let hidden = self.at(Site::MlpPre, self.linear(x, &w.mlp.c_fc)); // [row, d_mlp]
        let hidden = self.at(Site::MlpPost, self.activate(hidden)); // [row, d_mlp]
        self.at(Site::MlpOut, self.linear(hidden, &w.mlp.c_proj)) // [row, d_model]
    }

    /// The logits that are read; lanes that read the same columns share a product.
    fn unembed(&mut self, resid: Rows) -> LaneLogits {
        let w = self.model.parameters();
        let x = self.read_last(resid);
        let points = [HookPoint::LnFinalScale, HookPoint::LnFinalNormalized];
        let x = self.norm(x, &w.ln_f, points); // [row, 1] and [row, d_model]
        let mut groups = Vec::new();
        for (columns, lanes) in self.lanes_by_columns() {
            let of_lanes = x.clone().only(&x.layout.of_lanes(&lanes));
            let mut logits = self.logits(of_lanes, columns);
            if *columns == Columns::All {
                logits = self.show(HookPoint::Logits, logits); // [row, d_vocab]
            }
            groups.push((lanes, logits.data));
        }
        LaneLogits {
            layout: x.layout,
            groups,
        }
    }
}
