//! Mounting and unmounting, and how it failed.

use std::fs;
use std::io;
use std::path::Path;

use sys_mount::{Mount, MountFlags, UnmountFlags, unmount};

use crate::sys::device::DeviceNumber;

/// Mounts `device` at `point`, for reading only, such that nothing on it can be run, be a device, or lend rights.
///
/// # Errors
/// Whatever mount(2) says.
pub fn mount_read_only(device: &Path, point: &Path, file_system: &str, options: &str) -> io::Result<()> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Mount::builder().fstype(file_system).flags(flags).data(options).mount(device, point).map(drop)
}

/// Mounts `device` at `point`, for writing, such that nothing on it can be run, be a device, or lend rights meanwhile.
///
/// # Errors
/// Whatever mount(2) says.
pub fn mount_for_writing(device: &Path, point: &Path, file_system: &str, options: &str) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    Mount::builder().fstype(file_system).flags(flags).data(options).mount(device, point).map(drop)
}

/// Waits until everything written to the file system that `point` is on is on stable storage.
///
/// # Errors
/// What went wrong while it was written, and whatever syncfs(2) says.
pub fn sync_file_system(point: &Path) -> io::Result<()> {
    Ok(nix::unistd::syncfs(fs::File::open(point)?)?)
}

/// Unmounts what shows at `point`, unless it is in use.
///
/// # Errors
/// Whatever umount2(2) says: `EBUSY` when it is in use, `EINVAL` when nothing is mounted there.
pub fn unmount_at(point: &Path) -> io::Result<()> {
    unmount(point, UnmountFlags::empty())
}

/// Lets the kernel read so much ahead in files of the file system with this number. A hint: without the rights for it
/// nothing happens.
pub fn set_read_ahead(number: DeviceNumber, kib: u32) {
    let _ = fs::write(format!("/sys/class/bdi/{number}/read_ahead_kb"), kib.to_string());
}
