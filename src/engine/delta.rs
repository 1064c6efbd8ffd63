//! The delta: a target that holds something already is read, and only what differs is written.
//!
//! Run again after an interruption it goes on where that ended, since what is right already is not written. A target
//! that reads as zeros throughout is not read at all.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::buffer::Buffer;
use crate::engine::copy::{Receipt, Write};
use crate::engine::pieces::{Batch, Batches, Cut, Piece, PieceKind};
use crate::engine::pipeline::{self, BUFFER_BYTES};
use crate::engine::plan::Plan;
use crate::engine::sums::{BatchSum, Sums};
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::overlay::LayerIndex;
use crate::model::units::ByteRange;
use crate::sink::Target;
use crate::view::layers::Layers;

/// How batches are cut: half a buffer for the layers' bytes, and half for the target's.
const CUT: Cut = Cut { batch_bytes: HALF as u64, zero_bytes: Some(16 << 20) };
const HALF: usize = BUFFER_BYTES / 2;

/// What is compared and written: a sector.
const SECTOR: usize = 4096;

/// Which zeros are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// Those where the target reads as something else.
    Differing,
    /// All of them, also where the target reads as zeros: on thin targets that may be a discarded sector, and older
    /// data may come back there.
    All,
}

/// How a delta is done.
#[derive(Clone, Copy, Debug)]
pub struct DeltaOptions {
    /// How many threads read.
    pub workers: usize,
    /// Which zeros are written, unless the target needs none.
    pub zeros: Zeros,
    /// Whether anything is written at all; otherwise it is only counted.
    pub write: bool,
}

/// What a delta did, or would do.
#[derive(Debug)]
pub struct Delta {
    /// Bytes of the target that were read and compared.
    pub compared_bytes: u64,
    /// Bytes of data that differed and were written.
    pub data_bytes: u64,
    /// Bytes of zeros that were written.
    pub zero_bytes: u64,
    /// For [`verify`](crate::engine::verify::verify): what the whole image is, written or not.
    pub receipt: Receipt,
}

/// Makes `target` hold the volume that `plan` tells of.
///
/// # Errors
/// Of kind `Source` when a byte of the source cannot be read, `Output` when the target cannot be read or written,
/// `Interrupted` when cancelled.
pub fn delta(plan: &Plan<'_>, target: &dyn Target, options: DeltaOptions, run: &Run<'_>) -> Result<Delta> {
    let work = Work {
        layers: plan.layers,
        target,
        options,
        fresh: !target.needs_zeros(),
        run,
        compared_bytes: AtomicU64::new(0),
        data_bytes: AtomicU64::new(0),
        zero_bytes: AtomicU64::new(0),
        sums: Sums::default(),
    };
    let read = |batch: &Batch, buffer: &mut Buffer| work.read(batch, buffer);
    let write = |found: Found, buffer: &Buffer| work.write(found, buffer);
    let batches = Batches::new(plan, CUT)?;
    pipeline::read_then_write(batches, options.workers, run, read, write, |range| target.settle(range))?;
    let data_bytes = work.data_bytes.into_inner();
    Ok(Delta {
        compared_bytes: work.compared_bytes.into_inner(),
        data_bytes,
        zero_bytes: work.zero_bytes.into_inner(),
        receipt: Receipt { copied_bytes: data_bytes, cloned_bytes: 0, cut: CUT, sums: Some(work.sums) },
    })
}

/// What all workers share.
struct Work<'a> {
    layers: &'a Layers,
    target: &'a dyn Target,
    options: DeltaOptions,
    /// Whether the target reads as zeros throughout.
    fresh: bool,
    run: &'a Run<'a>,
    compared_bytes: AtomicU64,
    data_bytes: AtomicU64,
    zero_bytes: AtomicU64,
    sums: Sums,
}

/// What differs in a batch.
struct Found {
    range: ByteRange,
    writes: Vec<Write>,
}

impl Work<'_> {
    /// Reads a batch on both sides.
    fn read(&self, batch: &Batch, buffer: &mut Buffer) -> Result<Found> {
        let (ours, theirs) = buffer.split_at_mut(HALF);
        let mut sum = BatchSum::default();
        let mut writes = Vec::new();
        let mut filled = 0;
        for &Piece { range, kind } in &batch.pieces {
            match kind {
                PieceKind::Data(layer) => {
                    let room = ours.get_mut(filled..filled + length(range)).ok_or_else(|| {
                        Error::source("a batch does not fit its buffer").at_offset(range.start_bytes)
                    })?;
                    self.data(layer, range, room, &mut theirs[..length(range)], filled, &mut writes)?;
                    sum.update(room);
                    filled += room.len();
                }
                PieceKind::Zero => self.zeros(range, theirs, &mut writes)?,
            }
            if self.takes_time(kind) {
                self.run.event(Event::Advanced { bytes: range.len_bytes() });
            }
        }
        if batch.data_bytes > 0 {
            self.sums.add(batch.index, sum);
        }
        Ok(Found { range: batch.range(), writes })
    }

    /// Whether anything is read or written for a piece of that kind.
    fn takes_time(&self, kind: PieceKind) -> bool {
        let is_only_counted = self.options.zeros == Zeros::All && !self.options.write;
        matches!(kind, PieceKind::Data(_)) || !self.fresh && !is_only_counted
    }

    /// What of a layer's piece has to be written; `ours`, its bytes, begin at `filled` in the buffer.
    fn data(
        &self,
        layer: LayerIndex,
        range: ByteRange,
        ours: &mut [u8],
        theirs: &mut [u8],
        filled: usize,
        writes: &mut Vec<Write>,
    ) -> Result<()> {
        self.layers[usize::from(layer)].read_exact_at(ours, range.start_bytes)?;
        if self.fresh {
            theirs.fill(0);
        } else {
            self.read_target(theirs, range)?;
        }
        let all_zeros = !self.fresh && self.options.zeros == Zeros::All;
        let sectors = ours.chunks(SECTOR).zip(theirs.chunks(SECTOR)).enumerate();
        for (i, (our, their)) in sectors {
            if our == their && !(all_zeros && is_zero(our)) {
                continue;
            }
            let from = filled + i * SECTOR;
            match writes.last_mut() {
                Some(Write::Data { offset_bytes, start, end })
                    if *end == from
                        && *offset_bytes + (from - *start) as u64
                            == range.start_bytes + (i * SECTOR) as u64 =>
                {
                    *end += our.len();
                }
                _ => writes.push(Write::Data {
                    offset_bytes: range.start_bytes + (i * SECTOR) as u64,
                    start: from,
                    end: from + our.len(),
                }),
            }
        }
        Ok(())
    }

    /// What has to be zeroed of a range that no layer serves.
    fn zeros(&self, range: ByteRange, theirs: &mut [u8], writes: &mut Vec<Write>) -> Result<()> {
        if self.fresh {
            return Ok(());
        }
        if self.options.zeros == Zeros::All {
            writes.push(Write::Zeros(range));
            return Ok(());
        }
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            self.run.check()?;
            let end = range.end_bytes.min(at + HALF as u64);
            let bytes = &mut theirs[..length(ByteRange::new(at, end))];
            self.read_target(bytes, ByteRange::new(at, end))?;
            for (i, their) in bytes.chunks(SECTOR).enumerate() {
                let start = at + (i * SECTOR) as u64;
                if !is_zero(their) {
                    push_zeros(writes, ByteRange::new(start, start + their.len() as u64));
                }
            }
            at = end;
        }
        Ok(())
    }

    fn read_target(&self, buf: &mut [u8], range: ByteRange) -> Result<()> {
        self.target.read_exact_at(buf, range.start_bytes)?;
        self.compared_bytes.fetch_add(range.len_bytes(), Ordering::Relaxed);
        Ok(())
    }

    /// Writes what was found to differ; returns where.
    fn write(&self, found: Found, buffer: &[u8]) -> Result<ByteRange> {
        for write in &found.writes {
            if self.options.write {
                write.carry_out(self.target, buffer, self.run)?;
            }
            self.data_bytes.fetch_add(write.data_bytes(), Ordering::Relaxed);
            if let Write::Zeros(range) = write {
                self.zero_bytes.fetch_add(range.len_bytes(), Ordering::Relaxed);
            }
        }
        if found.writes.is_empty() {
            self.target.forget(found.range);
        }
        Ok(found.range)
    }
}

fn push_zeros(writes: &mut Vec<Write>, range: ByteRange) {
    match writes.last_mut() {
        Some(Write::Zeros(last)) if last.end_bytes == range.start_bytes => last.end_bytes = range.end_bytes,
        _ => writes.push(Write::Zeros(range)),
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// Lengths within a buffer, which fit.
fn length(range: ByteRange) -> usize {
    usize::try_from(range.len_bytes()).unwrap_or(usize::MAX)
}
