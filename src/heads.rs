//! What attention heads do: scores of their patterns, detection, cards, the induction circuit.

mod card;
mod copy_scores;
mod detection;
mod induction;
mod patterns;
mod report;
mod role;
mod scores;
mod task;

pub use card::{
    HeadCard, HeadLabel, Partner, Reading, Score, Suggestion, TaskEvidence, Thresholds,
};
pub use copy_scores::{copy_scores, copy_scores_of_tokens};
pub use detection::{Closeness, Detection, detect_heads};
pub use induction::{InductionCircuit, InductionEdge, InductionSearch};
pub use patterns::AttentionPattern;
pub use report::{HeadReport, HeadReporter};
pub use role::Role;
pub use scores::{attention_by_distance, attention_entropy, attention_to_roles, pattern_scores};
pub use task::HeadTask;
