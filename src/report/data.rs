//! What the scripts of pages draw, as data.

use ndarray::ArrayView2;
use serde::Serialize;

use super::absent::Absent;
use super::axis::{Axis, Part};
use super::color::{ColorScale, css, ink, missing};
use super::digits::Decimals;
use super::document::cells;
use super::label::{legible, sanitized};
use super::labelled::Labelled;
use crate::error::{Error, Result};
use crate::number::Number;

/// A result as `map.js` draws it; all texts are legible.
#[derive(Clone, Debug, Serialize)]
pub(super) struct MapData {
    title: String,
    axes: Vec<Axis>,
    parts: Vec<Part>,
    values: Vec<Number>,
    std_error: Option<Vec<Number>>,
    texts: Option<Vec<String>>,
    absent: Vec<AbsentData>,
    unit: String,
    /// Decimals of numbers in cells; `None` for scientific notation.
    decimals: Option<usize>,
    /// The values of the first and the last colour.
    limits: [f32; 2],
    colors: Vec<String>,
    /// What is readable on each colour.
    inks: Vec<String>,
    /// The first and the last colour of the colour bar, and their values.
    shown: [usize; 2],
    ends: [f64; 2],
    note: Option<String>,
    /// A file of the numbers to download: its name and its text.
    file: Option<[String; 2]>,
    /// The colours of bars.
    positive: String,
    negative: String,
}

#[derive(Clone, Debug, Serialize)]
struct AbsentData {
    name: String,
    meaning: &'static str,
    mark: &'static str,
    color: String,
    ink: String,
    /// Flat indices.
    cells: Vec<usize>,
}

impl AbsentData {
    fn new((reason, cells): (Absent, Vec<usize>)) -> Self {
        AbsentData {
            name: reason.to_string(),
            meaning: reason.describe(),
            mark: reason.mark(),
            color: css(missing(reason)),
            ink: css(ink(missing(reason))),
            cells,
        }
    }
}

impl MapData {
    pub(super) fn new(of: &Labelled) -> Self {
        let scale = ColorScale::new(of);
        let axes = of.axes().iter();
        let digits = if of.axes().len() < 2 { 4 } else { 3 };
        let decimals = match Decimals::new(&of.values(), digits) {
            Decimals::Fixed(n) => Some(n),
            Decimals::Scientific => None,
        };
        let [low, _, high] = scale.ends();
        let texts = of.texts();
        let reasons = of.absent_by_reason().into_iter();
        MapData {
            title: sanitized(&of.about.title),
            axes: axes
                .map(|axis| Axis::new(legible(&axis.name), axis.legible()))
                .collect(),
            parts: of.parts().iter().map(Part::legible).collect(),
            values: cells(of.values()),
            std_error: of.std_error().map(cells),
            texts: texts.map(|texts| texts.iter().map(|text| legible(text)).collect()),
            absent: reasons.map(AbsentData::new).collect(),
            unit: legible(&of.about.unit_label()),
            decimals,
            limits: scale.limits(),
            inks: scale.colors().iter().map(|c| css(ink(*c))).collect(),
            colors: scale.colors().iter().copied().map(css).collect(),
            shown: scale.shown(),
            ends: [low, high],
            file: None,
            note: scale.note().filter(|_| of.axes().len() > 1),
            positive: css(scale.of_sign(1.0)),
            negative: css(scale.of_sign(-1.0)),
        }
    }

    /// The same with its numbers to download as CSV.
    pub(super) fn with_file(of: &Labelled, name: &str) -> Result<Self> {
        Ok(MapData {
            file: Some([format!("{name}.csv"), of.to_csv()?]),
            ..MapData::new(of)
        })
    }
}

/// Attention as `attention.js` draws it; all texts are legible.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AttentionData {
    tokens: Vec<String>,
    heads: Vec<AttentionHead>,
}

#[derive(Clone, Debug, Serialize)]
struct AttentionHead {
    name: String,
    pattern: Vec<Number>,
}

impl AttentionData {
    /// # Errors
    /// [`Error::Invalid`] without heads or tokens, [`Error::Shape`] for a pattern of another shape.
    pub(super) fn new<N: AsRef<str>, T: AsRef<str>>(
        heads: &[(N, ArrayView2<'_, f32>)],
        tokens: &[T],
    ) -> Result<Self> {
        let n = tokens.len();
        for (what, found) in [("heads", heads.len()), ("tokens", n)] {
            if found == 0 {
                return Err(Error::invalid(what, "none", "at least one"));
            }
        }
        let head = |(name, pattern): &(N, ArrayView2<'_, f32>)| {
            if pattern.dim() != (n, n) {
                return Err(Error::Shape {
                    at: format!("pattern of head {}", name.as_ref()),
                    found: pattern.shape().to_vec(),
                    expected: format!("[{n}, {n}] for {n} tokens"),
                });
            }
            Ok(AttentionHead {
                name: legible(name.as_ref()),
                pattern: pattern.iter().map(|&p| p.into()).collect(),
            })
        };
        Ok(AttentionData {
            tokens: tokens.iter().map(|token| legible(token.as_ref())).collect(),
            heads: heads.iter().map(head).collect::<Result<_>>()?,
        })
    }
}
