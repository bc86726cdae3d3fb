//! Careful reading and writing of files: bounded, atomic, with the path in every error.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Result};

/// An [`Error::Format`] at `path`.
pub(crate) fn format_error(
    path: &Path,
    found: impl Into<String>,
    expected: impl Into<String>,
) -> Error {
    Error::Format {
        path: path.to_path_buf(),
        found: found.into(),
        expected: expected.into(),
        source: None,
    }
}

/// An [`Error::Format`] at `path`, found by a parser.
pub(crate) fn parse_error(
    path: &Path,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    expected: impl Into<String>,
) -> Error {
    let error = error.into();
    format_error(path, error.to_string(), expected).caused_by(error)
}

/// Opens a regular file (a pipe could block for ever) and tells its size.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(format_error(path, "not a regular file", "a regular file"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    Ok((file, metadata.len()))
}

/// Reads a whole text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let (file, size) = open(path)?;
    if size > limit {
        let found = format!("a file of {size} bytes");
        return Err(format_error(path, found, format!("at most {limit} bytes")));
    }
    let mut text = String::new();
    file.take(limit)
        .read_to_string(&mut text)
        .map_err(Error::io(path))?;
    Ok(text)
}

/// Writes a file next to its final place, flushes it to the disk and renames it, so that a reader
/// sees the old file or the new one, never half of one.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let attempt = || -> io::Result<()> {
        // `make_in` leaves the permissions to the umask; `tempfile_in` would make the file private.
        let temporary = tempfile::Builder::new()
            .prefix(".patchlens-")
            .suffix(".part")
            .make_in(folder.unwrap_or(Path::new(".")), |p| File::create_new(p))?;
        let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file());
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        temporary.as_file().sync_all()?;
        temporary.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    attempt().map_err(Error::io(path))
}

/// A JSON object whose keys are all different; serde's own maps silently keep the last of two.
///
/// Safetensors' `__metadata__`, an object of free text, is left out.
#[derive(Debug)]
pub(crate) struct UniqueKeys<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueKeys<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueVisitor<V> {
    type Value = UniqueKeys<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            if key == "__metadata__" {
                access.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = access
                .next_value()
                .map_err(|error| A::Error::custom(format!("`{key}`: {error}")))?;
            match map.entry(key) {
                Entry::Vacant(place) => place.insert(value),
                Entry::Occupied(place) => {
                    let key = place.key();
                    return Err(A::Error::custom(format!("`{key}` occurs twice")));
                }
            };
        }
        Ok(UniqueKeys(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_cut_short_leaves_the_old_file_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        write_atomically(&path, |file| file.write_all(b"old")).unwrap();
        let error = write_atomically(&path, |file| {
            file.write_all(&[0; 3 << 20])?;
            Err(io::Error::other("disk full"))
        });
        let message = error.unwrap_err().to_string();
        assert!(message.contains("file: disk full"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        write_atomically(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn long_texts_are_turned_down() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        let message = read_text(&path, 4).unwrap_err().to_string();
        assert!(
            message.contains("a file of 5 bytes; expected at most 4 bytes"),
            "{message}"
        );
    }
}
