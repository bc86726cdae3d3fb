//! Self-contained pages: the data as JSON inside, drawn by inline script, nothing from a network.

use askama::Template;
use ndarray::ArrayView2;
use serde::Serialize;

use super::absent::Absent;
use super::axis::{Axis, Part};
use super::color::{ColorScale, css, ink, missing};
use super::digits::Decimals;
use super::document::cells;
use super::label::{legible, sanitized};
use super::labelled::Labelled;
use super::save::{encoder, save_as};
use crate::error::{Error, Result};
use crate::number::Number;

#[derive(Template)]
#[template(path = "heat_map.html")]
struct ResultsPage {
    title: String,
    sections: Vec<Section>,
    data: Vec<MapData>,
}

struct Section {
    title: String,
    caption: String,
    facts: Vec<String>,
}

/// A result as `map.js` draws it; all texts are legible.
#[derive(Serialize)]
struct MapData {
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
    /// The colours of bars.
    positive: String,
    negative: String,
}

#[derive(Serialize)]
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
    fn new(of: &Labelled) -> Self {
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
            note: scale.note().filter(|_| of.axes().len() > 1),
            positive: css(scale.of_sign(1.0)),
            negative: css(scale.of_sign(-1.0)),
        }
    }
}

impl Labelled {
    /// One self-contained page: the heat map, or bars where there is one axis, as large as the
    /// window allows; a choice for every axis before the last two; name, value and error of the
    /// cell that is pointed at, or has the keyboard's focus (arrow keys move it).
    ///
    /// # Errors
    /// [`Error::Io`] from the template engine.
    pub fn to_html(&self) -> Result<String> {
        results_page(&self.about.title, &[self])
    }
}

/// One self-contained page with several results, each as [`Labelled::to_html`] shows it.
///
/// # Errors
/// [`Error::Io`] from the template engine.
pub fn results_page(title: &str, results: &[&Labelled]) -> Result<String> {
    let section = |of: &&Labelled| Section {
        title: sanitized(&of.about.title),
        caption: sanitized(&of.about.caption),
        facts: of
            .about
            .facts()
            .iter()
            .map(|fact| sanitized(fact))
            .collect(),
    };
    let page = ResultsPage {
        title: sanitized(title),
        sections: results.iter().map(section).collect(),
        data: results.iter().map(|of| MapData::new(of)).collect(),
    };
    page.render().map_err(|e| encoder("html", e))
}

#[derive(Template)]
#[template(path = "attention.html")]
struct AttentionPage {
    title: String,
    data: AttentionData,
}

#[derive(Serialize)]
struct AttentionData {
    tokens: Vec<String>,
    heads: Vec<AttentionHead>,
}

#[derive(Serialize)]
struct AttentionHead {
    name: String,
    pattern: Vec<Number>,
}

/// A page that shows attention patterns with the text: choose heads, point at a token to see
/// where it attends. `heads` are names and patterns `[dest, src]`, both axes of the tokens'
/// number. Modelled on the attention view of CircuitsVis.
///
/// ```
/// use ndarray::array;
/// let pattern = array![[1.0, 0.0], [0.3, 0.7]];
/// let page = patchlens::report::attention_page("Mini", &[("1.3", pattern.view())], &["A", " b"])?;
/// assert!(page.contains("1.3") && page.contains("·b"));
/// # Ok::<(), patchlens::Error>(())
/// ```
///
/// # Errors
/// [`Error::Invalid`] without heads or tokens, [`Error::Shape`] for a pattern of another shape.
pub fn attention_page<N: AsRef<str>, T: AsRef<str>>(
    title: &str,
    heads: &[(N, ArrayView2<'_, f32>)],
    tokens: &[T],
) -> Result<String> {
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
    let page = AttentionPage {
        title: sanitized(title),
        data: AttentionData {
            tokens: tokens.iter().map(|token| legible(token.as_ref())).collect(),
            heads: heads.iter().map(head).collect::<Result<_>>()?,
        },
    };
    page.render().map_err(|e| encoder("html", e))
}

/// Writes [`attention_page`] to a `.html` file, which is replaced in one step if it exists.
///
/// # Errors
/// Those of [`attention_page`]; [`Error::Invalid`] for another extension; [`Error::Io`].
pub fn save_attention_page<N: AsRef<str>, T: AsRef<str>>(
    path: impl AsRef<std::path::Path>,
    title: &str,
    heads: &[(N, ArrayView2<'_, f32>)],
    tokens: &[T],
) -> Result<()> {
    let page = attention_page(title, heads, tokens)?;
    save_as(
        &page,
        &[("html", |page| Ok(page.clone().into_bytes()))],
        path.as_ref(),
    )
}
