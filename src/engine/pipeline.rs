//! The pipeline: one thread sweeps, several work.
//!
//! Work is bounded by I/O, so there are more workers than cores: while some wait for the disk, others copy. The
//! first failure stops all of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crossbeam_channel::bounded;

use crate::engine::buffer::Buffer;
use crate::engine::pieces::{Batch, Batches};
use crate::error::{Error, Result};
use crate::event::Run;

/// How many bytes each worker has at hand, and the most data in a batch.
pub const BUFFER_BYTES: usize = 1 << 20;

/// How many batches wait for a worker, per worker: enough that none idles while the sweep reads a map.
const QUEUE_PER_WORKER: usize = 2;

/// How many workers there are when nobody says: more than cores, since they mostly wait; not so many that their
/// buffers matter on a small machine.
pub fn default_workers() -> usize {
    thread::available_parallelism().map_or(4, |cores| (2 * cores.get()).clamp(4, 16))
}

/// Gives every batch to one of `workers` threads, and returns the first error that any of them met.
///
/// # Errors
/// What the sweep or `work` failed with; [`ErrorKind::Interrupted`](crate::error::ErrorKind) when cancelled.
pub fn for_each_batch(
    mut batches: Batches<'_>,
    workers: usize,
    run: &Run<'_>,
    work: impl Fn(&Batch, &mut Buffer) -> Result<()> + Sync,
) -> Result<()> {
    let failed = AtomicBool::new(false);
    let failure = Mutex::new(None::<Error>);
    let fail = |e: Error| {
        failed.store(true, Ordering::Relaxed);
        let mut first = failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        first.get_or_insert(e);
    };
    thread::scope(|scope| {
        let (send, receive) = bounded::<Batch>(workers * QUEUE_PER_WORKER);
        for _ in 0..workers.max(1) {
            let (receive, fail, work, failed) = (receive.clone(), &fail, &work, &failed);
            scope.spawn(move || {
                let mut buffer = Buffer::new(BUFFER_BYTES);
                for batch in receive {
                    if failed.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Err(e) = run.check().and_then(|()| work(&batch, &mut buffer)) {
                        fail(e);
                        break;
                    }
                }
            });
        }
        drop(receive);
        while !failed.load(Ordering::Relaxed) {
            match batches.next_batch() {
                Ok(Some(batch)) => {
                    if send.send(batch).is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    fail(e);
                    break;
                }
            }
        }
    });
    let first = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    first.map_or(Ok(()), Err)
}
