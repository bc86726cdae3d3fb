//! Self-contained pages: the data as JSON inside, drawn by inline script, nothing from a network.

use askama::Template;
use ndarray::ArrayView2;
use serde::Serialize;

use super::color::{ColorScale, MISSING, Rgb, ink};
use super::label::{Axis, legible, sanitized};
use super::labelled::Labelled;
use super::save::{encoder, save_as};
use crate::error::{Error, Result};
use crate::number::Number;

#[derive(Template)]
#[template(path = "heat_map.html")]
struct HeatMapPage {
    title: String,
    caption: String,
    facts: Vec<String>,
    data: HeatMapData,
}

#[derive(Serialize)]
struct HeatMapData {
    axes: Vec<Axis>,
    values: Vec<Number>,
    std_error: Option<Vec<Number>>,
    texts: Option<Vec<String>>,
    unit: String,
    low: f32,
    high: f32,
    colors: Vec<String>,
    /// What is readable on each colour.
    inks: Vec<String>,
    missing: String,
}

impl Labelled {
    /// One self-contained page: the heat map, a choice for every axis before the last two, and the
    /// labels and the value of the cell under the pointer.
    ///
    /// # Errors
    /// [`Error::Render`] from the template engine.
    pub fn to_html(&self) -> Result<String> {
        let scale = ColorScale::new(&self.values(), self.about.palette);
        let cells = |array: ndarray::ArrayViewD<'_, f32>| array.iter().map(|&v| v.into()).collect();
        let shown = |axis: &Axis| Axis::new(legible(&axis.name), axis.legible());
        let page = HeatMapPage {
            title: sanitized(&self.about.title),
            caption: sanitized(&self.about.caption),
            facts: self
                .about
                .facts()
                .iter()
                .map(|fact| sanitized(fact))
                .collect(),
            data: HeatMapData {
                axes: self.axes().iter().map(shown).collect(),
                values: cells(self.values()),
                std_error: self.std_error().map(cells),
                texts: self
                    .texts()
                    .map(|texts| texts.iter().map(|text| legible(text)).collect()),
                unit: self.about.unit_label(),
                low: scale.low,
                high: scale.high,
                colors: scale.colors().iter().copied().map(css).collect(),
                inks: scale.colors().iter().map(|c| css(ink(*c))).collect(),
                missing: css(MISSING),
            },
        };
        page.render().map_err(|e| encoder("html", e))
    }
}

fn css([r, g, b]: Rgb) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
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
