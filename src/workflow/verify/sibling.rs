//! A replica against another one of the same volume: the snapshots that both have must be the same.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::engine::checksum::{LayerSum, SumVerdict, check_layers, data_bytes};
use crate::engine::siblings::{self, Compared};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::format::names::DiskKind;
use crate::model::extent::ExtentKind;
use crate::model::finding::{Code, Finding};
use crate::replica::ReplicaDir;
use crate::replica::inventory::Disk;
use crate::view::LayerImage;
use crate::workflow::verify::sums::REMOVED;

/// A snapshot that both replicas have.
#[derive(Debug)]
pub struct SharedLayer {
    /// The file name.
    pub layer: String,
    /// Deleted on either side, and not purged yet.
    pub removed: bool,
    /// The file's length in bytes here.
    pub size_bytes: u64,
    /// The file's length in bytes there.
    pub sibling_size_bytes: u64,
    /// How the data compares; `None` when the lengths differ, or one side cannot be read.
    pub compared: Option<Compared>,
    /// Why one side cannot be read.
    pub error: Option<Error>,
    /// What the recorded checksum says of this side; looked at only where the data differs.
    pub sum: Option<LayerSum>,
    /// What the recorded checksum says of the sibling's side.
    pub sibling_sum: Option<LayerSum>,
}

impl SharedLayer {
    /// Whether both sides were read, and are the same.
    pub fn is_same(&self) -> bool {
        self.compared.as_ref().is_some_and(|compared| compared.differing_bytes == 0)
    }
}

/// What a comparison of two replicas found.
#[derive(Debug, Default)]
pub struct SiblingCompared {
    /// The snapshots that both have.
    pub shared: Vec<SharedLayer>,
    /// Those that only this one has, by file name.
    pub only_here: Vec<String>,
    /// Those that only the sibling has, by file name.
    pub only_there: Vec<String>,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
}

/// Compares the snapshots of `replica`, or those with the given file names, with the same ones of `sibling`.
///
/// # Errors
/// `Usage` when both are one directory; interrupted when the run is cancelled. A layer that cannot be read is a finding.
pub fn against_sibling(
    replica: &ReplicaDir,
    sibling: &ReplicaDir,
    layers: Option<&[String]>,
    workers: usize,
    run: &Run<'_>,
) -> Result<SiblingCompared> {
    refuse_itself(replica, sibling)?;
    let (here, there) = (snapshots(replica, layers), snapshots(sibling, layers));
    let mut compared = SiblingCompared {
        shared: here
            .values()
            .filter_map(|disk| Some(SharedLayer::of(disk, there.get(disk.name.as_str())?)))
            .collect(),
        only_here: here
            .keys()
            .filter(|name| !there.contains_key(**name))
            .map(|&name| name.to_owned())
            .collect(),
        only_there: there
            .keys()
            .filter(|name| !here.contains_key(**name))
            .map(|&name| name.to_owned())
            .collect(),
        findings: Vec::new(),
    };
    let counted = |layer: &SharedLayer| {
        replica.open_image(&layer.layer).and_then(|image| data_bytes(&image)).unwrap_or(0)
    };
    let total_bytes = compared.shared.iter().map(counted).sum();
    run.event(Event::Phase { name: "comparing", total_bytes: Some(total_bytes) });
    for layer in &mut compared.shared {
        layer.compare(replica, sibling, workers, run)?;
    }
    run.event(Event::PhaseDone);
    look_up_sums(&mut compared.shared, replica, sibling, workers, run)?;
    compared.findings = compared.shared.iter().filter_map(|layer| layer.finding(sibling)).collect();
    if compared.shared.is_empty() {
        compared.findings.push(
            Finding::new(
                Code::NothingInCommon,
                format!("{} has no snapshot in common with this replica", sibling.path().display()),
                "nothing could be compared: it is a replica of another volume, or one of the two was made after all \
                 snapshots were purged",
            )
            .advise("`lhrecover scan` shows which directories belong to which volume"),
        );
    }
    Ok(compared)
}

fn refuse_itself(replica: &ReplicaDir, sibling: &ReplicaDir) -> Result<()> {
    let id = |dir: &ReplicaDir| fs::metadata(dir.path()).ok().map(|m| (m.dev(), m.ino()));
    if id(replica).is_some() && id(replica) == id(sibling) {
        return Err(Error::usage("the sibling is the replica itself")
            .with_path(sibling.path())
            .with_hint("name the directory of another replica of the volume, or a copy of it"));
    }
    Ok(())
}

/// The snapshots that have a file, by file name.
fn snapshots<'a>(replica: &'a ReplicaDir, layers: Option<&[String]>) -> BTreeMap<&'a str, &'a Disk> {
    let disks = replica.inventory().disks.values();
    let wanted = |disk: &&Disk| layers.is_none_or(|layers| layers.contains(&disk.name));
    let present = |disk: &&Disk| disk.kind == DiskKind::Snapshot && disk.image.is_some();
    disks.filter(present).filter(wanted).map(|disk| (disk.name.as_str(), disk)).collect()
}

/// Computes the checksums of what differs, on both sides.
fn look_up_sums(
    shared: &mut [SharedLayer],
    replica: &ReplicaDir,
    sibling: &ReplicaDir,
    workers: usize,
    run: &Run<'_>,
) -> Result<()> {
    let differing: Vec<_> =
        shared.iter().filter(|layer| !layer.is_same()).map(|layer| layer.layer.clone()).collect();
    if differing.is_empty() {
        return Ok(());
    }
    let sums_of = |replica| -> Result<BTreeMap<_, _>> {
        let sums = check_layers(replica, Some(&differing), workers, run)?;
        Ok(sums.into_iter().map(|sum| (sum.layer.clone(), sum)).collect())
    };
    let (mut here, mut there) = (sums_of(replica)?, sums_of(sibling)?);
    for layer in shared {
        layer.sum = here.remove(&layer.layer);
        layer.sibling_sum = there.remove(&layer.layer);
    }
    Ok(())
}

impl SharedLayer {
    fn of(here: &Disk, there: &Disk) -> Self {
        let size = |disk: &Disk| disk.image.map_or(0, |image| image.size_bytes);
        SharedLayer {
            layer: here.name.clone(),
            removed: here.is_removed() || there.is_removed(),
            size_bytes: size(here),
            sibling_size_bytes: size(there),
            compared: None,
            error: None,
            sum: None,
            sibling_sum: None,
        }
    }

    fn compare(
        &mut self,
        replica: &ReplicaDir,
        sibling: &ReplicaDir,
        workers: usize,
        run: &Run<'_>,
    ) -> Result<()> {
        if self.size_bytes != self.sibling_size_bytes {
            return Ok(());
        }
        let open = |dir: &ReplicaDir| dir.open_image(&self.layer).map_err(|e| in_replica(e, dir));
        let compared = open(replica).and_then(|here| {
            let there = open(sibling)?;
            let sides: [&dyn LayerImage; 2] = [&here, &there];
            siblings::compare(sides[0], sides[1], workers, run)
        });
        match compared {
            Ok(compared) => self.compared = Some(compared),
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
            Err(e) => self.error = Some(e),
        }
        Ok(())
    }

    fn finding(&self, sibling: &ReplicaDir) -> Option<Finding> {
        let (layer, there) = (&self.layer, sibling.path().display());
        if let Some(error) = &self.error {
            let meaning = "this layer could not be compared";
            let finding = Finding::new(Code::Unreadable, error.to_string(), meaning).on(layer);
            return Some(finding.advise(error.hint().unwrap_or_default()));
        }
        let Some(compared) = &self.compared else {
            let (here, sibling) = (self.size_bytes, self.sibling_size_bytes);
            let what = format!("{layer} has {here} bytes, and {sibling} in {there}");
            return Some(self.differs(what));
        };
        let first = compared.differences.first()?;
        let kinds = match (first.between.here, first.between.there) {
            (here, there) if here == there => String::new(),
            (here, there) => format!(" ({} here, {} there)", kind(here), kind(there)),
        };
        let what = format!(
            "{layer} is not the same in {there}: {} bytes differ (in whole sectors), first at offset {}{kinds}",
            compared.differing_bytes, first.first_bytes
        );
        let ranges = compared.differences.iter().map(|difference| difference.range).collect();
        Some(self.differs(what).at(ranges))
    }

    fn differs(&self, what: String) -> Finding {
        let mut meaning = self.who_is_right();
        if self.removed {
            meaning = format!("{meaning}; {REMOVED} on one node sooner than on another");
        }
        Finding::new(Code::SnapshotDiffers, what, meaning)
            .on(&self.layer)
            .advise("a third replica, or a backup, can decide where the checksums do not")
    }

    /// What the recorded checksums of both sides say.
    fn who_is_right(&self) -> String {
        let verdict = |sum: &Option<LayerSum>| sum.as_ref().map_or(SumVerdict::Absent, |sum| sum.verdict);
        let text = match (verdict(&self.sum), verdict(&self.sibling_sum)) {
            (SumVerdict::Match, SumVerdict::Match) if self.crc64s_are_equal() => {
                "both match the same checksum, which cannot tell holes from zeros: one of them is a copy that turned \
                 the one into the other"
            }
            (SumVerdict::Match, SumVerdict::Match) => {
                "each matches the checksum that was recorded beside it, so both are what they were once hashed as"
            }
            (SumVerdict::Match, _) if self.records_are_equal() => {
                "this side is what was recorded of both, and the sibling's is not: this side is right"
            }
            (_, SumVerdict::Match) if self.records_are_equal() => {
                "the sibling's side is what was recorded of both, and this one is not: the sibling is right"
            }
            (SumVerdict::Match, SumVerdict::Absent) => {
                "this side matches its recorded checksum, and nothing is recorded of the sibling's"
            }
            (SumVerdict::Absent, SumVerdict::Match) => {
                "the sibling's side matches its recorded checksum, and nothing is recorded of this one"
            }
            (SumVerdict::Match, _) => "this side matches its recorded checksum, and the sibling's does not",
            (_, SumVerdict::Match) => {
                "the sibling's side matches its recorded checksum, and this one does not"
            }
            _ => "no recorded checksum tells which side is right",
        };
        text.to_owned()
    }

    /// Whether one and the same checksum is recorded on both sides.
    fn records_are_equal(&self) -> bool {
        recorded(&self.sum).is_some() && recorded(&self.sum) == recorded(&self.sibling_sum)
    }

    fn crc64s_are_equal(&self) -> bool {
        let computed = |sum: &Option<LayerSum>| sum.as_ref().and_then(|sum| sum.computed);
        computed(&self.sum).is_some() && computed(&self.sum) == computed(&self.sibling_sum)
    }
}

/// The CRC-64 that is recorded of a layer.
fn recorded(sum: &Option<LayerSum>) -> Option<u64> {
    sum.as_ref()?.recorded.good().map(|recorded| recorded.crc64)
}

/// The same error, which names the layer's directory, too: two of the same name are at hand.
fn in_replica(error: Error, dir: &ReplicaDir) -> Error {
    error.with_path(dir.path())
}

/// What a sector is, in words.
pub fn kind(kind: Option<ExtentKind>) -> &'static str {
    match kind {
        None => "hole",
        Some(ExtentKind::Data) => "data",
        Some(ExtentKind::Unwritten) => "unwritten",
    }
}
