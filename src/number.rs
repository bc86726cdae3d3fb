//! Numbers as JSON can hold them.

use serde::{Deserialize, Serialize};

/// A number as JSON can hold it: `null` for NaN, a text for the infinities.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Number {
    Finite(f32),
    Infinite(Infinity),
    Missing(()),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Infinity {
    #[serde(rename = "inf")]
    Positive,
    #[serde(rename = "-inf")]
    Negative,
}

impl From<f32> for Number {
    fn from(value: f32) -> Self {
        match value {
            v if v.is_nan() => Number::Missing(()),
            f32::INFINITY => Number::Infinite(Infinity::Positive),
            f32::NEG_INFINITY => Number::Infinite(Infinity::Negative),
            v => Number::Finite(v),
        }
    }
}

impl From<Number> for f32 {
    fn from(cell: Number) -> Self {
        match cell {
            Number::Finite(v) => v,
            Number::Infinite(Infinity::Positive) => f32::INFINITY,
            Number::Infinite(Infinity::Negative) => f32::NEG_INFINITY,
            Number::Missing(()) => f32::NAN,
        }
    }
}

/// `#[serde(with)]` for a number that need not be finite.
pub(crate) mod any {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Number;

    pub(crate) fn serialize<S: Serializer>(number: &f32, serializer: S) -> Result<S::Ok, S::Error> {
        Number::from(*number).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f32, D::Error> {
        Ok(Number::deserialize(deserializer)?.into())
    }
}

/// `#[serde(with)]` for named numbers that need not be finite.
pub(crate) mod named {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Number;

    pub(crate) fn serialize<S: Serializer>(
        numbers: &BTreeMap<String, f32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let cells = numbers
            .iter()
            .map(|(name, &value)| (name, Number::from(value)));
        cells.collect::<BTreeMap<_, _>>().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f32>, D::Error> {
        let cells = BTreeMap::<String, Number>::deserialize(deserializer)?;
        Ok(cells
            .into_iter()
            .map(|(name, cell)| (name, cell.into()))
            .collect())
    }
}
