//! What a config's file does not say.

use std::fmt;

/// A field of a `config.json` whose value does not stand there, or does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AssumedField {
    /// It is absent, so that it has the default of Hugging Face's `GPT2Config`, or of TransformerLens's
    /// `HookedTransformerConfig`.
    Absent {
        /// The field's name.
        field: &'static str,
        /// The default, as JSON.
        value: String,
    },
    /// It says something else than the field that Hugging Face's transformers reads.
    Overruled {
        /// The field's name.
        field: &'static str,
        /// Its value, as JSON.
        value: String,
        /// The field that counts.
        by: &'static str,
    },
}

impl fmt::Display for AssumedField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AssumedField::Absent { field, value } => write!(f, "{field} = {value} (absent)"),
            AssumedField::Overruled { field, value, by } => {
                write!(f, "{field} = {value} does not count, {by} does")
            }
        }
    }
}
