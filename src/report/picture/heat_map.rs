//! The heat map: panels of cells with their labels, a colour bar, title, caption and facts.

use super::png::covered;
use super::{Anchor, GREY, PAD, Scene, Spelling, TEXT, line_height, text_px, widest_px};
use crate::error::{Error, Result};
use crate::report::color::{ColorScale, MISSING, ink};
use crate::report::label::{legible, shorten, tick};
use crate::report::labelled::Labelled;
use crate::report::view::{Slice, View};

/// Columns that a label may take before its middle is cut.
const LABEL: usize = 28;
/// Most rows or columns of a picture.
const MOST: usize = 2048;
/// Most cells of a picture, all slices together.
const MOST_CELLS: usize = 400_000;
/// Most slices of a picture; a note tells how many are left out.
const MOST_SLICES: usize = 48;
/// Width at which panels break into the next row.
const BREAK: i32 = 1500;
/// Pixels between neighbouring labels.
const PITCH: i32 = 15;
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

/// The layout of one panel; all panels of a picture are alike.
struct Panel {
    row_labels: Vec<String>,
    col_labels: Vec<String>,
    row_name: String,
    col_name: String,
    cell: (i32, i32),
    /// Room for the heading, the row labels with their name, and what is below the cells.
    above: i32,
    left: i32,
    below: i32,
    /// Room to the right of the cells, where a label or heading is wider than its cells.
    right: i32,
    cols_upward: bool,
}

impl Panel {
    fn new(view: &View<'_>, spell: Spelling) -> Self {
        let (rows, cols) = view.dim();
        let cut = |labels: Vec<String>| -> Vec<String> {
            labels
                .iter()
                .map(|label| shorten(&spell(label), LABEL))
                .collect()
        };
        let name = |axis: Option<&crate::report::Axis>| {
            axis.map_or_else(String::new, |axis| {
                shorten(&spell(&legible(&axis.name)), LABEL)
            })
        };
        let (row_labels, col_labels) = (cut(view.row_labels()), cut(view.col_labels()));
        let (row_name, col_name) = (name(view.rows), name(view.cols));
        let widest = widest_px(&col_labels);
        let most = if view.len() > 1 { (22, 20) } else { (36, 28) };
        let cell = (cell_px(cols, 760, most.0), cell_px(rows, 520, most.1));
        let cols_upward = widest + 6 > cell.0;
        let label_room = if cols_upward {
            widest
        } else {
            line_height(TEXT)
        };
        let heads = view
            .slices()
            .map(|slice| spell(&slice.heading))
            .collect::<Vec<_>>();
        let left = widest_px(&row_labels) + 8 + line_height(TEXT);
        let needed = widest_px(&heads).max(text_px(&col_name, TEXT));
        Panel {
            above: if view.len() > 1 {
                line_height(TEXT) + 4
            } else {
                0
            },
            below: 6 + label_room + line_height(TEXT) + 4,
            // A long name of the columns' axis is centred on the cells: room on both sides.
            left: left.max((needed - cell.0 * cols as i32) / 2),
            right: ((needed - cell.0 * cols as i32) / 2)
                .max(PITCH / 2)
                .max(needed - left - cell.0 * cols as i32),
            row_labels,
            col_labels,
            row_name,
            col_name,
            cell,
            cols_upward,
        }
    }

    fn cells_px(&self) -> (i32, i32) {
        let (rows, cols) = (self.row_labels.len() as i32, self.col_labels.len() as i32);
        (self.cell.0 * cols, self.cell.1 * rows)
    }

    fn size(&self) -> (i32, i32) {
        let (width, height) = self.cells_px();
        // The rows' axis name reads upward and may be longer than the rows are high.
        let height = height.max(text_px(&self.row_name, TEXT) - self.below);
        (
            self.left + width + self.right,
            self.above + height + self.below,
        )
    }

    fn draw(&self, scene: &mut Scene, (x, y): (i32, i32), slice: &Slice<'_>, scale: &ColorScale) {
        let (left, top) = (x + self.left, y + self.above);
        for ((r, c), &value) in slice.values.indexed_iter() {
            let from = (left + c as i32 * self.cell.0, top + r as i32 * self.cell.1);
            let color = scale.color(value);
            scene.rect(from, self.cell, color);
            let middle = (from.0 + self.cell.0 / 2, from.1 + self.cell.1 / 2);
            let mark = mark(value).filter(|_| self.cell.0.min(self.cell.1) >= PITCH);
            if let Some(text) = mark {
                scene.push_text(middle, text, (TEXT, ink(color)), Anchor::Middle, false);
            }
        }
        self.frame(scene, (left, top));
    }

    /// Everything around the cells but the heading.
    fn frame(&self, scene: &mut Scene, (left, top): (i32, i32)) {
        let (width, height) = self.cells_px();
        let (right, bottom) = (left + width, top + height);
        let corners = [
            (left, top),
            (right, top),
            (right, bottom),
            (left, bottom),
            (left, top),
        ];
        scene.line(corners.to_vec(), GREY, 1);
        for (r, label) in thinned(&self.row_labels, self.cell.1) {
            let middle = top + r * self.cell.1 + self.cell.1 / 2;
            scene.label((left - 6, middle), label, Anchor::End);
        }
        for (c, label) in thinned(&self.col_labels, self.cell.0) {
            let middle = left + c * self.cell.0 + self.cell.0 / 2;
            if self.cols_upward {
                scene.upward((middle, bottom + 6), label, Anchor::End);
            } else {
                scene.label((middle, bottom + 6 + TEXT / 2), label, Anchor::Middle);
            }
        }
        let below = bottom + self.below - line_height(TEXT) / 2 - 4;
        scene.push_text(
            (left + width / 2, below),
            &self.col_name,
            (TEXT, GREY),
            Anchor::Middle,
            false,
        );
        let beside = left - widest_px(&self.row_labels) - 8 - line_height(TEXT) / 2;
        let middle = (top + height / 2).max(top - self.above + text_px(&self.row_name, TEXT) / 2);
        scene.push_text(
            (beside, middle),
            &self.row_name,
            (TEXT, GREY),
            Anchor::Middle,
            true,
        );
    }
}

/// Pixels of a cell: as large as `room` allows between `PITCH` and `most`; below `PITCH`, where
/// labels are thinned, only if there are very many.
fn cell_px(n: usize, room: i32, most: i32) -> i32 {
    let n = n as i32;
    if n * PITCH <= 2 * room {
        (room / n).clamp(PITCH, most)
    } else {
        (2 * room / n).max(2)
    }
}

/// The labels that have room, with their indices.
fn thinned(labels: &[String], cell: i32) -> impl Iterator<Item = (i32, &String)> {
    let stride = (PITCH + cell - 1) / cell;
    (0..).zip(labels).step_by(stride.max(1) as usize)
}

/// How a cell is marked whose value no colour can show.
fn mark(value: f32) -> Option<&'static str> {
    match value {
        v if v.is_nan() => Some("×"),
        f32::INFINITY => Some("∞"),
        f32::NEG_INFINITY => Some("-∞"),
        _ => None,
    }
}

fn scene(of: &Labelled, spell: Spelling) -> Result<Scene> {
    let view = View::new(of);
    let shown = view.len().min(MOST_SLICES);
    let (rows, cols) = view.dim();
    if rows.max(cols) > MOST || rows * cols * shown > MOST_CELLS {
        let found = format!("{shown} slices of {rows} x {cols} cells");
        let expected =
            format!("at most {MOST} rows and columns and {MOST_CELLS} cells; or another format");
        return Err(Error::invalid("picture", found, expected));
    }
    let panel = Panel::new(&view, spell);
    let scale = ColorScale::new(&of.values(), of.about.palette);
    let (width, height) = panel.size();
    let per_row = ((BREAK - 2 * PAD) / (width + PAD)).clamp(1, shown as i32);
    let rows_of_panels = (shown as i32 + per_row - 1) / per_row;
    let panels = (per_row * (width + PAD), rows_of_panels * (height + PAD));
    let bar = Bar::new(of, &scale, spell);
    let mut scene = Scene {
        width: (2 * PAD + panels.0 + bar.size.0).max(440),
        ..Scene::default()
    };
    let top = scene.head(&of.about, spell);
    for (i, slice) in (0..).zip(view.slices().take(shown)) {
        let at = (
            PAD + i % per_row * (width + PAD),
            top + i / per_row * (height + PAD),
        );
        let heading = spell(&slice.heading);
        scene.label(
            (
                at.0 + panel.left.min(width - text_px(&heading, TEXT)),
                at.1 + TEXT / 2,
            ),
            &heading,
            Anchor::Start,
        );
        panel.draw(&mut scene, at, &slice, &scale);
    }
    bar.draw(&mut scene, (PAD + panels.0, top + panel.above), &scale);
    let hidden = view.len() - shown;
    let note = format!("{hidden} more slices of {} not shown", view.len());
    let notes: Vec<String> = (hidden > 0)
        .then_some(note)
        .into_iter()
        .chain(of.about.facts())
        .collect();
    scene.foot(top + panels.1.max(panel.above + bar.size.1), &notes, spell);
    Ok(scene)
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
