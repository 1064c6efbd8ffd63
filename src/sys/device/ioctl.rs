//! The questions put to a block device by ioctl, and nothing else.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;
use nix::{ioctl_read_bad, ioctl_write_ptr_bad, request_code_none, request_code_read};

use crate::model::units::ByteRange;

/// What the kernel says of a loop device; `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct LoopInfo {
    /// `st_dev` of the backing file.
    pub device: u64,
    /// `st_ino` of the backing file.
    pub inode: u64,
    /// `st_rdev` of the backing file, when that is itself a device.
    pub rdevice: u64,
    /// Where in the backing file the loop device begins, in bytes.
    pub offset_bytes: u64,
    /// How many bytes of it the loop device has; 0 is all the rest.
    pub size_limit_bytes: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `LOOP_GET_STATUS64` of `linux/loop.h`.
const LOOP_GET_STATUS64: u32 = 0x4c05;

// Numbers and argument types as in `linux/fs.h`.
ioctl_read_bad!(blk_get_size64, request_code_read!(0x12, 114, mem::size_of::<usize>()), u64);
ioctl_read_bad!(blk_ssz_get, request_code_none!(0x12, 104), libc::c_int);
ioctl_read_bad!(blk_ro_get, request_code_none!(0x12, 94), libc::c_int);
ioctl_write_ptr_bad!(blk_zero_out, request_code_none!(0x12, 127), [u64; 2]);
ioctl_read_bad!(loop_get_status64, LOOP_GET_STATUS64, LoopInfo);

/// How many bytes the device has.
pub(super) fn size_bytes(device: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the descriptor is open for the call, and BLKGETSIZE64 writes one u64 to the pointer.
    unsafe { blk_get_size64(device.as_raw_fd(), &mut size) }?;
    Ok(size)
}

/// The smallest piece the device can address, in bytes.
pub(super) fn logical_block_bytes(device: &File) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open for the call, and BLKSSZGET writes one int to the pointer.
    unsafe { blk_ssz_get(device.as_raw_fd(), &mut bytes) }?;
    u64::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Whether the device takes no writes.
pub(super) fn is_read_only(device: &File) -> io::Result<bool> {
    let mut read_only = 0;
    // SAFETY: the descriptor is open for the call, and BLKROGET writes one int to the pointer.
    unsafe { blk_ro_get(device.as_raw_fd(), &mut read_only) }?;
    Ok(read_only != 0)
}

/// Makes the range read as zeros; both ends must be whole logical blocks.
pub(super) fn zero_out(device: &File, range: ByteRange) -> io::Result<()> {
    let start_and_length = [range.start_bytes, range.len_bytes()];
    // SAFETY: the descriptor is open for the call, and BLKZEROOUT reads two u64 from the pointer.
    unsafe { blk_zero_out(device.as_raw_fd(), &start_and_length) }?;
    Ok(())
}

/// What a loop device stands on.
pub(super) fn loop_info(device: &File) -> io::Result<LoopInfo> {
    // SAFETY: LoopInfo is plain integers, for which all zero bytes are a value.
    let mut info: LoopInfo = unsafe { mem::zeroed() };
    // SAFETY: the descriptor is open for the call, and LOOP_GET_STATUS64 writes one struct loop_info64, which
    // LoopInfo mirrors field by field, to the pointer.
    unsafe { loop_get_status64(device.as_raw_fd(), &mut info) }?;
    Ok(info)
}

/// The `st_rdev` of the block device at `path`, links followed; `None` for anything else.
///
/// Asks for what the kernel has at hand (`AT_STATX_DONT_SYNC`): among the open files of other processes there
/// may be some on a dead network mount, and a plain `stat` of one of those would hang.
pub(super) fn block_number_without_sync(path: &Path) -> Option<u64> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: statx is plain integers, for which all zero bytes are a value.
    let mut found: libc::statx = unsafe { mem::zeroed() };
    let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT;
    // SAFETY: the path is a C string and `found` is writable; both outlive the call.
    let status = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, libc::STATX_TYPE, &mut found) };
    let is_block = status == 0 && u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFBLK;
    is_block.then(|| libc::makedev(found.stx_rdev_major, found.stx_rdev_minor))
}
