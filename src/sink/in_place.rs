//! An image file that is already there, and is made to hold another volume, in place.
//!
//! Where a recovery ends in a file that something else attaches (a virtual machine's disk, a loop device to be), not in a
//! device. It is no output like `merge`'s: it keeps its name while it is written, as a device does, and the same
//! guards stand before it.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::contents::{self, Contents};
use crate::error::{Error, Result};
use crate::event::Run;
use crate::model::units::ByteRange;
use crate::sink::guard::SourceIdentity;
use crate::sink::{Sink, Target, write_zeros};
use crate::sys::device::Host;
use crate::sys::dir::FileId;
use crate::sys::{process, sparse};

/// A locked image file that is written to in place.
#[derive(Debug)]
pub struct ImageFile {
    file: Flock<File>,
    path: PathBuf,
    size_bytes: u64,
    contents: Contents,
    overwrite: bool,
    fresh: bool,
}

impl ImageFile {
    /// Takes hold of the file at `path` for an image of `needed_bytes`.
    ///
    /// # Errors
    /// `Usage` when there is no such file; `Refused` when it is the source's, is in use, is too small, or carries data and
    /// there is no leave to `overwrite` it.
    pub fn open(path: &Path, needed_bytes: u64, overwrite: bool, source: &SourceIdentity) -> Result<Self> {
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
        if source.has(&meta) || source.holds(path) {
            return refused(
                "the image is the source, or a file of it, or inside the replica directory".to_owned(),
                "a source is never written: name another one",
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
        refuse_used(path, &meta, &file)?;
        let read = |buf: &mut [u8], at| file.read_exact_at(buf, at).map_err(|e| cannot_read(path, at, e));
        let contents = contents::look(meta.len(), read)?;
        let no_data = sparse::next_data(&file, 0).map_or(meta.blocks() == 0, |data| data.is_none());
        let image = ImageFile {
            file,
            path: path.into(),
            size_bytes: meta.len(),
            contents,
            overwrite,
            fresh: no_data,
        };
        image.refuse_data()?;
        Ok(image)
    }

    /// Looks at all of it, where it matters whether there is data anywhere. Before anything is written.
    ///
    /// # Errors
    /// `Refused` when there is, and there is no leave to overwrite it; interrupted when the run is cancelled.
    pub fn look_if_empty(&mut self, run: &Run<'_>) -> Result<()> {
        if self.fresh || self.overwrite {
            return Ok(());
        }
        if let Some(offset_bytes) =
            contents::search(self, self.size_bytes, "looking if the image is empty", run)?
        {
            self.contents = Contents::Unknown { offset_bytes };
        }
        self.refuse_data()
    }

    fn refuse_data(&self) -> Result<()> {
        if self.overwrite || self.contents == Contents::Nothing {
            return Ok(());
        }
        Err(Error::refused(format!("the image carries data ({})", self.contents))
            .with_path(&self.path)
            .with_hint("if all of it may be lost, give leave with --overwrite"))
    }

    /// Looks again whether anybody uses it.
    ///
    /// # Errors
    /// As [`open`](Self::open), for what no flag overrides.
    pub fn recheck(&self) -> Result<()> {
        let meta = self.file.metadata().map_err(|e| cannot_read(&self.path, 0, e))?;
        refuse_used(&self.path, &meta, &self.file)
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

/// Refuses an image that is attached, or that another program has open for writing: a virtual machine, say.
fn refuse_used(path: &Path, meta: &Metadata, file: &File) -> Result<()> {
    let refused = |what: String, hint: &str| Err(Error::refused(what).with_path(path).with_hint(hint));
    if let Some((name, _)) = Host::default().loops_over_file(meta).first() {
        return refused(
            format!("the image is attached as /dev/{name}"),
            "write to that device, or detach it first: losetup -d",
        );
    }
    let holders = process::holders_of_file(path, FileId { dev: meta.dev(), ino: meta.ino() }).found;
    if let Some((pid, program)) =
        holders.into_iter().find_map(|holder| Some((holder.pid.filter(|_| holder.writes)?, holder.command)))
    {
        return refused(
            format!("the image is open for writing in process {pid} ({program})"),
            "stop that process first; no flag overrides this",
        );
    }
    if process::is_locked(file) {
        return refused(
            "another program has locked the image, or a part of it".to_owned(),
            "stop it first (a virtual machine locks its disk like that); no flag overrides this",
        );
    }
    Ok(())
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
