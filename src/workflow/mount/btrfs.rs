//! Two btrfs devices of one identity: the kernel takes them for one file system, and mixes them up.
//!
//! A volume that is still attached to this machine has the same identity as its replica. So has a copy of it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;

use crate::error::{Error, Result};
use crate::sys::device::DeviceNumber;
use crate::view::disk::Disk;

/// Where the superblock is, and in it the file system's identity and the magic (`struct btrfs_super_block`).
const SUPERBLOCK: u64 = 64 << 10;
const IDENTITY: std::ops::Range<usize> = 32..48;
const MAGIC: std::ops::Range<usize> = 64..72;

/// Fails when a device of this machine has the identity of the btrfs on `disk`. Where that is a device already, it is `own`.
///
/// # Errors
/// `Refused`, with the device.
pub fn refuse_twins(disk: &dyn Disk, own: Option<&Path>) -> Result<()> {
    let mut superblock = [0; MAGIC.end];
    disk.read_exact_at(&mut superblock, SUPERBLOCK)?;
    let identity = &superblock[IDENTITY];
    if let Some(device) = twin(identity, own.and_then(DeviceNumber::of_path)) {
        return Err(Error::refused("a device of this machine has the same btrfs identity: mounting both would mix them up")
            .with_path(device)
            .with_hint(format!(
                "is the volume itself attached here, or mounted before? detach it first; or look at the replica on another \
                 machine. The identity is {}",
                uuid(identity)
            )));
    }
    Ok(())
}

fn twin(identity: &[u8], own: Option<DeviceNumber>) -> Option<String> {
    let mounted = Path::new("/sys/fs/btrfs").join(uuid(identity));
    if mounted.exists() {
        return Some(mounted.display().to_string());
    }
    let devices = fs::read_dir("/sys/class/block").ok()?.flatten();
    let nodes = devices.filter_map(|device| Some(format!("/dev/{}", device.file_name().to_str()?)));
    let mut others = nodes.filter(|node| own.is_none() || DeviceNumber::of_path(Path::new(node)) != own);
    others.find(|node| has_identity(Path::new(node), identity).unwrap_or(false))
}

/// Whether the device's superblock is one of btrfs with this identity.
fn has_identity(node: &Path, identity: &[u8]) -> std::io::Result<bool> {
    let device = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(node)?;
    let mut superblock = [0; MAGIC.end];
    device.read_exact_at(&mut superblock, SUPERBLOCK)?;
    Ok(&superblock[MAGIC] == b"_BHRfS_M" && &superblock[IDENTITY] == identity)
}

/// As it is written everywhere.
fn uuid(identity: &[u8]) -> String {
    let hex: String = identity.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts =
        [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default().to_owned());
    parts.join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_identity_reads_as_blkid_prints_it() {
        let bytes: Vec<u8> = (0..16).collect();
        assert_eq!(super::uuid(&bytes), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
