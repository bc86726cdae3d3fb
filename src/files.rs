//! Careful reading and writing of files: bounded, atomic, with the path in every error.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use tempfile::NamedTempFile;

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

/// What Git LFS leaves in the place of a file that it has not fetched.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Opens a regular file and returns its size, too. The other kinds are errors at once: a pipe
/// could block for ever, a device never end.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    if !metadata.is_file() {
        return Err(not_regular(path, metadata.file_type()));
    }
    let mut file = File::open(path).map_err(Error::io(path))?;
    // Pointers are texts of some 130 bytes.
    if metadata.len() < 1024 {
        let mut start = Vec::new();
        let mut beginning = (&mut file).take(1024);
        let read = beginning.read_to_end(&mut start);
        read.map_err(Error::io(path))?;
        if start.starts_with(LFS_POINTER) {
            let expected = "the file that it stands for (`git lfs pull` fetches it)";
            return Err(format_error(path, "a pointer of Git LFS", expected));
        }
        file.rewind().map_err(Error::io(path))?;
    }
    Ok((file, metadata.len()))
}

fn not_regular(path: &Path, found: fs::FileType) -> Error {
    let found = if found.is_dir() {
        "a folder"
    } else {
        "a device, pipe or socket"
    };
    format_error(path, found, "a regular file")
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for a larger one, and what is no regular file.
pub fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, size) = open(path)?;
    if size > limit {
        let found = format!("a file of {size} bytes");
        return Err(format_error(path, found, format!("at most {limit} bytes")));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(size + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io(path))?;
    if bytes.len() as u64 > size {
        let found = format!("more than the {size} bytes that it had when it was opened");
        return Err(format_error(path, found, "a file that nobody writes to"));
    }
    Ok(bytes)
}

/// Reads a whole text file of at most `limit` bytes.
///
/// # Errors
/// Those of [`read_bytes`]; [`Error::Format`] for what is no text in UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, limit)?)
        .map_err(|error| parse_error(path, error, "a text in UTF-8"))
}

/// Writes a file next to its final place, flushes it to the disk and renames it, so that a reader
/// sees the old file or the new one, never half of one.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] if what is in its place is no regular file.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<()> {
    Staged::new(path, write)?.commit()
}

/// A file that is complete and on the disk, but not in its place yet. Dropped, it is removed.
pub(crate) struct Staged {
    path: PathBuf,
    temporary: NamedTempFile,
}

/// Names of files that are being written begin and end like this.
const STAGED: (&str, &str) = (".patchlens-", ".part");

/// A file that nobody writes to for so long, and nobody holds, was left by a process that is gone.
const STALE: Duration = Duration::from_secs(60);

impl Staged {
    /// Writes a file beside `path`, or beside the file that a symlink there leads to.
    pub fn new(
        path: &Path,
        write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
    ) -> Result<Self> {
        let path = destination(path)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        remove_stale(folder);
        let attempt = || -> io::Result<NamedTempFile> {
            // `make_in` leaves the permissions to the umask; `tempfile_in` would make the file
            // private.
            let temporary = tempfile::Builder::new()
                .prefix(STAGED.0)
                .suffix(STAGED.1)
                .make_in(folder, |p| File::create_new(p))?;
            // Tells other processes that this one is alive; where there are no locks, age has to do.
            let _ = temporary.as_file().try_lock();
            let mut writer = BufWriter::with_capacity(1 << 20, temporary.as_file());
            write(&mut writer)?;
            writer.flush()?;
            drop(writer);
            temporary.as_file().sync_all()?;
            Ok(temporary)
        };
        let temporary = attempt().map_err(Error::io(&path))?;
        Ok(Staged { path, temporary })
    }

    /// Removes the file that it is to replace, if there is one.
    pub fn clear_place(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(&self.path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Puts the file in its place.
    pub fn commit(self) -> Result<()> {
        let moved = self.temporary.persist(&self.path);
        moved.map_err(|error| Error::io(&self.path)(error.error))?;
        Ok(())
    }
}

/// Where a file goes: symlinks are followed, as when a file is opened; what is there may only be
/// a regular file.
fn destination(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_path_buf();
    // As many as Linux follows.
    for _ in 0..40 {
        let kind = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(Error::io(path)(error)),
        };
        if kind.is_file() {
            return Ok(path);
        }
        if !kind.is_symlink() {
            return Err(not_regular(&path, kind));
        }
        let target = fs::read_link(&path).map_err(Error::io(&path))?;
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(format_error(
        &path,
        "symlinks in a circle",
        "a regular file",
    ))
}

/// Removes what earlier processes were writing into a folder when they were killed. What cannot be
/// looked at or removed stays: that is no reason not to write.
fn remove_stale(folder: &Path) {
    let ours = |name: &str| name.starts_with(STAGED.0) && name.ends_with(STAGED.1);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(ours)) {
        let age = entry.metadata().and_then(|metadata| metadata.modified());
        if age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > STALE))
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A JSON object whose keys are all different; serde's own maps silently keep the last of two.
///
/// Safetensors' `__metadata__`, an object of free texts or `null`, is checked and left out.
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
                access
                    .next_value::<Option<BTreeMap<String, String>>>()
                    .map_err(|error| A::Error::custom(format!("`{key}`: {error}")))?;
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
    use std::time::SystemTime;

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
    fn what_a_killed_process_left_is_removed_and_what_another_one_writes_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let part = |name: &str, age: u64| {
            let path = dir.path().join(format!(".patchlens-{name}.part"));
            let file = File::create_new(&path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age))
                .unwrap();
            (path, file)
        };
        let (left, _) = part("left", 3600);
        let (held, file) = part("held", 3600);
        file.lock().unwrap();
        let (young, _) = part("young", 1);
        write_atomically(&dir.path().join("file"), |file| file.write_all(b"new")).unwrap();
        assert!(!left.exists() && held.exists() && young.exists());
    }

    #[test]
    fn long_texts_are_rejected() {
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
