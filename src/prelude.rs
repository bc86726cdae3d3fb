//! What most programs need: `use patchlens::prelude::*;`.

pub use crate::ablation::{Ablation, Each, Replacement};
pub use crate::attribution::DirectLogitAttribution;
pub use crate::base::Base;
pub use crate::cache::{ActivationCache, Selection};
pub use crate::component::{Component, Head, Qkv};
pub use crate::config::Config;
pub use crate::hook::{HookPoint, Site};
pub use crate::intervention::{Edit, Intervention, Interventions, Select, Target};
pub use crate::lens::LogitLens;
pub use crate::limits::Progress;
pub use crate::metric::{Metric, logit_diff};
pub use crate::model::{Hooks, KeepLogits, Logits, Run, RunOutput, Transformer, Visit, hook_fn};
pub use crate::patching::{ActivationPatching, Grid, activation_patching};
pub use crate::paths::PathPatching;
pub use crate::prompt::{Prompt, Prompts};
pub use crate::report::Labelled;
pub use crate::statistics::Estimate;
pub use crate::steering::Steering;
pub use crate::sweep::Sweep;
pub use crate::tokenizer::Tokenizer;
pub use crate::tracing::CausalTracing;
