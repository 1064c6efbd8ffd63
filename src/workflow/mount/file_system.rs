//! How each file system is mounted such that nothing is replayed, run, or taken for something else.

use std::io;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::guest::Guest;
use crate::sys::mount::{mount_for_writing, mount_read_only, unmount_at};
use crate::view::disk::Disk;
use crate::workflow::mount::teardown::retried;

/// Bits of ext4's `s_feature_compat` and `s_feature_incompat` (fs/ext4/ext4.h).
const EXT4_FAST_COMMIT: u32 = 0x400;
const EXT4_NEEDS_RECOVERY: u32 = 0x4;

/// What becomes of a journal that was not played back when the volume stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Journal {
    /// It is left alone: files are as they are without it.
    #[default]
    Skip,
    /// It is played back, on a throw-away copy.
    Replay,
}

/// A file system as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// The kernel's name for it.
    pub name: &'static str,
    /// What it is mounted with, always.
    always: &'static str,
    /// What keeps its journal from being played back.
    no_replay: &'static str,
}

/// By the names that [`Guest`] has for them. Options as in ext4(5), xfs(5), btrfs(5), and the kernel's
/// `Documentation/filesystems/f2fs.rst`. A superblock of ext4 may say that the machine is to panic at the first error:
/// `errors=continue` overrides it. Two XFS or btrfs file systems of one identity would be in each other's way.
const KNOWN: [(&str, FileSystem); 9] = [
    ("an ext2, ext3 or ext4 file system", known("ext4", "errors=continue", "noload")),
    ("an XFS file system", known("xfs", "nouuid", "norecovery")),
    ("a btrfs file system", known("btrfs", "", "rescue=nologreplay")),
    ("an F2FS file system", known("f2fs", "", "norecovery")),
    ("an ISO 9660 file system", known("iso9660", "", "")),
    ("a squashfs file system", known("squashfs", "", "")),
    ("an NTFS file system", known("ntfs3", "", "")),
    ("an exFAT file system", known("exfat", "", "")),
    ("a FAT file system", known("vfat", "", "")),
];

const fn known(name: &'static str, always: &'static str, no_replay: &'static str) -> FileSystem {
    FileSystem { name, always, no_replay }
}

impl FileSystem {
    /// The one that was recognised, unless it is none.
    pub fn of(guest: Option<Guest>) -> Option<Self> {
        KNOWN.iter().find(|(name, _)| guest.is_some_and(|guest| guest.name == *name)).map(|(_, known)| *known)
    }

    /// What it is mounted with, beyond `ro,nosuid,nodev,noexec`.
    pub fn options(&self, journal: Journal) -> String {
        let no_replay = if journal == Journal::Skip { self.no_replay } else { "" };
        let options = [no_replay, self.always].into_iter().filter(|options| !options.is_empty());
        options.collect::<Vec<_>>().join(",")
    }

    /// What it is mounted with to write files to it. An error is to stop the writing, and not the machine; and ext4 is
    /// not to zero inode tables meanwhile, which it may do by discarding.
    pub fn options_for_writing(&self) -> &'static str {
        match self.name {
            "ext4" => "errors=remount-ro,noinit_itable",
            _ => self.always,
        }
    }

    /// Whether its journal holds what is not in the files yet; `None` when that cannot be told from its superblock.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn journal_is_dirty(&self, disk: &dyn Disk) -> Result<Option<bool>> {
        match self.name {
            "ext4" => Ok(Some(ext4_features(disk)?.1 & EXT4_NEEDS_RECOVERY != 0)),
            "xfs" | "btrfs" | "f2fs" => Ok(None),
            _ => Ok(Some(false)),
        }
    }

    /// Whether its journal may have fast commits that wait. The kernel replays them only when it mounts for writing
    /// (`ext4_fc_replay_scan` and what follows it write to the file system), and refuses to mount for reading.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn may_have_fast_commits(&self, disk: &dyn Disk) -> Result<bool> {
        if self.name != "ext4" {
            return Ok(false);
        }
        let (compatible, incompatible) = ext4_features(disk)?;
        Ok(compatible & EXT4_FAST_COMMIT != 0 && incompatible & EXT4_NEEDS_RECOVERY != 0)
    }

    /// Has the kernel replay the journal on `device`, which is mounted for writing for that long, at `point`.
    ///
    /// # Errors
    /// As [`mount`](Self::mount), and `External` when it cannot be unmounted again.
    pub fn replay(&self, device: &Path, point: &Path) -> Result<()> {
        // Nothing is to be written but what the journal holds.
        let options = format!("{},noinit_itable", self.options(Journal::Replay));
        mount_for_writing(device, point, self.name, &options)
            .map_err(|e| self.refused(e, Journal::Replay))?;
        retried(|| unmount_at(point)).map_err(|e| {
            Error::new(ErrorKind::External, "cannot unmount the file system after its journal was replayed")
                .with_path(point)
                .caused_by(e)
        })
    }

    /// Mounts `device` at `point`.
    ///
    /// # Errors
    /// `Usage` when the kernel knows no such file system, `Source` when it cannot mount this one.
    pub fn mount(&self, device: &Path, point: &Path, journal: Journal) -> Result<()> {
        let options = self.options(journal);
        mount_read_only(device, point, self.name, &options).map_err(|e| self.refused(e, journal))
    }

    fn refused(&self, e: io::Error, journal: Journal) -> Error {
        if e.raw_os_error() == Some(nix::libc::ENODEV) {
            return Error::usage(format!("this machine's kernel has no {} file system", self.name))
                .with_hint(format!(
                    "as root: `modprobe {}`; or look at it elsewhere: lhrecover serve, lhrecover merge",
                    self.name
                ));
        }
        let hint = match journal {
            Journal::Skip => {
                "`dmesg` says why; it may mount once its journal is played back, on a throw-away copy: --journal \
                 replay; or try another snapshot (--at)"
            }
            Journal::Replay => {
                "`dmesg` says why; without its journal it may mount: leave out --journal replay; or try another \
                 snapshot (--at)"
            }
        };
        Error::source(format!("the kernel cannot mount the {} file system in the volume", self.name))
            .caused_by(e)
            .with_hint(hint)
    }
}

/// `s_feature_compat` and `s_feature_incompat` of ext4's superblock.
fn ext4_features(disk: &dyn Disk) -> Result<(u32, u32)> {
    let mut features = [0; 8];
    disk.read_exact_at(&mut features, 1024 + 0x5c)?;
    let [a, b, c, d, e, f, g, h] = features;
    Ok((u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{GuestKind, recognise};

    #[test]
    fn every_file_system_that_is_recognised_can_be_mounted() {
        let heads: [(usize, &[u8]); 5] = [
            (0, b"XFSB"),
            (0x438, b"\x53\xef"),
            (0x1_0040, b"_BHRfS_M"),
            (0x8001, b"CD001"),
            (3, b"NTFS    "),
        ];
        for (at, magic) in heads {
            let mut head = vec![0; 128 << 10];
            head[at..at + magic.len()].copy_from_slice(magic);
            let guest = recognise(&head).filter(|guest| guest.kind == GuestKind::FileSystem);
            assert!(FileSystem::of(guest).is_some(), "{guest:?}");
        }
        assert_eq!(FileSystem::of(None), None);
    }

    #[test]
    fn nothing_is_replayed_unless_it_is_asked_for() {
        let options = |at: usize, journal| KNOWN[at].1.options(journal);
        assert_eq!(options(0, Journal::Skip), "noload,errors=continue");
        assert_eq!(options(0, Journal::Replay), "errors=continue");
        assert_eq!(options(1, Journal::Skip), "norecovery,nouuid");
        assert_eq!(options(1, Journal::Replay), "nouuid");
        assert_eq!(options(2, Journal::Skip), "rescue=nologreplay");
        assert_eq!((options(2, Journal::Replay), options(8, Journal::Skip)), (String::new(), String::new()));
    }
}
