//! The methods, one file each, over the engine: no forward pass of their own.

mod ablation;
mod activation_patching;
mod attribution;
mod causal_tracing;
mod circuits;
mod composition;
mod copy_scores;
mod factored;
mod function_vectors;
mod head_ablation;
mod head_card;
mod head_detection;
mod head_report;
mod head_scores;
mod head_task;
mod in_context;
mod induction;
mod logit_lens;
mod pairs;
mod path_patching;
mod repeated_loss;
mod statistics;
mod steering;

pub use ablation::{
    Ablation, AblationNode, Circuit, CircuitNode, Completeness, Faithfulness, KnockOut, Minimality,
    NodeMinimality,
};
pub use activation_patching::{ActivationPatching, Grid, Patching, activation_patching};
pub use attribution::{
    Decomposition, DirectLogitAttribution, LogitDirection, direct_logit_attribution,
};
pub use causal_tracing::{
    CausalTracing, DEFAULT_WINDOW, DroppedFact, FactTrace, PositionClass, Restore, SetTrace,
    Severed, SubjectCorruption, TracedFact, TracingProgress, mean_subject_embedding,
    subject_noise_std,
};
pub use circuits::{Circuits, Embedding, Head, SingularDirection, top_entries};
pub use composition::Composition;
pub use copy_scores::{copy_scores, copy_scores_of_tokens};
pub use factored::{FactoredMatrix, Svd};
pub use function_vectors::FunctionVectors;
pub use head_ablation::{HeadAblation, Replacement, head_ablation, head_direct_effect};
pub use head_card::{
    HeadCard, HeadLabel, Partner, Reading, Score, Suggestion, TaskEvidence, Thresholds,
};
pub use head_detection::{Closeness, Detection, detect_heads};
pub use head_report::{HeadReport, HeadReporter};
pub use head_scores::{
    AttentionPattern, Role, attention_by_distance, attention_entropy, attention_to_roles,
    pattern_scores,
};
pub use head_task::HeadTask;
pub use in_context::{InContextScore, TokenPair, in_context_score, in_context_score_by_head};
pub use induction::{InductionCircuit, InductionEdge, InductionSearch, induction_circuit};
pub use logit_lens::{LensReadout, LogitLens, TunedLens};
pub use path_patching::{PathEffects, PathPatching, PathReceiver, PathSender, Senders};
pub use repeated_loss::{RepeatedLoss, repeated_loss};
pub use steering::Steering;

/// The mean, summed in f64.
fn mean(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let n = values.len() as f64;
    (values.map(f64::from).sum::<f64>() / n) as f32
}
