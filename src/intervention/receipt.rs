//! What interventions did in a run.

use std::fmt;

use crate::model::BlockedRows;

/// What one intervention did.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fired {
    /// Its target, as text.
    pub target: String,
    /// Its edit's name.
    pub edit: String,
    /// How often it fired: once per sequence (generation: once per step that runs some of its
    /// rows).
    pub times: usize,
    /// How many rows (position × head) it was applied to.
    pub rows: usize,
    /// In how many of them it changed at least one bit. Weights of attention that are 0 and −0 are
    /// the same here.
    pub changed_rows: usize,
}

/// What the interventions of a run did, in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Receipt {
    /// One entry per intervention.
    pub fired: Vec<Fired>,
    /// Rows of attention that were left nothing to attend to, by these interventions or by other
    /// hooks of the run.
    pub blocked: BlockedRows,
}

impl Receipt {
    /// The interventions that fired and changed nothing, which often means a mistake.
    pub fn without_effect(&self) -> impl Iterator<Item = &Fired> {
        self.fired.iter().filter(|f| f.changed_rows == 0)
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fired in &self.fired {
            let note = match (fired.times, fired.changed_rows) {
                (0, _) => "  NEVER FIRED",
                (_, 0) => "  CHANGED NOTHING",
                _ => "",
            };
            writeln!(
                f,
                "{:<6} {}: fired {}×, {} of {} rows changed{note}",
                fired.edit, fired.target, fired.times, fired.changed_rows, fired.rows
            )?;
        }
        if self.blocked.rows > 0 {
            writeln!(f, "{}", self.blocked)?;
        }
        Ok(())
    }
}
