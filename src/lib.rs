//! patchlens: mechanistic interpretability of GPT-2-style transformers on the CPU.

mod cache;
mod config;
mod error;
mod experiments;
mod files;
mod generate;
mod hook;
mod intervention;
mod metric;
mod model;
pub mod ops;
mod parameters;
mod processing;
mod prompt;
pub mod report;
mod sweep;
pub mod tasks;
mod tokenizer;
mod weights;

pub use cache::{ActivationCache, Selection};
pub use config::{Activation, Config};
pub use error::{Error, Result};
pub use experiments::{ActivationPatching, Grid, Patching, activation_patching};
pub use experiments::{
    Decomposition, DirectLogitAttribution, LensReadout, LogitDirection, LogitLens, Steering,
    TunedLens, direct_logit_attribution,
};
pub use generate::{Generated, Generation, Sampling};
pub use hook::{Axes, HookPoint, Site};
pub use intervention::{
    Edit, Fired, Intervention, Interventions, MapFn, Receipt, Row, Select, Target, Values,
};
pub use metric::{
    Metric, MetricFn, kl_divergence, log_probability, logit_diff, logit_diffs, next_token_loss,
    probability, probability_diff, rank,
};
pub use model::{
    Extent, HookFn, Hooks, KeepLogits, Logits, Run, RunOutput, RunShape, Transformer, Visit,
    hook_fn,
};
pub use parameters::{Attention, Block, LayerNorm, Linear, Mlp, Parameters};
pub use processing::Processing;
pub use prompt::{Prompt, Prompts};
pub use report::Labelled;
pub use sweep::{Cell, DEFAULT_MEMORY_LIMIT, Plan, Prepared, Progress, Sweep, SweepResult};
pub use tokenizer::Tokenizer;
