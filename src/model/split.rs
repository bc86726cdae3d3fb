//! Inputs of attention split by head, for queries, keys and values (`hook_attn_in`, `hook_q_input`, …), made
//! only where something wants them.

use std::sync::Arc;

use ndarray::{Array2, Array3, Axis};

use super::hooks::{Footprint, Hooks};
use super::pass::Pass;
use super::rows::Rows;
use crate::component::Qkv;
use crate::hook::Site;
use crate::ops::{self, part, part_mut};

/// One head's input that hooks may change: rows to be normed and projected.
struct Noted {
    head: usize,
    lane: usize,
    position: usize,
    input: Vec<f32>,
    /// Whether any bit has changed: what has not stays as it is, edits at `ln1` included.
    changed: bool,
}

/// What hooks made of the split inputs of a layer.
pub(super) struct SplitInputs {
    layer: usize,
    /// For queries, keys and values.
    noted: [Vec<Noted>; 3],
}

impl SplitInputs {
    /// Shows the split inputs where they are wanted, and notes the parts that hooks may change.
    pub fn show<H: Hooks>(pass: &mut Pass<'_, '_, H>, x: &Rows) -> Self {
        let mut split = SplitInputs {
            layer: pass.layer,
            noted: [Vec::new(), Vec::new(), Vec::new()],
        };
        let sites = || {
            Qkv::ALL
                .map(Qkv::input_site)
                .into_iter()
                .chain([Site::AttnIn])
        };
        for lane in 0..pass.lanes.len() {
            let mut points = sites().map(|site| site.at(pass.layer));
            let any = points.any(|at| pass.recorded(at) || pass.wanted(at, lane));
            if any && !x.layout.range(lane).is_empty() {
                split.show_lane(pass, lane, x);
            }
        }
        split
    }

    fn show_lane<H: Hooks>(&mut self, pass: &mut Pass<'_, '_, H>, lane: usize, x: &Rows) {
        let n_heads = pass.model.config().n_heads;
        let rows = x.lane(lane);
        let positions = x.layout.positions(lane);
        let mut shared = Array3::zeros((rows.nrows(), n_heads, rows.ncols()));
        shared.assign(&rows.insert_axis(Axis(1)));
        let of_all = show_site(pass, Site::AttnIn, lane, positions, &mut shared);
        for which in Qkv::ALL {
            let mut input = shared.clone();
            let own = show_site(pass, which.input_site(), lane, positions, &mut input);
            let footprints: Vec<&Footprint> = of_all.iter().chain(&own).collect();
            self.note(which, lane, &footprints, x, &input);
        }
    }

    fn note(
        &mut self,
        which: Qkv,
        lane: usize,
        footprints: &[&Footprint],
        x: &Rows,
        input: &Array3<f32>,
    ) {
        let rows = x.lane(lane);
        for (i, &position) in x.layout.positions(lane).iter().enumerate() {
            for head in 0..input.len_of(Axis(1)) {
                if !footprints.iter().any(|f| f.covers(position, head)) {
                    continue;
                }
                let input = input.index_axis(Axis(0), i).row(head).to_vec();
                let before = rows.row(i);
                let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
                self.noted[which as usize].push(Noted {
                    head,
                    lane,
                    position,
                    changed: before.iter().zip(&input).any(differs),
                    input,
                });
            }
        }
    }

    /// Recomputes the parts of queries, keys or values whose inputs were noted.
    pub fn apply<H: Hooks>(&self, pass: &Pass<'_, '_, H>, which: Qkv, out: &mut Rows) {
        let noted = &self.noted[which as usize];
        if noted.is_empty() {
            return;
        }
        let model = pass.model;
        let (config, block) = (model.config(), &model.parameters().h[self.layer]);
        let (d, d_head) = (config.d_model, config.d_head());
        for head in 0..config.n_heads {
            let of_head = noted.iter().filter(|c| c.head == head);
            let mine: Vec<(usize, &Noted)> = of_head
                .filter_map(|c| Some((out.layout.find(c.lane, c.position)?, c)))
                .collect();
            if mine.is_empty() {
                continue;
            }
            let mut x = Array2::zeros((mine.len(), d));
            for (mut row, (_, noted)) in x.rows_mut().into_iter().zip(&mine) {
                row.iter_mut()
                    .zip(&noted.input)
                    .for_each(|(to, v)| *to = *v);
            }
            let (weight, bias) = (block.ln_1.weight.view(), block.ln_1.bias.view());
            let normed = ops::layer_norm_affine(x.view(), weight, bias, config.layer_norm_eps);
            let first = which as usize * d + head * d_head;
            let columns = first..first + d_head;
            let weight = part(block.attn.c_attn.weight.view(), 1, columns.clone());
            let bias = part(block.attn.c_attn.bias.view(), 0, columns);
            let product = pass.product(normed.view(), weight, Some(bias));
            let data = Arc::make_mut(&mut out.data);
            let products = mine.iter().zip(product.rows());
            for ((row, _), values) in products.filter(|((_, noted), _)| noted.changed) {
                let mut to = data.row_mut(*row);
                part_mut(to.view_mut(), 0, head * d_head..(head + 1) * d_head).assign(&values);
            }
        }
    }
}

/// Shows one split input; returns the part that a hook may have changed.
fn show_site<H: Hooks>(
    pass: &mut Pass<'_, '_, H>,
    site: Site,
    lane: usize,
    positions: &[usize],
    values: &mut Array3<f32>,
) -> Option<Footprint> {
    let at = site.at(pass.layer);
    pass.show_lane(at, lane, positions, &pass.all_heads(), values);
    let wanted = pass.wanted(at, lane);
    wanted.then(|| pass.hooks.footprint(at, lane))
}
