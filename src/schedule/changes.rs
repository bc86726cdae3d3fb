//! Where a lane departs from its base.

use std::collections::BTreeSet;
use std::sync::Arc;

use ndarray::{ArrayD, ArrayView1, Axis};

use super::hooks::LaneHooks;
use crate::cache::ActivationCache;
use crate::config::Config;
use crate::error::Result;
use crate::hook::{Axes, HookPoint};
use crate::model::Visit;
use crate::model::hooks::Sequence;
use crate::model::lane::Change;

/// Positions at which tokens differ.
pub(super) fn differing(tokens: &[u32], base: &[u32]) -> Arc<[usize]> {
    let pairs = tokens.iter().zip(base).enumerate();
    let differs = |(position, (a, b)): (usize, (&u32, &u32))| (a != b).then_some(position);
    pairs.filter_map(differs).collect()
}

/// Where the interventions of a lane change bits of its base's activations.
pub(super) fn changes(
    config: &Config,
    base: &ActivationCache,
    hooks: &LaneHooks<'_>,
) -> Result<Vec<Change>> {
    let mut points: Vec<HookPoint> = hooks.cell.iter().map(|i| i.target.point).collect();
    points.sort_unstable();
    points.dedup();
    let changes = points
        .into_iter()
        .map(|at| change(config, base, hooks, at).transpose());
    changes.flatten().collect()
}

fn change(
    config: &Config,
    base: &ActivationCache,
    hooks: &LaneHooks<'_>,
    at: HookPoint,
) -> Result<Option<Change>> {
    let n = base.tokens().len();
    let mut positions: Vec<usize> = hooks
        .at(at)
        .flat_map(|i| i.target.positions.resolve(hooks.prompt, n))
        .collect();
    positions.sort_unstable();
    positions.dedup();
    let axes = at.axes();
    let heads: Vec<usize> = (0..config.n_heads).collect();
    let of = Sequence {
        index: hooks.prompt,
        length: n,
    };
    let visit = Visit::new(config, at, of, &positions, &heads);
    // The points were kept for this purpose.
    let whole = base.get(at)?;
    let before: ArrayD<f32> = whole.select(Axis(axes.pos_axis()), &positions);
    let mut after = before.clone();
    hooks.apply(&visit, after.view_mut());
    let (rows, heads) = differences(axes, &before, &after);
    Ok((!rows.is_empty()).then(|| Change {
        point: at,
        rows: rows.into_iter().map(|r| positions[r]).collect(),
        heads,
    }))
}

/// Rows and heads (empty without a head axis) at which two activations differ in any bit.
fn differences(axes: Axes, before: &ArrayD<f32>, after: &ArrayD<f32>) -> (Vec<usize>, Vec<usize>) {
    let mut rows = BTreeSet::new();
    let mut heads = BTreeSet::new();
    // The last axis is neither positions nor heads.
    let second = if axes.has_heads() {
        before.shape()[1]
    } else {
        1
    };
    for (i, (a, b)) in before.rows().into_iter().zip(after.rows()).enumerate() {
        if !same_bits(a, b) {
            let index = [i / second, i % second];
            rows.insert(index[axes.pos_axis()]);
            if axes.has_heads() {
                heads.insert(index[1 - axes.pos_axis()]);
            }
        }
    }
    (rows.into_iter().collect(), heads.into_iter().collect())
}

fn same_bits(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> bool {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits();
    match (a.as_slice(), b.as_slice()) {
        (Some(a), Some(b)) => a.iter().zip(b).all(same),
        _ => a.iter().zip(&b).all(same),
    }
}
