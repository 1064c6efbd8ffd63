//! The states of a volume that can be asked for, and by which names.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::access::volume::Volume;
use crate::error::Result;
use crate::format::names::{DiskKind, snapshot_name};
use crate::replica::inventory::Disk as DiskFiles;
use crate::replica::{ReplicaDir, SourceOptions};
use crate::view::disk::Disk;

/// The name that the head goes by besides the empty one, unless a snapshot bears it.
const HEAD: &str = "head";

/// A state of the volume.
pub(super) struct State {
    /// What it is asked for with; the default export has the empty name.
    pub(super) names: Vec<String>,
    pub(super) description: String,
    /// The snapshot's file name; `None` for what the options say.
    pub(super) at: Option<String>,
    opened: Mutex<Option<Opened>>,
}

/// A state that can be read.
pub(super) struct Opened {
    pub(super) volume: Volume,
    pub(super) disk: Arc<dyn Disk>,
}

impl State {
    fn new(names: Vec<String>, description: String, at: Option<String>) -> Self {
        State { names, description, at, opened: Mutex::new(None) }
    }

    fn of_snapshot(disk: &DiskFiles) -> Option<Self> {
        let name = snapshot_name(&disk.name).filter(|name| !name.is_empty())?;
        let created = disk.meta.good().map_or("", |meta| meta.created.as_str());
        let taken = if created.is_empty() { String::new() } else { format!(" of {created}") };
        let removed = if disk.is_removed() { ", marked as removed" } else { "" };
        Some(State::new(vec![name.to_owned()], format!("snapshot{taken}{removed}"), Some(disk.name.clone())))
    }

    pub(super) fn opened(&self) -> MutexGuard<'_, Option<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is open and nobody uses it. One that is being opened or closed is not idle.
    pub(super) fn is_idle(&self) -> bool {
        let opened = self.opened.try_lock();
        opened.is_ok_and(|opened| opened.as_ref().is_some_and(Opened::is_idle))
    }

    /// Closes it, if nobody has begun to use it meanwhile.
    pub(super) fn close(&self) -> Option<Opened> {
        self.opened.try_lock().ok()?.take_if(|opened| opened.is_idle())
    }
}

impl Opened {
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.disk) == 1
    }
}

/// All states there are at `path`, the default one first: what `source` says.
pub(super) fn all(path: &Path, source: &SourceOptions) -> Result<Vec<State>> {
    if !path.is_dir() {
        return Ok(vec![State::new(vec![String::new()], "an image".to_owned(), None)]);
    }
    let replica = ReplicaDir::open(path)?;
    let wanted = source.at.as_deref().map(|at| replica.find_layer(at)).transpose()?;
    let snapshots = replica.inventory().disks.values().filter(|disk| disk.kind == DiskKind::Snapshot);
    let mut states: Vec<_> = snapshots.filter_map(State::of_snapshot).collect();
    let is_head_free = !states.iter().any(|state| state.names.iter().any(|name| name == HEAD));
    let head_name = is_head_free.then(|| HEAD.to_owned());
    let head = |names, at| State::new(names, "the head".to_owned(), at);
    match wanted.and_then(|file| states.iter().position(|state| state.at.as_deref() == Some(file))) {
        Some(place) => {
            let mut default = states.remove(place);
            default.names.insert(0, String::new());
            states.splice(0..0, [default].into_iter().chain(head_name.map(|name| head(vec![name], None))));
        }
        None => {
            let names = [String::new()].into_iter().chain(head_name).collect();
            states.insert(0, head(names, wanted.map(str::to_owned)));
        }
    }
    Ok(states)
}
