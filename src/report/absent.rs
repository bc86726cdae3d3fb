//! Why a cell has no value.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a cell of a [`Labelled`](super::Labelled) array has no value; in the array it is NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Absent {
    /// Nothing leads from where the cell acts to what is measured.
    NoPath,
    /// The run ended before it.
    NotRun,
    /// It was not asked for.
    NotAsked,
    /// No prompt has what the cell is about.
    NoSamples,
    /// It was computed, and the result is NaN.
    NotANumber,
    /// A file of an older version has no value here and does not say why.
    Unstated,
}

impl Absent {
    /// [`Absent::NotRun`] for each cell that a run did not finish.
    pub(crate) fn not_run(finished: &[bool]) -> impl Iterator<Item = Option<Absent>> {
        let reason = |finished: &bool| (!finished).then_some(Absent::NotRun);
        finished.iter().map(reason)
    }

    /// What it means, in a few words.
    pub fn describe(self) -> &'static str {
        match self {
            Absent::NoPath => "nothing leads from here to what is measured",
            Absent::NotRun => "the run ended before",
            Absent::NotAsked => "it was not asked for",
            Absent::NoSamples => "no prompt has this",
            Absent::NotANumber => "the computation's result is not a number",
            Absent::Unstated => "no value; the file does not say why",
        }
    }

    /// What a small cell of a picture or a page shows instead of a value.
    pub(super) fn mark(self) -> &'static str {
        match self {
            Absent::NoPath => "–",
            Absent::NotRun => "…",
            Absent::NotAsked => "·",
            Absent::NoSamples => "∅",
            Absent::NotANumber => "NaN",
            Absent::Unstated => "×",
        }
    }
}

impl fmt::Display for Absent {
    /// What tables and CSV files write: `no path`, `not run`, `no samples`, `NaN`, `n/a`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Absent::NoPath => "no path",
            Absent::NotRun => "not run",
            Absent::NotAsked => "not asked",
            Absent::NoSamples => "no samples",
            Absent::NotANumber => "NaN",
            Absent::Unstated => "n/a",
        })
    }
}
