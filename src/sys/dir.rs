//! A directory held by descriptor, and files opened in it by plain name.
//!
//! A replica directory may come from anywhere, so nothing in it is trusted to lead somewhere: names with a slash
//! are refused, links are not followed, and only regular files are opened, without waiting (a FIFO would hang).
//! Everything is opened for reading only, and without touching access times where the kernel allows it.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir as Entries;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat as RawStat, Mode, SFlag, fstat, fstatat};

/// What makes a file the same file: its device and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// What the file system says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStat {
    /// Which file it is.
    pub id: FileId,
    /// Whether it is a regular file.
    pub regular: bool,
    /// How many names it has.
    pub links: u64,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// What it takes on the disk, in bytes.
    pub allocated_bytes: u64,
    /// When its data last changed: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When anything about it last changed, its names and its mode included: seconds and nanoseconds.
    pub changed: (i64, i64),
}

impl FileStat {
    /// What the file system says about an open file.
    ///
    /// # Errors
    /// Whatever `fstat` says.
    pub fn of(file: &impl AsFd) -> io::Result<Self> {
        Ok(fstat(file)?.into())
    }
}

impl From<RawStat> for FileStat {
    #[allow(clippy::useless_conversion)] // st_nlink has 32 bits on aarch64
    fn from(raw: RawStat) -> Self {
        FileStat {
            id: FileId { dev: raw.st_dev, ino: raw.st_ino },
            regular: SFlag::from_bits_truncate(raw.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFREG,
            links: raw.st_nlink.into(),
            size_bytes: u64::try_from(raw.st_size).unwrap_or(0),
            // st_blocks counts 512 bytes, whatever the file system's own block is.
            allocated_bytes: u64::try_from(raw.st_blocks).unwrap_or(0).saturating_mul(512),
            modified: (raw.st_mtime, raw.st_mtime_nsec),
            changed: (raw.st_ctime, raw.st_ctime_nsec),
        }
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens the directory at `path`. Links in `path` itself are followed: it is the user's own word.
    ///
    /// # Errors
    /// When it is not there, is no directory, or may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fd = open_quietly(nix::fcntl::AT_FDCWD, path, OFlag::O_DIRECTORY)?;
        Ok(Dir { fd, path: path.to_path_buf() })
    }

    /// Opens the directory `name` inside this one; a link is not followed.
    ///
    /// # Errors
    /// When it is not there, is no directory, or may not be read.
    pub fn subdir(&self, name: &str) -> io::Result<Self> {
        let fd = open_quietly(&self.fd, plain(name)?, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW)?;
        Ok(Dir { fd, path: self.path.join(name) })
    }

    /// Opens the directory that this one really is in, however it was reached.
    ///
    /// # Errors
    /// When it may not be read.
    pub fn parent(&self) -> io::Result<Self> {
        let fd = open_quietly(&self.fd, Path::new(".."), OFlag::O_DIRECTORY)?;
        Ok(Dir { fd, path: self.path.join("..") })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names in the directory, without `.` and `..`, in no order; at most `limit` of them.
    ///
    /// # Errors
    /// When the directory cannot be read to its end.
    pub fn names(&self, limit: usize) -> io::Result<Vec<OsString>> {
        let mut entries = Entries::from_fd(open_quietly(&self.fd, Path::new("."), OFlag::O_DIRECTORY)?)?;
        let mut names = Vec::new();
        for entry in entries.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                if names.len() == limit {
                    break;
                }
                names.push(OsString::from_vec(name));
            }
        }
        Ok(names)
    }

    /// What the file system says about the file `name`, not following a link.
    ///
    /// # Errors
    /// When it is not there, or the name is not plain.
    pub fn stat(&self, name: &str) -> io::Result<FileStat> {
        Ok(fstatat(&self.fd, plain(name)?, AtFlags::AT_SYMLINK_NOFOLLOW)?.into())
    }

    /// Whether `name` is a directory, and not a link to one.
    pub fn is_dir(&self, name: &str) -> bool {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let stat = plain(name).and_then(|name| Ok(fstatat(&self.fd, name, flags)?));
        stat.is_ok_and(|raw| raw.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
    }

    /// Opens the regular file `name` for reading.
    ///
    /// # Errors
    /// When it is not there, is anything but a regular file, or may not be read.
    pub fn open_file(&self, name: &str) -> io::Result<File> {
        Ok(self.open_with_stat(name)?.0)
    }

    /// The same, with what the file system says about the open file.
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file).
    pub fn open_with_stat(&self, name: &str) -> io::Result<(File, FileStat)> {
        // Looked at before it is opened: merely opening a device can do something.
        if !self.stat(name)?.regular {
            return Err(not_regular());
        }
        let fd = open_quietly(&self.fd, plain(name)?, OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)?;
        let file = File::from(fd);
        let stat = FileStat::of(&file)?;
        if stat.regular { Ok((file, stat)) } else { Err(not_regular()) }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens for reading, without touching the access time if we are allowed to (owner or root).
fn open_quietly(dir: impl AsFd, name: &Path, flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    match openat(&dir, name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => Ok(openat(&dir, name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}

fn plain(name: &str) -> io::Result<&Path> {
    if crate::format::names::is_plain(name) {
        Ok(Path::new(name))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a file in this directory"))
    }
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_by_plain_name() {
        let tmp = tempfile::tempdir().unwrap();
        let inside = tmp.path().join("replica");
        fs::create_dir(&inside).unwrap();
        fs::write(tmp.path().join("secret"), "x").unwrap();
        fs::write(inside.join("a"), "hello").unwrap();
        symlink("../secret", inside.join("link")).unwrap();
        nix::unistd::mkfifo(&inside.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        let dir = Dir::open(&inside).unwrap();
        assert_eq!(dir.stat("a").unwrap().size_bytes, 5);
        assert!(dir.open_file("a").is_ok());
        for name in ["../secret", "link", "fifo", ".", "..", "", "a\0", "/etc/passwd", "nothing"] {
            assert!(dir.open_file(name).is_err(), "{name:?}");
        }
        let mut names = dir.names(10).unwrap();
        names.sort();
        assert_eq!(names, ["a", "fifo", "link"]);
        assert_eq!(dir.names(2).unwrap().len(), 2);
        assert!(dir.parent().unwrap().open_file("secret").is_ok());
    }

    #[test]
    fn one_file_with_two_names_is_one_file() {
        let tmp = tempfile::tempdir().unwrap();
        fs::write(tmp.path().join("a"), "x").unwrap();
        fs::hard_link(tmp.path().join("a"), tmp.path().join("b")).unwrap();
        let dir = Dir::open(tmp.path()).unwrap();
        let (a, b) = (dir.stat("a").unwrap(), dir.stat("b").unwrap());
        assert_eq!((a.id, a.links), (b.id, 2));
    }
}
