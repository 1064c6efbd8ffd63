//! Everything a file has besides its bytes: what it is, owner, mode, times, extended attributes.
//!
//! Read by descriptor or by plain name without following links; set by descriptor, on files of our own making only.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, fchown, lchown};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, AtFlags, readlinkat};
use nix::sys::stat::{FileStat as RawStat, SFlag, UtimensatFlags, fstat, fstatat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use xattr::FileExt;

use crate::format::names;
use crate::sys::dir::{Dir, FileId};

/// The bits of a mode that are permissions.
const PERMISSION_BITS: u32 = 0o7777;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket or a device.
    Special,
}

/// What a file has besides its bytes and its extended attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Which file it is.
    pub id: FileId,
    /// What it is.
    pub kind: FileType,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When its data last changed: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When anything about it last changed.
    pub changed: (i64, i64),
}

/// Extended attributes by name.
pub type Xattrs = BTreeMap<OsString, Vec<u8>>;

impl Attributes {
    /// Of an open file or directory.
    ///
    /// # Errors
    /// Whatever `fstat` says.
    pub fn of(file: &impl AsFd) -> io::Result<Self> {
        Ok(fstat(file)?.into())
    }

    /// Of the file `name` in `dir`; a link is not followed.
    ///
    /// # Errors
    /// When it is not there, or the name is not plain.
    pub fn at(dir: &Dir, name: &str) -> io::Result<Self> {
        Ok(fstatat(dir, plain(name)?, AtFlags::AT_SYMLINK_NOFOLLOW)?.into())
    }
}

impl From<RawStat> for Attributes {
    fn from(raw: RawStat) -> Self {
        let kind = match SFlag::from_bits_truncate(raw.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => FileType::Regular,
            SFlag::S_IFDIR => FileType::Directory,
            SFlag::S_IFLNK => FileType::Symlink,
            _ => FileType::Special,
        };
        Attributes {
            id: FileId { dev: raw.st_dev, ino: raw.st_ino },
            kind,
            size_bytes: u64::try_from(raw.st_size).unwrap_or(0),
            mode: raw.st_mode & PERMISSION_BITS,
            uid: raw.st_uid,
            gid: raw.st_gid,
            modified: (raw.st_mtime, raw.st_mtime_nsec),
            changed: (raw.st_ctime, raw.st_ctime_nsec),
        }
    }
}

/// Where the symbolic link `name` in `dir` leads.
///
/// # Errors
/// When it is not there, or is no symbolic link.
pub fn read_link(dir: &Dir, name: &str) -> io::Result<OsString> {
    Ok(readlinkat(dir, plain(name)?)?)
}

/// The extended attributes of an open file or directory; none where the file system has no such thing.
///
/// # Errors
/// When they are there and cannot be read.
pub fn xattrs(file: &impl AsFd) -> io::Result<Xattrs> {
    let file = duplicate(file.as_fd())?;
    let names = match file.list_xattr() {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => return Ok(Xattrs::new()),
        other => other?,
    };
    let mut xattrs = Xattrs::new();
    for name in names {
        // One that went away since it was listed is not there.
        if let Some(value) = file.get_xattr(&name)? {
            xattrs.insert(name, value);
        }
    }
    Ok(xattrs)
}

fn duplicate(fd: BorrowedFd<'_>) -> io::Result<File> {
    fd.try_clone_to_owned().map(File::from)
}

/// Gives an open file or directory owner, mode and extended attributes; returns what could not be set, in words.
///
/// # Errors
/// When the mode cannot be set. Owners and extended attributes need rights, and a file system that has them.
pub fn set(file: &impl AsFd, owner: (u32, u32), mode: u32, xattrs: &Xattrs) -> io::Result<Vec<String>> {
    let file = duplicate(file.as_fd())?;
    let mut left = Vec::new();
    let is = Attributes::of(&file)?;
    if (is.uid, is.gid) != owner {
        if let Err(e) = fchown(&file, Some(owner.0), Some(owner.1)) {
            left.push(format!("owner {}:{} ({e})", owner.0, owner.1));
        }
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    for (name, value) in xattrs {
        if file.get_xattr(name).ok().flatten().as_ref() != Some(value) {
            if let Err(e) = file.set_xattr(name, value) {
                left.push(format!("{} ({e})", name.to_string_lossy()));
            }
        }
    }
    Ok(left)
}

/// Gives an open file or directory its time of modification.
///
/// # Errors
/// When it is not ours, or the file system does not take such a time.
pub fn set_modified(file: &impl AsFd, modified: (i64, i64)) -> io::Result<()> {
    Ok(futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::new(modified.0, modified.1))?)
}

/// Gives a symbolic link owner and time of modification; returns what could not be set, in words.
///
/// # Errors
/// When the time cannot be set.
pub fn set_symlink(path: &Path, owner: (u32, u32), modified: (i64, i64)) -> io::Result<Vec<String>> {
    let owned = lchown(path, Some(owner.0), Some(owner.1));
    let modified = TimeSpec::new(modified.0, modified.1);
    utimensat(AT_FDCWD, path, &TimeSpec::UTIME_OMIT, &modified, UtimensatFlags::NoFollowSymlink)?;
    Ok(owned.err().map(|e| format!("owner {}:{} ({e})", owner.0, owner.1)).into_iter().collect())
}

fn plain(name: &str) -> io::Result<&Path> {
    if names::is_plain(name) {
        Ok(Path::new(name))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file in this directory"))
    }
}

/// A value as hexadecimal digits.
pub fn to_hex(value: &[u8]) -> String {
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name of an extended attribute as it is written into an archive: bytes.
pub fn name_bytes(name: &OsString) -> &[u8] {
    name.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_is_set_is_read_again_to_the_nanosecond() {
        let tmp = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::write(tmp.path().join("a"), "x").unwrap();
        symlink("nowhere", tmp.path().join("link")).unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let file = File::open(tmp.path().join("a")).unwrap();
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let wanted = Xattrs::from([("user.lhrecover".into(), b"a\nb\0".to_vec())]);
        let left = set(&file, owner, 0o4751, &wanted).unwrap();
        if left.is_empty() {
            assert_eq!(
                xattrs(&file).unwrap().get(&OsString::from("user.lhrecover")),
                Some(&b"a\nb\0".to_vec())
            );
        }
        set_modified(&file, (-3, 123_456_789)).unwrap();
        set_symlink(&tmp.path().join("link"), owner, (5, 7)).unwrap();
        let is = Attributes::at(&dir, "a").unwrap();
        assert_eq!((is.mode, is.modified, is.kind), (0o4751, (-3, 123_456_789), FileType::Regular));
        let link = Attributes::at(&dir, "link").unwrap();
        assert_eq!((link.modified, link.kind), ((5, 7), FileType::Symlink));
        assert_eq!(read_link(&dir, "link").unwrap(), "nowhere");
        assert!(Attributes::at(&dir, "../x").is_err());
    }
}
