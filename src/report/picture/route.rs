//! Lines from box to box that go around the boxes between.

use std::collections::BTreeMap;

type Point = (f64, f64);

/// Where a box lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boxed {
    pub left: i32,
    pub right: i32,
    pub top: i32,
    pub bottom: i32,
    /// The room on either side, which is free of other boxes of its row.
    pub gutter: i32,
}

/// The least distance of a line from a box that it passes.
const CLEAR: i32 = 5;
/// The least distance of a line's end from a corner.
const CORNER: i32 = 6;

impl Boxed {
    pub(super) fn width(self) -> i32 {
        self.right - self.left
    }

    /// The nearest place to `x` at which a line may leave or enter.
    fn nearest(self, x: f64) -> f64 {
        x.clamp(
            f64::from(self.left + CORNER),
            f64::from(self.right - CORNER),
        )
    }

    fn middle(self) -> f64 {
        f64::from(self.left + self.right) / 2.0
    }

    /// Whether a line from `a` to `b` at the height of the box would come too near.
    fn blocks(self, a: f64, b: f64) -> bool {
        let (left, right) = (f64::from(self.left - CLEAR), f64::from(self.right + CLEAR));
        a.max(b) > left && a.min(b) < right
    }

    /// Where a line that would cross the box at `x` passes it instead: in a lane of the nearer
    /// gutter.
    fn detour(self, x: f64, lane: usize) -> f64 {
        // Multiples of the golden ratio: lanes of neighbours in order lie apart.
        let part = (lane as f64 * 0.618_034).fract();
        let lane = f64::from(CLEAR) + part * f64::from(self.gutter - 2 * CLEAR);
        if x < self.middle() {
            f64::from(self.left) - lane
        } else {
            f64::from(self.right) + lane
        }
    }
}

/// The points of a line from the bottom of one box to the top of another in a later row, `end` of
/// the way along it, or where it is nearest. It crosses no other box: it passes each row between
/// where a straight line would, or beside the box that stands there.
pub(super) fn route(
    boxes: &[Boxed],
    (from, to): (usize, usize),
    end: Option<f64>,
    lane: usize,
) -> Vec<(i32, i32)> {
    let (from, to) = (boxes[from], boxes[to]);
    let end = end.map_or(to.nearest(from.middle()), |part| {
        f64::from(to.left) + part * f64::from(to.width())
    });
    let end = (end, f64::from(to.top));
    let mut at = (from.nearest(end.0), f64::from(from.bottom));
    let mut points = vec![at];
    let rows = rows_between(boxes, from, to);
    for row in &rows {
        let [top, bottom] = [row[0].top, row[0].bottom].map(f64::from);
        let [upper, lower] = [top, bottom].map(|y| straight(at, end, y));
        let [upper, lower] = if row.iter().any(|b| b.blocks(upper, lower)) {
            let middle = (upper + lower) / 2.0;
            let blocked = row.iter().find(|b| b.blocks(middle, middle));
            [blocked.map_or(middle, |b| b.detour(middle, lane)); 2]
        } else {
            [upper, lower]
        };
        points.extend([(upper, top), (lower, bottom)]);
        at = (lower, bottom);
    }
    points.push(end);
    let round = |(x, y): Point| (x.round() as i32, y.round() as i32);
    tightened(&points, &rows).into_iter().map(round).collect()
}

/// The boxes of each row between two, from top to bottom.
fn rows_between(boxes: &[Boxed], from: Boxed, to: Boxed) -> Vec<Vec<Boxed>> {
    let mut rows: BTreeMap<i32, Vec<Boxed>> = BTreeMap::new();
    let between = |b: &&Boxed| b.top > from.bottom && b.bottom < to.top;
    for &one in boxes.iter().filter(between) {
        rows.entry(one.top).or_default().push(one);
    }
    rows.into_values().collect()
}

/// Where a straight line is at a height.
fn straight((ax, ay): Point, (bx, by): Point, y: f64) -> f64 {
    ax + (bx - ax) * (y - ay) / (by - ay)
}

/// The line with as few turns as its boxes allow: from each point straight to the last one that
/// is in sight.
fn tightened(points: &[Point], rows: &[Vec<Boxed>]) -> Vec<Point> {
    let free = |a: Point, b: Point| {
        !rows.iter().flatten().any(|one| {
            let (top, bottom) = (f64::from(one.top).max(a.1), f64::from(one.bottom).min(b.1));
            top < bottom && one.blocks(straight(a, b, top), straight(a, b, bottom))
        })
    };
    let mut line = vec![points[0]];
    let mut i = 0;
    while i + 1 < points.len() {
        let ahead = (i + 2..points.len()).rev();
        let mut in_sight = ahead.filter(|&j| free(points[i], points[j]));
        i = in_sight.next().unwrap_or(i + 1);
        line.push(points[i]);
    }
    line
}
