//! Keeping activations during a pass.

use ndarray::{Array2, Array3, ArrayD, ArrayView2, ArrayView3, ArrayViewMutD, Axis};
use std::sync::Arc;

use super::lane::Lane;
use super::rows::Rows;
use super::stage::Frozen;
use crate::cache::{ActivationCache, Entry, Provenance, RunKind, Selection};
use crate::config::Config;
use crate::fingerprint::Identity;
use crate::hook::HookPoint;
use crate::ops::{part, part_mut};
use crate::select::Select;

/// Keeps activations of a pass, one cache per lane. Where the selection names positions, lanes are
/// the prompts that it knows, in order.
pub(crate) struct Recorder {
    selection: Selection,
    caches: Vec<ActivationCache>,
    /// What a hook is about to be shown.
    before: Vec<f32>,
}

impl Recorder {
    pub fn new(selection: &Selection, lanes: &[Lane<'_>], model: &Identity) -> Self {
        let cache = |(prompt, lane): (usize, &Lane<'_>)| {
            let positions = selection.positions.resolve(prompt, lane.tokens.len());
            let provenance = Provenance {
                model: model.clone(),
                kind: kind(lane),
            };
            ActivationCache::new(lane.tokens, positions, Some(provenance))
        };
        let caches = lanes.iter().enumerate().map(cache).collect();
        Recorder {
            selection: selection.clone(),
            caches,
            before: Vec::new(),
        }
    }

    /// Takes note of whether a hook changes what it is shown of a lane.
    pub fn watch<'v>(
        &mut self,
        lane: usize,
        mut values: ArrayViewMutD<'v, f32>,
        hook: impl FnOnce(ArrayViewMutD<'_, f32>),
    ) {
        let provenance = self.caches[lane].provenance.as_mut();
        let Some(plain) = provenance.filter(|of| of.kind == RunKind::Plain) else {
            return hook(values);
        };
        self.before.clear();
        self.before.extend(values.iter());
        hook(values.view_mut());
        let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
        if self.before.iter().zip(&values).any(differs) {
            plain.kind = RunKind::UnderHooks;
        }
    }

    pub fn wants(&self, at: HookPoint) -> bool {
        self.selection.points.contains(&at)
    }

    /// The positions that are kept of a lane; `None` for all.
    fn positions(&self, lane: usize) -> Option<&[usize]> {
        let some = self.selection.positions != Select::All;
        some.then(|| self.caches[lane].positions())
    }

    /// Keeps the rows of all lanes at a point with a leading position axis; shares the memory
    /// where it can.
    pub fn record(&mut self, at: HookPoint, stack: &Rows, lanes: &[Lane<'_>], config: &Config) {
        for (i, lane) in lanes.iter().enumerate() {
            let n = lane.tokens.len();
            let entry = match (lane.base, self.positions(i)) {
                (None, None) => Entry {
                    data: Arc::clone(&stack.data),
                    rows: stack.layout.range(i),
                    shape: at.axes().shape(config, n),
                },
                (base, positions) => {
                    let whole = complete(base.map(|b| b.planned(at)), stack, i, n);
                    let kept = match positions {
                        Some(positions) => whole.select(Axis(0), positions),
                        None => whole,
                    };
                    let shape = at.axes().shape(config, kept.nrows());
                    Entry::owned(kept, shape)
                }
            };
            self.caches[i].entries.insert(at, entry);
        }
    }

    /// Keeps an activation of one lane, `[pos, head, d_model]`: all heads, and the positions
    /// given; the rest is the base's.
    pub fn record_rows(
        &mut self,
        at: HookPoint,
        index: usize,
        lane: &Lane<'_>,
        positions: &[usize],
        values: Array3<f32>,
    ) {
        let whole = completed(lane, at, values, Axis(0), |whole, values| {
            for (position, row) in positions.iter().zip(values.outer_iter()) {
                whole.index_axis_mut(Axis(0), *position).assign(&row);
            }
        });
        self.insert(at, index, whole, Axis(0));
    }

    /// Same as [`Recorder::finish`], for gradients. The sign of a NaN depends on where in a vector
    /// two of them were added; one NaN stands for all.
    pub fn finish_gradients(mut self, lanes: &[Lane<'_>]) -> Vec<ActivationCache> {
        for cache in &mut self.caches {
            if let Some(provenance) = &mut cache.provenance {
                provenance.kind = RunKind::Gradients;
            }
            for Entry { data, rows, .. } in cache.entries.values_mut() {
                let own = part(data.view(), 0, rows.clone());
                if own.iter().any(|v| v.is_nan()) {
                    let mut own = part_mut(Arc::make_mut(data).view_mut(), 0, rows.clone());
                    own.map_inplace(|v| *v = if v.is_nan() { f32::NAN } else { *v });
                }
            }
        }
        self.finish(lanes)
    }

    /// The caches; what a lane did not compute at all is its base's.
    pub fn finish(mut self, lanes: &[Lane<'_>]) -> Vec<ActivationCache> {
        for (cache, lane) in self.caches.iter_mut().zip(lanes) {
            for (point, entry) in lane.base.iter().flat_map(|base| &base.entries) {
                if self.selection.points.contains(point) {
                    cache.entries.entry(*point).or_insert_with(|| entry.clone());
                }
            }
        }
        self.caches
    }

    /// Keeps attention of one lane, `[head, dest, src]`, for the heads and destinations given;
    /// the rest is the base's.
    pub fn record_attention(
        &mut self,
        at: HookPoint,
        index: usize,
        lane: &Lane<'_>,
        part: AttentionPart<'_>,
        values: Array3<f32>,
    ) {
        let whole = completed(lane, at, values, Axis(1), |whole, values| {
            for (h, of_head) in part.heads.iter().zip(values.outer_iter()) {
                let mut whole = whole.index_axis_mut(Axis(0), *h);
                for (d, row) in part.dest.iter().zip(of_head.outer_iter()) {
                    whole.index_axis_mut(Axis(0), *d).assign(&row);
                }
            }
        });
        self.insert(at, index, whole, Axis(1));
    }

    /// Keeps the selected positions of a whole activation; `pos` is their axis.
    fn insert(&mut self, at: HookPoint, lane: usize, whole: Array3<f32>, pos: Axis) {
        let kept = match self.positions(lane) {
            Some(positions) => whole.select(pos, positions),
            None => whole,
        };
        self.keep(at, lane, kept.into_dyn());
    }

    fn keep(&mut self, at: HookPoint, lane: usize, values: ArrayD<f32>) {
        let entry = Entry::from_array(at.axes(), values);
        self.caches[lane].entries.insert(at, entry);
    }
}

/// The kind of a lane's run, as long as no hook changes anything.
fn kind(lane: &Lane<'_>) -> RunKind {
    if lane.frozen != Frozen::default() {
        return RunKind::UnderHooks;
    }
    let base = lane.base.and_then(ActivationCache::run_kind);
    base.unwrap_or(RunKind::Plain)
}

/// The heads and the destinations that a part of an attention activation has; none are named
/// where it is whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct AttentionPart<'a> {
    pub heads: &'a [usize],
    pub dest: &'a [usize],
}

/// A lane's whole activation: its own values, which `write` puts into its base's where it has one.
/// `pos` is the axis that has a place for each of the lane's tokens.
fn completed(
    lane: &Lane<'_>,
    at: HookPoint,
    values: Array3<f32>,
    pos: Axis,
    write: impl FnOnce(&mut Array3<f32>, ArrayView3<'_, f32>),
) -> Array3<f32> {
    let Some(base) = lane.base else {
        return values;
    };
    let (n, flat) = (lane.tokens.len(), base.planned(at));
    let shape = if pos == Axis(0) {
        let (_, heads, width) = values.dim();
        (n, heads, width)
    } else {
        (flat.nrows() / n, n, n)
    };
    let whole = flat.to_owned().into_shape_with_order(shape);
    let mut whole = whole.expect("a base's activation is whole");
    write(&mut whole, values.view());
    whole
}

/// The rows of a whole sequence: the lane's where it has them, the base's elsewhere.
fn complete(base: Option<ArrayView2<'_, f32>>, stack: &Rows, lane: usize, n: usize) -> Array2<f32> {
    let mut whole = Array2::zeros((n, stack.data.ncols()));
    if let Some(base) = base {
        let known = base.nrows().min(n);
        part_mut(whole.view_mut(), 0, 0..known).assign(&part(base.view(), 0, 0..known));
    }
    for (position, row) in stack
        .layout
        .positions(lane)
        .iter()
        .zip(stack.lane(lane).rows())
    {
        whole.row_mut(*position).assign(&row);
    }
    whole
}
