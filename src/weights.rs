//! Weights: what does a head do whatever the prompt is? Its OV and QK circuits, copying, composition.
//!
//! ```text
//! OV = W_V·W_O (what is written where it attends)     QK = W_Q·W_K^T (what attends to what)
//! composition(a, b) = ‖OV_a · R_b‖ / (‖OV_a‖ ‖R_b‖),  R_b = QK_b, QK_b^T or OV_b
//! ```
//!
//! (Elhage et al. 2021, "A Mathematical Framework"; TransformerLens's `FactoredMatrix`,
//! `all_composition_scores`.)
//!
//! ```
//! use patchlens::prelude::*;
//! let model = Transformer::mini();
//! let circuits = patchlens::weights::Circuits::new(&model);
//! println!("{}", circuits.copying_scores()?.top(4));
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** A copying score of 1: all eigenvalues of the head's full OV circuit are
//! positive, so what it attends to becomes likelier. Composition has no natural zero: compare heads
//! with each other.
//!
//! **What it does not mean.** LayerNorm and MLPs between two heads are left out. Fold LayerNorm in
//! first ([`processing`](crate::processing)).

pub(crate) mod circuits;
mod composition;
pub(crate) mod factored;

pub use circuits::{Circuits, Embedding, SingularDirection, top_entries};
pub use factored::{FactoredMatrix, Svd};
