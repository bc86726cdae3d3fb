//! How values fit an activation: in whole, or in the part that a target names.

use ndarray::{ArrayViewD, Axis};

use crate::hook::Axes;
use crate::intervention::{Row, Target};

/// Which part of an activation values are for.
pub(super) enum Fit {
    Whole,
    Part(Part),
}

/// The part of an activation that a target names, in one sequence.
pub(super) struct Part {
    axes: Axes,
    pub positions: Vec<usize>,
    pub heads: Vec<usize>,
    /// Sources or columns.
    last: Vec<usize>,
    /// How many of these there are.
    width: usize,
    /// Whether the target names them in this order.
    pub ascends: bool,
}

impl Part {
    pub fn new(target: &Target, sequence: usize, shape: &[usize]) -> Self {
        let axes = target.point.axes();
        let heads = axes.head_axis().map_or(0, |axis| shape[axis]);
        let width = shape[shape.len() - 1];
        let picks = [
            (&target.positions, shape[axes.pos_axis()]),
            (&target.heads, heads),
            (target.along_rows(), width),
        ];
        let [positions, heads, last] = picks.map(|(select, n)| select.resolve(sequence, n));
        Part {
            axes,
            positions,
            heads,
            last,
            width,
            ascends: picks.iter().all(|(select, n)| select.ascends(sequence, *n)),
        }
    }

    /// Its shape within an activation of this one.
    pub fn shape(&self, whole: &[usize]) -> Vec<usize> {
        let mut shape = whole.to_vec();
        shape[self.axes.pos_axis()] = self.positions.len();
        if let Some(axis) = self.axes.head_axis() {
            shape[axis] = self.heads.len();
        }
        if let Some(width) = shape.last_mut() {
            *width = self.last.len();
        }
        shape
    }
}

/// Values that have been brought to the shape of an activation, or of a target's part of it.
pub(in crate::intervention) struct Fitted<'v> {
    pub(super) values: ArrayViewD<'v, f32>,
    pub(super) fit: Fit,
}

impl Fitted<'_> {
    /// The values of one row of the activation, which the target names; those of sources or columns
    /// that it does not name are 0.
    pub fn row(&self, place: Row) -> Vec<f32> {
        let axes = place.point.axes();
        let (mut position, mut head) = (place.position, place.head.unwrap_or(0));
        if let Fit::Part(part) = &self.fit {
            let within = |of: &[usize], index| of.binary_search(&index).expect("a named row");
            position = within(&part.positions, position);
            if place.head.is_some() {
                head = within(&part.heads, head);
            }
        }
        // A head's axis comes before that of attention's destinations, and after positions.
        let row = match axes.head_axis() {
            None => self.values.index_axis(Axis(0), position),
            Some(axis) => {
                let of_head = self.values.index_axis(Axis(axis), head);
                of_head.index_axis_move(Axis(0), position)
            }
        };
        match &self.fit {
            Fit::Part(part) if part.last.len() < part.width => {
                let mut whole = vec![0.0; part.width];
                for (at, value) in part.last.iter().zip(row) {
                    whole[*at] = *value;
                }
                whole
            }
            _ => row.iter().copied().collect(),
        }
    }
}
