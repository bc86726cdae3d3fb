//! Heads: what does each one attend to, copy, write? And the search for induction circuits.
//!
//! A pattern score is the attention that a head gives to a pattern's sources, mean over the
//! destinations that have one:
//!
//! ```text
//! score(head) = mean over dest of  Σ over the pattern's src of attention[head, dest, src]
//! ```
//!
//! (Elhage et al. 2021; Olsson et al. 2022; Wang et al. 2022; TransformerLens's `head_detector`.)
//!
//! ```
//! use patchlens::prelude::*;
//! let (model, tokenizer) = (Transformer::mini(), Tokenizer::mini());
//! use patchlens::heads::{AttentionPattern, pattern_scores};
//! let prompt = tokenizer.encode(" Mary John Tom James Mary John Tom James")?;
//! println!("{}", pattern_scores(&model, &prompt, &[AttentionPattern::Induction])?.top(4));
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **What a number means.** 1: all attention goes to the pattern, on this text. A label of a
//! [`HeadReport`] needs causal evidence besides, and is as strong as its weakest.
//!
//! **What it does not mean.** Where a head looks is not what it moves, and on other text it may do
//! something else. More in [the guide](crate::guide::heads).

mod attention;
mod card;
mod copy_scores;
mod detection;
mod induction;
mod patterns;
mod report;
mod role;
mod scores;
mod task;

pub use attention::{Attended, Attention, AttentionScores, pattern_scores};
pub use card::{
    HeadCard, HeadLabel, Partner, Reading, Score, Suggestion, TaskEvidence, Thresholds,
};
pub use copy_scores::{Copied, CopyScores};
pub use detection::{Closeness, Detection};
pub use induction::{InductionCircuit, InductionEdge, InductionSearch, InductionThresholds};
pub use patterns::AttentionPattern;
pub use report::{HeadReport, HeadReporter};
pub use role::Role;
pub use task::HeadTask;
