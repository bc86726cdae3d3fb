//! Results by what they depend on.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use super::record::Noted;
use crate::content::Key;
use crate::error::Result;
use crate::files::format_error;

/// Results by what they depend on.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(pub HashMap<Key, Noted>);

impl Known {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds results of a file.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) for one that contradicts another.
    pub fn add(&mut self, path: &Path, list: Vec<(Key, Noted)>) -> Result<()> {
        for (key, noted) in list {
            match self.0.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(noted);
                }
                Entry::Occupied(entry) if entry.get().agrees(&noted) => {}
                Entry::Occupied(entry) => {
                    let found = format!("result {key} is {}", noted.value);
                    let expected = format!("{} to the bit, as elsewhere", entry.get().value);
                    return Err(format_error(path, found, expected));
                }
            }
        }
        Ok(())
    }
}
