//! The ranges that changed: the first ones in memory or, if they are wanted, all of them in a temporary file.

use std::io;

use crate::engine::changes::{Change, Sides};
use crate::error::Result;
use crate::model::units::ByteRange;
use crate::workflow::diff::spool::{Spool, Spooling};

/// How many ranges are kept when not all are wanted.
const FIRST: usize = 16;

/// How long a range is in the file: three offsets and two layers.
const RECORD_BYTES: usize = 28;

/// What stands for no layer in the file.
const NO_LAYER: u16 = u16::MAX;

/// Ranges in the making, in ascending order.
pub struct Collecting {
    first: Vec<Change>,
    all: Option<Spooling>,
}

/// The ranges that were kept.
pub struct Ranges {
    first: Vec<Change>,
    all: Option<Spool>,
}

impl Collecting {
    /// None yet.
    ///
    /// # Errors
    /// `Output` when all are wanted and there is no place for a temporary file.
    pub fn new(all: bool) -> Result<Self> {
        Ok(Collecting { first: Vec::new(), all: all.then(Spooling::new).transpose()? })
    }

    /// Keeps one more, if it is wanted.
    ///
    /// # Errors
    /// `Output` when the temporary file cannot be written.
    pub fn add(&mut self, change: Change) -> Result<()> {
        match &mut self.all {
            Some(all) => all.add(&record(change)),
            None => {
                self.first.extend((self.first.len() < FIRST).then_some(change));
                Ok(())
            }
        }
    }

    /// That was all.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn finish(self) -> Result<Ranges> {
        Ok(Ranges { first: self.first, all: self.all.map(Spooling::finish).transpose()? })
    }
}

impl Ranges {
    /// The ranges that were kept, in ascending order. An error is that of reading the temporary file.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<Change>> + '_ {
        let from_file = self.all.iter().flat_map(Spool::iter).map(|record| record.and_then(|r| change(&r)));
        self.first.iter().copied().map(Ok).chain(from_file)
    }

    /// How many of `count` ranges were not kept.
    pub fn left_out(&self, count: u64) -> u64 {
        if self.all.is_some() { 0 } else { count.saturating_sub(self.first.len() as u64) }
    }
}

fn record(change: Change) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..8].copy_from_slice(&change.range.start_bytes.to_le_bytes());
    bytes[8..16].copy_from_slice(&change.range.end_bytes.to_le_bytes());
    bytes[16..24].copy_from_slice(&change.first_bytes.to_le_bytes());
    let layer = |layer: Option<u8>| layer.map_or(NO_LAYER, u16::from).to_le_bytes();
    bytes[24..26].copy_from_slice(&layer(change.between.from));
    bytes[26..].copy_from_slice(&layer(change.between.to));
    bytes
}

fn change(record: &[u8]) -> io::Result<Change> {
    let record: [u8; RECORD_BYTES] = record.try_into().map_err(io::Error::other)?;
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| record[at + i]));
    let layer = |at: usize| u8::try_from(u16::from_le_bytes([record[at], record[at + 1]])).ok();
    Ok(Change {
        range: ByteRange::new(number(0), number(8)),
        first_bytes: number(16),
        between: Sides { from: layer(24), to: layer(26) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_come_back_in_their_order_or_the_first_ones_do() {
        let changes: Vec<_> = (0u8..=255)
            .cycle()
            .zip(0u64..10_000)
            .map(|(layer, place)| Change {
                range: ByteRange::new(place * 8192, place * 8192 + 4096),
                first_bytes: place * 8192 + u64::from(layer),
                between: Sides { from: (layer % 3 > 0).then_some(layer), to: Some(255 - layer) },
            })
            .collect();
        for all in [true, false] {
            let mut collecting = Collecting::new(all).unwrap();
            changes.iter().for_each(|&change| collecting.add(change).unwrap());
            let ranges = collecting.finish().unwrap();
            for _ in 0..2 {
                let back: Vec<_> = ranges.iter().map(|range| range.unwrap()).collect();
                assert_eq!(back, if all { &changes } else { &changes[..FIRST] });
            }
        }
    }
}
