//! A volume as those see it who look inside: a disk of a fixed size that can be read anywhere.
//!
//! The file systems' readers, the FUSE image and the NBD export all read a [`Disk`], and do not ask whether that is
//! a merged view, a partition of one, or one with a throw-away copy on top.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::model::units::ByteRange;

/// What a stretch of a disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes that somebody wrote; they may be zeros.
    Data,
    /// Room that was set aside and never written: reads as zeros.
    Zeros,
    /// Nothing is there: reads as zeros.
    Hole,
}

/// A range of a disk that is all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where, in bytes of the disk.
    pub range: ByteRange,
    /// Of which kind.
    pub content: Content,
}

/// Something of a fixed size that can be read anywhere, from any thread.
pub trait Disk: Send + Sync {
    /// How many bytes it has.
    fn size_bytes(&self) -> u64;

    /// Fills `buf` with the bytes at `offset_bytes`.
    ///
    /// # Errors
    /// An unreadable byte is an error that names the layer and the offset, never a zero. A range that is not all on
    /// the disk is an error, too.
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()>;

    /// What the part of `range` that is on the disk is made of: stretches in ascending order that leave out nothing
    /// from its start on. They may end before it does, but cover something unless it is empty; neighbours may be alike.
    ///
    /// # Errors
    /// When a layer's extents cannot be told.
    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>>;

    /// Whether it can be written to. What is written never reaches a replica.
    fn is_writable(&self) -> bool {
        false
    }

    /// Writes `bytes` at `offset_bytes`.
    ///
    /// # Errors
    /// When the disk is not writable, or has no room left for what differs from the replica.
    fn put(&self, _bytes: &[u8], _offset_bytes: u64) -> Result<()> {
        Err(read_only())
    }

    /// Makes `range` read as zeros.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    fn zero(&self, _range: ByteRange) -> Result<()> {
        Err(read_only())
    }
}

fn read_only() -> Error {
    Error::output("this view of the volume is read-only")
}

/// Fails unless `len` bytes at `offset_bytes` lie on a disk of `size_bytes`.
///
/// # Errors
/// `Usage`, with the offset.
pub fn check_range(size_bytes: u64, offset_bytes: u64, len: usize) -> Result<ByteRange> {
    let end = u64::try_from(len).ok().and_then(|len| offset_bytes.checked_add(len));
    match end {
        Some(end) if end <= size_bytes => Ok(ByteRange::new(offset_bytes, end)),
        _ => Err(Error::usage(format!("{len} bytes past the end of a disk of {size_bytes} bytes"))
            .at_offset(offset_bytes)),
    }
}

/// A part of a disk, such as a partition, as a disk of its own.
pub struct Part {
    whole: Arc<dyn Disk>,
    range: ByteRange,
}

impl Part {
    /// The part `range` of `whole`.
    ///
    /// # Errors
    /// `Source` when it is not all on the disk.
    pub fn new(whole: Arc<dyn Disk>, range: ByteRange) -> Result<Self> {
        if range.end_bytes > whole.size_bytes() {
            return Err(Error::source(format!(
                "the partition ends at byte {}, and the volume at {}",
                range.end_bytes,
                whole.size_bytes()
            ))
            .with_hint(
                "the partition table belongs to a larger volume: is the volume's size right (--size)?",
            ));
        }
        Ok(Part { whole, range })
    }
}

impl Disk for Part {
    fn size_bytes(&self) -> u64 {
        self.range.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        check_range(self.size_bytes(), offset_bytes, buf.len())?;
        self.whole.read_exact_at(buf, self.range.start_bytes + offset_bytes)
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        let start = self.range.start_bytes;
        let range = range.clip(ByteRange::new(0, self.size_bytes()));
        let mut stretches =
            self.whole.stretches(ByteRange::new(range.start_bytes + start, range.end_bytes + start))?;
        for Stretch { range, .. } in &mut stretches {
            *range = ByteRange::new(range.start_bytes - start, range.end_bytes - start);
        }
        Ok(stretches)
    }

    fn is_writable(&self) -> bool {
        self.whole.is_writable()
    }

    fn put(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        check_range(self.size_bytes(), offset_bytes, bytes.len())?;
        self.whole.put(bytes, self.range.start_bytes + offset_bytes)
    }

    fn zero(&self, range: ByteRange) -> Result<()> {
        let range = range.clip(ByteRange::new(0, self.size_bytes()));
        let start = self.range.start_bytes;
        self.whole.zero(ByteRange::new(range.start_bytes + start, range.end_bytes + start))
    }
}
