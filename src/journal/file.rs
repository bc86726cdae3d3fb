//! Journals as files: read whole, cut where they are torn, appended to.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::VERSION;
use super::header::check_header;
use super::known::Known;
use super::record::{Header, Line, sealed, unsealed};
use crate::error::{Error, Result};
use crate::files::{self, format_error, parse_error};

/// Longest line of a journal, in bytes.
const LONGEST_LINE: u64 = 1 << 20;

/// From one time at which the disk is asked to keep what was written to the next. What a process
/// has written outlives it in any case; this is for a machine that fails.
const BETWEEN_SYNCS: Duration = Duration::from_secs(10);

/// What a journal's file holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub header: Header,
    pub known: Known,
    /// Whether the study was done.
    pub finished: bool,
    /// Bytes up to the end of its last whole line.
    pub whole: u64,
}

/// Reads a journal; `None` for a file in which not even the header is whole.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] for a file that is no journal, of another version of the
/// format, or damaged anywhere but in a last line that has no end.
pub(super) fn read(path: &Path) -> Result<Option<Contents>> {
    let (file, _) = files::open(path)?;
    read_from(&file, path)
}

/// The same from an open file, from where it stands.
fn read_from(file: &File, path: &Path) -> Result<Option<Contents>> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| -> Result<bool> {
        line.clear();
        let mut some = reader.by_ref().take(LONGEST_LINE);
        some.read_until(b'\n', line).map_err(Error::io(path))?;
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        if !whole && line.len() as u64 == LONGEST_LINE {
            let found = format!("a line of more than {LONGEST_LINE} bytes");
            return Err(format_error(path, found, "a journal of patchlens"));
        }
        Ok(whole)
    };
    if !next(&mut line)? {
        return torn_header(path, &line).map(|()| None);
    }
    let header = header(path, &line)?;
    let mut contents = Contents {
        header,
        known: Known::default(),
        finished: false,
        whole: line.len() as u64 + 1,
    };
    let mut number = 1;
    while next(&mut line)? {
        number += 1;
        let damaged = || {
            let found = format!("line {number} is damaged");
            let expected = "whole lines with their checksums; the file was left as it is";
            format_error(path, found, expected)
        };
        let content = unsealed(&line).ok_or_else(damaged)?;
        match Line::parse(content).ok_or_else(damaged)? {
            Line::Results(list) => {
                contents.known.add(path, list)?;
                contents.finished = false;
            }
            Line::End(results) if results == contents.known.len() => contents.finished = true,
            Line::End(results) => {
                let found = format!("{} results", contents.known.len());
                let expected = format!("{results}, as its line {number} says");
                return Err(format_error(path, found, expected));
            }
        }
        contents.whole += line.len() as u64 + 1;
    }
    Ok(Some(contents))
}

/// Checks that a file without a whole line can be the beginning of a journal.
fn torn_header(path: &Path, line: &[u8]) -> Result<()> {
    const BEGINNING: &[u8] = b"{\"patchlens_journal\":";
    if line.starts_with(BEGINNING) || BEGINNING.starts_with(line) {
        return Ok(());
    }
    Err(format_error(
        path,
        "another kind of file",
        "a journal of patchlens",
    ))
}

fn header(path: &Path, line: &[u8]) -> Result<Header> {
    let Some(content) = unsealed(line) else {
        torn_header(path, line)?;
        let expected = "a header with its checksum; the file was left as it is";
        return Err(format_error(path, "line 1 is damaged", expected));
    };
    let expected = || format!("the header of a journal of version {VERSION}");
    let header: Header =
        serde_json::from_str(content).map_err(|error| parse_error(path, error, expected()))?;
    if header.patchlens_journal != VERSION {
        let found = format!("a journal of version {}", header.patchlens_journal);
        return Err(format_error(path, found, expected()));
    }
    Ok(header)
}

/// A header as a line.
pub(super) fn header_line(header: &Header) -> String {
    sealed(&serde_json::to_string(header).expect("it is made of texts"))
}

/// A journal's file that is being written.
#[derive(Debug)]
pub(super) struct Appender {
    path: PathBuf,
    file: File,
    /// Bytes up to the end of the last line that was written whole.
    whole: u64,
    /// Whether a call has left more than that, or may have.
    torn: bool,
    synced: Instant,
}

impl Appender {
    /// Opens a journal to go on with it, or begins a new one with this header.
    ///
    /// # Errors
    /// Those of [`read`]; [`Error::Format`] for another header, and if another process is writing
    /// it.
    pub fn open(path: &Path, new: &Header) -> Result<(Self, Contents)> {
        let there = std::fs::symlink_metadata(path).is_ok();
        if there {
            // Only regular files; and nothing is locked, let alone written, that is none of ours.
            read(path)?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path);
        let file = file.map_err(Error::io(path))?;
        if let Err(std::fs::TryLockError::WouldBlock) = file.try_lock() {
            let found = "a journal that another process is writing";
            return Err(format_error(path, found, "one of its own per process"));
        }
        // Once more: until the lock, another process may have written.
        let contents = read_from(&file, path)?;
        if let Some(contents) = &contents {
            // Before anything is cut off.
            check_header(path, &contents.header, new)?;
        }
        let whole = contents.as_ref().map_or(0, |contents| contents.whole);
        let mut appender = Appender {
            path: path.to_path_buf(),
            file,
            whole,
            torn: true,
            synced: Instant::now(),
        };
        appender.cut()?;
        let contents = match contents {
            Some(contents) => contents,
            None => {
                let line = header_line(new);
                appender.append(&line)?;
                Contents {
                    header: new.clone(),
                    known: Known::default(),
                    finished: false,
                    whole: line.len() as u64,
                }
            }
        };
        Ok((appender, contents))
    }

    /// Appends whole lines.
    ///
    /// # Errors
    /// [`Error::Io`], as for a full disk; then the next call, or the next process, cuts off what
    /// was written in part, so that nothing ever follows a torn line.
    pub fn append(&mut self, lines: &str) -> Result<()> {
        if self.torn {
            self.cut()?;
        }
        self.torn = true;
        let written = self.file.write_all(lines.as_bytes());
        written.map_err(Error::io(&self.path))?;
        self.torn = false;
        self.whole += lines.len() as u64;
        if self.synced.elapsed() > BETWEEN_SYNCS {
            self.sync()?;
        }
        Ok(())
    }

    /// Cuts off what follows the last whole line.
    fn cut(&mut self) -> Result<()> {
        let cut = self.file.set_len(self.whole);
        let cut = cut.and_then(|()| self.file.seek(SeekFrom::Start(self.whole)));
        cut.map_err(Error::io(&self.path))?;
        self.torn = false;
        Ok(())
    }

    /// Waits until the disk has everything.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(Error::io(&self.path))?;
        self.synced = Instant::now();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;
    use crate::journal::record::{self, Noted};

    /// A line with one result.
    fn line(number: usize) -> String {
        let mut content = Content::default();
        content.number(number);
        record::results(&[(content.take_key(), Noted::of(1.5))])
    }

    #[test]
    fn nothing_follows_what_a_failed_call_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let header = Header {
            patchlens_journal: VERSION,
            version: String::new(),
            vectors: String::new(),
            model: String::new(),
            study: "heads".to_string(),
            shard: None,
            array: None,
            lacks: None,
        };
        let (mut appender, _) = Appender::open(&path, &header).unwrap();
        appender.append(&line(0)).unwrap();
        // As on a disk that fills up: a part is written, then the call fails.
        appender.file.write_all(b"results 12").unwrap();
        let read_only = File::open(&path).unwrap();
        let file = std::mem::replace(&mut appender.file, read_only);
        assert!(appender.append(&line(1)).is_err());
        appender.file = file;
        appender.append(&line(1)).unwrap();
        appender.append(&line(2)).unwrap();
        drop(appender);
        assert_eq!(read(&path).unwrap().unwrap().known.len(), 3);
    }
}
