//! What a result lacks: cells that were not run, as somebody ended the study or the journal that
//! it was made from lacks shards. What they would say is no part of a conclusion.

use patchlens::report::{Absent, Labelled};

/// `12 of 16 cells were not run`, unless all were.
pub fn not_run(result: &Labelled) -> Option<String> {
    let absent = result.absent();
    let count = |of: Option<Absent>| absent.iter().filter(|reason| **reason == of).count();
    let missing = count(Some(Absent::NotRun));
    // The others have no value for reasons of their own.
    let of = missing + count(None);
    (missing > 0).then(|| format!("{missing} of {of} cells were not run"))
}
