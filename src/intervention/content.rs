//! What an intervention does to one sequence, for a journal's keys.

use super::{Edit, Intervention, Target};
use crate::content::Content;
use crate::error::{Error, Result};
use crate::select::Select;

impl Intervention {
    /// Adds what it does to one of several sequences, which has `n` tokens; nothing if it does not
    /// act there.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a closure, which has no content that could be compared.
    pub(crate) fn content<'a>(
        &'a self,
        to: &mut Content<'a>,
        [sequence, sequences]: [usize; 2],
        n: usize,
    ) -> Result<()> {
        if !self.target.takes(sequence, sequences) {
            return Ok(());
        }
        self.target.content(to, sequence, n);
        to.text(self.edit.name());
        match &self.edit {
            Edit::Patch(values) | Edit::Set(values) | Edit::Mean(values) | Edit::Add(values) => {
                to.array(values.of(sequence));
            }
            Edit::Zero => {}
            Edit::Scale(factor) => to.float(*factor),
            Edit::Noise { std, seed } => {
                to.float(*std);
                to.text(&seed.to_string());
            }
            Edit::Map(_) => {
                return Err(Error::invalid(
                    format!("edit at {} in a study with a journal", self.target),
                    "a closure",
                    "an edit that is data: closures cannot be told apart",
                ));
            }
        }
        Ok(())
    }
}

impl Target {
    /// Adds what it names in a sequence of `n` tokens, which it acts on.
    pub(crate) fn content<'a>(&'a self, to: &mut Content<'a>, sequence: usize, n: usize) {
        let Target {
            point,
            // The caller has asked.
            sequences: _,
            positions,
            heads,
            src,
            columns,
            subspace,
        } = self;
        to.text(&point.to_string());
        for (select, length) in [
            (positions, Some(n)),
            (heads, None),
            (src, Some(n)),
            (columns, None),
        ] {
            named(to, select, sequence, length);
        }
        if let Some(subspace) = subspace {
            subspace.content(to);
        }
    }
}

/// Adds what a choice names in a sequence; along an axis of a length that belongs to the model,
/// as it was named.
fn named(to: &mut Content<'_>, select: &Select, sequence: usize, length: Option<usize>) {
    match (select.of(sequence), length) {
        (None, _) => to.text("all"),
        (Some(_), Some(n)) => {
            to.text("places");
            to.numbers(select.resolve(sequence, n));
            // Values that fit the part alone follow the order in which it is named.
            to.number(usize::from(select.ascends(sequence, n)));
        }
        (Some(list), None) => to.text(&format!("{list:?}")),
    }
}
