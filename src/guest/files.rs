//! The files of a file system inside an image, whoever reads them.
//!
//! What looks for databases does not ask whether a reader of its own or the kernel is behind the files. Everything here
//! comes from an image that may be damaged or made up: names are bytes, sizes are claims.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nix::libc;

use crate::error::{Error, Result};

/// How many places that could not be read are kept word for word.
const MAX_KEPT: usize = 16;

/// Places that could not be read.
#[derive(Debug, Default)]
pub struct Places {
    /// How many there are.
    pub count: u64,
    /// The first of them, and why.
    pub first: Vec<(PathBuf, Error)>,
}

impl Places {
    /// Adds one.
    pub fn add(&mut self, path: &Path, error: Error) {
        self.append(Places { count: 1, first: vec![(path.to_path_buf(), error)] });
    }

    /// Adds others.
    pub fn append(&mut self, others: Places) {
        self.count = self.count.saturating_add(others.count);
        let room = MAX_KEPT.saturating_sub(self.first.len());
        self.first.extend(others.first.into_iter().take(room));
    }
}

/// Whether `error` is that there is no key for something encrypted, as the kernel and our own readers say it. Nothing is
/// damaged then.
pub fn lacks_key(error: &Error) -> bool {
    error.io_cause().and_then(std::io::Error::raw_os_error) == Some(libc::ENOKEY)
}

/// What sort of file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link. It is never followed.
    Link,
    /// A device, a socket, a pipe.
    Other,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name; never `.` or `..`.
    pub name: OsString,
    /// What it names.
    pub kind: FileKind,
    /// How long a regular file says it is, in bytes; nothing for others.
    pub size_bytes: u64,
    /// What tells it from others, by which a directory that is its own parent is noticed: the device, or any number
    /// where there is just one file system, and the inode.
    pub id: (u64, u64),
}

/// A file system that can be read. Paths are absolute, and no part of one is a link.
pub trait Files {
    /// Calls `each` with every entry of a directory. While it does, `each` does not call back.
    ///
    /// # Errors
    /// When the directory cannot be read, and what `each` fails with.
    fn list(&self, dir: &Path, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()>;

    /// How long the regular file at `path` is, in bytes; `None` when there is none.
    ///
    /// # Errors
    /// When its directory cannot be read.
    fn size_bytes(&self, path: &Path) -> Result<Option<u64>> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let mut size_bytes = None;
        self.list(dir, &mut |entry| {
            if entry.kind == FileKind::File && entry.name == name {
                size_bytes = Some(entry.size_bytes);
            }
            Ok(())
        })?;
        Ok(size_bytes)
    }

    /// Reads a regular file at `offset_bytes` until `buf` is full or the file ends; says how many bytes were read.
    ///
    /// # Errors
    /// When it is not there, or cannot be read.
    fn read(&self, path: &Path, offset_bytes: u64, buf: &mut [u8]) -> Result<usize>;
}

/// The first `max` bytes of a file.
///
/// # Errors
/// As [`Files::read`].
pub fn beginning(files: &dyn Files, path: &Path, max: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; max];
    let read = files.read(path, 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
