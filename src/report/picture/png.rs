//! Scenes as PNG. Outlines of glyphs and their coverage come from `ab_glyph`.

use std::sync::OnceLock;

use ab_glyph::{Font as _, FontRef, Glyph, PxScale, ScaleFont as _, point};
use ab_glyph_rasterizer::Rasterizer;
use unicode_width::UnicodeWidthChar as _;

use super::{Anchor, Scene, Shape, Stroke};
use crate::error::Result;
use crate::report::color::Rgb;
use crate::report::save::encoder;

/// Pixels of a PNG per pixel of the layout, so that small labels stay sharp.
const ZOOM: i32 = 2;

/// The font of PNG pictures.
fn font() -> Option<&'static FontRef<'static>> {
    static FONT: OnceLock<Option<FontRef<'static>>> = OnceLock::new();
    let load = || FontRef::try_from_slice(epaint_default_fonts::HACK_REGULAR).ok();
    FONT.get_or_init(load).as_ref()
}

/// Escapes the characters that the font of PNG pictures does not have.
pub(super) fn covered(text: &str) -> String {
    let known = |c: char| font().is_some_and(|f| f.glyph_id(c).0 != 0) && c.width() == Some(1);
    let mut covered = String::with_capacity(text.len());
    for c in text.chars() {
        if known(c) {
            covered.push(c);
        } else {
            covered.extend(c.escape_unicode());
        }
    }
    covered
}

impl Scene {
    pub(super) fn to_png(&self) -> Result<Vec<u8>> {
        let (width, height) = (self.width * ZOOM, self.height * ZOOM);
        let pixels = vec![255; width as usize * height as usize * 3];
        let mut canvas = Canvas {
            pixels,
            width,
            height,
        };
        for shape in &self.shapes {
            canvas.draw(shape);
        }
        canvas.encode().map_err(|e| encoder("png", e))
    }
}

/// Pixels, three bytes each.
struct Canvas {
    pixels: Vec<u8>,
    width: i32,
    height: i32,
}

impl Canvas {
    fn draw(&mut self, shape: &Shape) {
        match shape {
            Shape::Rect {
                from, to, color, ..
            } => {
                for y in from.1 * ZOOM..to.1 * ZOOM {
                    for x in from.0 * ZOOM..to.0 * ZOOM {
                        self.blend((x, y), *color, 1.0);
                    }
                }
            }
            Shape::Line { points, stroke, .. } => {
                for [from, to] in strokes(points, *stroke) {
                    self.draw_segment(from, to, *stroke);
                }
            }
            Shape::Text {
                at,
                text,
                size,
                anchor,
                upward,
                color,
            } => {
                let origin = (at.0 * ZOOM, at.1 * ZOOM);
                for glyph in glyphs(text, *size, *anchor) {
                    self.draw_glyph(glyph, origin, *upward, *color);
                }
            }
        }
    }

    /// A straight stroke: the rectangle around its two ends, filled smoothly.
    fn draw_segment(&mut self, from: Point, to: Point, stroke: Stroke) {
        let zoom = ZOOM as f32;
        let half = stroke.width * zoom / 2.0;
        let [(ax, ay), (bx, by)] = [from, to].map(|(x, y)| (x * zoom, y * zoom));
        let length = (bx - ax).hypot(by - ay);
        if length == 0.0 {
            return;
        }
        // Lengthened by half the width at both ends, so that corners close.
        let (ux, uy) = ((bx - ax) / length * half, (by - ay) / length * half);
        let (left, top) = (ax.min(bx) - 2.0 * half, ay.min(by) - 2.0 * half);
        let (left, top) = (left.floor(), top.floor());
        let size = |a: f32, b: f32| ((a - b).abs() + 4.0 * half).ceil() as usize + 1;
        let mut raster = Rasterizer::new(size(ax, bx), size(ay, by));
        let corners = [
            (ax - ux - uy, ay - uy + ux),
            (bx + ux - uy, by + uy + ux),
            (bx + ux + uy, by + uy - ux),
            (ax - ux + uy, ay - uy - ux),
        ]
        .map(|(x, y)| ab_glyph_rasterizer::point(x - left, y - top));
        for i in 0..4 {
            raster.draw_line(corners[i], corners[(i + 1) % 4]);
        }
        raster.for_each_pixel_2d(|x, y, coverage| {
            let at = (x as i32 + left as i32, y as i32 + top as i32);
            // A slanted line leaves most of the rectangle around it as it is.
            if coverage > 0.0 {
                self.blend(at, stroke.color, coverage.min(1.0));
            }
        });
    }

    fn draw_glyph(&mut self, glyph: Glyph, origin: (i32, i32), upward: bool, color: Rgb) {
        let Some(outline) = font().and_then(|font| font.outline_glyph(glyph)) else {
            return;
        };
        let corner = outline.px_bounds().min;
        outline.draw(|x, y, coverage| {
            let (right, down) = (x as i32 + corner.x as i32, y as i32 + corner.y as i32);
            let (dx, dy) = if upward {
                (down, -right)
            } else {
                (right, down)
            };
            self.blend((origin.0 + dx, origin.1 + dy), color, coverage.min(1.0));
        });
    }

    fn blend(&mut self, (x, y): (i32, i32), color: Rgb, coverage: f32) {
        if !(0..self.width).contains(&x) || !(0..self.height).contains(&y) {
            return;
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        for (pixel, ink) in self.pixels[at..at + 3].iter_mut().zip(color) {
            let mixed = f32::from(*pixel) * (1.0 - coverage) + f32::from(ink) * coverage;
            *pixel = mixed.round() as u8;
        }
    }

    fn encode(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        writer.finish()?;
        Ok(bytes)
    }
}

/// In pixels of the layout.
type Point = (f32, f32);

/// The straight strokes of a line: those between its points, or its dashes.
fn strokes(points: &[(i32, i32)], stroke: Stroke) -> Vec<[Point; 2]> {
    let ends = |pair: &[(i32, i32)]| [pair[0], pair[1]].map(|(x, y)| (x as f32, y as f32));
    let segments = points.windows(2).map(ends);
    let Some([dash, gap]) = stroke.dashes() else {
        return segments.collect();
    };
    let mut strokes = Vec::new();
    // How far along the line the segment begins.
    let mut before = 0.0;
    for [(ax, ay), (bx, by)] in segments {
        let length = (bx - ax).hypot(by - ay);
        let at = |along: f32| {
            let part = (along - before) / length;
            (ax + (bx - ax) * part, ay + (by - ay) * part)
        };
        let mut start = (before / (dash + gap)).floor() * (dash + gap);
        while start < before + length {
            // A stroke is lengthened by half its width at both ends.
            let cap = stroke.width / 2.0;
            let (from, to) = (start + cap, start + dash - cap);
            let (from, to) = (from.max(before), to.min(before + length));
            if from < to {
                strokes.push([at(from), at(to)]);
            }
            start += dash + gap;
        }
        before += length;
    }
    strokes
}

/// The glyphs of a text, placed along its direction of reading relative to its anchor.
fn glyphs(text: &str, size: i32, anchor: Anchor) -> Vec<Glyph> {
    let Some(font) = font() else {
        return Vec::new();
    };
    let em = (size * ZOOM) as f32;
    let scale = PxScale::from(em * font.height_unscaled() / font.units_per_em().unwrap_or(1000.0));
    let scaled = font.as_scaled(scale);
    let ids: Vec<_> = text.chars().map(|c| font.glyph_id(c)).collect();
    let length: f32 = ids.iter().map(|&id| scaled.h_advance(id)).sum();
    let mut along = match anchor {
        Anchor::Start => 0.0,
        Anchor::Middle => -length / 2.0,
        Anchor::End => -length,
    };
    let place = |id: ab_glyph::GlyphId| {
        // The base line is half the height of a small letter below the middle.
        let glyph = id.with_scale_and_position(scale, point(along, em * 0.27));
        along += scaled.h_advance(id);
        glyph
    };
    ids.into_iter().map(place).collect()
}
