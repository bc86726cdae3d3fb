//! The guide: a tutorial, a chapter per question. It begins at [`patching`].
//!
//! The chapters are the files of `guide/`, which also reads well as it lies there.

/// What patching is, and how to read it.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/pictures/patching.md")]
#[doc = include_str!("../guide/patching.md")]
pub mod patching {}

/// Indirect objects: from a logit difference to a circuit.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/pictures/ioi.md")]
#[doc = include_str!("../guide/ioi.md")]
pub mod ioi {}

/// Causal tracing of a fact.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/pictures/tracing.md")]
#[doc = include_str!("../guide/tracing.md")]
pub mod tracing {}

/// Path patching.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/pictures/paths.md")]
#[doc = include_str!("../guide/paths.md")]
pub mod paths {}

/// Lenses and attribution.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/pictures/lenses.md")]
#[doc = include_str!("../guide/lenses.md")]
pub mod lenses {}

/// States of one prompt in another.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/states.md")]
pub mod states {}

/// Heads and induction.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/pictures/heads.md")]
#[doc = include_str!("../guide/heads.md")]
pub mod heads {}

/// Ablation and circuits.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/pictures/ablation.md")]
#[doc = include_str!("../guide/ablation.md")]
pub mod ablation {}

/// Your own model, prompts and metric.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/own.md")]
pub mod own {}

/// Speed and memory.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/speed.md")]
pub mod speed {}

/// Long studies, many machines.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/long.md")]
pub mod long {}

/// Coming from TransformerLens.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/transformer_lens.md")]
pub mod transformer_lens {}

/// Reading list.
///
#[doc = include_str!("../guide/pictures/links.md")]
#[doc = include_str!("../guide/reading.md")]
pub mod reading {}
