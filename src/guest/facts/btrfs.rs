//! btrfs: `struct btrfs_super_block` in the kernel's `include/uapi/linux/btrfs_tree.h`, 64 KiB from the beginning.

use crc_fast::{CrcAlgorithm, checksum};

use crate::error::Result;
use crate::guest::facts::{Facts, Journal, Kind, bytes_at};
use crate::guest::fields::Fields;
use crate::view::disk::Disk;

const OFFSET: usize = 0x1_0000;
const LENGTH: usize = 4096;
const MAGIC: &[u8; 8] = b"_BHRfS_M";
/// Where the magic is within the superblock.
const MAGIC_AT: usize = 0x40;
/// Where the second superblock is (`BTRFS_SUPER_INFO_OFFSET`'s first mirror).
const COPY: u64 = 64 << 20;
/// The kind of sums that are worked out here; there are three more.
const SUM_CRC32C: u16 = 0;

/// What the superblock says; `None` when there is none.
pub fn facts(head: &[u8]) -> Option<Facts> {
    let block = head.get(OFFSET..OFFSET + LENGTH)?;
    let sb = Fields::little(block);
    if !block[MAGIC_AT..].starts_with(MAGIC) {
        return None;
    }
    let (total, used) = (sb.u64(0x70)?, sb.u64(0x78)?);
    let mut facts = Facts {
        label: sb.text(0x12b, 256),
        uuid: sb.uuid(0x20),
        size_bytes: Some(total),
        free_bytes: total.checked_sub(used),
        // What fsync has written since the last commit.
        journal: if sb.u64(0x60)? != 0 { Journal::Dirty } else { Journal::Clean },
        ..Facts::of(Kind::Btrfs, "a btrfs file system")
    };
    let sum = checksum(CrcAlgorithm::Crc32Iscsi, &block[32..]);
    if sb.u16(0xc4)? == SUM_CRC32C && u64::from(sb.u32(0)?) != sum {
        facts.damage.push("its superblock does not match its checksum".to_owned());
    }
    match sb.u64(0x88)? {
        1 => {}
        devices => {
            // What it takes in all says nothing of this device.
            facts.size_bytes = sb.u64(0xc9 + 8);
            facts.damage.push(format!(
                "it spans {devices} devices, of which this is one: the others are needed, too"
            ));
        }
    }
    facts.notes.push(format!("generation {}", sb.u64(0x48)?));
    Some(facts)
}

/// Whether a copy of a superblock is where btrfs keeps it, for a disk whose own is gone.
pub fn copy_elsewhere(disk: &dyn Disk) -> Result<Option<String>> {
    let block = bytes_at(disk, COPY, 0x48)?;
    let found = block.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC));
    Ok(found.then(|| {
        format!("the beginning of a btrfs file system is gone: a copy of its superblock is at byte {COPY}")
    }))
}
