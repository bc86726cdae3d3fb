//! The line plot: axes with ticks, lines with error bars, a legend.

use colorgrad::Gradient as _;

use super::frame::Frame;
use super::png::covered;
use super::{Anchor, PAD, Scene, Spelling, TEXT, line_height, widest_px};
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

fn scene(curves: &Curves<'_>, spell: Spelling) -> Scene {
    let about = &curves.of.about;
    let names: Vec<String> = curves.names().iter().map(|name| spell(name)).collect();
    let names = shorten_apart(&names, 32);
    let mut frame = Frame::new(AREA, curves.bounds());
    let legend = frame.right() + 2 * PAD;
    let mut scene = Scene {
        width: legend + 24 + widest_px(&names) + PAD,
        ..Scene::default()
    };
    frame.corner.1 = scene.head(about, spell);
    let [x_name, y_name] = axis_names(curves, spell);
    frame.draw_axes(&mut scene, [&x_name, &y_name]);
    for (series, name) in names.iter().enumerate() {
        let color = series_color(series, names.len());
        draw_line(&mut scene, &frame, &curves.points(series), color);
        let level = frame.corner.1 + line_height(TEXT) / 2 + series as i32 * line_height(TEXT);
        scene.line(vec![(legend, level), (legend + 18, level)], color, 2);
        scene.label((legend + 24, level), name, Anchor::Start);
    }
    let rows = names.len() as i32 * line_height(TEXT);
    let end = (frame.corner.1 + rows).max(frame.end());
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

/// The names of both axes.
fn axis_names(curves: &Curves<'_>, spell: Spelling) -> [String; 2] {
    let name = |text: &str| shorten(&spell(&legible(text)), 40);
    let x_name = curves.of.axes().last().map_or("", |axis| &axis.name);
    [name(x_name), name(&curves.of.about.unit_label())]
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
