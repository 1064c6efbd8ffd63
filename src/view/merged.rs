//! The merged view: the volume, readable anywhere without having looked at all of it.
//!
//! Which layer serves what is worked out window by window, when a read first needs to know, and kept while there is
//! room. So the first read takes as long on a volume of 16 TiB as on a small one, and memory does not grow with
//! either.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use crate::error::Result;
use crate::model::overlay::{Segment, Served, Unwritten};
use crate::model::units::ByteRange;
use crate::view::disk::{Content, Disk, Stretch, check_range};
use crate::view::layers::{Layers, overlay, overlay_within};

/// How much of the volume a window is, in bytes: at most 16,384 segments. Asking 250 layers for their extents in one
/// takes well below a millisecond.
const WINDOW_BYTES: u64 = 64 << 20;

/// The most segments that are kept, 12 MiB of them, counting each window as some more.
const KEPT_SEGMENTS: usize = 1 << 19;

/// What a window costs beyond its segments, in segments.
const WINDOW_COST: usize = 8;

/// The volume that layers make up, as a disk.
pub struct MergedView {
    layers: Arc<Layers>,
    volume_bytes: u64,
    unwritten: Unwritten,
    window_bytes: u64,
    windows: Mutex<Windows>,
}

impl MergedView {
    /// The volume of `volume_bytes` that `layers`, lowest first, make up.
    pub fn new(layers: Arc<Layers>, volume_bytes: u64, unwritten: Unwritten) -> Self {
        Self::with_windows(layers, volume_bytes, unwritten, WINDOW_BYTES, KEPT_SEGMENTS)
    }

    fn with_windows(
        layers: Arc<Layers>,
        volume_bytes: u64,
        unwritten: Unwritten,
        window_bytes: u64,
        kept_segments: usize,
    ) -> Self {
        let windows = Mutex::new(Windows::new(kept_segments));
        MergedView { layers, volume_bytes, unwritten, window_bytes, windows }
    }

    /// What unwritten extents mean.
    pub fn unwritten(&self) -> Unwritten {
        self.unwritten
    }

    /// The layers, lowest first.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// The segments that reach into `range`, up to the end of the window that it begins in, and that end.
    ///
    /// # Errors
    /// When a layer's extents cannot be told.
    pub fn segments_at(&self, range: ByteRange) -> Result<(Vec<Segment>, u64)> {
        let window = self.window_at(range.start_bytes);
        let end_bytes = window.end_bytes.min(range.end_bytes);
        let segments = self.segments_of(window)?;
        let wanted = ByteRange::new(range.start_bytes, end_bytes);
        let first = segments.partition_point(|segment| segment.range.end_bytes <= wanted.start_bytes);
        let reaching = segments[first..].iter().take_while(|segment| segment.range.start_bytes < end_bytes);
        let clipped = reaching.map(|segment| Segment { range: segment.range.clip(wanted), ..*segment });
        Ok((clipped.collect(), end_bytes))
    }

    fn window_at(&self, offset_bytes: u64) -> ByteRange {
        let start = offset_bytes - offset_bytes % self.window_bytes;
        ByteRange::new(start, start.saturating_add(self.window_bytes).min(self.volume_bytes))
    }

    /// All segments of a window; several threads that need the same one wait for the first.
    fn segments_of(&self, window: ByteRange) -> Result<Arc<[Segment]>> {
        let slot = held(&self.windows).slot(window.start_bytes / self.window_bytes);
        let mut filled = held(&slot);
        if let Some(segments) = &*filled {
            return Ok(Arc::clone(segments));
        }
        let segments: Arc<[Segment]> =
            overlay_within(&self.layers, window, self.unwritten)?.collect::<Result<Vec<_>>>()?.into();
        *filled = Some(Arc::clone(&segments));
        drop(filled);
        held(&self.windows).filled(window.start_bytes / self.window_bytes, segments.len());
        Ok(segments)
    }

    /// Where, from `offset_bytes` on, the next segment begins, or the volume ends.
    fn next_served(&self, offset_bytes: u64) -> Result<u64> {
        let rest = ByteRange::new(offset_bytes, self.volume_bytes);
        let next = overlay(&self.layers, rest, self.unwritten)?.next_segment()?;
        Ok(next.map_or(self.volume_bytes, |segment| segment.range.start_bytes))
    }
}

impl Disk for MergedView {
    fn size_bytes(&self) -> u64 {
        self.volume_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let mut left = check_range(self.volume_bytes, offset_bytes, buf.len())?;
        let mut buf = buf;
        while !left.is_empty() {
            let (segments, end_bytes) = self.segments_at(left)?;
            let (mut part, rest) = buf.split_at_mut(length(end_bytes - left.start_bytes));
            let mut at = left.start_bytes;
            for Segment { range, served } in segments {
                let (gap, after) = part.split_at_mut(length(range.start_bytes - at));
                gap.fill(0);
                let (bytes, after) = after.split_at_mut(length(range.len_bytes()));
                match served {
                    Served::Data(layer) => {
                        self.layers[usize::from(layer)].read_exact_at(bytes, range.start_bytes)?;
                    }
                    Served::Unwritten { .. } => bytes.fill(0),
                }
                (part, at) = (after, range.end_bytes);
            }
            part.fill(0);
            (buf, left.start_bytes) = (rest, end_bytes);
        }
        Ok(())
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        let range = range.clip(ByteRange::new(0, self.volume_bytes));
        let mut stretches = Vec::new();
        if range.is_empty() {
            return Ok(stretches);
        }
        let hole = |start, end| Stretch { range: ByteRange::new(start, end), content: Content::Hole };
        let (segments, end_bytes) = self.segments_at(range)?;
        if segments.is_empty() {
            // A volume can be empty for terabytes.
            let end_bytes = self.next_served(end_bytes)?.min(range.end_bytes);
            return Ok(vec![hole(range.start_bytes, end_bytes)]);
        }
        let mut at = range.start_bytes;
        for Segment { range, served } in segments {
            if at < range.start_bytes {
                stretches.push(hole(at, range.start_bytes));
            }
            let content = match served {
                Served::Data(_) => Content::Data,
                Served::Unwritten { .. } => Content::Zeros,
            };
            stretches.push(Stretch { range, content });
            at = range.end_bytes;
        }
        if at < end_bytes {
            stretches.push(hole(at, end_bytes));
        }
        Ok(stretches)
    }
}

/// Lengths within a buffer, which fit.
fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A window's segments, once they are known.
type Slot = Arc<Mutex<Option<Arc<[Segment]>>>>;

/// One window, and what it costs to keep.
#[derive(Default)]
struct Window {
    slot: Slot,
    cost: usize,
}

/// The windows that are known, the one that was not used for the longest time to be forgotten first.
struct Windows {
    known: LruCache<u64, Window>,
    kept_segments: usize,
    total_cost: usize,
}

impl Windows {
    fn new(kept_segments: usize) -> Self {
        Windows { known: LruCache::unbounded(), kept_segments, total_cost: 0 }
    }

    fn slot(&mut self, index: u64) -> Slot {
        Arc::clone(&self.known.get_or_insert_mut(index, Window::default).slot)
    }

    /// Takes note of how much is known of a window, and forgets others until all fit.
    fn filled(&mut self, index: u64, segments: usize) {
        // It may have been forgotten meanwhile.
        if let Some(window) = self.known.peek_mut(&index).filter(|window| window.cost == 0) {
            window.cost = segments + WINDOW_COST;
            self.total_cost += window.cost;
        }
        while self.total_cost > self.kept_segments && self.known.len() > 1 {
            let Some((_, forgotten)) = self.known.pop_lru() else { break };
            self.total_cost -= forgotten.cost;
        }
    }
}

/// A lock on what stays whole whoever panicked.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::extent::{Extent, ExtentKind, ExtentList, ExtentSource};
    use crate::view::LayerImage;
    use proptest::prelude::*;

    /// A layer with extents here and there; every byte of it is its number.
    struct Fake(u8, Vec<Extent>);

    const SECTOR: u64 = 4096;
    const SECTORS: u64 = 64;

    impl LayerImage for Fake {
        fn name(&self) -> &str {
            "fake"
        }

        fn size_bytes(&self) -> u64 {
            SECTORS * SECTOR
        }

        fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
            Ok(Box::new(ExtentList::new(self.1.clone())))
        }

        fn read_exact_at(&self, buf: &mut [u8], _: u64) -> Result<()> {
            buf.fill(self.0);
            Ok(())
        }
    }

    fn layers() -> impl Strategy<Value = Vec<Vec<Extent>>> {
        let kind = prop_oneof![3 => Just(ExtentKind::Data), 1 => Just(ExtentKind::Unwritten)];
        let extents = proptest::collection::vec((0..10u64, 1..12u64, kind), 0..8).prop_map(|parts| {
            let mut at = 0;
            let mut extents = Vec::new();
            for (gap, len, kind) in parts {
                let range = ByteRange::new((at + gap) * SECTOR, (at + gap + len) * SECTOR);
                at += gap + len;
                extents.push(Extent { range, kind });
            }
            extents
        });
        proptest::collection::vec(extents, 0..6)
    }

    /// Per sector, the number of the layer that serves it with data.
    fn oracle(layers: &[Vec<Extent>]) -> Vec<u8> {
        let mut served = vec![0; length(SECTORS)];
        for (number, extents) in (1..).zip(layers) {
            for Extent { range, kind } in extents {
                for sector in range.start_bytes / SECTOR..(range.end_bytes / SECTOR).min(SECTORS) {
                    served[length(sector)] = if *kind == ExtentKind::Data { number } else { 0 };
                }
            }
        }
        served
    }

    proptest! {
        #[test]
        fn windows_show_in_nothing_that_is_read(
            layers in layers(),
            window in 1..9u64,
            kept in 1..200usize,
            reads in proptest::collection::vec((0..SECTORS * SECTOR, 0..20 * SECTOR), 1..40),
        ) {
            let served = oracle(&layers);
            let fakes = (1..).zip(layers).map(|(n, extents)| Box::new(Fake(n, extents)) as Box<dyn LayerImage>);
            let size = SECTORS * SECTOR;
            let view = MergedView::with_windows(fakes.collect(), size, Unwritten::Zero, window * SECTOR, kept);
            for (start, len) in reads {
                let end = (start + len).min(size);
                let mut buf = vec![0xee; length(end - start)];
                view.read_exact_at(&mut buf, start).unwrap();
                let expected: Vec<u8> = (start..end).map(|byte| served[length(byte / SECTOR)]).collect();
                prop_assert!(buf == expected);
                let windows = held(&view.windows);
                let costs: usize = windows.known.iter().map(|(_, window)| window.cost).sum();
                prop_assert_eq!(costs, windows.total_cost);
                prop_assert!(costs <= kept || windows.known.len() == 1);
            }
        }
    }
}
