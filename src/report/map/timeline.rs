//! When the layers were made, as points on a line.

use jiff::Timestamp;

use crate::report::inspect::{LayerReport, Place};
use crate::report::map::{MapReport, created};

/// Points closer than this, in thousandths of the line, take turns on two lanes, so that neither hides the other.
const CLOSE: i64 = 18;

/// The layers on a line to scale.
pub struct Timeline {
    /// When the first was made.
    pub first: Timestamp,
    /// When the last was.
    pub last: Timestamp,
    /// The layers whose time is known, the oldest first.
    pub points: Vec<Point>,
}

/// A layer on the line.
pub struct Point {
    /// The layer, as a place among the report's.
    pub layer: usize,
    /// How far from the first to the last, in thousandths.
    pub permille: i64,
    /// On the line (0), raised above another point (1), or below, beside the chain (2, 3).
    pub lane: usize,
}

/// The line; `None` when fewer than two layers have a time.
pub fn timeline(report: &MapReport) -> Option<Timeline> {
    let timed =
        |(place, layer): (usize, &LayerReport)| Some((created(layer)?, place, layer.place == Place::Live));
    let mut layers: Vec<_> = report.replica.layers.iter().enumerate().filter_map(timed).collect();
    layers.sort_by_key(|&(at, place, _)| (at, std::cmp::Reverse(place)));
    let (first, last) = (layers.first()?.0, layers.last()?.0);
    if layers.len() < 2 {
        return None;
    }
    let span = last.as_second().saturating_sub(first.as_second());
    // On the chain, and beside it: where the last point is, and on which lane.
    let mut before = [(-CLOSE, 1); 2];
    let mut points = Vec::new();
    for (number, (at, layer, live)) in (0i64..).zip(&layers) {
        let since = at.as_second().saturating_sub(first.as_second());
        let count = i64::try_from(layers.len() - 1).unwrap_or(i64::MAX);
        // All in one second: in their order, at even distances.
        let permille = if span == 0 { number * 1000 / count } else { since.saturating_mul(1000) / span };
        let (near, lane) = &mut before[usize::from(!*live)];
        *lane = if permille - *near < CLOSE { 1 - *lane } else { 0 };
        *near = permille;
        points.push(Point { layer: *layer, permille, lane: *lane + if *live { 0 } else { 2 } });
    }
    Some(Timeline { first, last, points })
}
