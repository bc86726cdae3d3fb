//! The rows in which a circuit's run differs from the run that it departs from.

use ndarray::ArrayView1;

use super::ablation::Ends;
use super::route::{Form, Route};
use crate::base::Base;
use crate::circuits::edge::{Receiver, Source};
use crate::component::{Head, Qkv};
use crate::config::AttentionDirection;
use crate::error::Result;
use crate::hook::{HookPoint, Site};
use crate::model::lane::Change;

/// In which rows the two runs of a pair differ.
pub(super) struct PairRows {
    /// What the edges of `input` carry.
    input: Vec<bool>,
    /// What any others do.
    others: Vec<bool>,
    /// Whether a part that reads ablations alone writes its own ablation.
    consistent: bool,
    /// Which rows attention reads.
    direction: AttentionDirection,
}

impl PairRows {
    /// # Errors
    /// [`Error::NotCached`](crate::Error::NotCached) if given caches lack the embeddings.
    pub fn new(ends: &Ends<'_>, pair: usize) -> Result<Self> {
        let embedded = |runs: &Base<'_>| {
            let caches = runs.held([HookPoint::Embed])?;
            Ok(caches[pair].flat(HookPoint::Embed)?.to_owned())
        };
        let full = embedded(&ends.full)?;
        let carried = match &ends.carried {
            Some(carried) => carried[pair][0].clone(),
            None => embedded(&ends.empty)?,
        };
        let rows = full.rows().into_iter().zip(carried.rows());
        let differ = |(a, b): (ArrayView1<'_, f32>, ArrayView1<'_, f32>)| {
            a.iter().zip(b).any(|(a, b)| a.to_bits() != b.to_bits())
        };
        let input: Vec<bool> = rows.map(differ).collect();
        let consistent = ends.carried.is_none();
        // Plain runs of two prompts have the same bits in rows that read no token that differs.
        let tokens = |runs: &Base<'_>| runs.prompts()[pair].tokens.clone();
        let (a, b) = (tokens(&ends.full), tokens(&ends.empty));
        let first = a.iter().zip(&b).position(|(a, b)| a != b);
        let direction = ends.full.model().config().attention;
        let first = first.filter(|_| consistent);
        let first = first.map(|first| direction.first_reader(first));
        let first = first.unwrap_or(if consistent { a.len() } else { 0 });
        Ok(PairRows {
            others: (0..a.len()).map(|row| row >= first).collect(),
            input,
            consistent,
            direction,
        })
    }

    fn len(&self) -> usize {
        self.input.len()
    }
}

/// The rows that each part of the block under way reads or writes and that differ from those of the run
/// that is departed from.
pub(super) struct Flow<'f> {
    route: &'f Route,
    rows: &'f PairRows,
    /// What sources write, by source, as far as it is known.
    written: Vec<Vec<bool>>,
}

impl<'f> Flow<'f> {
    pub fn new(route: &'f Route, rows: &'f PairRows) -> Self {
        let same = vec![false; rows.len()];
        let still = match (route.form, rows.consistent) {
            (Form::Kept, true) => &same,
            _ => &rows.others,
        };
        let rows_of = |known: &bool| if *known { &rows.others } else { still };
        let mut written: Vec<Vec<bool>> = route.known.iter().map(rows_of).cloned().collect();
        written[0] = rows.input.clone();
        Flow {
            route,
            rows,
            written,
        }
    }

    pub fn read(&self, to: Receiver) -> Vec<bool> {
        let mut rows = vec![false; self.rows.len()];
        for source in self.route.into(to) {
            let written = self.written[*source].iter();
            rows.iter_mut().zip(written).for_each(|(row, w)| *row |= w);
        }
        rows
    }

    /// Notes that a part writes other values in these rows, because of what it reads.
    fn write(&mut self, source: Source, rows: impl Iterator<Item = bool>) {
        let written = &mut self.written[self.route.graph.source_index(source)];
        written.iter_mut().zip(rows).for_each(|(w, row)| *w |= row);
    }

    /// The places where a lane departs from its base in a layer.
    pub fn layer(&mut self, layer: usize) -> Vec<Change> {
        let n_heads = self.route.graph.n_heads();
        let read: [Vec<Vec<bool>>; 3] = Qkv::ALL.map(|read| {
            let heads = (0..n_heads).map(|head| Head::new(layer, head));
            heads
                .map(|head| self.read(Receiver::Head(head, read)))
                .collect()
        });
        let mut changes: Vec<Change> = Vec::new();
        for (of, heads) in Qkv::ALL.into_iter().zip(&read) {
            changes.extend(change(of.site().at(layer), heads, true));
        }
        let [queries, keys, values] = &read;
        let heads = queries.iter().zip(keys).zip(values).enumerate();
        for (head, ((q, k), v)) in heads {
            let first = k.iter().zip(v).position(|(k, v)| *k || *v);
            let first = first.map(|first| self.rows.direction.first_reader(first));
            let rows = q.iter().enumerate();
            let rows = rows.map(|(row, q)| *q || first.is_some_and(|first| row >= first));
            self.write(Source::Head(Head::new(layer, head)), rows);
        }
        if !self.route.graph.has_mlps() {
            return changes;
        }
        let mid = self.read(Receiver::Mlp(layer));
        changes.extend(change(
            Site::MlpIn.at(layer),
            std::slice::from_ref(&mid),
            false,
        ));
        self.write(Source::Mlp(layer), mid.into_iter());
        changes
    }
}

/// The change at a place of the rows that differ in any of its heads.
fn change(point: HookPoint, heads: &[Vec<bool>], by_head: bool) -> Option<Change> {
    let rows = (0..heads[0].len()).filter(|row| heads.iter().any(|head| head[*row]));
    let rows: Vec<usize> = rows.collect();
    let changed = heads
        .iter()
        .enumerate()
        .filter(|(_, head)| head.contains(&true));
    let changed: Vec<usize> = changed.map(|(head, _)| head).collect();
    (!rows.is_empty()).then(|| Change {
        point,
        rows,
        heads: if by_head { changed } else { Vec::new() },
    })
}
