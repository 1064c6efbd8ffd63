//! Segments cut into pieces that a worker can take: not larger than a buffer, gathered into batches.

use crate::engine::plan::{Plan, Segments};
use crate::error::Result;
use crate::model::overlay::{LayerIndex, Segment, Served};
use crate::model::units::ByteRange;

/// What a piece of the volume is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// Data of this layer.
    Data(LayerIndex),
    /// Zeros that no layer wrote: a hole all the way down, or an unwritten extent.
    Zero,
}

/// A range of the volume for one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where, in bytes of the volume.
    pub range: ByteRange,
    /// What.
    pub kind: PieceKind,
}

/// Pieces that one worker does in one go, in ascending order.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The place of this batch among all, from 0.
    pub index: u64,
    /// What to do.
    pub pieces: Vec<Piece>,
    /// Bytes in [`PieceKind::Data`] pieces.
    pub data_bytes: u64,
}

impl Batch {
    /// From the start of its first piece to the end of its last.
    pub fn range(&self) -> ByteRange {
        let start = self.pieces.first().map_or(0, |piece| piece.range.start_bytes);
        ByteRange::new(start, self.pieces.last().map_or(start, |piece| piece.range.end_bytes))
    }
}

/// How segments are cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The most bytes of data in a batch.
    pub batch_bytes: u64,
    /// The most bytes of zeros in a piece; `None` leaves zeros out altogether.
    pub zero_bytes: Option<u64>,
}

/// The most pieces in a batch: small ones are dear by number, not by size.
const BATCH_PIECES: usize = 256;

/// The batches of a plan, in ascending order.
pub struct Batches<'a> {
    segments: Segments<'a>,
    cut: Cut,
    volume_bytes: u64,
    next_index: u64,
    /// Up to where the pieces are handed out.
    done_bytes: u64,
    /// The segment that is being cut.
    segment: Option<Segment>,
    swept: bool,
}

impl<'a> Batches<'a> {
    /// Cuts the segments of `plan` as `cut` says.
    ///
    /// # Errors
    /// When a layer's extents cannot be told.
    pub fn new(plan: &Plan<'a>, cut: Cut) -> Result<Self> {
        let segments = plan.segments()?;
        let volume_bytes = plan.volume_bytes;
        Ok(Batches { segments, cut, volume_bytes, next_index: 0, done_bytes: 0, segment: None, swept: false })
    }

    /// The next batch, or `None` after the last.
    ///
    /// # Errors
    /// When a layer's extents cannot be told.
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let mut batch = Batch { index: self.next_index, ..Batch::default() };
        let mut zero_bytes = 0;
        while batch.pieces.len() < BATCH_PIECES && batch.data_bytes + zero_bytes < self.cut.batch_bytes {
            let Some(piece) = self.next_piece(self.cut.batch_bytes - batch.data_bytes)? else { break };
            match piece.kind {
                PieceKind::Data(_) => batch.data_bytes += piece.range.len_bytes(),
                PieceKind::Zero => zero_bytes += piece.range.len_bytes(),
            }
            batch.pieces.push(piece);
        }
        self.next_index += 1;
        Ok((!batch.pieces.is_empty()).then_some(batch))
    }

    fn next_piece(&mut self, room_bytes: u64) -> Result<Option<Piece>> {
        loop {
            if self.segment.is_none() && !self.swept {
                self.segment = self.segments.next().transpose()?;
                self.swept = self.segment.is_none();
            }
            let gap_end = self.segment.map_or(self.volume_bytes, |s| s.range.start_bytes);
            if self.done_bytes < gap_end {
                if let Some(piece) = self.zeros_up_to(gap_end) {
                    return Ok(Some(piece));
                }
            }
            let Some(segment) = self.segment else { return Ok(None) };
            let left = ByteRange::new(self.done_bytes, segment.range.end_bytes);
            if left.is_empty() {
                self.segment = None;
                continue;
            }
            match segment.served {
                Served::Data(layer) => {
                    let end = left.start_bytes.saturating_add(room_bytes).min(left.end_bytes);
                    self.done_bytes = end;
                    let range = ByteRange::new(left.start_bytes, end);
                    return Ok(Some(Piece { range, kind: PieceKind::Data(layer) }));
                }
                Served::Unwritten { .. } => {
                    if let Some(piece) = self.zeros_up_to(left.end_bytes) {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// Zeros up to `end_bytes` or the largest piece of them; `None` where zeros are left out.
    fn zeros_up_to(&mut self, end_bytes: u64) -> Option<Piece> {
        let Some(most) = self.cut.zero_bytes else {
            self.done_bytes = end_bytes;
            return None;
        };
        let end = self.done_bytes.saturating_add(most).min(end_bytes);
        let range = ByteRange::new(self.done_bytes, end);
        self.done_bytes = end;
        Some(Piece { range, kind: PieceKind::Zero })
    }
}
