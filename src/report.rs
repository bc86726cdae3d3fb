//! Results with names on their axes, and what can be done with them: print, rank, plot, save.
//!
//! Every method returns a [`Labelled`] array: values, one named [`Axis`] of labels per dimension,
//! and [`About`], which says what the numbers are. It prints as a heat map, or as bars where there
//! is one axis, with standard errors where they are known; [`Labelled::top`] lists the strongest
//! cells; and [`Labelled::save`] writes what the file's extension asks for:
//!
//! | extension | content |
//! |---|---|
//! | `.svg`, `.png` | the heat map or bars with labels, colour bar, title and caption (feature `pictures`); an SVG says what is under the pointer |
//! | `.html` | one self-contained page that fills its window; a [`Page`] joins several results |
//! | `.csv` | one row per cell: labels, value, standard error |
//! | `.json` | everything; [`Labelled::open_json`] reads it back equal |
//! | `.npy` | the values alone, `<f4` |
//!
//! A cell of a layer and a head has one name wherever it is named alone, `3.1`. Cells may have
//! texts ([`Labelled::with_texts`]), such as the token whose probability is shown. A cell without
//! value says why ([`Absent`]: no path, not run, no samples) and never looks like zero; a NaN that
//! was computed is shown as `NaN`. Results that are compared share their colours by
//! [`Labelled::with_color_range`].
//!
//! ```
//! use ndarray::array;
//! use patchlens::report::{About, Absent, Axis, Labelled};
//!
//! let tokens = [" Mary".to_string(), " gave".to_string()];
//! let axes = vec![Axis::layers(2), Axis::tokens("pos", &tokens)];
//! let about = About { unit: "logit difference".into(), ..About::default() };
//! let effect = Labelled::new(array![[0.1, -2.0], [f32::NAN, 0.5]], axes, about)?;
//! let effect = effect.with_absent(array![[None, None], [Some(Absent::NoPath), None]])?;
//!
//! let printed = effect.to_string();
//! assert!(printed.contains("·Mary@0") && printed.contains("no path"));
//! let strongest = &effect.top(1).cells[0];
//! assert_eq!(strongest.labels, ["L0", " gave@1"]);
//! # Ok::<(), patchlens::Error>(())
//! ```

mod about;
mod absent;
mod axis;
mod color;
mod curves;
mod data;
mod digits;
mod document;
mod label;
mod labelled;
mod means;
mod page;
#[cfg(feature = "pictures")]
mod picture;
mod ranking;
mod row;
mod save;
mod terminal;
mod view;

pub use about::{About, Direction, Normalization, Palette};
pub use absent::Absent;
pub use axis::{Axis, AxisKind};
pub use curves::Curves;
#[cfg(feature = "pictures")]
pub(crate) use digits::{count, number};
pub use label::legible;
pub use labelled::{Labelled, shared_range};
pub(crate) use means::{labelled_means, with_errors};
pub use page::{Page, attention_page, save_attention_page};
#[cfg(feature = "pictures")]
pub use picture::Scatter;
#[cfg(feature = "pictures")]
pub(crate) use picture::{Cloud, Dot, Group, Layered, Link, Node, Stroke};
pub use ranking::{RankedCell, Ranking};
#[cfg(feature = "pictures")]
pub(crate) use save::{Format, save_as};
pub use terminal::{ColorMode, PrintStyle, Printed, use_color};
