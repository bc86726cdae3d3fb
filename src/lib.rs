//! Mechanistic interpretability of GPT-2-style transformers on the CPU: cache, swap and compare
//! activations, to find which parts of a model cause what it says.
//!
//! ```
//! use patchlens::prelude::*;
//!
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini()); // or Transformer::open(..)
//! let clean = tokenizer.encode("When Mary and John went to the store, John gave a drink to")?;
//! let corrupted = tokenizer.encode("When Mary and John went to the store, Mary gave a drink to")?;
//! let metric = logit_diff(tokenizer.token(" Mary")?, tokenizer.token(" John")?);
//! let heads = activation_patching(&model, &clean, &corrupted, Grid::Heads(Site::Z), &metric)?;
//! println!("{}", heads.effect.top(3));
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! # Which question, which module
//!
//! | Question | Module |
//! |---|---|
//! | Which activations carry the answer from one prompt into another? | [`patching`] |
//! | Along which paths does it get there? | [`paths`] |
//! | At which layer and token is a fact recalled? | [`tracing`] |
//! | What does the model lose without these heads? | [`ablation`] |
//! | Which edges between nodes make a behaviour? | [`circuits`] |
//! | Which heads, MLPs and neurons write the answer into the logits? | [`attribution`] |
//! | From which layer on can the answer be read? | [`lens`] |
//! | What does each head attend to, copy, induce? | [`heads`] |
//! | What do a head's weights say without a prompt? | [`weights`] |
//! | How much does the model learn from its context? | [`in_context`] |
//! | Which direction makes it say something else? | [`steering`] |
//! | Which tokens must the answer's position read, and in which layers? | [`knockout`] |
//! | Which part of a state carries a variable from one prompt to another? | [`interchange`] |
//! | What is in a hidden state, if another prompt is made to say it? | [`patchscopes`] |
//! | How many minutes and bytes will it take? | [`forecast`] |
//! | What is the gradient of a number in an activation? | [`gradient`] |
//!
//! # What they are made of
//!
//! - **A model**: [`Transformer::open`] a checkpoint, take `Transformer::mini` (small, trained,
//!   built in) or [`Transformer::random`]. A [`Tokenizer`] makes [`Prompt`]s.
//! - **Runs**: [`Transformer::forward`] for logits, [`Transformer::run_with_cache`] for an
//!   [`ActivationCache`], [`Transformer::run`] for batches with [`Hooks`], caching and an early stop
//!   in one pass.
//! - **Places**: a [`HookPoint`] has TransformerLens's name; a [`Site`] is one within a block.
//! - **Interventions**: an [`Edit`] at a [`Target`], checked before the run, with a
//!   [`Receipt`](intervention::Receipt) after.
//! - **Sweeps**: a [`Sweep`] runs many cells of interventions in one pass over a [`Base`], with the
//!   bits of as many full runs. Every study is one.
//! - **Numbers**: a [`Metric`] of the logits; [`Labelled`] results that print heat maps and save
//!   SVG, PNG, HTML, CSV, JSON and npy ([`report`]).
//! - **Prompts with known answers**: [`tasks`].
//!
//! Shapes are written `[pos, head, d_head]`: `pos` token position, `dest` and `src` query and key
//! position. Nothing is padded, and nothing is printed, with one exception: the library that reads
//! `tokenizer.json` panics on some files. That becomes an error, but Rust's panic hook has put the
//! panic on stderr by then, unless the program sets another hook.

// Where an edit meets an activation: `edited` in `intervention/apply.rs` says what becomes of a
// row; a pass calls it from `Rows::at` in `model/pass.rs`.

mod alignment;
mod base;
mod cache;
mod component;
mod content;
mod effects;
mod error;
mod files;
mod fingerprint;
mod limits;
mod number;
mod pairs;
mod schedule;
mod select;
mod statistics;
mod tokenizer;

pub mod ablation;
pub mod attribution;
pub mod checkpoint;
pub mod circuits;
pub mod config;
pub mod forecast;
pub mod generate;
pub mod gradient;
pub mod guide;
pub mod heads;
pub mod hook;
pub mod in_context;
pub mod interchange;
pub mod intervention;
pub mod journal;
pub mod knockout;
pub mod lens;
pub mod metric;
pub mod model;
pub mod ops;
pub mod parameters;
pub mod patching;
pub mod patchscopes;
pub mod paths;
pub mod prelude;
pub mod processing;
pub mod prompt;
pub mod report;
pub mod steering;
pub mod sweep;
pub mod tasks;
pub mod tracing;
pub mod weights;

/// The arrays that results hold, in the version that they have it in.
pub use ndarray;

pub use base::Base;
pub use cache::{ActivationCache, Selection};
pub use component::{Component, Head, Qkv};
#[doc(inline)]
pub use config::Config;
pub use error::{Error, Result};
/// For the program `patchlens`, which reads and writes files of its own as carefully.
#[doc(hidden)]
pub use files::{read_bytes, read_text, write_atomically};
#[doc(inline)]
pub use hook::{HookPoint, Site};
#[doc(inline)]
pub use intervention::{Edit, Intervention, Interventions, Select, Target};
pub use limits::Progress;
#[doc(inline)]
pub use metric::{Metric, logit_diff};
#[doc(inline)]
pub use model::{Hooks, KeepLogits, Logits, Run, RunOutput, Transformer, Visit, hook_fn};
#[doc(inline)]
pub use patching::{Grid, activation_patching};
#[doc(inline)]
pub use prompt::{Prompt, Prompts};
#[doc(inline)]
pub use report::Labelled;
pub use statistics::Estimate;
#[doc(inline)]
pub use sweep::Sweep;
pub use tokenizer::Tokenizer;

/// The README's programs, run as tests.
#[cfg(all(doctest, feature = "mini", feature = "pictures"))]
#[doc = include_str!("../README.md")]
struct Readme;
