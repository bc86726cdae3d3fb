//! Values that edits set or add.

mod fit;

use std::sync::Arc;

use ndarray::{ArrayD, ArrayViewD, IxDyn};

use super::Target;
use crate::cache::{ActivationCache, RunKind};
use crate::error::{Error, Result, one_or_each};
use crate::fingerprint::Identity;
use crate::hook::HookPoint;
use crate::model::RunShape;
use fit::{Fit, Part};

pub(super) use fit::Fitted;

/// Values for an activation: broadcast to its shape by NumPy's rule (aligned at the last axis),
/// one array for all sequences or one per sequence. Clones share their memory.
///
/// Values that do not fit the whole activation may fit the part that the intervention's
/// [`Target`] names, in ascending order of position, head, source and column: `[2, d_model]`
/// where two positions are named, `[pos, 3]` or `[3]` where three neurons are. In a subspace,
/// values are rows of the whole space.
///
/// ```
/// use ndarray::{arr1, arr2};
/// use patchlens::intervention::Values;
/// use patchlens::{Edit, Intervention, Site, Target};
/// let _zero_point_five_everywhere = Values::scalar(0.5);
/// let _one_vector_for_every_position = Values::array(arr1(&[0.0, 1.0]));
/// let at_two = Target::new(Site::MlpOut.at(1)).at_positions([3, 4]);
/// let one_vector_for_each = Values::array(arr2(&[[0.0, 1.0], [2.0, 3.0]])); // [pos, d_model]
/// let _intervention = Intervention::new(at_two, Edit::Set(one_vector_for_each));
/// ```
#[derive(Clone, Debug)]
pub struct Values {
    source: Source,
    of: Model,
    /// Whether they are gradients rather than activations.
    gradients: bool,
}

/// Which model values must belong to.
#[derive(Clone, Debug)]
enum Model {
    Any,
    /// The model whose runs they are of; none if the caches do not say it.
    Own(Option<Identity>),
}

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
        Self::given(Source::Arrays(Arc::new([values.into_dyn()])))
    }

    /// One array per sequence.
    pub fn arrays(values: Vec<ArrayD<f32>>) -> Self {
        Self::given(Source::Arrays(values.into()))
    }

    fn given(source: Source) -> Self {
        Values {
            source,
            of: Model::Any,
            gradients: false,
        }
    }

    /// What runs had at a point: one cache per sequence, or one for all. The runs may have been
    /// under hooks. An intervention with these values is an error in another model than theirs,
    /// unless they are taken [`of_other_model`](Values::of_other_model).
    ///
    /// # Errors
    /// [`Error::NotCached`] if one does not hold the point, [`Error::Shape`] if it kept only some
    /// positions, [`Error::Provenance`] if they are of several models.
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
        Ok(Values {
            source: Source::Caches(caches.into(), point),
            of: Model::Own(common_model(caches)?),
            gradients: caches
                .iter()
                .any(|cache| cache.run_kind() == Some(RunKind::Gradients)),
        })
    }

    /// Lets values of another model's runs in, such as a fine-tuned one's, wherever the shapes fit:
    /// patching across models. Also for caches that do not say of which model they are.
    ///
    /// ```
    /// use patchlens::intervention::Values;
    /// use patchlens::{Config, Edit, Intervention, Interventions, Prompt, Run, Selection, Site,
    /// Transformer};
    /// let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
    /// ..Config::gpt2() };
    /// let (tuned, model) = (Transformer::random(config.clone(), 1)?, Transformer::random(config, 0)?);
    /// let point = Site::MlpOut.at(1);
    /// let (_, cache) = tuned.run_with_cache(&[1, 2, 3], &Selection::points([point]))?;
    /// let values = Values::from_caches(&[cache], point)?;
    /// let run = |values| {
    ///     let patch = Intervention::new(point, Edit::Patch(values));
    ///     model.run(&Prompt::from([1, 2, 3]), Interventions::new(vec![patch]), &Run::default())
    /// };
    /// assert!(run(values.clone()).is_err());
    /// assert!(run(values.of_other_model()).is_ok());
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    #[must_use]
    pub fn of_other_model(mut self) -> Self {
        self.of = Model::Any;
        self
    }

    /// The mean over runs of one length at a point, position by position.
    ///
    /// # Errors
    /// Same as [`Values::from_caches`]; [`Error::Shape`] if the runs' shapes differ.
    pub fn mean(caches: &[ActivationCache], point: HookPoint) -> Result<Self> {
        let Values { of, gradients, .. } = Self::from_caches(caches, point)?;
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
        let mean = Self::array(sum.mapv(|v| (v / count) as f32));
        Ok(Values {
            of,
            gradients,
            ..mean
        })
    }

    /// The memory that they take, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let len = match &self.source {
            Source::Arrays(arrays) => arrays.iter().map(ArrayD::len).sum(),
            Source::Caches(caches, point) => {
                let values = caches.iter().filter_map(|cache| cache.get(*point).ok());
                values.map(|values| values.len()).sum::<usize>()
            }
        };
        4 * len as u64
    }

    /// Checks that they are what runs had at a point.
    ///
    /// # Errors
    /// [`Error::Provenance`] for gradients there.
    pub(super) fn check_no_gradients(&self, at: &str) -> Result<()> {
        if !self.gradients {
            return Ok(());
        }
        Err(Error::Provenance {
            at: at.to_string(),
            found: RunKind::Gradients.describe().to_string(),
            expected: "activations of a run (`Edit::Add` takes gradients, too)".to_string(),
        })
    }

    /// Whether this is known to hold for all values.
    pub(super) fn are_all(&self, holds: impl Fn(f32) -> bool) -> bool {
        match &self.source {
            Source::Arrays(arrays) => arrays.iter().flatten().all(|v| holds(*v)),
            Source::Caches(..) => false,
        }
    }

    fn len(&self) -> usize {
        match &self.source {
            Source::Arrays(arrays) => arrays.len(),
            Source::Caches(caches, _) => caches.len(),
        }
    }

    /// The array for a sequence.
    pub(crate) fn of(&self, sequence: usize) -> ArrayViewD<'_, f32> {
        let index = if self.len() == 1 { 0 } else { sequence };
        match &self.source {
            Source::Arrays(arrays) => arrays[index].view(),
            Source::Caches(caches, point) => caches[index]
                .get(*point)
                .expect("`from_caches` has checked that every cache holds the point"),
        }
    }

    /// How they fit an activation of this shape, if they do.
    fn fit(&self, target: &Target, sequence: usize, shape: &[usize]) -> Option<Fit> {
        let values = self.of(sequence);
        if let Source::Caches(..) = self.source {
            // What a run had fits in whole or not at all: one token is no vector for all.
            return (values.shape() == shape).then_some(Fit::Whole);
        }
        if values.broadcast(IxDyn(shape)).is_some() {
            return Some(Fit::Whole);
        }
        let part = Part::new(target, sequence, shape);
        let fits = part.ascends && values.broadcast(IxDyn(&part.shape(shape))).is_some();
        fits.then_some(Fit::Part(part))
    }

    /// The values as they fit an activation's shape, which [`Values::check`] has proved possible.
    pub(super) fn with_fitted(
        &self,
        target: &Target,
        sequence: usize,
        shape: &[usize],
        f: impl FnOnce(&Fitted<'_>),
    ) {
        let values = self.of(sequence);
        let Some(fit) = self.fit(target, sequence, shape) else {
            return;
        };
        let to = match &fit {
            Fit::Whole => shape.to_vec(),
            Fit::Part(part) => part.shape(shape),
        };
        if let Some(values) = values.broadcast(IxDyn(&to)) {
            f(&Fitted { values, fit });
        }
    }

    pub(super) fn check(&self, at: &str, target: &Target, run: &RunShape<'_>) -> Result<()> {
        if let (Model::Own(of), Some(model)) = (&self.of, run.model) {
            model.check_own(at, of.as_ref())?;
        }
        let count = run.lengths.len();
        if self.len() != 1 && self.len() != count {
            let what = format!("{at}: number of arrays");
            let expected = one_or_each(count, "sequence");
            return Err(Error::invalid(what, self.len(), expected));
        }
        for (i, n) in run.lengths.iter().enumerate() {
            if !target.takes(i, count) {
                continue;
            }
            // Values with a row per position fit one length only.
            let longer = run.growing.then_some(n + 1);
            for n in longer.into_iter().chain([*n]) {
                let shape = target.point.axes().shape(run.config, n);
                if self.fit(target, i, &shape).is_none() {
                    return Err(self.misfit(at, target, i, &shape));
                }
                self.check_one_meaning(at, target, i, &shape)?;
            }
            if matches!(self.source, Source::Arrays(_)) {
                self.check_numbers(at, target, i)?;
            }
        }
        Ok(())
    }

    /// Refuses a row per position, given for one head of as many as there are positions: by the
    /// rule, it is a row per head, the same at all positions.
    fn check_one_meaning(
        &self,
        at: &str,
        target: &Target,
        sequence: usize,
        shape: &[usize],
    ) -> Result<()> {
        const HEAD_AXIS: usize = 1;
        if target.point.axes().head_axis() != Some(HEAD_AXIS) {
            return Ok(());
        }
        let part = Part::new(target, sequence, shape);
        let (positions, heads) = (part.positions.len(), part.heads.len());
        let named = part.shape(shape);
        let mut rows = named.clone();
        rows.remove(HEAD_AXIS);
        let values = self.of(sequence);
        let one_of_many = heads == 1 && shape[HEAD_AXIS] > 1;
        let some = positions > 1 && positions < shape[0];
        if !one_of_many || !some || values.shape() != rows {
            return Ok(());
        }
        let rows = [&[1], &rows[..]].concat();
        let expected = format!("{named:?}, a row per position, or {rows:?}, a row per head");
        Err(Error::Shape {
            at: format!("{at} (sequence {sequence})"),
            found: values.shape().to_vec(),
            expected,
        })
    }

    fn check_numbers(&self, at: &str, target: &Target, sequence: usize) -> Result<()> {
        let values = self.of(sequence);
        if values.iter().any(|v| v.is_nan()) {
            return Err(Error::invalid(at, "NaN", "numbers"));
        }
        let infinite = || values.iter().find(|v| v.is_infinite());
        match target.subspace.as_ref().and_then(|_| infinite()) {
            None => Ok(()),
            Some(v) => Err(Error::invalid(at, v, "finite numbers in a subspace")),
        }
    }

    fn misfit(&self, at: &str, target: &Target, sequence: usize, shape: &[usize]) -> Error {
        let names = target.point.axes().names().join(", ");
        let mut expected = format!("{shape:?}, [{names}]");
        let part = Part::new(target, sequence, shape).shape(shape);
        if matches!(self.source, Source::Arrays(_)) && part != shape {
            expected += &format!(", or {part:?} for its target alone, named in ascending order");
        }
        Error::Shape {
            at: format!("{at} (sequence {sequence})"),
            found: self.of(sequence).shape().to_vec(),
            expected,
        }
    }
}

/// The model that caches are of.
fn common_model(caches: &[ActivationCache]) -> Result<Option<Identity>> {
    let of = |cache: &ActivationCache| cache.provenance.as_ref().map(|of| of.model.clone());
    let first = caches.first().and_then(of);
    let same = |cache: &ActivationCache| match (&first, of(cache)) {
        (Some(first), Some(other)) => first.is(&other),
        (first, other) => first.is_none() && other.is_none(),
    };
    let name = |of: Option<Identity>| match of.and_then(|of| of.known()) {
        Some(model) => format!("model {model}"),
        None => "an unknown model".to_string(),
    };
    match caches.iter().position(|cache| !same(cache)) {
        None => Ok(first),
        Some(i) => Err(Error::Provenance {
            at: format!("cache {i}"),
            found: format!("activations of {}", name(of(&caches[i]))),
            expected: format!("those of {}, as in cache 0", name(first)),
        }),
    }
}
