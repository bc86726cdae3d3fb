//! Long work: results that are kept as they come, and parts of a study on many machines.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{ArgMatches, Args, Command};
use patchlens::Transformer;
use patchlens::journal::{JobArray, Journal, Part, Shard};

use crate::interrupt;

/// Where a study keeps its results.
#[derive(Args, Clone, Debug, Default)]
pub struct Kept {
    /// Keep results in this file as they come. The same command with the same file goes on where
    /// it ended, and ends with the same bits
    #[arg(long, value_name = "FILE", help_heading = "Long work")]
    pub journal: Option<PathBuf>,
}

/// The same for a study whose work can be divided.
#[derive(Args, Clone, Debug, Default)]
pub struct Divided {
    #[command(flatten)]
    pub kept: Kept,
    /// Compute only one of N equal parts, to be joined by `patchlens merge`: I/N counts from 1;
    /// `auto` asks the scheduler (Slurm, Kubernetes, PBS, Grid Engine) for the number of this job,
    /// `auto:0-99` also says which numbers all jobs have
    #[arg(long, value_name = "I/N", help_heading = "Long work", requires = "journal",
        conflicts_with_all = ["out", "json"], value_parser = part)]
    pub shard: Option<(Shard, Option<JobArray>)>,
    /// The merged journal of the steps so far, for a study of several steps, each of which needs
    /// all of the one before
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Long work",
        requires = "shard"
    )]
    pub known: Option<PathBuf>,
}

fn part(text: &str) -> patchlens::Result<(Shard, Option<JobArray>)> {
    let array = match text.strip_prefix("auto") {
        Some("") => None,
        Some(array) if array.starts_with(':') => Some(array[1..].parse()?),
        _ => return Ok((text.parse()?, None)),
    };
    let (shard, array) = JobArray::current(array)?;
    Ok((shard, Some(array)))
}

impl Divided {
    /// All of the work.
    pub fn whole(kept: Kept) -> Self {
        Divided {
            kept,
            ..Divided::default()
        }
    }
}

/// Options that change no result, or are told by the model itself.
const NOT_THE_STUDY: [&str; 10] = [
    "journal", "shard", "known", "threads", "memory", "out", "json", "quiet", "model", "skip",
];

/// What a command asks for, as its journal is named: the study with its options, those left out
/// that change no result.
pub fn study(program: &Command, matches: &ArgMatches) -> String {
    let Some((name, matches)) = matches.subcommand() else {
        return String::new();
    };
    let command = program.find_subcommand(name);
    let arguments = command.into_iter().flat_map(Command::get_arguments);
    let mut text = name.to_string();
    for id in arguments.map(|argument| argument.get_id().as_str()) {
        let given = matches.try_contains_id(id).unwrap_or(false)
            && matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
        if !given || NOT_THE_STUDY.contains(&id) {
            continue;
        }
        for value in matches.get_raw(id).into_iter().flatten() {
            text += &format!(" --{} {}", id.replace('_', "-"), value.display());
        }
    }
    text
}

/// What a study does with its journal.
#[derive(Debug, Default)]
pub struct Work {
    /// What the journal is one of.
    study: String,
    divided: Divided,
    journal: OnceCell<Journal>,
    /// Where the results go, if not to a file of its own.
    given: Option<Given>,
}

/// A journal that somebody else keeps.
#[derive(Debug)]
pub enum Given {
    /// Of a part of the work; the lines of what is known of all of it.
    Part(Shard, Arc<str>),
    /// Of all of it.
    Whole(Journal),
}

impl Work {
    pub fn new(study: String, divided: Divided) -> Self {
        Work {
            study,
            divided,
            journal: OnceCell::new(),
            given: None,
        }
    }

    /// Work whose journal somebody else keeps.
    pub fn given(given: Given) -> Self {
        Work {
            given: Some(given),
            ..Work::default()
        }
    }

    /// Whether somebody else tells how far it has come.
    pub fn is_quiet(&self) -> bool {
        matches!(self.given, Some(Given::Part(..)))
    }

    /// The journal, once it is open.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }

    /// Whether only a part of the work is done, so that there is nothing to show.
    pub fn is_part(&self) -> bool {
        self.divided.shard.is_some() || self.is_quiet()
    }

    /// Opens the journal of a study whose prompts have these costs, and returns those that it is
    /// to run: a part of them, if it does a part of the work.
    ///
    /// # Errors
    /// Those of opening the journal.
    pub fn begin(&self, model: &Transformer, costs: &[u64]) -> Result<Range<usize>> {
        let Some(shard) = self.shard() else {
            self.begin_whole(model)?;
            return Ok(0..costs.len());
        };
        let part = shard.part(costs).of_these();
        let prompts = part.prompts();
        self.begin_part(model, part)?;
        Ok(prompts)
    }

    /// The same for a study that has to run all prompts, whatever part of the work it does.
    ///
    /// # Errors
    /// Those of opening the journal.
    pub fn begin_together(&self, model: &Transformer, costs: &[u64]) -> Result<()> {
        match self.shard() {
            None => self.begin_whole(model),
            Some(shard) => self.begin_part(model, shard.part(costs)),
        }
    }

    fn shard(&self) -> Option<Shard> {
        match &self.given {
            Some(Given::Part(shard, _)) => Some(*shard),
            _ => self.divided.shard.map(|(shard, _)| shard),
        }
    }

    fn begin_whole(&self, model: &Transformer) -> Result<()> {
        let journal = match (&self.given, &self.divided.kept.journal) {
            (Some(Given::Whole(journal)), _) => journal.clone(),
            (_, Some(path)) => Journal::open(path, model, &self.study)?,
            (_, None) => return Ok(()),
        };
        self.journal.set(journal).expect("a study begins once");
        Ok(())
    }

    fn begin_part(&self, model: &Transformer, part: Part) -> Result<()> {
        let journal = match &self.given {
            Some(Given::Part(_, known)) => Journal::in_memory().after_lines(known)?.part(part),
            _ => self.open_shard(model, part)?,
        };
        self.journal.set(journal).expect("a study begins once");
        Ok(())
    }

    fn open_shard(&self, model: &Transformer, part: Part) -> Result<Journal> {
        let array = self.divided.shard.and_then(|(_, array)| array);
        let (study, shard) = (&self.study, part.shard());
        let path = self.divided.kept.journal.as_deref();
        let path = path.context("--shard needs --journal")?;
        let journal = Journal::open_shard(path, model, study, shard, array)?.part(part);
        Ok(match &self.divided.known {
            Some(known) => journal.after(known, model, study)?,
            None => journal,
        })
    }

    /// Ends a step of a study. After one of which a part was done there is nothing to show, and
    /// the next may depend on all of it. What a study of the whole has found is still to be shown.
    ///
    /// # Errors
    /// [`PartDone`] in a part of the work, unless all of it was known; `EndedEarly` if it was
    /// ended.
    pub fn step(&self) -> Result<()> {
        if !self.is_part() {
            return Ok(());
        }
        interrupt::check()?;
        if self.journal().is_none() || self.lacks_results() {
            return Err(PartDone.into());
        }
        Ok(())
    }

    /// Whether results were left to others, so that what was found lacks them.
    pub fn lacks_results(&self) -> bool {
        self.journal()
            .is_some_and(|journal| journal.counts().left > 0)
    }

    /// Ends the last step that is divided. What a study of the whole has found before it was ended
    /// is still to be shown.
    ///
    /// # Errors
    /// [`PartDone`] in a part of the work, `EndedEarly` if it was ended.
    pub fn last_step(&self) -> Result<()> {
        if self.is_part() {
            interrupt::check()?;
            return Err(PartDone.into());
        }
        Ok(())
    }

    /// Notes in the journal that the work is done, and says what it was used for.
    ///
    /// # Errors
    /// If the journal cannot be written.
    pub fn finish(&self) -> Result<Option<String>> {
        let Some(journal) = self.journal() else {
            return Ok(None);
        };
        journal.finish()?;
        let Some(path) = journal.path() else {
            return Ok(None);
        };
        let counts = journal.counts();
        let mut text = format!(
            "{}: {} results, {} of them computed now",
            path.display(),
            counts.results,
            counts.computed
        );
        if let Some((shard, _)) = self.divided.shard {
            text += &format!(
                "; shard {shard} is done. When all are: patchlens merge --into FILE JOURNALS.., then \
                 the same command with --journal FILE and without --shard"
            );
        } else if self.lacks_results() {
            text += &format!("; {} are missing: the results are partial", counts.left);
        }
        Ok(Some(text))
    }

    /// What to do after an early end, if there is something to go on with.
    pub fn again(&self) -> Option<String> {
        let results = self.journal()?.counts().results;
        Some(format!(
            "{results} results are kept; the same command goes on from there"
        ))
    }
}

/// What can be done here is done; the rest is somebody else's, or needs what others have not done.
#[derive(Debug)]
pub struct PartDone;

impl fmt::Display for PartDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this part of the work is done")
    }
}

impl std::error::Error for PartDone {}
