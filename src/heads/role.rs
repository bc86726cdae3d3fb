//! Named positions.

use crate::error::{Error, Result};
use crate::prompt::Prompts;
use crate::select::Select;

/// A named position of each prompt, such as the indirect object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `IO`, `S1`, `S2`, `subject`, ...
    pub name: String,
    /// Its position in each prompt.
    pub positions: Vec<usize>,
}

impl Role {
    /// A name, and one position per prompt.
    pub fn new(name: impl Into<String>, positions: impl IntoIterator<Item = usize>) -> Self {
        Role {
            name: name.into(),
            positions: positions.into_iter().collect(),
        }
    }

    /// The positions as a class of a knock-out study.
    pub(crate) fn class(&self) -> Vec<Vec<usize>> {
        self.positions
            .iter()
            .map(|position| vec![*position])
            .collect()
    }

    pub(crate) fn check(&self, prompts: &Prompts) -> Result<()> {
        if self.positions.len() != prompts.len() {
            let expected = format!("{}, one per prompt", prompts.len());
            let what = format!("positions of the role {}", self.name);
            return Err(Error::invalid(what, self.positions.len(), expected));
        }
        for (i, (position, prompt)) in self.positions.iter().zip(prompts).enumerate() {
            if *position >= prompt.len() {
                return Err(Error::OutOfRange {
                    at: format!("role {} of prompt {i}", self.name),
                    axis: "pos",
                    found: *position,
                    expected: format!("0..{}", prompt.len()),
                });
            }
        }
        Ok(())
    }
}

impl From<&Role> for Select {
    fn from(role: &Role) -> Self {
        Select::role(&role.name, role.positions.iter().copied())
    }
}
