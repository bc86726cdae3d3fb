//! The methods, one file each, over the engine: no forward pass of their own.

mod ablation;
mod activation_patching;
mod causal_tracing;
mod pairs;
mod path_patching;

pub use ablation::{
    Ablation, AblationNode, Circuit, CircuitNode, Completeness, Faithfulness, KnockOut, Minimality,
    NodeMinimality,
};
pub use activation_patching::{ActivationPatching, Grid, Patching, activation_patching};
pub use causal_tracing::{
    CausalTracing, DEFAULT_WINDOW, DroppedFact, FactTrace, PositionClass, Restore, SetTrace,
    Severed, SubjectCorruption, TracedFact, TracingProgress, mean_subject_embedding,
    subject_noise_std,
};

/// The mean, summed in f64.
fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let n = values.len() as f64;
    (values.map(f64::from).sum::<f64>() / n) as f32
}
pub use path_patching::{PathEffects, PathPatching, PathReceiver, PathSender, Senders};
