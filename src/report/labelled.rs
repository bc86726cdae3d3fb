//! The one result type of all methods.

use std::ops::RangeInclusive;

use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, Axis as Dim, Dimension, IxDyn};

use super::about::{About, Direction, Normalization};
use super::absent::Absent;
use super::axis::{Axis, Part};
#[cfg(feature = "pictures")]
use super::digits::estimate;
#[cfg(feature = "pictures")]
use super::label::legible;
use crate::error::{Error, Result};

/// An array with a name and labels for every axis: the result of every method.
///
/// A cell that is NaN has no value, for one of the reasons of [`Absent`]. Two results are equal
/// where these coincide.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// What the numbers are.
    pub about: About,
    axes: Vec<Axis>,
    values: ArrayD<f32>,
    std_error: Option<ArrayD<f32>>,
    texts: Option<ArrayD<String>>,
    absent: ArrayD<Option<Absent>>,
    color_range: Option<RangeInclusive<f32>>,
}

impl PartialEq for Labelled {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &ArrayD<f32>, b: &ArrayD<f32>| {
            let mut pairs = a.iter().zip(b);
            a.shape() == b.shape() && pairs.all(|(x, y)| x == y || x.is_nan() && y.is_nan())
        };
        let errors = match (&self.std_error, &other.std_error) {
            (Some(a), Some(b)) => same(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.about == other.about
            && self.axes == other.axes
            && same(&self.values, &other.values)
            && self.absent == other.absent
            && self.texts == other.texts
            && self.color_range == other.color_range
            && errors
    }
}

impl Labelled {
    /// Joins values and axes, which must have as many labels as the values have indices. A NaN
    /// counts as computed ([`Absent::NotANumber`]) until [`Labelled::with_absent`] says otherwise.
    ///
    /// # Errors
    /// [`Error::Shape`] where the numbers differ, [`Error::Invalid`] for an axis that is empty,
    /// has no name, or has the name of another axis or of a CSV column (`value`, `std_error`,
    /// `text`, `absent`).
    pub fn new<D: Dimension>(values: Array<f32, D>, axes: Vec<Axis>, about: About) -> Result<Self> {
        let values = values.into_dyn();
        let expected: Vec<usize> = axes.iter().map(|axis| axis.labels.len()).collect();
        if values.shape() != expected {
            let names: Vec<&str> = axes.iter().map(|axis| axis.name.as_str()).collect();
            return Err(Error::Shape {
                at: format!("values of the axes [{}]", names.join(", ")),
                found: values.shape().to_vec(),
                expected: format!("{expected:?}, the numbers of labels"),
            });
        }
        for (i, axis) in axes.iter().enumerate() {
            axis.check(&axes[..i])?;
        }
        Ok(Labelled {
            about,
            axes,
            absent: values.mapv(|v| v.is_nan().then_some(Absent::NotANumber)),
            values,
            std_error: None,
            texts: None,
            color_range: None,
        })
    }

    /// Adds the standard error of every cell, in the shape of the values.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    pub fn with_std_error<D: Dimension>(mut self, std_error: Array<f32, D>) -> Result<Self> {
        self.check_shape("standard errors", std_error.shape())?;
        self.std_error = Some(std_error.into_dyn());
        Ok(self)
    }

    /// Adds a text to every cell, in the shape of the values: a token, say, whose probability is
    /// the value. Tables, pictures and pages write it into the cell, CSV and JSON keep it.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    pub fn with_texts<D: Dimension>(mut self, texts: Array<String, D>) -> Result<Self> {
        self.check_shape("texts of cells", texts.shape())?;
        self.texts = Some(texts.into_dyn());
        Ok(self)
    }

    /// Says why cells have no value, in the shape of the values. A NaN without a reason stays one
    /// that was computed.
    ///
    /// ```
    /// use ndarray::array;
    /// use patchlens::report::{About, Absent, Axis, Labelled};
    /// let effect = Labelled::new(array![0.5, f32::NAN], vec![Axis::heads(2)], About::default())?;
    /// assert!(effect.to_string().contains("NaN"));
    /// let effect = effect.with_absent(array![None, Some(Absent::NoPath)])?;
    /// assert!(effect.to_string().contains("no path"));
    /// # Ok::<(), patchlens::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape, [`Error::Invalid`] for a reason where there is a value.
    pub fn with_absent<D: Dimension>(mut self, reasons: Array<Option<Absent>, D>) -> Result<Self> {
        self.check_shape("reasons of absent values", reasons.shape())?;
        let reasons = reasons.into_dyn();
        for ((index, reason), value) in reasons.indexed_iter().zip(&self.values) {
            if let (Some(reason), false) = (reason, value.is_nan()) {
                let what = format!("absent value ({reason}) at {:?}", index.slice());
                return Err(Error::invalid(what, value, "NaN"));
            }
        }
        let given = reasons.into_iter();
        let absent = self.absent.iter_mut();
        absent
            .zip(given)
            .for_each(|(own, given)| *own = given.or(*own));
        Ok(self)
    }

    /// Sets the ends of the colour scale, so that results that are compared have the same colours;
    /// values beyond take the colour of the nearest end. Where zero must be in the middle, the
    /// scale reaches equally far to both sides. See [`shared_range`].
    ///
    /// # Errors
    /// [`Error::Invalid`] unless both ends are finite and the first is the smaller.
    pub fn with_color_range(mut self, range: RangeInclusive<f32>) -> Result<Self> {
        let (low, high) = (*range.start(), *range.end());
        if !(low < high && (high - low).is_finite()) {
            let found = format!("{low} to {high}");
            let expected = "two finite ends, the smaller one first";
            return Err(Error::invalid("colour range", found, expected));
        }
        self.color_range = Some(range);
        Ok(self)
    }

    fn check_shape(&self, what: &str, shape: &[usize]) -> Result<()> {
        if shape == self.values.shape() {
            return Ok(());
        }
        Err(Error::Shape {
            at: what.to_string(),
            found: shape.to_vec(),
            expected: format!("{:?}, the shape of the values", self.values.shape()),
        })
    }

    /// The values; NaN where there is none.
    pub fn values(&self) -> ArrayViewD<'_, f32> {
        self.values.view()
    }

    /// One axis per dimension of the values.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// The standard errors, if known.
    pub fn std_error(&self) -> Option<ArrayViewD<'_, f32>> {
        self.std_error.as_ref().map(|errors| errors.view())
    }

    /// The cells' texts, if they have some.
    pub fn texts(&self) -> Option<ArrayView<'_, String, IxDyn>> {
        self.texts.as_ref().map(|texts| texts.view())
    }

    /// Why a cell has no value; `None` where it has one.
    pub fn absent(&self) -> ArrayView<'_, Option<Absent>, IxDyn> {
        self.absent.view()
    }

    /// The ends of the colour scale, where they are set.
    pub fn color_range(&self) -> Option<&RangeInclusive<f32>> {
        self.color_range.as_ref()
    }

    /// The parts of which the cells' names are made.
    pub(super) fn parts(&self) -> Vec<Part> {
        Part::all(&self.axes)
    }

    /// A cell's name and value: `3.1: 0.154 ± 0.011 logit difference`.
    #[cfg(feature = "pictures")]
    pub(super) fn describe(&self, parts: &[Part], index: &[usize]) -> String {
        let names = parts
            .iter()
            .map(|part| legible(part.at(index, self.values.shape())));
        let names = names.collect::<Vec<_>>().join(", ");
        let text = self
            .texts
            .as_ref()
            .map(|texts| format!("`{}` ", legible(&texts[index])));
        let value = match self.absent[index] {
            Some(reason) => format!("{reason} ({})", reason.describe()),
            None => {
                let error = self.std_error.as_ref().map(|errors| errors[index]);
                let value = estimate(self.values[index], error);
                format!("{value} {}", legible(&self.about.unit_label()))
            }
        };
        format!("{names}: {}{value}", text.unwrap_or_default())
    }

    /// A result with one axis in order of falling magnitude, cells without value last: its bars
    /// in a picture then form a ranking.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of axes.
    pub fn sorted(&self) -> Result<Self> {
        let [axis] = self.axes.as_slice() else {
            return Err(Error::Shape {
                at: "sorting".to_string(),
                found: self.values.shape().to_vec(),
                expected: "one axis".to_string(),
            });
        };
        let magnitude = |i: &usize| self.values[[*i]].abs();
        let mut order: Vec<usize> = (0..axis.labels.len()).collect();
        let absent = |i: &usize| magnitude(i).is_nan();
        order.sort_by(|a, b| {
            let by_value = magnitude(b).total_cmp(&magnitude(a));
            absent(a).cmp(&absent(b)).then(by_value)
        });
        let labels = order.iter().map(|&i| axis.labels[i].clone());
        let mut result = self.clone();
        result.axes = vec![Axis::new(axis.name.clone(), labels)];
        result.values = self.values.select(Dim(0), &order);
        result.absent = self.absent.select(Dim(0), &order);
        let errors = self.std_error.as_ref();
        result.std_error = errors.map(|errors| errors.select(Dim(0), &order));
        let texts = self.texts.as_ref();
        result.texts = texts.map(|texts| texts.select(Dim(0), &order));
        Ok(result)
    }

    /// The change of every cell over `clean − corrupted`. Of values as measured, the change is
    /// taken from the corrupted run's baseline, or the clean run's, if that is patched into
    /// ([`About::direction`]). So 0 is no change; 1 is that from the corrupted run to the clean
    /// one, −1 that back. Standard errors are scaled alike: the baselines' own are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the values are normalised already, if a baseline is missing, or if
    /// the baselines are equal or not finite.
    pub fn normalized(&self) -> Result<Self> {
        let [clean, corrupted] = ["clean", "corrupted"].map(|name| self.baseline(name));
        let (clean, corrupted) = (clean?, corrupted?);
        let span = clean - corrupted;
        if !span.is_finite() || span == 0.0 {
            let found = format!("clean {clean} and corrupted {corrupted}");
            let expected = "two different finite baselines: prompts on which the metric differs";
            return Err(Error::invalid("normalization", found, expected));
        }
        let from = match (self.about.normalization, self.about.direction) {
            (Normalization::Change, _) => 0.0,
            (Normalization::Raw, Some(Direction::Noising)) => clean,
            (Normalization::Raw, _) => corrupted,
            (Normalization::Normalized, _) => {
                let expected = "raw values or changes";
                return Err(Error::invalid(
                    "normalization",
                    "normalized values",
                    expected,
                ));
            }
        };
        let mut result = self.clone();
        result.values.mapv_inplace(|m| (m - from) / span);
        if let Some(errors) = &mut result.std_error {
            errors.mapv_inplace(|e| e / span.abs());
        }
        // The old ends are in another unit.
        result.color_range = None;
        result.about.normalization = Normalization::Normalized;
        result.about.title += ", normalized";
        Ok(result)
    }

    fn baseline(&self, name: &str) -> Result<f32> {
        let baselines = &self.about.baselines;
        baselines.get(name).copied().ok_or_else(|| {
            let names: Vec<_> = baselines.keys().map(String::as_str).collect();
            let found = format!("baselines [{}]", names.join(", "));
            Error::invalid("normalization", found, format!("a baseline `{name}`"))
        })
    }
}

/// The range of the finite values of several results, for [`Labelled::with_color_range`]: the same
/// colour then means the same value in all their pictures.
///
/// ```
/// use ndarray::array;
/// use patchlens::report::{About, Axis, Labelled, shared_range};
/// let of = |values| Labelled::new(values, vec![Axis::heads(2)], About::default());
/// let (small, large) = (of(array![0.1, -0.2])?, of(array![0.5, 4.0])?);
/// let range = shared_range([&small, &large]);
/// assert_eq!(range, -0.2..=4.0);
/// let small = small.with_color_range(range)?;
/// # Ok::<(), patchlens::Error>(())
/// ```
pub fn shared_range<'a>(of: impl IntoIterator<Item = &'a Labelled>) -> RangeInclusive<f32> {
    let mut range = (f32::INFINITY, f32::NEG_INFINITY);
    for result in of {
        let (low, high) = finite_range(&result.values());
        range = (range.0.min(low), range.1.max(high));
    }
    match range {
        (low, high) if low < high => low..=high,
        // A single value, or none: from zero to it.
        (low, _) if low.is_finite() && low != 0.0 => low.min(0.0)..=low.max(0.0),
        _ => 0.0..=1.0,
    }
}

/// The smallest and the largest finite value; `(∞, −∞)` where there is none.
pub(super) fn finite_range(values: &ArrayViewD<'_, f32>) -> (f32, f32) {
    let finite = values.iter().filter(|v| v.is_finite());
    finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), v| {
        (low.min(*v), high.max(*v))
    })
}
