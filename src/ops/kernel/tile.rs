//! A tile of a product: some rows times some columns, summed in registers.

use std::ops::Range;

use prefetch_index::prefetch_index;
use pulp::Simd;

use super::buffers::{CHAIN, VECTOR};

/// Steps of a chain from one cache line [`Ahead`] to the next.
pub(super) const STEPS: usize = 4;

/// Blocks of [`STEPS`] steps from where columns are asked for to where they are read.
const SOON: usize = 4;

/// Where a tile's chain goes.
pub(super) struct Sums<'a> {
    /// Whether it is added to what is there, or put there.
    pub add: bool,
    /// `[row, column]`
    pub to: &'a mut [f32],
}

impl Sums<'_> {
    #[inline(always)]
    fn finish<S: Simd, const R: usize, const V: usize>(self, simd: S, acc: [[S::f32s; V]; R]) {
        let (to, _) = S::as_mut_simd_f32s(self.to);
        for (to, acc) in to.chunks_exact_mut(V).zip(acc) {
            for (to, v) in to.iter_mut().zip(acc) {
                *to = if self.add { simd.add_f32s(v, *to) } else { v };
            }
        }
    }
}

/// Part of a matrix that is read after this: a cache line every [`STEPS`] steps is asked for, so
/// that it comes from memory while sums are made.
#[derive(Clone)]
pub(super) struct Ahead<'a> {
    rows: &'a [&'a [f32]],
    columns: Range<usize>,
    row: usize,
    /// In the row's part.
    line: usize,
}

impl<'a> Ahead<'a> {
    pub fn new(rows: &'a [&'a [f32]], columns: Range<usize>) -> Self {
        Ahead {
            rows: if columns.is_empty() { &[] } else { rows },
            columns,
            row: 0,
            line: 0,
        }
    }

    fn lines(&self) -> usize {
        self.columns.len().div_ceil(VECTOR)
    }

    /// What comes after so many chains.
    pub fn after(&self, chains: usize) -> Self {
        let line = self.line + chains * (CHAIN / STEPS);
        let lines = self.lines().max(1);
        Ahead {
            row: self.row + line / lines,
            line: line % lines,
            ..self.clone()
        }
    }

    #[inline(always)]
    fn next(&mut self) {
        if let Some(row) = self.rows.get(self.row) {
            prefetch_index(row, self.columns.start + self.line * VECTOR);
            self.line += 1;
            if self.line == self.lines() {
                self.line = 0;
                self.row += 1;
            }
        }
    }
}

/// The elements of `R` rows in some steps.
trait Factors<const R: usize>: Copy {
    fn at(self, step: usize, row: usize) -> f32;
}

/// `[step, row]`
impl<const R: usize> Factors<R> for &[[f32; R]; STEPS] {
    #[inline(always)]
    fn at(self, step: usize, row: usize) -> f32 {
        self[step][row]
    }
}

/// `[row]`, of one step.
impl<const R: usize> Factors<R> for &[f32; R] {
    #[inline(always)]
    fn at(self, _: usize, row: usize) -> f32 {
        self[row]
    }
}

/// `[row, step]`
impl<const R: usize> Factors<R> for [&[f32; STEPS]; R] {
    #[inline(always)]
    fn at(self, step: usize, row: usize) -> f32 {
        self[row][step]
    }
}

/// One chain of some rows that lie side by side, `[in, row]`, times a panel `[in, column]`.
#[inline(always)]
pub(super) fn interleaved<S: Simd, const V: usize>(
    simd: S,
    count: usize,
    rows: &[f32],
    panel: &[f32],
    sums: Sums<'_>,
    ahead: Ahead<'_>,
) {
    match count {
        1 => side_by_side::<S, 1, V>(simd, rows, panel, sums, ahead),
        2 => side_by_side::<S, 2, V>(simd, rows, panel, sums, ahead),
        3 => side_by_side::<S, 3, V>(simd, rows, panel, sums, ahead),
        4 => side_by_side::<S, 4, V>(simd, rows, panel, sums, ahead),
        5 => side_by_side::<S, 5, V>(simd, rows, panel, sums, ahead),
        6 => side_by_side::<S, 6, V>(simd, rows, panel, sums, ahead),
        7 => side_by_side::<S, 7, V>(simd, rows, panel, sums, ahead),
        8 => side_by_side::<S, 8, V>(simd, rows, panel, sums, ahead),
        9 => side_by_side::<S, 9, V>(simd, rows, panel, sums, ahead),
        10 => side_by_side::<S, 10, V>(simd, rows, panel, sums, ahead),
        11 => side_by_side::<S, 11, V>(simd, rows, panel, sums, ahead),
        _ => side_by_side::<S, 12, V>(simd, rows, panel, sums, ahead),
    }
}

#[inline(always)]
fn side_by_side<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[f32],
    panel: &[f32],
    sums: Sums<'_>,
    ahead: Ahead<'_>,
) {
    let (steps, _) = rows.as_chunks::<R>();
    let (blocks, rest) = steps.as_chunks::<STEPS>();
    let mut last = [[0.0; R]; STEPS];
    last[..rest.len()].copy_from_slice(rest);
    tile::<S, R, V>(simd, blocks.iter(), &last, panel, sums, ahead);
}

/// The columns of a panel where they lie in a matrix, and the panel that they are copied into.
pub(super) struct Columns<'a> {
    /// `[in, column]`
    pub rows: &'a [&'a [f32]],
    pub first: usize,
    /// `[in, column]`
    pub panel: &'a mut [f32],
}

/// Asks for some columns in a few rows, which will be read soon; what comes after the last row is
/// the first rows' next columns.
#[inline(always)]
fn ask_for(rows: &[&[f32]], first: usize, columns: Range<usize>) {
    let (first, skipped) = match first.checked_sub(rows.len()) {
        None => (first, 0),
        Some(first) => (first, columns.len()),
    };
    for row in rows.iter().skip(first).take(STEPS) {
        prefetch_index(row, columns.start + skipped);
        prefetch_index(row, columns.end - 1 + skipped);
    }
}

/// The same for the rows of a whole tile, times columns that are copied into the panel meanwhile.
#[inline(always)]
pub(super) fn packing<S: Simd>(
    simd: S,
    rows: &[f32],
    columns: Columns<'_>,
    sums: Sums<'_>,
    ahead: Ahead<'_>,
) {
    if S::F32_LANES == VECTOR {
        pack_and_multiply::<S, 12>(simd, rows, columns, sums, ahead);
    } else {
        pack_and_multiply::<S, 6>(simd, rows, columns, sums, ahead);
    }
}

#[inline(always)]
fn pack_and_multiply<S: Simd, const R: usize>(
    simd: S,
    rows: &[f32],
    columns: Columns<'_>,
    sums: Sums<'_>,
    mut ahead: Ahead<'_>,
) {
    const V: usize = 2;
    let (factors, _) = rows.as_chunks::<R>();
    let Columns {
        rows: w,
        first,
        panel,
    } = columns;
    let (panel, _) = S::as_mut_simd_f32s(panel);
    let columns = first..first + V * S::F32_LANES;
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    let steps = w.chunks(STEPS).zip(factors.chunks(STEPS));
    for (i, ((rows, factors), panel)) in steps.zip(panel.chunks_mut(V * STEPS)).enumerate() {
        ahead.next();
        ask_for(w, STEPS * (i + SOON), columns.clone());
        for ((row, factors), to) in rows.iter().zip(factors).zip(panel.chunks_exact_mut(V)) {
            let (b, _) = S::as_simd_f32s(&row[columns.clone()]);
            to.copy_from_slice(b);
            multiply_add(simd, factors, 0, b, &mut acc);
        }
    }
    sums.finish(simd, acc);
}

/// One chain of up to five rows times a panel `[in, column]`.
#[inline(always)]
pub(super) fn apart<S: Simd, const V: usize>(
    simd: S,
    rows: &[&[f32]],
    panel: &[f32],
    sums: Sums<'_>,
    ahead: Ahead<'_>,
) {
    match rows.len() {
        1 => one_by_one::<S, 1, V>(simd, rows, panel, sums, ahead),
        2 => one_by_one::<S, 2, V>(simd, rows, panel, sums, ahead),
        3 => one_by_one::<S, 3, V>(simd, rows, panel, sums, ahead),
        4 => one_by_one::<S, 4, V>(simd, rows, panel, sums, ahead),
        _ => one_by_one::<S, 5, V>(simd, rows, panel, sums, ahead),
    }
}

#[inline(always)]
fn one_by_one<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: &[&[f32]],
    panel: &[f32],
    sums: Sums<'_>,
    ahead: Ahead<'_>,
) {
    let length = panel.len() / (V * S::F32_LANES);
    let rows: [(&[[f32; STEPS]], &[f32]); R] =
        std::array::from_fn(|r| rows[r][..length].as_chunks());
    let blocks = length / STEPS;
    let whole: [&[[f32; STEPS]]; R] = rows.map(|(whole, _)| &whole[..blocks]);
    let blocks = (0..blocks).map(|block| std::array::from_fn::<_, R, _>(|r| &whole[r][block]));
    let mut last = [[0.0; STEPS]; R];
    for (last, (_, rest)) in last.iter_mut().zip(rows) {
        last[..rest.len()].copy_from_slice(rest);
    }
    tile::<S, R, V>(simd, blocks, last.each_ref(), panel, sums, ahead);
}

/// `blocks` of factors, and `last` for the panel's steps that do not make a block.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    blocks: impl Iterator<Item: Factors<R>>,
    last: impl Factors<R>,
    panel: &[f32],
    sums: Sums<'_>,
    mut ahead: Ahead<'_>,
) {
    let (panel, _) = S::as_simd_f32s(panel);
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    let mut panels = panel.chunks_exact(V * STEPS);
    for (factors, panel) in blocks.zip(&mut panels) {
        ahead.next();
        for (step, b) in panel.chunks_exact(V).enumerate() {
            multiply_add(simd, factors, step, b, &mut acc);
        }
    }
    for (step, b) in panels.remainder().chunks_exact(V).enumerate() {
        multiply_add(simd, last, step, b, &mut acc);
    }
    sums.finish(simd, acc);
}

/// One step of all chains.
#[inline(always)]
fn multiply_add<S: Simd, const R: usize, const V: usize>(
    simd: S,
    factors: impl Factors<R>,
    step: usize,
    b: &[S::f32s],
    acc: &mut [[S::f32s; V]; R],
) {
    let b: [S::f32s; V] = std::array::from_fn(
        #[inline(always)]
        |v| b[v],
    );
    for (row, acc) in acc.iter_mut().enumerate() {
        let factor = simd.splat_f32s(factors.at(step, row));
        for (acc, b) in acc.iter_mut().zip(b) {
            *acc = simd.mul_add_f32s(factor, b, *acc);
        }
    }
}
