//! An image file that is already there, and is made to hold another volume, in place.
//!
//! Where a recovery ends in a file that something else attaches (a virtual machine's disk, a loop device to be), not in a
//! device. It is no output like `merge`'s: it keeps its name while it is written, as a device does, and the same
//! guards stand before it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::contents::{self, Contents};
use crate::error::{Error, Result};
use crate::event::Run;
use crate::model::units::ByteRange;
use crate::sink::{Sink, Target, write_zeros};
use crate::sys::device::Host;
use crate::sys::sparse;

/// A locked image file that is written to in place.
#[derive(Debug)]
pub struct ImageFile {
    file: Flock<File>,
    path: PathBuf,
    size_bytes: u64,
    contents: Contents,
    fresh: bool,
}

impl ImageFile {
    /// Takes hold of the file at `path` for an image of `needed_bytes`; `is_source` knows the files of the source.
    ///
    /// # Errors
    /// `Usage` when there is no such file; `Refused` when it is the source's, is in use, is too small, or carries data and
    /// there is no leave to `overwrite` it.
    pub fn open(
        path: &Path,
        needed_bytes: u64,
        overwrite: bool,
        is_source: impl Fn(&fs::Metadata) -> bool,
    ) -> Result<Self> {
        let refused = |what: String, hint: &str| Err(Error::refused(what).with_path(path).with_hint(hint));
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| {
            Error::usage("cannot open the image to write to").with_path(path).caused_by(e).with_hint(
                "inject writes to what is there already: `truncate -s SIZE FILE` makes an empty image, and merge writes a \
                 new one",
            )
        })?;
        let meta = file.metadata().map_err(|e| cannot_read(path, 0, e))?;
        if !meta.is_file() {
            return refused("neither a block device nor an image file".to_owned(), "name one of them");
        }
        if is_source(&meta) {
            return refused(
                "the image is the source, or a file of it".to_owned(),
                "a source is never written: name another one",
            );
        }
        if let Some(name) = Host::default().loop_over_file(&meta) {
            return refused(
                format!("the image is attached as /dev/{name}"),
                "write to that device, or detach it first: losetup -d",
            );
        }
        if meta.len() < needed_bytes {
            return refused(
                format!("the image is too small: it has {} bytes, the volume {needed_bytes}", meta.len()),
                "make it larger: truncate -s",
            );
        }
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
            Errno::EWOULDBLOCK => Error::refused("another program has locked the image")
                .with_path(path)
                .with_hint("wait for it, or stop it"),
            e => Error::output("cannot lock the image").with_path(path).caused_by(e.into()),
        })?;
        let read = |buf: &mut [u8], at| file.read_exact_at(buf, at).map_err(|e| cannot_read(path, at, e));
        let contents = contents::look(meta.len(), read)?;
        if !overwrite && contents != Contents::Nothing {
            return refused(
                format!("the image carries data ({contents})"),
                "if all of it may be lost, give leave with --overwrite",
            );
        }
        let no_data = sparse::next_data(&file, 0).map_or(meta.blocks() == 0, |data| data.is_none());
        Ok(ImageFile { file, path: path.into(), size_bytes: meta.len(), contents, fresh: no_data })
    }

    /// What it carried when it was looked at.
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// Its length in bytes, which does not change.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Waits until everything is on stable storage.
    ///
    /// # Errors
    /// `Output`: some of what was written may be lost.
    pub fn finish(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| {
            Error::output("the disk failed to store what was written").with_path(&self.path).caused_by(e)
        })
    }

    fn cannot_write(&self, offset_bytes: u64, e: io::Error) -> Error {
        Error::output("cannot write to the image")
            .with_path(&self.path)
            .at_offset(offset_bytes)
            .caused_by(e)
            .with_hint("what it holds now is not complete; run it again when the cause is gone")
    }
}

fn cannot_read(path: &Path, offset_bytes: u64, e: io::Error) -> Error {
    Error::output("cannot read the image that is to be written")
        .with_path(path)
        .at_offset(offset_bytes)
        .caused_by(e)
}

impl Sink for ImageFile {
    fn write_at(&self, buf: &[u8], offset_bytes: u64) -> Result<()> {
        self.file.write_all_at(buf, offset_bytes).map_err(|e| self.cannot_write(offset_bytes, e))
    }

    fn needs_zeros(&self) -> bool {
        !self.fresh
    }

    fn zero_range(&self, range: ByteRange, run: &Run<'_>) -> Result<()> {
        write_zeros(self, range, run)
    }

    fn settle(&self, range: ByteRange) {
        sparse::start_writeback(&self.file, range);
    }
}

impl Target for ImageFile {
    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset_bytes).map_err(|e| cannot_read(&self.path, offset_bytes, e))
    }

    fn forget(&self, range: ByteRange) {
        sparse::drop_cached(&self.file, range);
    }
}
