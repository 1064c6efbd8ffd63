//! A block device to write an image to.
//!
//! Unlike a fresh sparse file, a device holds something already, so what no layer serves must be made zeros. A
//! sector discarded on a Longhorn volume shows older data after the engine restarts, so zeros are never made by
//! discarding: they are written, or asked of the device where its [`Kind`](crate::sys::device::Kind) is known to
//! keep them. Only a device that reads as zeros throughout needs none.

use std::io;
use std::os::unix::fs::FileExt;

use nix::unistd::{SysconfVar, sysconf};

use super::contents::{self, Contents};
use super::guard::GuardedDevice;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::model::units::ByteRange;
use crate::sink::{Sink, Target, write_zeros};
use crate::sys::sparse;

/// The device zeroes this much at a time; on a slow disk that may take a second.
const ZERO_OUT_PIECE_BYTES: u64 = 64 << 20;

/// A guarded device that an image is written to, in any order, from several threads.
#[derive(Debug)]
pub struct DeviceSink {
    target: GuardedDevice,
    fresh: bool,
}

impl DeviceSink {
    /// Writes to `target`, which is taken to hold anything until [`look_if_fresh`](Self::look_if_fresh) knows
    /// better.
    pub fn new(target: GuardedDevice) -> Self {
        DeviceSink { target, fresh: false }
    }

    /// The device and what is known of it.
    pub fn target(&self) -> &GuardedDevice {
        &self.target
    }

    /// Whether the device reads as zeros throughout: then zeros need not be written from here on. Reads from the
    /// start up to the first byte that is not zero, as a phase of its own. To be asked before anything is written.
    ///
    /// # Errors
    /// [`ErrorKind::Output`](crate::error::ErrorKind::Output) when the device cannot be read; `Refused` when there is data
    /// on it after all, and no leave to overwrite it; interrupted when the run is cancelled.
    pub fn look_if_fresh(&mut self, run: &Run<'_>) -> Result<bool> {
        if self.target.contents() != Contents::Nothing {
            return Ok(false);
        }
        let size_bytes = self.target.device().size_bytes();
        match contents::search(self, size_bytes, "looking if the device is empty", run)? {
            Some(offset_bytes) => self.target.found(Contents::Unknown { offset_bytes })?,
            None => self.fresh = true,
        }
        Ok(self.fresh)
    }

    /// The part of `range` that the device may be asked to zero itself; empty, at its start, where it may not.
    fn part_for_the_device(&self, range: ByteRange) -> ByteRange {
        let none = ByteRange::new(range.start_bytes, range.start_bytes);
        if !self.target.kind().may_zero_out() {
            return none;
        }
        // Whole pages only: a part of a page may be on its way there from another thread.
        let align = self.target.device().logical_block_bytes().max(page_bytes());
        let Some(start) = range.start_bytes.checked_next_multiple_of(align) else { return none };
        let end = range.end_bytes / align * align;
        if start < end { ByteRange::new(start, end) } else { none }
    }

    /// Waits until everything is on stable storage.
    ///
    /// # Errors
    /// [`ErrorKind::Output`](crate::error::ErrorKind::Output): some of what was written may be lost.
    pub fn finish(&self) -> Result<()> {
        let device = self.target.device();
        device.file().sync_all().map_err(|e| {
            Error::output("the device failed to store what was written")
                .with_path(device.path())
                .caused_by(e)
                .with_hint("what it holds now is not complete; see dmesg for what the disk said")
        })
    }

    fn within_image(&self, offset_bytes: u64, length_bytes: u64) -> Result<()> {
        let end = offset_bytes.checked_add(length_bytes);
        if end.is_some_and(|end| end <= self.target.needed_bytes()) {
            return Ok(());
        }
        Err(Error::output("refusing to write past the image's end")
            .with_path(self.target.device().path())
            .at_offset(offset_bytes))
    }

    fn failed(&self, offset_bytes: u64, cause: io::Error) -> Error {
        Error::output("cannot write to the device")
            .with_path(self.target.device().path())
            .at_offset(offset_bytes)
            .caused_by(cause)
            .with_hint("what it holds now is not complete; see dmesg for what the disk said")
    }
}

/// The size of a page of memory: 4 KiB on most machines, 16 KiB on a Raspberry Pi 5.
fn page_bytes() -> u64 {
    let told = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    told.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(64 << 10)
}

impl Sink for DeviceSink {
    fn needs_zeros(&self) -> bool {
        !self.fresh
    }

    fn write_at(&self, buf: &[u8], offset_bytes: u64) -> Result<()> {
        self.within_image(offset_bytes, buf.len() as u64)?;
        let mut rest = buf;
        let mut at = offset_bytes;
        while !rest.is_empty() {
            match self.target.device().file().write_at(rest, at) {
                Ok(0) => return Err(self.failed(at, io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    rest = &rest[written..];
                    at += written as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(at, e)),
            }
        }
        Ok(())
    }

    fn zero_range(&self, range: ByteRange, run: &Run<'_>) -> Result<()> {
        self.within_image(range.start_bytes, range.len_bytes())?;
        if self.fresh {
            return Ok(());
        }
        let whole = self.part_for_the_device(range);
        write_zeros(self, ByteRange::new(range.start_bytes, whole.start_bytes), run)?;
        let mut at = whole.start_bytes;
        while at < whole.end_bytes {
            run.check()?;
            let piece = ByteRange::new(at, whole.end_bytes.min(at.saturating_add(ZERO_OUT_PIECE_BYTES)));
            if !self.target.device().zero_out(piece)? {
                write_zeros(self, piece, run)?;
            }
            at = piece.end_bytes;
        }
        write_zeros(self, ByteRange::new(whole.end_bytes, range.end_bytes), run)
    }
}

impl Target for DeviceSink {
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        self.target.device().read_exact_at(buf, offset_bytes)
    }

    fn forget(&self, range: ByteRange) {
        sparse::drop_cached(self.target.device().file(), range);
    }
}
