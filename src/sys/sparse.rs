//! Sparse files: where they have extents, and how the kernel shares ranges of them.
//!
//! FIEMAP (with FIEMAP_FLAG_SYNC, as the engine asks it: longhorn-engine `vendor/.../sparse-tools/sparse/
//! fiemap.go`) tells written from unwritten extents. SEEK_DATA works on more file systems and counts unwritten
//! extents as holes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::libc;
use nix::unistd::{Whence, lseek};

use crate::model::extent::{Extent, ExtentKind};
use crate::model::units::ByteRange;

/// How many extents are asked for at a time: 14 KiB of buffer, which 250 layers can afford.
const FIEMAP_BATCH_U32: u32 = 256;
const FIEMAP_BATCH: usize = FIEMAP_BATCH_U32 as usize;

/// How many data ranges are looked up by SEEK_DATA at a time.
const SEEK_BATCH: usize = 64;

const FIEMAP_FLAG_SYNC: u32 = 0x1;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FIEMAP_EXTENT_ENCODED: u32 = 0x8;
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;

/// `struct fiemap_extent` of linux/fiemap.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` of linux/fiemap.h, without its flexible array.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// The header and the room behind it that the kernel fills.
#[repr(C)]
struct FiemapRequest {
    header: FiemapHeader,
    extents: [FiemapExtent; FIEMAP_BATCH],
}

mod ioctl {
    use super::{FiemapHeader, libc};
    nix::ioctl_readwrite!(fs_ioc_fiemap, b'f', 11, FiemapHeader);
    nix::ioctl_write_ptr!(ficlonerange, 0x94, 13, libc::file_clone_range);
    nix::ioctl_write_int!(ficlone, 0x94, 9);
}

/// A walk over a file's extents by FIEMAP.
pub struct Fiemap<'a> {
    file: &'a File,
    request: Box<FiemapRequest>,
    end_bytes: u64,
    synced: bool,
    encoded: bool,
}

impl<'a> Fiemap<'a> {
    /// A walk over `file`, or `None` where the file system has no FIEMAP.
    ///
    /// # Errors
    /// Any failure other than "not supported".
    pub fn probe(file: &'a File) -> io::Result<Option<Self>> {
        let mut walk = Fiemap::new(file, u64::MAX, false);
        match walk.ask(0) {
            Ok(_) => Ok(Some(walk)),
            Err(Errno::EOPNOTSUPP | Errno::ENOTTY | Errno::ENOSYS | Errno::EINVAL) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// A walk over the extents of `file` that begin before `end_bytes`. The file system must have FIEMAP, and what was
    /// written lately need not be on the medium yet.
    pub fn until(file: &'a File, end_bytes: u64) -> Self {
        Self::new(file, end_bytes, true)
    }

    fn new(file: &'a File, end_bytes: u64, synced: bool) -> Self {
        let request = FiemapRequest {
            header: FiemapHeader::default(),
            extents: [FiemapExtent::default(); FIEMAP_BATCH],
        };
        Fiemap { file, request: Box::new(request), end_bytes, synced, encoded: false }
    }

    /// Appends the next extents that end after `from_bytes`; returns from where to go on, if there are more.
    ///
    /// # Errors
    /// When the kernel cannot tell, or tells nonsense (extents out of order).
    pub fn next_extents(&mut self, from_bytes: u64, out: &mut Vec<Extent>) -> io::Result<Option<u64>> {
        let mapped = self.ask(from_bytes)?;
        let mut end = from_bytes;
        for e in &self.request.extents[..mapped] {
            let range = ByteRange::new(e.logical, e.logical.saturating_add(e.length));
            if range.end_bytes <= end {
                continue;
            }
            let range = ByteRange::new(range.start_bytes.max(end), range.end_bytes);
            self.encoded |= e.flags & FIEMAP_EXTENT_ENCODED != 0;
            let unwritten = e.flags & FIEMAP_EXTENT_UNWRITTEN != 0;
            let kind = if unwritten { ExtentKind::Unwritten } else { ExtentKind::Data };
            out.push(Extent { range, kind });
            end = range.end_bytes;
            if e.flags & FIEMAP_EXTENT_LAST != 0 {
                return Ok(None);
            }
        }
        // A full answer that told nothing new would loop for ever.
        if mapped == FIEMAP_BATCH && end == from_bytes {
            return Err(io::Error::other("FIEMAP does not advance"));
        }
        // Fewer than asked for and none of them the last: some file systems say so only by an empty answer.
        Ok((mapped > 0 && end > from_bytes && end < u64::MAX).then_some(end))
    }

    /// Whether an extent told so far is stored in another form than it is read: compressed.
    pub fn is_encoded(&self) -> bool {
        self.encoded
    }

    fn ask(&mut self, from_bytes: u64) -> nix::Result<usize> {
        if from_bytes >= self.end_bytes {
            return Ok(0);
        }
        self.request.header = FiemapHeader {
            start: from_bytes,
            length: self.end_bytes - from_bytes,
            flags: if self.synced { 0 } else { FIEMAP_FLAG_SYNC },
            extent_count: FIEMAP_BATCH_U32,
            ..FiemapHeader::default()
        };
        let request: *mut FiemapRequest = &mut *self.request;
        // SAFETY: the pointer is to a live, exclusively borrowed FiemapRequest whose header says how many extents
        // fit behind it; it is `repr(C)` with the array directly after the header, as the kernel expects. The
        // kernel writes at most `extent_count` extents. The pointer covers the whole request, not only its header.
        unsafe { ioctl::fs_ioc_fiemap(self.file.as_raw_fd(), request.cast())? };
        self.synced = true;
        Ok((self.request.header.mapped_extents as usize).min(FIEMAP_BATCH))
    }
}

/// Appends the next data ranges that end after `from_bytes` by SEEK_DATA and SEEK_HOLE; returns from where to go
/// on, if there are more. Unwritten extents are not told.
///
/// # Errors
/// When the file system does not support it (`EINVAL`), or the map cannot be read.
pub fn seek_extents(file: &File, from_bytes: u64, out: &mut Vec<Extent>) -> io::Result<Option<u64>> {
    let mut from = from_bytes;
    for _ in 0..SEEK_BATCH {
        let Some(range) = next_data(file, from)? else { return Ok(None) };
        out.push(Extent { range, kind: ExtentKind::Data });
        from = range.end_bytes;
    }
    Ok(Some(from))
}

/// The first data range of `file` that ends after `from_bytes`, by SEEK_DATA; `None` when there is none.
///
/// # Errors
/// When the file system cannot tell.
pub fn next_data(file: &File, from_bytes: u64) -> io::Result<Option<ByteRange>> {
    let Ok(from) = i64::try_from(from_bytes) else { return Ok(None) };
    let start = match lseek(file, from, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let end = lseek(file, start, Whence::SeekHole)?;
    match (u64::try_from(start), u64::try_from(end)) {
        (Ok(start), Ok(end)) if end > start => Ok(Some(ByteRange::new(start, end))),
        _ => Err(io::Error::other("SEEK_HOLE does not advance")),
    }
}

/// Shares `range` of `from` with `to` at the same offset (FICLONERANGE). Nothing is copied.
///
/// # Errors
/// `EXDEV`, `EOPNOTSUPP` or `EINVAL` where that is not possible; anything else is a real failure.
pub fn clone_range(from: &File, to: &File, range: ByteRange) -> io::Result<()> {
    let request = libc::file_clone_range {
        src_fd: i64::from(from.as_raw_fd()),
        src_offset: range.start_bytes,
        src_length: range.len_bytes(),
        dest_offset: range.start_bytes,
    };
    // SAFETY: `request` is a live, initialised struct of the type the ioctl reads, and both descriptors are open
    // for the duration of the call because the files are borrowed.
    unsafe { ioctl::ficlonerange(to.as_raw_fd(), &request)? };
    Ok(())
}

/// Shares all of `from` with the empty file `to` (FICLONE). Nothing is copied; what was preallocated and never written
/// may become a hole.
///
/// # Errors
/// `EXDEV`, `EOPNOTSUPP` or `EINVAL` where that is not possible; anything else is a real failure.
pub fn clone_whole(from: &File, to: &File) -> io::Result<()> {
    let source = nix::sys::ioctl::ioctl_param_type::try_from(from.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: the call takes no pointers, and both descriptors are open for its duration because the files are
    // borrowed.
    unsafe { ioctl::ficlone(to.as_raw_fd(), source)? };
    Ok(())
}

/// Allocates `range` of `file` without writing to it; the file keeps its length.
///
/// # Errors
/// When the file system cannot, or has no room.
pub fn preallocate(file: &File, range: ByteRange) -> io::Result<()> {
    allocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
}

/// Makes a hole of `range` of `file`, which keeps its length.
///
/// # Errors
/// When the file system cannot.
pub fn punch_hole(file: &File, range: ByteRange) -> io::Result<()> {
    allocate(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, range)
}

fn allocate(file: &File, flags: FallocateFlags, range: ByteRange) -> io::Result<()> {
    let overflow = |_| io::Error::from(Errno::EOVERFLOW);
    let offset = i64::try_from(range.start_bytes).map_err(overflow)?;
    let length = i64::try_from(range.len_bytes()).map_err(overflow)?;
    Ok(fallocate(file, flags, offset, length)?)
}

/// Starts reading `range` of `file` into the page cache. A hint.
pub fn read_ahead(file: &File, range: ByteRange) {
    advise(file, range, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
}

/// Tells the kernel not to read around what is asked for: around an extent there are holes, which it would fill
/// memory with. A hint.
pub fn read_exactly(file: &File) {
    advise(file, ByteRange::new(0, 0), PosixFadviseAdvice::POSIX_FADV_RANDOM);
}

/// Drops the clean pages of `range` of `file` from the page cache. A hint.
pub fn drop_cached(file: &File, range: ByteRange) {
    advise(file, range, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn advise(file: &File, range: ByteRange, advice: PosixFadviseAdvice) {
    if let (Ok(offset), Ok(len)) = (i64::try_from(range.start_bytes), i64::try_from(range.len_bytes())) {
        // Advice cannot be taken everywhere, and nothing depends on it.
        let _ = posix_fadvise(file, offset, len, advice);
    }
}

/// Starts writing the dirty pages of `range` of `file` to the medium, without waiting. A hint.
pub fn start_writeback(file: &File, range: ByteRange) {
    if let (Ok(offset), Ok(len)) = (i64::try_from(range.start_bytes), i64::try_from(range.len_bytes())) {
        // SAFETY: the descriptor is open for the duration of the call because the file is borrowed; the call takes
        // no pointers.
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
    }
}
