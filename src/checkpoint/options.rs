//! How a checkpoint is opened: [`OpenOptions`].

use super::report::{OpenReport, Skipped};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::parameters::Parameters;

/// How to open a checkpoint that has more than a GPT-2.
///
/// ```no_run
/// use patchlens::Transformer;
/// use patchlens::checkpoint::OpenOptions;
///
/// // A model that was trained with trl's value head.
/// let options = OpenOptions::new().skip("v_head");
/// let model = Transformer::open_with("weights/ppo", &options)?;
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    skip: Vec<String>,
}

/// A checkpoint that has been read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The model's shape.
    pub config: Config,
    /// Its weights.
    pub parameters: Parameters,
    /// What was found, skipped and assumed.
    pub report: OpenReport,
}

impl OpenOptions {
    /// Those of [`Transformer::open`](crate::Transformer::open): nothing is skipped but causal
    /// masks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leaves out the tensor of this name, or all whose names begin with it and a dot: `v_head`
    /// stands for `v_head.summary.weight`, too. May be called several times.
    ///
    /// Opening fails if there is no such tensor, or if the model needs one of them.
    pub fn skip(mut self, name: impl Into<String>) -> Self {
        self.skip.push(name.into());
        self
    }

    /// Whether this tensor is to be left out.
    pub(super) fn skips(&self, tensor: &str) -> bool {
        self.skip.iter().any(|name| stands_for(name, tensor))
    }

    /// Checks that each name stands for a tensor.
    pub(super) fn check_all_found(&self, skipped: &[Skipped]) -> Result<()> {
        let nothing = |name: &&String| !skipped.iter().any(|s| stands_for(name, &s.tensor));
        match self.skip.iter().find(nothing) {
            Some(name) => {
                Err(self.invalid(format!("`{name}`, which no tensor's name begins with")))
            }
            None => Ok(()),
        }
    }

    pub(super) fn invalid(&self, found: String) -> Error {
        let expected = "names of tensors that a GPT-2 does not have, whole or up to a dot";
        Error::invalid("tensors to be skipped", found, expected)
    }
}

fn stands_for(name: &str, tensor: &str) -> bool {
    let rest = tensor.strip_prefix(name);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
