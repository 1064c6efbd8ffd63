//! The pipeline: one thread sweeps, several read, and for a copy one writes and one sends on to the medium.
//!
//! Work is bounded by I/O, so there are more readers than cores: while some wait for the disk, others copy. A file
//! system lets one buffered write to a file in at a time, so there is one writer: it never waits for a turn, only
//! for data, and readers keep that ahead of it. The first failure stops all of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::engine::buffer::Buffer;
use crate::engine::pieces::{Batch, Batches};
use crate::error::{Error, Result};
use crate::event::Run;

/// How many bytes each worker has at hand, and the most data in a batch.
pub const BUFFER_BYTES: usize = 1 << 20;

/// How many batches wait for a worker, per worker: enough that none idles while the sweep reads a map.
const QUEUE_PER_WORKER: usize = 2;

/// How many workers there are when nobody says: more than cores, since on a cold disk they mostly wait; not so many
/// that their buffers matter on a small machine.
pub fn default_workers() -> usize {
    thread::available_parallelism().map_or(8, |cores| (2 * cores.get()).clamp(8, 16))
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
    for_each(|| batches.next_batch(), workers, run, work)
}

/// Gives everything that `next` has to one of `workers` threads, and returns the first error that any of them met.
///
/// # Errors
/// What `next` or `work` failed with; [`ErrorKind::Interrupted`](crate::error::ErrorKind) when cancelled.
pub fn for_each<T: Send>(
    next: impl FnMut() -> Result<Option<T>>,
    workers: usize,
    run: &Run<'_>,
    work: impl Fn(&T, &mut Buffer) -> Result<()> + Sync,
) -> Result<()> {
    let failure = Failure::default();
    let workers = workers.max(1);
    thread::scope(|scope| {
        let (send, receive) = bounded::<T>(workers * QUEUE_PER_WORKER);
        for _ in 0..workers {
            let (receive, failure, work) = (receive.clone(), &failure, &work);
            scope.spawn(move || {
                let mut buffer = Buffer::new(BUFFER_BYTES);
                for item in receive {
                    if !failure.none_from(run.check().and_then(|()| work(&item, &mut buffer))) {
                        break;
                    }
                }
            });
        }
        drop(receive);
        hand_out(next, &send, &failure);
    });
    failure.into_result()
}

/// How many results may wait for their turn, per worker.
const AHEAD_PER_WORKER: usize = 4;

/// Gives everything that `next` has to one of `workers` threads, and what they make of it to `take`, in the order of `next`, on
/// the calling thread. How far they work ahead is bounded.
///
/// # Errors
/// What `next`, `work` or `take` failed with first, in that order; [`ErrorKind::Interrupted`](crate::error::ErrorKind) when
/// cancelled.
pub fn in_order<T: Send, U: Send>(
    mut next: impl FnMut() -> Result<Option<T>> + Send,
    workers: usize,
    run: &Run<'_>,
    work: impl Fn(&T, &mut Buffer) -> Result<U> + Sync,
    mut take: impl FnMut(T, U) -> Result<()>,
) -> Result<()> {
    let failure = Failure::default();
    let workers = workers.max(1);
    thread::scope(|scope| {
        let (send, jobs) = bounded::<(T, Sender<(T, U)>)>(workers * QUEUE_PER_WORKER);
        let (in_order, order) = bounded::<Receiver<(T, U)>>(workers * AHEAD_PER_WORKER);
        let failure = &failure;
        for _ in 0..workers {
            let (jobs, work) = (jobs.clone(), &work);
            scope.spawn(move || {
                let mut buffer = Buffer::new(BUFFER_BYTES);
                for (item, done) in jobs {
                    let mut made = None;
                    let result = run.check().and_then(|()| work(&item, &mut buffer));
                    if !failure.none_from(result.map(|value| made = Some(value))) {
                        break;
                    }
                    if let Some(value) = made {
                        // Who takes it may have failed, and said why.
                        let _ = done.send((item, value));
                    }
                }
            });
        }
        drop(jobs);
        scope.spawn(move || {
            let with_turn = || {
                Ok(next()?.and_then(|item| {
                    let (done, turn) = bounded(1);
                    in_order.send(turn).is_ok().then_some((item, done))
                }))
            };
            hand_out(with_turn, &send, failure);
        });
        for turn in order {
            // Without an answer its worker has failed.
            let Ok((item, value)) = turn.recv() else { break };
            if !failure.none_from(take(item, value)) {
                break;
            }
        }
    });
    failure.into_result()
}

/// Lets `readers` threads fill a buffer for every batch, and gives what they return, with its buffer, to `write`, in
/// any order, on one thread. What that returns goes to `settle`, on a thread of its own, which may wait for the
/// medium while the writer goes on; when it is far behind, the writer waits for it too.
///
/// # Errors
/// What the sweep, `read` or `write` failed with; [`ErrorKind::Interrupted`](crate::error::ErrorKind) when cancelled.
pub fn read_then_write<T: Send, W: Send>(
    mut batches: Batches<'_>,
    readers: usize,
    run: &Run<'_>,
    read: impl Fn(&Batch, &mut Buffer) -> Result<T> + Sync,
    mut write: impl FnMut(T, &Buffer) -> Result<W> + Send,
    mut settle: impl FnMut(W) + Send,
) -> Result<()> {
    let failure = Failure::default();
    let readers = readers.max(1);
    thread::scope(|scope| {
        let (send, receive) = bounded::<Batch>(readers * QUEUE_PER_WORKER);
        // Every buffer there is fits in, so that giving one back never waits.
        let (spare_send, spare) = bounded::<Buffer>(readers * BUFFERS_PER_READER);
        let (filled_send, filled) = bounded::<(T, Buffer)>(readers * BUFFERS_PER_READER);
        for _ in 0..readers * BUFFERS_PER_READER {
            let _ = spare_send.send(Buffer::new(BUFFER_BYTES));
        }
        for _ in 0..readers {
            let (receive, spare, filled_send) = (receive.clone(), spare.clone(), filled_send.clone());
            let (failure, read) = (&failure, &read);
            scope.spawn(move || {
                for batch in receive {
                    // The writer is gone: it has said why.
                    let Ok(mut buffer) = spare.recv() else { break };
                    let mut result = None;
                    let done = run.check().and_then(|()| read(&batch, &mut buffer));
                    if !failure.none_from(done.map(|value| result = Some(value))) {
                        break;
                    }
                    if result.is_some_and(|value| filled_send.send((value, buffer)).is_err()) {
                        break;
                    }
                }
            });
        }
        drop((receive, filled_send, spare));
        let (written_send, written) = bounded::<W>(SETTLE_QUEUE);
        scope.spawn(move || written.into_iter().for_each(&mut settle));
        let failure = &failure;
        scope.spawn(move || {
            for (value, buffer) in filled {
                let done = run.check().and_then(|()| write(value, &buffer));
                if !failure.none_from(done.map(|value| drop(written_send.send(value)))) {
                    break;
                }
                let _ = spare_send.send(buffer);
            }
        });
        hand_out(|| batches.next_batch(), &send, failure);
    });
    failure.into_result()
}

/// How many batches may be written and not yet sent on to the medium: 64 MiB of data, a bound for what a small
/// machine holds in dirty pages.
const SETTLE_QUEUE: usize = 64;

/// How many buffers there are per reader: one that it fills, and one that waits for the writer.
const BUFFERS_PER_READER: usize = 2;

/// Sends all that `next` has, until there is no more or something failed.
fn hand_out<T>(mut next: impl FnMut() -> Result<Option<T>>, send: &Sender<T>, failure: &Failure) {
    while !failure.is_failed() {
        match next() {
            Ok(Some(item)) => {
                if send.send(item).is_err() {
                    break;
                }
            }
            Ok(None) => break,
            Err(e) => {
                failure.none_from(Err(e));
            }
        }
    }
}

/// The first error of several threads.
#[derive(Default)]
pub(super) struct Failure {
    failed: AtomicBool,
    first: Mutex<Option<Error>>,
}

impl Failure {
    /// Takes a result in; says whether all went well so far, here and elsewhere.
    pub(super) fn none_from(&self, result: Result<()>) -> bool {
        if let Err(e) = result {
            self.failed.store(true, Ordering::Relaxed);
            self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
        }
        !self.failed.load(Ordering::Relaxed)
    }

    /// Whether something failed already.
    pub(super) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(super) fn into_result(self) -> Result<()> {
        self.first.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}
