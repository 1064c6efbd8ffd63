//! Partition tables: which ranges of a disk are partitions, by which numbers.
//!
//! Whoever put a partition table onto a volume wants one of its partitions, and the kernel here may not read tables on
//! loop devices at all. So they are read from the view itself, within bounds, and nothing is ever written: crates for
//! tables are made to edit them, and trust the sizes that a header names.

mod gpt;
mod mbr;

use crate::error::Result;
use crate::model::units::ByteRange;
use crate::view::disk::Disk;

/// Sizes of a sector that partition tables count in, in bytes; the usual one first.
const SECTOR_SIZES: [u64; 2] = [512, 4096];

/// Which sort of table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A DOS partition table (MBR).
    Dos,
    /// A GUID partition table.
    Gpt,
}

impl Scheme {
    /// What it is called, with its article.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Dos => "a DOS partition table",
            Scheme::Gpt => "a GPT partition table",
        }
    }
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as the kernel counts: from 1, logical partitions of a DOS table from 5.
    pub number: u32,
    /// Where it is, in bytes of the disk. It may reach past the disk's end when that was larger once.
    pub range: ByteRange,
    /// Its name, where the table has names; empty otherwise.
    pub name: String,
}

/// A partition table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Of which sort.
    pub scheme: Scheme,
    /// In ascending order of their numbers.
    pub partitions: Vec<Partition>,
    /// What is wrong with the table, although it could be read.
    pub doubt: Option<&'static str>,
}

/// Reads the partition table of `disk`; `None` when there is none.
///
/// # Errors
/// When the disk cannot be read, and `Source` when both copies of a GPT are damaged.
pub fn read(disk: &dyn Disk) -> Result<Option<Table>> {
    let Some(first) = sector(disk, 0, 512)? else { return Ok(None) };
    for sector_bytes in SECTOR_SIZES {
        if let Some(table) = gpt::read(disk, sector_bytes)? {
            return Ok(Some(table));
        }
    }
    if mbr::is_protective(&first) {
        return Err(gpt::damaged());
    }
    mbr::read(disk, &first)
}

/// `len` bytes at `offset_bytes`; `None` when they are not all on the disk.
fn sector(disk: &dyn Disk, offset_bytes: u64, len: usize) -> Result<Option<Vec<u8>>> {
    let end = u64::try_from(len).ok().and_then(|len| offset_bytes.checked_add(len));
    if end.is_none_or(|end| end > disk.size_bytes()) {
        return Ok(None);
    }
    let mut bytes = vec![0; len];
    disk.read_exact_at(&mut bytes, offset_bytes)?;
    Ok(Some(bytes))
}

/// The little-endian number at `at`; zero past the end.
fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u32::from_le_bytes(*chunk))
}

/// The little-endian number at `at`; zero past the end.
fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

/// The range of `count` sectors from `first` on, in bytes, if such numbers can be meant.
fn sectors(first: u64, count: u64, sector_bytes: u64) -> Option<ByteRange> {
    let start = first.checked_mul(sector_bytes)?;
    let end = first.checked_add(count)?.checked_mul(sector_bytes)?;
    Some(ByteRange::new(start, end)).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests;
