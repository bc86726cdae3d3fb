//! The JSON form: flat values in row-major order beside the axes, checked when read back.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ndarray::{Array, ArrayD, ArrayViewD, IxDyn};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::about::About;
use super::absent::Absent;
use super::axis::Axis;
use super::labelled::Labelled;
use crate::error::{Error, Result};
use crate::number::Number;

/// What a `.json` file holds.
#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(flatten)]
    about: About,
    axes: Vec<Axis>,
    shape: Vec<usize>,
    values: Vec<Number>,
    std_error: Option<Vec<Number>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    texts: Option<Vec<String>>,
    /// Why values are `null`: flat indices by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    absent: BTreeMap<Absent, Vec<usize>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    color_range: Option<RangeInclusive<f32>>,
}

impl Serialize for Labelled {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let document = Document {
            about: self.about.clone(),
            axes: self.axes().to_vec(),
            shape: self.values().shape().to_vec(),
            values: cells(self.values()),
            std_error: self.std_error().map(cells),
            texts: self.texts().map(|texts| texts.iter().cloned().collect()),
            absent: self.absent_by_reason(),
            color_range: self.color_range().cloned(),
        };
        document.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Labelled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Document::deserialize(deserializer)?;
        document.read().map_err(serde::de::Error::custom)
    }
}

/// The numbers of an array in row-major order.
pub(super) fn cells(array: ArrayViewD<'_, f32>) -> Vec<Number> {
    array.iter().map(|&v| v.into()).collect()
}

impl Labelled {
    /// The flat indices of the cells without value, by reason.
    pub(super) fn absent_by_reason(&self) -> BTreeMap<Absent, Vec<usize>> {
        let mut found: BTreeMap<Absent, Vec<usize>> = BTreeMap::new();
        for (i, reason) in self.absent().iter().enumerate() {
            if let Some(reason) = reason {
                found.entry(*reason).or_default().push(i);
            }
        }
        found
    }
}

impl Document {
    fn read(self) -> Result<Labelled> {
        let shape = self.shape;
        let numbers = |name: &str, cells: Vec<Number>| {
            let numbers = cells.into_iter().map(f32::from).collect();
            shaped(name, "numbers", &shape, numbers)
        };
        let values = numbers("values", self.values)?;
        // What a file of an older version does not say.
        let mut reasons = values.mapv(|v: f32| v.is_nan().then_some(Absent::Unstated));
        let flat = reasons.as_slice_mut().expect("made in standard order");
        for (reason, cells) in self.absent {
            for cell in cells {
                let expected = format!("the index of one of {} cells", flat.len());
                let own = flat.get_mut(cell);
                *own.ok_or_else(|| Error::invalid("absent", cell, expected))? = Some(reason);
            }
        }
        let mut result = Labelled::new(values, self.axes, self.about)?.with_absent(reasons)?;
        if let Some(cells) = self.std_error {
            result = result.with_std_error(numbers("std_error", cells)?)?;
        }
        if let Some(texts) = self.texts {
            result = result.with_texts(shaped("texts", "texts", &shape, texts)?)?;
        }
        match self.color_range {
            Some(range) => result.with_color_range(range),
            None => Ok(result),
        }
    }
}

fn shaped<T>(name: &str, what: &str, shape: &[usize], flat: Vec<T>) -> Result<ArrayD<T>> {
    let found = format!("{} {what}", flat.len());
    let array = Array::from_shape_vec(IxDyn(shape), flat);
    array.map_err(|_| Error::invalid(name, found, format!("the shape {shape:?}")))
}
