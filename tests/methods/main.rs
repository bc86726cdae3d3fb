//! The methods, against goldens, constructed models and definitions.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/full_passes.rs"]
mod full_passes;
#[path = "../small_tokenizer/mod.rs"]
mod small_tokenizer;

mod ablation;
mod aligned;
mod attribution;
mod bidirectional;
mod causal_tracing;
mod circuits;
mod constructed;
mod forecast;
mod head_cases;
mod head_goldens;
#[cfg(feature = "mini")]
mod head_report;
mod ioi;
mod journal;
mod key_value;
#[cfg(feature = "mini")]
mod knockout;
mod lenses;
mod patching;
mod path_patching;
mod rejected;
#[cfg(feature = "mini")]
mod states;
mod tasks;
