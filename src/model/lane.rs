//! Lanes: one run of one sequence each, many of which share a pass; and which of their rows each
//! stage of a layer has to compute.

use std::sync::Arc;

use crate::cache::ActivationCache;
use crate::hook::{HookPoint, Site};

/// A place where a lane departs from its base: the rows and heads that change there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    pub point: HookPoint,
    /// Positions (destinations for attention), ascending.
    pub rows: Vec<usize>,
    /// Heads, ascending; all of them for sites without a head axis.
    pub heads: Vec<usize>,
}

/// The halves of the blocks whose output stays the base's, whatever enters them. Edits at points
/// inside or after a held half still act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub attention: bool,
    pub mlps: bool,
}

/// Which logits a lane is to give.
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
    /// The run that this one departs from: gives every row that is not computed.
    pub base: Option<&'a ActivationCache>,
    /// Positions whose tokens are not the base's, ascending; all of them without a base.
    pub fresh: Rows,
    /// Where the lane departs from its base, other than by its tokens.
    pub changes: Vec<Change>,
    /// Positions whose logits are read, ascending.
    pub outputs: Vec<usize>,
    pub columns: Columns,
    /// Whether only what `outputs` need is computed.
    pub narrow: bool,
    /// Halves of the blocks that are frozen to the base.
    pub held: Held,
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
            held: Held::default(),
        }
    }

    /// The changed rows at a point, or none.
    pub fn changed(&self, point: HookPoint) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |c| c.point == point)
    }

    fn rows_at(&self, points: &[HookPoint]) -> Rows {
        let changes = points.iter().flat_map(|p| self.changed(*p));
        sorted(changes.flat_map(|c| c.rows.iter().copied())).into()
    }
}

/// Ascending positions; clones share their memory.
pub(crate) type Rows = Arc<[usize]>;

/// Sorts out duplicates and puts in order.
pub(crate) fn sorted(rows: impl IntoIterator<Item = usize>) -> Vec<usize> {
    let mut rows: Vec<usize> = rows.into_iter().collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// The union of ascending lists.
fn union(first: &Rows, others: &[&Rows]) -> Rows {
    if others.iter().all(|o| o.is_empty() || Arc::ptr_eq(o, first)) {
        return Arc::clone(first);
    }
    let others = others.iter().flat_map(|l| l.iter().copied());
    sorted(first.iter().copied().chain(others)).into()
}

/// The rows that the stages of one layer compute or hold, for one lane.
///
/// A stage's rows are those which differ from the base there ("dirty") and which something
/// downstream reads; a row held for another reason (a hook needs to see it) says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LayerRows {
    /// Residual stream at the layer's entry: dirty rows, and rows whose copy a hook changes.
    pub pre: Rows,
    /// Rows that go through `ln1` to keys and values.
    pub kv: Rows,
    /// Rows that go through `ln1` to queries.
    pub q: Rows,
    /// Rows with a query, key, value other than the base's.
    pub q_live: Rows,
    pub k_live: Rows,
    pub v_live: Rows,
    /// Destination rows whose attention is computed, and for which heads.
    pub dest: Rows,
    pub heads: Rows,
    /// Rows of z that W_O is applied to.
    pub z: Rows,
    /// Rows of the attention output, and of the residual after it.
    pub attn_out: Rows,
    pub mid: Rows,
    /// Rows that go through `ln2` and the MLP's first matrix.
    pub mlp_in: Rows,
    /// Rows of the hidden layer before and after the activation function.
    pub mlp_pre: Rows,
    pub mlp_post: Rows,
    /// Rows of the MLP's output, and of the residual after it.
    pub mlp_out: Rows,
    pub post: Rows,
}

/// What of a lane's sequence a layer's readers need.
struct Needed<'o> {
    /// Keys and values up to this position.
    until: usize,
    /// The only rows needed of everything else; `None` for all up to `until`.
    only: Option<&'o [usize]>,
}

impl Needed<'_> {
    fn keys(&self, rows: Rows) -> Rows {
        match rows.last() {
            Some(last) if *last > self.until => {
                rows.iter().copied().filter(|r| *r <= self.until).collect()
            }
            _ => rows,
        }
    }

    fn rows(&self, rows: Rows) -> Rows {
        let rows = self.keys(rows);
        match self.only {
            None => rows,
            Some(only) if rows.iter().all(|r| only.binary_search(r).is_ok()) => rows,
            Some(only) => rows
                .iter()
                .copied()
                .filter(|r| only.binary_search(r).is_ok())
                .collect(),
        }
    }
}

impl Lane<'_> {
    fn needed(&self, last: bool) -> Needed<'_> {
        let end = self.tokens.len().saturating_sub(1);
        if !self.narrow {
            return Needed {
                until: end,
                only: None,
            };
        }
        // An edit behind the mask lets a row read later keys and values.
        let ahead = |c: &Change| {
            matches!(
                c.point,
                HookPoint::Block(_, Site::AttnScores | Site::Pattern)
            )
        };
        let last_read = self.outputs.last().copied().unwrap_or(0);
        Needed {
            until: match self.changes.iter().any(ahead) {
                true => end,
                false => last_read,
            },
            only: last.then_some(&self.outputs),
        }
    }

    /// Rows of the embeddings that differ from the base.
    pub fn embed_rows(&self) -> Rows {
        let edited = self.rows_at(&[HookPoint::Embed, HookPoint::PosEmbed]);
        self.needed(false).keys(union(&self.fresh, &[&edited]))
    }

    /// Rows of each stage of `layer`, given the rows that are dirty at its entry.
    pub fn layer_rows(
        &self,
        layer: usize,
        last: bool,
        all_heads: &Rows,
        dirty: &Rows,
    ) -> LayerRows {
        let untouched = self.changes.iter().all(|c| c.point.layer() != Some(layer));
        if untouched && dirty.is_empty() {
            return LayerRows::default();
        }
        let none: Rows = Arc::default();
        let e = |site: Site| match untouched {
            true => Arc::clone(&none),
            false => self.rows_at(&[site.at(layer)]),
        };
        let need = self.needed(last);
        let entry = union(dirty, &[&e(Site::ResidPre)]);
        let (attn_in, q_in) = (e(Site::AttnIn), e(Site::QInput));
        let (k_in, v_in) = (e(Site::KInput), e(Site::VInput));
        let read = if self.held.attention { &none } else { &entry };
        let normed = union(read, &[&e(Site::Ln1Scale), &e(Site::Ln1Normalized)]);

        let q_live = need.rows(union(&normed, &[&e(Site::Q), &q_in, &attn_in]));
        let k_live = need.keys(union(&normed, &[&e(Site::K), &k_in, &attn_in]));
        let v_live = need.keys(union(&normed, &[&e(Site::V), &v_in, &attn_in]));
        let first = k_live.first().into_iter().chain(v_live.first()).min();
        let dest = self.destinations(
            &q_live,
            first.copied(),
            &[&e(Site::AttnScores), &e(Site::Pattern)],
        );
        let dest = need.rows(dest);
        let heads = match normed.is_empty() {
            true => self.attention_heads(layer),
            false => Arc::clone(all_heads),
        };

        let z = need.rows(union(&dest, &[&e(Site::Z), &e(Site::Result)]));
        // `z` lacks the rows of the entry only where attention is held.
        let attn_out = need.rows(union(&z, &[&entry, &e(Site::AttnOut)]));
        let mid = need.rows(union(&attn_out, &[&e(Site::ResidMid)]));
        let ln2 = [&e(Site::MlpIn), &e(Site::Ln2Scale), &e(Site::Ln2Normalized)];
        let read = if self.held.mlps { &none } else { &mid };
        let mlp_in = need.rows(union(read, &ln2));
        let mlp_pre = need.rows(union(&mlp_in, &[&e(Site::MlpPre)]));
        let mlp_post = need.rows(union(&mlp_pre, &[&e(Site::MlpPost)]));
        let mlp_out = need.rows(union(&mlp_post, &[&mid, &e(Site::MlpOut)]));
        let post = need.rows(union(&mlp_out, &[&e(Site::ResidPost)]));
        LayerRows {
            pre: need.keys(union(&entry, &[&normed, &attn_in, &q_in, &k_in, &v_in])),
            q: need.rows(Arc::clone(&normed)),
            kv: need.keys(normed),
            q_live,
            k_live,
            v_live,
            dest,
            heads,
            z,
            attn_out,
            mid,
            mlp_in,
            mlp_pre,
            mlp_post,
            mlp_out,
            post,
        }
    }

    /// Rows whose attention differs: those of other queries or scores, and all from the first
    /// other key or value on.
    fn destinations(&self, q_live: &Rows, first: Option<usize>, edited: &[&Rows]) -> Rows {
        let n = self.tokens.len();
        let Some(first) = first else {
            return union(q_live, edited);
        };
        let closed = q_live.first() == Some(&first) && q_live.len() == n - first;
        if closed && edited.iter().all(|e| e.first().is_none_or(|r| *r >= first)) {
            return Arc::clone(q_live);
        }
        let after: Rows = (first..n).collect();
        union(&after, &[&[q_live], edited].concat())
    }

    /// The heads whose attention a layer's changes concern, where its entry is the base's.
    fn attention_heads(&self, layer: usize) -> Rows {
        const SITES: [Site; 9] = [
            Site::AttnIn,
            Site::QInput,
            Site::KInput,
            Site::VInput,
            Site::Q,
            Site::K,
            Site::V,
            Site::AttnScores,
            Site::Pattern,
        ];
        let changes = SITES.iter().flat_map(|site| self.changed(site.at(layer)));
        sorted(changes.flat_map(|c| c.heads.iter().copied())).into()
    }

    /// Rows that go through the final LayerNorm and the unembedding, given those dirty before.
    pub fn final_rows(&self, dirty: &Rows) -> Rows {
        let points = [
            HookPoint::LnFinalScale,
            HookPoint::LnFinalNormalized,
            HookPoint::Logits,
        ];
        let rows = union(dirty, &[&self.rows_at(&points)]);
        rows.iter()
            .copied()
            .filter(|r| self.outputs.binary_search(r).is_ok())
            .collect()
    }
}
