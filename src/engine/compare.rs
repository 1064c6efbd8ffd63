//! An image against the view of the volume that it should be: both are read, and compared byte for byte.
//!
//! What a layer serves must be the same; what no layer serves must read as zeros, and holes of the image are not read
//! for that. The image is read past the page cache, as a verification reads what it wrote.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::engine::buffer::Buffer;
use crate::engine::differences::{self, Difference, Differences};
use crate::engine::medium::Medium;
use crate::engine::pieces::{Batch, Batches, Cut, Piece, PieceKind};
use crate::engine::pipeline::{self, BUFFER_BYTES};
use crate::engine::plan::Plan;
use crate::error::Result;
use crate::event::{Event, Run};
use crate::model::overlay::LayerIndex;

/// How batches are cut: half a buffer for the layers' bytes, and half for the image's.
const CUT: Cut = Cut { batch_bytes: BUFFER_BYTES as u64 / 2, zero_bytes: Some(64 << 20) };

/// How an image and a view compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Bytes of data that layers serve, and that were compared; the rest of the view is zeros.
    pub data_bytes: u64,
    /// Bytes in sectors that differ.
    pub differing_bytes: u64,
    /// The first places that differ, and the layer that serves each; `None` where none does, and zeros should be.
    pub differences: Vec<Difference<Option<LayerIndex>>>,
}

/// Compares `image`, which is at least as long as the plan, with the view that `plan` makes up.
///
/// # Errors
/// `Source` when a layer cannot be read, `Output` when the image cannot; interrupted when the run is cancelled.
pub fn compare(plan: &Plan<'_>, image: &Medium, workers: usize, run: &Run<'_>) -> Result<Comparison> {
    let differences = Differences::default();
    let data_bytes = AtomicU64::new(0);
    pipeline::for_each_batch(Batches::new(plan, CUT)?, workers, run, |batch, buffer| {
        differences.add(batch.index, compare_batch(plan, image, batch, buffer)?);
        data_bytes.fetch_add(batch.data_bytes, Ordering::Relaxed);
        run.event(Event::Advanced { bytes: batch.data_bytes });
        Ok(())
    })?;
    let (differences, differing_bytes) = differences.finish();
    Ok(Comparison { data_bytes: data_bytes.into_inner(), differing_bytes, differences })
}

type Found = Vec<Difference<Option<LayerIndex>>>;

fn compare_batch(plan: &Plan<'_>, image: &Medium, batch: &Batch, buffer: &mut Buffer) -> Result<Found> {
    let mut found = Vec::new();
    let (ours, theirs) = buffer.split_at_mut(BUFFER_BYTES / 2);
    for &Piece { range, kind } in &batch.pieces {
        match kind {
            PieceKind::Data(layer) => {
                let len = usize::try_from(range.len_bytes()).unwrap_or(ours.len()).min(ours.len());
                plan.layers[usize::from(layer)].read_exact_at(&mut ours[..len], range.start_bytes)?;
                let mut done = 0;
                image.read(range, theirs, |bytes| {
                    let (at, expected) = (range.start_bytes + done as u64, &ours[done..done + bytes.len()]);
                    differences::compare(expected, bytes, at, Some(layer), &mut found);
                    done += bytes.len();
                })?;
            }
            PieceKind::Zero => image.read_data(range, theirs, &mut |at, bytes| {
                let zeros = &mut ours[..bytes.len()];
                zeros.fill(0);
                differences::compare(zeros, bytes, at, None, &mut found);
                true
            })?,
        }
    }
    Ok(found)
}
