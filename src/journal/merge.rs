//! Journals of shards joined to one of the whole study.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::path::Path;

use super::file::{self, Contents};
use super::header::check_header;
use super::known::Known;
use super::record::{self, Header};
use super::{JobArray, Shard};
use crate::error::{Error, Result};
use crate::files::{format_error, write_atomically};

/// What was joined.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Merged {
    /// What the caller called the study.
    pub study: String,
    /// Results.
    pub results: usize,
    /// How many shards there are, those that are missing among them.
    pub shards: usize,
    /// Shards of which no journal was given, or an unfinished one.
    pub missing: Vec<Shard>,
    /// Shards of which several journals were given; they agree to the bit.
    pub doubled: Vec<Shard>,
    /// The array that they were started as, if a scheduler did.
    pub array: Option<JobArray>,
}

impl Merged {
    /// The numbers of the jobs to start again, as schedulers take them: `3,7`; of shards, from 1,
    /// unless a scheduler started them.
    pub fn to_resubmit(&self) -> String {
        let number = |shard: &Shard| match self.array {
            Some(array) => array.job(shard.index()).to_string(),
            None => (shard.index() + 1).to_string(),
        };
        self.missing
            .iter()
            .map(number)
            .collect::<Vec<_>>()
            .join(",")
    }
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = self.shards - self.missing.len();
        write!(
            f,
            "{} results of {done} of {} shards",
            self.results, self.shards
        )?;
        let list = |shards: &[Shard]| {
            shards
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ")
        };
        if !self.missing.is_empty() {
            write!(f, "; missing or unfinished: {}", list(&self.missing))?;
            match self.array {
                Some(array) => write!(
                    f,
                    " (start again with --array={}, of all {array})",
                    self.to_resubmit()
                )?,
                None => write!(f, " (start again with --shard)")?,
            }
        }
        if !self.doubled.is_empty() {
            write!(f, "; given more than once, equal: {}", list(&self.doubled))?;
        }
        Ok(())
    }
}

/// Joins the journals of a study's shards to one, with which the study finds every result known.
/// With `partial`, shards may be missing or unfinished: what they would hold stays without a value,
/// and results made with that journal are marked as partial. A merged journal of earlier steps may
/// be among them.
///
/// # Errors
/// Those of reading them; [`Error::Format`] for journals of different studies, models, versions or
/// numbers of shards, for two that contradict each other, and for a file in the place of the
/// joined journal that is none;
/// [`Error::Invalid`] without journals of shards, and for missing shards unless `partial`.
pub fn merge(journals: &[impl AsRef<Path>], to: impl AsRef<Path>, partial: bool) -> Result<Merged> {
    let to = to.as_ref();
    if to.exists() {
        // Written over, unless it is another kind of file.
        file::read(to)?;
    }
    let mut joined: Option<Joined> = None;
    for path in journals {
        let path = path.as_ref();
        let torn = || format_error(path, "nothing but a torn header", "a journal");
        let contents = file::read(path)?.ok_or_else(torn)?;
        let joined = joined.get_or_insert_with(|| Joined::new(contents.header.clone()));
        joined.add(path, contents)?;
    }
    let Some(joined) = joined.filter(|joined| joined.of > 0) else {
        let expected = "at least one of a shard";
        return Err(Error::invalid(
            "journals to merge",
            "none of a shard",
            expected,
        ));
    };
    let merged = joined.merged();
    if !merged.missing.is_empty() && !partial {
        let expected = "every shard, finished; or say that the result may be partial";
        return Err(Error::invalid("shards", merged, expected));
    }
    joined.write(to, &merged)?;
    Ok(merged)
}

/// The journals so far.
struct Joined {
    header: Header,
    /// How many shards there are; 0 as long as none has come.
    of: usize,
    known: Known,
    /// By shard, how many journals of it there are, and whether one is finished.
    shards: BTreeMap<usize, (usize, bool)>,
}

impl Joined {
    fn new(header: Header) -> Self {
        Joined {
            header,
            of: 0,
            known: Known::default(),
            shards: BTreeMap::new(),
        }
    }

    fn add(&mut self, path: &Path, contents: Contents) -> Result<()> {
        let expected = Header {
            shard: contents.header.shard.clone(),
            ..self.header.clone()
        };
        check_header(path, &contents.header, &expected)?;
        let results = contents.known.0.into_iter().collect();
        self.known.add(path, results)?;
        let Some(shard) = contents.header.shard else {
            return Ok(());
        };
        let unknown = |_| format_error(path, format!("shard `{shard}`"), "one such as 1/10");
        let shard: Shard = shard.parse().map_err(unknown)?;
        if self.of != 0 && shard.of() != self.of {
            let found = format!("shard {shard}");
            return Err(format_error(path, found, format!("one of {}", self.of)));
        }
        self.of = shard.of();
        self.header.array = self.header.array.take().or(contents.header.array);
        let (journals, finished) = self.shards.entry(shard.index()).or_default();
        *journals += 1;
        *finished |= contents.finished;
        Ok(())
    }

    fn merged(&self) -> Merged {
        let (of, shards) = (self.of, &self.shards);
        let array = self.header.array.as_deref();
        let which = |holds: &dyn Fn(&usize) -> bool| {
            let found = (0..of).filter(holds);
            found
                .map(|index| Shard::new(index, of).expect("it is one of them"))
                .collect()
        };
        Merged {
            study: self.header.study.clone(),
            results: self.known.len(),
            shards: of,
            missing: which(&|i| !shards.get(i).is_some_and(|(_, finished)| *finished)),
            doubled: which(&|i| shards.get(i).is_some_and(|(journals, _)| *journals > 1)),
            array: array.and_then(|array| array.parse().ok()),
        }
    }

    fn write(self, path: &Path, merged: &Merged) -> Result<()> {
        let lacks: Vec<String> = merged.missing.iter().map(ToString::to_string).collect();
        let header = Header {
            shard: None,
            array: None,
            lacks: Some(lacks).filter(|lacks| !lacks.is_empty()),
            ..self.header
        };
        let mut results: Vec<_> = self.known.0.into_iter().collect();
        results.sort_unstable_by_key(|(key, _)| *key);
        write_atomically(path, |file| {
            file.write_all(file::header_line(&header).as_bytes())?;
            for some in results.chunks(1 << 12) {
                file.write_all(record::results(some).as_bytes())?;
            }
            file.write_all(record::end(results.len()).as_bytes())
        })
    }
}
