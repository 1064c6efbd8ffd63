//! Whether an XFS log must be replayed: it need not if its last record says that the file system was unmounted.
//!
//! Every block of 512 bytes in the log begins with the number of the turn in which it was written, so the end of what was
//! written last can be found by halving, in a few reads. As `xlog_find_head` and `xlog_check_unmount_rec` in the kernel's
//! `fs/xfs/xfs_log_recover.c`, which also looks behind writes that were cut short: after one, the last record is none of
//! an unmount, and the answer is the same.

use crate::error::Result;
use crate::guest::facts::{Journal, bytes_at, xfs};
use crate::guest::fields::Fields;
use crate::view::disk::Disk;

const BLOCK_BYTES: u64 = 512;
/// What a record's header begins with (`XLOG_HEADER_MAGIC_NUM`).
const RECORD_MAGIC: u32 = 0xfeed_babe;
/// How far back the last record can begin, in blocks: the longest is 256 KiB, and its header up to 8 blocks.
const LONGEST_RECORD: u64 = 512 + 8;
/// A flag of an operation: the file system was unmounted (`XLOG_UNMOUNT_TRANS`).
const UNMOUNT: u8 = 0x20;
/// How much of a record one block of its header describes, in bytes (`XLOG_HEADER_CYCLE_SIZE`).
const PER_HEADER_BLOCK: u32 = 32 << 10;

/// What the log of the file system whose superblock `head` begins with says.
///
/// # Errors
/// When the log cannot be read.
pub fn state(head: &[u8], disk: &dyn Disk) -> Result<Journal> {
    let Some(log) = xfs::log(head) else { return Ok(Journal::Unknown) };
    let fits = log.blocks.checked_mul(BLOCK_BYTES).and_then(|bytes| bytes.checked_add(log.start_bytes));
    if log.blocks < 2 || fits.is_none_or(|end| end > disk.size_bytes()) {
        return Ok(Journal::Unknown);
    }
    let log = LogBlocks { disk, log };
    let Some(end) = log.end()? else { return Ok(Journal::Clean) };
    match log.last_record(end)? {
        None => Ok(Journal::Unknown),
        Some(start) if log.is_unmount(start, end)? => Ok(Journal::Clean),
        Some(_) => Ok(Journal::Dirty),
    }
}

/// The log as blocks of 512 bytes, a ring.
struct LogBlocks<'a> {
    disk: &'a dyn Disk,
    log: xfs::Log,
}

impl LogBlocks<'_> {
    fn block(&self, number: u64) -> Result<Vec<u8>> {
        let within = number % self.log.blocks * BLOCK_BYTES;
        bytes_at(self.disk, self.log.start_bytes + within, BLOCK_BYTES)
    }

    /// In which turn the block was written; 0 when it never was.
    fn turn(&self, number: u64) -> Result<u32> {
        let block = self.block(number)?;
        let fields = Fields::big(&block);
        let first = fields.u32(0).unwrap_or_default();
        Ok(if first == RECORD_MAGIC { fields.u32(4).unwrap_or_default() } else { first })
    }

    /// The block after the last one that was written; `None` when none was.
    fn end(&self) -> Result<Option<u64>> {
        let (first, last) = (self.turn(0)?, self.turn(self.log.blocks - 1)?);
        if first == 0 {
            return Ok(None);
        }
        if first == last {
            return Ok(Some(self.log.blocks));
        }
        let (mut low, mut high) = (0, self.log.blocks - 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.turn(middle)? == last { high = middle } else { low = middle }
        }
        Ok(Some(high))
    }

    /// Where the last record before `end` begins.
    fn last_record(&self, end: u64) -> Result<Option<u64>> {
        for back in 1..=LONGEST_RECORD.min(self.log.blocks - 1) {
            let number = end + self.log.blocks - back;
            if Fields::big(&self.block(number)?).u32(0) == Some(RECORD_MAGIC) {
                return Ok(Some(number));
            }
        }
        Ok(None)
    }

    /// Whether the record at `start` ends at `end`, and says nothing but that the file system was unmounted.
    fn is_unmount(&self, start: u64, end: u64) -> Result<bool> {
        let block = self.block(start)?;
        let header = Fields::big(&block);
        let number = |at: usize| header.u32(at).unwrap_or_default();
        let (version, record_bytes, operations) = (number(8), number(12), number(40));
        let header_blocks = if version & 2 != 0 { number(320).div_ceil(PER_HEADER_BLOCK).max(1) } else { 1 };
        let length = u64::from(header_blocks) + u64::from(record_bytes).div_ceil(BLOCK_BYTES);
        if operations != 1 || (start + length) % self.log.blocks != end % self.log.blocks {
            return Ok(false);
        }
        let operation = self.block(start + u64::from(header_blocks))?;
        Ok(operation.get(9).is_some_and(|flags| flags & UNMOUNT != 0))
    }
}
