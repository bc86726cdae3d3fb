//! Named positions.

use std::collections::BTreeMap;

use crate::ablation::heads::Place;
use crate::error::{Error, Result};
use crate::prompt::Prompt;
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

    /// The positions that occur, each in the prompts where it does.
    pub(crate) fn places(&self) -> Vec<Place> {
        let mut places = BTreeMap::<usize, Vec<usize>>::new();
        for (prompt, position) in self.positions.iter().enumerate() {
            places.entry(*position).or_default().push(prompt);
        }
        let place = |(position, prompts): (usize, Vec<usize>)| (prompts.into(), position.into());
        places.into_iter().map(place).collect()
    }

    pub(crate) fn check(&self, prompts: &[Prompt]) -> Result<()> {
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
