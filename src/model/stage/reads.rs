//! What a lane reads of its base, known before there is a lane.

use super::{Entry, Frozen, HookPoint, Input, Kind, Site, Stage};
use crate::config::Config;

/// The points of its base that a lane may read if it departs from it at a place, in any rows.
///
/// A stage reads its base where its rows can be more than its input's: where they are edited,
/// where two streams are added of which one has fewer rows, and where attention spreads a change
/// over other rows. Keys and values are read wherever attention is computed.
///
/// Of a lane with several places, each place's points together are enough: a row is there because
/// of one of them.
pub(crate) fn base_reads(place: HookPoint, config: &Config, frozen: Frozen) -> Vec<HookPoint> {
    let kind = Kind::of(config);
    let (first, edited, mut entry) = match place {
        HookPoint::Embed | HookPoint::PosEmbed => (0, None, Spread::Scattered),
        HookPoint::Block(layer, site) => (layer, Some(site), Spread::Nothing),
        _ => return Vec::new(),
    };
    let mut reads = Vec::new();
    // Those of all rows whose queries or keys are computed.
    reads.extend(kind.reads_positions().then_some(HookPoint::PosEmbed));
    for layer in first..config.n_layers {
        let edited = edited.filter(|_| layer == first);
        let flow = Flow::new(kind, entry, edited, frozen);
        reads.extend(flow.reads(frozen).into_iter().map(|site| site.at(layer)));
        entry = flow.spread(Stage::ResidPost);
    }
    reads
}

/// What is known of the rows of a stage without a lane at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    Nothing,
    /// Any rows.
    Scattered,
    /// All rows from some position on (all, where attention reads later ones, too): no others read
    /// them.
    Closed,
}

/// The rows of each stage of a layer, as a union of sets that are known by name only.
struct Flow {
    kind: Kind,
    entry: Spread,
    edited: Option<Site>,
    rows: [u8; Stage::COUNT],
}

impl Flow {
    /// Rows that are dirty at the layer's entry.
    const ENTRY: u8 = 1;
    /// Rows edited in the layer.
    const EDITED: u8 = 2;
    /// All rows that read a key or value that differs.
    const READERS: u8 = 4;

    fn new(kind: Kind, entry: Spread, edited: Option<Site>, frozen: Frozen) -> Self {
        let mut flow = Flow {
            kind,
            entry,
            edited,
            rows: [0; Stage::COUNT],
        };
        for stage in Stage::ALL {
            flow.rows[*stage as usize] = flow.own(*stage) | flow.computed(*stage, frozen);
        }
        flow
    }

    /// The rows that a stage has whatever it is computed from.
    fn own(&self, stage: Stage) -> u8 {
        let Entry { sites, shows, .. } = stage.entry();
        let edited = self
            .edited
            .is_some_and(|site| sites.contains(&site) || shows.contains(&site));
        if edited { Self::EDITED } else { 0 }
    }

    /// The rows that a stage's inputs give it.
    fn computed(&self, stage: Stage, frozen: Frozen) -> u8 {
        if stage == Stage::ResidPre {
            return if self.entry == Spread::Nothing {
                0
            } else {
                Self::ENTRY
            };
        }
        let from = |input: &Input| match input {
            Input::Attended(of) if self.spread(*of) == Spread::Scattered => Self::READERS,
            input => self.rows[input.stage() as usize],
        };
        stage
            .inputs(self.kind, frozen)
            .iter()
            .map(from)
            .fold(0, |all, rows| all | rows)
    }

    fn spread(&self, stage: Stage) -> Spread {
        let rows = self.rows[stage as usize];
        if rows == 0 {
            Spread::Nothing
        } else if rows & Self::READERS > 0 || (rows == Self::ENTRY && self.entry == Spread::Closed)
        {
            Spread::Closed
        } else {
            Spread::Scattered
        }
    }

    fn reads(&self, frozen: Frozen) -> Vec<Site> {
        let mut reads = Vec::new();
        for stage in Stage::ALL {
            let computed = self.computed(*stage, frozen);
            let own = self.own(*stage) & !computed > 0;
            reads.extend(stage.entry().base.filter(|_| own));
            // Without a base of its own, its own rows are computed from its inputs' bases.
            let made = match stage.entry().base {
                None => self.rows[*stage as usize],
                Some(_) => computed,
            };
            for input in stage.inputs(self.kind, frozen) {
                let missing = match input {
                    Input::Same(of) => made & !self.rows[*of as usize] > 0,
                    Input::Attended(_) => made > 0,
                };
                reads.extend(input.stage().entry().base.filter(|_| missing));
            }
        }
        // Heads that are not computed.
        let some_heads =
            self.rows[Stage::Pattern as usize] > 0 && self.rows[Stage::Ln1 as usize] == 0;
        reads.extend(Some(Site::Z).filter(|_| some_heads));
        reads
    }
}
