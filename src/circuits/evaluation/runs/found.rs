//! What circuits' runs have found.

use ndarray::Array2;

/// What runs found.
pub(in crate::circuits) struct Found {
    /// `[circuit, pair]`; NaN for what was not reached.
    pub values: Array2<f32>,
    pub multiply_adds: u64,
    /// How many runs were made, by pair, then by circuit: fewer than all if the observer ended the
    /// work.
    pub done: usize,
}

impl Found {
    /// Whether the observer ended the work before the last run.
    pub fn partial(&self) -> bool {
        self.done < self.values.len()
    }

    /// Whether a circuit was run on every pair.
    pub fn reached(&self, circuit: usize) -> bool {
        let (cells, pairs) = self.values.dim();
        (pairs - 1) * cells + circuit < self.done
    }
}
