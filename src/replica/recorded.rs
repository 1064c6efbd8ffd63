//! The checksums that the engine has recorded beside the snapshots of a replica.

use jiff::Timestamp;

use crate::format::checksum::{self, RecordedSum};
use crate::replica::ReplicaDir;
use crate::replica::inventory::{self, Doc};
use crate::sys::dir::FileStat;

impl ReplicaDir {
    /// What is recorded of the layer with this file name; [`Doc::Absent`] for a head, which never has anything.
    pub fn recorded_sum(&self, layer: &str) -> Doc<RecordedSum> {
        inventory::document(&self.dir, &checksum::file_name(layer), checksum::MAX_BYTES, checksum::parse)
    }
}

/// Whether the file still has the change time that is recorded with its sum: nothing that goes through the file system
/// has touched it since. `None` when no time is recorded.
///
/// Any copy, rename, link or change of mode makes it another one, so only the original disk can say yes.
pub fn has_recorded_change_time(recorded: &RecordedSum, file: &FileStat) -> Option<bool> {
    let (seconds, nanoseconds) = file.changed;
    let changed = i32::try_from(nanoseconds).ok().and_then(|nano| Timestamp::new(seconds, nano).ok());
    recorded.changed.map(|recorded| Some(recorded) == changed)
}
