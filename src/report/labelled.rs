//! The one result type of all methods.

use std::collections::BTreeMap;

use ndarray::{Array, ArrayD, ArrayView, ArrayViewD, Dimension, IxDyn};
use serde::{Deserialize, Serialize};

use super::color::Palette;
use super::json::Document;
use super::label::Axis;
use crate::error::{Error, Result};
use crate::number;

/// Which run is patched into which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Clean activations are patched into the corrupted run.
    Denoising,
    /// Corrupted activations are patched into the clean run.
    Noising,
}

impl Direction {
    /// The direction in words, as captions print it.
    pub fn describe(self) -> &'static str {
        match self {
            Direction::Denoising => "denoising: clean patched into corrupted",
            Direction::Noising => "noising: corrupted patched into clean",
        }
    }
}

/// Whether values are as measured or relative to the baselines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    /// As measured.
    #[default]
    Raw,
    /// `(m − corrupted) / (clean − corrupted)`: 0 is the corrupted run, 1 the clean run.
    Normalized,
}

/// What the numbers of a [`Labelled`] array are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// One line.
    pub title: String,
    /// What was patched into what, in a sentence or two.
    pub caption: String,
    /// What is measured: `logit difference`, `probability`, ...
    pub unit: String,
    /// The patching direction, where there is one.
    pub direction: Option<Direction>,
    /// Raw or normalised.
    pub normalization: Normalization,
    /// The colour scale that suits the values.
    pub palette: Palette,
    /// The metric of the unpatched runs; `clean` and `corrupted` for patching.
    #[serde(with = "number::named")]
    pub baselines: BTreeMap<String, f32>,
    /// What was counted: prompts, cells, multiply-adds, ...
    pub counts: BTreeMap<String, u64>,
    /// The seed, where chance took part.
    pub seed: Option<u64>,
    /// Versions of what computed the result; this crate's is there from the start.
    pub versions: BTreeMap<String, String>,
    /// Whether the run ended before every cell was computed.
    pub partial: bool,
}

impl Default for About {
    fn default() -> Self {
        let version = ["patchlens", env!("CARGO_PKG_VERSION")].map(String::from);
        About {
            title: String::new(),
            caption: String::new(),
            unit: String::new(),
            direction: None,
            normalization: Normalization::default(),
            palette: Palette::default(),
            baselines: BTreeMap::new(),
            counts: BTreeMap::new(),
            seed: None,
            versions: BTreeMap::from([version.into()]),
            partial: false,
        }
    }
}

impl About {
    /// The unit with its normalisation, as a colour bar names it.
    pub(super) fn unit_label(&self) -> String {
        match (self.unit.as_str(), self.normalization) {
            ("", Normalization::Raw) => "value".to_string(),
            ("", Normalization::Normalized) => "normalized".to_string(),
            (unit, Normalization::Raw) => unit.to_string(),
            (unit, Normalization::Normalized) => format!("{unit}, normalized"),
        }
    }

    /// Everything that is neither title, caption nor unit, one fact per line.
    pub(super) fn facts(&self) -> Vec<String> {
        let join = |pairs: Vec<String>| (!pairs.is_empty()).then(|| pairs.join(", "));
        let mut facts = Vec::new();
        if self.partial {
            facts.push("PARTIAL: the run ended before every cell was computed".to_string());
        }
        facts.extend(self.direction.map(|d| d.describe().to_string()));
        let baselines = self.baselines.iter();
        let baselines = baselines.map(|(k, v)| format!("{k} {}", super::label::number(*v)));
        facts.extend(join(baselines.collect()).map(|list| format!("baselines: {list}")));
        let counts = self.counts.iter().map(|(k, v)| format!("{k} {v}"));
        // Names of counts may have commas.
        let counts: Vec<String> = counts.collect();
        if !counts.is_empty() {
            facts.push(format!("counts: {}", counts.join("; ")));
        }
        let versions = self.versions.iter().map(|(k, v)| format!("{k} {v}"));
        let seed = self.seed.map(|seed| format!("seed {seed}"));
        facts.extend(join(versions.chain(seed).collect()));
        facts
    }
}

/// An array with a name and labels for every axis: the result of every method.
///
/// A NaN cell means "no value". Two results are equal where NaN cells coincide.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Document", into = "Document")]
pub struct Labelled {
    /// What the numbers are.
    pub about: About,
    axes: Vec<Axis>,
    values: ArrayD<f32>,
    std_error: Option<ArrayD<f32>>,
    texts: Option<ArrayD<String>>,
}

impl PartialEq for Labelled {
    fn eq(&self, other: &Self) -> bool {
        let same = |a: &ArrayD<f32>, b: &ArrayD<f32>| {
            a.shape() == b.shape()
                && a.iter()
                    .zip(b)
                    .all(|(x, y)| x == y || x.is_nan() && y.is_nan())
        };
        let errors = match (&self.std_error, &other.std_error) {
            (Some(a), Some(b)) => same(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.about == other.about
            && self.axes == other.axes
            && same(&self.values, &other.values)
            && self.texts == other.texts
            && errors
    }
}

impl Labelled {
    /// Joins values and axes, which must have as many labels as the values have indices.
    ///
    /// # Errors
    /// [`Error::Shape`] where the numbers differ, [`Error::Invalid`] for an axis that is empty,
    /// has no name, or has the name of another axis or of a CSV column (`value`, `std_error`,
    /// `text`).
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
            check_axis(axis, &axes[..i])?;
        }
        Ok(Labelled {
            about,
            axes,
            values,
            std_error: None,
            texts: None,
        })
    }

    /// Adds the standard error of every cell, in the shape of the values.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    pub fn with_std_error<D: Dimension>(mut self, std_error: Array<f32, D>) -> Result<Self> {
        if std_error.shape() != self.values.shape() {
            return Err(Error::Shape {
                at: "standard errors".to_string(),
                found: std_error.shape().to_vec(),
                expected: format!("{:?}, the shape of the values", self.values.shape()),
            });
        }
        self.std_error = Some(std_error.into_dyn());
        Ok(self)
    }

    /// Adds a text to every cell, in the shape of the values: a token, say, whose probability is
    /// the value. Pictures and pages write it into the cell, CSV and JSON keep it.
    ///
    /// # Errors
    /// [`Error::Shape`] for another shape.
    pub fn with_texts<D: Dimension>(mut self, texts: Array<String, D>) -> Result<Self> {
        if texts.shape() != self.values.shape() {
            return Err(Error::Shape {
                at: "texts of cells".to_string(),
                found: texts.shape().to_vec(),
                expected: format!("{:?}, the shape of the values", self.values.shape()),
            });
        }
        self.texts = Some(texts.into_dyn());
        Ok(self)
    }

    /// The values; NaN means "no value".
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

    /// `(m − corrupted) / (clean − corrupted)` for every cell: 0 is the corrupted run's metric and
    /// 1 the clean run's, in either direction of patching. Standard errors are scaled alike.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the values are normalised already, if a baseline is missing, or if
    /// the baselines are equal or not finite.
    pub fn normalized(&self) -> Result<Self> {
        if self.about.normalization == Normalization::Normalized {
            return Err(Error::invalid(
                "normalization",
                "normalized values",
                "raw values",
            ));
        }
        let [clean, corrupted] = ["clean", "corrupted"].map(|name| {
            self.about.baselines.get(name).copied().ok_or_else(|| {
                let names: Vec<_> = self.about.baselines.keys().map(String::as_str).collect();
                let found = format!("baselines [{}]", names.join(", "));
                Error::invalid("normalization", found, format!("a baseline `{name}`"))
            })
        });
        let (clean, corrupted) = (clean?, corrupted?);
        let span = clean - corrupted;
        if !span.is_finite() || span == 0.0 {
            let found = format!("clean {clean} and corrupted {corrupted}");
            return Err(Error::invalid(
                "normalization",
                found,
                "two different finite baselines",
            ));
        }
        let mut result = self.clone();
        result.values.mapv_inplace(|m| (m - corrupted) / span);
        if let Some(errors) = &mut result.std_error {
            errors.mapv_inplace(|e| e / span.abs());
        }
        result.about.normalization = Normalization::Normalized;
        Ok(result)
    }
}

fn check_axis(axis: &Axis, earlier: &[Axis]) -> Result<()> {
    let name = &axis.name;
    let taken = earlier.iter().any(|other| other.name == *name);
    if name.trim().is_empty() || taken || ["value", "std_error", "text"].contains(&name.as_str()) {
        let expected =
            "names that are not empty, differ, and are none of `value`, `std_error`, `text`";
        return Err(Error::invalid("axis name", format!("`{name}`"), expected));
    }
    if axis.labels.is_empty() {
        return Err(Error::invalid(
            format!("axis `{name}`"),
            "no labels",
            "at least one",
        ));
    }
    Ok(())
}
