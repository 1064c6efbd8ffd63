//! GUID partition tables.
//!
//! As in the UEFI specification 2.10, section 5.3: a header in the disk's second sector, a copy of it in the last one,
//! and an array of entries that each of them points to; both header and array have a CRC-32. The copy counts when the
//! first is damaged.

use super::{Partition, Scheme, Table, le32, le64, sector, sectors};
use crate::error::{Error, Result};
use crate::view::disk::Disk;

const SIGNATURE: &[u8] = b"EFI PART";

/// A header has at least this many bytes, and at most a sector.
const HEADER_LEN: usize = 92;

/// The most that an array of entries may take, in bytes. The usual one takes 16 KiB.
const MAX_ARRAY_BYTES: usize = 1 << 20;

/// Where the entry's name is, 36 units of UTF-16.
const NAME: std::ops::Range<usize> = 56..128;

/// What both copies being damaged means.
pub(super) fn damaged() -> Error {
    Error::source("the volume has a GPT partition table, and both copies of it are damaged").with_hint(
        "the volume's size may be wrong (--size): the second copy is looked for in its last sector; to work on it with \
         other tools: lhrecover mount --image-only",
    )
}

/// The table of a disk whose sectors have `sector_bytes`; `None` when neither copy is there, or fit to be used.
pub(super) fn read(disk: &dyn Disk, sector_bytes: u64) -> Result<Option<Table>> {
    if let Some(table) = copy_at(disk, 1, sector_bytes)? {
        return Ok(Some(table));
    }
    let Some(last) = (disk.size_bytes() / sector_bytes).checked_sub(1) else { return Ok(None) };
    let table = copy_at(disk, last, sector_bytes)?;
    Ok(table.map(|table| Table {
        doubt: Some(
            "the first copy of the partition table is damaged or missing: the one at the end was used",
        ),
        ..table
    }))
}

/// The table whose header is in the sector `at`, if header and entries are undamaged.
fn copy_at(disk: &dyn Disk, at: u64, sector_bytes: u64) -> Result<Option<Table>> {
    let Ok(sector_len) = usize::try_from(sector_bytes) else { return Ok(None) };
    let Some(offset_bytes) = at.checked_mul(sector_bytes) else { return Ok(None) };
    let Some(header) = sector(disk, offset_bytes, sector_len)? else { return Ok(None) };
    let Some(array) = Array::of_header(&header, at) else { return Ok(None) };
    let Some(offset_bytes) = array.first_sector.checked_mul(sector_bytes) else { return Ok(None) };
    let Some(entries) = sector(disk, offset_bytes, array.count * array.entry_len)? else { return Ok(None) };
    if crc32fast::hash(&entries) != array.crc {
        return Ok(None);
    }
    let partitions = (1..)
        .zip(entries.chunks_exact(array.entry_len))
        .filter_map(|(number, entry)| partition(number, entry, sector_bytes))
        .collect();
    Ok(Some(Table { scheme: Scheme::Gpt, partitions, doubt: None }))
}

/// Where a header says that the entries are.
struct Array {
    first_sector: u64,
    count: usize,
    entry_len: usize,
    crc: u32,
}

impl Array {
    /// As the header in the sector `at` has it; `None` when that is no header, or a damaged one.
    fn of_header(header: &[u8], at: u64) -> Option<Self> {
        let len = usize::try_from(le32(header, 12)).ok()?;
        let mut counted = header.get(..len).filter(|_| len >= HEADER_LEN)?.to_vec();
        // The header's own sum is taken with zeros in its place.
        counted[16..20].fill(0);
        let whole = counted.starts_with(SIGNATURE) && crc32fast::hash(&counted) == le32(header, 16);
        if !whole || le64(header, 24) != at {
            return None;
        }
        let count = usize::try_from(le32(header, 80)).ok()?;
        let entry_len = usize::try_from(le32(header, 84)).ok()?;
        let fits = count.checked_mul(entry_len).is_some_and(|bytes| bytes <= MAX_ARRAY_BYTES);
        (fits && entry_len >= NAME.end).then(|| Array {
            first_sector: le64(header, 72),
            count,
            entry_len,
            crc: le32(header, 88),
        })
    }
}

/// An entry: its type is 16 zero bytes when it is not used; the last sector is part of it.
fn partition(number: u32, entry: &[u8], sector_bytes: u64) -> Option<Partition> {
    if entry.get(..16)?.iter().all(|&byte| byte == 0) {
        return None;
    }
    let (first, last) = (le64(entry, 32), le64(entry, 40));
    let range = sectors(first, last.checked_sub(first)?.checked_add(1)?, sector_bytes)?;
    let name = entry.get(NAME)?.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]]));
    let name: Vec<u16> = name.take_while(|&unit| unit != 0).collect();
    Some(Partition { number, range, name: String::from_utf16_lossy(&name) })
}
