//! Verification: the finished output, read back from the medium, is what was copied.
//!
//! The output is read past the page cache (direct I/O, or after dropping what is cached), cut exactly as it was
//! copied, and its sums are compared with those taken of what the layers delivered. Ranges that no layer serves
//! must read as zeros. The source is not read again: a dying disk is spared.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use nix::fcntl::OFlag;

use crate::engine::buffer::Buffer;
use crate::engine::copy::Receipt;
use crate::engine::pieces::{Batch, Batches, PieceKind};
use crate::engine::pipeline;
use crate::engine::plan::Plan;
use crate::engine::sums::{BatchSum, Sums};
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::units::{ByteRange, SECTOR_BYTES};
use crate::sys::sparse;

/// How many differences are named.
const NAMED_DIFFERENCES: usize = 8;

/// What a verification found.
#[derive(Clone, Debug, Default)]
pub struct Verification {
    /// Bytes of data read back.
    pub read_bytes: u64,
    /// Whether the medium itself was read, and not perhaps a cache in between.
    pub direct: bool,
    /// The ranges in which the output is not what was copied; the first ones, when there are very many. Each
    /// covers the batches that share a sum, so the difference may be anywhere in it.
    pub differences: Vec<ByteRange>,
}

/// Reads back from `output` what `receipt` says was copied to it by `plan`.
///
/// # Errors
/// `Output` when it cannot be read back; `Source` when a layer's extents can no longer be told.
pub fn verify(
    plan: &Plan<'_>,
    receipt: &Receipt,
    output: &Path,
    workers: usize,
    run: &Run<'_>,
) -> Result<Verification> {
    let Some(copied) = &receipt.sums else {
        return Err(Error::usage("nothing was summed while it was copied"));
    };
    let medium = Medium::open(output)?;
    let read_back = Sums::default();
    let not_zero = Mutex::new(Vec::new());
    pipeline::for_each_batch(Batches::new(plan, receipt.cut)?, workers, run, |batch, buffer| {
        let mut sum = BatchSum::default();
        for piece in &batch.pieces {
            match piece.kind {
                PieceKind::Data(_) => medium.read(piece.range, buffer, |bytes| sum.update(bytes))?,
                PieceKind::Zero if !medium.is_zero(piece.range, buffer)? => {
                    not_zero.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(piece.range);
                }
                PieceKind::Zero => {}
            }
        }
        if batch.data_bytes > 0 {
            read_back.add(batch.index, sum);
        }
        run.event(Event::Advanced { bytes: batch.data_bytes });
        Ok(())
    })?;
    let mut differences = not_zero.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let wrong = copied.differences(&read_back);
    if !wrong.is_empty() {
        locate(Batches::new(plan, receipt.cut)?, &wrong, &mut differences)?;
    }
    differences.sort_unstable();
    differences.truncate(NAMED_DIFFERENCES);
    Ok(Verification {
        read_bytes: receipt.copied_bytes + receipt.cloned_bytes,
        direct: medium.direct,
        differences,
    })
}

/// Finds the ranges of the volume that the batches at the given places cover.
fn locate(mut batches: Batches<'_>, wrong: &[(u64, u64)], found: &mut Vec<ByteRange>) -> Result<()> {
    let mut ranges = vec![None::<ByteRange>; wrong.len()];
    while let Some(Batch { index, pieces, .. }) = batches.next_batch()? {
        let Some(i) = wrong.iter().position(|&(from, to)| (from..to).contains(&index)) else { continue };
        if let (Some(first), Some(last)) = (pieces.first(), pieces.last()) {
            let start = ranges[i].map_or(first.range.start_bytes, |r| r.start_bytes);
            ranges[i] = Some(ByteRange::new(start, last.range.end_bytes));
        }
    }
    found.extend(ranges.into_iter().flatten());
    Ok(())
}

/// The output as the medium has it.
struct Medium {
    file: File,
    path: PathBuf,
    direct: bool,
}

impl Medium {
    fn open(path: &Path) -> Result<Self> {
        let direct = OpenOptions::new().read(true).custom_flags(OFlag::O_DIRECT.bits()).open(path);
        let mut probe = Buffer::new(SECTOR_BYTES_USIZE);
        match direct {
            // tmpfs and others take the flag and then refuse to read.
            Ok(file) if file.read_at(&mut probe, 0).is_ok() => {
                Ok(Medium { file, path: path.into(), direct: true })
            }
            _ => File::open(path)
                .map(|file| Medium { file, path: path.into(), direct: false })
                .map_err(|e| Error::output("cannot read the output back").with_path(path).caused_by(e)),
        }
    }

    /// Reads `range` piece by piece.
    fn read(&self, range: ByteRange, buffer: &mut Buffer, mut each: impl FnMut(&[u8])) -> Result<()> {
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

    fn read_some(&self, buf: &mut [u8], at: u64) -> Result<usize> {
        loop {
            match self.file.read_at(buf, at) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map_err(|e| self.failed(at, e)),
            }
        }
    }

    /// Whether `range` reads as zeros; holes are not read.
    fn is_zero(&self, range: ByteRange, buffer: &mut Buffer) -> Result<bool> {
        let mut zero = true;
        let mut at = range.start_bytes;
        while at < range.end_bytes && zero {
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
            self.read(whole.clip(range), buffer, |bytes| zero &= bytes.iter().all(|&b| b == 0))?;
            at = data.end_bytes;
        }
        Ok(zero)
    }

    fn failed(&self, at: u64, cause: io::Error) -> Error {
        Error::output("cannot read the output back")
            .with_path(&self.path)
            .at_offset(at)
            .caused_by(cause)
            .with_hint("what was written cannot be trusted: the target disk may be failing")
    }
}

const SECTOR_BYTES_USIZE: usize = 4096;
