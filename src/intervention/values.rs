//! Values that edits set or add.

use std::sync::Arc;

use ndarray::{ArrayD, ArrayViewD, IxDyn};

use super::Select;
use crate::cache::ActivationCache;
use crate::error::{Error, Result, one_or_each};
use crate::hook::HookPoint;
use crate::model::RunShape;

/// Values for an activation: broadcast to its shape by NumPy's rule (aligned at the last axis),
/// one array for all sequences or one per sequence. Clones share their memory.
///
/// ```
/// use patchlens::intervention::Values;
/// let _zero_point_five_everywhere = Values::scalar(0.5);
/// let _one_vector_for_every_position = Values::array(ndarray::arr1(&[0.0, 1.0]));
/// ```
#[derive(Clone, Debug)]
pub struct Values(Source);

#[derive(Clone, Debug)]
enum Source {
    Arrays(Arc<[ArrayD<f32>]>),
    /// What runs had at a point: shares the caches' memory.
    Caches(Arc<[ActivationCache]>, HookPoint),
}

impl Values {
    /// One number everywhere.
    pub fn scalar(value: f32) -> Self {
        Self::array(ndarray::arr0(value))
    }

    /// One array for all sequences.
    pub fn array<D: ndarray::Dimension>(values: ndarray::Array<f32, D>) -> Self {
        Values(Source::Arrays(Arc::new([values.into_dyn()])))
    }

    /// One array per sequence.
    pub fn arrays(values: Vec<ArrayD<f32>>) -> Self {
        Values(Source::Arrays(values.into()))
    }

    /// What runs had at a point: one cache per sequence, or one for all.
    ///
    /// # Errors
    /// [`Error::NotCached`] if one does not hold the point, [`Error::Shape`] if it kept only some
    /// positions.
    pub fn from_caches(caches: &[ActivationCache], point: HookPoint) -> Result<Self> {
        if caches.is_empty() {
            return Err(Error::invalid("caches", 0, "at least one"));
        }
        for cache in caches {
            let found = cache.get(point)?.shape().to_vec();
            if !cache.is_whole() {
                let n = cache.tokens().len();
                let expected = format!(
                    "all {n} positions; this cache kept {}",
                    cache.positions().len()
                );
                return Err(Error::Shape {
                    at: point.to_string(),
                    found,
                    expected,
                });
            }
        }
        Ok(Values(Source::Caches(caches.into(), point)))
    }

    /// The mean over runs of one length at a point, position by position.
    ///
    /// # Errors
    /// Same as [`Values::from_caches`]; [`Error::Shape`] if the runs' shapes differ.
    pub fn mean(caches: &[ActivationCache], point: HookPoint) -> Result<Self> {
        Self::from_caches(caches, point)?;
        let mut sum = caches[0].get(point)?.mapv(f64::from);
        for cache in &caches[1..] {
            let more = cache.get(point)?;
            if more.shape() != sum.shape() {
                return Err(Error::Shape {
                    at: format!("mean over runs at {point}"),
                    found: more.shape().to_vec(),
                    expected: format!("{:?} as in the first run", sum.shape()),
                });
            }
            sum.zip_mut_with(&more, |sum, v| *sum += f64::from(*v));
        }
        let count = caches.len() as f64;
        Ok(Self::array(sum.mapv(|v| (v / count) as f32)))
    }

    /// Whether this is known to hold for all values.
    pub(super) fn are_all(&self, holds: impl Fn(f32) -> bool) -> bool {
        match &self.0 {
            Source::Arrays(arrays) => arrays.iter().flatten().all(|v| holds(*v)),
            Source::Caches(..) => false,
        }
    }

    fn len(&self) -> usize {
        match &self.0 {
            Source::Arrays(arrays) => arrays.len(),
            Source::Caches(caches, _) => caches.len(),
        }
    }

    /// The array for a sequence.
    pub(crate) fn of(&self, sequence: usize) -> ArrayViewD<'_, f32> {
        let index = if self.len() == 1 { 0 } else { sequence };
        match &self.0 {
            Source::Arrays(arrays) => arrays[index].view(),
            Source::Caches(caches, point) => caches[index]
                .get(*point)
                .expect("`from_caches` has checked that every cache holds the point"),
        }
    }

    /// The values broadcast to an activation's shape, which [`Values::check`] has proved possible.
    pub(super) fn with_broadcast(
        &self,
        sequence: usize,
        shape: &[usize],
        f: impl FnOnce(ArrayViewD<'_, f32>),
    ) {
        let values = self.of(sequence);
        if let Some(values) = values.broadcast(IxDyn(shape)) {
            f(values);
        }
    }

    pub(super) fn check(
        &self,
        at: &str,
        point: HookPoint,
        run: &RunShape<'_>,
        sequences: &Select,
    ) -> Result<()> {
        let count = run.lengths.len();
        if self.len() != 1 && self.len() != count {
            let what = format!("{at}: number of arrays");
            let expected = one_or_each(count, "sequence");
            return Err(Error::invalid(what, self.len(), expected));
        }
        for (i, n) in run.lengths.iter().enumerate() {
            if !sequences.contains(i, count) {
                continue;
            }
            let values = self.of(i);
            let shape_of = |n: usize| point.axes().shape(run.config, n);
            // What a run had fits in whole or not at all: one token is no vector for all.
            let fits = |shape: &Vec<usize>| match self.0 {
                Source::Caches(..) => values.shape() == shape,
                Source::Arrays(_) => values.broadcast(IxDyn(shape)).is_some(),
            };
            // Values with a row per position fit one length only.
            let longer = run.growing.then_some(n + 1);
            let mut shapes = longer.into_iter().chain([*n]).map(shape_of);
            if let Some(shape) = shapes.find(|shape| !fits(shape)) {
                return Err(Error::Shape {
                    at: format!("{at} (sequence {i})"),
                    found: values.shape().to_vec(),
                    expected: format!("{shape:?}, [{}]", point.axes().names().join(", ")),
                });
            }
            if matches!(self.0, Source::Arrays(_)) && values.iter().any(|v| v.is_nan()) {
                return Err(Error::invalid(at, "NaN", "numbers"));
            }
        }
        Ok(())
    }
}
