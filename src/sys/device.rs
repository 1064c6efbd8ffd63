//! Facts about block devices: what a target is, what sits on it and under it, and who uses it.
//!
//! Writing an image over the wrong device is the worst thing this program could do, and a device has many
//! names: `/dev/longhorn/pvc-x` is also some `sdX`. So everything here speaks of device *numbers*; names are
//! for messages. This is the one place that asks block devices by ioctl and reads sysfs about them. It finds
//! facts and judges nothing: that is the guard's work.

pub mod attach;
#[cfg(test)]
mod fake;
mod ioctl;
mod kind;
mod loops;
mod topology;
mod users;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::stat::{major, makedev, minor};

use crate::error::{Error, Result};
use crate::model::units::ByteRange;

pub use kind::Kind;
pub use loops::Backing;
pub use topology::{Relation, Relative};
pub use users::{Mount, Opener, Openers};

/// The number of a device: the identity the kernel goes by, whatever the names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber(u64);

impl DeviceNumber {
    /// From an `st_dev` or `st_rdev`.
    pub fn from_raw(raw: u64) -> Self {
        DeviceNumber(raw)
    }

    /// As an `st_dev` or `st_rdev`.
    pub fn as_raw(self) -> u64 {
        self.0
    }

    /// From `major:minor`, as sysfs and mountinfo write it.
    pub fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(DeviceNumber(makedev(major.parse().ok()?, minor.parse().ok()?)))
    }

    /// The number of the block device at `path`, links followed; `None` when there is none. Never waits for a
    /// network file system.
    pub fn of_path(path: &Path) -> Option<Self> {
        ioctl::block_number_without_sync(path).map(DeviceNumber)
    }

    /// Whether it stands for no device: file systems such as btrfs and overlayfs make such numbers up.
    pub fn is_anonymous(self) -> bool {
        major(self.0) == 0
    }
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", major(self.0), minor(self.0))
    }
}

impl fmt::Debug for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the kernel's own files are: `/sys`, `/proc` and `/dev` under one root, which is `/` except in tests.
#[derive(Clone, Debug)]
pub struct Host {
    root: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Host::at("/")
    }
}

impl Host {
    /// A machine whose `sys`, `proc` and `dev` are in `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Host { root: root.into() }
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }
}

/// What a device is called, for messages and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The path as the user gave it.
    pub path: PathBuf,
    /// The number behind it.
    pub number: DeviceNumber,
    /// The kernel's name, such as `sdb`.
    pub name: String,
    /// Other names of the same number under `/dev/longhorn` and `/dev/mapper`.
    pub aliases: Vec<PathBuf>,
    /// Who made it, as the disk says.
    pub vendor: Option<String>,
    /// Its model, as the disk says.
    pub model: Option<String>,
    /// How many bytes it has.
    pub size_bytes: u64,
}

/// What an open block device is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only to look at it: others are not disturbed.
    Look,
    /// To write to it, with the kernel's promise (`O_EXCL`) that nothing mounts or maps it meanwhile.
    Exclusive,
}

/// An open block device.
#[derive(Debug)]
pub struct BlockDevice {
    file: File,
    path: PathBuf,
    number: DeviceNumber,
    size_bytes: u64,
    logical_block_bytes: u64,
    read_only: bool,
}

impl BlockDevice {
    /// Opens the block device at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`](crate::error::ErrorKind::Refused) when it is something else than a block device;
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when it is not there or may not be opened. With
    /// [`Access::Exclusive`] the cause is `EBUSY` when something in the kernel holds the device.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let cannot = |what: &str, e: io::Error| {
            let hint = hint_for(e.kind());
            let error = Error::usage(what).with_path(path).caused_by(e);
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        };
        let meta = fs::metadata(path).map_err(|e| cannot("cannot find the device", e))?;
        if !meta.file_type().is_block_device() {
            return Err(Error::refused("not a block device")
                .with_path(path)
                .with_hint("name a device, such as /dev/longhorn/<volume>"));
        }
        let flags = match access {
            Access::Look => libc::O_NONBLOCK,
            Access::Exclusive => libc::O_EXCL,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::Exclusive)
            .custom_flags(flags)
            .open(path)
            .map_err(|e| cannot("cannot open the device", e))?;
        // The path may have come to mean another device since: ask the open one.
        let meta = file.metadata().map_err(|e| cannot("cannot look at the device", e))?;
        if !meta.file_type().is_block_device() {
            return Err(Error::refused("not a block device any more").with_path(path));
        }
        let ask = |answer: io::Result<u64>| answer.map_err(|e| cannot("cannot ask the device", e));
        Ok(BlockDevice {
            number: DeviceNumber(meta.rdev()),
            size_bytes: ask(ioctl::size_bytes(&file))?,
            logical_block_bytes: ask(ioctl::logical_block_bytes(&file))?,
            read_only: ioctl::is_read_only(&file).map_err(|e| cannot("cannot ask the device", e))?,
            path: path.to_path_buf(),
            file,
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its number.
    pub fn number(&self) -> DeviceNumber {
        self.number
    }

    /// How many bytes it had when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The smallest piece it can address, in bytes.
    pub fn logical_block_bytes(&self) -> u64 {
        self.logical_block_bytes
    }

    /// Whether the kernel takes no writes for it.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The open file, for engines that read a finished output back.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Fills `buf` with the bytes at `offset_bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::Output`](crate::error::ErrorKind::Output), with the offset.
    pub fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset_bytes).map_err(|e| {
            Error::output("cannot read the device").with_path(&self.path).at_offset(offset_bytes).caused_by(e)
        })
    }

    /// Has the device itself zero a range of whole logical blocks (BLKZEROOUT). Whether this kind of device
    /// may be asked at all is [`Kind::may_zero_out`]'s to say. Returns `false` when the device cannot do it.
    ///
    /// # Errors
    /// [`ErrorKind::Output`](crate::error::ErrorKind::Output), with the offset.
    pub fn zero_out(&self, range: ByteRange) -> Result<bool> {
        match ioctl::zero_out(&self.file, range) {
            Ok(()) => Ok(true),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOTTY)) => {
                Ok(false)
            }
            Err(e) => Err(Error::output("cannot zero a part of the device")
                .with_path(&self.path)
                .at_offset(range.start_bytes)
                .caused_by(e)),
        }
    }
}

/// What to do about a device that cannot be opened.
fn hint_for(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::PermissionDenied => Some("devices are opened as root: try again with sudo"),
        io::ErrorKind::NotFound => {
            Some("a Longhorn volume is under /dev/longhorn only on the node it is attached to")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_the_kernel_writes_them() {
        let number = DeviceNumber::parse("259:70000\n").unwrap();
        assert_eq!(number.to_string(), "259:70000");
        assert_eq!(DeviceNumber::parse("0:45").map(DeviceNumber::is_anonymous), Some(true));
        assert_eq!(DeviceNumber::parse("8"), None);
        assert_eq!(DeviceNumber::parse("a:b"), None);
    }

    #[test]
    fn only_block_devices_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("image");
        fs::write(&file, b"x").unwrap();
        let refused = BlockDevice::open(&file, Access::Look).unwrap_err();
        assert_eq!(refused.kind(), crate::error::ErrorKind::Refused);
        let missing = BlockDevice::open(&dir.path().join("sdz"), Access::Look).unwrap_err();
        assert_eq!(missing.kind(), crate::error::ErrorKind::Usage);
        let character = BlockDevice::open(Path::new("/dev/null"), Access::Look).unwrap_err();
        assert_eq!(character.kind(), crate::error::ErrorKind::Refused);
    }
}
