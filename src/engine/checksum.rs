//! Layers against the checksums that the engine has recorded of them.
//!
//! A sum that matches proves a layer good, but for holes that should be zeros, which it cannot tell apart. One that
//! does not match proves it corrupt only when the file has the change time that was recorded with the sum: the engine
//! itself changes snapshots when it purges, prunes and unmaps, and leaves the recorded sum as it was.

mod compute;
mod crc64;

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::format::checksum::RecordedSum;
use crate::replica::ReplicaDir;
use crate::replica::inventory::{Disk, Doc};
use crate::replica::recorded::has_recorded_change_time;
use crate::replica::source::is_dispensable;
use crate::sys::dir::FileStat;
use crate::view::LayerImage;
use crate::view::layer_file::LayerFile;

pub use compute::{crc64s, data_bytes, file_crc64};

/// What a recorded checksum says of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumVerdict {
    /// The layer is what was hashed; holes and written zeros are not told apart.
    Match,
    /// It is something else, though nobody changed the file: corrupt.
    Corrupt,
    /// It is something else, and the file was touched since, or no change time is recorded: the sum may be out of date.
    Undecided,
    /// Nothing is recorded.
    Absent,
    /// What is recorded cannot be read, or is damaged.
    Unusable,
    /// The layer itself cannot be read.
    Unreadable,
}

/// A layer, and how it stands to its recorded checksum.
#[derive(Debug)]
pub struct LayerSum {
    /// The file name.
    pub layer: String,
    /// The file's length in bytes.
    pub size_bytes: u64,
    /// Deleted, and not purged yet: a sum of before is no surprise.
    pub removed: bool,
    /// What is recorded.
    pub recorded: Doc<RecordedSum>,
    /// Bytes of data that are hashed; 0 when nothing is recorded to compare them with.
    pub data_bytes: u64,
    /// The CRC-64 of the file as it is now; `None` when nothing is recorded to compare it with, or it cannot be read.
    pub computed: Option<u64>,
    /// Whether the file has the recorded change time, looked at after it was read; `None` when none is recorded.
    pub change_time_equal: Option<bool>,
    /// What follows.
    pub verdict: SumVerdict,
    /// Why the layer cannot be read, with the offset.
    pub error: Option<Error>,
}

/// How many layers are held open at a time. A chain has at most 250, a directory may have far more.
const OPEN_LAYERS: usize = 128;

/// Computes the checksums of the layers of `replica` that have one recorded, and compares. `layers` are file names; all
/// of the directory without it, also those that are not on the live chain, by name. Layers whose file is gone because a
/// purge was cut short are left out.
///
/// A layer that cannot be read is a verdict, not an error.
///
/// # Errors
/// Only when the run is cancelled.
pub fn check_layers(
    replica: &ReplicaDir,
    layers: Option<&[String]>,
    workers: usize,
    run: &Run<'_>,
) -> Result<Vec<LayerSum>> {
    let inventory = replica.inventory();
    let is_there = |disk: &Disk| {
        disk.image.is_some()
            || disk.has_checksum && disk.meta_file.is_some() && !is_dispensable(inventory, disk)
    };
    let wanted = |disk: &&Disk| is_there(disk) && layers.is_none_or(|l| l.contains(&disk.name));
    let mut sums: Vec<_> =
        inventory.disks.values().filter(wanted).map(|disk| LayerSum::of(replica, disk)).collect();
    sums.par_iter_mut().for_each(|sum| sum.count(replica));
    let total_bytes = sums.iter().map(|sum| sum.data_bytes).sum();
    run.event(Event::Phase { name: "checking", total_bytes: Some(total_bytes) });
    for some in sums.chunks_mut(OPEN_LAYERS) {
        let opened: Vec<_> =
            some.iter_mut().filter_map(|sum| sum.open(replica).map(|image| (sum, image))).collect();
        let images: Vec<_> = opened.iter().map(|(_, image)| image as &dyn LayerImage).collect();
        let found = crc64s(&images, workers, run)?;
        opened.into_iter().zip(found).for_each(|((sum, image), found)| sum.take(found, &image));
    }
    run.event(Event::PhaseDone);
    Ok(sums)
}

impl LayerSum {
    fn of(replica: &ReplicaDir, disk: &Disk) -> Self {
        let recorded = replica.recorded_sum(&disk.name);
        let verdict = match &recorded {
            Doc::Absent => SumVerdict::Absent,
            Doc::Unreadable(_) | Doc::Damaged(_) => SumVerdict::Unusable,
            Doc::Good(_) => SumVerdict::Undecided,
        };
        LayerSum {
            layer: disk.name.clone(),
            size_bytes: disk.image.map_or(0, |image| image.size_bytes),
            removed: disk.is_removed(),
            recorded,
            data_bytes: 0,
            computed: None,
            change_time_equal: None,
            verdict,
            error: None,
        }
    }

    /// Opens the layer if it is to be hashed.
    fn open(&mut self, replica: &ReplicaDir) -> Option<LayerFile> {
        if self.recorded.good().is_none() || self.error.is_some() {
            return None;
        }
        replica.open_image(&self.layer).map_err(|e| self.fail(e)).ok()
    }

    /// Counts the bytes that are to be hashed, so that progress has an end.
    fn count(&mut self, replica: &ReplicaDir) {
        let Some(image) = self.open(replica) else { return };
        match data_bytes(&image) {
            Ok(bytes) => self.data_bytes = bytes,
            Err(e) => self.fail(e),
        }
    }

    fn fail(&mut self, error: Error) {
        self.verdict = SumVerdict::Unreadable;
        self.error = Some(error);
    }

    /// Takes in what was computed of the file that is open as `image`.
    fn take(&mut self, found: Result<u64>, image: &LayerFile) {
        let (computed, recorded) = match (found, &self.recorded) {
            (Ok(computed), Doc::Good(recorded)) => (computed, recorded),
            (Err(e), _) => return self.fail(e),
            (Ok(_), _) => return,
        };
        // After it was read: what has the change time of before the reading now was not changed meanwhile either.
        let stat = FileStat::of(image.file()).ok();
        self.change_time_equal = stat.and_then(|stat| has_recorded_change_time(recorded, &stat));
        self.verdict = match (computed == recorded.crc64, self.change_time_equal) {
            (true, _) => SumVerdict::Match,
            (false, Some(true)) => SumVerdict::Corrupt,
            (false, _) => SumVerdict::Undecided,
        };
        self.computed = Some(computed);
    }
}
