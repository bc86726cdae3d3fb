//! Studies that survive a kill and spread over machines.
//!
//! A study with a journal writes every result as it comes. Started again with the same journal, it
//! takes what is there, computes the rest, and ends with the bits of a run that nobody disturbed.
//!
//! ```
//! use patchlens::journal::Journal;
//! use patchlens::patching::ActivationPatching;
//! use patchlens::{Config, Grid, Prompt, Site, Transformer, logit_diff};
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("heads.journal");
//! let config = Config { n_layers: 2, n_heads: 2, d_model: 8, d_mlp: 16, d_vocab: 11,
//! ..Config::gpt2() };
//! let model = Transformer::random(config, 0)?;
//! let (clean, corrupted) = (Prompt::from([1, 2, 3]), Prompt::from([1, 4, 3]));
//! let run = |journal: &Journal| {
//!     let study = ActivationPatching::new(&model, &clean, &corrupted)?.journal(journal);
//!     study.run(Grid::Heads(Site::Z), &logit_diff(2, 4))
//! };
//! let first = run(&Journal::open(&path, &model, "heads")?)?;
//! let again = Journal::open(&path, &model, "heads")?;
//! assert_eq!(run(&again)?.effect.values(), first.effect.values());
//! assert_eq!(again.counts().computed, 0); // all of it was there
//! # Ok::<(), patchlens::Error>(())
//! ```
//!
//! **Many machines.** Each takes a [`Shard`] of the work and writes a journal of its own; [`merge`]
//! joins them to one in which the study finds all that was divided. Which results a shard computes
//! follows from planned multiply-adds alone, so that the shards of any number of machines are the
//! same on all of them, and the result has the bits of a run on one machine.
//!
//! **How a result is found again.** By a hash of all that it depends on: weights, tokens,
//! interventions with their values, metric. A result of another study is therefore never taken for
//! one of this; threads, memory and the order of the work may differ from run to run. Closures have
//! nothing to hash and are rejected, as metrics and as edits.
//!
//! **What does not go in.** Base runs, gradients and lenses, which take a small part of the work
//! and are run again.
//!
//! **What is not divided.** The runs of circuits: which ones there are follows from all edges'
//! effects, so `patchlens circuits` makes them after the merge, and adds them to the journal.

mod file;
mod header;
mod known;
mod merge;
mod record;
mod scheduler;
mod shard;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use merge::{Merged, merge};
pub use scheduler::JobArray;
pub use shard::{Part, Shard};

use file::Appender;
use header::{check_header, header};
use known::Known;
use record::{Header, Line};

pub(crate) use record::Noted;

use crate::content::Key;
use crate::error::Result;
use crate::files::format_error;
use crate::model::Transformer;

/// The version of the format.
const VERSION: u32 = 1;

/// What a journal has been used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalCounts {
    /// Results that it holds.
    pub results: usize,
    /// Results that studies took from it instead of computing them.
    pub taken: usize,
    /// Results that studies computed.
    pub computed: usize,
    /// Results that belong to other shards, or to shards that a merged journal lacks.
    pub left: usize,
}

/// The results of a study as they come, in a file or in memory; clones share it.
///
/// Give it to a study by its `journal` method. A study that is made of several, or runs several
/// times, shares one journal. It is text: a header, then results, each line with a checksum.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// None in memory.
    path: Option<PathBuf>,
    part: Option<Part>,
    /// Results of an earlier step, which are not written again.
    earlier: Known,
    /// Whether it was merged, and lacks shards: what they would hold is not computed.
    lacks_shards: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    known: Known,
    file: Option<Appender>,
    /// Lines that were written since they were last taken, of a journal in memory.
    lines: String,
    /// Whether it had results when it was opened, none of which has been asked for yet.
    strange: bool,
    finished: bool,
    counts: JournalCounts,
}

impl Journal {
    /// Opens a journal to go on with it, or begins one. `study` says in words of the caller's what
    /// it is a journal of; whoever opens it again says the same.
    ///
    /// A last line that a killed process wrote in part is cut off. Nothing else of a file is ever
    /// changed: what is damaged, or of another study, stays as it is.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io); [`Error::Format`](crate::Error::Format) for a file that is damaged, that another process is
    /// writing, or that is no journal of this study, of this model, by this version of the crate on
    /// this kind of processor.
    pub fn open(path: impl AsRef<Path>, model: &Transformer, study: &str) -> Result<Self> {
        Self::open_as(path.as_ref(), header(model, study))
    }

    /// The same for one shard of a study, and the scheduler's array that started it, if one did.
    ///
    /// # Errors
    /// Same as [`Journal::open`], also for a journal of another shard.
    pub fn open_shard(
        path: impl AsRef<Path>,
        model: &Transformer,
        study: &str,
        shard: Shard,
        array: Option<JobArray>,
    ) -> Result<Self> {
        let header = Header {
            shard: Some(shard.to_string()),
            array: array.map(|array| array.to_string()),
            ..header(model, study)
        };
        Self::open_as(path.as_ref(), header)
    }

    fn open_as(path: &Path, header: Header) -> Result<Self> {
        let (file, contents) = Appender::open(path, &header)?;
        Ok(Journal(Arc::new(Inner {
            path: Some(path.to_path_buf()),
            part: None,
            earlier: Known::default(),
            lacks_shards: contents.header.lacks.is_some(),
            state: Mutex::new(State {
                strange: contents.known.len() > 0,
                counts: JournalCounts {
                    results: contents.known.len(),
                    ..JournalCounts::default()
                },
                known: contents.known,
                file: Some(file),
                lines: String::new(),
                finished: contents.finished,
            }),
        })))
    }

    /// A journal without a file, for results that travel: [`Journal::take_lines`] hands them out,
    /// [`Journal::add_lines`] takes them in.
    pub fn in_memory() -> Self {
        Journal(Arc::new(Inner {
            path: None,
            part: None,
            earlier: Known::default(),
            lacks_shards: false,
            state: Mutex::new(State {
                known: Known::default(),
                file: None,
                lines: String::new(),
                strange: false,
                finished: false,
                counts: JournalCounts::default(),
            }),
        }))
    }

    /// The same journal, whose studies compute what belongs to a part of the work and leave the
    /// rest: their results are partial. Studies that cannot be divided are errors.
    ///
    /// # Panics
    /// If the journal has been given to a study before.
    #[must_use]
    pub fn part(self, part: Part) -> Self {
        let part = Some(part);
        let inner = self.unshared();
        Journal(Arc::new(Inner { part, ..inner }))
    }

    /// The same journal, whose studies also take the results of another one of the same study,
    /// which may lack shards. In studies of several steps, each of which depends on all of the one
    /// before, this is the merged journal of the steps so far.
    ///
    /// # Errors
    /// Those of [`Journal::open`] on a file that is not written.
    ///
    /// # Panics
    /// If the journal has been given to a study before.
    pub fn after(self, path: impl AsRef<Path>, model: &Transformer, study: &str) -> Result<Self> {
        let path = path.as_ref();
        let torn = || format_error(path, "nothing but a torn header", "a journal");
        let contents = file::read(path)?.ok_or_else(torn)?;
        check_header(path, &contents.header, &header(model, study))?;
        let earlier = contents.known;
        let inner = self.unshared();
        Ok(Journal(Arc::new(Inner { earlier, ..inner })))
    }

    fn unshared(self) -> Inner {
        let inner = Arc::try_unwrap(self.0);
        inner.expect("a journal is arranged before it is used")
    }

    /// Its file, if it has one.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    fn name(&self) -> &Path {
        self.path().unwrap_or(Path::new("journal in memory"))
    }

    /// What it has been used for.
    pub fn counts(&self) -> JournalCounts {
        self.state().counts
    }

    /// Whether the study was done when the journal was opened, or is since.
    pub fn is_finished(&self) -> bool {
        self.state().finished
    }

    /// Notes that everything that belongs in it is there, and waits until the disk has it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn finish(&self) -> Result<()> {
        let mut state = self.state();
        let State { file, known, .. } = &mut *state;
        if let Some(file) = file {
            file.append(&record::end(known.len()))?;
            file.sync()?;
        }
        state.finished = true;
        Ok(())
    }

    /// The lines that were written since they were last taken, of a journal in memory.
    pub fn take_lines(&self) -> String {
        std::mem::take(&mut self.state().lines)
    }

    /// The same journal, whose studies also take the results of these lines, which are not handed
    /// out again.
    ///
    /// # Errors
    /// Same as [`Journal::add_lines`].
    ///
    /// # Panics
    /// If the journal has been given to a study before.
    pub fn after_lines(self, lines: &str) -> Result<Self> {
        let mut earlier = Known::default();
        for line in lines.lines() {
            earlier.add(self.name(), self.results_of(line)?)?;
        }
        let inner = self.unshared();
        Ok(Journal(Arc::new(Inner { earlier, ..inner })))
    }

    /// The lines of all results that it holds.
    pub fn all_lines(&self) -> String {
        let state = self.state();
        let results = state.known.0.iter();
        let results: Vec<_> = results.map(|(key, noted)| (*key, noted.clone())).collect();
        record::results(&results)
    }

    fn results_of(&self, line: &str) -> Result<Vec<(Key, Noted)>> {
        match record::unsealed(line.as_bytes()).and_then(Line::parse) {
            Some(Line::Results(list)) => Ok(list),
            _ => {
                let expected = "results with their checksum";
                Err(format_error(self.name(), "a damaged line", expected))
            }
        }
    }

    /// Adds lines of another journal of the same study.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) for a line that is damaged, or a result that contradicts one that is
    /// there; [`Error::Io`](crate::Error::Io).
    pub fn add_lines(&self, lines: &str) -> Result<()> {
        let mut lines = lines.lines();
        lines.try_for_each(|line| self.note(self.results_of(line)?))
    }

    /// The part of the work that is done with it, if it is not all.
    pub(crate) fn divided(&self) -> Option<&Part> {
        self.0.part.as_ref()
    }

    /// Whether what is not known is left out rather than computed.
    pub(crate) fn lacks_shards(&self) -> bool {
        self.0.lacks_shards
    }

    /// What is known of runs, in their order; `mine` says of each whether it belongs to the part of
    /// the work that is done with it.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if it was opened with results, and the first runs
    /// of its part are not among them: those of a study come in one order.
    pub(crate) fn known(
        &self,
        keys: &[Key],
        mine: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<Noted>>> {
        let mut state = self.state();
        let find = |key: &Key| {
            let own = state.known.0.get(key);
            own.or_else(|| self.0.earlier.0.get(key)).cloned()
        };
        let found: Vec<_> = keys.iter().map(find).collect();
        let taken = found.iter().flatten().count();
        if state.strange && taken == 0 && (0..keys.len()).any(mine) {
            let found = format!("{} results, none of them of this study", state.known.len());
            let expected = "a journal of the same prompts, interventions and metric";
            return Err(format_error(self.name(), found, expected));
        }
        state.strange &= taken == 0;
        state.counts.taken += taken;
        Ok(found)
    }

    /// Counts runs that are left to others.
    pub(crate) fn leave(&self, runs: usize) {
        self.state().counts.left += runs;
    }

    /// Writes results of this process.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub(crate) fn add(&self, list: Vec<(Key, Noted)>) -> Result<()> {
        self.state().counts.computed += list.len();
        self.note(list)
    }

    /// Writes those of some results that are not there yet.
    fn note(&self, mut list: Vec<(Key, Noted)>) -> Result<()> {
        let mut state = self.state();
        state.known.check(self.name(), &list)?;
        list.retain(|(key, _)| !state.known.0.contains_key(key));
        if list.is_empty() {
            return Ok(());
        }
        let lines = record::results(&list);
        match &mut state.file {
            Some(file) => file.append(&lines)?,
            None => state.lines += &lines,
        }
        // Only now: what could not be written is not known, and is written by the next try.
        state.known.add(self.name(), list)?;
        state.counts.results = state.known.len();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
