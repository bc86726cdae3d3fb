//! The one place where a cache is held against the model that is to read it.

use super::Transformer;
use crate::cache::{ActivationCache, RunKind};
use crate::error::{Error, Result};
use crate::fingerprint::{Fingerprint, Identity};

impl Transformer {
    /// A hash of config and weights, by which caches know their model. Computed when first asked
    /// for, which is when a run of the user's keeps activations (GPT-2 small: under 0.1 s); clones
    /// share it.
    pub fn fingerprint(&self) -> Fingerprint {
        let compute = || Fingerprint::of(&self.config, &self.parameters);
        self.identity.known_or(compute)
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Checks that something belongs to this model; `None` is what does not say to which.
    ///
    /// # Errors
    /// [`Error::Provenance`].
    pub(crate) fn check_own(&self, at: &str, of: Option<&Identity>) -> Result<()> {
        let found = match of {
            Some(of) if of.is(&self.identity) => return Ok(()),
            Some(of) => {
                let own = self.fingerprint();
                match of.known() {
                    Some(other) if other == own => return Ok(()),
                    Some(other) => format!("activations of model {other}"),
                    None => "activations of another model".to_string(),
                }
            }
            None => "activations that do not say of which model (see `assume_plain_run_of`)".into(),
        };
        Err(Error::Provenance {
            at: at.to_string(),
            found,
            expected: format!("those of this model, {}", self.fingerprint()),
        })
    }

    /// Checks that a cache is of a run of this model, of one of these kinds, in shapes that the
    /// model has.
    ///
    /// # Errors
    /// [`Error::Provenance`]; [`Error::Shape`] or [`Error::OutOfRange`] for activations that this
    /// model does not have, as in a file that was tampered with.
    pub(crate) fn check_cache(
        &self,
        at: &str,
        cache: &ActivationCache,
        kinds: &[RunKind],
    ) -> Result<()> {
        let of = cache.provenance.as_ref();
        self.check_own(at, of.map(|of| &of.model))?;
        if let Some(found) = cache.run_kind().filter(|kind| !kinds.contains(kind)) {
            let expected: Vec<&str> = kinds.iter().map(|kind| kind.describe()).collect();
            let mut expected = expected.join(" or ");
            if kinds == [RunKind::Plain] {
                expected += "; `Base::over` makes runs under interventions to depart from";
            }
            return Err(Error::Provenance {
                at: at.to_string(),
                found: found.describe().to_string(),
                expected,
            });
        }
        for point in cache.points() {
            point.check(&self.config)?;
            let axes = point.axes();
            let mut expected = axes.shape(&self.config, cache.tokens().len());
            expected[axes.pos_axis()] = cache.positions().len();
            let found = cache.get(point)?.shape().to_vec();
            if found != expected {
                return Err(Error::Shape {
                    at: format!("{at}, {point}"),
                    found,
                    expected: format!("{expected:?} of this model"),
                });
            }
        }
        Ok(())
    }
}
