//! How a study runs: within how much memory, whom it reports its progress to, whether it goes on,
//! and which journal keeps its results.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::Room;
use crate::error::{Error, Result};
use crate::journal::Journal;
use crate::prompt::Prompt;

/// Working memory of a study unless its `memory_limit` says otherwise: 1 GiB.
pub const DEFAULT_MEMORY_LIMIT: u64 = 1 << 30;

/// How far a study has come. Its observer gets one now and then, and may end the study there by
/// [`ControlFlow::Break`]: the result then holds what was done, and says that it is partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Units done.
    pub done: usize,
    /// All units.
    pub total: usize,
    /// What is counted, in the plural: `cells`.
    pub unit: &'static str,
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} {}", self.done, self.total, self.unit)
    }
}

type Observer<'o> = Arc<dyn Fn(&Progress) -> ControlFlow<()> + Send + Sync + 'o>;

/// What bounds a study: memory, an observer who may end it, and a journal, which may be of a part
/// of it.
#[derive(Clone)]
pub(crate) struct Limits<'c> {
    /// Bound of the working memory, in bytes.
    pub memory: u64,
    /// What keeps the results.
    pub journal: Option<Journal>,
    /// Which of the study's prompts all runs belong to, where they are not one per prompt.
    pub slot: Option<usize>,
    observer: Option<Observer<'c>>,
    /// Whether the observer has ended the study; clones share it.
    ended: Arc<AtomicBool>,
}

impl Default for Limits<'_> {
    fn default() -> Self {
        Limits {
            memory: DEFAULT_MEMORY_LIMIT,
            journal: None,
            slot: None,
            observer: None,
            ended: Arc::default(),
        }
    }
}

impl<'c> Limits<'c> {
    /// The same without an observer, for a part of a study that takes no time to speak of.
    pub fn quiet(&self) -> Self {
        Limits {
            observer: None,
            ended: Arc::default(),
            ..self.clone()
        }
    }

    /// The memory that there is beside so many bytes.
    pub fn room(&self, held: u64) -> Room {
        Room {
            held,
            limit: self.memory,
        }
    }

    /// Whether only a part of the work is to be done, so that results lack values though nobody
    /// has ended the study.
    pub fn divided(&self) -> bool {
        self.journal.as_ref().is_some_and(|j| j.divided().is_some())
    }

    /// Checks that all of the work is to be done.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a journal of a part.
    pub fn undivided(&self, study: &str) -> Result<()> {
        match self.journal.as_ref().and_then(Journal::divided) {
            None => Ok(()),
            Some(part) => Err(Error::invalid(
                format!("journal of {study}"),
                format!("one of shard {}", part.shard()),
                "one of the whole study, whose later runs depend on what earlier ones find",
            )),
        }
    }

    /// Reports to an observer from now on.
    pub fn observe(&mut self, observer: impl FnMut(&Progress) -> ControlFlow<()> + Send + 'c) {
        let observer = Mutex::new(observer);
        self.observer = Some(Arc::new(move |progress| {
            let mut observer = observer.lock().unwrap_or_else(PoisonError::into_inner);
            observer(progress)
        }));
    }

    /// Reports progress; a break says that the study is to end.
    pub fn report(&self, done: usize, total: usize, unit: &'static str) -> ControlFlow<()> {
        let progress = Progress { done, total, unit };
        let flow = match &self.observer {
            Some(observer) => observer(&progress),
            None => ControlFlow::Continue(()),
        };
        if flow.is_break() {
            self.ended.store(true, Ordering::Relaxed);
        }
        flow
    }

    /// Whether the observer has ended the part of a study that these are [for](Limits::after): it
    /// may have done so when no unit was left.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The same for a part of the study whose units are the study's: `done` of all `total` have
    /// been done before it.
    pub fn after(&self, done: usize, total: usize, unit: &'static str) -> Self {
        let mut part = Limits {
            ended: Arc::default(),
            ..self.clone()
        };
        if let Some(observer) = self.observer.clone() {
            part.observe(move |own| {
                let done = done + own.done;
                observer(&Progress { done, total, unit })
            });
        }
        part
    }

    /// The same for a part of the study: of as many units, but its progress is reported as the
    /// study's own, which stands where it is.
    pub fn part(&self, done: usize, total: usize, unit: &'static str) -> Self {
        let mut part = Limits {
            ended: Arc::default(),
            ..self.clone()
        };
        if let Some(observer) = self.observer.clone() {
            let progress = Progress { done, total, unit };
            part.observe(move |_| observer(&progress));
        }
        part
    }
}

impl fmt::Debug for Limits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("memory", &self.memory)
            .field("journal", &self.journal)
            .field("observed", &self.observer.is_some())
            .finish()
    }
}

/// How many tokens are run at a time where many prompts are only averaged over.
const TOKENS_AT_ONCE: usize = 4096;

/// Prompts in turn, at most [`TOKENS_AT_ONCE`] tokens at a time, but at least one prompt.
pub(crate) fn batches(prompts: &[Prompt]) -> Vec<&[Prompt]> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (i, prompt) in prompts.iter().enumerate() {
        if tokens + prompt.len() > TOKENS_AT_ONCE && i > start {
            batches.push(&prompts[start..i]);
            (start, tokens) = (i, 0);
        }
        tokens += prompt.len();
    }
    batches.push(&prompts[start..]);
    batches
}

/// The methods by which a study with a field `limits: Limits<'_>` is set up, in its `impl`.
macro_rules! limits_methods {
    ($life:lifetime) => {
        /// Bounds the working memory, in bytes; the result is the same. Studies by sweeps count all of
        /// it, also what base runs keep, those that values are taken from among them; runs of
        /// gradients and of circuits count their own only.
        /// [`DEFAULT_MEMORY_LIMIT`](crate::sweep::DEFAULT_MEMORY_LIMIT) by default.
        #[must_use]
        pub fn memory_limit(mut self, bytes: u64) -> Self {
            self.limits.memory = bytes;
            self
        }

        /// Takes results from a [journal](crate::journal), if there is one, and writes those that
        /// it computes there.
        #[must_use]
        pub fn journal<'j>(
            mut self,
            journal: impl Into<Option<&'j crate::journal::Journal>>,
        ) -> Self {
            self.limits.journal = journal.into().cloned();
            self
        }

        crate::limits::observe_method!($life);
    };
}
pub(crate) use limits_methods;

/// The method of a study that has an observer alone.
macro_rules! observe_method {
    ($life:lifetime) => {
        /// Reports [`Progress`](crate::Progress) to an observer, which may end the study early.
        #[must_use]
        pub fn observe(
            mut self,
            observer: impl FnMut(&crate::Progress) -> std::ops::ControlFlow<()> + Send + $life,
        ) -> Self {
            self.limits.observe(observer);
            self
        }
    };
}
pub(crate) use observe_method;
