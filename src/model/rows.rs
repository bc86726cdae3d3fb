//! Rows of several lanes, one after another in one tall matrix.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayViewMut1};

use crate::ops::{Matrix, map_rows, matrix, part, sorted};

/// Which positions of which lanes the rows of a stacked matrix are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layout {
    offsets: Vec<usize>,
    positions: Vec<usize>,
}

impl Layout {
    /// One ascending list of positions per lane.
    pub fn new<'a>(lanes: impl Iterator<Item = &'a [usize]>) -> Arc<Self> {
        let mut map = Layout {
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

    /// The same layout with those rows of another one besides that are within a third.
    pub fn with(self: &Arc<Self>, other: &Arc<Self>, within: &Layout) -> Arc<Self> {
        if Arc::ptr_eq(self, other) {
            return Arc::clone(self);
        }
        let more = |lane: usize| {
            let lacks = move |p: &&usize| self.find(lane, **p).is_none();
            let needed = move |p: &&usize| within.find(lane, **p).is_some();
            other.positions(lane).iter().filter(lacks).filter(needed)
        };
        if (0..self.lanes()).all(|lane| more(lane).next().is_none()) {
            return Arc::clone(self);
        }
        let both = |lane| sorted(self.positions(lane).iter().chain(more(lane)).copied());
        let both: Vec<Vec<usize>> = (0..self.lanes()).map(both).collect();
        Self::new(both.iter().map(|positions| &positions[..]))
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
pub(crate) struct Rows {
    pub layout: Arc<Layout>,
    pub data: Arc<Matrix>,
}

/// Where rows that a pass does not compute come from: for a lane, `[pos, width]` of its base.
pub(crate) trait Fallback<'b>: Fn(usize) -> ArrayView2<'b, f32> {}
impl<'b, F: Fn(usize) -> ArrayView2<'b, f32>> Fallback<'b> for F {}

/// One row of a layout, and where it is in other rows, if it is there.
struct Found {
    row: usize,
    lane: usize,
    position: usize,
    at: Option<usize>,
}

impl Rows {
    pub fn new(layout: &Arc<Layout>, data: impl Into<Matrix>) -> Self {
        let data = data.into();
        debug_assert_eq!(layout.len(), data.nrows());
        Rows {
            layout: Arc::clone(layout),
            data: Arc::new(data),
        }
    }

    pub fn view(&self) -> ArrayView2<'_, f32> {
        self.data.view()
    }

    /// The rows of one lane.
    pub fn lane(&self, lane: usize) -> ArrayView2<'_, f32> {
        part(self.data.view(), 0, self.layout.range(lane))
    }

    /// Whether these are the rows of a layout, no more and no less.
    fn are(&self, layout: &Arc<Layout>) -> bool {
        Arc::ptr_eq(&self.layout, layout) || *self.layout == **layout
    }

    /// Only these rows.
    ///
    /// # Panics
    /// If one of them is not among the rows at hand.
    pub fn subset(&self, layout: &Arc<Layout>) -> Rows {
        if self.are(layout) {
            return self.clone();
        }
        let mut data = matrix((layout.len(), self.data.ncols()));
        self.find_all(layout, |found| {
            let from = found.at.expect("a subset's rows are among those at hand");
            data.row_mut(found.row).assign(&self.data.row(from));
        });
        Rows::new(layout, data)
    }

    /// The rows of a layout: those at hand, the others completed from the base.
    pub fn completed<'b>(self, layout: &Arc<Layout>, base: impl Fallback<'b>) -> Rows {
        if self.are(layout) {
            return self;
        }
        let mut data = matrix((layout.len(), self.data.ncols()));
        self.find_all(layout, |found| {
            let mut to = data.row_mut(found.row);
            match found.at {
                Some(from) => to.assign(&self.data.row(from)),
                None => to.assign(&base(found.lane).row(found.position)),
            }
        });
        Rows::new(layout, data)
    }

    /// The sum with other rows, of which those that are missing are the base's.
    pub fn plus<'b>(self, other: &Rows, base: impl Fallback<'b>) -> Rows {
        let layout = self.layout;
        if other.are(&layout) {
            let data = map_rows(self.data, |i, to| {
                let mut to = ArrayViewMut1::from(to);
                to += &other.data.row(i);
            });
            return Rows::new(&layout, data);
        }
        let mut data = Arc::unwrap_or_clone(self.data);
        other.find_all(&layout, |found| {
            let mut to = data.row_mut(found.row);
            match found.at {
                Some(from) => to += &other.data.row(from),
                None => to += &base(found.lane).row(found.position),
            }
        });
        Rows::new(&layout, data)
    }

    /// Looks up each row of a layout among these, which are in the same order.
    fn find_all(&self, layout: &Layout, mut each: impl FnMut(Found)) {
        for lane in 0..layout.lanes() {
            let have = self.layout.positions(lane);
            let first = self.layout.range(lane).start;
            let mut next = 0;
            for (row, &position) in layout.range(lane).zip(layout.positions(lane)) {
                while have.get(next).is_some_and(|p| *p < position) {
                    next += 1;
                }
                let at = (have.get(next) == Some(&position)).then_some(first + next);
                each(Found {
                    row,
                    lane,
                    position,
                    at,
                });
            }
        }
    }
}
