//! Rows of several lanes, one after another in one tall matrix.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayViewMut1};

use crate::ops::{Matrix, map_rows, matrix, part};

/// Which positions of which lanes the rows of a stacked matrix are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RowMap {
    offsets: Vec<usize>,
    positions: Vec<usize>,
}

impl RowMap {
    /// One ascending list of positions a lane.
    pub fn new<'a>(lanes: impl Iterator<Item = &'a [usize]>) -> Arc<Self> {
        let mut map = RowMap {
            offsets: vec![0],
            positions: Vec::new(),
        };
        for positions in lanes {
            map.positions.extend_from_slice(positions);
            map.offsets.push(map.positions.len());
        }
        Arc::new(map)
    }

    /// The same map without the rows of other lanes than these.
    pub fn only(&self, lanes: &[usize]) -> Arc<Self> {
        let mut keep = vec![false; self.lanes()];
        lanes.iter().for_each(|lane| keep[*lane] = true);
        let kept = (0..self.lanes()).map(|i| if keep[i] { self.positions(i) } else { &[] });
        Self::new(kept)
    }

    /// Number of rows in all.
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    /// Number of lanes.
    pub fn lanes(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The stacked rows of a lane.
    pub fn range(&self, lane: usize) -> Range<usize> {
        self.offsets[lane]..self.offsets[lane + 1]
    }

    /// The positions of a lane's rows.
    pub fn positions(&self, lane: usize) -> &[usize] {
        &self.positions[self.range(lane)]
    }

    /// The stacked row of a lane's position, if it is there.
    pub fn find(&self, lane: usize, position: usize) -> Option<usize> {
        let range = self.range(lane);
        let found = self.positions[range.clone()].binary_search(&position);
        found.ok().map(|i| range.start + i)
    }
}

/// The values of some rows of all lanes at one place in the model, `[rows, width]`.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub rows: Arc<RowMap>,
    pub data: Arc<Matrix>,
}

/// Where rows that a pass does not compute come from: for a lane, `[pos, width]` of its base.
pub(crate) trait Fallback<'b>: Fn(usize) -> ArrayView2<'b, f32> {}
impl<'b, F: Fn(usize) -> ArrayView2<'b, f32>> Fallback<'b> for F {}

/// Where one stacked row's values are to be taken from.
enum Source {
    Stack(usize),
    Base(usize, usize),
}

impl Stack {
    pub fn new(rows: &Arc<RowMap>, data: impl Into<Matrix>) -> Self {
        let data = data.into();
        debug_assert_eq!(rows.len(), data.nrows());
        Stack {
            rows: Arc::clone(rows),
            data: Arc::new(data),
        }
    }

    pub fn view(&self) -> ArrayView2<'_, f32> {
        self.data.view()
    }

    /// The rows of one lane.
    pub fn lane(&self, lane: usize) -> ArrayView2<'_, f32> {
        part(self.data.view(), 0, self.rows.range(lane))
    }

    /// The values for other rows: those at hand are copied, the rest is taken from the base.
    pub fn with_rows<'b>(&self, rows: &Arc<RowMap>, base: impl Fallback<'b>) -> Stack {
        if *self.rows == **rows {
            return self.clone();
        }
        let mut data = matrix((rows.len(), self.data.ncols()));
        self.for_sources(rows, |row, source| {
            let mut to = data.row_mut(row);
            match source {
                Source::Stack(from) => to.assign(&self.data.row(from)),
                Source::Base(lane, position) => to.assign(&base(lane).row(position)),
            }
        });
        Stack::new(rows, data)
    }

    /// As [`Stack::with_rows`], giving up the original, so that its memory need not be copied.
    pub fn into_rows<'b>(self, rows: &Arc<RowMap>, base: impl Fallback<'b>) -> Stack {
        if *self.rows == **rows {
            return self;
        }
        self.with_rows(rows, base)
    }

    /// The sum with another stack, whose missing rows are the base's.
    pub fn plus<'b>(self, other: &Stack, base: impl Fallback<'b>) -> Stack {
        let rows = self.rows;
        if rows == other.rows {
            let data = map_rows(self.data, |i, to| {
                let mut to = ArrayViewMut1::from(to);
                to += &other.data.row(i);
            });
            return Stack::new(&rows, data);
        }
        let mut data = Arc::unwrap_or_clone(self.data);
        other.for_sources(&rows, |row, source| {
            let mut to = data.row_mut(row);
            match source {
                Source::Stack(from) => to += &other.data.row(from),
                Source::Base(lane, position) => to += &base(lane).row(position),
            }
        });
        Stack::new(&rows, data)
    }

    fn for_sources(&self, rows: &RowMap, mut f: impl FnMut(usize, Source)) {
        for lane in 0..rows.lanes() {
            let have = self.rows.positions(lane);
            let first = self.rows.range(lane).start;
            let mut next = 0;
            for (row, &position) in rows.range(lane).zip(rows.positions(lane)) {
                while have.get(next).is_some_and(|p| *p < position) {
                    next += 1;
                }
                let source = if have.get(next) == Some(&position) {
                    Source::Stack(first + next)
                } else {
                    Source::Base(lane, position)
                };
                f(row, source);
            }
        }
    }
}
