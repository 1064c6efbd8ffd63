//! ext2, ext3 and ext4: `struct ext4_super_block` in the kernel's `fs/ext4/ext4.h`, 1024 bytes from the beginning.

use crc_fast::{CrcAlgorithm, checksum};

use crate::error::Result;
use crate::guest::facts::{Facts, Journal, Kind, bytes_at};
use crate::guest::fields::Fields;
use crate::view::disk::Disk;

const OFFSET: usize = 1024;
const LENGTH: usize = 1024;
const MAGIC: u16 = 0xef53;
/// Where the superblock's own sum is.
const SUM: usize = 0x3fc;

/// Bits of `s_state`.
const WITH_ERRORS: u16 = 2;
const ORPHANS: u16 = 4;
/// Bits of `s_feature_compat`.
const HAS_JOURNAL: u32 = 4;
/// Bits of `s_feature_incompat`.
const NEEDS_RECOVERY: u32 = 4;
const IS_JOURNAL: u32 = 8;
const HAS_64BIT: u32 = 0x80;
/// Bits of `s_feature_ro_compat`.
const METADATA_SUMS: u32 = 0x400;

/// What ext3 knows (`EXT3_FEATURE_INCOMPAT_SUPP`, `EXT3_FEATURE_RO_COMPAT_SUPP`); more makes it ext4.
const EXT3_INCOMPAT: u32 = 0x16;
const EXT3_RO_COMPAT: u32 = 0x7;

/// Where the second superblock is for blocks of 1, 2 and 4 KiB, in bytes: at the beginning of the second group.
const COPIES: [u64; 3] = [8193 << 10, 16384 << 11, 32768 << 12];

/// What the superblock says; `None` when there is none.
pub fn facts(head: &[u8]) -> Option<Facts> {
    let block = head.get(OFFSET..OFFSET + LENGTH)?;
    let sb = Fields::little(block);
    if sb.u16(0x38)? != MAGIC {
        return None;
    }
    let (compat, incompat, ro_compat) = (sb.u32(0x5c)?, sb.u32(0x60)?, sb.u32(0x64)?);
    let name = match () {
        () if incompat & IS_JOURNAL != 0 => "the external journal of an ext3 or ext4 file system",
        () if incompat & !EXT3_INCOMPAT != 0 || ro_compat & !EXT3_RO_COMPAT != 0 => "an ext4 file system",
        () if compat & HAS_JOURNAL != 0 => "an ext3 file system",
        () => "an ext2 file system",
    };
    let kind = if incompat & IS_JOURNAL != 0 { Kind::Other } else { Kind::Ext };
    let block_bytes = 1024u64.checked_shl(sb.u32(0x18)?).filter(|bytes| (1024..=65536).contains(bytes));
    let blocks = |low: usize, high: usize| {
        let high = if incompat & HAS_64BIT != 0 { u64::from(sb.u32(high)?) } else { 0 };
        (high << 32 | u64::from(sb.u32(low)?)).checked_mul(block_bytes?)
    };
    let mut facts = Facts {
        label: sb.text(0x78, 16),
        uuid: sb.uuid(0x68),
        size_bytes: blocks(0x04, 0x150),
        free_bytes: blocks(0x0c, 0x158),
        inodes: sb.u32(0x00).map(u64::from),
        inodes_free: sb.u32(0x10).map(u64::from),
        created_at: time(&sb, 0x108, 0x276),
        mounted_at: time(&sb, 0x2c, 0x275),
        mounted_on: sb.text(0x88, 64),
        written_at: time(&sb, 0x30, 0x274),
        checked_at: time(&sb, 0x40, 0x277),
        mounts: sb.u16(0x34).map(u32::from),
        journal: match (compat & HAS_JOURNAL != 0, incompat & NEEDS_RECOVERY != 0) {
            (_, true) => Journal::Dirty,
            (true, false) => Journal::Clean,
            (false, false) => Journal::None,
        },
        recorded_errors: recorded_errors(&sb),
        ..Facts::of(kind, name)
    };
    if ro_compat & METADATA_SUMS != 0 && u64::from(sb.u32(SUM)?) != sum(&block[..SUM]) {
        facts.damage.push("its superblock does not match its checksum".to_owned());
    }
    if block_bytes.is_none() {
        facts.damage.push("its superblock has a block size that there is not".to_owned());
    }
    if sb.u16(0x3a)? & ORPHANS != 0 || sb.u32(0xe8)? != 0 {
        facts.notes.push("files that were deleted while open wait to be freed".to_owned());
    }
    Some(facts)
}

/// When the superblock on `disk` was last written.
///
/// # Errors
/// When it cannot be read.
pub fn written_at(disk: &dyn Disk) -> Result<Option<i64>> {
    let block = bytes_at(disk, OFFSET as u64, LENGTH as u64)?;
    Ok(time(&Fields::little(&block), 0x30, 0x274))
}

/// What the kernel noted down of errors it met; a checker that repairs the file system clears it.
fn recorded_errors(sb: &Fields<'_>) -> Option<String> {
    let (state, count) = (sb.u16(0x3a)?, sb.u32(0x194)?);
    if count > 0 {
        let first = sb.text(0x1a8, 32).unwrap_or_else(|| "an unknown place".to_owned());
        let last = sb.text(0x1e0, 32).unwrap_or_else(|| "an unknown place".to_owned());
        return Some(format!(
            "the kernel met {count} errors in it, the first in {first}, the last in {last}, and no check has cleared them"
        ));
    }
    (state & WITH_ERRORS != 0).then(|| "it is marked as having errors".to_owned())
}

/// A time of 32 bits, and 8 more elsewhere.
fn time(sb: &Fields<'_>, low: usize, high: usize) -> Option<i64> {
    let seconds = i64::from(sb.u8(high)?) << 32 | i64::from(sb.u32(low)?);
    Some(seconds).filter(|&seconds| seconds > 0)
}

/// CRC-32C as the kernel has it: begun with all ones, and not inverted in the end.
fn sum(bytes: &[u8]) -> u64 {
    checksum(CrcAlgorithm::Crc32Iscsi, bytes) ^ 0xffff_ffff
}

/// Whether a copy of a superblock is where ext keeps them, for a disk whose own is gone.
pub fn copy_elsewhere(disk: &dyn Disk) -> Result<Option<String>> {
    for at in COPIES {
        let block = bytes_at(disk, at, 0x60)?;
        let sb = Fields::little(&block);
        // Each copy knows the number of its group.
        if sb.u16(0x38) == Some(MAGIC) && sb.u16(0x5a) == Some(1) {
            return Ok(Some(format!(
                "the beginning of an ext file system is gone: a copy of its superblock is at byte {at}"
            )));
        }
    }
    Ok(None)
}
