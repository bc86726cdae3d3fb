//! What a lane costs, known from its rows before anything is computed.

use super::heads::attention_macs;
use super::hooks::Footprint;
use super::lane::{Columns, Lane, Layer, LayerRows, Positions};
use super::stage::{Frozen, Kind, Matrix, Stage};
use crate::config::{Config, Element};
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
    /// Most rows of a stage, hence of a product.
    pub rows: usize,
}

/// Which part of an activation hooks may change, or `None` if they do not want it.
pub(crate) type Wanted<'w> = &'w dyn Fn(HookPoint) -> Option<Footprint>;

impl Lane<'_> {
    /// The cost of this lane with hooks at the places that `wanted` tells.
    pub fn cost(&self, config: &Config, hidden: Hidden, wanted: Wanted<'_>) -> Cost {
        self.cost_until(config, hidden, wanted, config.n_layers)
    }

    /// The same of a run that ends before some layer.
    pub fn cost_until(
        &self,
        config: &Config,
        hidden: Hidden,
        wanted: Wanted<'_>,
        stop: usize,
    ) -> Cost {
        let mut of = Layer {
            kind: Kind::of(config),
            index: 0,
            last: false,
            heads: (0..config.n_heads).collect(),
        };
        let mut dirty = self.embed_rows(of.kind);
        let embedded = if of.kind.reads_positions() {
            matrix_bytes(dirty.len() * config.d_model)
        } else {
            0
        };
        let mut cost = Cost::default();
        for layer in 0..stop {
            (of.index, of.last) = (layer, layer + 1 == config.n_layers);
            let rows = self.layer_rows(&of, &dirty);
            let more = on_demand(config, layer, &rows, wanted);
            cost.macs += layer_macs(config, &rows, self.tokens.len()) + more.macs;
            cost.mlp_rows += rows[Stage::MlpIn].len() as u64;
            let of_stages = Stage::ALL.iter().map(|stage| rows[*stage].len());
            cost.rows = of_stages.fold(cost.rows, usize::max);
            let shown = shown_bytes(self.tokens.len(), layer, &rows, wanted);
            cost.bytes = cost
                .bytes
                .max(self.layer_bytes(config, &rows, hidden) + more.bytes + shown);
            dirty = Positions::clone(&rows[Stage::ResidPost]);
        }
        let read = self.final_rows(&dirty).len();
        let columns = match &self.columns {
            Columns::All => config.d_logits(),
            Columns::Tokens(tokens) => tokens.len(),
        };
        cost.macs += (read * columns * config.d_model) as u64;
        // The residual stream, completed; its norm, shown to hooks; the rows of a group of lanes.
        let mut logits = read * (columns + 5 * config.d_model);
        if wanted(HookPoint::Logits).is_some() {
            logits += read * columns;
        }
        cost.bytes = cost.bytes.max(matrix_bytes(logits)) + LANE_BYTES;
        cost.bytes += embedded;
        // References to its keys and values, or its base's.
        cost.bytes += 32 * self.tokens.len() as u64;
        cost.read = read;
        cost.rows = cost.rows.max(read);
        cost
    }

    /// An upper bound of a lane's arrays in a layer: those of the step at which they are largest.
    fn layer_bytes(&self, config: &Config, rows: &LayerRows, hidden: Hidden) -> u64 {
        let count = |stages: &[Stage]| stages.iter().map(|s| rows[*s].len()).sum::<usize>();
        let width = config.d_model.max(config.d_heads());
        let bare = BARE.iter().filter(|_| !config.has(Element::Mlp));
        let narrow = NARROW.iter().chain(bare);
        let narrow = narrow.map(|step| width * count(step));
        let wide = match hidden {
            _ if config.has(Element::InnerNorm) => WIDE_NORMED,
            Hidden::InPlace => WIDE_IN_PLACE,
            Hidden::Completed => WIDE,
        };
        let wide = wide
            .iter()
            .map(|step| config.d_mlp * count(step.hidden) + config.d_model * count(step.beside));
        let mut most = narrow.chain(wide).max().unwrap_or(0);
        if Kind::of(config).reads_positions() {
            // Of the rows of queries and keys, alone and added to what LayerNorm made of them.
            most += 2 * config.d_model * rows[Stage::Ln1].len();
        }
        let kept = [Stage::ResidPre, Stage::Z, Stage::ResidPost];
        let longest = kept.iter().map(|stage| rows[*stage].len()).max();
        let book = longest.unwrap_or(0) as u64 * (ROW_BYTES + 16 * config.n_heads as u64);
        matrix_bytes(most) + book
    }
}

/// Whether a chunk's lanes differ in the rows that their hidden layers have before and after the
/// activation function, so that those of all lanes are copied on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// They do not: activated in place.
    InPlace,
    /// They may.
    Completed,
}

impl Hidden {
    /// Of lanes that edit these places.
    pub fn of(places: impl IntoIterator<Item = HookPoint>) -> Self {
        let inside = |at| matches!(at, HookPoint::Block(_, Site::MlpPre | Site::MlpPost));
        if places.into_iter().any(inside) {
            Hidden::Completed
        } else {
            Hidden::InPlace
        }
    }
}

/// Bytes of matrices of so many numbers in all, whose memory may be for a quarter more.
fn matrix_bytes(floats: usize) -> u64 {
    5 * floats as u64
}

/// The steps of a block, in order: the stages whose rows are in memory as matrices `[_, d_model]`
/// at one time. One that is there twice is completed in a copy, or shown to hooks in one: if some
/// lane of a chunk has other rows in the next stage, all lanes' rows are copied.
const NARROW: &[&[Stage]] = &[
    // The first LayerNorm: its input, the same as hooks see it, and its output.
    &[Stage::ResidPre, Stage::AttnIn, Stage::Ln1],
    &[Stage::ResidPre, Stage::Ln1, Stage::Ln1, Stage::Ln1],
    // Queries, keys and values: each has its input's rows before it is completed.
    &[
        Stage::ResidPre,
        Stage::Ln1,
        Stage::Ln1OfQueries,
        Stage::Ln1OfQueries,
        Stage::Q,
    ],
    &[Stage::ResidPre, Stage::Ln1, Stage::Q, Stage::Ln1, Stage::K],
    &[
        Stage::ResidPre,
        Stage::Ln1,
        Stage::Q,
        Stage::K,
        Stage::Ln1,
        Stage::V,
    ],
    // Attention, with queries of all its rows.
    &[
        Stage::ResidPre,
        Stage::Q,
        Stage::K,
        Stage::V,
        Stage::Pattern,
    ],
    &[
        Stage::ResidPre,
        Stage::Pattern,
        Stage::K,
        Stage::V,
        Stage::Pattern,
    ],
    &[Stage::ResidPre, Stage::Pattern, Stage::Z],
    // Its output and the sum.
    &[Stage::ResidPre, Stage::Z, Stage::Z],
    &[Stage::ResidPre, Stage::Z, Stage::AttnOut],
    &[
        Stage::ResidPre,
        Stage::AttnOut,
        Stage::AttnOut,
        Stage::ResidMid,
    ],
    &[Stage::ResidMid, Stage::ResidMid, Stage::ResidMid],
    // The second LayerNorm.
    &[Stage::ResidMid, Stage::MlpIn, Stage::MlpIn, Stage::MlpIn],
    // The MLP's output and the sum.
    &[Stage::ResidMid, Stage::MlpPost, Stage::MlpOut],
    &[
        Stage::ResidMid,
        Stage::MlpOut,
        Stage::MlpOut,
        Stage::ResidPost,
    ],
    &[Stage::ResidPost, Stage::ResidPost, Stage::ResidPost],
];

/// The sum that ends a block without MLP.
const BARE: &[&[Stage]] = &[&[
    Stage::ResidPre,
    Stage::AttnOut,
    Stage::AttnOut,
    Stage::ResidPost,
]];

/// A step with matrices `[_, d_mlp]`, too.
struct WideStep {
    hidden: &'static [Stage],
    beside: &'static [Stage],
}

/// The hidden layer from its product to the next one.
const WIDE_IN_PLACE: &[WideStep] = &[
    WideStep {
        hidden: &[Stage::MlpIn],
        beside: &[Stage::ResidMid, Stage::MlpIn],
    },
    WideStep {
        hidden: &[Stage::MlpPost],
        beside: &[Stage::ResidMid, Stage::MlpPost],
    },
];

/// The same where it is completed before and after the activation function.
const WIDE: &[WideStep] = &[
    WideStep {
        hidden: &[Stage::MlpIn, Stage::MlpPre],
        beside: &[Stage::ResidMid],
    },
    WideStep {
        hidden: &[Stage::MlpPre, Stage::MlpPost],
        beside: &[Stage::ResidMid],
    },
    WideStep {
        hidden: &[Stage::MlpPost],
        beside: &[Stage::ResidMid, Stage::MlpPost],
    },
];

/// The same with a LayerNorm after the activation function: shown to hooks in copies.
const WIDE_NORMED: &[WideStep] = &[
    WideStep {
        hidden: &[Stage::MlpIn, Stage::MlpPre],
        beside: &[Stage::ResidMid, Stage::MlpIn],
    },
    WideStep {
        hidden: &[Stage::MlpPre, Stage::MlpMid, Stage::MlpMid, Stage::MlpMid],
        beside: &[Stage::ResidMid],
    },
    WideStep {
        hidden: &[Stage::MlpMid, Stage::MlpMid, Stage::MlpPost],
        beside: &[Stage::ResidMid],
    },
    WideStep {
        hidden: &[Stage::MlpPost],
        beside: &[Stage::ResidMid, Stage::MlpPost],
    },
];

/// Bookkeeping of one lane: its changes, row lists and tasks.
const LANE_BYTES: u64 = 4096;
/// Bookkeeping of one row: its entries in the row maps of a layer, and references to its keys and
/// values.
const ROW_BYTES: u64 = 512;

fn layer_macs(config: &Config, rows: &LayerRows, n: usize) -> u64 {
    let kind = Kind::of(config);
    let product = |stage: &Stage| {
        let inputs = stage.inputs(kind, Frozen::default());
        let size = match stage.entry().weights? {
            Matrix::Square => config.d_model * config.d_heads(),
            Matrix::Hidden => config.d_model * config.d_mlp,
        };
        Some((rows[inputs.first()?.stage()].len() * size) as u64)
    };
    let products: u64 = Stage::ALL.iter().filter_map(product).sum();
    let last = config.attention.last_sources(&rows[Stage::Pattern], n);
    products + attention_macs(&rows.heads, &last, config.d_head())
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
        macs += count * d * n_heads * d_head;
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
