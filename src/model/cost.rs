//! What a lane costs, known from its rows before anything is computed.

use super::heads::attention_macs;
use super::hooks::Footprint;
use super::lane::{Columns, Lane, LayerRows, Positions};
use super::stage::{Matrix, Stage};
use crate::config::Config;
use crate::hook::{HookPoint, Site};

/// The price of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    /// Multiply-adds of all matrix products.
    pub macs: u64,
    /// Rows through the MLPs, over all layers.
    pub mlp_rows: u64,
    /// An upper bound of the memory that it takes at any one time, in bytes.
    pub bytes: u64,
    /// Rows computed whose logits are read.
    pub read: usize,
}

/// Which part of an activation hooks may change, or `None` if they do not want it.
pub(crate) type Wanted<'w> = &'w dyn Fn(HookPoint) -> Option<Footprint>;

impl Lane<'_> {
    /// The cost of this lane with hooks at the places that `wanted` tells.
    pub fn cost(&self, config: &Config, wanted: Wanted<'_>) -> Cost {
        let all_heads: Positions = (0..config.n_heads).collect();
        let mut dirty = self.embed_rows();
        let mut cost = Cost::default();
        for layer in 0..config.n_layers {
            let rows = self.layer_rows(layer, layer + 1 == config.n_layers, &all_heads, &dirty);
            let more = on_demand(config, layer, &rows, wanted);
            cost.macs += layer_macs(config, &rows) + more.macs;
            cost.mlp_rows += rows[Stage::MlpIn].len() as u64;
            let shown = shown_bytes(self.tokens.len(), layer, &rows, wanted);
            cost.bytes = cost
                .bytes
                .max(self.layer_bytes(config, &rows) + more.bytes + shown);
            dirty = Positions::clone(&rows[Stage::ResidPost]);
        }
        let read = self.final_rows(&dirty).len();
        let columns = match &self.columns {
            Columns::All => config.d_vocab,
            Columns::Tokens(tokens) => tokens.len(),
        };
        cost.macs += (read * columns * config.d_model) as u64;
        let logits = read * (2 * columns + 3 * config.d_model);
        cost.bytes = cost.bytes.max(4 * logits as u64) + LANE_BYTES;
        cost.read = read;
        cost
    }

    /// An upper bound of a lane's arrays in a layer: the larger one of its two halves.
    fn layer_bytes(&self, config: &Config, rows: &LayerRows) -> u64 {
        // Otherwise rows are completed on the way.
        let hidden = [Stage::MlpIn, Stage::MlpPre, Stage::MlpPost].map(|stage| &rows[stage]);
        let in_place = hidden.iter().all(|rows| *rows == hidden[0]);
        let floats = |stage: &Stage| {
            let hidden = matches!(stage, Stage::MlpPre | Stage::MlpPost);
            let width = if hidden { config.d_mlp } else { config.d_model };
            let arrays = match self.base {
                _ if *stage == Stage::MlpPost && in_place => 0,
                Some(_) => stage.entry().arrays,
                // No rows are completed.
                None => stage.entry().arrays.min(1),
            };
            rows[*stage].len() * arrays * width
        };
        let (attention, mlp) = Stage::ALL.split_at(Stage::ResidMid as usize);
        let halves = [attention, mlp].map(|half| half.iter().map(floats).sum::<usize>());
        let most = halves.into_iter().max().unwrap_or(0);
        let kept = [Stage::ResidPre, Stage::Z, Stage::ResidPost];
        let longest = kept.iter().map(|stage| rows[*stage].len()).max();
        let book = longest.unwrap_or(0) as u64 * (ROW_BYTES + 16 * config.n_heads as u64);
        4 * most as u64 + book
    }
}

/// Bookkeeping of one lane: its changes, row lists and tasks.
const LANE_BYTES: u64 = 4096;
/// Bookkeeping of one row: its entries in the row maps of a layer, and references to its keys and
/// values.
const ROW_BYTES: u64 = 512;

fn layer_macs(config: &Config, rows: &LayerRows) -> u64 {
    let product = |stage: &Stage| {
        let entry = stage.entry();
        let size = match entry.weights? {
            Matrix::Square => config.d_model * config.d_model,
            Matrix::Hidden => config.d_model * config.d_mlp,
        };
        Some((rows[entry.inputs[0].stage()].len() * size) as u64)
    };
    let products: u64 = Stage::ALL.iter().filter_map(product).sum();
    products + attention_macs(&rows.heads, &rows[Stage::Pattern], config.d_head())
}

/// Scores and patterns that hooks see, all heads and sources of the computed rows.
fn shown_bytes(n: usize, layer: usize, rows: &LayerRows, wanted: Wanted<'_>) -> u64 {
    let shown = [Site::AttnScores, Site::Pattern].map(|site| wanted(site.at(layer)).is_some());
    if !shown.contains(&true) {
        return 0;
    }
    // Also what the planner or a hook copies of them.
    8 * (rows.heads.len() * rows[Stage::Pattern].len() * n) as u64
}

/// Multiply-adds and bytes of what is made only where hooks want it.
#[derive(Default)]
struct OnDemand {
    macs: u64,
    bytes: u64,
}

/// Per-head results and split inputs.
fn on_demand(config: &Config, layer: usize, rows: &LayerRows, wanted: Wanted<'_>) -> OnDemand {
    let (d, d_head, n_heads) = (config.d_model, config.d_head(), config.n_heads);
    let inside = |list: &Option<Vec<usize>>, i: &usize| list.as_ref().is_none_or(|l| l.contains(i));
    let (mut macs, mut floats) = (0, 0);
    if let Some(footprint) = wanted(Site::Result.at(layer)) {
        let count = rows[Stage::Z]
            .iter()
            .filter(|r| inside(&footprint.positions, r))
            .count();
        macs += count * d * d;
        floats += 3 * count * n_heads * d;
    }
    let shared = wanted(Site::AttnIn.at(layer));
    let readers = [
        (Site::QInput, &rows[Stage::Q]),
        (Site::KInput, &rows[Stage::K]),
        (Site::VInput, &rows[Stage::V]),
    ];
    for (site, live) in readers {
        let own = wanted(site.at(layer));
        let footprints: Vec<&Footprint> = shared.iter().chain(&own).collect();
        let noted = |row: &usize, head: usize| {
            let covers = |e: &&Footprint| inside(&e.positions, row) && inside(&e.heads, &head);
            footprints.iter().any(covers)
        };
        let pairs = |row: &usize| (0..n_heads).filter(|h| noted(row, *h)).count();
        let all: usize = rows[Stage::AttnIn].iter().map(pairs).sum();
        let both = live
            .iter()
            .filter(|r| rows[Stage::AttnIn].binary_search(r).is_ok());
        macs += both.map(pairs).sum::<usize>() * d * d_head;
        // What is noted, and its copies on the way through LayerNorm, one head at a time.
        floats += all * d + 2 * all.div_ceil(n_heads) * d;
    }
    let split = readers
        .iter()
        .any(|(site, _)| wanted(site.at(layer)).is_some());
    if split || shared.is_some() {
        floats += 2 * rows[Stage::AttnIn].len() * n_heads * d;
    }
    OnDemand {
        macs: macs as u64,
        bytes: 4 * floats as u64,
    }
}
