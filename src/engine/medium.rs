//! A finished image as the medium has it, and not as a cache remembers it.
//!
//! Read with direct I/O, or after dropping what is cached where a file system has none.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::engine::buffer::Buffer;
use crate::engine::pipeline::BUFFER_BYTES;
use crate::error::{Error, Result};
use crate::model::units::{ByteRange, SECTOR_BYTES};
use crate::sys::sparse;

const SECTOR_BYTES_USIZE: usize = 4096;

/// What is said when an image cannot be read.
pub struct Words {
    /// What happened.
    pub cannot_read: &'static str,
    /// What to do next.
    pub hint: &'static str,
}

/// For an output of ours that is read back.
pub const OUTPUT: Words = Words {
    cannot_read: "cannot read the output back",
    hint: "what was written cannot be trusted: the target disk may be failing",
};

/// An image as the medium has it.
pub struct Medium {
    file: File,
    path: PathBuf,
    direct: bool,
    words: &'static Words,
}

impl Medium {
    /// Opens the file or device at `path` for reading.
    ///
    /// # Errors
    /// `Output` when it cannot be opened.
    pub fn open(path: &Path, words: &'static Words) -> Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path);
        let mut probe = Buffer::new(SECTOR_BYTES_USIZE);
        match direct {
            // tmpfs and others take the flag and then refuse to read.
            Ok(file) if file.read_at(&mut probe, 0).is_ok() => {
                Ok(Medium { file, path: path.into(), direct: true, words })
            }
            _ => File::open(path)
                .map(|file| Medium { file, path: path.into(), direct: false, words })
                .map_err(|e| Error::output(words.cannot_read).with_path(path).caused_by(e)),
        }
    }

    /// Whether the cache is bypassed for certain, and not only dropped beforehand.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Reads `range` piece by piece. The buffer is page-aligned, and a multiple of a sector long.
    ///
    /// # Errors
    /// `Output` when a byte cannot be read, or is not there.
    pub fn read(&self, range: ByteRange, buffer: &mut [u8], mut each: impl FnMut(&[u8])) -> Result<()> {
        // Some file systems take direct I/O and serve it from the cache all the same.
        sparse::drop_cached(&self.file, range);
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            let want = usize::try_from(range.end_bytes - at).map_or(buffer.len(), |n| n.min(buffer.len()));
            // Direct I/O takes whole sectors; past the file's end it delivers less.
            let whole = want.next_multiple_of(SECTOR_BYTES_USIZE).min(buffer.len());
            let got = self.read_some(&mut buffer[..whole], at)?.min(want);
            if got == 0 {
                return Err(self.failed(at, io::ErrorKind::UnexpectedEof.into()));
            }
            each(&buffer[..got]);
            at += got as u64;
        }
        Ok(())
    }

    /// Fills `buf`, which must be as aligned as a [`Buffer`] and have whole sectors, with the sectors from `at` on; what
    /// is past the end of the file is zeros.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_sectors(&self, buf: &mut [u8], at: u64) -> Result<()> {
        sparse::drop_cached(&self.file, ByteRange::new(at, at.saturating_add(buf.len() as u64)));
        let mut done = 0;
        while done < buf.len() {
            let got = self.read_some(&mut buf[done..], at + done as u64)?;
            done += got;
            // Direct I/O goes on at whole sectors only, and short of one is the end of the file.
            if got == 0 || done % SECTOR_BYTES_USIZE != 0 {
                let size_bytes = self.file.metadata().map_err(|e| self.failed(at, e))?.len();
                if size_bytes > at + done as u64 {
                    return Err(self.failed(at + done as u64, io::ErrorKind::UnexpectedEof.into()));
                }
                buf[done..].fill(0);
                break;
            }
        }
        Ok(())
    }

    fn read_some(&self, buf: &mut [u8], at: u64) -> Result<usize> {
        loop {
            match self.file.read_at(buf, at) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|e| self.failed(at, e)),
            }
        }
    }

    /// Whether `range` reads as zeros; holes are not read.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn is_zero(&self, range: ByteRange, buffer: &mut [u8]) -> Result<bool> {
        let mut zero = true;
        self.read_data(range, buffer, &mut |_, bytes| {
            zero &= bytes.iter().all(|&b| b == 0);
            zero
        })?;
        Ok(zero)
    }

    /// Reads what is no hole in `range` piece by piece, with the offset of each, as long as `each` wants more.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_data(
        &self,
        range: ByteRange,
        buffer: &mut [u8],
        each: &mut dyn FnMut(u64, &[u8]) -> bool,
    ) -> Result<()> {
        let mut more = true;
        let mut at = range.start_bytes;
        while at < range.end_bytes && more {
            let data = match sparse::next_data(&self.file, at) {
                Ok(Some(data)) => data.clip(range),
                Ok(None) => break,
                // A device, or a file system that cannot tell.
                Err(_) => ByteRange::new(at, range.end_bytes),
            };
            if data.is_empty() {
                break;
            }
            let whole = ByteRange::new(data.start_bytes - data.start_bytes % SECTOR_BYTES, data.end_bytes);
            let mut offset = whole.clip(range).start_bytes;
            self.read(whole.clip(range), buffer, |bytes| {
                more = more && each(offset, bytes);
                offset += bytes.len() as u64;
            })?;
            at = data.end_bytes;
        }
        Ok(())
    }

    fn failed(&self, at: u64, cause: io::Error) -> Error {
        Error::output(self.words.cannot_read)
            .with_path(&self.path)
            .at_offset(at)
            .caused_by(cause)
            .with_hint(self.words.hint)
    }
}

/// A finished output as the medium has it, from its beginning to its end.
pub struct MediumStream {
    medium: Medium,
    size_bytes: u64,
    /// Where the buffer's bytes begin.
    at: u64,
    buffer: Buffer,
    /// What of the buffer was not taken yet.
    left: std::ops::Range<usize>,
}

impl MediumStream {
    /// Opens the file of `size_bytes` at `path`.
    ///
    /// # Errors
    /// `Output` when it cannot be opened.
    pub fn open(path: &Path, size_bytes: u64) -> Result<Self> {
        let medium = Medium::open(path, &OUTPUT)?;
        Ok(MediumStream { medium, size_bytes, at: 0, buffer: Buffer::new(BUFFER_BYTES), left: 0..0 })
    }

    /// Whether the medium itself is read, and not perhaps a cache in between.
    pub fn is_direct(&self) -> bool {
        self.medium.is_direct()
    }
}

impl Read for MediumStream {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            let present =
                usize::try_from(self.size_bytes - self.at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            let whole = present.next_multiple_of(SECTOR_BYTES_USIZE);
            self.medium.read_sectors(&mut self.buffer[..whole], self.at).map_err(io::Error::other)?;
            self.at += present as u64;
            self.left = 0..present;
        }
        let taken = out.len().min(self.left.len());
        out[..taken].copy_from_slice(&self.buffer[self.left.start..self.left.start + taken]);
        self.left.start += taken;
        Ok(taken)
    }
}
