//! A cell of the picture: bands of colour that share its height as they share its data, the oldest layer at the bottom.
//!
//! The fuller a cell, the higher it is painted, but never less than [`LOWEST`]: to scale, the few sectors that are written of
//! most cells could not be seen.

use crate::report::map::CellReport;

/// How many bands a cell has at most: more could not be told apart.
const MOST_BANDS: usize = 6;

/// How high a cell is painted that has anything in it, in hundredths.
const LOWEST: u64 = 40;

/// How high a band is at least, in hundredths of the cell.
const LEAST: u64 = 14;

/// What a band is painted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// The colour of this layer.
    Layer(usize),
    /// What preallocated room is painted with.
    Unwritten,
}

/// The bands of a cell, from the bottom up: what with, and how high in hundredths of the cell. What is left above them
/// stands for the hole.
pub fn stack(cell: &CellReport) -> Vec<(Paint, u64)> {
    let data = cell.layers.iter().rev().filter(|share| share.data_bytes > 0);
    let mut bands: Vec<_> = data.map(|share| (Paint::Layer(share.layer), share.data_bytes)).collect();
    let unwritten: u64 = cell.layers.iter().map(|share| share.unwritten_bytes).sum();
    bands.extend((unwritten > 0).then_some((Paint::Unwritten, unwritten)));
    drop_smallest(&mut bands);
    let Some(largest) = (0..bands.len()).max_by_key(|&i| bands[i].1) else { return bands };
    let served = cell.len_bytes() - cell.hole_bytes;
    let total = LOWEST + part(100 - LOWEST, served, cell.len_bytes());
    for (_, bytes) in &mut bands {
        *bytes = part(total, *bytes, served).max(LEAST);
    }
    // The largest band makes up for what the small ones have too much, and for what rounding has left.
    let others: u64 = (0..bands.len()).filter(|&i| i != largest).map(|i| bands[i].1).sum();
    bands[largest].1 = total.saturating_sub(others).max(LEAST);
    bands
}

/// The part of `height` that `bytes` of `all` take, rounded down.
fn part(height: u64, bytes: u64, all: u64) -> u64 {
    let part = u128::from(height) * u128::from(bytes) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(height)
}

/// Leaves the largest bands, in their order; what the others have goes to the largest.
fn drop_smallest(bands: &mut Vec<(Paint, u64)>) {
    while bands.len() > MOST_BANDS {
        let Some(smallest) = (0..bands.len()).min_by_key(|&i| bands[i].1) else { return };
        let (_, bytes) = bands.remove(smallest);
        if let Some(largest) = bands.iter_mut().max_by_key(|band| band.1) {
            largest.1 += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::map::ShareReport;

    fn cell(len: u64, data: &[u64], unwritten_bytes: u64) -> CellReport {
        // The newest first, as reports have it; the oldest has the highest place.
        let mut layers: Vec<_> = (0usize..)
            .zip(data)
            .map(|(layer, &data_bytes)| ShareReport { layer, data_bytes, unwritten_bytes: 0 })
            .collect();
        layers.extend((unwritten_bytes > 0).then_some(ShareReport {
            layer: 9,
            data_bytes: 0,
            unwritten_bytes,
        }));
        let served: u64 = data.iter().sum::<u64>() + unwritten_bytes;
        CellReport { start_bytes: 0, end_bytes: len, hole_bytes: len - served, layers, findings: vec![] }
    }

    #[test]
    fn the_oldest_is_at_the_bottom_and_a_little_is_seen() {
        assert_eq!(stack(&cell(1000, &[], 0)), []);
        assert_eq!(stack(&cell(1000, &[1], 0)), [(Paint::Layer(0), LOWEST)]);
        assert_eq!(
            stack(&cell(1000, &[1, 999], 0)),
            [(Paint::Layer(1), 100 - LEAST), (Paint::Layer(0), LEAST)]
        );
        assert_eq!(stack(&cell(400, &[100], 100)), [(Paint::Layer(0), 35), (Paint::Unwritten, 35)]);
    }

    #[test]
    fn bands_never_overflow_and_a_full_cell_is_full() {
        for count in 1..40u64 {
            let shares = vec![10; usize::try_from(count).unwrap()];
            for hole in [0, 1, 1000] {
                let stack = stack(&cell(count * 10 + hole, &shares, 0));
                let height: u64 = stack.iter().map(|(_, height)| height).sum();
                assert!(stack.len() <= MOST_BANDS && height <= 100, "{count} {hole} {stack:?}");
                assert!(hole > 0 || height == 100, "{count} {stack:?}");
            }
        }
    }
}
