//! The studies, a module for each subcommand.

mod ablate;
mod attribute;
mod circuits;
mod heads;
mod in_context;
mod induction;
mod interchange;
mod knockout;
mod lens;
mod patch;
mod patchscope;
mod paths;
mod steer;
mod trace;

pub use ablate::Ablate;
pub use attribute::Attribute;
pub use circuits::Circuits;
pub use heads::Heads;
pub use in_context::InContext;
pub use induction::Induction;
pub use interchange::Interchanges;
pub use knockout::Knockout;
pub use lens::Lens;
pub use patch::Patch;
pub use patchscope::Patchscope;
pub use paths::Paths;
pub use steer::Steer;
pub use trace::Trace;
