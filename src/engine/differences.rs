//! Where two things differ: all of it counted, the first places kept, whichever thread finds what first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::model::units::{ByteRange, SECTOR_BYTES, sector_floor};

/// How many places are named.
pub const NAMED: usize = 8;

/// How many pieces of work are kept that found something: the first ones, which hold the first places.
const KEPT_PIECES: usize = 64;

/// A place where two things differ. `B` says between what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference<B> {
    /// The sectors in which they differ, all of them, or more after them in the last place that is named.
    pub range: ByteRange,
    /// The first byte that differs.
    pub first_bytes: u64,
    /// Between what.
    pub between: B,
}

/// Differences in the making, from several threads.
#[derive(Debug)]
pub struct Differences<B> {
    bytes: AtomicU64,
    pieces: Mutex<BTreeMap<u64, Vec<Difference<B>>>>,
}

impl<B> Default for Differences<B> {
    fn default() -> Self {
        Differences { bytes: AtomicU64::new(0), pieces: Mutex::default() }
    }
}

impl<B: Copy + PartialEq> Differences<B> {
    /// Takes in what was found in the piece of work `index`, in ascending order. Pieces with higher indexes lie behind.
    pub fn add(&self, index: u64, found: Vec<Difference<B>>) {
        if found.is_empty() {
            return;
        }
        let bytes = found.iter().map(|difference| difference.range.len_bytes()).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        pieces.insert(index, found);
        if pieces.len() > KEPT_PIECES {
            pieces.pop_last();
        }
    }

    /// The first places, neighbours joined, and how many bytes differ in all, in whole sectors.
    pub fn finish(self) -> (Vec<Difference<B>>, u64) {
        let pieces = self.pieces.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut named = Vec::new();
        pieces.into_values().flatten().for_each(|difference| join(&mut named, difference));
        named.truncate(NAMED);
        (named, self.bytes.into_inner())
    }
}

/// Appends a place, or makes it a part of the last one if it goes on there.
pub fn join<B: PartialEq>(places: &mut Vec<Difference<B>>, next: Difference<B>) {
    match places.last_mut() {
        Some(last) if last.range.end_bytes == next.range.start_bytes && last.between == next.between => {
            last.range.end_bytes = next.range.end_bytes;
        }
        _ => places.push(next),
    }
}

/// Compares bytes that both lie at `offset_bytes`, and appends the sectors that differ.
pub fn compare<B: Copy + PartialEq>(
    one: &[u8],
    other: &[u8],
    offset_bytes: u64,
    between: B,
    found: &mut Vec<Difference<B>>,
) {
    debug_assert_eq!(one.len(), other.len());
    let (mut one, mut other, mut at) = (one, other, offset_bytes);
    while one != other {
        let to_border = sector_floor(at).saturating_add(SECTOR_BYTES) - at;
        let len = usize::try_from(to_border).unwrap_or(one.len()).min(one.len());
        let (here, there) = (one.split_at(len), other.split_at(len));
        let end = at + len as u64;
        let first = (at..).zip(here.0.iter().zip(there.0)).find_map(|(at, (a, b))| (a != b).then_some(at));
        if let Some(first_bytes) = first {
            join(found, Difference { range: ByteRange::new(at, end), first_bytes, between });
        }
        (one, other, at) = (here.1, there.1, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sectors(marks: &[u8]) -> Vec<u8> {
        marks.iter().flat_map(|&mark| [vec![0; 100], vec![mark], vec![0; 3995]].concat()).collect()
    }

    #[test]
    fn neighbouring_sectors_are_one_place_and_the_first_byte_is_told() {
        let mut found = Vec::new();
        compare(&sectors(&[0, 1, 1, 0, 1]), &sectors(&[0, 2, 2, 0, 2])[..], 8192, 'x', &mut found);
        let place = |start: u64, end: u64| Difference {
            range: ByteRange::new(start, end),
            first_bytes: start + 100,
            between: 'x',
        };
        assert_eq!(found, [place(12288, 20480), place(24576, 28672)]);
    }

    #[test]
    fn an_incomplete_last_sector_counts_as_far_as_it_goes() {
        let mut found = Vec::new();
        compare(&[1; 4100], &[[1; 4096].as_slice(), &[2; 4]].concat(), 0, (), &mut found);
        assert_eq!(found[0].range, ByteRange::new(4096, 4100));
    }

    proptest! {
        #[test]
        fn the_first_places_are_named_in_whatever_order_they_are_found(
            differing in prop::collection::btree_set(0u64..1000, 0..300),
            order in any::<u64>(),
        ) {
            let place = |sector: u64| Difference {
                range: ByteRange::new(sector * 4096, (sector + 1) * 4096),
                first_bytes: sector * 4096,
                between: (),
            };
            let mut expected = Vec::new();
            differing.iter().for_each(|&sector| join(&mut expected, place(sector)));
            // Pieces of five sectors, shuffled.
            let mut pieces = BTreeMap::<u64, Vec<_>>::new();
            differing.iter().for_each(|&sector| pieces.entry(sector / 5).or_default().push(place(sector)));
            let mut pieces: Vec<_> = pieces.into_iter().collect();
            pieces.sort_by_key(|(index, _)| (index + 1).wrapping_mul(order | 1));
            let differences = Differences::default();
            pieces.into_iter().for_each(|(index, found)| differences.add(index, found));
            let (named, bytes) = differences.finish();
            prop_assert_eq!(bytes, differing.len() as u64 * 4096);
            // Only a place that goes on past all that is kept may be told shorter than it is.
            let kept = named.len().min(expected.len());
            prop_assert_eq!(named.len(), expected.len().min(NAMED));
            for (named, expected) in named.iter().zip(&expected).take(kept.saturating_sub(1)) {
                prop_assert_eq!(named, expected);
            }
        }
    }
}
