//! Rows of several lanes, one after another in one tall matrix.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayViewMut1};

use crate::ops::{Matrix, map_rows, matrix, part};

/// Which positions of which lanes the rows of a matrix are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Layout {
    offsets: Vec<usize>,
    positions: Vec<usize>,
}

impl Layout {
    /// One ascending list of positions per lane.
    pub fn new<'a>(lanes: impl Iterator<Item = &'a [usize]>) -> Arc<Self> {
        let mut layout = Layout {
            offsets: vec![0],
            positions: Vec::new(),
        };
        for positions in lanes {
            layout.positions.extend_from_slice(positions);
            layout.offsets.push(layout.positions.len());
        }
        Arc::new(layout)
    }

    /// The same layout without the rows of other lanes than these.
    pub fn of_lanes(&self, lanes: &[usize]) -> Arc<Self> {
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

    /// The rows of a lane.
    pub fn range(&self, lane: usize) -> Range<usize> {
        self.offsets[lane]..self.offsets[lane + 1]
    }

    /// The positions of a lane's rows.
    pub fn positions(&self, lane: usize) -> &[usize] {
        &self.positions[self.range(lane)]
    }

    /// The row of a lane's position, if it is there.
    pub fn find(&self, lane: usize, position: usize) -> Option<usize> {
        let range = self.range(lane);
        let found = self.positions[range.clone()].binary_search(&position);
        found.ok().map(|i| range.start + i)
    }

    /// Calls `f(row of wanted, lane, position, row here)` for each row of another layout of the
    /// same lanes; the last one is `None` for a row that is not here.
    fn matched(&self, wanted: &Layout, mut f: impl FnMut(usize, usize, usize, Option<usize>)) {
        for lane in 0..wanted.lanes() {
            let have = self.positions(lane);
            let first = self.range(lane).start;
            let mut next = 0;
            for (row, &position) in wanted.range(lane).zip(wanted.positions(lane)) {
                while have.get(next).is_some_and(|p| *p < position) {
                    next += 1;
                }
                let found = have.get(next) == Some(&position);
                f(row, lane, position, found.then_some(first + next));
            }
        }
    }
}

/// The values of some rows of all lanes at one place in the model, `[row, width]`. Clones share
/// their memory.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub layout: Arc<Layout>,
    pub data: Arc<Matrix>,
}

/// Where rows that a pass does not compute come from: for a lane, `[pos, width]` of its base.
pub(crate) trait Fallback<'b>: Fn(usize) -> ArrayView2<'b, f32> {}
impl<'b, F: Fn(usize) -> ArrayView2<'b, f32>> Fallback<'b> for F {}

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

    /// Only these of the rows at hand. Nothing is copied if these are all.
    ///
    /// # Panics
    /// If one of them is not at hand.
    pub fn only(self, layout: &Arc<Layout>) -> Self {
        if *self.layout == **layout {
            return self;
        }
        let mut data = matrix((layout.len(), self.data.ncols()));
        self.layout.matched(layout, |row, lane, position, have| {
            let have =
                have.unwrap_or_else(|| panic!("lane {lane} has no row of position {position}"));
            data.row_mut(row).assign(&self.data.row(have));
        });
        Rows::new(layout, data)
    }

    /// The values at other rows: those at hand, completed from the base. Rows that are not asked
    /// for are left out. Nothing is copied if just these are at hand.
    pub fn completed<'b>(self, layout: &Arc<Layout>, base: impl Fallback<'b>) -> Self {
        if *self.layout == **layout {
            return self;
        }
        let mut data = matrix((layout.len(), self.data.ncols()));
        self.layout.matched(layout, |row, lane, position, have| {
            let mut to = data.row_mut(row);
            match have {
                Some(have) => to.assign(&self.data.row(have)),
                None => to.assign(&base(lane).row(position)),
            }
        });
        Rows::new(layout, data)
    }

    /// The sum with other values of the same rows.
    pub fn plus(self, other: &Rows) -> Self {
        assert_eq!(self.layout, other.layout, "rows of a sum");
        let data = map_rows(self.data, |i, to| {
            let mut to = ArrayViewMut1::from(to);
            to += &other.data.row(i);
        });
        Rows::new(&self.layout, data)
    }

    /// The sum with other values on the rows of `layout`. A row that only one of the two has is
    /// added to the base's of the other; one that both lack is the base's sum. `bases` are those
    /// of this, of the other and of the sum.
    pub fn plus_completed<'b>(
        self,
        other: &Rows,
        layout: &Arc<Layout>,
        bases: [impl Fallback<'b>; 3],
    ) -> Self {
        if self.layout == other.layout && *self.layout == **layout {
            return self.plus(other);
        }
        let [base, base_of_other, base_of_sum] = bases;
        let mut others = Vec::with_capacity(layout.len());
        other
            .layout
            .matched(layout, |_, _, _, have| others.push(have));
        let here = Arc::clone(&self.layout);
        let mut sum = if *here == **layout {
            Arc::unwrap_or_clone(self.data)
        } else {
            let mut data = matrix((layout.len(), self.data.ncols()));
            here.matched(layout, |row, lane, position, have| {
                let mut to = data.row_mut(row);
                match (have, others[row]) {
                    (Some(have), _) => to.assign(&self.data.row(have)),
                    (None, Some(_)) => to.assign(&base(lane).row(position)),
                    (None, None) => to.assign(&base_of_sum(lane).row(position)),
                }
            });
            data.into()
        };
        here.matched(layout, |row, lane, position, have| {
            let mut to = sum.row_mut(row);
            match (have, others[row]) {
                (_, Some(from)) => to += &other.data.row(from),
                (Some(_), None) => to += &base_of_other(lane).row(position),
                (None, None) => {}
            }
        });
        Rows::new(layout, sum)
    }
}
