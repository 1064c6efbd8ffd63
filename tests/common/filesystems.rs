//! File systems of all kinds on loop devices, for tests that are root; each is unmounted when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::loopdev::{LoopDevice, Mounted, run, skipped, sparse_file};
use super::text;

/// A file system, and what it can do.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub name: &'static str,
    /// The program that makes it, with its options; none for one in memory.
    mkfs: &'static [&'static str],
    /// The Debian package that has this program.
    package: &'static str,
    /// What mounts it, with its options, the device and the directory to follow. Tried in turn.
    mounts: &'static [&'static [&'static str]],
    size_bytes: u64,
    /// Whether FIEMAP tells its extents.
    pub has_fiemap: bool,
    /// Whether files can share blocks.
    pub can_share: bool,
}

const MOUNT: &[&[&str]] = &[&["mount"]];
const MIB: u64 = 1 << 20;

pub const EXT4_4K: Kind = Kind {
    name: "ext4 with 4K blocks",
    mkfs: &["mkfs.ext4", "-q", "-b", "4096"],
    package: "e2fsprogs",
    mounts: MOUNT,
    size_bytes: 256 * MIB,
    has_fiemap: true,
    can_share: false,
};

pub const EXT4_1K: Kind =
    Kind { name: "ext4 with 1K blocks", mkfs: &["mkfs.ext4", "-q", "-b", "1024"], ..EXT4_4K };

pub const XFS: Kind = Kind {
    name: "XFS",
    mkfs: &["mkfs.xfs", "-q"],
    package: "xfsprogs",
    // What mkfs.xfs takes at least is 300 MiB.
    size_bytes: 512 * MIB,
    can_share: true,
    ..EXT4_4K
};

pub const BTRFS: Kind = Kind {
    name: "btrfs",
    mkfs: &["mkfs.btrfs", "-q"],
    package: "btrfs-progs",
    size_bytes: 512 * MIB,
    can_share: true,
    ..EXT4_4K
};

pub const BTRFS_COMPRESSED: Kind =
    Kind { name: "btrfs with compression", mounts: &[&["mount", "-o", "compress-force=zstd"]], ..BTRFS };

pub const TMPFS: Kind = Kind {
    name: "tmpfs",
    mkfs: &[],
    mounts: &[&["mount", "-t", "tmpfs", "-o", "size=256m"]],
    has_fiemap: false,
    ..EXT4_4K
};

pub const EXFAT: Kind = Kind {
    name: "exFAT",
    mkfs: &["mkfs.exfat"],
    package: "exfatprogs",
    mounts: &[&["mount", "-t", "exfat"], &["mount.exfat-fuse"]],
    size_bytes: 16 * MIB,
    has_fiemap: false,
    ..EXT4_4K
};

pub const FAT: Kind = Kind {
    name: "FAT",
    mkfs: &["mkfs.vfat", "-F", "32"],
    package: "dosfstools",
    mounts: &[&["mount", "-t", "vfat"]],
    size_bytes: 64 * MIB,
    ..EXFAT
};

/// A file system in use; the fields are dropped in this order.
pub struct FileSystem {
    _mounted: Mounted,
    _device: Option<LoopDevice>,
    _tmp: TempDir,
    /// Its root directory.
    pub root: PathBuf,
}

impl Kind {
    /// Makes one and mounts it; `None`, said on stderr, where that cannot be done here. The caller is root.
    pub fn mount(&self, test: &str) -> Option<FileSystem> {
        let tmp = super::scratch();
        let root = tmp.path().join("mnt");
        fs::create_dir(&root).unwrap();
        let device = match self.mkfs {
            [] => None,
            [program, options @ ..] => {
                let backing = sparse_file(&tmp.path().join("disk.img"), self.size_bytes);
                if Command::new(program)
                    .arg("-V")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_err()
                {
                    skipped(
                        &format!("{test} on {}", self.name),
                        &format!("no {program} (package {})", self.package),
                    );
                    return None;
                }
                run(program, &[options, &[text(&backing)]].concat());
                Some(LoopDevice::over(&backing))
            }
        };
        let node = device.as_ref().map_or(Path::new("none"), |device| &device.path);
        let mounted = self.mounts.iter().any(|mount| {
            let status = Command::new(mount[0]).args(&mount[1..]).args([node, &root]).output();
            status.is_ok_and(|output| output.status.success())
        });
        if !mounted {
            skipped(&format!("{test} on {}", self.name), "the kernel cannot mount it, nor can FUSE");
            return None;
        }
        let mounted = Mounted { point: root.clone() };
        Some(FileSystem { _mounted: mounted, _device: device, _tmp: tmp, root })
    }
}
