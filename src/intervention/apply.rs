//! Interventions at work: the hook that applies them.

use std::borrow::Cow;

use ndarray::{ArrayViewMut1, ArrayViewMutD, Axis};
use ndarray_rand::rand::SeedableRng;
use ndarray_rand::rand_distr::{Distribution, StandardNormal};
use rand_chacha::ChaCha8Rng;

use super::values::Fitted;
use super::{Edit, Fired, Intervention, Receipt, Row, Select};
use crate::error::Result;
use crate::hook::{Axes, HookPoint, Site};
use crate::model::{BlockedRows, Footprint, Hooks, RunShape, Visit};

/// A list of interventions as a hook; they run in the order of the list at each point.
#[derive(Clone, Debug)]
pub struct Interventions<'a> {
    list: Cow<'a, [Intervention]>,
    counts: Vec<Count>,
    sequences: usize,
    blocked: BlockedRows,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    times: usize,
    rows: usize,
    changed: usize,
}

impl<'a> Interventions<'a> {
    /// The hook for a list.
    pub fn new(list: impl Into<Cow<'a, [Intervention]>>) -> Self {
        let list = list.into();
        Interventions {
            counts: vec![Count::default(); list.len()],
            list,
            sequences: 0,
            blocked: BlockedRows::default(),
        }
    }

    /// What has been done so far.
    pub fn receipt(&self) -> Receipt {
        let entry = |(intervention, count): (&Intervention, &Count)| Fired {
            target: intervention.target.to_string(),
            edit: intervention.edit.name().to_string(),
            times: count.times,
            rows: count.rows,
            changed_rows: count.changed,
        };
        Receipt {
            fired: self.list.iter().zip(&self.counts).map(entry).collect(),
            blocked: self.blocked,
        }
    }
}

impl Hooks for Interventions<'_> {
    fn wants(&self, at: HookPoint, sequence: usize) -> bool {
        self.list
            .iter()
            .any(|i| acts(i, at, sequence, self.sequences))
    }

    fn visit(&mut self, at: &Visit<'_>, mut activation: ArrayViewMutD<'_, f32>) {
        let sequences = self.sequences;
        for (intervention, count) in self.list.iter().zip(&mut self.counts) {
            if acts(intervention, at.point, at.sequence, sequences) {
                apply(intervention, at, activation.view_mut(), count);
            }
        }
    }

    fn begin(&mut self, run: &RunShape<'_>) -> Result<()> {
        self.sequences = run.lengths.len();
        self.list.iter().try_for_each(|i| i.check(run))
    }

    fn blocked(&mut self, rows: &BlockedRows) {
        self.blocked.extend(*rows);
    }

    fn footprint(&self, at: HookPoint, sequence: usize) -> Footprint {
        let here = |i: &&Intervention| acts(i, at, sequence, self.sequences);
        footprint(sequence, self.list.iter().filter(here))
    }
}

fn acts(intervention: &Intervention, at: HookPoint, sequence: usize, sequences: usize) -> bool {
    let target = &intervention.target;
    target.point == at && target.takes(sequence, sequences)
}

/// The union of the targets' footprints in a sequence.
pub(crate) fn footprint<'i>(
    sequence: usize,
    interventions: impl Iterator<Item = &'i Intervention>,
) -> Footprint {
    let mut union: Option<Footprint> = None;
    for Intervention { target, .. } in interventions {
        // Positions from the end are known only with the length; all of them are no error.
        let (positions, heads) = (
            target.positions.fixed(sequence),
            target.heads.fixed(sequence),
        );
        union = Some(match union {
            None => Footprint { positions, heads },
            Some(before) => Footprint {
                positions: both(before.positions, positions),
                heads: both(before.heads, heads),
            },
        });
    }
    let mut union = union.unwrap_or_default();
    for list in [&mut union.positions, &mut union.heads]
        .into_iter()
        .flatten()
    {
        list.sort_unstable();
        list.dedup();
    }
    union
}

fn both(a: Option<Vec<usize>>, b: Option<Vec<usize>>) -> Option<Vec<usize>> {
    Some([a?, b?].concat())
}

/// Applies one intervention to the rows shown; `count` takes note.
fn apply(
    intervention: &Intervention,
    at: &Visit<'_>,
    activation: ArrayViewMutD<'_, f32>,
    count: &mut Count,
) {
    let rows = count.rows;
    let Intervention { target, edit } = intervention;
    match edit.values() {
        Some(values) => values.with_fitted(target, at.sequence, &at.shape, |values| {
            edit_rows(intervention, at, activation, Some(values), count);
        }),
        None => edit_rows(intervention, at, activation, None, count),
    }
    // Not where the rows shown are all others: those of a later step of generation, say.
    count.times += usize::from(count.rows > rows);
}

/// As in a run, without a receipt.
pub(crate) fn apply_unreported(
    intervention: &Intervention,
    at: &Visit<'_>,
    activation: ArrayViewMutD<'_, f32>,
) {
    apply(intervention, at, activation, &mut Count::default());
}

fn edit_rows(
    intervention: &Intervention,
    at: &Visit<'_>,
    mut activation: ArrayViewMutD<'_, f32>,
    values: Option<&Fitted<'_>>,
    count: &mut Count,
) {
    let target = &intervention.target;
    let heads: &[usize] = if at.heads.is_empty() { &[0] } else { at.heads };
    // Of the whole activation: fewer may be shown.
    let n_heads = match at.point.axes() {
        Axes::Attention => at.shape[0],
        axes if axes.has_heads() => at.shape[1],
        _ => 1,
    };
    let width = at.shape.last().copied().unwrap_or(0);
    let named = target.along_rows();
    let columns = (*named != Select::All).then(|| named.resolve(at.sequence, width));
    let mut before = Vec::new();
    for (i, &position) in at.positions.iter().enumerate() {
        if !target.positions.contains(at.sequence, position, at.length) {
            continue;
        }
        for (j, &head) in heads.iter().enumerate() {
            if !target.heads.contains(at.sequence, head, n_heads) {
                continue;
            }
            let place = Row {
                point: at.point,
                sequence: at.sequence,
                position,
                head: (!at.heads.is_empty()).then_some(head),
            };
            let mut row = row_mut(activation.view_mut(), at.point.axes(), i, j);
            before.clear();
            before.extend(row.iter().copied());
            let mut new = edited(&intervention.edit, place, &before, values);
            if let Some(subspace) = &target.subspace {
                subspace.limit(&before, &mut new);
            }
            match &columns {
                None => row.iter_mut().zip(new).for_each(|(to, v)| *to = v),
                Some(columns) => columns.iter().for_each(|i| row[*i] = new[*i]),
            }
            count.rows += 1;
            // Behind the mask, a scaled weight may be −0: which rows have such depends on how many
            // tokens there are so far, and nothing else does.
            let same = |a: f32, b: f32| match at.point {
                HookPoint::Block(_, Site::Pattern) if a == b => true,
                _ => a.to_bits() == b.to_bits(),
            };
            let differs = |(a, b): (&f32, &f32)| !same(*a, *b);
            count.changed += usize::from(before.iter().zip(row.iter()).any(differs));
        }
    }
}

fn row_mut(
    x: ArrayViewMutD<'_, f32>,
    axes: Axes,
    position: usize,
    head: usize,
) -> ArrayViewMut1<'_, f32> {
    let x = match axes {
        Axes::Attention => x
            .index_axis_move(Axis(0), head)
            .index_axis_move(Axis(0), position),
        Axes::Head | Axes::HeadModel => x
            .index_axis_move(Axis(0), position)
            .index_axis_move(Axis(0), head),
        _ => x.index_axis_move(Axis(0), position),
    };
    let n = x.len();
    x.into_shape_with_order(n)
        .expect("the axes other than the last one have been taken")
}

/// What an edit makes of one row, whose values were `before`.
fn edited(edit: &Edit, place: Row, before: &[f32], values: Option<&Fitted<'_>>) -> Vec<f32> {
    let n = before.len();
    let values = values.map(|values| values.row(place));
    match (edit, values) {
        (Edit::Add(_), Some(values)) => before.iter().zip(values).map(|(a, b)| a + b).collect(),
        // `Set`, `Patch` and their like: the values themselves.
        (_, Some(values)) => values,
        (Edit::Scale(factor), None) => before.iter().map(|v| v * factor).collect(),
        (Edit::Noise { std, seed }, None) => {
            let noise = noise_row(*seed, place, n);
            before
                .iter()
                .zip(noise)
                .map(|(v, noise)| v + std * noise)
                .collect()
        }
        (Edit::Map(f), None) => {
            let mut new = before.to_vec();
            f(place, &mut new);
            new
        }
        (_, None) => vec![0.0; n],
    }
}

/// Standard normal noise of one row.
pub(crate) fn noise_row(seed: u64, place: Row, n: usize) -> impl Iterator<Item = f32> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let head = place.head.map_or(0, |head| head as u64 + 1);
    generator.set_stream((place.position as u64) << 16 | head);
    (0..n).map(move |_| StandardNormal.sample(&mut generator))
}
