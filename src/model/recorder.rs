//! Keeping activations during a pass.

use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayView2, Axis};

use super::hooks::Visit;
use super::lane::Lane;
use super::rows::Rows;
use crate::cache::{ActivationCache, Selection};
use crate::config::Config;
use crate::hook::{Axes, HookPoint};
use crate::ops::{part, part_mut};

/// Keeps activations of a pass, one cache per lane.
pub(crate) struct Recorder {
    selection: Selection,
    caches: Vec<ActivationCache>,
}

impl Recorder {
    pub fn new(selection: &Selection, lanes: &[Lane<'_>]) -> Self {
        let caches = lanes
            .iter()
            .map(|lane| ActivationCache::new(lane.tokens, selection.positions()))
            .collect();
        Recorder {
            selection: selection.clone(),
            caches,
        }
    }

    pub fn wants(&self, at: HookPoint) -> bool {
        self.selection.contains(at)
    }

    /// Keeps the rows of all lanes at a point with a leading position axis; shares the memory
    /// where it can.
    pub fn record(&mut self, at: HookPoint, rows: &Rows, lanes: &[Lane<'_>], config: &Config) {
        for (i, lane) in lanes.iter().enumerate() {
            let n = lane.tokens.len();
            let positions = self.selection.positions();
            if lane.base.is_none() && positions.is_none() {
                let (data, range) = (Arc::clone(&rows.data), rows.layout.range(i));
                self.caches[i].insert_shared(at, data, range, at.axes().shape(config, n));
                continue;
            }
            let whole = complete(lane.base.map(|b| b.planned(at)), rows, i, n);
            let kept = match positions {
                Some(positions) => whole.select(Axis(0), positions),
                None => whole,
            };
            let (shape, range) = (at.axes().shape(config, kept.nrows()), 0..kept.nrows());
            self.caches[i].insert_shared(at, Arc::new(kept.into()), range, shape);
        }
    }

    /// Keeps one lane's values with three axes, of the heads and positions that are shown; the
    /// rest is the base's.
    pub fn record_lane(&mut self, at: &Visit<'_>, lane: &Lane<'_>, values: &Array3<f32>) {
        let axes = at.point.axes();
        let whole = match lane.base {
            None => values.clone(),
            Some(base) => completed(base.planned(at.point), at, values),
        };
        let kept = match self.selection.positions() {
            Some(positions) => whole.select(Axis(axes.pos_axis()), positions),
            None => whole,
        };
        self.caches[at.sequence].insert(at.point, kept.into_dyn());
    }

    /// The caches; what a lane did not compute at all is its base's.
    pub fn finish(mut self, lanes: &[Lane<'_>]) -> Vec<ActivationCache> {
        for (cache, lane) in self.caches.iter_mut().zip(lanes) {
            if let Some(base) = lane.base {
                cache.fill_from(base, &self.selection);
            }
        }
        self.caches
    }
}

/// A base's activation with the values that are shown in their places.
fn completed(base: ArrayView2<'_, f32>, at: &Visit<'_>, values: &Array3<f32>) -> Array3<f32> {
    let axes = at.point.axes();
    let shape = at.shape();
    let whole = base.to_owned();
    let whole = whole.into_shape_with_order((shape[0], shape[1], shape[2]));
    let mut whole = whole.expect("a base's activation is whole");
    let order = |position, head| match axes {
        Axes::Attention => [head, position],
        _ => [position, head],
    };
    for (i, position) in at.positions.iter().enumerate() {
        for (j, head) in at.heads.iter().enumerate() {
            let ([from, of], [to, at]) = (order(i, j), order(*position, *head));
            let row = values
                .index_axis(Axis(0), from)
                .index_axis_move(Axis(0), of);
            let mut place = whole.index_axis_mut(Axis(0), to);
            place.row_mut(at).assign(&row);
        }
    }
    whole
}

/// The rows of a whole sequence: the lane's where it has them, the base's elsewhere.
fn complete(base: Option<ArrayView2<'_, f32>>, rows: &Rows, lane: usize, n: usize) -> Array2<f32> {
    let mut whole = Array2::zeros((n, rows.data.ncols()));
    if let Some(base) = base {
        let known = base.nrows().min(n);
        part_mut(whole.view_mut(), 0, 0..known).assign(&part(base.view(), 0, 0..known));
    }
    let positions = rows.layout.positions(lane).iter();
    for (position, row) in positions.zip(rows.lane(lane).rows()) {
        whole.row_mut(*position).assign(&row);
    }
    whole
}
