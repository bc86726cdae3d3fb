//! One panel of a heat map: the cells of a slice with their labels.

use super::{Anchor, GREY, SMALL, Scene, Spelling, TEXT, line_height, text_px, widest_px};
use crate::report::Axis;
use crate::report::axis::Part;
use crate::report::color::{ColorScale, ink};
use crate::report::digits::Decimals;
use crate::report::label::{legible, shorten, shorten_apart, shorten_token};
use crate::report::labelled::Labelled;
use crate::report::view::{Slice, View};

/// Columns that a label may take before its middle is cut.
const LABEL: usize = 28;
/// Pixels between neighbouring labels.
const PITCH: i32 = 15;
/// Columns that the text of a cell may take.
const CELL_TEXT: usize = 8;
/// Pixels of the cells of a row, all together, up to which texts or numbers widen them.
const WIDEST_TEXTS: i32 = 2800;
const WIDEST_NUMBERS: i32 = 1100;
/// Most cells of a panel, and of a picture, that have numbers in them.
const NUMBERED: (usize, usize) = (256, 1024);
/// Most cells of a picture whose SVG says their values under the pointer.
const TITLED: usize = 40_000;
/// Room for the labels and the name of an axis, apart from their texts.
const GAP: i32 = 8;

/// The layout that all panels of a picture share.
pub(super) struct Panel<'a> {
    of: &'a Labelled,
    parts: Vec<Part>,
    row_labels: Vec<String>,
    col_labels: Vec<String>,
    row_name: String,
    col_name: String,
    /// The size of a cell.
    cell: (i32, i32),
    content: Content,
    /// Whether cells say their values under the pointer.
    titled: bool,
    spell: Spelling,
    /// Whether the columns' labels read upward, being wider than their cells.
    cols_upward: bool,
    /// Room around the cells.
    pub(super) margin: Margin,
}

/// What is written into cells.
#[derive(Clone, Copy)]
struct Content {
    texts: bool,
    /// How numbers are written, if they are.
    numbers: Option<Decimals>,
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

impl<'a> Panel<'a> {
    /// The layout for a view whose slices have these headings.
    pub(super) fn new(
        of: &'a Labelled,
        view: &View<'_>,
        headings: &[String],
        spell: Spelling,
    ) -> Self {
        let cut = |labels: Vec<String>| {
            let spelled: Vec<String> = labels.iter().map(|label| spell(label)).collect();
            shorten_apart(&spelled, LABEL)
        };
        let name = |axis: Option<&Axis>| {
            axis.map_or_else(String::new, |a| shorten(&spell(&legible(&a.name)), LABEL))
        };
        let (rows, cols) = view.dim();
        let most = if view.len() > 1 { (22, 20) } else { (36, 28) };
        let cell = (cell_px(cols, 760, most.0), cell_px(rows, 520, most.1));
        let (content, cell) = Content::fitting(of, view, cell, spell);
        let col_labels = cut(view.col_labels());
        let mut panel = Panel {
            of,
            parts: of.parts(),
            row_labels: cut(view.row_labels()),
            content,
            titled: of.values().len() <= TITLED,
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
            let color = scale.color(value, slice.absent[(r, c)]);
            let title = self.titled.then(|| {
                let index = [&slice.indices[..], &[r, c]].concat();
                self.of
                    .describe(&self.parts, &index[..self.of.axes().len()])
            });
            scene.titled_rect(from, self.cell, color, title);
            let lines = self.content.lines(slice, (r, c), self.cell, self.spell);
            let pitch = SMALL + 3;
            let middle = from.1 + self.cell.1 / 2 - pitch * (lines.len() as i32 - 1) / 2;
            for (i, (text, size)) in (0..).zip(&lines) {
                let at = (from.0 + self.cell.0 / 2, middle + i * pitch);
                scene.push_text(at, text, (*size, ink(color)), Anchor::Middle, false);
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

impl Content {
    /// Texts and numbers for cells of this size, as far as there is room, and the size that cells
    /// have with them.
    fn fitting(
        of: &Labelled,
        view: &View<'_>,
        cell: (i32, i32),
        spell: Spelling,
    ) -> (Content, (i32, i32)) {
        let (rows, cols) = view.dim();
        let few = rows * cols <= NUMBERED.0 && of.values().len() <= NUMBERED.1;
        let numbers = few.then(|| Decimals::new(&of.values(), 3));
        let texts = of.texts().is_some();
        let widest = if texts { WIDEST_TEXTS } else { WIDEST_NUMBERS };
        let contents = [numbers, None].map(|numbers| Content { texts, numbers });
        let sized = contents
            .into_iter()
            .filter(|c| c.texts || c.numbers.is_some());
        let mut sized = sized.map(|content| (content, content.size(view, cell, spell)));
        let fits = |(_, size): &(Content, (i32, i32))| size.0 * cols as i32 <= widest;
        let none = Content {
            texts: false,
            numbers: None,
        };
        sized.find(fits).unwrap_or((none, cell))
    }

    /// The size of cells that hold their lines.
    fn size(self, view: &View<'_>, cell: (i32, i32), spell: Spelling) -> (i32, i32) {
        let (mut width, mut height) = (cell.0, cell.1.max(line_height(TEXT)));
        for slice in view.slices() {
            for (at, _) in slice.values.indexed_iter() {
                let lines = self.lines(&slice, at, (i32::MAX, i32::MAX), spell);
                let widest = lines.iter().map(|(text, size)| text_px(text, *size)).max();
                width = width.max(widest.unwrap_or(0) + 6);
                height = height.max(lines.len() as i32 * (SMALL + 3) + 6);
            }
        }
        (width, height)
    }

    /// What is written into a cell of a size: lines of text with their font sizes.
    fn lines(
        self,
        slice: &Slice<'_>,
        at: (usize, usize),
        cell: (i32, i32),
        spell: Spelling,
    ) -> Vec<(String, i32)> {
        let value = slice.values[at];
        if let Some(reason) = slice.absent[at] {
            let (mark, words) = (spell(reason.mark()), spell(&reason.to_string()));
            let roomy = self.numbers.is_some() && cell.0 >= text_px(&words, SMALL);
            return if roomy {
                vec![(words, SMALL)]
            } else if cell.1 >= PITCH && cell.0 >= PITCH.max(text_px(&mark, SMALL)) {
                vec![(mark, SMALL)]
            } else {
                Vec::new()
            };
        }
        if value.is_infinite() {
            let mark = if value > 0.0 { "∞" } else { "-∞" };
            let shown = cell.0.min(cell.1) >= PITCH;
            return shown
                .then(|| (mark.to_string(), TEXT))
                .into_iter()
                .collect();
        }
        let text = slice.texts.filter(|_| self.texts);
        let text = text.map(|texts| shorten_token(&spell(&legible(&texts[at])), CELL_TEXT));
        let number = self.numbers.map(|decimals| decimals.format(value));
        let error = slice
            .std_error
            .map(|errors| errors[at])
            .filter(|e| !e.is_nan());
        let error = self.numbers.zip(error);
        let error = error.map(|(decimals, error)| format!("±{}", decimals.format(error)));
        let lines = [text, number, error].into_iter().flatten();
        lines.map(|line| (line, SMALL)).collect()
    }
}

/// Pixels of a cell: as large as `room` allows between `PITCH` and `most`; below `PITCH`, where
/// labels are thinned, only if there are very many.
pub(super) fn cell_px(n: usize, room: i32, most: i32) -> i32 {
    let n = n as i32;
    if n * PITCH <= 2 * room {
        (room / n).clamp(PITCH, most)
    } else {
        (2 * room / n).max(2)
    }
}

/// The labels that have room, with their indices.
pub(super) fn thinned(labels: &[String], cell: i32) -> impl Iterator<Item = (i32, &String)> {
    let stride = (PITCH + cell - 1) / cell;
    (0..).zip(labels).step_by(stride.max(1) as usize)
}
