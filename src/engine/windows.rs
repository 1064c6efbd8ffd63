//! Layers in windows: fixed pieces of a file, each with its extents, that several threads can work on in any order.
//!
//! A window is small enough to be the unit in which an interrupted copy goes on, and large enough that keeping note
//! of all of them costs nothing. Where a file has no extent there is no window, so holes cost nothing at all.

use std::collections::VecDeque;
use std::thread;

use crossbeam_channel::{Sender, bounded};

use crate::engine::buffer::Buffer;
use crate::engine::pipeline::{BUFFER_BYTES, Failure};
use crate::error::Result;
use crate::event::Run;
use crate::model::extent::{Extent, ExtentSource, SectorExtents};
use crate::model::units::{ByteRange, sector_ceil};
use crate::view::LayerImage;

/// The length of a window in bytes. Digests depend on it: it never changes.
pub const WINDOW_BYTES: u64 = 64 << 20;

/// How many windows wait for a worker, per worker.
const QUEUE_PER_WORKER: usize = 2;

/// A piece of a file, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Which one: it begins at `index * WINDOW_BYTES`.
    pub index: u64,
    /// Its extents in whole sectors, ascending, clipped to the window, and as long as they can be; never empty. There
    /// are at most 16,384.
    pub extents: Vec<Extent>,
}

/// The windows of one file that hold anything, in ascending order.
pub struct Windows<S> {
    extents: SectorExtents<S>,
    /// What is left of the extent that the last window ended in.
    rest: Option<Extent>,
}

impl<'a> Windows<Box<dyn ExtentSource + 'a>> {
    /// The windows of `layer`.
    ///
    /// # Errors
    /// When its extents cannot be told.
    pub fn of(layer: &'a dyn LayerImage) -> Result<Self> {
        Ok(Windows::new(layer.extents()?, layer.size_bytes()))
    }
}

impl<S: ExtentSource> Windows<S> {
    /// The windows of a file of `size_bytes` whose extents `source` tells. What is preallocated past the end of the
    /// file is no part of it.
    pub fn new(source: S, size_bytes: u64) -> Self {
        let whole = ByteRange::new(0, sector_ceil(size_bytes));
        Windows { extents: SectorExtents::new(source, whole), rest: None }
    }

    /// The next window, or `None` after the last.
    ///
    /// # Errors
    /// Whatever the source says.
    pub fn next_window(&mut self) -> Result<Option<Window>> {
        let Some(first) = self.next_extent()? else { return Ok(None) };
        let index = first.range.start_bytes / WINDOW_BYTES;
        let end_bytes = (index + 1).saturating_mul(WINDOW_BYTES);
        let mut window = Window { index, extents: Vec::new() };
        let mut next = Some(first);
        while let Some(extent) = next {
            if extent.range.start_bytes >= end_bytes {
                self.rest = Some(extent);
                break;
            }
            let within = ByteRange::new(extent.range.start_bytes, extent.range.end_bytes.min(end_bytes));
            let after = ByteRange::new(within.end_bytes, extent.range.end_bytes);
            window.extents.push(Extent { range: within, ..extent });
            if !after.is_empty() {
                self.rest = Some(Extent { range: after, ..extent });
                break;
            }
            next = self.next_extent()?;
        }
        Ok(Some(window))
    }

    fn next_extent(&mut self) -> Result<Option<Extent>> {
        match self.rest.take() {
            Some(rest) => Ok(Some(rest)),
            None => self.extents.next_extent(),
        }
    }
}

/// Gives every window of every one of `layers` to one of `workers` threads; `work` gets the layer's place among them.
/// Windows of different layers are handed out in turn, so that the threads do not all want the same file.
///
/// # Errors
/// The first that a map or `work` failed with; [`ErrorKind::Interrupted`](crate::error::ErrorKind) when cancelled.
pub fn for_each_window(
    layers: &[&dyn LayerImage],
    workers: usize,
    run: &Run<'_>,
    work: impl Fn(usize, &Window, &mut Buffer) -> Result<()> + Sync,
) -> Result<()> {
    let failure = Failure::default();
    let workers = workers.max(1);
    thread::scope(|scope| {
        let (send, receive) = bounded::<(usize, Window)>(workers * QUEUE_PER_WORKER);
        for _ in 0..workers {
            let (receive, failure, work) = (receive.clone(), &failure, &work);
            scope.spawn(move || {
                let mut buffer = Buffer::new(BUFFER_BYTES);
                for (place, window) in receive {
                    if !failure.none_from(run.check().and_then(|()| work(place, &window, &mut buffer))) {
                        break;
                    }
                }
            });
        }
        drop(receive);
        failure.none_from(hand_out(layers, &send, &failure));
    });
    failure.into_result()
}

/// How many layers have their windows handed out in turn; each has a batch of extents in memory.
const IN_TURN: usize = 16;

fn hand_out(layers: &[&dyn LayerImage], send: &Sender<(usize, Window)>, failure: &Failure) -> Result<()> {
    let mut waiting = layers.iter().enumerate();
    let mut in_turn = VecDeque::new();
    loop {
        while in_turn.len() < IN_TURN {
            let Some((place, layer)) = waiting.next() else { break };
            in_turn.push_back((place, Windows::of(*layer)?));
        }
        let Some((place, mut windows)) = in_turn.pop_front() else { return Ok(()) };
        if let Some(window) = windows.next_window()? {
            in_turn.push_back((place, windows));
            if failure.is_failed() || send.send((place, window)).is_err() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::extent::ExtentKind::{self, Data, Unwritten};
    use crate::model::extent::ExtentList;

    fn windows(raw: &[(u64, u64, ExtentKind)], size_bytes: u64) -> Vec<Window> {
        let list = raw.iter().map(|&(s, e, kind)| Extent { range: ByteRange::new(s, e), kind }).collect();
        let mut windows = Windows::new(ExtentList::new(list), size_bytes);
        std::iter::from_fn(|| windows.next_window().unwrap()).collect()
    }

    fn extent(start: u64, end: u64, kind: ExtentKind) -> Extent {
        Extent { range: ByteRange::new(start, end), kind }
    }

    #[test]
    fn an_extent_is_cut_at_the_border_and_empty_windows_are_passed_over() {
        let (w, far) = (WINDOW_BYTES, 10 * WINDOW_BYTES);
        let found =
            windows(&[(0, 1, Data), (w - 4096, w + 8192, Unwritten), (far, far + 4096, Data)], 1 << 40);
        assert_eq!(
            found,
            [
                Window { index: 0, extents: vec![extent(0, 4096, Data), extent(w - 4096, w, Unwritten)] },
                Window { index: 1, extents: vec![extent(w, w + 8192, Unwritten)] },
                Window { index: 10, extents: vec![extent(far, far + 4096, Data)] },
            ]
        );
    }

    #[test]
    fn a_long_extent_fills_every_window_it_is_in() {
        let found = windows(&[(4096, 3 * WINDOW_BYTES + 1, Data)], 1 << 40);
        assert_eq!(found.iter().map(|w| w.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
        let bytes: u64 = found.iter().flat_map(|w| &w.extents).map(|e| e.range.len_bytes()).sum();
        assert_eq!(bytes, 3 * WINDOW_BYTES);
    }

    #[test]
    fn what_lies_past_the_end_of_the_file_is_no_part_of_it() {
        assert_eq!(
            windows(&[(0, 1 << 30, Data)], 5000),
            [Window { index: 0, extents: vec![extent(0, 8192, Data)] }]
        );
        assert_eq!(windows(&[(0, 4096, Data)], 0), []);
    }
}
