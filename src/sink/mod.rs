//! Things one can write an image to.
//!
//! A [`Sink`] takes bytes at an offset, from several threads at once. What no layer serves must read as zeros in
//! the end: a fresh sparse file does so by itself, a device has to be told ([`Sink::zero_range`]).

pub mod contents;
pub mod copy_dir;
pub mod device;
pub mod file;
pub mod guard;
pub mod in_place;
pub mod skip_zeros;

pub use contents::Contents;

use std::fs::File;

use crate::error::Result;
use crate::event::Run;
use crate::model::units::ByteRange;

/// A sink that holds something already, so that only what differs needs to be written.
pub trait Target: Sink {
    /// Fills `buf` with what it holds at `offset_bytes`.
    ///
    /// # Errors
    /// Of kind [`Output`](crate::error::ErrorKind::Output), naming the target and the offset.
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()>;

    /// Takes note that `range` will not be read again. A hint.
    fn forget(&self, range: ByteRange) {
        let _ = range;
    }
}

/// Zeros are written in pieces of this size, in bytes; between pieces the work can be stopped.
const ZERO_PIECE_BYTES: usize = 1 << 20;

static ZEROS: [u8; ZERO_PIECE_BYTES] = [0; ZERO_PIECE_BYTES];

/// Writes zeros to all of `range`.
fn write_zeros(sink: &dyn Sink, range: ByteRange, run: &Run<'_>) -> Result<()> {
    let mut at = range.start_bytes;
    while at < range.end_bytes {
        run.check()?;
        let left = usize::try_from(range.end_bytes - at).unwrap_or(ZERO_PIECE_BYTES);
        let piece = &ZEROS[..left.min(ZERO_PIECE_BYTES)];
        sink.write_at(piece, at)?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Somewhere an image can be written, in any order.
pub trait Sink: Sync {
    /// Writes all of `buf` at `offset_bytes`.
    ///
    /// # Errors
    /// Of kind [`Output`](crate::error::ErrorKind::Output), naming the target and the offset.
    fn write_at(&self, buf: &[u8], offset_bytes: u64) -> Result<()>;

    /// Whether ranges that no layer serves must be passed to [`zero_range`](Self::zero_range), because they do not
    /// read as zeros by themselves.
    fn needs_zeros(&self) -> bool;

    /// Makes `range` read as zeros, for good.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at); interrupted when the run is cancelled.
    fn zero_range(&self, range: ByteRange, run: &Run<'_>) -> Result<()>;

    /// Takes note that `range` has been written: it may be sent on to the medium from now on, and this may wait for
    /// the medium. A hint; what fails here fails again where the output is synced.
    fn settle(&self, range: ByteRange) {
        let _ = range;
    }

    /// The regular file behind it, if the kernel may share ranges of source files with it.
    fn plain_file(&self) -> Option<&File> {
        None
    }
}
