//! The methods, one file each, over the engine: no forward pass of their own.

mod activation_patching;
mod attribution;
mod logit_lens;
mod steering;

pub use activation_patching::{ActivationPatching, Grid, Patching, activation_patching};
pub use attribution::{
    Decomposition, DirectLogitAttribution, LogitDirection, direct_logit_attribution,
};
pub use logit_lens::{LensReadout, LogitLens, TunedLens};
pub use steering::Steering;
