//! The image as a stream: in order, holes as zeros.
//!
//! Workers read ahead, each batch into a buffer of its own; one thread writes the buffers in their order. How far
//! they read ahead is bounded by the buffers there are.

use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::engine::digest::Hasher;
use crate::engine::pieces::{Batch, Batches, Cut, PieceKind};
use crate::engine::pipeline::BUFFER_BYTES;
use crate::engine::plan::Plan;
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::view::layers::Layers;

/// How many batches are read ahead of the one that is written, per worker.
const AHEAD_PER_WORKER: usize = 2;

/// The most readers: each has buffers of a MiB, and a stream is no faster than its reader.
const MAX_READERS: usize = 8;

/// The most zeros in a piece; between two pieces the run may be cancelled.
static ZEROS: [u8; 1 << 20] = [0; 1 << 20];

/// A batch and what was read for it, one piece after the other.
type Filled = Result<(Batch, Vec<u8>)>;

/// Writes the volume that `plan` tells of to `out`, and feeds `hasher` with it.
///
/// # Errors
/// `Source` when a byte cannot be read, `Output` when one cannot be written, `Interrupted` when cancelled.
pub fn stream(
    plan: &Plan<'_>,
    out: &mut dyn Write,
    workers: usize,
    hasher: Option<&mut Hasher>,
    run: &Run<'_>,
) -> Result<u64> {
    let Plan { layers, volume_bytes, .. } = *plan;
    let cut = Cut { batch_bytes: BUFFER_BYTES as u64, zero_bytes: Some(ZEROS.len() as u64) };
    let mut batches = Batches::new(plan, cut)?;
    let readers = workers.clamp(1, MAX_READERS);
    let (spare_send, spare) = bounded::<Vec<u8>>(readers * (AHEAD_PER_WORKER + 1));
    let stop = AtomicBool::new(false);
    let sweep_error = Mutex::new(None);
    let written = thread::scope(|scope| {
        let (to_read, jobs) = bounded::<(Batch, Sender<Filled>)>(readers * AHEAD_PER_WORKER);
        // As many as may be read ahead: the sweep waits when the writer is that far behind.
        let (in_order, order) = bounded::<Receiver<Filled>>(readers * AHEAD_PER_WORKER);
        for _ in 0..readers {
            let (jobs, spare) = (jobs.clone(), spare.clone());
            scope.spawn(move || {
                for (batch, done) in jobs {
                    let buffer = spare.try_recv().unwrap_or_default();
                    // The writer may have given up; it has said why.
                    let _ = done.send(fill(layers, batch, buffer));
                }
            });
        }
        drop(jobs);
        let (stop, sweep_error) = (&stop, &sweep_error);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match batches.next_batch() {
                    Ok(Some(batch)) => {
                        let (done, result) = bounded(1);
                        if in_order.send(result).is_err() || to_read.send((batch, done)).is_err() {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(e) => {
                        *sweep_error.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(e);
                        break;
                    }
                }
            }
        });
        let result = write_in_order(&order, &spare_send, out, hasher, run);
        stop.store(true, Ordering::Relaxed);
        drop(order);
        result
    })?;
    let sweep_error = sweep_error.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match sweep_error {
        Some(e) => Err(e),
        None if written != volume_bytes => {
            Err(Error::source(format!("the stream ended early, at {written} of {volume_bytes} bytes")))
        }
        None => Ok(written),
    }
}

fn fill(layers: &Layers, batch: Batch, mut buffer: Vec<u8>) -> Filled {
    buffer.resize(usize::try_from(batch.data_bytes).unwrap_or(BUFFER_BYTES), 0);
    let mut rest = &mut buffer[..];
    for piece in &batch.pieces {
        if let PieceKind::Data(layer) = piece.kind {
            let len = usize::try_from(piece.range.len_bytes()).unwrap_or(rest.len()).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            layers[usize::from(layer)].read_exact_at(now, piece.range.start_bytes)?;
            rest = later;
        }
    }
    Ok((batch, buffer))
}

fn write_in_order(
    order: &Receiver<Receiver<Filled>>,
    spare: &Sender<Vec<u8>>,
    out: &mut dyn Write,
    mut hasher: Option<&mut Hasher>,
    run: &Run<'_>,
) -> Result<u64> {
    let mut written = 0u64;
    for result in order {
        run.check()?;
        // A sender is dropped without an answer only when its thread has died.
        let (batch, buffer) = result.recv().map_err(|_| Error::source("a reader stopped unexpectedly"))??;
        let mut rest = &buffer[..];
        for piece in &batch.pieces {
            let len = usize::try_from(piece.range.len_bytes()).unwrap_or(0);
            let bytes = match piece.kind {
                PieceKind::Zero => &ZEROS[..len],
                PieceKind::Data(_) => {
                    let (now, later) = rest.split_at(len);
                    rest = later;
                    now
                }
            };
            out.write_all(bytes).map_err(|e| failed(written, e))?;
            if let Some(hasher) = hasher.as_deref_mut() {
                hasher.update(bytes);
            }
            written += len as u64;
            run.event(Event::Advanced { bytes: len as u64 });
        }
        // A full pool only means one allocation more.
        let _ = spare.try_send(buffer);
    }
    out.flush().map_err(|e| failed(written, e))?;
    Ok(written)
}

fn failed(offset_bytes: u64, cause: io::Error) -> Error {
    let error = Error::output("cannot write the image to standard output").at_offset(offset_bytes);
    match cause.kind() {
        io::ErrorKind::BrokenPipe => {
            error.with_hint("whatever reads the stream went away before its end: what it has is not complete")
        }
        _ => error,
    }
    .caused_by(cause)
}
