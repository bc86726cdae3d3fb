//! Results by what they depend on.

use std::collections::HashMap;
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
            self.check_one(path, &key, &noted)?;
            self.0.entry(key).or_insert(noted);
        }
        Ok(())
    }

    /// Checks results of a file before they are added.
    ///
    /// # Errors
    /// Same as [`Known::add`], unless they contradict each other.
    pub fn check(&self, path: &Path, list: &[(Key, Noted)]) -> Result<()> {
        let mut list = list.iter();
        list.try_for_each(|(key, noted)| self.check_one(path, key, noted))
    }

    fn check_one(&self, path: &Path, key: &Key, noted: &Noted) -> Result<()> {
        match self.0.get(key) {
            Some(there) if !there.agrees(noted) => {
                let found = format!("result {key} is {}", noted.value);
                let expected = format!("{} to the bit, as elsewhere", there.value);
                Err(format_error(path, found, expected))
            }
            _ => Ok(()),
        }
    }
}
