//! Scenes as SVG.

use plotters::prelude::{DrawingBackend, RGBColor, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    Color as _, FontDesc, FontFamily, FontStyle, FontTransform, ShapeStyle, TextStyle,
};

use super::{Anchor, Scene, Shape};
use crate::error::Result;
use crate::report::color::Rgb;
use crate::report::save::encoder;

/// Fonts for an SVG's reader, all monospaced with an advance of about 0.6 em.
const FAMILY: &str = "Hack, DejaVu Sans Mono, Menlo, Liberation Mono, monospace";

impl Scene {
    pub(super) fn to_svg(&self) -> Result<String> {
        let mut svg = String::new();
        let size = (self.width as u32, self.height as u32);
        let mut backend = SVGBackend::with_string(&mut svg, size);
        self.draw(&mut backend).map_err(|e| encoder("svg", e))?;
        drop(backend);
        Ok(svg)
    }

    fn draw<B: DrawingBackend>(
        &self,
        backend: &mut B,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        B::ErrorType: 'static,
    {
        let white = RGBColor(255, 255, 255);
        backend.draw_rect((0, 0), (self.width, self.height), &white, true)?;
        for shape in &self.shapes {
            match shape {
                Shape::Rect { from, to, color } => {
                    backend.draw_rect(*from, *to, &rgb(*color), true)?;
                }
                Shape::Line {
                    points,
                    color,
                    width,
                } => {
                    let style = ShapeStyle {
                        color: rgb(*color).into(),
                        filled: false,
                        stroke_width: *width as u32,
                    };
                    backend.draw_path(points.iter().copied(), &style)?;
                }
                Shape::Text {
                    at,
                    text,
                    size,
                    anchor,
                    upward,
                    color,
                } => {
                    let style = text_style(*size, *anchor, *upward, *color);
                    backend.draw_text(text, &style, *at)?;
                }
            }
        }
        Ok(backend.present()?)
    }
}

fn rgb([r, g, b]: Rgb) -> RGBColor {
    RGBColor(r, g, b)
}

fn text_style(size: i32, anchor: Anchor, upward: bool, color: Rgb) -> TextStyle<'static> {
    let h_pos = match anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    let transform = if upward {
        FontTransform::Rotate270
    } else {
        FontTransform::None
    };
    // plotters writes sizes in units of 1.24 em.
    let (family, size) = (FontFamily::Name(FAMILY), f64::from(size) * 1.24);
    TextStyle {
        font: FontDesc::new(family, size, FontStyle::Normal).transform(transform),
        color: rgb(color).to_backend_color(),
        pos: Pos::new(h_pos, VPos::Center),
    }
}
