//! Which model and which kind of run a cache is of.

use super::ActivationCache;
use crate::error::{Error, Result};
use crate::fingerprint::{Fingerprint, Identity};

/// What a cache holds: the activations of which kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunKind {
    /// Of a run in which no hook changed a bit: there was none, or all of them only looked.
    Plain,
    /// Of a run in which some hook changed something.
    UnderHooks,
    /// No activations at all, but gradients at them.
    Gradients,
}

impl RunKind {
    pub(super) const ALL: [RunKind; 3] = [RunKind::Plain, RunKind::UnderHooks, RunKind::Gradients];

    /// In messages.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            RunKind::Plain => "a plain run",
            RunKind::UnderHooks => "a run that hooks changed",
            RunKind::Gradients => "gradients",
        }
    }
}

/// Which model and which kind of run a cache is of.
#[derive(Clone, Debug)]
pub(crate) struct Provenance {
    pub model: Identity,
    pub kind: RunKind,
}

impl ActivationCache {
    /// The fingerprint of the model whose activations these are; `None` if it was opened from a
    /// file that does not say so.
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.provenance.as_ref()?.model.known()
    }

    /// Which kind of run it is of; `None` if it was opened from a file that does not say so.
    pub fn run_kind(&self) -> Option<RunKind> {
        Some(self.provenance.as_ref()?.kind)
    }

    /// Takes it on your word that a cache from a file of an older version, which does not say so,
    /// is of a plain run of the model with this fingerprint
    /// ([`Transformer::fingerprint`](crate::Transformer::fingerprint)).
    ///
    /// # Errors
    /// [`Error::Provenance`] for a cache that says what it is of.
    pub fn assume_plain_run_of(mut self, model: Fingerprint) -> Result<Self> {
        if let (Some(found), Some(kind)) = (self.fingerprint(), self.run_kind()) {
            return Err(Error::Provenance {
                at: "a cache assumed to be of a plain run".to_string(),
                found: format!("{} of model {found}", kind.describe()),
                expected: "a cache that does not say what it is of".to_string(),
            });
        }
        self.provenance = Some(Provenance {
            model: model.into(),
            kind: RunKind::Plain,
        });
        Ok(self)
    }
}
