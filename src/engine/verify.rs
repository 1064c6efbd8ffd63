//! Verification: the finished output, read back from the medium, is what was copied.
//!
//! The output is read past the page cache (direct I/O, or after dropping what is cached), cut exactly as it was
//! copied, and its sums are compared with those taken of what the layers delivered. Ranges that no layer serves
//! must read as zeros. The source is not read again: a dying disk is spared.

use std::path::Path;
use std::sync::Mutex;

use crate::engine::copy::Receipt;
use crate::engine::medium::{Medium, OUTPUT};
use crate::engine::pieces::{Batch, Batches, PieceKind};
use crate::engine::pipeline;
use crate::engine::plan::Plan;
use crate::engine::sums::{BatchSum, Sums};
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::model::units::ByteRange;

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
    let medium = Medium::open(output, &OUTPUT)?;
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
        direct: medium.is_direct(),
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
