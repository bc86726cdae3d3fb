//! What can be read from weights alone: OV and QK circuits, their copying, composition.

pub(crate) mod circuits;
mod composition;
pub(crate) mod factored;

pub use circuits::{Circuits, Embedding, SingularDirection, top_entries};
pub use factored::{FactoredMatrix, Svd};
