//! A study in parts: what a program needs that divides one among processes of its own, as
//! `patchlens-mpi` does.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use patchlens::journal::{Journal, Shard};
use patchlens::{Tokenizer, Transformer};

use crate::interrupt::{self, EndedEarly};
use crate::session::{Opened, Session, threads};
use crate::usage::usage;
use crate::work::{Given, PartDone, Work};
use crate::{Chosen, Command, Long, in_session, parse, tell};

/// The command of this process, which is a study that can be divided.
#[derive(Debug)]
pub struct Study {
    command: Command,
    asked: String,
}

/// The study's model and tokenizer.
#[derive(Clone)]
pub struct Model(Opened);

/// What a part of a study has computed.
#[derive(Debug)]
pub struct Found {
    /// Lines for [`Journal::add_lines`].
    pub lines: String,
    /// Whether a signal ended it before it was done.
    pub ended: bool,
}

impl Study {
    /// Reads the arguments of this process. What is wrong with them is printed if `tells`, as is
    /// help.
    ///
    /// # Errors
    /// The status with which to exit, also after help.
    pub fn parse(tells: bool) -> Result<Self, ExitCode> {
        let (command, asked) = parse().map_err(|error| {
            if tells {
                // Nobody is there to hear that it could not be printed.
                let _ = error.print();
            }
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
        })?;
        let study = Study { command, asked };
        let checked = study.chosen().map(|_| ());
        match checked {
            Ok(()) => Ok(study),
            Err(error) if tells => Err(tell(&error)),
            Err(_) => Err(ExitCode::FAILURE),
        }
    }

    fn chosen(&self) -> Result<Chosen<'_>> {
        match self.command.study() {
            Some(chosen) if matches!(chosen.long, Long::Divided(divided, _) if divided.shard.is_none()) => {
                Ok(chosen)
            }
            _ => Err(usage(
                "found a command that is not divided, or --shard; expected patch, paths, trace, \
                 knockout, ablate or circuits, whose work is divided among all ranks",
            )),
        }
    }

    /// In how many steps the study is divided, each of which depends on all of the one before.
    pub fn steps(&self) -> usize {
        match self.command.study().map(|chosen| chosen.long) {
            Some(Long::Divided(_, steps)) => steps,
            _ => 1,
        }
    }

    /// The model's folder, unless it is the shipped one.
    pub fn model_dir(&self) -> Option<&Path> {
        self.command.study()?.common.model.as_deref()
    }

    /// Bounds the threads of this process: those that the options say, or else so many.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start_threads(&self, otherwise: u16) -> Result<()> {
        interrupt::listen()?;
        threads(Some(self.chosen()?.common.threads.unwrap_or(otherwise)))
    }

    /// Opens the model.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn open(&self) -> Result<Model> {
        let mut common = self.chosen()?.common.clone();
        // They have been started.
        common.threads = None;
        Opened::open(&common).map(Model)
    }

    /// The journal that the options name, or one in memory.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn journal(&self, model: &Model) -> Result<Journal> {
        let chosen = self.chosen()?;
        let Long::Divided(divided, _) = chosen.long else {
            return Ok(Journal::in_memory());
        };
        Ok(match &divided.kept.journal {
            Some(path) => Journal::open(path, &model.0.model, &self.asked)?,
            None => Journal::in_memory(),
        })
    }

    /// Computes what belongs to a shard, as far as these lines of all shards' results do not have
    /// it; shows nothing.
    ///
    /// # Errors
    /// Those of the study.
    pub fn run_part(&self, model: &Model, shard: Shard, known: &Arc<str>) -> Result<Found> {
        let chosen = self.chosen()?;
        let mut common = chosen.common.clone();
        (common.out, common.json) = (None, None);
        let work = Work::given(Given::Part(shard, Arc::clone(known)));
        let session = Session::new(chosen.name, &common, model.0.clone(), work)?;
        let ended = match (chosen.run)(&session) {
            Ok(()) => false,
            Err(error) if error.is::<PartDone>() => false,
            Err(error) if error.is::<EndedEarly>() => true,
            Err(error) => return Err(error.context(format!("in shard {shard}"))),
        };
        let journal = session.work.journal();
        Ok(Found {
            lines: journal.map(Journal::take_lines).unwrap_or_default(),
            ended,
        })
    }

    /// Runs the study with a journal: shows and saves its results.
    ///
    /// # Errors
    /// Those of the study; an early end is one, too.
    pub fn finish(&self, model: Model, journal: Journal) -> Result<()> {
        in_session(&self.chosen()?, model.0, Work::given(Given::Whole(journal)))
    }

    /// The error of a study that a signal has ended, after which it can go on.
    ///
    /// # Errors
    /// Always.
    pub fn ended(&self, journal: &Journal) -> Result<()> {
        let results = journal.counts().results;
        let again = format!("{results} results are kept; the same command goes on from there");
        Err(interrupt::Again(again).into())
    }

    /// Whether a signal has asked this process to end.
    pub fn is_to_end() -> bool {
        interrupt::requested()
    }
}

impl Model {
    /// A model that was opened elsewhere, and a folder with its tokenizer's files.
    ///
    /// # Errors
    /// If the tokenizer cannot be read.
    pub fn given(model: Transformer, tokenizer: &Path) -> Result<Self> {
        let tokenizer = Tokenizer::open(tokenizer).context("opening the tokenizer")?;
        Ok(Model(Opened {
            model: Arc::new(model),
            tokenizer: Arc::new(tokenizer),
            notes: Vec::new(),
        }))
    }

    /// The model.
    pub fn transformer(&self) -> &Transformer {
        &self.0.model
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.model.config())
    }
}

/// Tells an error on stderr; the status with which to exit.
pub fn status(result: &Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => tell(error),
    }
}

/// Whether an error says that a signal ended the study, which can go on.
pub fn is_early_end(error: &anyhow::Error) -> bool {
    error.is::<EndedEarly>() || error.is::<interrupt::Again>()
}
