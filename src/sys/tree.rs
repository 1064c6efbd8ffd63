//! A directory tree that is being filled, held by descriptor.
//!
//! What is put into it comes from an image that anybody may have made, so no name leads out of it: names are plain, links
//! that are there are not followed, and a directory is only entered when it is one. (The directory that the user named is
//! opened as it was named.)

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir as Entries;
use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, RenameFlags, openat, readlinkat, renameat, renameat2,
};
use nix::sys::stat::{
    FchmodatFlags, FileStat as RawStat, Mode, SFlag, UtimensatFlags, fchmodat, fstat, fstatat, makedev,
    mkdirat, mknodat, utimensat,
};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, syncfs, unlinkat};

use crate::sys::dir::FileId;

/// What is there under a name, not following a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Existing {
    /// What it is.
    pub kind: ExistingKind,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// What it takes on the disk, in bytes.
    pub allocated_bytes: u64,
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When its data last changed: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Which file it is.
    pub id: FileId,
}

/// What sort of file is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExistingKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A pipe, a socket or a device.
    Special(Special),
}

/// A file that has no data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: major and minor number.
    Character(u64, u64),
    /// A block device: major and minor number.
    Block(u64, u64),
}

/// When a file was last read, and when its data last changed: seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When it was last read.
    pub accessed: (i64, i64),
    /// When its data last changed.
    pub modified: (i64, i64),
}

/// The directory itself, for what sets and tells attributes.
pub const ITSELF: &[u8] = b".";

/// An open directory of the tree.
#[derive(Debug)]
pub struct Tree {
    fd: OwnedFd,
}

/// A tree that nobody else fills at the same time.
#[derive(Debug)]
pub struct LockedTree {
    lock: Flock<File>,
    path: PathBuf,
}

impl LockedTree {
    /// Locks the directory at `path`, which is the user's own word.
    ///
    /// # Errors
    /// When it is not there, or is no directory; `WouldBlock` when somebody else has it locked.
    pub fn lock(path: &Path) -> io::Result<Self> {
        let dir = File::from(open_dir(AT_FDCWD, path, OFlag::empty())?);
        let lock = Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        Ok(LockedTree { lock, path: path.to_path_buf() })
    }

    /// The path that it was locked by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn root(&self) -> io::Result<Tree> {
        Ok(Tree { fd: self.lock.as_fd().try_clone_to_owned()? })
    }

    /// How many bytes may still be written by us.
    ///
    /// # Errors
    /// Whatever `fstatvfs` says.
    pub fn free_bytes(&self) -> io::Result<u64> {
        let vfs = fstatvfs(&*self.lock)?;
        let root = nix::unistd::geteuid().is_root();
        let blocks = if root { vfs.blocks_free() } else { vfs.blocks_available() };
        #[allow(clippy::useless_conversion)] // narrower on some machines
        Ok(u64::from(blocks).saturating_mul(vfs.fragment_size()))
    }

    /// Waits until everything that was written to the file system is on the disk.
    ///
    /// # Errors
    /// When something could not be written.
    pub fn sync(&self) -> io::Result<()> {
        Ok(syncfs(&*self.lock)?)
    }
}

impl Tree {
    /// The directory `name`; a link is not followed.
    ///
    /// # Errors
    /// When it is not there, or is no directory.
    pub fn enter(&self, name: &[u8]) -> io::Result<Self> {
        Ok(Tree { fd: open_dir(&self.fd, plain(name)?, OFlag::O_NOFOLLOW)? })
    }

    /// The directory at the end of `names`, no link followed.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn enter_all<'a>(&self, names: impl Iterator<Item = &'a [u8]>) -> io::Result<Self> {
        let mut here = Tree { fd: self.fd.try_clone()? };
        for name in names {
            here = here.enter(name)?;
        }
        Ok(here)
    }

    /// The directory's own device and inode number.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn id(&self) -> io::Result<FileId> {
        Ok(Existing::from(fstat(&self.fd)?).id)
    }

    /// The names in the directory that are `wanted`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self, wanted: impl Fn(&[u8]) -> bool) -> io::Result<Vec<Vec<u8>>> {
        // Opened anew, since where one has read to is shared among copies of a descriptor.
        let mut entries = Entries::from_fd(open_dir(&self.fd, Path::new("."), OFlag::empty())?)?;
        let mut names = Vec::new();
        for entry in entries.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && wanted(name) {
                names.push(name.to_vec());
            }
        }
        Ok(names)
    }

    /// What is there under `name`, or [`ITSELF`]; `None` if nothing is.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn look(&self, name: &[u8]) -> io::Result<Option<Existing>> {
        match fstatat(&self.fd, plain_or_itself(name)?, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(raw) => Ok(Some(raw.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes a directory that only we may use so far.
    ///
    /// # Errors
    /// When something of that name is there, or it cannot be made.
    pub fn make_dir(&self, name: &[u8]) -> io::Result<()> {
        Ok(mkdirat(&self.fd, plain(name)?, Mode::S_IRWXU)?)
    }

    /// Makes a regular file that only we may use so far, and opens it for writing.
    ///
    /// # Errors
    /// When something of that name is there, or it cannot be made.
    pub fn make_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.fd, plain(name)?, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    /// Opens the regular file `name` for writing, to go on with it.
    ///
    /// # Errors
    /// When it is not there, or is something else, or we may not.
    pub fn open_file(&self, name: &[u8]) -> io::Result<File> {
        // Without waiting: a pipe would hang.
        let flags = OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = File::from(openat(&self.fd, plain(name)?, flags, Mode::empty())?);
        if Existing::from(fstat(&file)?).kind != ExistingKind::Regular {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }

    /// Makes a symbolic link to `target`.
    ///
    /// # Errors
    /// When something of that name is there, or it cannot be made.
    pub fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(Path::new(OsStr::from_bytes(target)), &self.fd, plain(name)?)?)
    }

    /// Where the symbolic link `name` leads.
    ///
    /// # Errors
    /// When it is not there, or is none.
    pub fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(readlinkat(&self.fd, plain(name)?)?.as_bytes().to_vec())
    }

    /// Makes a pipe, socket or device that only we may use so far.
    ///
    /// # Errors
    /// When something of that name is there, or we may not.
    pub fn make_special(&self, name: &[u8], special: Special) -> io::Result<()> {
        let (kind, device) = match special {
            Special::Fifo => (SFlag::S_IFIFO, 0),
            Special::Socket => (SFlag::S_IFSOCK, 0),
            Special::Character(major, minor) => (SFlag::S_IFCHR, makedev(major, minor)),
            Special::Block(major, minor) => (SFlag::S_IFBLK, makedev(major, minor)),
        };
        Ok(mknodat(&self.fd, plain(name)?, kind, Mode::S_IRUSR | Mode::S_IWUSR, device)?)
    }

    /// Gives the file `name` in `from` another name here.
    ///
    /// # Errors
    /// When something of that name is there, or the file system cannot.
    pub fn make_link(&self, name: &[u8], from: &Tree, old: &[u8]) -> io::Result<()> {
        Ok(linkat(&from.fd, plain(old)?, &self.fd, plain(name)?, AtFlags::empty())?)
    }

    /// Gives `old` the name `new`, in place of what has it.
    ///
    /// # Errors
    /// When it cannot.
    pub fn rename(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        Ok(renameat(&self.fd, plain(old)?, &self.fd, plain(new)?)?)
    }

    /// Gives `old` the name `new`, which must be free.
    ///
    /// # Errors
    /// `AlreadyExists` when something has it; otherwise as [`rename`](Self::rename).
    pub fn rename_new(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        let (from, to) = (plain(old)?, plain(new)?);
        match renameat2(&self.fd, from, &self.fd, to, RenameFlags::RENAME_NOREPLACE) {
            // A file system that does not know how.
            Err(Errno::EINVAL | Errno::ENOSYS) => match self.look(new)? {
                Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
                None => self.rename(old, new),
            },
            done => Ok(done?),
        }
    }

    /// Removes `name`, which is no directory; that it is not there is no error.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &[u8]) -> io::Result<()> {
        match unlinkat(&self.fd, plain(name)?, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Gives `name`, or [`ITSELF`], an owner; a link itself.
    ///
    /// # Errors
    /// When we may not.
    pub fn set_owner(&self, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        Ok(fchownat(&self.fd, plain_or_itself(name)?, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Gives `name`, which must be no link, or [`ITSELF`], permission bits.
    ///
    /// # Errors
    /// When we may not, or it is a link.
    pub fn set_mode(&self, name: &[u8], mode: u32) -> io::Result<()> {
        if self.look(name)?.is_some_and(|there| there.kind == ExistingKind::Symlink) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a symbolic link"));
        }
        #[allow(clippy::useless_conversion)] // narrower on some machines
        let mode = Mode::from_bits_truncate(mode.into());
        Ok(fchmodat(&self.fd, plain_or_itself(name)?, mode, FchmodatFlags::FollowSymlink)?)
    }

    /// Gives `name`, or [`ITSELF`], its times; a link itself.
    ///
    /// # Errors
    /// When the file system does not take such a time.
    pub fn set_times(&self, name: &[u8], times: Times) -> io::Result<()> {
        let [accessed, modified] = [times.accessed, times.modified].map(|at| TimeSpec::new(at.0, at.1));
        Ok(utimensat(
            &self.fd,
            plain_or_itself(name)?,
            &accessed,
            &modified,
            UtimensatFlags::NoFollowSymlink,
        )?)
    }

    /// The value of an extended attribute of `name`, or [`ITSELF`]; of a link itself. `None` if it has none of that name.
    ///
    /// # Errors
    /// When the file system has no such thing, or /proc is not there.
    pub fn xattr(&self, name: &[u8], attribute: &OsStr) -> io::Result<Option<Vec<u8>>> {
        xattr::get(self.by_path(name)?, attribute)
    }

    /// Gives `name`, or [`ITSELF`], an extended attribute; a link itself.
    ///
    /// # Errors
    /// When we may not, the file system has no such thing, or /proc is not there.
    pub fn set_xattr(&self, name: &[u8], attribute: &OsStr, value: &[u8]) -> io::Result<()> {
        xattr::set(self.by_path(name)?, attribute, value)
    }

    /// Takes an extended attribute from `name`, or [`ITSELF`]; from a link itself.
    ///
    /// # Errors
    /// When it has none of that name; otherwise as [`set_xattr`](Self::set_xattr).
    pub fn remove_xattr(&self, name: &[u8], attribute: &OsStr) -> io::Result<()> {
        xattr::remove(self.by_path(name)?, attribute)
    }

    /// A path to `name`, for calls that do not take a directory's descriptor.
    fn by_path(&self, name: &[u8]) -> io::Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd())).join(plain_or_itself(name)?))
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<RawStat> for Existing {
    #[allow(clippy::useless_conversion)] // narrower on some machines
    fn from(raw: RawStat) -> Self {
        let device = (nix::sys::stat::major(raw.st_rdev), nix::sys::stat::minor(raw.st_rdev));
        Existing {
            kind: match SFlag::from_bits_truncate(raw.st_mode & SFlag::S_IFMT.bits()) {
                SFlag::S_IFREG => ExistingKind::Regular,
                SFlag::S_IFDIR => ExistingKind::Directory,
                SFlag::S_IFLNK => ExistingKind::Symlink,
                SFlag::S_IFCHR => ExistingKind::Special(Special::Character(device.0, device.1)),
                SFlag::S_IFBLK => ExistingKind::Special(Special::Block(device.0, device.1)),
                SFlag::S_IFSOCK => ExistingKind::Special(Special::Socket),
                _ => ExistingKind::Special(Special::Fifo),
            },
            size_bytes: u64::try_from(raw.st_size).unwrap_or(0),
            allocated_bytes: u64::try_from(raw.st_blocks).unwrap_or(0).saturating_mul(512),
            mode: u32::from(raw.st_mode) & 0o7777,
            uid: raw.st_uid,
            gid: raw.st_gid,
            modified: (raw.st_mtime.into(), raw.st_mtime_nsec.into()),
            id: FileId { dev: raw.st_dev, ino: raw.st_ino },
        }
    }
}

fn open_dir(dir: impl AsFd, name: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

/// A name that leads nowhere else.
fn plain(name: &[u8]) -> io::Result<&Path> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file in a directory"));
    }
    Ok(Path::new(OsStr::from_bytes(name)))
}

/// The same, or [`ITSELF`], which leads nowhere else either.
fn plain_or_itself(name: &[u8]) -> io::Result<&Path> {
    if name == ITSELF { Ok(Path::new(".")) } else { plain(name) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_leads_out() {
        let tmp = tempfile::tempdir().unwrap();
        let inside = tmp.path().join("inside");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir(tmp.path().join("outside")).unwrap();
        symlink("../outside", inside.join("link")).unwrap();
        let tree = LockedTree::lock(&inside).unwrap();
        let root = tree.root().unwrap();
        for name in ["link", "..", ".", "", "a/b", "/tmp", "a\0"] {
            assert!(root.enter(name.as_bytes()).is_err(), "{name:?}");
        }
        for name in ["..", "", "../outside/x", "/tmp/x"] {
            assert!(root.set_mode(name.as_bytes(), 0o777).is_err(), "{name:?}");
        }
        for name in ["..", ".", "", "../outside/x", "/tmp/x"] {
            assert!(root.make_file(name.as_bytes()).is_err(), "{name:?}");
            assert!(root.make_symlink(name.as_bytes(), b"x").is_err(), "{name:?}");
        }
        assert!(root.open_file(b"link").is_err() && root.open_file(b"a").is_err());
        assert_eq!(root.names(|name| name != b"a").unwrap(), [b"link"]);
        assert!(root.make_file(b"link").is_err() && root.set_mode(b"link", 0o777).is_err());
        assert!(root.enter_all([b"a".as_slice(), b"b"].into_iter()).is_ok());
        assert!(root.enter_all([b"a".as_slice(), b".."].into_iter()).is_err());
        assert_eq!(fs::read_dir(tmp.path().join("outside")).unwrap().count(), 0);
        assert_eq!(LockedTree::lock(&inside).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
