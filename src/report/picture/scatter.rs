//! The scatter plot of two measures of the same things, with the line on which they are equal.

use std::collections::BTreeSet;
use std::path::Path;

use super::frame::Frame;
use super::png::covered;
use super::{Anchor, BLACK, GREY, PAD, SMALL, Scene, Shape, Spelling, Stroke, TEXT};
use super::{line_height, text_px, widest_px};
use crate::error::Result;
use crate::report::color::Rgb;
use crate::report::label::{legible, shorten};
use crate::report::save::{Format, save_as};

/// Two measures of the same things as points, and the line on which they are equal: how good an
/// estimate is. Both axes have the same range. The points furthest from the line are named; in an
/// SVG, all say their names and numbers under the pointer.
///
/// [`Agreement::scatter`](crate::circuits::Agreement::scatter) makes one.
#[derive(Clone, Debug)]
pub struct Scatter {
    pub(crate) title: String,
    pub(crate) caption: String,
    /// What is measured along, and up.
    pub(crate) names: [String; 2],
    pub(crate) clouds: Vec<Cloud>,
    /// How many points are named.
    pub(crate) named: usize,
    /// Facts below the drawing.
    pub(crate) notes: Vec<String>,
}

/// Points of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Cloud {
    pub name: String,
    pub color: Rgb,
    pub dots: Vec<Dot>,
}

/// A point.
#[derive(Clone, Debug)]
pub(crate) struct Dot {
    pub x: f32,
    pub y: f32,
    pub name: String,
    /// What an SVG's reader shows under the pointer.
    pub title: String,
}

/// The plotting area, as wide as it is high.
const AREA: (i32, i32) = (440, 440);
/// The size of a point.
const DOT: i32 = 5;
/// Most points whose SVG says their names under the pointer.
const TITLED: usize = 40_000;
/// The room around a name.
const GAP: i32 = 8;

impl Scatter {
    /// The plot as SVG.
    ///
    /// # Errors
    /// [`Error::Render`](crate::Error::Render) from the encoder.
    pub fn to_svg(&self) -> Result<String> {
        self.scene(str::to_string).to_svg()
    }

    /// The plot as PNG, two pixels per unit of the SVG.
    ///
    /// # Errors
    /// [`Error::Render`](crate::Error::Render) from the encoder.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        self.scene(covered).to_png()
    }

    /// Writes the plot as `.svg` or `.png`. An existing file is replaced in one step.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for another extension;
    /// [`Error::Io`](crate::Error::Io).
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        save_as(self, FORMATS, path.as_ref())
    }

    /// The same for a page, which has the title above it.
    pub(crate) fn untitled(&self) -> Self {
        Scatter {
            title: String::new(),
            ..self.clone()
        }
    }

    fn scene(&self, spell: Spelling) -> Scene {
        let bounds = self.bounds();
        let mut frame = Frame::new(AREA, [bounds, bounds]);
        let legend = frame.right() + 2 * PAD;
        let words: Vec<String> = self.clouds.iter().map(|cloud| cloud.name.clone()).collect();
        let mut scene = Scene {
            width: legend + 2 * GAP + DOT + widest_px(&words).max(text_px(EQUAL, TEXT)) + PAD,
            ..Scene::default()
        };
        frame.corner.1 = scene.headline(&self.title, &self.caption, spell);
        let names = [0, 1].map(|i| shorten(&spell(&legible(&self.names[i])), 56));
        frame.draw_axes(&mut scene, [&names[0], &names[1]]);
        let ends = [bounds.0, bounds.1].map(|end| (frame.x_px(end), frame.y_px(end)));
        scene.shapes.push(Shape::Line {
            points: ends.to_vec(),
            stroke: EQUALITY,
            title: None,
        });
        let titled = self.dots().count() <= TITLED;
        for (cloud, dot) in self.dots() {
            let (x, y) = place(&frame, dot);
            let title = titled.then(|| dot.title.clone());
            scene.titled_rect((x - DOT / 2, y - DOT / 2), (DOT, DOT), cloud.color, title);
        }
        self.name_worst(&mut scene, &frame);
        let mut level = frame.corner.1 + line_height(TEXT) / 2;
        for cloud in &self.clouds {
            scene.rect((legend, level - DOT / 2), (DOT, DOT), cloud.color);
            let at = (legend + DOT + GAP, level);
            scene.label(at, &cloud.name, Anchor::Start);
            level += line_height(TEXT);
        }
        scene.shapes.push(Shape::Line {
            points: vec![(legend - GAP / 2, level), (legend + DOT + GAP / 2, level)],
            stroke: EQUALITY,
            title: None,
        });
        scene.label((legend + DOT + GAP, level), EQUAL, Anchor::Start);
        scene.foot(frame.end(), &self.notes, spell);
        scene
    }

    fn dots(&self) -> impl Iterator<Item = (&Cloud, &Dot)> {
        let clouds = self.clouds.iter();
        clouds.flat_map(|cloud| cloud.dots.iter().map(move |dot| (cloud, dot)))
    }

    /// What both axes show.
    fn bounds(&self) -> (f64, f64) {
        let numbers = self.dots().flat_map(|(_, dot)| [dot.x, dot.y]);
        let numbers = numbers.map(f64::from).filter(|v| v.is_finite());
        let ends = numbers.fold((0.0, 0.0), |(low, high): (f64, f64), v| {
            (low.min(v), high.max(v))
        });
        if ends.0 < ends.1 { ends } else { (-1.0, 1.0) }
    }

    /// Names beside the points furthest from the line, the furthest first, each where it hides no
    /// other and no point.
    fn name_worst(&self, scene: &mut Scene, frame: &Frame) {
        let error = |dot: &Dot| (f64::from(dot.y) - f64::from(dot.x)).abs();
        let mut worst: Vec<&Dot> = self.dots().map(|(_, dot)| dot).collect();
        worst.sort_by(|a, b| error(b).total_cmp(&error(a)));
        worst.truncate(self.named);
        let points: BTreeSet<(i32, i32)> = self.dots().map(|(_, dot)| place(frame, dot)).collect();
        let mut taken: Vec<Label> = Vec::new();
        for dot in worst.into_iter().filter(|dot| error(dot) > 0.0) {
            let point = place(frame, dot);
            let hides = |label: &Label| {
                let name = taken.iter().any(|other| label.hides(other));
                name || points.iter().any(|point| label.covers(*point))
            };
            let label = Label::beside(point, &dot.name, frame, hides);
            if label.middle != point.1 {
                scene.line(vec![point, label.start()], GREY, 1);
            }
            let at = (label.left, label.middle);
            scene.push_text(at, &dot.name, (SMALL, BLACK), Anchor::Start, false);
            taken.push(label);
        }
    }
}

const EQUAL: &str = "equal";
const EQUALITY: Stroke = Stroke {
    color: GREY,
    width: 1.0,
    dashed: true,
};

const FORMATS: &[Format<Scatter>] = &[
    ("svg", |of| of.to_svg().map(String::into_bytes)),
    ("png", Scatter::to_png),
];

fn place(frame: &Frame, dot: &Dot) -> (i32, i32) {
    (frame.x_px(f64::from(dot.x)), frame.y_px(f64::from(dot.y)))
}

/// The room of a name.
#[derive(Clone, Copy)]
struct Label {
    left: i32,
    right: i32,
    middle: i32,
    /// Whether it is to the right of its point.
    after: bool,
}

impl Label {
    /// Beside a point, inside the frame if it is not too wide, as near as what must not be hidden
    /// allows.
    fn beside(
        (x, y): (i32, i32),
        name: &str,
        frame: &Frame,
        hides: impl Fn(&Label) -> bool,
    ) -> Self {
        let width = text_px(name, SMALL);
        let fits = x + GAP + width <= frame.right();
        let at = |after: bool, middle: i32| {
            let left = if after { x + GAP } else { x - GAP - width };
            Label {
                left,
                right: left + width,
                middle,
                after,
            }
        };
        let half = line_height(SMALL) / 2;
        let rows = frame.corner.1 + half..=frame.bottom() - half;
        let near = (0..AREA.1 / half).flat_map(|step| [step * half, -step * half]);
        let near = near
            .map(|away| y + away)
            .filter(|middle| rows.contains(middle));
        let sides = [true, false].into_iter().filter(|after| fits || !after);
        let mut places = near.flat_map(|middle| sides.clone().map(move |after| at(after, middle)));
        places
            .find(|label| label.left > frame.corner.0 && !hides(label))
            .unwrap_or_else(|| at(fits, y.clamp(*rows.start(), *rows.end())))
    }

    fn hides(&self, other: &Label) -> bool {
        let beside = self.right < other.left || other.right < self.left;
        !beside && (self.middle - other.middle).abs() < line_height(SMALL)
    }

    fn covers(&self, (x, y): (i32, i32)) -> bool {
        let beside = x + DOT / 2 < self.left || x - DOT / 2 > self.right;
        !beside && (self.middle - y).abs() < (line_height(SMALL) + DOT) / 2
    }

    /// Where a line from its point ends.
    fn start(&self) -> (i32, i32) {
        let x = if self.after { self.left } else { self.right };
        (x, self.middle)
    }
}
