//! Read-only memory maps, for finished outputs and nothing else.
//!
//! A map of a file that is truncated, or whose disk fails, ends the process with SIGBUS. That is acceptable only
//! for a file this program has just written, locked and not given up; a layer is never mapped.

use std::fs::File;
use std::io;

use memmap2::{Mmap, MmapOptions};

use crate::model::units::ByteRange;

/// Maps `range` of a finished output.
///
/// # Errors
/// When it cannot be mapped.
pub fn window(file: &File, range: ByteRange) -> io::Result<Mmap> {
    let length = usize::try_from(range.len_bytes()).map_err(io::Error::other)?;
    // SAFETY: the map is read-only, and the file is an output of this process: complete, synced as asked for, and
    // written to or truncated by nobody any more, so its bytes do not change while they are borrowed.
    unsafe { MmapOptions::new().offset(range.start_bytes).len(length).map(file) }
}
