//! Lanes: one run of one sequence each, many of which share a pass; and which of their rows each
//! stage of a layer has to compute.

use std::ops::Index;
use std::sync::Arc;

use super::stage::{Frozen, Input, Kind, Readers, Stage};
use crate::cache::ActivationCache;
use crate::config::AttentionDirection;
use crate::hook::{HookPoint, Site};
use crate::ops::sorted;

/// A place where a lane departs from its base: the rows and heads that change there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub point: HookPoint,
    /// Positions (destinations for attention), ascending.
    pub rows: Vec<usize>,
    /// Heads, ascending; none for sites without a head axis.
    pub heads: Vec<usize>,
}

/// Which logits a lane is to compute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Columns {
    /// The whole vocabulary.
    All,
    /// The named tokens, in this order.
    Tokens(Arc<[u32]>),
}

/// One run of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Lane<'a> {
    pub tokens: &'a [u32],
    /// The run that this one departs from: has every row that is not computed.
    pub base: Option<&'a ActivationCache>,
    /// Positions whose tokens are not the base's, ascending; all of them without a base.
    pub fresh: Positions,
    /// Where the lane departs from its base, other than by its tokens.
    pub changes: Vec<Change>,
    /// Positions whose logits are read, ascending.
    pub outputs: Vec<usize>,
    pub columns: Columns,
    /// Whether only what `outputs` need is computed.
    pub narrow: bool,
    /// Halves of the blocks that are frozen to the base.
    pub frozen: Frozen,
}

impl<'a> Lane<'a> {
    /// A lane that computes everything.
    pub fn full(tokens: &'a [u32], outputs: Vec<usize>) -> Self {
        Lane {
            tokens,
            base: None,
            fresh: (0..tokens.len()).collect(),
            changes: Vec::new(),
            outputs,
            columns: Columns::All,
            narrow: false,
            frozen: Frozen::default(),
        }
    }
}

/// Ascending positions; clones share their memory.
pub(crate) type Positions = Arc<[usize]>;

/// The union of ascending lists.
fn union(first: Positions, others: impl IntoIterator<Item = Positions>) -> Positions {
    let mut all = first;
    for other in others {
        let known = Arc::ptr_eq(&other, &all) || other.iter().all(|r| has(&all, *r));
        if !known {
            all = sorted(all.iter().chain(&*other).copied()).into();
        }
    }
    all
}

fn has(positions: &[usize], position: usize) -> bool {
    positions.binary_search(&position).is_ok()
}

/// The rows that the stages of one layer compute or hold, for one lane: those which differ from
/// the base there, or are edited there, and which something downstream reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LayerRows {
    rows: [Positions; Stage::COUNT],
    /// The heads whose attention is computed, at the rows of [`Stage::Pattern`].
    pub heads: Positions,
}

impl Index<Stage> for LayerRows {
    type Output = Positions;

    fn index(&self, stage: Stage) -> &Positions {
        &self.rows[stage as usize]
    }
}

/// A layer of a model.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub kind: Kind,
    pub index: usize,
    pub last: bool,
    /// All heads.
    pub heads: Positions,
}

/// What of a lane's sequence a layer's readers need.
struct Needed<'o> {
    /// Keys and values up to this position.
    until: usize,
    /// The only rows needed of everything else; `None` for all up to `until`.
    only: Option<&'o [usize]>,
}

impl Needed<'_> {
    fn of(&self, rows: Positions, readers: Readers) -> Positions {
        let only = self.only.filter(|_| readers == Readers::OwnRow);
        let needed = |row: &usize| *row <= self.until && only.is_none_or(|only| has(only, *row));
        let early = rows.last().is_none_or(|last| *last <= self.until);
        if early && (only.is_none() || rows.iter().all(needed)) {
            return rows;
        }
        rows.iter().copied().filter(needed).collect()
    }
}

impl Lane<'_> {
    fn needed(&self, attention: AttentionDirection, last: bool) -> Needed<'_> {
        let end = self.tokens.len().saturating_sub(1);
        if !self.narrow {
            return Needed {
                until: end,
                only: None,
            };
        }
        // An edit behind the mask lets a row read later keys and values.
        let behind_mask = |c: &Change| {
            matches!(
                c.point,
                HookPoint::Block(_, Site::AttnScores | Site::Pattern)
            )
        };
        let ahead =
            attention == AttentionDirection::Bidirectional || self.changes.iter().any(behind_mask);
        let last_read = self.outputs.last().copied().unwrap_or(0);
        Needed {
            until: if ahead { end } else { last_read },
            only: last.then_some(&self.outputs),
        }
    }

    /// The changes at some points.
    fn changes_at(&self, here: impl Fn(HookPoint) -> bool) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |c| here(c.point))
    }

    /// The rows that change at some points.
    fn rows_at(&self, here: impl Fn(HookPoint) -> bool) -> Positions {
        let changes = self.changes_at(here);
        sorted(changes.flat_map(|c| c.rows.iter().copied())).into()
    }

    /// Rows of the embeddings that differ from the base.
    pub fn embed_rows(&self, kind: Kind) -> Positions {
        let edited = self.rows_at(|at| matches!(at, HookPoint::Embed | HookPoint::PosEmbed));
        let rows = union(Arc::clone(&self.fresh), [edited]);
        let needed = self.needed(kind.attention, false);
        needed.of(rows, Readers::OtherRows)
    }

    /// Rows of each stage of `layer`, given the rows that are dirty at its entry: walks the table
    /// of stages from top to bottom.
    pub fn layer_rows(&self, layer: &Layer, dirty: &Positions) -> LayerRows {
        let edited = self.changes_at(|at| at.layer() == Some(layer.index));
        let edited = edited.count() > 0;
        let mut layer_rows = LayerRows::default();
        if !edited && dirty.is_empty() {
            return layer_rows;
        }
        let needed = self.needed(layer.kind.attention, layer.last);
        for stage in Stage::ALL {
            let entry = stage.entry();
            let inputs = stage.inputs(layer.kind, self.frozen);
            let mut rows = match stage {
                Stage::ResidPre => Arc::clone(dirty),
                _ => self.rows_of_inputs(inputs, layer.kind.attention, &layer_rows),
            };
            if edited {
                let sites = || entry.sites.iter().chain(entry.shows);
                let own = self.rows_at(|at| sites().any(|site| at == site.at(layer.index)));
                rows = union(rows, [own]);
            }
            layer_rows.rows[*stage as usize] = needed.of(rows, entry.readers);
        }
        layer_rows.heads = self.heads(layer, dirty);
        layer_rows
    }

    /// The rows that differ because a stage's inputs do.
    fn rows_of_inputs(
        &self,
        inputs: &[Input],
        attention: AttentionDirection,
        known: &LayerRows,
    ) -> Positions {
        let same = |input: &Input| match input {
            Input::Same(stage) => Some(Arc::clone(&known[*stage])),
            Input::Attended(_) => None,
        };
        let first_of = |input: &Input| match input {
            Input::Same(_) => None,
            Input::Attended(stage) => {
                let first = known[*stage].first();
                first.map(|src| attention.first_reader(*src))
            }
        };
        let mut same = inputs.iter().filter_map(same);
        let rows = union(same.next().unwrap_or_default(), same);
        let Some(first) = inputs.iter().filter_map(first_of).min() else {
            return rows;
        };
        let n = self.tokens.len();
        if rows.first() == Some(&first) && rows.len() == n - first {
            return rows;
        }
        union((first..n).collect(), [rows])
    }

    /// The heads whose attention a layer's changes concern: all of them, where something changes
    /// that they all read.
    fn heads(&self, layer: &Layer, dirty: &Positions) -> Positions {
        let upstream = Stage::Pattern.upstream(layer.kind, self.frozen);
        let upstream = Stage::ALL.iter().filter(|stage| upstream[**stage as usize]);
        let reads = |stage: Stage| upstream.clone().any(|s| *s == stage);
        let sites = || upstream.clone().flat_map(|stage| stage.entry().sites);
        let here = |at: HookPoint| sites().any(|site| at == site.at(layer.index));
        let of_all = |at: HookPoint| here(at) && !at.axes().has_heads();
        let entered = reads(Stage::ResidPre) && !dirty.is_empty();
        if entered || self.changes_at(of_all).next().is_some() {
            return Arc::clone(&layer.heads);
        }
        sorted(self.changes_at(here).flat_map(|c| c.heads.iter().copied())).into()
    }

    /// Rows that go through the final LayerNorm and the unembedding, given those dirty before.
    pub fn final_rows(&self, dirty: &Positions) -> Positions {
        let edited = self.rows_at(|at| at > HookPoint::PosEmbed && at.layer().is_none());
        let rows = union(Arc::clone(dirty), [edited]);
        let read = rows.iter().copied().filter(|r| has(&self.outputs, *r));
        read.collect()
    }
}
