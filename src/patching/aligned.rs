//! The cells of a grid over pairs of prompts of different lengths.

use ndarray::{Array1, Array2, ArrayD, Axis as Dim};

use super::Grid;
use super::grid::POSITION;
use crate::alignment::Aligned;
use crate::cache::ActivationCache;
use crate::error::{Error, Result};
use crate::hook::Axes;
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::report::Axis;
use crate::select::Select;
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
    let mut lacking = Array2::from_elem((targets.len(), donors.len()), false);
    let mut cells = Vec::with_capacity(targets.len());
    for (target, mut lacking) in targets.into_iter().zip(lacking.rows_mut()) {
        let named = target.positions.fixed(0);
        let column = named.map_or(0, |columns| columns[0]);
        let partners = aligned.partners(column, into_first);
        lacking.assign(&partners.iter().map(Vec::is_empty).collect::<Array1<bool>>());
        let there: Vec<usize> = (0..partners.len()).filter(|i| !lacking[*i]).collect();
        if there.is_empty() {
            cells.push(Vec::new());
            continue;
        }
        let values = rows(&target, donors, &partners)?;
        let into = partners
            .iter()
            .map(|pair| pair.iter().map(|p| p[0]).collect::<Vec<_>>());
        let target = target
            .at_positions(Select::role(&aligned.labels[column], into))
            .at_sequences(there);
        cells.push(vec![Intervention::new(target, Edit::Patch(values))]);
    }
    Ok((cells, lacking))
}

/// What each donor has at the partners: `[pos, ...]`, the target's heads only.
fn rows(
    target: &Target,
    donors: &[ActivationCache],
    partners: &[Vec<[usize; 2]>],
) -> Result<Values> {
    let of = |(donor, pair): (&ActivationCache, &Vec<[usize; 2]>)| {
        let from: Vec<usize> = pair.iter().map(|p| p[1]).collect();
        let rows = donor.get(target.point)?.select(Dim(0), &from);
        Ok(match target.heads.fixed(0) {
            Some(heads) => rows.select(Dim(1), &heads),
            None => rows,
        })
    };
    let arrays = donors.iter().zip(partners).map(of);
    Ok(Values::arrays(
        arrays.collect::<Result<Vec<ArrayD<f32>>>>()?,
    ))
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
