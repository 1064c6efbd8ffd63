//! DOS partition tables, with extended and logical partitions.
//!
//! As the kernel reads them (`block/partitions/msdos.c`): four entries of 16 bytes at byte 446, the signature at 510.
//! An extended partition begins with a table of its own, whose first entry is a logical partition, counted from that
//! table, and whose second leads to the next table, counted from the beginning of the extended partition.

use std::collections::HashSet;

use super::{Partition, Scheme, Table, le32, sector, sectors};
use crate::error::Result;
use crate::view::disk::Disk;

/// DOS tables count in these, whatever the disk's own sector is.
const SECTOR_BYTES: u64 = 512;

/// Types of extended partitions: by CHS, by LBA, and Linux's own.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// The type of the one partition that keeps old programs away from a GPT.
const PROTECTIVE: u8 = 0xee;

/// The most logical partitions; the kernel follows a hundred tables at most.
const MAX_LOGICAL: u32 = 100;

const BROKEN: &str = "the chain of logical partitions is broken: those behind the break are not listed";

/// One entry of a table.
#[derive(Clone, Copy)]
struct Entry {
    kind: u8,
    first: u64,
    count: u64,
}

/// The entries of a table; `None` where there is no table.
fn entries(sector: &[u8]) -> Option<[Entry; 4]> {
    let table = sector.get(446..510)?;
    // A file system's boot sector has the signature, too; where the entries would be, it has code.
    let plausible = table.chunks_exact(16).all(|entry| matches!(entry[0], 0 | 0x80));
    (sector.get(510..512) == Some(&[0x55, 0xaa]) && plausible).then(|| {
        std::array::from_fn(|i| {
            let entry = &table[16 * i..16 * (i + 1)];
            Entry { kind: entry[4], first: le32(entry, 8).into(), count: le32(entry, 12).into() }
        })
    })
}

impl Entry {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.count != 0
    }

    fn partition(&self, number: u32, base: u64) -> Option<Partition> {
        let range = sectors(base.checked_add(self.first)?, self.count, SECTOR_BYTES)?;
        Some(Partition { number, range, name: String::new() })
    }
}

/// Whether a disk that begins with this sector says that it has a GPT.
pub(super) fn is_protective(first: &[u8]) -> bool {
    entries(first).is_some_and(|entries| entries.iter().any(|entry| entry.kind == PROTECTIVE))
}

/// The table in the disk's first sector, and those it leads to.
pub(super) fn read(disk: &dyn Disk, first: &[u8]) -> Result<Option<Table>> {
    let Some(entries) = entries(first) else { return Ok(None) };
    let mut partitions = Vec::new();
    let mut doubt = None;
    let mut extended = None;
    for (number, entry) in (1..).zip(entries).filter(|(_, entry)| entry.is_used()) {
        if EXTENDED.contains(&entry.kind) {
            extended = extended.or(Some(entry.first));
        } else {
            partitions.extend(entry.partition(number, 0));
        }
    }
    if let Some(base) = extended {
        doubt = read_logical(disk, base, &mut partitions)?;
    }
    Ok((!partitions.is_empty()).then_some(Table { scheme: Scheme::Dos, partitions, doubt }))
}

/// Follows the chain of tables in the extended partition that begins at the sector `base`. What is wrong with it, if
/// anything is.
fn read_logical(disk: &dyn Disk, base: u64, partitions: &mut Vec<Partition>) -> Result<Option<&'static str>> {
    let mut seen = HashSet::new();
    let mut number = 5;
    let mut at = base;
    while number < 5 + MAX_LOGICAL && seen.insert(at) {
        let table = match at.checked_mul(SECTOR_BYTES) {
            Some(offset_bytes) => sector(disk, offset_bytes, 512)?,
            None => None,
        };
        let Some([logical, next, ..]) = table.as_deref().and_then(entries) else { return Ok(Some(BROKEN)) };
        if logical.is_used() && !EXTENDED.contains(&logical.kind) {
            partitions.extend(logical.partition(number, at));
            number += 1;
        }
        if !next.is_used() || !EXTENDED.contains(&next.kind) {
            return Ok(None);
        }
        let Some(next) = base.checked_add(next.first) else { return Ok(Some(BROKEN)) };
        at = next;
    }
    Ok(Some(BROKEN))
}
