//! Results with one axis: a bar per cell, with its standard error.

use super::panel::{cell_px, thinned};
use super::ticks::ticks;
use super::{Anchor, BLACK, GREY, GRID, PAD, Scene, Spelling, TEXT, WHITE};
use super::{line_height, text_px, widest_px};
use crate::report::color::ColorScale;
use crate::report::digits::Decimals;
use crate::report::label::{legible, shorten, shorten_apart};
use crate::report::labelled::Labelled;
use crate::report::row::{Row, rows, span};

/// The width of the longest bar with its room.
const ROOM: i32 = 420;
/// Columns that a label, and the text of a cell, may take before their middle is cut.
const LABEL: usize = 36;
const CELL_TEXT: usize = 20;

/// The layout: where bars and texts lie.
struct Layout {
    labels: Vec<String>,
    values: Vec<String>,
    /// The upper left corner of the bars' room.
    corner: (i32, i32),
    /// The height of a bar with its room.
    pitch: i32,
    span: (f64, f64),
}

/// The bars of a result with one axis or none, in its order.
pub(super) fn scene(of: &Labelled, spell: Spelling) -> Scene {
    let rows = rows(of);
    let scale = ColorScale::new(of);
    let labels: Vec<String> = rows.iter().map(|row| spell(&row.label)).collect();
    let labels = shorten_apart(&labels, LABEL);
    let decimals = Decimals::new(&of.values(), 4);
    let value = |row: &Row| value_text(row, decimals, spell);
    let values: Vec<String> = rows.iter().map(value).collect();
    let name = of.axes().first().map(|axis| legible(&axis.name));
    let name = shorten(&spell(&name.unwrap_or_default()), LABEL);
    let left = PAD + widest_px(&labels).max(text_px(&name, TEXT)) + 8;
    let mut scene = Scene {
        width: (left + ROOM + 12 + widest_px(&values) + PAD).max(440),
        ..Scene::default()
    };
    let top = scene.head(&of.about, spell) + line_height(TEXT);
    let layout = Layout {
        corner: (left, top),
        pitch: cell_px(rows.len(), 760, 24),
        span: span(&rows),
        labels,
        values,
    };
    let above = (left - 8, top - line_height(TEXT) / 2);
    scene.push_text(above, &name, (TEXT, GREY), Anchor::End, false);
    layout.draw_rows(&mut scene, of);
    let bottom = layout.draw_axis(&mut scene);
    for (i, row) in (0..).zip(&rows) {
        layout.draw_bar(&mut scene, i, row, &scale);
    }
    let zero = layout.x_px(0.0);
    scene.line(vec![(zero, top), (zero, bottom)], GREY, 1);
    let unit = shorten(&spell(&legible(&of.about.unit_label())), 60);
    let below = bottom + 2 * line_height(TEXT);
    scene.label((left, below), &unit, Anchor::Start);
    scene.foot(below + line_height(TEXT) / 2, &of.about.facts(), spell);
    scene
}

/// What stands beside a bar.
fn value_text(row: &Row, decimals: Decimals, spell: Spelling) -> String {
    let mut text = match (row.absent, row.std_error) {
        (Some(reason), _) => reason.to_string(),
        (None, Some(error)) => {
            format!(
                "{} ± {}",
                decimals.format(row.value),
                decimals.format(error)
            )
        }
        (None, None) => decimals.format(row.value),
    };
    if let Some(own) = &row.text {
        text += &format!("  {}", shorten(own, CELL_TEXT));
    }
    spell(&text)
}

impl Layout {
    fn x_px(&self, value: f64) -> i32 {
        let (low, high) = self.span;
        self.corner.0 + ((value - low) / (high - low) * f64::from(ROOM)).round() as i32
    }

    /// The rows' labels and values. What is under the pointer names the whole row: a small bar is
    /// hard to point at.
    fn draw_rows(&self, scene: &mut Scene, of: &Labelled) {
        let (parts, axes) = (of.parts(), of.axes().len());
        let (left, top) = self.corner;
        for i in 0..self.labels.len() {
            let title = of.describe(&parts, &[i][..axes]);
            let from = (PAD, top + i as i32 * self.pitch);
            let size = (scene.width - 2 * PAD, self.pitch);
            scene.titled_rect(from, size, WHITE, Some(title));
        }
        let right = left + ROOM + 12 + widest_px(&self.values);
        let level = |i: i32| top + i * self.pitch + self.pitch / 2;
        for (i, label) in thinned(&self.labels, self.pitch) {
            scene.label((left - 8, level(i)), label, Anchor::End);
        }
        for (i, value) in thinned(&self.values, self.pitch) {
            scene.label((right, level(i)), value, Anchor::End);
        }
    }

    /// The grid with its numbers; returns where the bars end.
    fn draw_axis(&self, scene: &mut Scene) -> i32 {
        let top = self.corner.1;
        let bottom = top + self.pitch * self.labels.len() as i32;
        let (values, texts) = ticks(self.span, 6);
        for (value, text) in values.into_iter().zip(&texts) {
            let at = self.x_px(value);
            scene.line(vec![(at, top), (at, bottom)], GRID, 1);
            scene.label((at, bottom + 4 + TEXT / 2), text, Anchor::Middle);
        }
        bottom
    }

    fn draw_bar(&self, scene: &mut Scene, i: i32, row: &Row, scale: &ColorScale) {
        if row.absent.is_some() {
            return;
        }
        let top = self.corner.1 + i * self.pitch;
        let (zero, end) = (self.x_px(0.0), self.x_px(row.clamped(self.span)));
        // At least a line, so that a small value differs from none.
        let size = (
            (end - zero).abs().max(1),
            (self.pitch - 2 * self.gap()).max(1),
        );
        let from = (zero.min(end), top + self.gap());
        scene.rect(from, size, scale.of_sign(row.value));
        let Some(error) = row.std_error.map(f64::from).filter(|e| e.is_finite()) else {
            return;
        };
        let (value, level) = (row.clamped(self.span), top + self.pitch / 2);
        let ends = [value - error, value + error].map(|end| self.x_px(end));
        scene.line(vec![(ends[0], level), (ends[1], level)], BLACK, 1);
        let cap = (self.pitch / 5).clamp(1, 4);
        for end in ends {
            scene.line(vec![(end, level - cap), (end, level + cap)], BLACK, 1);
        }
    }

    /// Room above and below a bar.
    fn gap(&self) -> i32 {
        (self.pitch / 6).min(3)
    }
}
