//! The JSON form: flat values in row-major order beside the axes, checked when read back.

use ndarray::{ArrayD, IxDyn};
use serde::{Deserialize, Serialize};

use super::label::Axis;
use super::labelled::{About, Labelled};
use crate::error::Error;

/// A number as JSON can hold it: `null` for NaN, a text for the infinities.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Cell {
    Finite(f32),
    Infinite(Infinity),
    Missing(()),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) enum Infinity {
    #[serde(rename = "inf")]
    Positive,
    #[serde(rename = "-inf")]
    Negative,
}

impl From<f32> for Cell {
    fn from(value: f32) -> Self {
        match value {
            v if v.is_nan() => Cell::Missing(()),
            f32::INFINITY => Cell::Infinite(Infinity::Positive),
            f32::NEG_INFINITY => Cell::Infinite(Infinity::Negative),
            v => Cell::Finite(v),
        }
    }
}

impl From<Cell> for f32 {
    fn from(cell: Cell) -> Self {
        match cell {
            Cell::Finite(v) => v,
            Cell::Infinite(Infinity::Positive) => f32::INFINITY,
            Cell::Infinite(Infinity::Negative) => f32::NEG_INFINITY,
            Cell::Missing(()) => f32::NAN,
        }
    }
}

/// What a `.json` file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Document {
    #[serde(flatten)]
    about: About,
    axes: Vec<Axis>,
    shape: Vec<usize>,
    values: Vec<Cell>,
    std_error: Option<Vec<Cell>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    texts: Option<Vec<String>>,
}

impl From<Labelled> for Document {
    fn from(of: Labelled) -> Self {
        let cells = |array: ndarray::ArrayViewD<'_, f32>| array.iter().map(|&v| v.into()).collect();
        Document {
            axes: of.axes().to_vec(),
            shape: of.values().shape().to_vec(),
            values: cells(of.values()),
            std_error: of.std_error().map(cells),
            texts: of.texts().map(|texts| texts.iter().cloned().collect()),
            about: of.about,
        }
    }
}

impl TryFrom<Document> for Labelled {
    type Error = Error;

    fn try_from(document: Document) -> Result<Self, Error> {
        let shape = document.shape;
        let array = |name: &str, cells: Vec<Cell>| {
            let found = format!("{} numbers", cells.len());
            ArrayD::from_shape_vec(IxDyn(&shape), cells.into_iter().map(f32::from).collect())
                .map_err(|_| Error::invalid(name, found, format!("the shape {shape:?}")))
        };
        let values = array("values", document.values)?;
        let mut result = Labelled::new(values, document.axes, document.about)?;
        if let Some(cells) = document.std_error {
            result = result.with_std_error(array("std_error", cells)?)?;
        }
        let Some(texts) = document.texts else {
            return Ok(result);
        };
        let found = format!("{} texts", texts.len());
        let texts = ArrayD::from_shape_vec(IxDyn(&shape), texts)
            .map_err(|_| Error::invalid("texts", found, format!("the shape {shape:?}")))?;
        result.with_texts(texts)
    }
}

/// `#[serde(with)]` for named numbers that need not be finite.
pub(super) mod named {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Cell;

    pub(in super::super) fn serialize<S: Serializer>(
        numbers: &BTreeMap<String, f32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let cells = numbers
            .iter()
            .map(|(name, &value)| (name, Cell::from(value)));
        cells.collect::<BTreeMap<_, _>>().serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f32>, D::Error> {
        let cells = BTreeMap::<String, Cell>::deserialize(deserializer)?;
        Ok(cells
            .into_iter()
            .map(|(name, cell)| (name, cell.into()))
            .collect())
    }
}
