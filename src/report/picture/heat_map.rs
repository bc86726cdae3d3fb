//! The heat map: panels, a colour bar, title, caption and facts.

use super::panel::Panel;
use super::png::covered;
use super::{Anchor, PAD, Scene, Spelling, TEXT, line_height, text_px, widest_px};
use crate::error::{Error, Result};
use crate::report::color::{ColorScale, MISSING, ink};
use crate::report::label::{legible, number, shorten};
use crate::report::labelled::Labelled;
use crate::report::view::{Slice, View};

/// Most rows or columns of a picture.
const MOST: usize = 2048;
/// Most cells of a picture, all slices together.
const MOST_CELLS: usize = 400_000;
/// Most slices of a picture; a note tells how many are left out.
const MOST_SLICES: usize = 48;
/// Width at which panels break into the next row.
const BREAK: i32 = 1500;
/// The colour bar: width and height.
const BAR: (i32, i32) = (18, 200);

impl Labelled {
    /// The heat map as SVG: labels, colour bar, title, caption and facts, all inside the view box.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than 2048 rows or columns, or more than 400,000 cells.
    pub fn to_svg(&self) -> Result<String> {
        scene(self, str::to_string)?.to_svg()
    }

    /// The heat map as PNG, two pixels per unit of the SVG; characters that the font lacks are
    /// written as escapes.
    ///
    /// # Errors
    /// Those of [`Labelled::to_svg`].
    pub fn to_png(&self) -> Result<Vec<u8>> {
        scene(self, covered)?.to_png()
    }
}

fn scene(of: &Labelled, spell: Spelling) -> Result<Scene> {
    let view = View::new(of);
    let shown = view.len().min(MOST_SLICES);
    check_size(&view, shown)?;
    let heading = |slice: Slice<'_>| shorten(&spell(&slice.heading), 60);
    let headings: Vec<String> = view.slices().take(shown).map(heading).collect();
    let panel = Panel::new(&view, &headings, spell);
    let scale = ColorScale::new(&of.values(), of.about.palette);
    let bar = Bar::new(of, &scale, spell);
    let (width, height) = (panel.size().0 + PAD, panel.size().1 + PAD);
    let per_row = ((BREAK - 2 * PAD) / width).clamp(1, shown as i32);
    let mut scene = Scene {
        width: (2 * PAD + per_row * width + bar.size.0).max(440),
        ..Scene::default()
    };
    let top = scene.head(&of.about, spell);
    for ((i, slice), heading) in (0..).zip(view.slices()).zip(&headings) {
        let (x, y) = (PAD + i % per_row * width, top + i / per_row * height);
        let start = (x + panel.margin.left, y + TEXT / 2);
        scene.label(start, heading, Anchor::Start);
        panel.draw(&mut scene, (x, y), &slice, &scale);
    }
    let level = top + panel.margin.above;
    bar.draw(&mut scene, (PAD + per_row * width, level), &scale);
    let rows_of_panels = (shown as i32 + per_row - 1) / per_row;
    let end = (top + rows_of_panels * height).max(level + bar.size.1);
    let hidden = view.len() - shown;
    let note = format!("{hidden} more slices of {} not shown", view.len());
    let mut notes: Vec<String> = (hidden > 0).then_some(note).into_iter().collect();
    notes.extend(of.about.facts());
    scene.foot(end, &notes, spell);
    Ok(scene)
}

fn check_size(view: &View<'_>, shown: usize) -> Result<()> {
    let (rows, cols) = view.dim();
    if rows.max(cols) <= MOST && rows * cols * shown <= MOST_CELLS {
        return Ok(());
    }
    let found = format!("{shown} slices of {rows} x {cols} cells");
    let most = format!("at most {MOST} rows and columns and {MOST_CELLS} cells; or another format");
    Err(Error::invalid("picture", found, most))
}

/// A number beside the colour bar, without zeros at its end.
fn tick(value: f64) -> String {
    let text = number(value as f32);
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        text
    }
}

/// The colour bar with its ticks and the unit, and the mark of missing values.
struct Bar {
    unit: String,
    ticks: Vec<String>,
    missing: bool,
    size: (i32, i32),
}

impl Bar {
    fn new(of: &Labelled, scale: &ColorScale, spell: Spelling) -> Self {
        let middle = (f64::from(scale.low) + f64::from(scale.high)) / 2.0;
        let ticks = [f64::from(scale.high), middle, f64::from(scale.low)]
            .map(tick)
            .to_vec();
        let unit = shorten(&spell(&legible(&of.about.unit_label())), 60);
        let missing = of.values().iter().any(|v| v.is_nan());
        let key = if missing { line_height(TEXT) + PAD } else { 0 };
        let width = (BAR.0 + 8 + widest_px(&ticks)).max(BAR.0 + 8 + text_px("n/a", TEXT));
        let height = (BAR.1 + TEXT).max(text_px(&unit, TEXT));
        Bar {
            size: (width + 6 + line_height(TEXT), height + key),
            unit,
            ticks,
            missing,
        }
    }

    fn draw(&self, scene: &mut Scene, (x, y): (i32, i32), scale: &ColorScale) {
        let key = if self.missing {
            line_height(TEXT) + PAD
        } else {
            0
        };
        let middle = y + (self.size.1 - key) / 2;
        let (top, steps) = (middle - BAR.1 / 2, scale.colors().len() as i32);
        for (i, &color) in (0..).zip(scale.colors().iter().rev()) {
            let (from, to) = (i * BAR.1 / steps, (i + 1) * BAR.1 / steps);
            scene.rect((x, top + from), (BAR.0, to - from), color);
        }
        for (i, tick) in (0..).zip(&self.ticks) {
            scene.label((x + BAR.0 + 6, top + i * BAR.1 / 2), tick, Anchor::Start);
        }
        let beside = x + self.size.0 - line_height(TEXT) / 2;
        scene.upward((beside, middle), &self.unit, Anchor::Middle);
        if self.missing {
            let below = y + self.size.1 - line_height(TEXT);
            scene.rect((x, below), (BAR.0, line_height(TEXT)), MISSING);
            let level = below + line_height(TEXT) / 2;
            scene.push_text(
                (x + BAR.0 / 2, level),
                "×",
                (TEXT, ink(MISSING)),
                Anchor::Middle,
                false,
            );
            scene.label((x + BAR.0 + 6, level), "n/a", Anchor::Start);
        }
    }
}
