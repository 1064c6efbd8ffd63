//! The CRC-64 of whole layers, several at once, by several threads, holes left out.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::engine::buffer::Buffer;
use crate::engine::checksum::crc64::{self, Share};
use crate::engine::windows::{Window, Windows, for_each_window};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::model::extent::{Extent, ExtentKind, ExtentList, ExtentSource};
use crate::model::units::ByteRange;
use crate::view::LayerImage;

/// What is read and hashed in one go: it is still in the processor's cache when it is hashed.
const PIECE_BYTES: usize = 256 << 10;

/// How many bytes of an image [`crc64s`] reads.
///
/// # Errors
/// When its extents cannot be told.
pub fn data_bytes(image: &dyn LayerImage) -> Result<u64> {
    let mut windows = Windows::of(image)?;
    let mut bytes = 0;
    while let Some(window) = windows.next_window()? {
        bytes += data(&window, image).map(|range| range.len_bytes()).sum::<u64>();
    }
    Ok(bytes)
}

/// The ranges of a window that hold data, cut at the end of the file.
fn data<'a>(window: &'a Window, image: &'a dyn LayerImage) -> impl Iterator<Item = ByteRange> + 'a {
    let whole = ByteRange::new(0, image.size_bytes());
    let written = window.extents.iter().filter(|extent| extent.kind == ExtentKind::Data);
    written.map(move |extent| extent.range.clip(whole))
}

/// The CRC-64 of a whole image, its holes as zeros: what the engine records. Holes are not read.
///
/// # Errors
/// An unreadable byte, with layer and offset; interrupted when the run is cancelled.
pub fn file_crc64(image: &dyn LayerImage, workers: usize, run: &Run<'_>) -> Result<u64> {
    crc64s(&[image], workers, run)?.pop().unwrap_or(Ok(0))
}

/// The CRC-64 of each of `images`, in their order; each is read in windows by all workers. Reports, as progress, each
/// byte of data.
///
/// # Errors
/// Only when the run is cancelled: one image that cannot be read does not stop the others.
pub fn crc64s(images: &[&dyn LayerImage], workers: usize, run: &Run<'_>) -> Result<Vec<Result<u64>>> {
    let sums: Vec<_> = images.iter().map(|image| Summing::new(*image)).collect();
    let layers: Vec<_> = sums.iter().map(|sum| sum as &dyn LayerImage).collect();
    for_each_window(&layers, workers, run, |place, window, buffer| {
        let sum = &sums[place];
        if sum.has_failed() {
            return Ok(());
        }
        match share(sum.image, window, buffer, run) {
            Ok(share) => sum.add(share),
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
            Err(e) => sum.fail(e),
        }
        Ok(())
    })?;
    Ok(sums.into_iter().map(Summing::finish).collect())
}

/// The share that a window has in the sum of its file.
fn share(image: &dyn LayerImage, window: &Window, buffer: &mut Buffer, run: &Run<'_>) -> Result<u64> {
    let mut share = Share::default();
    for range in data(window, image) {
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            run.check()?;
            let left = range.end_bytes - at;
            let len = usize::try_from(left).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let piece = &mut buffer[..len];
            image.read_exact_at(piece, at)?;
            share.update(at, piece);
            run.event(Event::Advanced { bytes: len as u64 });
            at += len as u64;
        }
    }
    Ok(share.in_file_of(image.size_bytes()))
}

/// An image whose sum is being computed. Its first failure is kept, and stops nothing but itself: as an image it has no
/// more extents then.
struct Summing<'a> {
    image: &'a dyn LayerImage,
    crc64: AtomicU64,
    failure: Mutex<Option<Error>>,
}

impl<'a> Summing<'a> {
    fn new(image: &'a dyn LayerImage) -> Self {
        let crc64 = AtomicU64::new(crc64::of_zeros(image.size_bytes()));
        Summing { image, crc64, failure: Mutex::default() }
    }

    fn add(&self, share: u64) {
        self.crc64.fetch_xor(share, Ordering::Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn fail(&self, error: Error) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn finish(self) -> Result<u64> {
        let failure = self.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(self.crc64.into_inner()), Err)
    }
}

impl LayerImage for Summing<'_> {
    fn name(&self) -> &str {
        self.image.name()
    }

    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn extents(&self) -> Result<Box<dyn ExtentSource + '_>> {
        Ok(match self.image.extents() {
            Ok(source) => Box::new(Extents { source, sum: self }),
            Err(e) => {
                self.fail(e);
                Box::new(ExtentList::default())
            }
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        self.image.read_exact_at(buf, offset_bytes)
    }
}

struct Extents<'a> {
    source: Box<dyn ExtentSource + 'a>,
    sum: &'a Summing<'a>,
}

impl ExtentSource for Extents<'_> {
    fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> Result<Option<u64>> {
        let more = if self.sum.has_failed() { Ok(None) } else { self.source.next_extents(from_bytes, out) };
        Ok(more.unwrap_or_else(|e| {
            self.sum.fail(e);
            None
        }))
    }
}
