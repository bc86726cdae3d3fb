//! Scenes as SVG.

use askama::Template;

use super::{Scene, Shape};
use crate::error::Result;
use crate::report::color::{Rgb, css};
use crate::report::save::encoder;

/// The fonts that the template names are all monospaced, with an advance of about 0.6 em.
#[derive(Template)]
#[template(path = "picture.svg")]
struct Picture<'a> {
    scene: &'a Scene,
}

impl Picture<'_> {
    fn css(&self, color: &Rgb) -> String {
        css(*color)
    }
}

impl Scene {
    pub(super) fn to_svg(&self) -> Result<String> {
        Picture { scene: self }
            .render()
            .map_err(|e| encoder("svg", e))
    }
}
