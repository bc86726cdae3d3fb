//! What attention heads do: scores of their patterns, detection, cards, the induction circuit.

pub(crate) mod card;
pub(crate) mod detection;
pub(crate) mod induction;
pub(crate) mod report;
pub(crate) mod scores;
pub(crate) mod task;

pub use card::{
    HeadCard, HeadLabel, Partner, Reading, Score, Suggestion, TaskEvidence, Thresholds,
};
pub use detection::{Closeness, Detection, detect_heads};
pub use induction::{InductionCircuit, InductionEdge, InductionSearch, induction_circuit};
pub use report::{HeadReport, HeadReporter};
pub use scores::{
    AttentionPattern, Role, attention_by_distance, attention_entropy, attention_to_roles,
    pattern_scores,
};
pub use task::HeadTask;
