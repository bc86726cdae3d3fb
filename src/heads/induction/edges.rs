//! Which earlier heads the keys of induction heads read.

use std::cell::Cell;
use std::ops::ControlFlow;

use ndarray::{Array2, Array3};

use super::paths::KeyPaths;
use super::{InductionEdge, Study, pattern};
use crate::component::{Head, Qkv};
use crate::error::Result;
use crate::heads::patterns::AttentionPattern;
use crate::report::{About, Absent, Axis, Labelled};
use crate::weights::Circuits;

/// What the search found about the keys; the fields are those of
/// [`InductionCircuit`](super::InductionCircuit).
#[derive(Default)]
pub(crate) struct Keys {
    pub paths: Option<Labelled>,
    pub previous_token_heads: Vec<Head>,
    pub previous_token_removed: Option<f32>,
    pub edges: Vec<InductionEdge>,
    pub partial: bool,
}

/// Heads that attend to the previous token, and what the search knows of them together.
struct Previous {
    heads: Vec<Head>,
    /// Share of the gain that goes with all of them.
    removed: f32,
    /// Share that each keeps without the others, beyond what is left without any.
    kept: Vec<f32>,
    /// Each receiver's attention to the induction pattern without any of them.
    attention: Vec<f32>,
}

impl Previous {
    fn new(heads: Vec<Head>, paths: &KeyPaths<'_, '_>, gain: f32) -> Result<Self> {
        let mut sets: Vec<Vec<Head>> = heads.iter().map(|h| without(&heads, *h)).collect();
        sets.push(heads.clone());
        let shares = paths.shares(&sets, gain, |_| ControlFlow::Continue(()))?;
        // The last column: out of all keys at once. Without any others, nothing is cut.
        let cut = |row: usize| {
            if sets[row].is_empty() {
                0.0
            } else {
                shares[[row, shares.ncols() - 1]]
            }
        };
        let removed = cut(heads.len());
        Ok(Previous {
            kept: (0..heads.len()).map(|i| removed - cut(i)).collect(),
            removed,
            attention: paths.attention_without(&heads)?,
            heads,
        })
    }

    fn kept_by(&self, head: Head) -> f32 {
        let place = self.heads.iter().position(|h| *h == head);
        place.map_or(f32::NAN, |i| self.kept[i])
    }
}

fn without(heads: &[Head], one: Head) -> Vec<Head> {
    heads.iter().copied().filter(|h| *h != one).collect()
}

/// What every edge is judged by.
struct Judge<'a, 's, 'm> {
    paths: &'a KeyPaths<'s, 'm>,
    receivers: &'a [Head],
    previous: &'a Previous,
    patterns: &'a Labelled,
    composition: Labelled,
    least: f32,
}

impl Judge<'_, '_, '_> {
    /// The edges from a sender, if it carries enough; `shares` are those that go with each edge
    /// and, last, with the sender out of all keys.
    fn edges_from(&self, from: Head, shares: &[f32]) -> Result<Vec<InductionEdge>> {
        let kept = self.previous.kept_by(from);
        let from_all = shares[self.receivers.len()];
        // NaN, where there is no path, is never enough.
        if !(from_all >= self.least || kept >= self.least) {
            return Ok(Vec::new());
        }
        let cut = self.paths.attention_without(&[from])?;
        let alone = if kept.is_nan() {
            vec![[f32::NAN; 2]; cut.len()]
        } else {
            let others = without(&self.previous.heads, from);
            let alone = self.paths.attention_without(&others)?.into_iter();
            let none = self.previous.attention.iter().zip(alone);
            none.map(|(none, alone)| [*none, alone]).collect()
        };
        let edges = self.receivers.iter().enumerate().map(|(i, to)| {
            let weights = [from.layer, from.head, to.layer, to.head];
            InductionEdge {
                from,
                to: *to,
                share_removed: shares[i],
                share_removed_from_all: from_all,
                share_kept_alone: kept,
                attention: [
                    pattern(self.patterns, AttentionPattern::Induction, *to),
                    cut[i],
                ],
                attention_alone: alone[i],
                k_composition: self.composition.values()[&weights[..]],
                previous_token: pattern(self.patterns, AttentionPattern::PreviousToken, from),
            }
        });
        Ok(edges.filter(|edge| self.belongs(edge)).collect())
    }

    /// Whether there is a path, and it makes up enough of the receiver's attention.
    fn belongs(&self, edge: &InductionEdge) -> bool {
        let ([whole, cut], [none, alone]) = (edge.attention, edge.attention_alone);
        let attends = |more: f32, less: f32| (more - less) / whole >= self.least;
        !edge.share_removed.is_nan() && (attends(whole, cut) || attends(alone, none))
    }
}

impl Study<'_, '_> {
    /// The paths from all earlier heads into the keys of the receivers, and the edges among them.
    pub(crate) fn keys(&self, receivers: &[Head], gain: f32, patterns: &Labelled) -> Result<Keys> {
        let config = self.search.model.config();
        let Some(last) = receivers.iter().map(|head| head.layer).max() else {
            return Ok(Keys::default());
        };
        let paths = KeyPaths::new(self, receivers)?;
        let senders: Vec<Head> = Head::all(config).filter(|h| h.layer < last).collect();
        let sets: Vec<Vec<Head>> = senders.iter().map(|head| vec![*head]).collect();
        let partial = Cell::new(false);
        let shares = paths.shares(&sets, gain, |done| {
            let told = self.search.limits.report(done, sets.len(), "earlier heads");
            partial.set(told.is_break());
            told
        })?;
        let least = self.search.thresholds.previous_token;
        let attends = |h: &Head| pattern(patterns, AttentionPattern::PreviousToken, *h) >= least;
        let heads = senders.iter().copied().filter(attends).collect();
        let previous = Previous::new(heads, &paths, gain)?;
        let judge = Judge {
            paths: &paths,
            receivers,
            previous: &previous,
            patterns,
            composition: Circuits::new(self.search.model).composition_scores(Qkv::K)?,
            least: self.search.thresholds.share,
        };
        let mut edges = Vec::new();
        for (from, row) in senders.iter().zip(shares.rows()) {
            edges.extend(judge.edges_from(*from, &row.to_vec())?);
        }
        edges.sort_by(|a, b| {
            let sender =
                |edge: &InductionEdge| edge.share_removed_from_all.max(edge.share_kept_alone);
            let by_sender = sender(b).total_cmp(&sender(a));
            by_sender.then((a.from, a.to).cmp(&(b.from, b.to)))
        });
        Ok(Keys {
            paths: Some(self.table(receivers, &senders, &shares, gain, partial.get())?),
            previous_token_removed: (!previous.heads.is_empty()).then_some(previous.removed),
            previous_token_heads: previous.heads,
            edges,
            partial: partial.get(),
        })
    }

    /// The shares as in [`InductionCircuit::key_paths`](super::InductionCircuit::key_paths).
    fn table(
        &self,
        receivers: &[Head],
        senders: &[Head],
        shares: &Array2<f32>,
        gain: f32,
        partial: bool,
    ) -> Result<Labelled> {
        let config = self.search.model.config();
        let shape = (receivers.len() + 1, config.n_layers, config.n_heads);
        let mut values = Array3::from_elem(shape, f32::NAN);
        for (from, row) in senders.iter().zip(shares.rows()) {
            for (i, share) in row.iter().enumerate() {
                values[[i, from.layer, from.head]] = *share;
            }
        }
        let mut absent = Array3::from_elem(shape, None);
        for ((i, layer, head), reason) in absent.indexed_iter_mut() {
            let to = receivers.get(i..=i).unwrap_or(receivers);
            if !to.iter().any(|to| layer < to.layer) {
                *reason = Some(Absent::NoPath);
            } else if partial && values[[i, layer, head]].is_nan() {
                *reason = Some(Absent::NotRun);
            }
        }
        let names = receivers.iter().map(ToString::to_string);
        let axes = vec![
            Axis::new("induction head", names.chain(["all".to_string()])),
            Axis::layers(shape.1),
            Axis::heads(shape.2),
        ];
        let about = About {
            title: "Paths into the keys of induction heads".to_string(),
            caption: "Share of the gain removed when the paths from a head into the keys of an \
                      induction head are cut."
                .to_string(),
            unit: "share of the gain".to_string(),
            baselines: [("gain (nats)".to_string(), gain)].into(),
            counts: [("prompts".to_string(), self.base().prompts().len() as u64)].into(),
            ..About::default()
        };
        Labelled::new(values, axes, about)?.with_absent(absent)
    }
}
