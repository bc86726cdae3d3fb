//! The methods, one file each, over the engine: no forward pass of their own.

mod activation_patching;
mod pairs;
mod path_patching;

pub use activation_patching::{ActivationPatching, Grid, Patching, activation_patching};
pub use path_patching::{PathEffects, PathPatching, PathReceiver, PathSender, Senders};
