//! The line plot: axes with ticks, lines with error bars, a legend.

use colorgrad::Gradient as _;

use super::png::covered;
use super::ticks::ticks;
use super::{Anchor, GREY, GRID, PAD, Scene, Spelling, TEXT, line_height, widest_px};
use crate::error::Result;
use crate::report::color::Rgb;
use crate::report::curves::{Curves, Point};
use crate::report::label::{legible, shorten, shorten_apart};

/// The plotting area.
const AREA: (i32, i32) = (560, 320);

impl Curves<'_> {
    /// The line plot as SVG.
    ///
    /// # Errors
    /// [`Error::Render`](crate::Error::Render) from the encoder.
    pub fn to_svg(&self) -> Result<String> {
        scene(self, str::to_string).to_svg()
    }

    /// The line plot as PNG, two pixels per unit of the SVG.
    ///
    /// # Errors
    /// [`Error::Render`](crate::Error::Render) from the encoder.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        scene(self, covered).to_png()
    }
}

/// Where numbers lie in the picture.
struct Frame {
    corner: (i32, i32),
    x: (f64, f64),
    y: (f64, f64),
}

/// Most numbers along an axis.
const TICKS: u32 = 8;

impl Frame {
    fn new(curves: &Curves<'_>) -> Self {
        let [(x0, x1), (y0, y1)] = curves.bounds();
        // A little air, so that no point lies on the frame.
        let (dx, dy) = ((x1 - x0) * 0.02, (y1 - y0) * 0.05);
        let (x, y) = ((x0 - dx, x1 + dx), (y0 - dy, y1 + dy));
        let labels = widest_px(&ticks(y, TICKS).1);
        let corner = (PAD + line_height(TEXT) + labels + 8, 0);
        Frame { corner, x, y }
    }

    fn x_px(&self, x: f64) -> i32 {
        let part = (x - self.x.0) / (self.x.1 - self.x.0);
        self.corner.0 + (part * f64::from(AREA.0)) as i32
    }

    fn y_px(&self, y: f64) -> i32 {
        let part = (self.y.1 - y) / (self.y.1 - self.y.0);
        self.corner.1 + (part * f64::from(AREA.1)) as i32
    }
}

fn scene(curves: &Curves<'_>, spell: Spelling) -> Scene {
    let about = &curves.of.about;
    let names: Vec<String> = curves.names().iter().map(|name| spell(name)).collect();
    let names = shorten_apart(&names, 32);
    let mut frame = Frame::new(curves);
    let legend = frame.corner.0 + AREA.0 + 2 * PAD;
    let mut scene = Scene {
        width: legend + 24 + widest_px(&names) + PAD,
        ..Scene::default()
    };
    frame.corner.1 = scene.head(about, spell);
    draw_axes(&mut scene, &frame, curves, spell);
    for (series, name) in names.iter().enumerate() {
        let color = series_color(series, names.len());
        draw_line(&mut scene, &frame, &curves.points(series), color);
        let level = frame.corner.1 + line_height(TEXT) / 2 + series as i32 * line_height(TEXT);
        scene.line(vec![(legend, level), (legend + 18, level)], color, 2);
        scene.label((legend + 24, level), name, Anchor::Start);
    }
    let rows = names.len() as i32 * line_height(TEXT);
    let end = frame.corner.1 + rows.max(AREA.1 + 3 * line_height(TEXT));
    scene.foot(end, &about.facts(), spell);
    scene
}

/// Okabe and Ito's colours, which the colour-blind can tell apart, without their yellow.
const COLORS: [Rgb; 7] = [
    [0x00, 0x72, 0xb2],
    [0xd5, 0x5e, 0x00],
    [0x00, 0x9e, 0x73],
    [0xcc, 0x79, 0xa7],
    [0xe6, 0x9f, 0x00],
    [0x56, 0xb4, 0xe9],
    [0x00, 0x00, 0x00],
];

/// The colour of one line of `n`; more than there are colours share a rainbow.
fn series_color(series: usize, n: usize) -> Rgb {
    if n <= COLORS.len() {
        return COLORS[series];
    }
    let part = series as f32 / (n - 1) as f32;
    let [r, g, b, _] = colorgrad::preset::turbo().at(part).to_rgba8();
    [r, g, b]
}

/// The grid with its numbers, and the names of both axes.
fn draw_axes(scene: &mut Scene, frame: &Frame, curves: &Curves<'_>, spell: Spelling) {
    let (left, top) = frame.corner;
    let (right, bottom) = (left + AREA.0, top + AREA.1);
    let shade = |value: f64| if value == 0.0 { GREY } else { GRID };
    let (values, texts) = ticks(frame.x, TICKS);
    for (value, text) in values.into_iter().zip(&texts) {
        let at = frame.x_px(value);
        scene.line(vec![(at, top), (at, bottom)], shade(value), 1);
        scene.label((at, bottom + 4 + TEXT / 2), text, Anchor::Middle);
    }
    let (values, texts) = ticks(frame.y, TICKS);
    for (value, text) in values.into_iter().zip(&texts) {
        let at = frame.y_px(value);
        scene.line(vec![(left, at), (right, at)], shade(value), 1);
        scene.label((left - 6, at), text, Anchor::End);
    }
    scene.outline(frame.corner, AREA);
    let name = |text: &str| shorten(&spell(&legible(text)), 40);
    let unit = name(&curves.of.about.unit_label());
    let beside = (PAD + line_height(TEXT) / 2, top + AREA.1 / 2);
    scene.upward(beside, &unit, Anchor::Middle);
    let x_name = name(curves.of.axes().last().map_or("", |axis| &axis.name));
    let below = (left + AREA.0 / 2, bottom + 2 * line_height(TEXT));
    scene.label(below, &x_name, Anchor::Middle);
}

/// One line, broken where a value is missing, with a mark and an error bar at every point.
fn draw_line(scene: &mut Scene, frame: &Frame, points: &[Option<Point>], color: Rgb) {
    for run in points.split(Option::is_none) {
        let run: Vec<(i32, i32)> = run
            .iter()
            .flatten()
            .map(|p| (frame.x_px(p.x), frame.y_px(p.y)))
            .collect();
        if run.len() > 1 {
            scene.line(run, color, 2);
        }
    }
    for point in points.iter().flatten() {
        let (x, y) = (frame.x_px(point.x), frame.y_px(point.y));
        scene.rect((x - 2, y - 2), (5, 5), color);
        let Some(error) = point.std_error else {
            continue;
        };
        let ends = [point.y - error, point.y + error].map(|y| frame.y_px(y));
        scene.line(vec![(x, ends[0]), (x, ends[1])], color, 1);
        for end in ends {
            scene.line(vec![(x - 3, end), (x + 3, end)], color, 1);
        }
    }
}
