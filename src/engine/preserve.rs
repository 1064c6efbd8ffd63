//! Copies of whole layers, window by window, in which a hole stays a hole, zeros stay zeros, and room stays room.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blake3::Hash;

use crate::engine::buffer::Buffer;
use crate::engine::layer_digest::{WindowHasher, window_digest};
use crate::engine::medium::Medium;
use crate::engine::windows::{Window, Windows};
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::extent::{Extent, ExtentKind};
use crate::model::units::ByteRange;
use crate::sys::sparse;
use crate::view::LayerImage;

/// The file a layer is copied to; it has the layer's length already.
pub struct Target<'a> {
    /// The open file.
    pub file: &'a File,
    /// Its path, for messages.
    pub path: &'a Path,
    /// Its length in bytes.
    pub size_bytes: u64,
}

/// Copies one window; returns its digest. What was there before in the window's extents is overwritten.
///
/// # Errors
/// `Source` when a byte cannot be read, `Output` when one cannot be written, interrupted when cancelled.
pub fn copy_window(
    layer: &dyn LayerImage,
    target: &Target<'_>,
    window: &Window,
    buffer: &mut Buffer,
    run: &Run<'_>,
) -> Result<Hash> {
    let mut hasher = WindowHasher::default();
    for extent in &window.extents {
        hasher.begin(extent);
        if extent.kind == ExtentKind::Unwritten {
            target.preallocate(extent.range)?;
            continue;
        }
        let mut at = extent.range.start_bytes;
        while at < extent.range.end_bytes {
            run.check()?;
            let left = extent.range.end_bytes - at;
            let len = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            layer.read_exact_at(&mut buffer[..len], at)?;
            hasher.update(&buffer[..len]);
            target.write(&buffer[..len], at)?;
            run.event(Event::Advanced { bytes: len as u64 });
            at += len as u64;
        }
    }
    if let (Some(first), Some(last)) = (window.extents.first(), window.extents.last()) {
        // The disk works while the rest is copied.
        let all = ByteRange::new(first.range.start_bytes, last.range.end_bytes);
        sparse::start_writeback(target.file, all);
    }
    Ok(hasher.finish())
}

/// Makes `target` share the blocks of `layer`. What is preallocated is preallocated anew: XFS makes holes of it.
///
/// # Errors
/// `Usage` when the file systems cannot; `Output` when room cannot be preallocated.
pub fn clone_layer(layer: &dyn LayerImage, target: &Target<'_>, run: &Run<'_>) -> Result<()> {
    let from = layer.plain_file().ok_or_else(|| Error::usage("there is no file to share blocks with"))?;
    sparse::clone_whole(from, target.file).map_err(|e| {
        Error::usage("source and copy cannot share blocks")
            .with_path(target.path)
            .caused_by(e)
            .with_hint("both must be on one XFS or btrfs file system; to make a real copy, leave --clone out")
    })?;
    let mut windows = Windows::of(layer)?;
    while let Some(window) = windows.next_window()? {
        run.check()?;
        for extent in window.extents.iter().filter(|extent| extent.kind == ExtentKind::Unwritten) {
            target.preallocate(extent.range)?;
        }
    }
    Ok(())
}

/// The digest of a window of a copy, as the medium has it.
///
/// # Errors
/// `Output` when it cannot be read; interrupted when cancelled.
pub fn read_back(medium: &Medium, window: &Window, buffer: &mut Buffer, run: &Run<'_>) -> Result<Hash> {
    window_digest(window, buffer, run, |buf, at| medium.read_sectors(buf, at))
}

/// The first place in which two windows of the same index have other extents.
pub fn first_other_extent(a: &[Extent], b: &[Extent]) -> Option<u64> {
    let differs = |(a, b): (&Extent, &Extent)| {
        let (start, end) =
            ((a.range.start_bytes, b.range.start_bytes), (a.range.end_bytes, b.range.end_bytes));
        match (start.0 == start.1 && a.kind == b.kind, end.0 == end.1) {
            (true, true) => None,
            (true, false) => Some(end.0.min(end.1)),
            (false, _) => Some(start.0.min(start.1)),
        }
    };
    let beyond = || a.get(b.len()).or(b.get(a.len())).map(|extent| extent.range.start_bytes);
    a.iter().zip(b).find_map(differs).or_else(beyond)
}

impl Target<'_> {
    /// Writes what of `bytes` is before the end of the file.
    fn write(&self, bytes: &[u8], at: u64) -> Result<()> {
        let within =
            usize::try_from(self.size_bytes.saturating_sub(at)).unwrap_or(bytes.len()).min(bytes.len());
        self.file.write_all_at(&bytes[..within], at).map_err(|e| cannot_write(self.path, at, e))
    }

    /// Allocates what of `range` is before the end of the file.
    fn preallocate(&self, range: ByteRange) -> Result<()> {
        let range = range.clip(ByteRange::new(0, self.size_bytes));
        if range.is_empty() {
            return Ok(());
        }
        sparse::preallocate(self.file, range).map_err(|e| cannot_write(self.path, range.start_bytes, e))
    }
}

/// A write to a file of a copy failed.
pub fn cannot_write(path: &Path, at: u64, e: io::Error) -> Error {
    let hint = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the target ran full: free some room, or copy to another disk"
        }
        io::ErrorKind::FileTooLarge => {
            "a limit on file sizes was met: see ulimit -f, or the file system's own"
        }
        _ => "the target disk may be failing: look at the kernel log",
    };
    Error::output("cannot write the copy").with_path(path).at_offset(at).caused_by(e).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::extent::ExtentKind::{Data, Unwritten};

    fn extents(raw: &[(u64, u64, ExtentKind)]) -> Vec<Extent> {
        raw.iter().map(|&(s, e, kind)| Extent { range: ByteRange::new(s, e), kind }).collect()
    }

    #[test]
    fn the_first_difference_of_two_maps() {
        let a = extents(&[(0, 8, Data), (12, 16, Unwritten)]);
        for (b, first) in [
            (vec![(0, 8, Data), (12, 16, Unwritten)], None),
            (vec![(0, 8, Data)], Some(12)),
            (vec![(0, 4, Data), (12, 16, Unwritten)], Some(4)),
            (vec![(4, 8, Data)], Some(0)),
            (vec![(0, 8, Data), (12, 16, Data)], Some(12)),
            (vec![(0, 8, Data), (10, 16, Unwritten)], Some(10)),
            (vec![], Some(0)),
        ] {
            assert_eq!(first_other_extent(&a, &extents(&b)), first, "{b:?}");
            assert_eq!(first_other_extent(&extents(&b), &a), first, "{b:?}");
        }
    }
}
