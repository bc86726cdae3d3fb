//! patchlens: mechanistic interpretability of GPT-2-style transformers on the CPU.

mod config;
mod error;
mod hook;
mod parameters;
pub mod report;

pub use config::{Activation, Config};
pub use error::{Error, Result};
pub use hook::{Axes, HookPoint, Site};
pub use parameters::{Attention, Block, LayerNorm, Linear, Mlp, Parameters};
pub use report::Labelled;
