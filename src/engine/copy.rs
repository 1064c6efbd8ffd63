//! The copy: every byte of the volume that a layer serves is read once and written once.
//!
//! Neighbouring pieces are gathered into one write whatever layer they come from. Where source and output share
//! a file system with reflinks, large pieces are shared instead of copied.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::engine::buffer::Buffer;
use crate::engine::pieces::{Batch, Batches, Cut, Piece, PieceKind};
use crate::engine::pipeline::{self, BUFFER_BYTES};
use crate::engine::plan::Plan;
use crate::engine::sums::{BatchSum, Sums};
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::overlay::LayerIndex;
use crate::model::units::{ByteRange, sector_floor};
use crate::sink::Sink;
use crate::sys::sparse;
use crate::view::LayerImage;
use crate::view::layers::Layers;

/// How a copy is done.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions<'a> {
    /// How many threads work.
    pub workers: usize,
    /// For each layer, lowest first, whether blocks may be shared with it instead of copied; none when empty.
    pub clone: &'a [bool],
    /// Whether sums are taken of what was copied, for [`verify`](crate::engine::verify::verify).
    pub sums: bool,
}

/// Pieces below this are copied even where they could be shared: a clone is a metadata transaction, and a small
/// copy is quicker.
pub const CLONE_MIN_BYTES: u64 = 64 << 10;

/// The most zeros in a piece; between two pieces the run may be cancelled.
const ZERO_PIECE_BYTES: u64 = 64 << 20;

/// What a copy did.
#[derive(Debug)]
pub struct Receipt {
    /// Bytes of data read and written.
    pub copied_bytes: u64,
    /// Bytes of data shared with the source.
    pub cloned_bytes: u64,
    /// How the volume was cut; the sums hold for this cut only.
    pub cut: Cut,
    /// Sums of what was copied, batch by batch, if they were asked for.
    pub sums: Option<Sums>,
}

/// Copies the volume that `plan` tells of to `sink`.
///
/// # Errors
/// Of kind `Source` when a byte cannot be read, `Output` when one cannot be written, `Interrupted` when cancelled.
pub fn copy(plan: &Plan<'_>, sink: &dyn Sink, options: CopyOptions<'_>, run: &Run<'_>) -> Result<Receipt> {
    let clone = options.clone.contains(&true) && sink.plain_file().is_some();
    let cut = Cut {
        batch_bytes: BUFFER_BYTES as u64,
        zero_bytes: (sink.needs_zeros() || options.sums).then_some(ZERO_PIECE_BYTES),
    };
    let batches = Batches::new(plan, cut)?;
    let mover = Mover {
        layers: plan.layers,
        sink,
        run,
        clone: options.clone,
        cloning: AtomicBool::new(clone),
        copied_bytes: AtomicU64::new(0),
        cloned_bytes: AtomicU64::new(0),
        sums: options.sums.then(Sums::default),
    };
    let read = |batch: &Batch, buffer: &mut Buffer| mover.read(batch, buffer);
    let write = |filled: Filled, buffer: &Buffer| mover.write(filled, buffer);
    pipeline::read_then_write(batches, options.workers, run, read, write, |written| sink.settle(written))?;
    Ok(Receipt {
        copied_bytes: mover.copied_bytes.into_inner(),
        cloned_bytes: mover.cloned_bytes.into_inner(),
        cut,
        sums: mover.sums,
    })
}

/// What all workers of a copy share.
struct Mover<'a> {
    layers: &'a Layers,
    sink: &'a dyn Sink,
    run: &'a Run<'a>,
    /// For each layer, whether blocks may be shared with it.
    clone: &'a [bool],
    /// Until sharing fails once: what is wrong then, reading will tell.
    cloning: AtomicBool,
    copied_bytes: AtomicU64,
    cloned_bytes: AtomicU64,
    sums: Option<Sums>,
}

/// What is to be written of a batch.
struct Filled {
    /// From the batch's start to its end.
    range: ByteRange,
    writes: Vec<Write>,
    data_bytes: u64,
}

/// One thing to be written.
pub(super) enum Write {
    /// Bytes of the buffer, from its start to its end, at this offset of the volume.
    Data { offset_bytes: u64, start: usize, end: usize },
    /// Zeros.
    Zeros(ByteRange),
}

impl Write {
    /// Writes it to `sink`; `buffer` is the one it was filled from.
    pub(super) fn carry_out(&self, sink: &dyn Sink, buffer: &[u8], run: &Run<'_>) -> Result<()> {
        match *self {
            Write::Zeros(range) => sink.zero_range(range, run),
            Write::Data { offset_bytes, start, end } => sink.write_at(&buffer[start..end], offset_bytes),
        }
    }

    /// How many bytes come from the buffer.
    pub(super) fn data_bytes(&self) -> u64 {
        match *self {
            Write::Zeros(_) => 0,
            Write::Data { start, end, .. } => (end - start) as u64,
        }
    }
}

impl Mover<'_> {
    /// Reads a batch; what can be shared instead is shared at once.
    fn read(&self, batch: &Batch, buffer: &mut Buffer) -> Result<Filled> {
        let mut gather = Gather {
            buffer,
            filled: 0,
            writes: Vec::new(),
            sum: self.sums.as_ref().map(|_| BatchSum::default()),
        };
        for piece in &batch.pieces {
            match piece.kind {
                PieceKind::Zero => gather.writes.push(Write::Zeros(piece.range)),
                PieceKind::Data(layer) => {
                    let image = &*self.layers[usize::from(layer)];
                    let rest = self.try_clone(piece, layer);
                    let shared = ByteRange::new(piece.range.start_bytes, rest.start_bytes);
                    if gather.sum.is_some() {
                        // Its sum is wanted, so it has to be read for that.
                        gather.read(image, shared)?;
                    }
                    gather.take(image, rest)?;
                }
            }
        }
        if let (Some(sums), Some(sum), true) = (&self.sums, gather.sum, batch.data_bytes > 0) {
            sums.add(batch.index, sum);
        }
        Ok(Filled { range: batch.range(), writes: gather.writes, data_bytes: batch.data_bytes })
    }

    /// Writes what was read of a batch; returns where it lies.
    fn write(&self, filled: Filled, buffer: &[u8]) -> Result<ByteRange> {
        for write in &filled.writes {
            write.carry_out(self.sink, buffer, self.run)?;
            self.copied_bytes.fetch_add(write.data_bytes(), Ordering::Relaxed);
        }
        self.run.event(Event::Advanced { bytes: filled.data_bytes });
        Ok(filled.range)
    }

    /// Shares what can be shared of a piece; returns what is left to copy.
    fn try_clone(&self, piece: &Piece, layer: LayerIndex) -> ByteRange {
        let index = usize::from(layer);
        let may_clone = self.cloning.load(Ordering::Relaxed) && self.clone.get(index) == Some(&true);
        let layer = &self.layers[index];
        if !may_clone || piece.range.len_bytes() < CLONE_MIN_BYTES {
            return piece.range;
        }
        let (Some(from), Some(to)) = (layer.plain_file(), self.sink.plain_file()) else {
            return piece.range;
        };
        // A clone must end on a block; what is past the layer's end has nothing to share.
        let end = piece.range.end_bytes.min(sector_floor(layer.size_bytes()));
        let range = ByteRange::new(piece.range.start_bytes, end);
        if range.is_empty() {
            return piece.range;
        }
        match sparse::clone_range(from, to, range) {
            Ok(()) => {
                self.cloned_bytes.fetch_add(range.len_bytes(), Ordering::Relaxed);
                ByteRange::new(range.end_bytes, piece.range.end_bytes)
            }
            Err(_) => {
                self.cloning.store(false, Ordering::Relaxed);
                piece.range
            }
        }
    }
}

/// Reads pieces into one buffer, and gathers neighbours into one write.
struct Gather<'b> {
    buffer: &'b mut Buffer,
    filled: usize,
    writes: Vec<Write>,
    /// Of everything that was read, in ascending order, if it is wanted.
    sum: Option<BatchSum>,
}

impl Gather<'_> {
    /// Reads `range` into the buffer, to be written.
    fn take(&mut self, image: &dyn LayerImage, range: ByteRange) -> Result<()> {
        let from = self.filled;
        self.read(image, range)?;
        match self.writes.last_mut() {
            Some(Write::Data { offset_bytes, start, end })
                if *end == from && *offset_bytes + (from - *start) as u64 == range.start_bytes =>
            {
                *end = self.filled;
            }
            _ if self.filled > from => {
                let write = Write::Data { offset_bytes: range.start_bytes, start: from, end: self.filled };
                self.writes.push(write);
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads `range` into the buffer. A batch is cut so that it fits.
    fn read(&mut self, image: &dyn LayerImage, range: ByteRange) -> Result<()> {
        let length = usize::try_from(range.len_bytes()).unwrap_or(usize::MAX);
        let Some(room) = self.buffer[self.filled..].get_mut(..length) else {
            return Err(Error::source("a batch does not fit its buffer").at_offset(range.start_bytes));
        };
        image.read_exact_at(room, range.start_bytes)?;
        if let Some(sum) = &mut self.sum {
            sum.update(room);
        }
        self.filled += length;
        Ok(())
    }
}
