//! What can be read from weights alone: OV and QK circuits, composition, copying.

pub(crate) mod circuits;
pub(crate) mod composition;
pub(crate) mod copy_scores;
pub(crate) mod factored;

pub use circuits::{Circuits, Embedding, SingularDirection, top_entries};
pub use composition::Composition;
pub use copy_scores::{copy_scores, copy_scores_of_tokens};
pub use factored::{FactoredMatrix, Svd};
