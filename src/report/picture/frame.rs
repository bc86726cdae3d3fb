//! A plotting area between two axes of numbers.

use super::ticks::ticks;
use super::{Anchor, GREY, GRID, PAD, Scene, TEXT, line_height, widest_px};

/// Most numbers along an axis.
const TICKS: u32 = 8;

/// Where numbers lie in the picture.
pub(super) struct Frame {
    /// The upper left corner of the area.
    pub corner: (i32, i32),
    /// Width and height.
    area: (i32, i32),
    x: (f64, f64),
    y: (f64, f64),
}

impl Frame {
    /// An area of this size for numbers within these bounds, at the top of the picture.
    pub fn new(area: (i32, i32), [(x0, x1), (y0, y1)]: [(f64, f64); 2]) -> Self {
        // A little air, so that no point lies on the frame.
        let (dx, dy) = ((x1 - x0) * 0.02, (y1 - y0) * 0.05);
        let (x, y) = ((x0 - dx, x1 + dx), (y0 - dy, y1 + dy));
        let labels = widest_px(&ticks(y, TICKS).1);
        let corner = (PAD + line_height(TEXT) + labels + 8, 0);
        Frame { corner, area, x, y }
    }

    pub fn x_px(&self, x: f64) -> i32 {
        let part = (x - self.x.0) / (self.x.1 - self.x.0);
        self.corner.0 + (part * f64::from(self.area.0)) as i32
    }

    pub fn y_px(&self, y: f64) -> i32 {
        let part = (self.y.1 - y) / (self.y.1 - self.y.0);
        self.corner.1 + (part * f64::from(self.area.1)) as i32
    }

    /// The right end of the area.
    pub fn right(&self) -> i32 {
        self.corner.0 + self.area.0
    }

    /// The lower end of the area.
    pub fn bottom(&self) -> i32 {
        self.corner.1 + self.area.1
    }

    /// Where the axis below, with its numbers and its name, ends.
    pub fn end(&self) -> i32 {
        self.bottom() + 3 * line_height(TEXT)
    }

    /// The grid with its numbers, and the names of both axes.
    pub fn draw_axes(&self, scene: &mut Scene, [x_name, y_name]: [&str; 2]) {
        let ((left, top), right, bottom) = (self.corner, self.right(), self.bottom());
        let shade = |value: f64| if value == 0.0 { GREY } else { GRID };
        let (values, texts) = ticks(self.x, TICKS);
        for (value, text) in values.into_iter().zip(&texts) {
            let at = self.x_px(value);
            scene.line(vec![(at, top), (at, bottom)], shade(value), 1);
            scene.label((at, bottom + 4 + TEXT / 2), text, Anchor::Middle);
        }
        let (values, texts) = ticks(self.y, TICKS);
        for (value, text) in values.into_iter().zip(&texts) {
            let at = self.y_px(value);
            scene.line(vec![(left, at), (right, at)], shade(value), 1);
            scene.label((left - 6, at), text, Anchor::End);
        }
        scene.outline(self.corner, self.area);
        let beside = (PAD + line_height(TEXT) / 2, top + self.area.1 / 2);
        scene.upward(beside, y_name, Anchor::Middle);
        let below = (left + self.area.0 / 2, bottom + 2 * line_height(TEXT));
        scene.label(below, x_name, Anchor::Middle);
    }
}
