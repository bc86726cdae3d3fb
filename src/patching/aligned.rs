//! The cells of a grid over pairs of prompts of different lengths.

use ndarray::Array2;

use super::Grid;
use super::grid::POSITION;
use crate::alignment::{Aligned, patches};
use crate::cache::ActivationCache;
use crate::error::{Error, Result};
use crate::hook::Axes;
use crate::intervention::Target;
use crate::report::Axis;
use crate::sweep::Cell;

/// One cell per target, whose positions are columns of the alignment: what the donors have at the
/// partners of the positions that a column has in each pair. Also which pairs lack it,
/// `[cell, pair]`.
pub(super) fn cells(
    aligned: &Aligned,
    grid: Grid,
    targets: Vec<Target>,
    donors: &[ActivationCache],
    into_first: bool,
) -> Result<(Vec<Cell>, Array2<bool>)> {
    check(grid)?;
    let aligned = if grid.by_position() {
        aligned.clone()
    } else {
        aligned.joined()?
    };
    patches(&aligned, targets, donors, into_first)
}

/// Names the axis of positions after the roles that it has in their place.
pub(super) fn name_roles(aligned: &Aligned, axes: &mut [Axis], labels: &[String]) {
    if !aligned.by_role {
        return;
    }
    for axis in axes.iter_mut().filter(|axis| axis.name == POSITION) {
        *axis = Axis::new("role", labels);
    }
}

/// Checks that no site of a grid has a source axis: which sources correspond is another question.
fn check(grid: Grid) -> Result<()> {
    let attention = |site: &crate::hook::Site| site.axes() == Axes::Attention;
    match grid.sites().into_iter().find(attention) {
        None => Ok(()),
        Some(site) => Err(Error::invalid(
            format!("grid {grid:?} over aligned prompts"),
            format!(
                "{} with axes [{}]",
                site.name(),
                site.axes().names().join(", ")
            ),
            "sites without a source axis, such as `Grid::Heads(Site::Z)`",
        )),
    }
}
