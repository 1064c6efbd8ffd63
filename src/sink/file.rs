//! A sparse file that has its name only once it is finished.
//!
//! It grows as `<name>.partial`, locked, so that a second run cannot write to it; [`OutputFile::finish`] syncs it,
//! gives it its name, and syncs the directory, in that order. Dropped before that, it is removed. A `.partial`
//! left by a crash is replaced: a lock dies with its process.

mod name;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, RenameFlags, renameat2};
use nix::sys::statfs::{FsType, fstatfs};
use nix::sys::statvfs::fstatvfs;

use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::units::ByteRange;
use crate::sink::Sink;
use crate::sink::guard::SourceIdentity;
use crate::sys::sparse;

pub use self::name::{collide, refuse_source};
use self::name::{exists, lock_new, partial_name, refuse_existing, resolve};

/// The magic number of FAT (linux/magic.h), and its largest file.
const FAT_MAGIC: FsType = FsType(0x4d44);
const FAT_MAX_BYTES: u64 = (4 << 30) - 1;

/// What is allowed and wanted of an output file.
#[derive(Clone, Copy, Debug)]
pub struct FileOptions {
    /// Replace a file of that name.
    pub force: bool,
    /// Wait until everything is on the medium.
    pub sync: bool,
    /// Write zeros where no layer serves, so that the file has no holes.
    pub fill: bool,
}

/// An output file under its temporary name.
pub struct OutputFile {
    /// The final name.
    path: PathBuf,
    partial: PathBuf,
    /// Open and locked until it is finished.
    file: Flock<File>,
    finished: bool,
    size_bytes: u64,
    options: FileOptions,
    /// Whether the file system has sparse files.
    keeps_holes: bool,
}

impl OutputFile {
    /// Creates `<path>.partial`, with no room asked for yet.
    ///
    /// # Errors
    /// `Refused` when `path` is there and may not be replaced, when it or its `.partial` is a part of `source` or inside it,
    /// or when another run has locked that; `Output` when it cannot be created.
    pub fn create(
        path: &Path,
        size_bytes: u64,
        options: FileOptions,
        source: &SourceIdentity,
    ) -> Result<Self> {
        // First, so that nobody is told to name a file in the replica directory.
        refuse_source(path, source)?;
        let path = resolve(path)?;
        let partial = partial_name(&path);
        refuse_source(&path, source)?;
        if source.is_at(&partial) {
            return Err(Error::refused(
                "a file of the source has the name that the output has until it is finished",
            )
            .with_path(&partial)
            .with_hint("a source is never written: choose another name for the output"));
        }
        refuse_existing(&path, options.force)?;
        let file = lock_new(&partial)?;
        let mut output =
            OutputFile { path, partial, file, finished: false, size_bytes, options, keeps_holes: true };
        if size_bytes > 0 {
            output.keeps_holes = keeps_holes(&output.file).map_err(|e| output.unprepared(e))?;
        }
        Ok(output)
    }

    /// The final name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The temporary name.
    pub fn partial_path(&self) -> &Path {
        &self.partial
    }

    /// Gives the file its length, and asks the file system for room for `data_bytes` of data (or for all of it,
    /// where the file system has no sparse files, or no holes are wanted).
    ///
    /// # Errors
    /// `Output`, saying how much is short.
    pub fn make_room(&self, data_bytes: u64) -> Result<()> {
        let needed = if self.options.fill || !self.keeps_holes { self.size_bytes } else { data_bytes };
        self.require_room(self.size_bytes, needed)?;
        self.file.set_len(self.size_bytes).map_err(|e| {
            Error::output(format!("the file system refuses a file of {} bytes", self.size_bytes))
                .with_path(&self.path)
                .caused_by(e)
                .with_hint(
                    "write to a file system that takes such a file (ext4 ends below 16 TiB), or to a device",
                )
        })
    }

    /// Asks the file system whether it takes a file of `size_bytes`, and has room for `needed` bytes.
    ///
    /// # Errors
    /// As [`make_room`](Self::make_room).
    pub fn require_room(&self, size_bytes: u64, needed: u64) -> Result<()> {
        let kind = fstatfs(&*self.file).map_err(|e| self.unprepared(e.into()))?.filesystem_type();
        if kind == FAT_MAGIC && size_bytes > FAT_MAX_BYTES {
            return Err(Error::output("a FAT file system holds no file of 4 GiB or more")
                .with_path(&self.path)
                .with_hint("write to another file system (exFAT, ext4, XFS), or stream to one: lhrecover merge ... -"));
        }
        let vfs = fstatvfs(&*self.file).map_err(|e| self.unprepared(e.into()))?;
        let root = nix::unistd::geteuid().is_root();
        let blocks = if root { vfs.blocks_free() } else { vfs.blocks_available() };
        let free = blocks.saturating_mul(vfs.fragment_size());
        if free < needed {
            return Err(Error::output(format!(
                "not enough room: {needed} bytes are needed, {free} are free, {} are short",
                needed - free
            ))
            .with_path(&self.path)
            .with_hint("free some room, or write to another disk"));
        }
        Ok(())
    }

    fn unprepared(&self, cause: io::Error) -> Error {
        Error::output("cannot prepare the output").with_path(&self.partial).caused_by(cause)
    }

    /// Whether blocks of `from` can be shared with this file: tried out, as no file system says so beforehand.
    ///
    /// # Errors
    /// `Output` when what was shared for the trial cannot be let go of.
    pub fn can_share_with(&self, from: &File) -> Result<bool> {
        const PROBE_BYTES: u64 = 64 << 10;
        let probe = ByteRange::new(0, PROBE_BYTES);
        let large_enough = from.metadata().is_ok_and(|m| m.len() >= PROBE_BYTES);
        if !large_enough || sparse::clone_range(from, &self.file, probe).is_err() {
            return Ok(false);
        }
        sparse::punch_hole(&self.file, probe)
            .map_err(|e| self.unprepared(e).with_hint("go without sharing blocks: --clone never"))?;
        Ok(true)
    }

    /// Syncs the file if that is wanted, gives it its name, and syncs the directory.
    ///
    /// # Errors
    /// `Output` when that fails, `Refused` when a file of that name has appeared meanwhile. The temporary file is
    /// then removed.
    pub fn finish(mut self, run: &Run<'_>) -> Result<PathBuf> {
        let fail = |what: &str, e| Error::output(what).with_path(&self.path).caused_by(e);
        self.sync(run)?;
        run.check()?;
        let flags = if self.options.force { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
        match renameat2(AT_FDCWD, &self.partial, AT_FDCWD, &self.path, flags) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Err(exists(&self.path)),
            // Some file systems know no flags; whether the name is free is then asked once more.
            Err(Errno::EINVAL) => {
                refuse_existing(&self.path, self.options.force)?;
                fs::rename(&self.partial, &self.path)
                    .map_err(|e| fail("cannot give the output its name", e))?;
            }
            Err(e) => return Err(fail("cannot give the output its name", e.into())),
        }
        self.finished = true;
        if self.options.sync {
            let parent = self.path.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|directory| directory.sync_all())
                .map_err(|e| fail("cannot bring the output's directory to the medium", e))?;
        }
        Ok(self.path.clone())
    }

    /// Waits until what was written is on the medium, if that is wanted.
    ///
    /// # Errors
    /// `Output`: some of what was written may be lost.
    pub fn sync(&self, run: &Run<'_>) -> Result<()> {
        if self.options.sync {
            run.event(Event::Phase { name: "syncing", total_bytes: None });
            self.file.sync_all().map_err(|e| {
                Error::output("cannot bring the output to the medium").with_path(&self.path).caused_by(e)
            })?;
            run.event(Event::PhaseDone);
        }
        Ok(())
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing can be done about a failure here, and the next run replaces what is left.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

impl Sink for OutputFile {
    fn write_at(&self, buf: &[u8], offset_bytes: u64) -> Result<()> {
        self.file.write_all_at(buf, offset_bytes).map_err(|e| {
            let hint = match e.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "the target ran full while it was written: free some room, or write to another disk"
                }
                io::ErrorKind::FileTooLarge => {
                    "a limit on file sizes was met: see ulimit -f, or the file system's own"
                }
                _ => "the target disk may be failing: look at the kernel log",
            };
            Error::output("cannot write the output")
                .with_path(&self.path)
                .at_offset(offset_bytes)
                .caused_by(e)
                .with_hint(hint)
        })
    }

    /// The disk works while the rest is copied, when it is waited for in the end.
    fn settle(&self, range: ByteRange) {
        if self.options.sync {
            sparse::start_writeback(&self.file, range);
        }
    }

    fn needs_zeros(&self) -> bool {
        self.options.fill
    }

    fn zero_range(&self, range: ByteRange, run: &Run<'_>) -> Result<()> {
        static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
        let mut at = range.start_bytes;
        while self.options.fill && at < range.end_bytes {
            run.check()?;
            let len = usize::try_from(range.end_bytes - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.write_at(&ZEROS[..len], at)?;
            at += len as u64;
        }
        Ok(())
    }

    fn plain_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}

/// Whether the file system keeps a hole as a hole: FAT and exFAT allocate what a file is extended by.
///
/// The new, empty file keeps the length it is given here: a file that was truncated to nothing is written out by
/// ext4 as soon as it is closed, whether that is wanted or not.
fn keeps_holes(file: &File) -> io::Result<bool> {
    const PROBE_BYTES: u64 = 1 << 20;
    file.set_len(PROBE_BYTES)?;
    Ok(file.metadata()?.blocks() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::event::{Cancel, Silent};

    const PLAIN: FileOptions = FileOptions { force: false, sync: false, fill: false };

    fn finish(output: OutputFile) -> Result<PathBuf> {
        output.finish(&Run { observer: &Silent, cancel: &Cancel::default() })
    }

    #[test]
    fn it_has_its_name_only_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.img");
        let output = OutputFile::create(&path, 8192, PLAIN, &SourceIdentity::new()).unwrap();
        output.make_room(0).unwrap();
        output.write_at(b"x", 4096).unwrap();
        assert!(!path.exists() && output.partial_path().exists());
        finish(output).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 8192);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn dropped_unfinished_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        drop(OutputFile::create(&dir.path().join("out.img"), 8192, PLAIN, &SourceIdentity::new()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_locked_partial_is_refused_and_a_stale_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.img");
        let first = OutputFile::create(&path, 0, PLAIN, &SourceIdentity::new()).unwrap();
        assert_eq!(
            OutputFile::create(&path, 0, PLAIN, &SourceIdentity::new()).err().unwrap().kind(),
            ErrorKind::Refused
        );
        drop(first);
        let precious = dir.path().join("precious");
        fs::write(&precious, "data").unwrap();
        fs::hard_link(&precious, dir.path().join("out.img.partial")).unwrap();
        finish(OutputFile::create(&path, 0, PLAIN, &SourceIdentity::new()).unwrap()).unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"data");
    }

    #[test]
    fn a_partial_that_is_a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "data").unwrap();
        std::os::unix::fs::symlink(&precious, dir.path().join("out.img.partial")).unwrap();
        let e =
            OutputFile::create(&dir.path().join("out.img"), 0, PLAIN, &SourceIdentity::new()).err().unwrap();
        assert_eq!(e.kind(), ErrorKind::Output);
        assert_eq!(fs::read(&precious).unwrap(), b"data");
    }

    #[test]
    fn a_file_of_that_name_is_only_replaced_by_force_even_when_it_appears_late() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.img");
        let late = OutputFile::create(&path, 1, PLAIN, &SourceIdentity::new()).unwrap();
        fs::write(&path, "mine").unwrap();
        assert_eq!(finish(late).unwrap_err().kind(), ErrorKind::Refused);
        assert!(OutputFile::create(&path, 1, PLAIN, &SourceIdentity::new()).is_err());
        let forced =
            OutputFile::create(&path, 1, FileOptions { force: true, ..PLAIN }, &SourceIdentity::new())
                .unwrap();
        forced.make_room(0).unwrap();
        finish(forced).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"\0");
    }
}
