//! The copy: every byte of the volume that a layer serves is read once and written once.
//!
//! Neighbouring pieces are gathered into one write whatever layer they come from. Where source and output share
//! a file system with reflinks, large pieces are shared instead of copied.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::engine::buffer::Buffer;
use crate::engine::pieces::{Batch, Batches, Cut, Piece, PieceKind};
use crate::engine::pipeline::{self, BUFFER_BYTES};
use crate::engine::sums::{BatchSum, Sums};
use crate::engine::sweep::{self, Layers};
use crate::error::Result;
use crate::event::{Event, Run};
use crate::model::overlay::{LayerIndex, Unwritten};
use crate::model::units::{ByteRange, sector_floor};
use crate::sink::Sink;
use crate::sys::sparse;

/// How a copy is done.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions<'a> {
    /// What unwritten extents mean.
    pub unwritten: Unwritten,
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

/// The most a batch covers when blocks are shared: nothing is read, so it need not fit a buffer.
const CLONE_BATCH_BYTES: u64 = 64 << 20;

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

/// Copies the volume that `layers`, lowest first, make up to `sink`.
///
/// # Errors
/// Of kind `Source` when a byte cannot be read, `Output` when one cannot be written, `Interrupted` when cancelled.
pub fn copy(
    layers: &Layers,
    volume_bytes: u64,
    sink: &dyn Sink,
    options: CopyOptions<'_>,
    run: &Run<'_>,
) -> Result<Receipt> {
    let volume = ByteRange::new(0, volume_bytes);
    let clone = options.clone.contains(&true) && sink.plain_file().is_some();
    let cut = Cut {
        batch_bytes: if clone { CLONE_BATCH_BYTES } else { BUFFER_BYTES as u64 },
        zero_bytes: (sink.needs_zeros() || options.sums).then_some(ZERO_PIECE_BYTES),
    };
    let batches = Batches::new(sweep::overlay(layers, volume, options.unwritten)?, volume, cut);
    let mover = Mover {
        layers,
        sink,
        run,
        clone: options.clone,
        cloning: AtomicBool::new(clone),
        copied_bytes: AtomicU64::new(0),
        cloned_bytes: AtomicU64::new(0),
        sums: options.sums.then(Sums::default),
    };
    pipeline::for_each_batch(batches, options.workers, run, |batch, buffer| mover.batch(batch, buffer))?;
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

impl Mover<'_> {
    fn batch(&self, batch: &Batch, buffer: &mut Buffer) -> Result<()> {
        let mut gather = Gather { mover: self, buffer, start_bytes: 0, filled: 0, sum: BatchSum::default() };
        for piece in &batch.pieces {
            match piece.kind {
                PieceKind::Zero => {
                    gather.flush()?;
                    self.sink.zero_range(piece.range, self.run)?;
                }
                PieceKind::Data(layer) => {
                    let rest = self.try_clone(piece, layer);
                    gather.note(layer, ByteRange::new(piece.range.start_bytes, rest.start_bytes))?;
                    gather.take(layer, rest)?;
                }
            }
        }
        gather.flush()?;
        if let Some(sums) = self.sums.as_ref().filter(|_| batch.data_bytes > 0) {
            sums.add(batch.index, gather.sum);
        }
        self.run.event(Event::Advanced { bytes: batch.data_bytes });
        Ok(())
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

/// Gathers neighbouring pieces into one write.
struct Gather<'a, 'b> {
    mover: &'a Mover<'a>,
    buffer: &'b mut Buffer,
    start_bytes: u64,
    filled: usize,
    /// Of everything the batch has read, in ascending order.
    sum: BatchSum,
}

impl Gather<'_, '_> {
    fn take(&mut self, layer: LayerIndex, mut range: ByteRange) -> Result<()> {
        let image = &self.mover.layers[usize::from(layer)];
        while !range.is_empty() {
            if self.filled == self.buffer.len() || self.start_bytes + self.filled as u64 != range.start_bytes
            {
                self.flush()?;
                self.start_bytes = range.start_bytes;
            }
            let room = &mut self.buffer[self.filled..];
            let want = usize::try_from(range.len_bytes()).map_or(room.len(), |len| len.min(room.len()));
            image.read_exact_at(&mut room[..want], range.start_bytes)?;
            if self.mover.sums.is_some() {
                self.sum.update(&room[..want]);
            }
            self.filled += want;
            range.start_bytes += want as u64;
        }
        Ok(())
    }

    /// Takes the sum of a range that was shared: it has to be read for that.
    fn note(&mut self, layer: LayerIndex, range: ByteRange) -> Result<()> {
        if self.mover.sums.is_none() || range.is_empty() {
            return Ok(());
        }
        self.flush()?;
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            let want =
                usize::try_from(range.end_bytes - at).map_or(self.buffer.len(), |n| n.min(self.buffer.len()));
            self.mover.layers[usize::from(layer)].read_exact_at(&mut self.buffer[..want], at)?;
            self.sum.update(&self.buffer[..want]);
            at += want as u64;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.filled > 0 {
            self.mover.sink.write_at(&self.buffer[..self.filled], self.start_bytes)?;
            self.mover.copied_bytes.fetch_add(self.filled as u64, Ordering::Relaxed);
            self.filled = 0;
        }
        Ok(())
    }
}
