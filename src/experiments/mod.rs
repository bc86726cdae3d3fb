//! The methods, one file each, over the engine: no forward pass of their own.

mod activation_patching;
mod circuits;
mod copy_scores;
mod factored;
mod function_vectors;
mod head_ablation;
mod head_card;
mod head_detection;
mod head_report;
mod head_scores;
mod in_context;
mod induction;
mod repeated_loss;
mod statistics;

pub use activation_patching::{ActivationPatching, Grid, Patching, activation_patching};
pub use circuits::{Circuits, Composition, Embedding, Head, SingularDirection, top_entries};
pub use copy_scores::{copy_scores, copy_scores_of_tokens};
pub use factored::{FactoredMatrix, Svd};
pub use function_vectors::FunctionVectors;
pub use head_ablation::{HeadAblation, Replacement, head_ablation};
pub use head_card::{HeadCard, HeadLabel, Partner, Score, Suggestion, TaskEvidence, Thresholds};
pub use head_detection::{Closeness, Detection, detect_heads};
pub use head_report::{HeadReport, HeadReporter, HeadTask};
pub use head_scores::{
    AttentionPattern, Role, attention_by_distance, attention_entropy, attention_to_roles,
    pattern_scores,
};
pub use in_context::{InContextScore, TokenPair, in_context_score, in_context_score_by_head};
pub use induction::{InductionCircuit, InductionEdge, InductionSearch, induction_circuit};
pub use repeated_loss::{RepeatedLoss, repeated_loss};
