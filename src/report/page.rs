//! Self-contained pages: the data as JSON inside, drawn by inline script, nothing from a network.

use std::path::Path;

use askama::Template;
use ndarray::ArrayView2;
use serde::Serialize;

use super::data::{AttentionData, MapData};
use super::label::{legible, sanitized};
use super::labelled::Labelled;
#[cfg(feature = "pictures")]
use super::picture::Scatter;
use super::save::{encoder, save_as};
use crate::error::Result;

/// One self-contained page of results, texts and attention patterns, one below the other. It loads
/// nothing; keyboard and screen readers can use it.
///
/// ```
/// use ndarray::array;
/// use patchlens::report::{About, Axis, Labelled, Page};
/// let axes = vec![Axis::layers(1), Axis::heads(2)];
/// let effect = Labelled::new(array![[0.1, -2.0]], axes, About::default())?;
/// let pattern = array![[1.0, 0.0], [0.3, 0.7]];
/// let page = Page::new("My study")
///     .text("Prompt", "When Mary and John ...")
///     .result("effect", &effect)?
///     .attention("Attention", &[("1.3", pattern.view())], &["A", " b"])?;
/// assert!(page.to_html()?.contains("When Mary"));
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Page {
    title: String,
    sections: Vec<Section>,
}

#[derive(Clone, Debug, Default)]
struct Section {
    /// None for a page's only section, whose title is the page's.
    heading: Option<String>,
    caption: String,
    /// Lines of text as they are.
    text: Option<String>,
    data: Option<Data>,
    /// An SVG, as it is.
    picture: Option<String>,
    facts: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Data {
    Map(Box<MapData>),
    Attention(AttentionData),
}

#[derive(Template)]
#[template(path = "page.html")]
struct PageTemplate<'a> {
    title: &'a str,
    sections: &'a [Section],
    data: Vec<&'a Data>,
}

impl Section {
    fn of(result: &Labelled, data: MapData) -> Self {
        let about = &result.about;
        Section {
            heading: Some(sanitized(&about.title)),
            caption: sanitized(&about.caption),
            data: Some(Data::Map(Box::new(data))),
            facts: about.facts().iter().map(|fact| sanitized(fact)).collect(),
            ..Section::default()
        }
    }
}

impl Page {
    /// A page without sections.
    pub fn new(title: impl AsRef<str>) -> Self {
        Page {
            title: sanitized(title.as_ref()),
            sections: Vec::new(),
        }
    }

    /// Adds a text, whose lines and spaces stay as they are.
    #[must_use]
    pub fn text(mut self, heading: &str, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(sanitized).collect();
        self.sections.push(Section {
            heading: Some(sanitized(heading)),
            text: Some(lines.join("\n")),
            ..Section::default()
        });
        self
    }

    /// Adds a result: a heat map, or bars where there is one axis, as large as the window allows;
    /// a choice for every axis before the last two; name, value and error of the cell that is
    /// pointed at, or has the keyboard's focus (arrow keys move it). Its numbers can be downloaded
    /// as `<name>.csv`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from the encoder.
    pub fn result(mut self, name: &str, result: &Labelled) -> Result<Self> {
        let data = MapData::with_file(result, &legible(name))?;
        self.sections.push(Section::of(result, data));
        Ok(self)
    }

    /// Adds a scatter plot.
    ///
    /// # Errors
    /// [`Error::Render`](crate::Error::Render) from the encoder.
    #[cfg(feature = "pictures")]
    pub fn scatter(mut self, plot: &Scatter) -> Result<Self> {
        self.sections.push(Section {
            heading: Some(sanitized(&plot.title)),
            picture: Some(plot.untitled().to_svg()?),
            ..Section::default()
        });
        Ok(self)
    }

    /// Adds attention patterns over their text: thumbnails of all heads, enlarged by a click or
    /// Enter; a token that is pointed at shows where it attends. `heads` are names and patterns
    /// `[dest, src]`, both axes of the tokens' number. Modelled on the attention view of
    /// CircuitsVis.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) without heads or tokens,
    /// [`Error::Shape`](crate::Error::Shape) for a pattern of another shape.
    pub fn attention<N: AsRef<str>, T: AsRef<str>>(
        mut self,
        heading: &str,
        heads: &[(N, ArrayView2<'_, f32>)],
        tokens: &[T],
    ) -> Result<Self> {
        self.sections.push(Section {
            heading: Some(sanitized(heading)),
            data: Some(Data::Attention(AttentionData::new(heads, tokens)?)),
            ..Section::default()
        });
        Ok(self)
    }

    /// The page's text.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from the template engine.
    pub fn to_html(&self) -> Result<String> {
        let page = PageTemplate {
            title: &self.title,
            sections: &self.sections,
            data: self
                .sections
                .iter()
                .filter_map(|s| s.data.as_ref())
                .collect(),
        };
        page.render().map_err(|e| encoder("html", e))
    }

    /// Writes the page to a `.html` file, which is replaced in one step if it exists.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for another extension;
    /// [`Error::Io`](crate::Error::Io).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let html = |page: &Page| page.to_html().map(String::into_bytes);
        save_as(self, &[("html", html)], path.as_ref())
    }
}

impl Labelled {
    /// One self-contained page, as [`Page::result`] shows a result.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) from the template engine.
    pub fn to_html(&self) -> Result<String> {
        let mut page = Page::new(&self.about.title);
        page.sections.push(Section {
            heading: None,
            ..Section::of(self, MapData::new(self))
        });
        page.to_html()
    }
}

/// A page of attention patterns alone, see [`Page::attention`].
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
/// Those of [`Page::attention`].
pub fn attention_page<N: AsRef<str>, T: AsRef<str>>(
    title: &str,
    heads: &[(N, ArrayView2<'_, f32>)],
    tokens: &[T],
) -> Result<String> {
    only_attention(title, heads, tokens)?.to_html()
}

/// Writes [`attention_page`] to a `.html` file, which is replaced in one step if it exists.
///
/// # Errors
/// Those of [`Page::attention`] and [`Page::save`].
pub fn save_attention_page<N: AsRef<str>, T: AsRef<str>>(
    path: impl AsRef<Path>,
    title: &str,
    heads: &[(N, ArrayView2<'_, f32>)],
    tokens: &[T],
) -> Result<()> {
    only_attention(title, heads, tokens)?.save(path)
}

fn only_attention<N: AsRef<str>, T: AsRef<str>>(
    title: &str,
    heads: &[(N, ArrayView2<'_, f32>)],
    tokens: &[T],
) -> Result<Page> {
    let mut page = Page::new(title).attention("", heads, tokens)?;
    page.sections[0].heading = None;
    Ok(page)
}
