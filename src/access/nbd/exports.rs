//! The exports of a replica directory, or of an image: opened when they are first asked for, and shared from then on.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::access::nbd::record::Record;
use crate::access::nbd::{Catalog, Listed};
use crate::access::scratch::Scratch;
use crate::access::volume::{Volume, VolumeOptions};
use crate::error::Result;
use crate::format::names::{DiskKind, snapshot_name};
use crate::model::finding::{Code, Finding};
use crate::replica::{ReplicaDir, SourceOptions};
use crate::view::disk::Disk;

/// The name that the head goes by besides the empty one, unless a snapshot bears it.
const HEAD: &str = "head";

/// What is served, and how.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// What the default export is, and how all are opened.
    pub volume: VolumeOptions,
    /// Serve this partition of each instead of the whole.
    pub partition: Option<u32>,
    /// Take writes, and throw them away in the end.
    pub overlay: Option<Overlay>,
}

/// Where writes go.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// The directory of the temporary files, one for each export.
    pub dir: PathBuf,
    /// How much each may hold, in bytes.
    pub max_bytes: u64,
}

/// All exports.
pub struct Exports<'a> {
    path: &'a Path,
    options: ExportOptions,
    record: &'a Record<'a>,
    states: Vec<State>,
}

/// A state of the volume.
struct State {
    /// What it is asked for with; the default export has the empty name.
    names: Vec<String>,
    description: String,
    /// The snapshot's file name; `None` for what the options say.
    at: Option<String>,
    opened: Mutex<Option<Opened>>,
}

struct Opened {
    volume: Volume,
    disk: Arc<dyn Disk>,
}

impl State {
    fn new(name: Option<&str>, description: String, at: Option<String>) -> Self {
        let names = name.map(str::to_owned).into_iter().collect();
        State { names, description, at, opened: Mutex::new(None) }
    }

    fn is_default(&self) -> bool {
        self.names.iter().any(String::is_empty)
    }
}

impl<'a> Exports<'a> {
    /// Looks what there is at `path`, and opens what the default export needs. If that cannot be had, but something else
    /// can, it is served: a live volume has snapshots.
    ///
    /// # Errors
    /// When nothing can be opened: why the default export cannot.
    pub fn new(path: &'a Path, options: ExportOptions, record: &'a Record<'a>) -> Result<Self> {
        let states = if path.is_dir() {
            of_replica(&ReplicaDir::open(path)?, &options.volume.source)?
        } else {
            vec![State::new(Some(""), "an image".to_owned(), None)]
        };
        let exports = Exports { path, options, record, states };
        if let Err(e) = exports.open_state(exports.default()) {
            let default = exports.default();
            let mut others = exports.states.iter().filter(|state| !std::ptr::eq(*state, default));
            if !others.any(|state| exports.open_state(state).is_ok()) {
                return Err(e);
            }
            record.failed(&e);
        }
        Ok(exports)
    }

    /// The length of the default export in bytes; `None` when it cannot be had.
    pub fn size_bytes(&self) -> Option<u64> {
        self.open_state(self.default()).ok().map(|disk| disk.size_bytes())
    }

    fn default(&self) -> &State {
        self.states.iter().find(|state| state.is_default()).unwrap_or(&self.states[0])
    }

    fn state(&self, name: &str) -> Option<&State> {
        self.states.iter().find(|state| state.names.iter().any(|known| known == name))
    }

    fn open_state(&self, state: &State) -> Result<Arc<dyn Disk>> {
        let mut opened = state.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*opened {
            return Ok(Arc::clone(&opened.disk));
        }
        let mut options = self.options.volume.clone();
        if state.at.is_some() {
            options.source = SourceOptions { at: state.at.clone(), head: None, ..options.source };
        } else if !state.is_default() {
            options.source.at = None;
        }
        let volume = Volume::open(self.path, &options)?;
        let mut disk = volume.disk(self.options.partition)?;
        if let Some(overlay) = &self.options.overlay {
            disk = Arc::new(Scratch::new(disk, &overlay.dir, overlay.max_bytes)?);
        }
        self.record.found(&volume.findings);
        *opened = Some(Opened { volume, disk: Arc::clone(&disk) });
        Ok(disk)
    }

    /// Looks whether what was served is still what it was when it was opened.
    pub fn recheck(&self) {
        for state in &self.states {
            let opened = state.opened.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(Err(e)) = opened.as_ref().map(|opened| opened.volume.recheck()) else { continue };
            let finding =
                Finding::new(Code::SourceChanged, e.to_string(), "clients may have read a mix of two states");
            self.record.found(&[finding.advise(e.hint().unwrap_or_default())]);
        }
    }
}

/// The states of a replica; the default one, which the options say, is among them.
fn of_replica(replica: &ReplicaDir, source: &SourceOptions) -> Result<Vec<State>> {
    let inventory = replica.inventory();
    let wanted = source.at.as_deref().map(|at| replica.find_layer(at)).transpose()?;
    let snapshots = inventory.disks.values().filter(|disk| disk.kind == DiskKind::Snapshot);
    let mut states: Vec<State> = snapshots
        .filter_map(|disk| {
            let name = snapshot_name(&disk.name).filter(|name| !name.is_empty())?;
            let created = disk.meta.good().map_or("", |meta| meta.created.as_str());
            let taken = if created.is_empty() { String::new() } else { format!(" of {created}") };
            let removed = if disk.is_removed() { ", marked as removed" } else { "" };
            Some(State::new(Some(name), format!("snapshot{taken}{removed}"), Some(disk.name.clone())))
        })
        .collect();
    let is_head_free = !states.iter().any(|state| state.names.iter().any(|name| name == HEAD));
    let default = wanted.and_then(|file| states.iter_mut().find(|state| state.at.as_deref() == Some(file)));
    match default {
        Some(state) => {
            state.names.insert(0, String::new());
            if is_head_free {
                states.insert(0, State::new(Some(HEAD), "the head".to_owned(), None));
            }
        }
        None => {
            let mut head = State::new(Some(""), "the head".to_owned(), wanted.map(str::to_owned));
            head.names.extend(is_head_free.then(|| HEAD.to_owned()));
            states.insert(0, head);
        }
    }
    Ok(states)
}

impl Catalog for Exports<'_> {
    fn list(&self) -> Vec<Listed> {
        let listed = |state: &State, name: &String| Listed {
            name: name.clone(),
            description: state.description.clone(),
        };
        let all =
            self.states.iter().flat_map(|state| state.names.iter().map(move |name| listed(state, name)));
        let (default, others): (Vec<_>, Vec<_>) = all.partition(|export| export.name.is_empty());
        default.into_iter().chain(others).collect()
    }

    fn describe(&self, name: &str) -> Option<String> {
        self.state(name).map(|state| state.description.clone())
    }

    fn open(&self, name: &str) -> Option<Result<Arc<dyn Disk>>> {
        let opened = self.open_state(self.state(name)?);
        if let Err(e) = &opened {
            self.record.failed(e);
        }
        Some(opened)
    }
}
