//! Inputs of attention split by head and by reader (`hook_attn_in`, `hook_q_input`, …), made
//! only where something wants them.

use std::sync::Arc;

use ndarray::{Array2, Array3, Axis};

use super::hooks::{Footprint, Hooks};
use super::pass::Pass;
use super::rows::Rows;
use crate::component::Qkv;
use crate::hook::Site;
use crate::ops::{part, part_mut};

/// One head's inputs of one reader that hooks may change: rows to be normed and projected.
struct Noted {
    head: usize,
    lane: usize,
    position: usize,
    input: Vec<f32>,
    /// Whether any bit has changed: what has not stays as it is, edits at `ln1` included.
    changed: bool,
}

/// What hooks made of the split inputs of a layer, for queries, keys and values in turn.
pub(super) struct SplitInputs {
    layer: usize,
    noted: [Vec<Noted>; 3],
}

/// The hook point of a reader's split input.
fn site(reader: Qkv) -> Site {
    match reader {
        Qkv::Q => Site::QInput,
        Qkv::K => Site::KInput,
        Qkv::V => Site::VInput,
    }
}

impl SplitInputs {
    /// Shows the split inputs where they are wanted, and notes the parts that hooks may change.
    pub fn collect<H: Hooks>(pass: &mut Pass<'_, '_, H>, pre: &Rows) -> Self {
        let layer = pass.here.layer;
        let mut split = SplitInputs {
            layer,
            noted: [Vec::new(), Vec::new(), Vec::new()],
        };
        for lane in 0..pass.lanes.len() {
            let wanted =
                |site: Site| pass.recorded(site.at(layer)) || pass.wanted(site.at(layer), lane);
            let any = wanted(Site::AttnIn) || Qkv::ALL.into_iter().map(site).any(wanted);
            if any && !pre.layout.range(lane).is_empty() {
                split.collect_lane(pass, lane, pre);
            }
        }
        split
    }

    fn collect_lane<H: Hooks>(&mut self, pass: &mut Pass<'_, '_, H>, lane: usize, pre: &Rows) {
        let n_heads = pass.model.config().n_heads;
        let rows = pre.lane(lane);
        let positions = pre.layout.positions(lane).to_vec();
        let mut shared = Array3::zeros((rows.nrows(), n_heads, rows.ncols()));
        shared.assign(&rows.insert_axis(Axis(1)));
        let shared_footprint = show(
            pass,
            Site::AttnIn,
            self.layer,
            lane,
            &positions,
            &mut shared,
        );
        for reader in Qkv::ALL {
            let mut input = shared.clone();
            let own = show(pass, site(reader), self.layer, lane, &positions, &mut input);
            let footprints = [&shared_footprint, &own].map(Option::as_ref);
            self.note(reader, lane, footprints, pre, &input);
        }
    }

    fn note(
        &mut self,
        reader: Qkv,
        lane: usize,
        footprints: [Option<&Footprint>; 2],
        pre: &Rows,
        input: &Array3<f32>,
    ) {
        let chosen =
            |list: &Option<Vec<usize>>, i: usize| list.as_ref().is_none_or(|l| l.contains(&i));
        let rows = pre.lane(lane);
        for (i, &position) in pre.layout.positions(lane).iter().enumerate() {
            for head in 0..input.len_of(Axis(1)) {
                let covers =
                    |e: &&Footprint| chosen(&e.positions, position) && chosen(&e.heads, head);
                if !footprints.iter().flatten().any(covers) {
                    continue;
                }
                let input = input.index_axis(Axis(0), i).row(head).to_vec();
                let before = rows.row(i);
                let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
                self.noted[reader as usize].push(Noted {
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
    pub fn apply<H: Hooks>(&self, pass: &mut Pass<'_, '_, H>, reader: Qkv, out: &mut Rows) {
        if self.noted[reader as usize].is_empty() {
            return;
        }
        let model = pass.model;
        let (config, block) = (model.config(), &model.parameters().h[self.layer]);
        let (d, d_head, d_heads) = (config.d_model, config.d_head(), config.d_heads());
        for head in 0..config.n_heads {
            let of_head = self.noted[reader as usize]
                .iter()
                .filter(|c| c.head == head);
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
            let mut normed = block.ln_1.apply(config, x);
            if reader != Qkv::V {
                pass.place(&mut normed, mine.iter().map(|(_, c)| (c.lane, c.position)));
            }
            let first = reader as usize * d_heads + head * d_head;
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

/// Shows one split input to hooks and recorder; returns the footprint that a hook may have changed.
fn show<H: Hooks>(
    pass: &mut Pass<'_, '_, H>,
    site: Site,
    layer: usize,
    lane: usize,
    positions: &[usize],
    values: &mut Array3<f32>,
) -> Option<Footprint> {
    let at = site.at(layer);
    let wanted = pass.wanted(at, lane);
    if wanted {
        let heads = Arc::clone(&pass.heads);
        pass.show(at, lane, positions, &heads, values.view_mut().into_dyn());
    }
    if let Some(recorder) = pass.recorder.as_mut().filter(|r| r.wants(at)) {
        recorder.record_rows(at, lane, &pass.lanes[lane], positions, values.clone());
    }
    wanted.then(|| pass.hooks.footprint(at, lane))
}
