//! Two states of a volume, or of two volumes: what was written between them, and where they really differ.
//!
//! ```text
//!   from   11222200....0000..       1, 0 the same in both: they have these layers in common
//!   to     11333300..330000..
//!   runs     ^^^^    ^^             only these are read, and compared byte for byte
//! ```
//!
//! Both overlays are swept together. What the two read from one and the same layer is the same, and is not looked at; so two
//! states of one replica cost what was written between them. A sector that was written again with the same bytes was
//! written, and does not differ.

use std::collections::BTreeMap;

use crate::engine::buffer::Buffer;
use crate::engine::differences::{self, Difference};
use crate::engine::pipeline::{self, BUFFER_BYTES};
use crate::engine::plan::{Plan, Segments};
use crate::error::Result;
use crate::event::{Event, Run};
use crate::model::overlay::{LayerIndex, Segment, Served};
use crate::model::units::ByteRange;
use crate::view::layers::Layers;

/// The most bytes of a side that are read at once: half a buffer each.
const PIECE_BYTES: u64 = BUFFER_BYTES as u64 / 2;

/// The most pieces, and bytes of them, in a batch for one worker.
const BATCH_PIECES: usize = 256;
const BATCH_BYTES: u64 = BUFFER_BYTES as u64;

/// Two states. Both plans must have the same length.
#[derive(Clone, Copy)]
pub struct Pair<'a> {
    /// The one.
    pub from: Plan<'a>,
    /// The other.
    pub to: Plan<'a>,
    /// How many layers, from the lowest up, are the same files in both.
    pub shared: usize,
}

/// Who serves a range on either side; `None` where no layer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// The layer on the one side.
    pub from: Option<LayerIndex>,
    /// On the other.
    pub to: Option<LayerIndex>,
}

/// A range in which the two differ.
pub type Change = Difference<Sides>;

/// What there is between two states. Bytes are counted in whole sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Bytes that the two do not read from one and the same layer.
    pub written: Tally,
    /// Bytes in sectors that differ; all that was written, if nothing was compared.
    pub differing: Tally,
    /// How many ranges differ.
    pub ranges: u64,
}

/// Bytes, by who serves them on either side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// In all.
    pub bytes: u64,
    /// By the layer on the one side.
    pub from: BTreeMap<Option<LayerIndex>, u64>,
    /// By the layer on the other.
    pub to: BTreeMap<Option<LayerIndex>, u64>,
}

impl Tally {
    fn add(&mut self, range: ByteRange, sides: Sides) {
        self.bytes += range.len_bytes();
        *self.from.entry(sides.from).or_default() += range.len_bytes();
        *self.to.entry(sides.to).or_default() += range.len_bytes();
    }
}

/// Compares, by `workers` threads, and tells `each` change in ascending order.
///
/// # Errors
/// `Source` when a layer cannot be read; what `each` fails with; interrupted when the run is cancelled.
pub fn compare(
    pair: &Pair<'_>,
    workers: usize,
    run: &Run<'_>,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<Changes> {
    let total_bytes = Batches::new(pair)?.bytes_to_read(run)?;
    run.event(Event::Phase { name: "comparing", total_bytes: Some(total_bytes) });
    let mut batches = Batches::new(pair)?;
    let mut changes = Changes::default();
    let mut joined = Joined { open: None, count: 0, each };
    pipeline::in_order(
        || batches.next_batch(),
        workers,
        run,
        |batch, buffer| pair.compare_batch(batch, buffer, run),
        |batch, found| {
            batch.iter().for_each(|piece| changes.written.add(piece.range, piece.sides()));
            for change in found {
                changes.differing.add(change.range, change.between);
                joined.add(change)?;
            }
            Ok(())
        },
    )?;
    changes.ranges = joined.finish()?;
    run.event(Event::PhaseDone);
    Ok(changes)
}

/// Tells what was written between the two, by their extents alone: nothing is read.
///
/// # Errors
/// As [`compare`].
pub fn written(
    pair: &Pair<'_>,
    run: &Run<'_>,
    each: &mut dyn FnMut(Change) -> Result<()>,
) -> Result<Changes> {
    let mut changes = Changes::default();
    let mut joined = Joined { open: None, count: 0, each };
    let mut batches = Batches::new(pair)?;
    while let Some(batch) = batches.next_batch()? {
        run.check()?;
        for piece in batch {
            let between = piece.sides();
            changes.written.add(piece.range, between);
            joined.add(Difference { range: piece.range, first_bytes: piece.range.start_bytes, between })?;
        }
    }
    changes.ranges = joined.finish()?;
    changes.differing = changes.written.clone();
    Ok(changes)
}

/// Changes on their way out, neighbours between the same layers made one.
struct Joined<'a> {
    open: Option<Change>,
    count: u64,
    each: &'a mut dyn FnMut(Change) -> Result<()>,
}

impl Joined<'_> {
    fn add(&mut self, next: Change) -> Result<()> {
        match &mut self.open {
            Some(open) if open.range.end_bytes == next.range.start_bytes && open.between == next.between => {
                open.range.end_bytes = next.range.end_bytes;
                Ok(())
            }
            open => open.replace(next).map_or(Ok(()), |done| self.tell(done)),
        }
    }

    fn tell(&mut self, change: Change) -> Result<()> {
        self.count += 1;
        (self.each)(change)
    }

    fn finish(mut self) -> Result<u64> {
        if let Some(last) = self.open.take() {
            self.tell(last)?;
        }
        Ok(self.count)
    }
}

/// A range in which neither side changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    range: ByteRange,
    from: Option<Served>,
    to: Option<Served>,
}

impl Piece {
    fn sides(&self) -> Sides {
        let layer = |served: Option<Served>| {
            served.map(|served| match served {
                Served::Data(layer) | Served::Unwritten { layer, .. } => layer,
            })
        };
        Sides { from: layer(self.from), to: layer(self.to) }
    }

    /// Whether both sides read the same layer, one of the `shared` lowest.
    fn is_common(&self, shared: usize) -> bool {
        match self.sides() {
            Sides { from: None, to: None } => true,
            Sides { from: Some(from), to: Some(to) } => from == to && usize::from(from) < shared,
            _ => false,
        }
    }

    /// Whether either side has bytes; otherwise both are zeros.
    fn has_bytes(&self) -> bool {
        data_of(self.from).or(data_of(self.to)).is_some()
    }
}

/// The layer whose bytes are read; the others are zeros.
fn data_of(served: Option<Served>) -> Option<LayerIndex> {
    match served {
        Some(Served::Data(layer)) => Some(layer),
        _ => None,
    }
}

impl Pair<'_> {
    fn compare_batch(&self, batch: &[Piece], buffer: &mut Buffer, run: &Run<'_>) -> Result<Vec<Change>> {
        let mut found = Vec::new();
        let (ours, theirs) = buffer.split_at_mut(BUFFER_BYTES / 2);
        for piece in batch.iter().filter(|piece| piece.has_bytes()) {
            let len = usize::try_from(piece.range.len_bytes()).unwrap_or(ours.len()).min(ours.len());
            let start = piece.range.start_bytes;
            fill(self.from.layers, piece.from, &mut ours[..len], start)?;
            fill(self.to.layers, piece.to, &mut theirs[..len], start)?;
            differences::compare(&ours[..len], &theirs[..len], start, piece.sides(), &mut found);
            run.event(Event::Advanced { bytes: piece.range.len_bytes() });
        }
        Ok(found)
    }
}

fn fill(layers: &Layers, served: Option<Served>, bytes: &mut [u8], offset_bytes: u64) -> Result<()> {
    match data_of(served) {
        Some(layer) => layers[usize::from(layer)].read_exact_at(bytes, offset_bytes),
        None => {
            bytes.fill(0);
            Ok(())
        }
    }
}

/// What the two do not read from the same layer, in pieces for workers.
struct Batches<'a> {
    from: Ahead<'a>,
    to: Ahead<'a>,
    shared: usize,
    at_bytes: u64,
    /// What is left of a piece that was too long.
    rest: Option<Piece>,
}

impl<'a> Batches<'a> {
    fn new(pair: &Pair<'a>) -> Result<Self> {
        Ok(Batches {
            from: Ahead { segments: pair.from.segments()?, next: None },
            to: Ahead { segments: pair.to.segments()?, next: None },
            shared: pair.shared,
            at_bytes: 0,
            rest: None,
        })
    }

    fn bytes_to_read(mut self, run: &Run<'_>) -> Result<u64> {
        let mut bytes = 0;
        while let Some(batch) = self.next_batch()? {
            run.check()?;
            bytes += batch.iter().filter(|piece| piece.has_bytes()).map(|p| p.range.len_bytes()).sum::<u64>();
        }
        Ok(bytes)
    }

    fn next_batch(&mut self) -> Result<Option<Vec<Piece>>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_PIECES && bytes < BATCH_BYTES {
            let Some(piece) = self.next_piece()? else { break };
            bytes += if piece.has_bytes() { piece.range.len_bytes() } else { 0 };
            batch.push(piece);
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    fn next_piece(&mut self) -> Result<Option<Piece>> {
        let mut piece = match self.rest.take() {
            Some(rest) => rest,
            None => match self.next_run()? {
                Some(run) => run,
                None => return Ok(None),
            },
        };
        if piece.has_bytes() && piece.range.len_bytes() > PIECE_BYTES {
            let cut = piece.range.start_bytes + PIECE_BYTES;
            self.rest = Some(Piece { range: ByteRange::new(cut, piece.range.end_bytes), ..piece });
            piece.range.end_bytes = cut;
        }
        Ok(Some(piece))
    }

    /// The next range in which neither side changes and that is not common to both.
    fn next_run(&mut self) -> Result<Option<Piece>> {
        loop {
            let start = self.at_bytes;
            let (from, from_until) = self.from.at(start)?;
            let (to, to_until) = self.to.at(start)?;
            let end = from_until.min(to_until);
            if end == u64::MAX {
                return Ok(None);
            }
            self.at_bytes = end;
            let piece = Piece { range: ByteRange::new(start, end), from, to };
            if !piece.is_common(self.shared) {
                return Ok(Some(piece));
            }
        }
    }
}

/// The segments of one side, and the first that does not lie behind.
struct Ahead<'a> {
    segments: Segments<'a>,
    next: Option<Segment>,
}

impl Ahead<'_> {
    /// Who serves the byte at `at_bytes`, which never goes back, and up to where; `u64::MAX` when nothing comes any more.
    fn at(&mut self, at_bytes: u64) -> Result<(Option<Served>, u64)> {
        while self.next.is_none_or(|segment| segment.range.end_bytes <= at_bytes) {
            self.next = self.segments.next().transpose()?;
            if self.next.is_none() {
                break;
            }
        }
        Ok(match self.next {
            None => (None, u64::MAX),
            Some(ahead) if ahead.range.start_bytes > at_bytes => (None, ahead.range.start_bytes),
            Some(Segment { range, served }) => (Some(plain(served)), range.end_bytes),
        })
    }
}

/// What lies below room that was never written does not matter here.
fn plain(served: Served) -> Served {
    match served {
        Served::Unwritten { layer, .. } => Served::Unwritten { layer, hides_data: false },
        data => data,
    }
}
