//! A member of an archive as a layer: its extents from its map, its bytes from the archive, once and in order.

use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

use crate::engine::archive::read::cut_off;
use crate::error::{Error, Result};
use crate::model::extent::{Extent, ExtentKind, ExtentSource};
use crate::model::units::ByteRange;
use crate::view::LayerImage;

/// Where the bytes of a file in an archive belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileMap {
    /// The length of the file in bytes.
    pub size_bytes: u64,
    /// What is not a hole, ascending; begins and ends with whole sectors, or with the file.
    pub runs: Vec<ByteRange>,
    /// What of it was preallocated and never written, ascending.
    pub unwritten: Vec<ByteRange>,
}

/// A regular file in an archive. Its bytes can be read once, in ascending order.
pub struct ArchivedLayer<'a> {
    name: &'a str,
    map: &'a FileMap,
    stored: Mutex<Stored<'a>>,
}

/// What is left of a member's bytes.
struct Stored<'a> {
    from: &'a mut (dyn Read + Send),
    /// The runs of the file that the bytes belong to; the first of them is being read.
    runs: &'a [ByteRange],
    /// How much of the first run was read.
    done_bytes: u64,
}

impl<'a> ArchivedLayer<'a> {
    /// The file `name`, whose bytes follow in `from`.
    pub(super) fn new(name: &'a str, map: &'a FileMap, from: &'a mut (dyn Read + Send)) -> Self {
        let stored = Stored { from, runs: &map.runs, done_bytes: 0 };
        ArchivedLayer { name, map, stored: Mutex::new(stored) }
    }

    /// How many bytes were preallocated and never written.
    pub fn unwritten_bytes(&self) -> u64 {
        self.map.unwritten.iter().map(ByteRange::len_bytes).sum()
    }

    /// The first ranges that were preallocated and never written.
    pub fn first_unwritten(&self) -> Vec<ByteRange> {
        const NAMED: usize = 16;
        self.map.unwritten.iter().take(NAMED).copied().collect()
    }

    /// Passes over the bytes that nobody read.
    ///
    /// # Errors
    /// `Source` when the archive ends before.
    pub(super) fn finish(&self) -> Result<()> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        stored.skip_to(u64::MAX).map_err(|e| cut_off(e).in_layer(self.name))
    }
}

impl Stored<'_> {
    /// Passes over what is before `at`.
    fn skip_to(&mut self, at: u64) -> io::Result<()> {
        while let Some(run) = self.runs.first() {
            let next = run.start_bytes + self.done_bytes;
            let skipped = run.end_bytes.min(at).saturating_sub(next);
            if io::copy(&mut (&mut *self.from).take(skipped), &mut io::sink())? < skipped {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.done_bytes += skipped;
            if next + skipped < run.end_bytes {
                break;
            }
            self.runs = &self.runs[1..];
            self.done_bytes = 0;
        }
        Ok(())
    }

    /// Reads the bytes at `at`, all of one run.
    fn read(&mut self, buf: &mut [u8], at: u64) -> io::Result<()> {
        self.skip_to(at)?;
        let left = self.runs.first().map(|run| (run.start_bytes + self.done_bytes, run.end_bytes));
        if !left.is_some_and(|(next, end)| next == at && end - next >= buf.len() as u64) {
            return Err(io::Error::other("the archive does not have these bytes here"));
        }
        self.from.read_exact(buf)?;
        self.done_bytes += buf.len() as u64;
        Ok(())
    }
}

impl LayerImage for ArchivedLayer<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn size_bytes(&self) -> u64 {
        self.map.size_bytes
    }

    fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
        Ok(Box::new(MapExtents(self.map)))
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let within = usize::try_from(self.map.size_bytes.saturating_sub(offset_bytes)).unwrap_or(buf.len());
        let (present, past_end) = buf.split_at_mut(within.min(buf.len()));
        past_end.fill(0);
        let failed = |e| -> Error { cut_off(e).in_layer(self.name).at_offset(offset_bytes) };
        if present.is_empty() { Ok(()) } else { stored.read(present, offset_bytes).map_err(failed) }
    }
}

/// How many runs are told at a time.
const BATCH: usize = 256;

/// The extents that a map tells.
struct MapExtents<'a>(&'a FileMap);

impl ExtentSource for MapExtents<'_> {
    fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> Result<Option<u64>> {
        let FileMap { runs, unwritten, .. } = self.0;
        let first = runs.partition_point(|run| run.end_bytes <= from_bytes);
        let batch = &runs[first..runs.len().min(first + BATCH)];
        for run in batch {
            let within = unwritten.partition_point(|room| room.end_bytes <= run.start_bytes);
            let mut at = run.start_bytes;
            for room in unwritten[within..].iter().take_while(|room| room.start_bytes < run.end_bytes) {
                push(out, at, room.start_bytes, ExtentKind::Data, from_bytes);
                push(out, room.start_bytes, room.end_bytes, ExtentKind::Unwritten, from_bytes);
                at = room.end_bytes;
            }
            push(out, at, run.end_bytes, ExtentKind::Data, from_bytes);
        }
        let more = first + batch.len() < runs.len();
        Ok(batch.last().filter(|_| more).map(|last| last.end_bytes))
    }
}

fn push(out: &mut Vec<Extent>, start: u64, end: u64, kind: ExtentKind, from: u64) {
    if start < end && end > from {
        out.push(Extent { range: ByteRange::new(start, end), kind });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::windows::Windows;
    use crate::model::extent::ExtentKind::{Data, Unwritten};

    fn map() -> FileMap {
        FileMap {
            size_bytes: 40_000,
            runs: vec![ByteRange::new(4096, 16384), ByteRange::new(36864, 40_000)],
            unwritten: vec![ByteRange::new(8192, 12288)],
        }
    }

    #[test]
    fn the_map_makes_the_extents() {
        let (map, mut nothing) = (map(), io::empty());
        let layer = ArchivedLayer::new("a", &map, &mut nothing);
        let window = Windows::of(&layer).unwrap().next_window().unwrap().unwrap();
        let told: Vec<_> =
            window.extents.iter().map(|e| (e.range.start_bytes, e.range.end_bytes, e.kind)).collect();
        let expected =
            [(4096, 8192, Data), (8192, 12288, Unwritten), (12288, 16384, Data), (36864, 40960, Data)];
        assert_eq!(told, expected);
    }

    #[test]
    fn bytes_come_in_order_and_an_early_end_is_an_error() {
        let map = map();
        let bytes = [vec![1; 4096], vec![2; 4096], vec![3; 4096], vec![4; 3136]].concat();
        let mut all = &bytes[..];
        let layer = ArchivedLayer::new("a", &map, &mut all);
        let mut buf = [0; 4096];
        for (at, first, last) in [(4096, 1, 1), (12288, 3, 3), (36864, 4, 0)] {
            layer.read_exact_at(&mut buf, at).unwrap();
            assert_eq!((buf[0], buf[4095]), (first, last));
        }
        assert!(layer.read_exact_at(&mut buf, 4096).is_err());
        layer.finish().unwrap();
        let mut cut = &bytes[..5000];
        let layer = ArchivedLayer::new("a", &map, &mut cut);
        let error = layer.read_exact_at(&mut buf, 12288).unwrap_err();
        assert!(error.to_string().contains("ends too early"), "{error}");
    }
}
