//! What one layer holds: extents, and the rule that makes them whole sectors.
//!
//! A file system tells extents in its own blocks (512 bytes to 64 KiB). Longhorn counts whole 4096-byte
//! sectors: an extent that covers a part of a sector claims all of it. [`SectorExtents`] applies that rule to
//! whatever an [`ExtentSource`] tells, a batch at a time, so that everything above sees sorted, disjoint,
//! sector-aligned extents and memory does not grow with their number.

use std::collections::VecDeque;

use crate::error::{Error, Result};
use crate::model::units::{ByteRange, SECTOR_BYTES, sector_ceil, sector_floor};

/// What an extent of a layer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExtentKind {
    /// Preallocated and never written: reads as zeros. The engine treats it as data; SEEK_DATA as a hole.
    Unwritten,
    /// Written, be it with zeros.
    Data,
}

/// A range of one layer that is not a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Extent {
    /// Where, in bytes of the layer (which are bytes of the volume).
    pub range: ByteRange,
    /// What.
    pub kind: ExtentKind,
}

/// Something that can tell where a layer has extents.
pub trait ExtentSource: Send {
    /// Appends to `out` the next extents that end after `from_bytes`, in ascending order, not overlapping, and
    /// returns from where to ask for more, or `None` when there are none further up.
    ///
    /// Alignment is the source's own. A returned position is always past `from_bytes`.
    ///
    /// # Errors
    /// When the layer's map cannot be read; never an empty answer instead.
    fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> Result<Option<u64>>;
}

impl<S: ExtentSource + ?Sized> ExtentSource for Box<S> {
    fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> Result<Option<u64>> {
        (**self).next_extents(from_bytes, out)
    }
}

/// Extents held in memory: for tests, fuzzing, and formats whose map is small.
#[derive(Clone, Debug, Default)]
pub struct ExtentList {
    extents: Vec<Extent>,
}

impl ExtentList {
    /// Takes extents in ascending order, not overlapping.
    pub fn new(extents: Vec<Extent>) -> Self {
        ExtentList { extents }
    }
}

/// How many extents [`ExtentList`] hands out at a time; small, so that tests cross batch borders.
const LIST_BATCH: usize = 16;

impl ExtentSource for ExtentList {
    fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> Result<Option<u64>> {
        let first = self.extents.partition_point(|e| e.range.end_bytes <= from_bytes);
        let rest = &self.extents[first..];
        let batch = &rest[..rest.len().min(LIST_BATCH)];
        out.extend_from_slice(batch);
        Ok((batch.len() < rest.len()).then(|| batch[batch.len() - 1].range.end_bytes))
    }
}

/// The extents of one layer as Longhorn counts them: whole sectors within a window of the volume, merged where
/// they touch. In a sector that holds both kinds, [`ExtentKind::Data`] wins: some of it was written.
pub struct SectorExtents<S> {
    source: S,
    window: ByteRange,
    ask_from: Option<u64>,
    raw: Vec<Extent>,
    ready: VecDeque<Extent>,
    /// The last extent seen; the next one may still extend or overlap it.
    open: Option<Extent>,
}

impl<S: ExtentSource> SectorExtents<S> {
    /// Tells the extents of `source` that touch `window`; both of its ends must be whole sectors.
    pub fn new(source: S, window: ByteRange) -> Self {
        let ask_from = (!window.is_empty()).then_some(window.start_bytes);
        SectorExtents { source, window, ask_from, raw: Vec::new(), ready: VecDeque::new(), open: None }
    }

    /// How many extents are at hand without asking the source.
    pub fn buffered(&self) -> usize {
        self.ready.len()
    }

    /// Whether the source has told everything.
    pub fn is_exhausted(&self) -> bool {
        self.ask_from.is_none()
    }

    /// The next extent, or `None` after the last.
    ///
    /// # Errors
    /// Whatever the source says.
    pub fn next_extent(&mut self) -> Result<Option<Extent>> {
        while self.ready.is_empty() && self.ask_from.is_some() {
            self.refill()?;
        }
        Ok(self.ready.pop_front())
    }

    /// Asks the source once more. Does nothing when it is exhausted.
    ///
    /// # Errors
    /// Whatever the source says.
    pub fn refill(&mut self) -> Result<()> {
        let Some(from) = self.ask_from else { return Ok(()) };
        self.raw.clear();
        let more = self.source.next_extents(from, &mut self.raw)?;
        if more.is_some_and(|next| next <= from) {
            // Asking again would hang the sweep; stopping here would lose data in silence.
            return Err(Error::source("the layer's extent map does not advance").at_offset(from));
        }
        self.ask_from = more.filter(|&next| next < self.window.end_bytes);
        for i in 0..self.raw.len() {
            let raw = self.raw[i];
            self.push(raw);
        }
        if self.ask_from.is_none() {
            if let Some(last) = self.open.take() {
                self.ready.push_back(last);
            }
        }
        Ok(())
    }

    fn push(&mut self, raw: Extent) {
        let aligned = ByteRange::new(sector_floor(raw.range.start_bytes), sector_ceil(raw.range.end_bytes));
        let mut next = Extent { range: aligned.clip(self.window), kind: raw.kind };
        if raw.range.is_empty() || next.range.is_empty() {
            return;
        }
        let Some(mut open) = self.open.take() else {
            self.open = Some(next);
            return;
        };
        if next.range.start_bytes < open.range.end_bytes && next.kind != open.kind {
            // Both kinds in one sector: data wins it.
            debug_assert!(open.range.end_bytes - next.range.start_bytes <= SECTOR_BYTES);
            match next.kind {
                ExtentKind::Data => open.range.end_bytes = next.range.start_bytes,
                ExtentKind::Unwritten => {
                    next.range.start_bytes = open.range.end_bytes.min(next.range.end_bytes)
                }
            }
        }
        if open.range.is_empty() {
            self.open_after(next);
        } else if next.range.is_empty() {
            self.open = Some(open);
        } else if next.range.start_bytes <= open.range.end_bytes && next.kind == open.kind {
            open.range.end_bytes = open.range.end_bytes.max(next.range.end_bytes);
            self.open = Some(open);
        } else {
            self.ready.push_back(open);
            self.open = Some(next);
        }
    }

    /// Makes `next` the open extent; it may touch the last finished one of its own kind.
    fn open_after(&mut self, mut next: Extent) {
        if let Some(last) = self.ready.back() {
            if last.kind == next.kind && last.range.end_bytes >= next.range.start_bytes {
                next.range.start_bytes = last.range.start_bytes;
                self.ready.pop_back();
            }
        }
        self.open = Some(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extents(raw: &[(u64, u64, ExtentKind)], window: u64) -> Vec<(u64, u64, ExtentKind)> {
        let list = raw.iter().map(|&(s, e, kind)| Extent { range: ByteRange::new(s, e), kind }).collect();
        let mut sectors = SectorExtents::new(ExtentList::new(list), ByteRange::new(0, window));
        let mut out = Vec::new();
        while let Some(e) = sectors.next_extent().unwrap() {
            out.push((e.range.start_bytes, e.range.end_bytes, e.kind));
        }
        out
    }

    use ExtentKind::{Data, Unwritten};

    #[test]
    fn part_of_a_sector_claims_all_of_it() {
        assert_eq!(extents(&[(5000, 5001, Data)], 1 << 20), [(4096, 8192, Data)]);
        assert_eq!(extents(&[(1024, 2048, Data), (3072, 4096, Data)], 1 << 20), [(0, 4096, Data)]);
    }

    #[test]
    fn data_wins_a_shared_sector() {
        assert_eq!(
            extents(&[(0, 9216, Unwritten), (9216, 13312, Data), (13312, 20480, Unwritten)], 1 << 20),
            [(0, 8192, Unwritten), (8192, 16384, Data), (16384, 20480, Unwritten)]
        );
        // An unwritten piece between two written ones in one sector disappears.
        assert_eq!(
            extents(&[(0, 1024, Data), (1024, 2048, Unwritten), (2048, 3072, Data)], 1 << 20),
            [(0, 4096, Data)]
        );
        // An unwritten beginning, then data in the same sector as the data before it.
        assert_eq!(
            extents(&[(0, 5120, Data), (5120, 6144, Unwritten), (6144, 9000, Data)], 1 << 20),
            [(0, 12288, Data)]
        );
        assert_eq!(extents(&[(0, 1024, Unwritten), (1024, 2048, Data)], 1 << 20), [(0, 4096, Data)]);
        assert_eq!(
            extents(&[(0, 4096, Data), (4096, 5120, Unwritten), (5120, 6144, Data)], 1 << 20),
            [(0, 8192, Data)]
        );
    }

    #[test]
    fn window_cuts_both_ends() {
        assert_eq!(extents(&[(0, 1 << 30, Data)], 8192), [(0, 8192, Data)]);
        assert_eq!(extents(&[(8192, 16384, Data)], 8192), []);
    }

    #[test]
    fn touching_extents_merge_across_batches() {
        let raw: Vec<_> = (0..100).map(|i| (i * 4096, (i + 1) * 4096, Data)).collect();
        assert_eq!(extents(&raw, 1 << 20), [(0, 409_600, Data)]);
    }
}
