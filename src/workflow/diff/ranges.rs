//! The ranges that changed: the first ones in memory or, if they are wanted, all of them in a temporary file.
//!
//! A volume can have millions, and what comes before them in a report is known only when all were found.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use crate::engine::changes::{Change, Sides};
use crate::error::{Error, Result};
use crate::model::units::ByteRange;
use crate::view::read_at::ReadAt;

/// How many ranges are kept when not all are wanted.
const FIRST: usize = 16;

/// How long a range is in the file: three offsets and two layers.
const RECORD_BYTES: usize = 28;

/// How many ranges are read at a time.
const READ_AT_ONCE: usize = 4096;

/// What stands for no layer in the file.
const NO_LAYER: u16 = u16::MAX;

/// Ranges in the making, in ascending order.
pub struct Collecting {
    kept: u64,
    first: Vec<Change>,
    all: Option<BufWriter<File>>,
}

/// The ranges that were kept.
pub struct Ranges {
    kept: u64,
    first: Vec<Change>,
    all: Option<File>,
}

impl Collecting {
    /// None yet.
    ///
    /// # Errors
    /// `Output` when all are wanted and there is no place for a temporary file.
    pub fn new(all: bool) -> Result<Self> {
        let file = all.then(tempfile::tempfile).transpose().map_err(failed)?;
        Ok(Collecting { kept: 0, first: Vec::new(), all: file.map(BufWriter::new) })
    }

    /// Keeps one more, if it is wanted.
    ///
    /// # Errors
    /// `Output` when the temporary file cannot be written.
    pub fn add(&mut self, change: Change) -> Result<()> {
        match &mut self.all {
            Some(file) => file.write_all(&record(change)).map_err(failed)?,
            None if self.first.len() < FIRST => self.first.push(change),
            None => return Ok(()),
        }
        self.kept += 1;
        Ok(())
    }

    /// That was all.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn finish(self) -> Result<Ranges> {
        let all = self.all.map(BufWriter::into_inner).transpose().map_err(|e| failed(e.into_error()))?;
        Ok(Ranges { kept: self.kept, first: self.first, all })
    }
}

impl Ranges {
    /// How many were kept.
    pub fn kept(&self) -> u64 {
        self.kept
    }

    /// The ranges that were kept, in ascending order. An error is that of reading the temporary file.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<Change>> + '_ {
        let from_file = self.all.iter().flat_map(|file| Reading { file, at_bytes: 0, ready: Vec::new() });
        self.first.iter().copied().map(Ok).chain(from_file)
    }
}

/// The ranges in a file, the next ones last.
struct Reading<'a> {
    file: &'a File,
    at_bytes: u64,
    ready: Vec<Change>,
}

impl Reading<'_> {
    fn refill(&mut self) -> io::Result<()> {
        let left = self.file.len_bytes()? - self.at_bytes;
        let most = READ_AT_ONCE * RECORD_BYTES;
        let mut bytes = vec![0; usize::try_from(left).map_or(most, |left| left.min(most))];
        ReadAt::read_exact_at(self.file, &mut bytes, self.at_bytes)?;
        self.at_bytes += bytes.len() as u64;
        self.ready = bytes.chunks_exact(RECORD_BYTES).rev().map(change).collect();
        Ok(())
    }
}

impl Iterator for Reading<'_> {
    type Item = io::Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            if let Err(e) = self.refill() {
                return Some(Err(e));
            }
        }
        self.ready.pop().map(Ok)
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

fn change(bytes: &[u8]) -> Change {
    let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
    let layer = |at: usize| u8::try_from(u16::from_le_bytes([bytes[at], bytes[at + 1]])).ok();
    Change {
        range: ByteRange::new(number(0), number(8)),
        first_bytes: number(16),
        between: Sides { from: layer(24), to: layer(26) },
    }
}

fn failed(cause: io::Error) -> Error {
    Error::output("cannot keep the ranges in a temporary file")
        .with_path(std::env::temp_dir())
        .caused_by(cause)
        .with_hint("name a directory with more room in TMPDIR, or leave --ranges out")
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
                let back: Vec<_> = ranges.iter().map(Result::unwrap).collect();
                assert_eq!(back, if all { &changes } else { &changes[..FIRST] });
            }
        }
    }
}
