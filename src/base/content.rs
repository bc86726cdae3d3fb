//! What a base run depends on, for a journal's keys.

use super::{Base, Origin};
use crate::content::Content;
use crate::error::Result;

impl Base<'_> {
    /// Adds what the run of a prompt depends on: the model, its tokens, its interventions. That it
    /// was made over another run changes no bit.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an intervention by a closure.
    pub(crate) fn content<'a>(&'a self, to: &mut Content<'a>, prompt: usize) -> Result<()> {
        let prompts = self.prompts();
        to.fingerprint(self.model().fingerprint());
        to.tokens(&prompts[prompt].tokens);
        if let Origin::Over(_, interventions) = &self.0.origin {
            let of = [prompt, prompts.len()];
            for intervention in interventions {
                intervention.content(to, of, prompts[prompt].len())?;
            }
            to.text("interventions of the base");
        }
        Ok(())
    }
}
