//! Loop devices: what they stand on.
//!
//! The kernel holds the backing file of a loop device open, yet no process does, and a backing *device* is not
//! claimed either: neither `/proc` nor `O_EXCL` tells. Only the loop devices themselves know.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use super::{DeviceNumber, Host, ioctl, topology::Node};
use crate::model::units::ByteRange;

/// What a loop device stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backing {
    /// `st_dev` of the backing file: the file system it lives in.
    pub file_system: DeviceNumber,
    /// `st_ino` of the backing file.
    pub inode: u64,
    /// The backing file's own number, when it is a block device.
    pub device: Option<DeviceNumber>,
    /// The part of the backing file that is the loop device.
    pub range: ByteRange,
}

impl Backing {
    /// Whether both are, at least in part, the same bytes.
    pub fn overlaps(&self, other: &Backing) -> bool {
        let same_file = match (self.device, other.device) {
            (None, None) => (self.file_system, self.inode) == (other.file_system, other.inode),
            (a, b) => a == b,
        };
        same_file && !self.range.clip(other.range).is_empty()
    }
}

impl Host {
    /// What the loop device `number` stands on; `None` for any other device, and for a loop device that is
    /// not set up.
    pub fn loop_backing(&self, number: DeviceNumber) -> Option<Backing> {
        let node = self.node(number).ok()?;
        self.backing_of(&node)
    }

    /// The loop devices over this file, by the kernel's names for them and their numbers.
    pub fn loops_over_file(&self, file: &fs::Metadata) -> Vec<(String, DeviceNumber)> {
        let id = (DeviceNumber::from_raw(file.dev()), file.ino());
        let is_it =
            |backing: &Backing| (backing.file_system, backing.inode) == id && backing.device.is_none();
        let over_it = self.loops().into_iter().filter(|(_, backing)| is_it(backing));
        over_it.map(|(node, _)| (node.name, node.number)).collect()
    }

    /// All loop devices that are set up.
    pub(super) fn loops(&self) -> Vec<(Node, Backing)> {
        let Ok(entries) = fs::read_dir(self.path("sys/block")) else { return Vec::new() };
        entries
            .flatten()
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"loop"))
            .filter_map(|entry| Node::at(&entry.path()).ok())
            .filter_map(|node| self.backing_of(&node).map(|backing| (node, backing)))
            .collect()
    }

    fn backing_of(&self, node: &Node) -> Option<Backing> {
        // The directory is there only while the device is set up.
        let path = node.attribute("loop/backing_file")?;
        let (file_system, inode, rdev, start, limit) =
            self.backing_by_ioctl(node).or_else(|| backing_by_name(node, Path::new(&path)))?;
        let end = if limit == 0 { u64::MAX } else { start.saturating_add(limit) };
        Some(Backing {
            file_system: DeviceNumber::from_raw(file_system),
            inode,
            device: (rdev != 0).then(|| DeviceNumber::from_raw(rdev)),
            range: ByteRange::new(start, end),
        })
    }

    /// The exact answer, where the device can be opened.
    fn backing_by_ioctl(&self, node: &Node) -> Option<(u64, u64, u64, u64, u64)> {
        let path = self.path("dev").join(&node.name);
        let device = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        if DeviceNumber::from_raw(device.metadata().ok()?.rdev()) != node.number {
            return None;
        }
        let info = ioctl::loop_info(&device).ok()?;
        Some((info.device, info.inode, info.rdevice, info.offset_bytes, info.size_limit_bytes))
    }
}

/// The answer by the backing file's path, where there is no such device node (a container's `/dev`).
fn backing_by_name(node: &Node, path: &Path) -> Option<(u64, u64, u64, u64, u64)> {
    let meta = fs::metadata(path).ok()?;
    let number = |name: &str| node.attribute(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    Some((meta.dev(), meta.ino(), meta.rdev(), number("loop/offset"), number("loop/sizelimit")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_over_one_file_overlap_only_where_their_ranges_do() {
        let backing = |inode, device, start, end| Backing {
            file_system: DeviceNumber::parse("8:1").unwrap(),
            inode,
            device,
            range: ByteRange::new(start, end),
        };
        let whole = backing(5, None, 0, u64::MAX);
        let first = backing(5, None, 4096, 8192);
        assert!(whole.overlaps(&first) && first.overlaps(&whole));
        assert!(!first.overlaps(&backing(5, None, 8192, 16384)));
        assert!(!whole.overlaps(&backing(6, None, 0, u64::MAX)));
        // Two nodes of one device have different inodes.
        let disk = DeviceNumber::parse("8:16");
        assert!(backing(1, disk, 0, 4096).overlaps(&backing(2, disk, 0, 4096)));
    }
}
