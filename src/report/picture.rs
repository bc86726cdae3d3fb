//! Pictures: a layout of shapes, the same for SVG and PNG, in which every text has its room.

mod bars;
mod frame;
mod heat_map;
mod layered;
mod panel;
mod plot;
mod png;
mod route;
mod scatter;
mod svg;
mod ticks;

use super::about::About;
use super::color::Rgb;
use super::label::{sanitized, width, wrap};

pub(crate) use layered::{Group, Layered, Link, Node};
pub use scatter::Scatter;
pub(crate) use scatter::{Cloud, Dot};

/// Font sizes, in pixels per em.
const TITLE: i32 = 16;
const TEXT: i32 = 12;
const SMALL: i32 = 10;
/// Space around the picture and between its parts.
const PAD: i32 = 14;

const WHITE: Rgb = [0xff; 3];
const BLACK: Rgb = [0x20, 0x20, 0x20];
const GREY: Rgb = [0x70, 0x70, 0x70];
/// Lines behind the data.
const GRID: Rgb = [0xe0, 0xe0, 0xe0];

/// Where a text stands relative to its point, along its direction of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Anchor {
    /// Its name in SVG.
    fn name(self) -> &'static str {
        match self {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        }
    }
}

/// How a line is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stroke {
    pub color: Rgb,
    /// In pixels.
    pub width: f32,
    pub dashed: bool,
}

impl Stroke {
    /// The lengths of a dash and of the gap after it.
    fn dashes(self) -> Option<[f32; 2]> {
        let length = 4.0 + 2.0 * self.width;
        self.dashed.then_some([length, length - 1.0])
    }

    /// How wide a line is to the pointer, which hardly hits a thin one.
    fn reach(self) -> f32 {
        self.width.max(5.0)
    }
}

/// What a picture is made of; positions in pixels from the upper left corner.
#[derive(Clone, Debug)]
enum Shape {
    Rect {
        from: (i32, i32),
        to: (i32, i32),
        color: Rgb,
        /// What an SVG's reader shows under the pointer.
        title: Option<String>,
    },
    Line {
        points: Vec<(i32, i32)>,
        stroke: Stroke,
        /// What an SVG's reader shows under the pointer.
        title: Option<String>,
    },
    Text {
        at: (i32, i32),
        text: String,
        size: i32,
        anchor: Anchor,
        /// Whether it reads from bottom to top.
        upward: bool,
        color: Rgb,
    },
}

/// A picture before it is encoded.
#[derive(Clone, Debug, Default)]
struct Scene {
    /// What it is a picture of, for those who cannot see it.
    name: String,
    width: i32,
    height: i32,
    shapes: Vec<Shape>,
}

/// How the target of a picture wants its texts: SVG takes any character, PNG what the font has.
type Spelling = fn(&str) -> String;

impl Scene {
    fn rect(&mut self, from: (i32, i32), size: (i32, i32), color: Rgb) {
        self.titled_rect(from, size, color, None);
    }

    fn titled_rect(
        &mut self,
        from: (i32, i32),
        size: (i32, i32),
        color: Rgb,
        title: Option<String>,
    ) {
        let to = (from.0 + size.0, from.1 + size.1);
        self.shapes.push(Shape::Rect {
            from,
            to,
            color,
            title,
        });
    }

    fn line(&mut self, points: Vec<(i32, i32)>, color: Rgb, width: i32) {
        let stroke = Stroke {
            color,
            width: width as f32,
            dashed: false,
        };
        self.shapes.push(Shape::Line {
            points,
            stroke,
            title: None,
        });
    }

    /// A thin grey frame.
    fn outline(&mut self, (left, top): (i32, i32), (width, height): (i32, i32)) {
        let (right, bottom) = (left + width, top + height);
        let corners = [
            (left, top),
            (right, top),
            (right, bottom),
            (left, bottom),
            (left, top),
        ];
        self.line(corners.to_vec(), GREY, 1);
    }

    /// A black text of normal size, centred vertically on its point.
    fn label(&mut self, at: (i32, i32), text: &str, anchor: Anchor) {
        self.push_text(at, text, (TEXT, BLACK), anchor, false);
    }

    /// A text that reads from bottom to top, centred horizontally on its point.
    fn upward(&mut self, at: (i32, i32), text: &str, anchor: Anchor) {
        self.push_text(at, text, (TEXT, BLACK), anchor, true);
    }

    fn push_text(
        &mut self,
        at: (i32, i32),
        text: &str,
        (size, color): (i32, Rgb),
        anchor: Anchor,
        upward: bool,
    ) {
        let text = text.to_string();
        self.shapes.push(Shape::Text {
            at,
            text,
            size,
            anchor,
            upward,
            color,
        });
    }

    /// Lines of text below each other from `y` on, wrapped to the picture; returns where they end.
    fn paragraph(&mut self, y: i32, text: &str, style: (i32, Rgb)) -> i32 {
        let columns = (self.width - 2 * PAD) / columns_px(1, style.0);
        let pitch = line_height(style.0);
        let mut y = y;
        for line in wrap(text, columns as usize) {
            self.push_text((PAD, y + pitch / 2), &line, style, Anchor::Start, false);
            y += pitch;
        }
        y
    }

    /// Title and caption at the top of the picture; returns where they end.
    fn head(&mut self, about: &About, spell: Spelling) -> i32 {
        let y = self.headline(&about.title, &about.caption, spell);
        self.name = sanitized(&format!("{} ({})", about.title, about.unit_label()));
        y
    }

    /// The same of a picture without unit.
    fn headline(&mut self, title: &str, caption: &str, spell: Spelling) -> i32 {
        self.name = sanitized(title);
        let y = self.paragraph(PAD, &spell(title), (TITLE, BLACK));
        self.paragraph(y, &spell(caption), (TEXT, GREY)) + PAD
    }

    /// The facts below everything else, from `y` on; ends the picture.
    fn foot(&mut self, y: i32, notes: &[String], spell: Spelling) {
        let mut y = y + PAD;
        for note in notes {
            y = self.paragraph(y, &spell(note), (SMALL, GREY));
        }
        self.height = y + PAD;
    }
}

/// Pixels that so many columns of a monospaced font take at most: those named in
/// `picture.svg` advance by at most 0.61 em.
fn columns_px(columns: usize, size: i32) -> i32 {
    (columns as f64 * f64::from(size) * 0.61).ceil() as i32
}

/// Pixels that a text takes at most.
fn text_px(text: &str, size: i32) -> i32 {
    columns_px(width(text), size)
}

/// Pixels of the widest of several texts.
fn widest_px(texts: &[String]) -> i32 {
    texts
        .iter()
        .map(|text| text_px(text, TEXT))
        .max()
        .unwrap_or(0)
}

const fn line_height(size: i32) -> i32 {
    size * 3 / 2
}
