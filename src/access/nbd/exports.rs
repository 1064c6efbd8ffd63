//! The exports of a replica directory, or of an image: opened when they are first asked for, and shared by all who ask.
//!
//! A chain of 250 layers has 250 states, whose layers together are 30,000 files. So those that nobody uses any more are
//! closed again, but for a few; what was written on top of one, though, stays as long as the server.

mod state;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::access::nbd::record::Record;
use crate::access::nbd::{Catalog, Listed};
use crate::access::scratch::{Scratch, ScratchSpace};
use crate::access::volume::{Volume, VolumeOptions};
use crate::error::Result;
use crate::model::finding::{Code, Finding};
use crate::model::units::ByteRange;
use crate::replica::SourceOptions;
use crate::sys::process::allow_many_files;
use crate::view::disk::{Disk, Part};
use state::{Opened, State};

/// How many exports stay open that nobody uses. Each remembers which layer serves what, in up to 12 MiB.
const MAX_IDLE: usize = 4;

/// How many descriptors are left for what is not a layer: clients, temporary files, the program itself.
const OTHER_FILES: u64 = 300;

/// How long a new export waits for others to be given up where there are not enough descriptors for all of them: that a
/// client has gone is not known the moment it goes.
const PATIENCE: Duration = Duration::from_secs(5);

const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What is served, and how.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// What the default export is, and how all are opened.
    pub volume: VolumeOptions,
    /// Serve this partition of each instead of the whole.
    pub partition: Option<u32>,
    /// Take writes, to a temporary file for each export, and throw them away in the end.
    pub overlay: Option<ScratchSpace>,
}

/// All exports.
pub struct Exports<'a> {
    path: &'a Path,
    options: ExportOptions,
    record: &'a Record<'a>,
    /// The default one first.
    states: Vec<State>,
    /// The places of those that are open, the one last asked for at the end.
    recent: Mutex<VecDeque<usize>>,
    /// How many may be open without asking for more files than this process may have.
    max_open: usize,
}

impl<'a> Exports<'a> {
    /// Looks what there is at `path`, and opens what the default export needs. If that cannot be had, but something else
    /// can, it is served: a live volume has snapshots.
    ///
    /// # Errors
    /// When nothing can be opened: why the default export cannot.
    pub fn new(path: &'a Path, options: ExportOptions, record: &'a Record<'a>) -> Result<Self> {
        let files = allow_many_files().saturating_sub(OTHER_FILES);
        let states = state::all(path, &options.volume.source)?;
        // The chain of a state has no more layers than there are states, the volume's head and the backing image apart.
        let max_open = (files / (states.len() as u64 + 2)).max(1);
        let max_open = usize::try_from(max_open).unwrap_or(usize::MAX);
        let exports = Exports { path, options, record, states, recent: Mutex::default(), max_open };
        if let Err(e) = exports.open_state(0) {
            if !(1..exports.states.len()).any(|other| exports.open_state(other).is_ok()) {
                return Err(e);
            }
            record.failed(&e);
        }
        Ok(exports)
    }

    /// The length of the default export in bytes; `None` when it cannot be had.
    pub fn size_bytes(&self) -> Option<u64> {
        self.open_state(0).ok().map(|disk| disk.size_bytes())
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.states.iter().position(|state| state.names.iter().any(|known| known == name))
    }

    fn open_state(&self, place: usize) -> Result<Arc<dyn Disk>> {
        let state = &self.states[place];
        let mut opened = state.opened();
        let disk = match &*opened {
            Some(opened) => Arc::clone(&opened.disk),
            None => {
                self.reserve(place);
                let new = self.opened(state, place == 0).inspect_err(|_| self.forget(place))?;
                self.record.found(&new.volume.findings);
                Arc::clone(&opened.insert(new).disk)
            }
        };
        drop(opened);
        self.close_idle(place);
        Ok(disk)
    }

    /// Opens a state anew. Its disk is in nobody's hands but those of who uses it.
    fn opened(&self, state: &State, is_default: bool) -> Result<Opened> {
        let mut options = self.options.volume.clone();
        if state.at.is_some() {
            options.source = SourceOptions { at: state.at.clone(), head: None, ..options.source };
        } else if !is_default {
            options.source.at = None;
        }
        let volume = Volume::open(self.path, &options)?;
        let below = volume.disk(self.options.partition)?;
        let disk: Arc<dyn Disk> = match &self.options.overlay {
            Some(overlay) => Arc::new(Scratch::new(below, &overlay.dir, overlay.max_bytes)?),
            None => {
                let all = ByteRange::new(0, below.size_bytes());
                Arc::new(Part::new(below, all)?)
            }
        };
        Ok(Opened { volume, disk })
    }

    /// Closes what nobody uses, first what was not asked for for the longest time, until few are left. `used` was
    /// asked for just now.
    fn close_idle(&self, used: usize) {
        let mut recent = self.recent();
        recent.retain(|&place| place != used);
        recent.push_back(used);
        if self.may_close() {
            let idle = self.idle(&recent);
            self.close(&idle[..idle.len().saturating_sub(MAX_IDLE)], &mut recent);
        }
    }

    /// Counts a state as open as soon as there are descriptors for one more. It does not wait for ever: the count is that
    /// of the longest chain, and should the state then not open, whoever asks is told why.
    fn reserve(&self, place: usize) {
        let begun = Instant::now();
        loop {
            let mut recent = self.recent();
            if self.may_close() {
                let too_many = (recent.len() + 1).saturating_sub(self.max_open);
                let idle = self.idle(&recent);
                self.close(&idle[..too_many.min(idle.len())], &mut recent);
            }
            if recent.len() < self.max_open || !self.may_close() || begun.elapsed() >= PATIENCE {
                recent.push_back(place);
                return;
            }
            drop(recent);
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Counts a state as not open.
    fn forget(&self, place: usize) {
        self.recent().retain(|&other| other != place);
    }

    /// What was written on top of an export would be lost with it.
    fn may_close(&self) -> bool {
        self.options.overlay.is_none()
    }

    /// Those that nobody uses.
    fn idle(&self, recent: &VecDeque<usize>) -> Vec<usize> {
        recent.iter().copied().filter(|&place| self.states[place].is_idle()).collect()
    }

    fn close(&self, places: &[usize], recent: &mut VecDeque<usize>) {
        for &place in places {
            if let Some(closed) = self.states[place].close() {
                recent.retain(|&other| other != place);
                self.recheck_one(&closed.volume);
            }
        }
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<usize>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether what was served is still what it was when it was opened.
    pub fn recheck(&self) {
        for state in &self.states {
            if let Some(opened) = &*state.opened() {
                self.recheck_one(&opened.volume);
            }
        }
    }

    fn recheck_one(&self, volume: &Volume) {
        if let Err(e) = volume.recheck() {
            let meaning = "clients may have read a mix of two states";
            let finding = Finding::new(Code::SourceChanged, e.to_string(), meaning);
            self.record.found(&[finding.advise(e.hint().unwrap_or_default())]);
        }
    }
}

impl Catalog for Exports<'_> {
    fn list(&self) -> Vec<Listed> {
        let listed = |state: &State| {
            let named = |name: &String| Listed { name: name.clone(), description: state.description.clone() };
            state.names.iter().map(named).collect::<Vec<_>>()
        };
        self.states.iter().flat_map(listed).collect()
    }

    fn describe(&self, name: &str) -> Option<String> {
        self.place(name).map(|place| self.states[place].description.clone())
    }

    fn open(&self, name: &str) -> Option<Result<Arc<dyn Disk>>> {
        let opened = self.open_state(self.place(name)?);
        if let Err(e) = &opened {
            self.record.failed(e);
        }
        Some(opened)
    }
}
