//! Prompts that are given as texts, and which of their positions correspond.

use anyhow::Result;
use patchlens::patching::Alignment;
use patchlens::{Prompt, Select, Tokenizer};

use crate::session::Session;
use crate::usage::usage;

/// A text as a prompt; with `bos`, it begins with that token.
///
/// # Errors
/// For a text that the tokenizer cannot tell, and without such a token.
pub fn encode(tokenizer: &Tokenizer, text: &str, bos: bool) -> patchlens::Result<Prompt> {
    if bos {
        tokenizer.encode_with_bos(text)
    } else {
        tokenizer.encode(text)
    }
}

/// Two prompts that an option names each, or two of the shipped model's facts.
pub struct TwoPrompts<'t> {
    /// The options, with their texts where they are given: both or neither.
    pub given: [(&'static str, Option<&'t str>); 2],
    /// The facts.
    pub facts: [&'static str; 2],
    /// Whether both begin with the begin-of-text token.
    pub bos: bool,
}

impl TwoPrompts<'_> {
    /// # Errors
    /// For texts that the tokenizer cannot tell, and for neither with another model.
    pub fn encode(&self, session: &Session) -> Result<[Prompt; 2]> {
        let texts = match self.given {
            [(_, Some(first)), (_, Some(second))] => [first, second],
            _ if session.shipped => self.facts,
            [(first, _), (second, _)] => {
                let why = "the shipped model's facts mean nothing to another model";
                return Err(usage(format!("{why}: expected {first} and {second}")));
            }
        };
        let [first, second] = texts.map(|text| encode(&session.tokenizer, text, self.bos));
        Ok([first?, second?])
    }
}

/// A role as it is given, with its positions in two prompts: `subject=0,1:2,3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    name: String,
    first: Vec<isize>,
    second: Vec<isize>,
}

impl Role {
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("found `{text}`; expected a name and positions: `subject=0,1:2,3`");
        let (name, places) = text.split_once('=').ok_or_else(wrong)?;
        let (first, second) = places.split_once(':').ok_or_else(wrong)?;
        let list = |text: &str| -> Result<Vec<isize>, String> {
            let numbers = text.split(',').map(|n| n.trim().parse());
            numbers.collect::<Result<_, _>>().map_err(|_| wrong())
        };
        let (first, second) = (list(first)?, list(second)?);
        if name.is_empty() || first.len() != second.len() {
            return Err(format!("{}, as many in both prompts", wrong()));
        }
        Ok(Role {
            name: name.to_string(),
            first,
            second,
        })
    }
}

/// The alignment by these roles.
pub fn aligned(roles: &[Role]) -> Alignment {
    Alignment::roles(roles.iter().map(|role| {
        let [first, second] = [&role.first, &role.second].map(|list| Select::from(list.clone()));
        (role.name.as_str(), first, second)
    }))
}

#[cfg(test)]
mod tests {
    use super::Role;

    #[test]
    fn a_role_is_a_name_and_positions_of_both_prompts() {
        let role = Role::parse("subject=0, 1:-2,3").unwrap();
        let expected = Role {
            name: "subject".to_string(),
            first: vec![0, 1],
            second: vec![-2, 3],
        };
        assert_eq!(role, expected);
        for text in ["subject", "subject=0", "=0:0", "a=0:0,1", "a=x:0", "a=:"] {
            let error = Role::parse(text).unwrap_err();
            assert!(error.contains("expected a name and positions"), "{error}");
        }
    }
}
