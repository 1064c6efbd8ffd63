//! A layer against the layer of the same name in another replica: the same extents, the same bytes.
//!
//! What a snapshot holds is the same on every node, down to which sectors are holes: the engine copies extents when it
//! rebuilds. So a flipped bit has an offset here, and so has a zero that a copy turned into a hole.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::buffer::Buffer;
use crate::engine::differences::{self, Difference, Differences};
use crate::engine::pipeline::{self, BUFFER_BYTES};
use crate::engine::windows::{Window, Windows};
use crate::error::Result;
use crate::event::{Event, Run};
use crate::model::extent::{Extent, ExtentKind, ExtentSource};
use crate::model::units::ByteRange;
use crate::view::LayerImage;

/// What a sector is, on either side; `None` is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// In the first of two layers.
    pub here: Option<ExtentKind>,
    /// In the second.
    pub there: Option<ExtentKind>,
}

/// How two layers compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Bytes that are data on both sides, and were compared.
    pub compared_bytes: u64,
    /// Bytes in sectors that differ.
    pub differing_bytes: u64,
    /// The first places that differ.
    pub differences: Vec<Difference<Sides>>,
}

/// Compares two layers, by several threads. Where one of the two file systems cannot tell unwritten extents from holes,
/// these count as the same.
///
/// # Errors
/// `Source` when one of them cannot be read; interrupted when the run is cancelled.
pub fn compare(
    here: &dyn LayerImage,
    there: &dyn LayerImage,
    workers: usize,
    run: &Run<'_>,
) -> Result<Compared> {
    let pair = Pair { here, there, with_unwritten: here.tells_unwritten() && there.tells_unwritten() };
    let mut windows = BothWindows { here: Side::new(here)?, there: Side::new(there)? };
    let differences = Differences::default();
    let compared_bytes = AtomicU64::new(0);
    pipeline::for_each(
        || windows.next(),
        workers,
        run,
        |both, buffer| {
            let mut found = Vec::new();
            let bytes = pair.compare(both, buffer, run, &mut found)?;
            compared_bytes.fetch_add(bytes, Ordering::Relaxed);
            differences.add(both.index, found);
            Ok(())
        },
    )?;
    let (differences, differing_bytes) = differences.finish();
    Ok(Compared { compared_bytes: compared_bytes.into_inner(), differing_bytes, differences })
}

/// The extents of both layers in one window.
struct Both {
    index: u64,
    here: Vec<Extent>,
    there: Vec<Extent>,
}

/// The windows of one layer, and the next one of them.
struct Side<'a> {
    windows: Windows<Box<dyn ExtentSource + 'a>>,
    next: Option<Window>,
}

impl<'a> Side<'a> {
    fn new(layer: &'a dyn LayerImage) -> Result<Self> {
        let mut windows = Windows::of(layer)?;
        let next = windows.next_window()?;
        Ok(Side { windows, next })
    }

    /// The extents of the window `index`, which is not before the next one.
    fn take(&mut self, index: u64) -> Result<Vec<Extent>> {
        match self.next.take() {
            Some(window) if window.index == index => {
                self.next = self.windows.next_window()?;
                Ok(window.extents)
            }
            later => {
                self.next = later;
                Ok(Vec::new())
            }
        }
    }
}

/// The windows in which either layer holds anything, in ascending order.
struct BothWindows<'a> {
    here: Side<'a>,
    there: Side<'a>,
}

impl BothWindows<'_> {
    fn next(&mut self) -> Result<Option<Both>> {
        let indexes = [&self.here.next, &self.there.next].map(|next| next.as_ref().map(|w| w.index));
        let Some(index) = indexes.into_iter().flatten().min() else { return Ok(None) };
        Ok(Some(Both { index, here: self.here.take(index)?, there: self.there.take(index)? }))
    }
}

impl Both {
    /// The runs in which neither side changes, those that are holes on both sides left out.
    fn runs(&self) -> impl Iterator<Item = (ByteRange, Sides)> + '_ {
        let ends = |extent: &Extent| [extent.range.start_bytes, extent.range.end_bytes];
        let mut borders: Vec<_> = self.here.iter().chain(&self.there).flat_map(ends).collect();
        borders.sort_unstable();
        borders.dedup();
        let ranges: Vec<_> = borders.windows(2).map(|pair| ByteRange::new(pair[0], pair[1])).collect();
        let (mut here, mut there) = (Cursor(&self.here), Cursor(&self.there));
        let runs = ranges.into_iter().map(move |range| {
            (range, Sides { here: here.kind_at(range.start_bytes), there: there.kind_at(range.start_bytes) })
        });
        runs.filter(|(_, sides)| sides.here.is_some() || sides.there.is_some())
    }
}

/// The extents that do not end before the last place asked for.
struct Cursor<'a>(&'a [Extent]);

impl Cursor<'_> {
    fn kind_at(&mut self, at: u64) -> Option<ExtentKind> {
        while self.0.first().is_some_and(|extent| extent.range.end_bytes <= at) {
            self.0 = &self.0[1..];
        }
        self.0.first().filter(|extent| extent.range.start_bytes <= at).map(|extent| extent.kind)
    }
}

/// Two layers that should be one.
struct Pair<'a> {
    here: &'a dyn LayerImage,
    there: &'a dyn LayerImage,
    /// Whether both sides tell unwritten extents from holes.
    with_unwritten: bool,
}

impl Pair<'_> {
    /// Compares one window; returns how many bytes were data on both sides.
    fn compare(
        &self,
        both: &Both,
        buffer: &mut Buffer,
        run: &Run<'_>,
        found: &mut Vec<Difference<Sides>>,
    ) -> Result<u64> {
        let mut compared_bytes = 0;
        for (range, sides) in both.runs() {
            if sides.here == Some(ExtentKind::Data) && sides.there == sides.here {
                self.compare_bytes(range, sides, buffer, run, found)?;
                compared_bytes += range.len_bytes();
            } else if self.told(sides.here) != self.told(sides.there) {
                differences::join(
                    found,
                    Difference { range, first_bytes: range.start_bytes, between: sides },
                );
            }
        }
        Ok(compared_bytes)
    }

    /// What a kind is worth when both sides are to be told apart by it.
    fn told(&self, kind: Option<ExtentKind>) -> Option<ExtentKind> {
        kind.filter(|kind| self.with_unwritten || *kind != ExtentKind::Unwritten)
    }

    fn compare_bytes(
        &self,
        range: ByteRange,
        sides: Sides,
        buffer: &mut Buffer,
        run: &Run<'_>,
        found: &mut Vec<Difference<Sides>>,
    ) -> Result<()> {
        let (ours, theirs) = buffer.split_at_mut(BUFFER_BYTES / 2);
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            run.check()?;
            let left = range.end_bytes - at;
            let len = usize::try_from(left).map_or(ours.len(), |left| left.min(ours.len()));
            self.here.read_exact_at(&mut ours[..len], at)?;
            self.there.read_exact_at(&mut theirs[..len], at)?;
            differences::compare(&ours[..len], &theirs[..len], at, sides, found);
            run.event(Event::Advanced { bytes: len as u64 });
            at += len as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cancel, Silent};
    use crate::view::layer_file::LayerFile;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    const FAR: u64 = crate::engine::windows::WINDOW_BYTES * 3;

    fn layer(content: impl FnOnce(&File)) -> LayerFile {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.set_len(FAR + (1 << 20)).unwrap();
        content(&file);
        LayerFile::new("volume-snap-a.img".into(), file).unwrap()
    }

    fn between(here: &LayerFile, there: &LayerFile) -> Compared {
        compare(here, there, 3, &Run { observer: &Silent, cancel: &Cancel::default() }).unwrap()
    }

    fn write(file: &File, byte: u8, at: u64, len: usize) {
        file.write_all_at(&vec![byte; len], at).unwrap();
    }

    #[test]
    fn equal_layers_have_no_differences_however_they_were_written() {
        let one = layer(|f| {
            write(f, 1, 0, 8192);
            write(f, 0, FAR, 4096);
        });
        let other = layer(|f| {
            write(f, 0, FAR, 4096);
            write(f, 1, 4096, 4096);
            write(f, 1, 0, 4096);
        });
        assert_eq!(between(&one, &other), Compared { compared_bytes: 12288, ..Compared::default() });
    }

    #[test]
    fn a_byte_has_an_offset_and_zeros_are_no_hole() {
        let one = layer(|f| {
            write(f, 1, 0, 16384);
            write(f, 0, FAR, 8192);
        });
        let other = layer(|f| {
            write(f, 1, 0, 16384);
            write(f, 2, 5000, 1);
            write(f, 7, FAR + (1 << 19), 1);
        });
        let found = between(&one, &other);
        let data = Some(ExtentKind::Data);
        let places: Vec<_> = found
            .differences
            .iter()
            .map(|d| {
                (d.range.start_bytes, d.range.len_bytes(), d.first_bytes, d.between.here, d.between.there)
            })
            .collect();
        let zeros = FAR + (1 << 19);
        assert_eq!(
            places,
            [(4096, 4096, 5000, data, data), (FAR, 8192, FAR, data, None), (zeros, 4096, zeros, None, data)]
        );
        assert_eq!((found.compared_bytes, found.differing_bytes), (16384, 16384));
    }
}
