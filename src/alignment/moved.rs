//! Activations of one run, put where another one has the partners of their positions.

use ndarray::{Array1, Array2, ArrayD, Axis as Dim};

use super::Aligned;
use crate::cache::ActivationCache;
use crate::error::Result;
use crate::hook::HookPoint;
use crate::intervention::{Edit, Intervention, Target, Values};
use crate::select::Select;
use crate::sweep::Cell;

/// One cell per target, whose positions are a column of the alignment: what the donors have at the
/// partners of the positions that the column has in each pair. Also which pairs lack it,
/// `[cell, pair]`. They go into the first prompts if `into_first`, else the second.
pub(crate) fn patches(
    aligned: &Aligned,
    targets: Vec<Target>,
    donors: &[ActivationCache],
    into_first: bool,
) -> Result<(Vec<Cell>, Array2<bool>)> {
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
        let (from, name) = (target.point, &aligned.labels[column]);
        let target = target.at_sequences(there);
        cells.push(vec![moved(from, target, name, &partners, donors)?]);
    }
    Ok((cells, lacking))
}

/// A patch of what each donor has at a point and at the partners of positions, `[pair][..]`
/// ascending, each with its partner: values in the shape of the target. The positions are called
/// `name`.
pub(crate) fn moved(
    from: HookPoint,
    target: Target,
    name: &str,
    partners: &[Vec<[usize; 2]>],
    donors: &[ActivationCache],
) -> Result<Intervention> {
    let of = |(pair, (donor, partners)): (usize, (&ActivationCache, &Vec<[usize; 2]>))| {
        let positions: Vec<usize> = partners.iter().map(|p| p[1]).collect();
        let rows = donor.get(from)?.select(Dim(0), &positions);
        Ok(part(&target, pair, rows))
    };
    let arrays = donors.iter().zip(partners).enumerate().map(of);
    let values = Values::arrays(arrays.collect::<Result<_>>()?);
    let into = partners
        .iter()
        .map(|pair| pair.iter().map(|p| p[0]).collect::<Vec<_>>());
    let target = target.at_positions(Select::role(name, into));
    Ok(Intervention::new(target, Edit::Patch(values)))
}

/// What a target names of an activation's rows `[pos, ...]` besides positions.
fn part(target: &Target, pair: usize, mut rows: ArrayD<f32>) -> ArrayD<f32> {
    let last = rows.ndim() - 1;
    for (axis, select) in [(1, &target.heads), (last, &target.columns)] {
        if *select != Select::All {
            let named = select.resolve(pair, rows.len_of(Dim(axis)));
            rows = rows.select(Dim(axis), &named);
        }
    }
    rows
}
