//! Labelled results: construction, printing, ranking, files, pages and pictures; drawings of circuits.

#[cfg(feature = "pictures")]
mod circuits;
mod curves;
mod files;
#[cfg(all(feature = "pictures", feature = "mini"))]
mod guide;
mod labelled;
mod pages;
#[cfg(feature = "pictures")]
mod pictures;
#[cfg(feature = "pictures")]
mod plots;
#[cfg(feature = "pictures")]
mod scatter;
#[cfg(feature = "pictures")]
mod svg;
mod terminal;

use ndarray::Array2;
use patchlens::report::{About, Axis, Direction, Labelled};

const HOSTILE: [&str; 8] = [
    " Mary",
    "<script>alert(1)</script>",
    "\",\"",
    "=cmd|' /C calc'!A0",
    "\n\u{1b}[31m",
    "日本",
    "</script><!--",
    "\u{202e}a&b'",
];

fn about() -> About {
    About {
        title: "Residual stream <before> each block".into(),
        caption: "clean patched into corrupted & measured".into(),
        unit: "logit difference".into(),
        direction: Some(Direction::Denoising),
        baselines: [("clean".to_string(), 3.0), ("corrupted".to_string(), -1.0)].into(),
        counts: [
            ("prompts".to_string(), 8),
            ("multiply-adds".to_string(), u64::MAX),
        ]
        .into(),
        seed: Some(7),
        ..About::default()
    }
}

fn hostile() -> Labelled {
    let mut values =
        Array2::from_shape_fn((3, HOSTILE.len()), |(i, j)| (i as f32 - 1.0) * j as f32);
    values[[0, 1]] = f32::NAN;
    values[[1, 2]] = f32::INFINITY;
    values[[2, 3]] = f32::NEG_INFINITY;
    let axes = vec![Axis::layers(3), Axis::tokens("pos", &HOSTILE)];
    Labelled::new(values, axes, about()).unwrap()
}

/// A text without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_string();
    first
        + &parts
            .map(|part| part.split_once('m').unwrap().1)
            .collect::<String>()
}
