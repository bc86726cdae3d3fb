//! Numbers in JSON, which has neither NaN nor infinities.

use serde::{Deserialize, Serialize};

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
