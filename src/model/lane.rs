//! Lanes: one run of one sequence each, many of which share a pass; and which of their rows each
//! stage of a layer has to compute.

use std::collections::BTreeSet;
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
    pub fresh: Vec<usize>,
    /// Where the lane departs from its base, other than by its tokens.
    pub changes: Vec<Change>,
    /// Positions whose logits are read, ascending.
    pub outputs: Vec<usize>,
    pub columns: Columns,
    /// Whether only what `outputs` need is computed.
    pub narrow: bool,
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
        }
    }

    /// The changed rows at a point, or none.
    pub fn changed(&self, point: HookPoint) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |c| c.point == point)
    }

    fn rows_at(&self, points: impl IntoIterator<Item = HookPoint>) -> Vec<usize> {
        let rows = points.into_iter().flat_map(|p| self.changed(p));
        sorted(rows.flat_map(|c| c.rows.iter().copied()))
    }
}

/// Sorts out duplicates and puts in order.
pub(crate) fn sorted(rows: impl IntoIterator<Item = usize>) -> Vec<usize> {
    rows.into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The union of ascending lists.
pub(crate) fn union(lists: &[&[usize]]) -> Vec<usize> {
    let mut rest = lists.iter().filter(|l| !l.is_empty());
    match (rest.next(), rest.next()) {
        (None, _) => Vec::new(),
        (Some(only), None) => only.to_vec(),
        _ => sorted(lists.iter().flat_map(|l| l.iter().copied())),
    }
}

/// The rows that the stages of one layer compute or hold, for one lane.
///
/// A stage's rows are those which differ from the base there ("dirty") and which something
/// downstream reads; a row held for another reason (a hook needs to see it) says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LayerRows {
    /// Residual stream at the layer's entry: dirty rows, and rows whose copy a hook changes.
    pub pre: Vec<usize>,
    /// Rows that go through `ln1` to keys and values.
    pub kv: Vec<usize>,
    /// Rows that go through `ln1` to queries.
    pub q: Vec<usize>,
    /// Rows with a query, key, value other than the base's.
    pub q_live: Vec<usize>,
    pub k_live: Vec<usize>,
    pub v_live: Vec<usize>,
    /// Destination rows whose attention is computed, and for which heads.
    pub dest: Vec<usize>,
    pub heads: Vec<usize>,
    /// Rows of z that W_O is applied to.
    pub z: Vec<usize>,
    /// Rows of the attention output, and of the residual after it.
    pub attn_out: Vec<usize>,
    pub mid: Vec<usize>,
    /// Rows that go through `ln2` and the MLP's first matrix.
    pub mlp_in: Vec<usize>,
    /// Rows of the hidden layer before and after the activation function.
    pub mlp_pre: Vec<usize>,
    pub mlp_post: Vec<usize>,
    /// Rows of the MLP's output, and of the residual after it.
    pub mlp_out: Vec<usize>,
    pub post: Vec<usize>,
}

/// What of a lane's sequence a layer's readers need.
struct Needed<'o> {
    /// Keys and values up to this position.
    until: usize,
    /// The only rows needed of everything else; `None` for all up to `until`.
    only: Option<&'o [usize]>,
}

impl Needed<'_> {
    fn keys(&self, mut rows: Vec<usize>) -> Vec<usize> {
        rows.retain(|r| *r <= self.until);
        rows
    }

    fn rows(&self, rows: Vec<usize>) -> Vec<usize> {
        let mut rows = self.keys(rows);
        if let Some(only) = self.only {
            rows.retain(|r| only.binary_search(r).is_ok());
        }
        rows
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
        Needed {
            until: self.outputs.last().copied().unwrap_or(0),
            only: last.then_some(&self.outputs),
        }
    }

    /// Rows of the embeddings that differ from the base.
    pub fn embed_rows(&self) -> Vec<usize> {
        let edited = self.rows_at([HookPoint::Embed, HookPoint::PosEmbed]);
        self.needed(false).keys(union(&[&self.fresh, &edited]))
    }

    /// Rows of each stage of `layer`, given the rows that are dirty at its entry.
    pub fn layer_rows(
        &self,
        layer: usize,
        last: bool,
        n_heads: usize,
        dirty: &[usize],
    ) -> LayerRows {
        let e = |site: Site| self.rows_at([site.at(layer)]);
        let need = self.needed(last);
        let entry = union(&[dirty, &e(Site::ResidPre)]);
        let (attn_in, q_in) = (e(Site::AttnIn), e(Site::QInput));
        let (k_in, v_in) = (e(Site::KInput), e(Site::VInput));
        let normed = union(&[&entry, &e(Site::Ln1Scale), &e(Site::Ln1Normalized)]);

        let q_live = need.rows(union(&[&normed, &e(Site::Q), &q_in, &attn_in]));
        let k_live = need.keys(union(&[&normed, &e(Site::K), &k_in, &attn_in]));
        let v_live = need.keys(union(&[&normed, &e(Site::V), &v_in, &attn_in]));
        let first = k_live.first().into_iter().chain(v_live.first()).min();
        let after = first.map_or(Vec::new(), |f| (*f..self.tokens.len()).collect());
        let dest = need.rows(union(&[
            &q_live,
            &after,
            &e(Site::AttnScores),
            &e(Site::Pattern),
        ]));
        let heads = if normed.is_empty() {
            self.attention_heads(layer)
        } else {
            (0..n_heads).collect()
        };

        let z = need.rows(union(&[&dest, &e(Site::Z), &e(Site::Result)]));
        let attn_out = need.rows(union(&[&z, &e(Site::AttnOut)]));
        let mid = need.rows(union(&[&attn_out, &entry, &e(Site::ResidMid)]));
        let mlp_in = need.rows(union(&[
            &mid,
            &e(Site::MlpIn),
            &e(Site::Ln2Scale),
            &e(Site::Ln2Normalized),
        ]));
        let mlp_pre = need.rows(union(&[&mlp_in, &e(Site::MlpPre)]));
        let mlp_post = need.rows(union(&[&mlp_pre, &e(Site::MlpPost)]));
        let mlp_out = need.rows(union(&[&mlp_post, &e(Site::MlpOut)]));
        let post = need.rows(union(&[&mid, &mlp_out, &e(Site::ResidPost)]));
        LayerRows {
            pre: need.keys(union(&[&normed, &attn_in, &q_in, &k_in, &v_in])),
            q: need.rows(normed.clone()),
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

    /// The heads whose attention a layer's changes concern, where its entry is the base's.
    fn attention_heads(&self, layer: usize) -> Vec<usize> {
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
        sorted(changes.flat_map(|c| c.heads.iter().copied()))
    }

    /// Rows that go through the final LayerNorm and the unembedding, given those dirty before.
    pub fn final_rows(&self, dirty: &[usize]) -> Vec<usize> {
        let edited = self.rows_at([
            HookPoint::LnFinalScale,
            HookPoint::LnFinalNormalized,
            HookPoint::Logits,
        ]);
        let mut rows = union(&[dirty, &edited]);
        rows.retain(|r| self.outputs.binary_search(r).is_ok());
        rows
    }
}
