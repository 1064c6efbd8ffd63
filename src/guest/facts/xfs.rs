//! XFS: `struct xfs_dsb` in the kernel's `fs/xfs/libxfs/xfs_format.h`, at the beginning.

use crc_fast::{CrcAlgorithm, Digest};

use crate::guest::facts::{Facts, Journal, Kind};
use crate::guest::fields::Fields;

const MAGIC: &[u8] = b"XFSB";
/// Where the superblock's own sum is, and how long it is.
const SUM: std::ops::Range<usize> = 224..228;
/// Version 5 has checksums.
const WITH_SUMS: u16 = 5;
/// An incompatible feature: the file system wants to be repaired before it is mounted.
const NEEDS_REPAIR: u32 = 1 << 4;

/// Where the log is, and how long: what [`xfs_log`](super::xfs_log) needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The first byte.
    pub start_bytes: u64,
    /// How many blocks of 512 bytes.
    pub blocks: u64,
}

/// What the superblock says; `None` when there is none.
pub fn facts(head: &[u8]) -> Option<Facts> {
    if !head.starts_with(MAGIC) {
        return None;
    }
    let sb = Fields::big(head);
    let block_bytes = sb.u32(4).map(u64::from).filter(|b| b.is_power_of_two() && (512..=65536).contains(b));
    let in_bytes = |blocks: Option<u64>| blocks?.checked_mul(block_bytes?);
    let version = sb.u16(100)? & 0xf;
    let mut facts = Facts {
        label: sb.text(108, 12),
        uuid: sb.uuid(32),
        size_bytes: in_bytes(sb.u64(8)),
        free_bytes: in_bytes(sb.u64(144)),
        inodes: sb.u64(128),
        inodes_free: sb.u64(136),
        journal: Journal::Unknown,
        ..Facts::of(Kind::Xfs, "an XFS file system")
    };
    if block_bytes.is_none() {
        facts.damage.push("its superblock has a block size that there is not".to_owned());
    }
    if version >= WITH_SUMS && !sum_is_right(head, &sb) {
        facts.damage.push("its superblock does not match its checksum".to_owned());
    }
    if version >= WITH_SUMS && sb.u32(216)? & NEEDS_REPAIR != 0 {
        facts.damage.push("it is marked as needing repair".to_owned());
    }
    if sb.u8(126)? != 0 {
        facts.damage.push("mkfs or a growth of it was not finished".to_owned());
    }
    Some(facts)
}

/// CRC-32C over the sector, the sum itself as zeros.
fn sum_is_right(head: &[u8], sb: &Fields<'_>) -> bool {
    let sector =
        sb.u16(102).and_then(|bytes| head.get(..usize::from(bytes))).filter(|sector| sector.len() >= 512);
    let Some(sector) = sector else { return false };
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&sector[..SUM.start]);
    digest.update(&[0; 4]);
    digest.update(&sector[SUM.end..]);
    // The only number here whose least significant byte comes first.
    Fields::little(sector).u32(SUM.start).is_some_and(|kept| u64::from(kept) == digest.finalize())
}

/// Where the log is; `None` when it is on another device, or the superblock does not make sense.
pub fn log(head: &[u8]) -> Option<Log> {
    let sb = Fields::big(head);
    let block_bytes = u64::from(sb.u32(4)?);
    let (start, group_blocks, group_bits) = (sb.u64(48)?, u64::from(sb.u32(84)?), u32::from(sb.u8(124)?));
    if start == 0 || group_bits > 32 {
        return None;
    }
    let group = start >> group_bits;
    let within = start & ((1 << group_bits) - 1);
    let start_bytes = group.checked_mul(group_blocks)?.checked_add(within)?.checked_mul(block_bytes)?;
    let blocks = u64::from(sb.u32(96)?).checked_mul(block_bytes)? / 512;
    Some(Log { start_bytes, blocks })
}
