//! Mechanistic interpretability of GPT-2-style transformers on the CPU: cache, swap and compare
//! activations, to find which parts of a model cause what it says.
//!
//! # A guided tour
//!
//! - **A model**: [`Transformer::open`] a checkpoint, take [`Transformer::mini`] (small, trained,
//!   built in) or [`Transformer::random`]. A [`Tokenizer`] makes [`Prompt`]s.
//! - **Runs**: [`Transformer::forward`] for logits, [`Transformer::run_with_cache`] for an
//!   [`ActivationCache`], [`Transformer::run`] for batches with [`Hooks`], caching and an early stop
//!   in one pass.
//! - **Places**: a [`HookPoint`] has TransformerLens's name; a [`Site`] is one within a block.
//! - **Interventions**: an [`Edit`] at a [`Target`], checked before the run, with a [`Receipt`] after.
//! - **Sweeps**: a [`Sweep`] runs many cells of interventions in one pass, with the bits of as many
//!   full runs; [`activation_patching`] is the study that needs nothing else.
//! - **Results**: [`report::Labelled`] prints heat maps and saves SVG, PNG, HTML, CSV, JSON and npy.
//! - **Prompts with known answers**: [`tasks`].
//!
//! Shapes are written `[pos, head, d_head]`: `pos` token position, `dest` and `src` query and key
//! position. Nothing is padded, and nothing is printed.

mod ablation;
mod attribution;
mod base;
mod cache;
mod checkpoint;
pub mod circuits;
mod component;
mod config;
mod error;
mod files;
mod generate;
mod gradient;
mod heads;
mod hook;
mod in_context;
mod intervention;
mod lens;
mod limits;
mod metric;
mod model;
mod number;
pub mod ops;
mod pairs;
mod parameters;
mod patching;
mod paths;
mod processing;
mod prompt;
pub mod report;
mod schedule;
mod statistics;
mod steering;
mod sweep;
pub mod tasks;
mod tokenizer;
mod tracing;
mod weights;

pub use ablation::{
    Ablation, AblationNode, Circuit, CircuitNode, Completeness, Faithfulness, HeadAblation,
    KnockOut, Minimality, NodeMinimality, Replacement, head_ablation, head_direct_effect,
};
pub use attribution::{
    Decomposition, DirectLogitAttribution, LogitDirection, Part, direct_logit_attribution,
};
pub use base::Base;
pub use cache::{ActivationCache, Selection};
pub use component::{Component, Head, Qkv};
pub use config::{Activation, Config};
pub use error::{Error, Result};
pub use generate::{Generated, Generation, Sampling};
pub use gradient::{Backward, Gradients, cross_entropy};
pub use heads::{
    AttentionPattern, Closeness, Detection, HeadCard, HeadLabel, HeadReport, HeadReporter,
    HeadTask, InductionCircuit, InductionEdge, InductionSearch, Partner, Reading, Role, Score,
    Suggestion, TaskEvidence, Thresholds, attention_by_distance, attention_entropy,
    attention_to_roles, copy_scores, copy_scores_of_tokens, detect_heads, induction_circuit,
    pattern_scores,
};
pub use hook::{Axes, HookPoint, Site};
pub use in_context::{
    FunctionVectors, InContextScore, RepeatedLoss, TokenPair, in_context_score,
    in_context_score_by_head, repeated_loss,
};
pub use intervention::{
    Edit, Fired, Intervention, Interventions, MapFn, Receipt, Row, Select, Target, Values,
};
pub use lens::{LensReadout, LogitLens, TunedLens};
pub use limits::{DEFAULT_MEMORY_LIMIT, Progress};
pub use metric::{
    Metric, MetricFn, Reduce, kl_divergence, log_probability, logit_diff, logit_diff_sets,
    logit_diffs, next_token_loss, probability, probability_diff, rank,
};
pub use model::{
    Footprint, HookFn, Hooks, KeepLogits, Logits, Run, RunOutput, RunShape, Transformer, Visit,
    hook_fn,
};
pub use parameters::{Attention, Block, LayerNorm, Linear, Mlp, Parameters};
pub use patching::{ActivationPatching, Grid, Patching, activation_patching};
pub use paths::{PathEffects, PathPatching, PathReceiver, PathSender, Senders};
pub use processing::Processing;
pub use prompt::{IntoPrompts, Prompt, Prompts};
pub use report::Labelled;
pub use statistics::Estimate;
pub use steering::Steering;
pub use sweep::{Cell, Plan, Prepared, Sweep, SweepResult};
pub use tokenizer::Tokenizer;
pub use tracing::{
    CausalTracing, DEFAULT_WINDOW, DroppedFact, FactTrace, PositionClass, Restore, SetTrace,
    Severed, SubjectCorruption, TracedFact, mean_subject_embedding, subject_noise_std,
};
pub use weights::{Circuits, Embedding, FactoredMatrix, SingularDirection, Svd, top_entries};

/// The README's programs, run as tests.
#[cfg(all(doctest, feature = "mini", feature = "pictures"))]
#[doc = include_str!("../README.md")]
struct Readme;
