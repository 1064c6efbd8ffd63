//! What the reader of file systems says, as our errors.

use std::io;

use ext4_view::Ext4Error;
use nix::libc;

use crate::error::Error;

const DAMAGED_HINT: &str = "lhrecover check says what is damaged; lhrecover mount lets the kernel read what it can; to repair, merge \
                            the volume to an image and run e2fsck on that";

const UNKNOWN_HINT: &str = "the kernel may know it: use lhrecover mount";

/// An error of the crate. One that our own disk returned comes out as it went in.
pub fn from_ext(error: Ext4Error) -> Error {
    match error {
        Ext4Error::Io(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => Error::source(format!("cannot read the volume: {other}")),
        },
        Ext4Error::Corrupt(what) => {
            Error::source(format!("the file system is damaged: {what}")).with_hint(DAMAGED_HINT)
        }
        Ext4Error::Incompatible(what) => {
            Error::source(format!("the file system is of a kind that cannot be read here: {what}"))
                .with_hint(UNKNOWN_HINT)
        }
        Ext4Error::Encrypted => Error::source("encrypted (fscrypt)")
            .caused_by(io::Error::from_raw_os_error(libc::ENOKEY))
            .with_hint("mount the volume with lhrecover mount, and unlock it there with fscrypt"),
        Ext4Error::NotADirectory => Error::usage("not a directory"),
        Ext4Error::IsADirectory => Error::usage("a directory"),
        Ext4Error::IsASpecialFile => Error::usage("not a regular file"),
        other => Error::source(format!("the file system cannot be read: {other}")).with_hint(DAMAGED_HINT),
    }
}

/// An error that keeps the file system from being opened at all.
pub fn on_open(error: Ext4Error) -> Error {
    let hint = match error {
        Ext4Error::Corrupt(_) => Some(
            "the file system cannot be opened without that: lhrecover check says more; e2fsck can go on with a backup of \
             the superblock, on an image that lhrecover merge wrote",
        ),
        Ext4Error::Io(_) => Some("lhrecover mount lets the kernel try without the journal"),
        _ => None,
    };
    let error = from_ext(error);
    match hint {
        Some(hint) if error.hint().is_none() => error.with_hint(hint),
        Some(hint) if error.hint() == Some(DAMAGED_HINT) => error.with_hint(hint),
        _ => error,
    }
}
