//! The files of a file system that the kernel has mounted.
//!
//! What is mounted may be made up, so no link in it is followed: one that names a path of this machine would lead out of it.
//! Only regular files are opened, and without waiting.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

use crate::error::{Error, Result};
use crate::guest::files::{Entry, FileKind, Files};

/// A directory that something is mounted at.
pub struct MountedFiles {
    root: PathBuf,
}

impl MountedFiles {
    /// The file system that is mounted at `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        MountedFiles { root: root.into() }
    }

    /// Opens what is at `path` in the file system, step by step.
    fn open(&self, path: &Path, last: OFlag) -> io::Result<File> {
        let careful = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let step = careful | OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut at: OwnedFd = open(&self.root, step, Mode::empty())?;
        let mut names = path.components().filter(|part| *part != Component::RootDir).peekable();
        if names.peek().is_none() {
            return Ok(File::from(openat(&at, ".", careful | last, Mode::empty())?));
        }
        while let Some(name) = names.next() {
            let Component::Normal(name) = name else { return Err(io::ErrorKind::InvalidInput.into()) };
            match names.peek() {
                Some(_) => at = openat(&at, name, step, Mode::empty())?,
                None => return Ok(File::from(openat(&at, name, careful | last, Mode::empty())?)),
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Files for MountedFiles {
    fn list(&self, dir: &Path, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let fail = |e| Error::source("cannot read a directory of the volume").with_path(dir).caused_by(e);
        // Held open, it is the one that was found without following links.
        let held = self.open(dir, OFlag::O_DIRECTORY).map_err(fail)?;
        let by_descriptor = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
        for entry in fs::read_dir(by_descriptor).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // What is behind a name may be damaged; the name is there all the same.
            let entry = match entry.metadata() {
                Ok(meta) => described(entry.file_name(), &meta),
                Err(_) => Entry { name: entry.file_name(), kind: FileKind::Other, size_bytes: 0, id: (0, 0) },
            };
            each(entry)?;
        }
        Ok(())
    }

    fn read(&self, path: &Path, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let fail = |e| {
            Error::source("cannot read a file of the volume")
                .with_path(path)
                .at_offset(offset_bytes)
                .caused_by(e)
        };
        let file = self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).map_err(fail)?;
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(fail(io::Error::other("it is no regular file")));
        }
        let mut filled = 0;
        while filled < buf.len() {
            match file.read_at(&mut buf[filled..], offset_bytes + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(filled)
    }
}

fn described(name: std::ffi::OsString, meta: &Metadata) -> Entry {
    let kind = match meta.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Link,
        _ => FileKind::Other,
    };
    let size_bytes = if kind == FileKind::File { meta.len() } else { 0 };
    Entry { name, kind, size_bytes, id: (meta.dev(), meta.ino()) }
}
