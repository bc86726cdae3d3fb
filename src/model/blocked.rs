//! Rows of attention that have nothing to attend to.

use std::fmt;

use serde::Serialize;

/// Rows of attention that had nothing to attend to: every score −∞, or one of them not a number.
///
/// As in TransformerLens and in PyTorch's attention, the pattern of such a row is zero, and so is
/// its z; a plain softmax would be NaN there and spread through the model. It is counted here,
/// since it is seldom meant: blocking the first token as a source for all destinations leaves
/// position 0 without any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BlockedRows {
    /// How many rows: positions × heads × layers × prompts.
    pub rows: usize,
    /// The first of them.
    pub first: Option<BlockedRow>,
}

/// A row of an attention pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BlockedRow {
    /// The index of the prompt in the batch.
    pub prompt: usize,
    /// The layer.
    pub layer: usize,
    /// The head.
    pub head: usize,
    /// The destination: the position that attends.
    pub dest: usize,
}

impl BlockedRows {
    /// Counts one more.
    pub(crate) fn note(&mut self, row: BlockedRow) {
        self.extend(BlockedRows {
            rows: 1,
            first: Some(row),
        });
    }

    /// The same rows, which are those of this prompt.
    pub(crate) fn of_prompt(self, prompt: usize) -> Self {
        BlockedRows {
            first: self.first.map(|row| BlockedRow { prompt, ..row }),
            ..self
        }
    }

    /// What a reader of results must know, if some runs, called by this name, had such rows.
    pub(crate) fn told(&self, runs: &str) -> Option<String> {
        (self.rows > 0).then(|| format!("{runs}: {self}"))
    }

    /// Counts those of another run, too.
    pub(crate) fn extend(&mut self, other: BlockedRows) {
        self.rows += other.rows;
        self.first = self.first.into_iter().chain(other.first).min();
    }
}

impl fmt::Display for BlockedRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(BlockedRow {
            prompt,
            layer,
            head,
            dest,
        }) = self.first
        else {
            return f.write_str("no row of attention was blocked whole");
        };
        let rows = if self.rows == 1 { "row" } else { "rows" };
        write!(
            f,
            "{} {rows} of attention blocked whole, pattern and z set to 0: first \
             blocks.{layer}.attn, head {head}, dest {dest} of prompt {prompt}",
            self.rows
        )
    }
}
