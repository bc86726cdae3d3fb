//! The axes of a result, and how they name its cells.

use serde::{Deserialize, Serialize};

use super::label::legible;
use crate::error::{Error, Result};

/// One dimension of a [`Labelled`](super::Labelled) array: its name and a label per index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// What the axis runs over: `layer`, `pos`, `head`, ...
    pub name: String,
    /// One label per index, raw: made legible only when shown.
    pub labels: Vec<String>,
    /// What is known of the labels beyond their texts.
    #[serde(default, skip_serializing_if = "AxisKind::is_names")]
    pub kind: AxisKind,
}

/// What the labels of an [`Axis`] are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AxisKind {
    /// Names.
    #[default]
    Names,
    /// Numbers, which [`Labelled::curves`](super::Labelled::curves) draws to scale.
    Numbers,
    /// Index `i` is layer `i`.
    Layers,
    /// Parts of a layer. Where one cell is named and an axis of layers comes before, one name
    /// stands for both, such as `3.1` for head 1 of layer 3: the text of the index, with the
    /// layer's number in place of `{}`.
    InLayer(Vec<String>),
}

impl AxisKind {
    fn is_names(&self) -> bool {
        *self == AxisKind::Names
    }
}

impl Axis {
    /// An axis with any labels.
    pub fn new<L: Into<String>>(
        name: impl Into<String>,
        labels: impl IntoIterator<Item = L>,
    ) -> Self {
        Axis {
            name: name.into(),
            labels: labels.into_iter().map(Into::into).collect(),
            kind: AxisKind::Names,
        }
    }

    /// The axis `layer` with the labels `L0`, `L1`, ...
    pub fn layers(n: usize) -> Self {
        let kind = AxisKind::Layers;
        Axis::new("layer", (0..n).map(|i| format!("L{i}"))).of_kind(kind)
    }

    /// The axis `head` with the labels `H0`, `H1`, ... With an axis of layers before it, single
    /// cells are named `3.1`.
    pub fn heads(n: usize) -> Self {
        let kind = AxisKind::InLayer((0..n).map(|i| format!("{{}}.{i}")).collect());
        Axis::new("head", (0..n).map(|i| format!("H{i}"))).of_kind(kind)
    }

    /// Tokens with their positions: ` Mary` at 4 becomes ` Mary@4`.
    pub fn tokens<T: AsRef<str>>(name: impl Into<String>, tokens: &[T]) -> Self {
        let label = |(i, token): (usize, &T)| format!("{}@{i}", token.as_ref());
        Axis::new(name, tokens.iter().enumerate().map(label))
    }

    /// Numbers, such as the scales of a dose-response curve.
    pub fn numbers(name: impl Into<String>, numbers: &[f32]) -> Self {
        Axis::new(name, numbers.iter().map(f32::to_string)).of_kind(AxisKind::Numbers)
    }

    /// The axis with another kind.
    #[must_use]
    pub fn of_kind(mut self, kind: AxisKind) -> Self {
        self.kind = kind;
        self
    }

    /// The axis with another name.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The labels as they are shown.
    pub(super) fn legible(&self) -> Vec<String> {
        self.labels.iter().map(|label| legible(label)).collect()
    }

    /// Rejects an axis that is empty, or whose name others have.
    pub(super) fn check(&self, earlier: &[Axis]) -> Result<()> {
        const TAKEN: [&str; 4] = ["value", "std_error", "text", "absent"];
        let name = &self.name;
        let taken = earlier.iter().any(|other| other.name == *name);
        if name.trim().is_empty() || taken || TAKEN.contains(&name.as_str()) {
            let expected = "names that are not empty, differ, and are none of `value`, \
                            `std_error`, `text`, `absent`";
            return Err(Error::invalid("axis name", format!("`{name}`"), expected));
        }
        let (what, n) = (format!("axis `{name}`"), self.labels.len());
        if n == 0 {
            return Err(Error::invalid(what, "no labels", "at least one"));
        }
        match &self.kind {
            AxisKind::InLayer(names) if names.len() != n => {
                let found = format!("{} names in the layer", names.len());
                Err(Error::invalid(what, found, format!("{n}, one per label")))
            }
            _ => Ok(()),
        }
    }
}

/// One part of a cell's name: from one axis, or from a layer and what lies in it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Part {
    /// What it is a name of, raw.
    pub(super) name: String,
    /// The axes whose indices it needs.
    axes: Vec<usize>,
    /// Row-major over these axes, raw.
    labels: Vec<String>,
}

impl Part {
    /// The parts of the names of cells with these axes.
    pub(super) fn all(axes: &[Axis]) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for (i, axis) in axes.iter().enumerate() {
            let is_layers =
                |p: &Part| p.axes.len() == 1 && axes[p.axes[0]].kind == AxisKind::Layers;
            let layers = parts.iter().rposition(is_layers);
            let (AxisKind::InLayer(names), Some(layers)) = (&axis.kind, layers) else {
                parts.push(Part {
                    name: axis.name.clone(),
                    axes: vec![i],
                    labels: axis.labels.clone(),
                });
                continue;
            };
            let part = &mut parts[layers];
            let numbers = (0..part.labels.len()).map(|layer| layer.to_string());
            part.labels = numbers
                .flat_map(|layer| names.iter().map(move |name| name.replace("{}", &layer)))
                .collect();
            part.axes.push(i);
            part.name.clone_from(&axis.name);
        }
        parts
    }

    /// The same with its texts as they are shown.
    pub(super) fn legible(&self) -> Part {
        Part {
            name: legible(&self.name),
            axes: self.axes.clone(),
            labels: self.labels.iter().map(|label| legible(label)).collect(),
        }
    }

    /// The name at a cell's index.
    pub(super) fn at(&self, index: &[usize], shape: &[usize]) -> &str {
        let flat = |at, axis: &usize| at * shape[*axis] + index[*axis];
        &self.labels[self.axes.iter().fold(0, flat)]
    }
}
