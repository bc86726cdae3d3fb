//! Results with names on their axes, and what can be done with them: print, rank, plot, save.
//!
//! Every method returns a [`Labelled`] array: values, one named [`Axis`] of labels per dimension,
//! and [`About`], which says what the numbers are. It prints as a heat map, and
//! [`Labelled::save`] writes what the file's extension asks for:
//!
//! | extension | content |
//! |---|---|
//! | `.svg`, `.png` | a heat map with labels, colour bar, title and caption (feature `pictures`) |
//! | `.html` | one self-contained page; hovering shows a cell's labels and value |
//! | `.csv` | one row per cell: labels, value, standard error |
//! | `.json` | everything; [`Labelled::open_json`] reads it back equal |
//! | `.npy` | the values alone, `<f4` |
//!
//! Cells may have texts ([`Labelled::with_texts`]), such as the token whose probability is shown.
//! A NaN cell means "no value" (not run, or no path) and is shown as such everywhere, never as
//! zero.
//!
//! ```
//! use ndarray::array;
//! use patchlens::report::{About, Axis, Labelled};
//!
//! let tokens = [" Mary".to_string(), " gave".to_string()];
//! let axes = vec![Axis::layers(2), Axis::tokens("pos", &tokens)];
//! let about = About { unit: "logit difference".into(), ..About::default() };
//! let effect = Labelled::new(array![[0.1, -2.0], [f32::NAN, 0.5]], axes, about)?;
//!
//! let printed = effect.to_string();
//! assert!(printed.contains("·Mary@0") && printed.contains("n/a"));
//! let strongest = &effect.top(1).cells[0];
//! assert_eq!(strongest.labels, ["L0", " gave@1"]);
//! # Ok::<(), patchlens::Error>(())
//! ```

mod color;
mod curves;
mod html;
mod json;
mod label;
mod labelled;
#[cfg(feature = "pictures")]
mod picture;
mod ranking;
mod save;
mod terminal;
mod view;

pub use color::Palette;
pub use curves::Curves;
pub use html::{attention_page, save_attention_page};
pub use label::{Axis, legible};
pub use labelled::{About, Direction, Labelled, Normalization};
pub use ranking::{RankedCell, Ranking};
pub use terminal::{ColorMode, PrintStyle, Printed, use_color};
