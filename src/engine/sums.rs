//! Sums of what was copied, taken out of order and kept in little room.
//!
//! A copy is done by several threads, so batches finish in any order. Each batch has a CRC-32 of its data; a group
//! of batches keeps one number that the sums of its batches are mixed into, each with its place, so that the
//! order of arrival does not matter. 16 TiB of data make two MiB of sums.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// How many batches share one number.
const GROUP_BATCHES: u64 = 64;

/// The sum of one batch's data, in ascending order.
#[derive(Clone, Default)]
pub struct BatchSum(crc32fast::Hasher);

impl BatchSum {
    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// The sums of a whole copy.
#[derive(Debug, Default)]
pub struct Sums(Mutex<BTreeMap<u64, u64>>);

impl Sums {
    /// Takes the sum of the batch at place `index` in.
    pub fn add(&self, index: u64, sum: BatchSum) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let group = groups.entry(index / GROUP_BATCHES).or_default();
        // Addition forgets the order of arrival; mixing the place in keeps two batches from changing places.
        *group = group.wrapping_add(mix(index ^ (u64::from(sum.0.finalize()) << 32)));
    }

    /// The places of the batches whose group differs from `other`'s, as half-open ranges.
    pub fn differences(&self, other: &Sums) -> Vec<(u64, u64)> {
        let ours = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let theirs = other.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let groups: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        groups
            .into_iter()
            .filter(|group| ours.get(group) != theirs.get(group))
            .map(|group| (group * GROUP_BATCHES, (group + 1) * GROUP_BATCHES))
            .collect()
    }
}

/// The finaliser of SplitMix64: spreads every bit of `x` over all of the result.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(batches: &[(u64, &[u8])]) -> Sums {
        let sums = Sums::default();
        for (index, bytes) in batches {
            let mut sum = BatchSum::default();
            sum.update(bytes);
            sums.add(*index, sum);
        }
        sums
    }

    #[test]
    fn order_of_arrival_does_not_matter_but_place_does() {
        let copied = sums(&[(0, b"a"), (1, b"b"), (70, b"c")]);
        assert!(copied.differences(&sums(&[(70, b"c"), (1, b"b"), (0, b"a")])).is_empty());
        assert_eq!(copied.differences(&sums(&[(0, b"b"), (1, b"a"), (70, b"c")])), [(0, 64)]);
        assert_eq!(copied.differences(&sums(&[(0, b"a"), (1, b"b"), (70, b"x")])), [(64, 128)]);
        assert_eq!(copied.differences(&sums(&[(0, b"a"), (1, b"b")])), [(64, 128)]);
    }
}
