//! Cells whose places are columns of the last axis or a subspace of it.

use ndarray::Array2;
use patchlens::hook::Axes;
use patchlens::intervention::Subspace;

use super::cell::Drawn;
use super::place::Place;

impl Place<'_> {
    /// Draws from the other stream from now on.
    pub fn swap(&mut self) {
        let source = &mut *self.source;
        std::mem::swap(&mut source.random, &mut source.narrow);
    }

    /// A cell of which most edits are narrower than a row.
    pub fn narrow_cell(&mut self) -> Vec<Drawn> {
        let n = self.source.within(1..=3);
        (0..n).map(|_| self.narrowed()).collect()
    }

    fn narrowed(&mut self) -> Drawn {
        let mut drawn = self.drawn();
        let attention = drawn.point.axes() == Axes::Attention;
        // Now and then where the last axis has no columns.
        if !self.source.chance(if attention { 2 } else { 90 }) {
            return drawn;
        }
        let shape = drawn.point.axes().shape(self.config, 1);
        let width = *shape.last().unwrap();
        let both = self.source.chance(2); // An error.
        let columns = self.source.chance(50);
        if columns || both {
            let widths = vec![width; self.lengths.len()];
            drawn.columns = self.some(&widths, true);
        }
        if !columns || both {
            drawn.subspace = Some(self.subspace(width));
        }
        // Values may have the shape of the target.
        self.deed(&mut drawn);
        drawn
    }

    fn subspace(&mut self, width: usize) -> Subspace {
        let width = if self.source.chance(2) {
            width + 1 // An error.
        } else {
            width
        };
        let rank = self.source.within(1..=width.min(3));
        let mut basis = Array2::from_shape_simple_fn((width, rank), || self.source.small());
        // Unit vectors are columns by another name.
        if self.source.chance(25) {
            basis = Array2::from_shape_fn((width, rank), |(i, j)| f32::from(i == j));
        }
        let spanned = Subspace::spanned_by(&basis).expect("vectors that are independent");
        let spanned = if self.source.chance(50) {
            spanned.complement()
        } else {
            spanned
        };
        if self.source.chance(70) {
            return spanned;
        }
        spanned.strength(self.source.small()).unwrap()
    }
}
