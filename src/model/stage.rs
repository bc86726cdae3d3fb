//! The stages of a block, in one table: which hook points each has, what it is computed from, and
//! where rows come from that it does not compute.
//!
//! Everything that depends on the graph of a block is derived from the table: the rows that a lane
//! computes ([`Lane::layer_rows`](super::lane::Lane::layer_rows)), the rows of its base that it
//! reads ([`base_reads`]), what a frozen half leaves out, whether a path leads from one hook point
//! to another ([`leads_to`]), and what a lane costs ([`cost`](super::cost)).

mod reads;

pub(crate) use reads::base_reads;

use crate::config::{AttentionDirection, Config, Element, Positions};
use crate::hook::{HookPoint, Site};

/// What a stage is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Each row from the same row of another stage.
    Same(Stage),
    /// Each row from all rows of another stage that attention reads: those up to its own, or all.
    Attended(Stage),
}

impl Input {
    /// The stage that is read.
    pub fn stage(self) -> Stage {
        match self {
            Input::Same(stage) | Input::Attended(stage) => stage,
        }
    }
}

/// Which rows of a lane that reads only some logits can matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Other rows read these through attention: later ones, or all.
    OtherRows,
    /// Nothing but their own rows: in the last layer, only those that are read.
    OwnRow,
}

/// What adds to the residual stream in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Attention,
    Mlp,
}

/// The halves of all blocks whose output stays the base's, whatever enters them. Edits at points
/// inside or after a frozen half still act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frozen {
    pub attention: bool,
    pub mlps: bool,
}

impl Frozen {
    fn holds(self, half: Half) -> bool {
        match half {
            Half::Attention => self.attention,
            Half::Mlp => self.mlps,
        }
    }
}

/// What of the table the blocks of a model have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    mlp: bool,
    inner_norm: bool,
    positions: Positions,
    /// Which rows attention reads.
    pub attention: AttentionDirection,
}

impl Kind {
    pub fn of(config: &Config) -> Self {
        Kind {
            mlp: config.has(Element::Mlp),
            inner_norm: config.has(Element::InnerNorm),
            positions: config.positions,
            attention: config.attention,
        }
    }

    pub fn has(self, stage: Stage) -> bool {
        match stage.entry().element {
            Some(Element::Mlp) => self.mlp,
            Some(Element::InnerNorm) => self.inner_norm,
            _ => true,
        }
    }

    /// What adds to the stream, in order.
    pub fn writes(self) -> impl DoubleEndedIterator<Item = Write> {
        let writes = [
            (Half::Attention, Stage::AttnOut),
            (Half::Mlp, Stage::MlpOut),
        ];
        let there = writes.into_iter().filter(move |(_, out)| self.has(*out));
        there.map(move |(half, out)| {
            let adds = |stage: &&Stage| {
                let first = stage.inputs(self, Frozen::default()).first();
                first == Some(&Input::Same(out))
            };
            let sum = Stage::ALL.iter().find(adds);
            let sum = *sum.expect("what a half writes is added to the stream");
            Write { half, out, sum }
        })
    }

    /// Whether each layer reads the position embeddings by itself, so that they are no part of the
    /// stream. A change of them is one of the same rows of the stream all the same: of these rows,
    /// queries and keys differ in the first layer and all else in what follows.
    pub fn reads_positions(self) -> bool {
        self.positions == Positions::Shortformer
    }
}

/// A half of a block: the stage that it ends with, and that which adds it to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    pub half: Half,
    pub out: Stage,
    pub sum: Stage,
}

/// The size of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matrix {
    /// `d_model` × the width of all heads (`d_model`, too, in GPT-2), or the other way round.
    Square,
    /// `d_model` × `d_mlp`, or the other way round.
    Hidden,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The hook points of the stage: rows edited there are the stage's.
    pub sites: &'static [Site],
    /// The hook points of later stages at which rows of this one are shown.
    pub shows: &'static [Site],
    /// What it is computed from; nothing for the first one, which is the block's input.
    pub inputs: &'static [Input],
    /// The same where a model lacks one of them.
    pub instead: &'static [Input],
    /// What a model must have to have it.
    pub element: Option<Element>,
    /// Cut off from its inputs where this half is frozen.
    pub cut: Option<Half>,
    /// The activation of the base that completes it. Without one, its rows are some of its
    /// input's.
    pub base: Option<Site>,
    pub readers: Readers,
    /// The weights that its first input is multiplied with.
    pub weights: Option<Matrix>,
}

/// What most stages have.
const STAGE: Entry = Entry {
    sites: &[],
    shows: &[],
    inputs: &[],
    instead: &[],
    element: None,
    cut: None,
    base: None,
    readers: Readers::OwnRow,
    weights: None,
};

/// Defines the stages and their table.
macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident { $($field:ident: $value:expr),* $(,)? })*) => {
        /// A step of a block that has rows of its own, in order of execution.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Stage { $($(#[$doc])* $stage,)* }

        impl Stage {
            /// All stages, in order of execution.
            pub const ALL: &'static [Stage] = &[$(Stage::$stage,)*];

            /// Its row of the table.
            pub fn entry(self) -> &'static Entry {
                use {Half::*, Input::*, Matrix::*, Readers::*};
                match self {
                    $(Stage::$stage => {
                        const ENTRY: Entry = Entry { $($field: $value,)* ..STAGE };
                        &ENTRY
                    })*
                }
            }
        }
    };
}

stages! {
    /// The residual stream that enters the block.
    ResidPre {
        sites: &[Site::ResidPre], base: Some(Site::ResidPre), readers: OtherRows,
    }
    /// The same as attention reads it, with all rows at which a hook sees or edits a copy.
    AttnIn {
        inputs: &[Same(Stage::ResidPre)], base: Some(Site::ResidPre), readers: OtherRows,
        shows: &[
            Site::AttnIn, Site::QInput, Site::KInput, Site::VInput,
            Site::Ln1Scale, Site::Ln1Normalized,
        ],
    }
    /// The first LayerNorm.
    Ln1 {
        sites: &[Site::Ln1Scale, Site::Ln1Normalized],
        inputs: &[Same(Stage::ResidPre)], cut: Some(Attention), readers: OtherRows,
    }
    /// Its rows that queries are made of.
    Ln1OfQueries { inputs: &[Same(Stage::Ln1)] }
    /// Queries.
    Q {
        sites: &[Site::AttnIn, Site::QInput, Site::Q],
        inputs: &[Same(Stage::Ln1OfQueries)], base: Some(Site::Q),
        weights: Some(Square),
    }
    /// Keys.
    K {
        sites: &[Site::AttnIn, Site::KInput, Site::K],
        inputs: &[Same(Stage::Ln1)], base: Some(Site::K), readers: OtherRows,
        weights: Some(Square),
    }
    /// Values.
    V {
        sites: &[Site::AttnIn, Site::VInput, Site::V],
        inputs: &[Same(Stage::Ln1)], base: Some(Site::V), readers: OtherRows,
        weights: Some(Square),
    }
    /// Destination rows whose attention is computed, for some heads or all.
    Pattern {
        sites: &[Site::AttnScores, Site::Pattern],
        inputs: &[Same(Stage::Q), Attended(Stage::K), Attended(Stage::V)],
    }
    /// The heads' weighted values.
    Z {
        sites: &[Site::Z, Site::Result],
        inputs: &[Same(Stage::Pattern)], base: Some(Site::Z),
    }
    /// The attention's output.
    AttnOut {
        sites: &[Site::AttnOut],
        inputs: &[Same(Stage::Z)], base: Some(Site::AttnOut), weights: Some(Square),
    }
    /// The residual stream after attention: a sum.
    ResidMid {
        element: Some(Element::Mlp),
        sites: &[Site::ResidMid],
        inputs: &[Same(Stage::AttnOut), Same(Stage::ResidPre)], base: Some(Site::ResidMid),
    }
    /// The same as the MLP reads it, and the second LayerNorm.
    MlpIn {
        element: Some(Element::Mlp),
        sites: &[Site::MlpIn, Site::Ln2Scale, Site::Ln2Normalized],
        inputs: &[Same(Stage::ResidMid)], cut: Some(Mlp), base: Some(Site::ResidMid),
    }
    /// The hidden layer before the activation function.
    MlpPre {
        element: Some(Element::Mlp),
        sites: &[Site::MlpPre],
        inputs: &[Same(Stage::MlpIn)], base: Some(Site::MlpPre), weights: Some(Hidden),
    }
    /// The hidden layer after the activation function, where a LayerNorm follows, and that
    /// LayerNorm.
    MlpMid {
        element: Some(Element::InnerNorm),
        sites: &[Site::MlpMid, Site::MlpNormScale, Site::MlpNormNormalized],
        inputs: &[Same(Stage::MlpPre)], base: Some(Site::MlpMid),
    }
    /// The hidden layer as the second map reads it.
    MlpPost {
        element: Some(Element::Mlp),
        sites: &[Site::MlpPost],
        inputs: &[Same(Stage::MlpMid)], instead: &[Same(Stage::MlpPre)], base: Some(Site::MlpPost),
    }
    /// The MLP's output.
    MlpOut {
        element: Some(Element::Mlp),
        sites: &[Site::MlpOut],
        inputs: &[Same(Stage::MlpPost)], base: Some(Site::MlpOut), weights: Some(Hidden),
    }
    /// The residual stream that leaves the block: a sum.
    ResidPost {
        sites: &[Site::ResidPost],
        inputs: &[Same(Stage::MlpOut), Same(Stage::ResidMid)],
        instead: &[Same(Stage::AttnOut), Same(Stage::ResidPre)], base: Some(Site::ResidPost),
    }
}

impl Stage {
    /// How many there are.
    pub const COUNT: usize = Stage::ALL.len();

    /// The stage whose rows are shown at a hook point.
    pub fn shown_at(site: Site) -> Stage {
        let shows = |entry: &Entry| entry.shows.contains(&site) || entry.sites.contains(&site);
        let first = Stage::ALL.iter().find(|stage| shows(stage.entry()));
        *first.expect("every hook point of a block is in the table, as a test checks")
    }

    /// What it is computed from where some halves are frozen.
    pub fn inputs(self, kind: Kind, frozen: Frozen) -> &'static [Input] {
        let entry = self.entry();
        if !kind.has(self) || entry.cut.is_some_and(|half| frozen.holds(half)) {
            return &[];
        }
        if entry.inputs.iter().all(|input| kind.has(input.stage())) {
            entry.inputs
        } else {
            entry.instead
        }
    }

    /// The hook point at which it is shown as it is handed on: the last of its own.
    pub fn site(self) -> Site {
        let sites = self.entry().sites;
        *sites
            .last()
            .expect("what is handed on between the halves has one")
    }

    /// The stages that it depends on, itself among them, as flags by stage.
    pub fn upstream(self, kind: Kind, frozen: Frozen) -> [bool; Stage::COUNT] {
        let mut upstream = [false; Stage::COUNT];
        upstream[self as usize] = true;
        for stage in Stage::ALL.iter().rev().filter(|stage| **stage <= self) {
            if upstream[*stage as usize] {
                let inputs = stage.inputs(kind, frozen).iter();
                inputs.for_each(|input| upstream[input.stage() as usize] = true);
            }
        }
        upstream
    }
}

/// Whether a change at one hook point can reach another one, later in the model.
pub(crate) fn leads_to(kind: Kind, from: HookPoint, to: HookPoint) -> bool {
    if from >= to {
        return false;
    }
    match (from, to) {
        (HookPoint::Embed, HookPoint::PosEmbed) => false,
        (HookPoint::PosEmbed, HookPoint::Block(0, to)) if kind.reads_positions() => {
            let read = |stage| matches!(stage, Stage::Q | Stage::K);
            to > Site::Ln1Normalized && leads_within(kind, read, to)
        }
        (HookPoint::Block(layer, from), HookPoint::Block(same, to)) if layer == same => {
            leads_within(kind, |stage| stage.entry().sites.contains(&from), to)
        }
        // Every stage of a block leads to its end.
        (_, HookPoint::Block(_, to)) => leads_within(kind, |stage| stage == Stage::ResidPre, to),
        _ => true,
    }
}

/// Whether a lane that departs from its base at a place computes an earlier point of the same block
/// again, so that what acted there in the base's run is lost.
pub(crate) fn computes_again(kind: Kind, place: HookPoint, earlier: HookPoint) -> bool {
    let (HookPoint::Block(layer, place), HookPoint::Block(same, earlier)) = (place, earlier) else {
        return false;
    };
    let again = |stage: &&Stage| {
        let Entry { sites, base, .. } = stage.entry();
        // Edits at or after the base's activation start from it.
        let starts = base.is_some_and(|base| earlier <= base && base <= place);
        sites.contains(&earlier) && !starts
    };
    let depends = |stage: &Stage| {
        let upstream = stage.upstream(kind, Frozen::default());
        let edited = |stage: &&Stage| stage.entry().sites.contains(&place);
        let mut edited = Stage::ALL.iter().filter(edited);
        edited.any(|stage| upstream[*stage as usize])
    };
    layer == same && earlier < place && Stage::ALL.iter().filter(again).any(depends)
}

/// Whether a hook point depends on one of some stages of its block.
fn leads_within(kind: Kind, from: impl Fn(Stage) -> bool, to: Site) -> bool {
    let mut of_site = Stage::ALL.iter().filter(|s| s.entry().sites.contains(&to));
    of_site.any(|stage| {
        let upstream = stage.upstream(kind, Frozen::default());
        Stage::ALL
            .iter()
            .any(|stage| upstream[*stage as usize] && from(*stage))
    })
}

#[cfg(test)]
mod tests;
