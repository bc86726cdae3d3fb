//! How much the attack has compared, so that none of its comparisons is left out unnoticed.

use std::ops::AddAssign;

/// How much has been compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub cells: usize,
    pub rejected: usize,
    /// Cells with an intervention in columns or a subspace.
    pub narrow: usize,
    pub changed_rows: usize,
    pub blocked_rows: usize,
    pub not_a_number: usize,
    pub over_a_base: usize,
    pub generated: usize,
    pub gradients: usize,
    pub slopes: usize,
    pub paths: usize,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, more: Seen) {
        self.cells += more.cells;
        self.rejected += more.rejected;
        self.narrow += more.narrow;
        self.changed_rows += more.changed_rows;
        self.blocked_rows += more.blocked_rows;
        self.not_a_number += more.not_a_number;
        self.over_a_base += more.over_a_base;
        self.generated += more.generated;
        self.gradients += more.gradients;
        self.slopes += more.slopes;
        self.paths += more.paths;
    }
}

impl Seen {
    /// That no comparison was left out altogether.
    pub fn check(&self) {
        let counts = [
            self.cells,
            self.rejected,
            self.narrow,
            self.changed_rows,
            self.blocked_rows,
            self.not_a_number,
            self.over_a_base,
            self.generated,
            self.gradients,
            self.slopes,
            self.paths,
        ];
        assert!(counts.iter().all(|count| *count > 0), "{self:?}");
    }
}
