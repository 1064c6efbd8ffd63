//! What is inside an image: file systems, containers, partition tables, known by their magic.

pub mod databases;
pub mod ext;
pub mod facts;
pub mod fields;
pub mod files;
pub mod geometry;
pub mod partition;

use crate::error::Result;
use crate::view::disk::Disk;

/// How many bytes of an image's beginning tell what it is.
pub const HEAD_BYTES: u64 = 128 << 10;

/// What sort of thing is inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestKind {
    /// A file system.
    FileSystem,
    /// A LUKS container.
    Luks,
    /// Volume managers, partition tables, swap.
    Other,
}

/// The name of the file systems that [`ext`] reads.
pub const EXT: &str = "an ext2, ext3 or ext4 file system";

/// What an image was recognised as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// What sort of thing.
    pub kind: GuestKind,
    /// What it is, with its article: `an XFS file system`.
    pub name: &'static str,
}

/// A magic: these bytes at this offset mean that.
struct Magic {
    offset: usize,
    bytes: &'static [u8],
    guest: Guest,
}

const fn magic(offset: usize, bytes: &'static [u8], kind: GuestKind, name: &'static str) -> Magic {
    Magic { offset, bytes, guest: Guest { kind, name } }
}

use GuestKind::{FileSystem, Luks, Other};

/// What is known by its magic; the more telling ones first, since a boot sector may begin anything. Offsets and
/// bytes as in util-linux's libblkid, `libblkid/src/superblocks` and `partitions`.
const MAGICS: &[Magic] = &[
    magic(0, b"LUKS\xba\xbe", Luks, "a LUKS container"),
    magic(0, b"XFSB", FileSystem, "an XFS file system"),
    magic(0x438, b"\x53\xef", FileSystem, EXT),
    magic(0x1_0040, b"_BHRfS_M", FileSystem, "a btrfs file system"),
    magic(0x400, b"\x10\x20\xf5\xf2", FileSystem, "an F2FS file system"),
    magic(0, b"LABELONE", Other, "an LVM physical volume"),
    magic(512, b"LABELONE", Other, "an LVM physical volume"),
    magic(1024, b"LABELONE", Other, "an LVM physical volume"),
    magic(1536, b"LABELONE", Other, "an LVM physical volume"),
    magic(0, b"\xfc\x4e\x2b\xa9", Other, "a Linux RAID member"),
    magic(4096, b"\xfc\x4e\x2b\xa9", Other, "a Linux RAID member"),
    magic(4086, b"SWAPSPACE2", Other, "swap space"),
    magic(65526, b"SWAPSPACE2", Other, "swap space"),
    magic(0, b"bluestore block device", Other, "a Ceph OSD"),
    magic(0x8001, b"CD001", FileSystem, "an ISO 9660 file system"),
    magic(0, b"hsqs", FileSystem, "a squashfs file system"),
    magic(3, b"NTFS    ", FileSystem, "an NTFS file system"),
    magic(3, b"EXFAT   ", FileSystem, "an exFAT file system"),
    magic(82, b"FAT32   ", FileSystem, "a FAT file system"),
    magic(54, b"FAT1", FileSystem, "a FAT file system"),
    magic(512, b"EFI PART", Other, "a GPT partition table"),
    magic(4096, b"EFI PART", Other, "a GPT partition table"),
    magic(510, b"\x55\xaa", Other, "a DOS partition table or boot sector"),
];

/// What an image that begins with `head` is known to be; [`HEAD_BYTES`] of it are enough.
pub fn recognise(head: &[u8]) -> Option<Guest> {
    let matches = |m: &&Magic| head.get(m.offset..).is_some_and(|rest| rest.starts_with(m.bytes));
    MAGICS.iter().find(matches).map(|m| m.guest)
}

/// What is on `disk`.
///
/// # Errors
/// When its beginning cannot be read.
pub fn on_disk(disk: &dyn Disk) -> Result<Option<Guest>> {
    Ok(recognise(&head_of(disk)?))
}

/// As much of the beginning of `disk` as tells what it is.
///
/// # Errors
/// When it cannot be read.
pub fn head_of(disk: &dyn Disk) -> Result<Vec<u8>> {
    head(disk.size_bytes(), |buf, at| disk.read_exact_at(buf, at))
}

/// The same of anything of `size_bytes` that `read` reads at an offset.
///
/// # Errors
/// As those of `read`.
pub fn head(size_bytes: u64, read: impl FnOnce(&mut [u8], u64) -> Result<()>) -> Result<Vec<u8>> {
    let mut head = vec![0; usize::try_from(size_bytes.min(HEAD_BYTES)).unwrap_or_default()];
    read(&mut head, 0)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(bytes: &[(usize, &[u8])]) -> Vec<u8> {
        let mut image = vec![0; usize::try_from(HEAD_BYTES).unwrap()];
        for (at, what) in bytes {
            image[*at..*at + what.len()].copy_from_slice(what);
        }
        image
    }

    #[test]
    fn every_magic_is_recognised_within_the_head() {
        assert!(recognise(&image(&[])).is_none() && recognise(&[]).is_none());
        for m in MAGICS {
            assert_eq!(recognise(&image(&[(m.offset, m.bytes)])), Some(m.guest));
        }
    }

    #[test]
    fn a_file_system_wins_over_the_boot_sector_before_it() {
        let found = recognise(&image(&[(510, b"\x55\xaa"), (0x438, b"\x53\xef")])).unwrap();
        assert_eq!(found.kind, GuestKind::FileSystem);
    }
}
