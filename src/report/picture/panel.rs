//! One panel of a heat map: the cells of a slice with their labels.

use super::{Anchor, GREY, SMALL, Scene, Spelling, TEXT, line_height, text_px, widest_px};
use crate::report::Axis;
use crate::report::color::{ColorScale, ink};
use crate::report::label::{legible, shorten};
use crate::report::view::{Slice, View};

/// Columns that a label may take before its middle is cut.
const LABEL: usize = 28;
/// Pixels between neighbouring labels.
const PITCH: i32 = 15;
/// Columns that the text of a cell may take.
const CELL_TEXT: usize = 8;
/// Pixels of the cells of a row, all together, up to which texts widen them.
const WIDEST: i32 = 2800;
/// Room for the labels and the name of an axis, apart from their texts.
const GAP: i32 = 8;

/// The layout that all panels of a picture share.
pub(super) struct Panel {
    row_labels: Vec<String>,
    col_labels: Vec<String>,
    row_name: String,
    col_name: String,
    /// The size of a cell.
    cell: (i32, i32),
    /// Whether cells show their texts.
    texts: bool,
    spell: Spelling,
    /// Whether the columns' labels read upward, being wider than their cells.
    cols_upward: bool,
    /// Room around the cells.
    pub(super) margin: Margin,
}

/// Room around the cells of a panel.
pub(super) struct Margin {
    /// For the slice's heading.
    pub(super) above: i32,
    /// For the rows' labels and name.
    pub(super) left: i32,
    below: i32,
    right: i32,
}

impl Panel {
    /// The layout for a view whose slices have these headings.
    pub(super) fn new(view: &View<'_>, headings: &[String], spell: Spelling) -> Self {
        let cut = |label: &String| shorten(&spell(label), LABEL);
        let name = |axis: Option<&Axis>| axis.map_or_else(String::new, |a| cut(&legible(&a.name)));
        let (rows, cols) = view.dim();
        let most = if view.len() > 1 { (22, 20) } else { (36, 28) };
        let mut cell = (cell_px(cols, 760, most.0), cell_px(rows, 520, most.1));
        let widened = widest_text(view, spell).map(|px| cell.0.max(px + 6));
        let widened = widened.filter(|px| px * cols as i32 <= WIDEST);
        if let Some(px) = widened {
            cell = (px, cell.1.max(line_height(TEXT)));
        }
        let col_labels: Vec<String> = view.col_labels().iter().map(cut).collect();
        let mut panel = Panel {
            row_labels: view.row_labels().iter().map(cut).collect(),
            texts: widened.is_some(),
            spell,
            cols_upward: widest_px(&col_labels) + 6 > cell.0,
            col_labels,
            row_name: name(view.rows),
            col_name: name(view.cols),
            cell,
            margin: Margin {
                above: 0,
                left: 0,
                below: 0,
                right: 0,
            },
        };
        panel.margin = panel.margin_for(headings);
        panel
    }

    fn margin_for(&self, headings: &[String]) -> Margin {
        let line = line_height(TEXT);
        let (width, height) = self.cells_px();
        // What is wider than the cells starts at their left side and needs room to the right.
        let widest = widest_px(headings).max(text_px(&self.col_name, TEXT));
        // The name of the rows' axis is centred on the cells and may be longer than they are high.
        let upward = (text_px(&self.row_name, TEXT) - height) / 2;
        let above = if widest_px(headings) > 0 { line + 4 } else { 0 };
        Margin {
            above: above.max(upward),
            left: widest_px(&self.row_labels) + GAP + line,
            below: (GAP + self.label_room() + line).max(upward),
            right: (widest - width).max(PITCH / 2),
        }
    }

    /// Room for the columns' labels.
    fn label_room(&self) -> i32 {
        if self.cols_upward {
            widest_px(&self.col_labels)
        } else {
            line_height(TEXT)
        }
    }

    fn cells_px(&self) -> (i32, i32) {
        let (rows, cols) = (self.row_labels.len() as i32, self.col_labels.len() as i32);
        (self.cell.0 * cols, self.cell.1 * rows)
    }

    /// Width and height with margins.
    pub(super) fn size(&self) -> (i32, i32) {
        let ((width, height), margin) = (self.cells_px(), &self.margin);
        (
            margin.left + width + margin.right,
            margin.above + height + margin.below,
        )
    }

    /// Draws one slice with the panel's upper left corner at `(x, y)`.
    pub(super) fn draw(
        &self,
        scene: &mut Scene,
        (x, y): (i32, i32),
        slice: &Slice<'_>,
        scale: &ColorScale,
    ) {
        let (left, top) = (x + self.margin.left, y + self.margin.above);
        for ((r, c), &value) in slice.values.indexed_iter() {
            let from = (left + c as i32 * self.cell.0, top + r as i32 * self.cell.1);
            let color = scale.color(value);
            scene.rect(from, self.cell, color);
            let middle = (from.0 + self.cell.0 / 2, from.1 + self.cell.1 / 2);
            let mark = mark(value).filter(|_| self.cell.0.min(self.cell.1) >= PITCH);
            let own = slice.texts.as_ref().filter(|_| self.texts);
            let own = own.map(|texts| cell_text(&texts[[r, c]], self.spell));
            let text = mark.map(|mark| (mark.to_string(), TEXT));
            if let Some((text, size)) = text.or(own.map(|own| (own, SMALL))) {
                scene.push_text(middle, &text, (size, ink(color)), Anchor::Middle, false);
            }
        }
        self.frame(scene, (left, top));
    }

    /// Everything around the cells but the heading.
    fn frame(&self, scene: &mut Scene, (left, top): (i32, i32)) {
        let (width, height) = self.cells_px();
        let bottom = top + height;
        scene.outline((left, top), (width, height));
        for (r, label) in thinned(&self.row_labels, self.cell.1) {
            let middle = top + r * self.cell.1 + self.cell.1 / 2;
            scene.label((left - 6, middle), label, Anchor::End);
        }
        for (c, label) in thinned(&self.col_labels, self.cell.0) {
            let middle = left + c * self.cell.0 + self.cell.0 / 2;
            if self.cols_upward {
                scene.upward((middle, bottom + GAP - 2), label, Anchor::End);
            } else {
                scene.label((middle, bottom + GAP - 2 + TEXT / 2), label, Anchor::Middle);
            }
        }
        let below = bottom + GAP + self.label_room() + line_height(TEXT) / 2;
        let start = left + (width - text_px(&self.col_name, TEXT)).max(0) / 2;
        let grey = (TEXT, GREY);
        scene.push_text((start, below), &self.col_name, grey, Anchor::Start, false);
        let beside = left - widest_px(&self.row_labels) - GAP - line_height(TEXT) / 2;
        let middle = top + height / 2;
        scene.push_text((beside, middle), &self.row_name, grey, Anchor::Middle, true);
    }
}

/// The text of a cell as it is drawn.
fn cell_text(text: &str, spell: Spelling) -> String {
    shorten(&spell(&legible(text)), CELL_TEXT)
}

/// Pixels of the widest text of a cell, if cells have texts.
fn widest_text(view: &View<'_>, spell: Spelling) -> Option<i32> {
    let texts = view.slices().filter_map(|slice| slice.texts);
    let widest = |texts: ndarray::ArrayView2<'_, String>| {
        let px = texts.iter().map(|t| text_px(&cell_text(t, spell), SMALL));
        px.max()
    };
    texts.filter_map(widest).max()
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
