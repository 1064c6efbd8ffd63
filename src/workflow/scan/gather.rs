//! One replica directory, written down as evidence from its metadata alone.

use std::collections::HashSet;
use std::path::Path;

use jiff::Timestamp;

use crate::format::names::{self, DiskKind};
use crate::format::revision;
use crate::model::evidence::{Evidence, SnapshotEvidence};
use crate::replica::ReplicaDir;
use crate::replica::inventory::{Disk, Doc, Inventory};
use crate::replica::outlook::Outlook;
use crate::sys::dir::{FileId, FileStat};

/// The engine writes the counter along with the data (since 1.7 a moment later), so a head that was written this
/// much later, in seconds, has a counter that nobody counts with any more.
const COUNTER_LAG_SECONDS: i64 = 60;

/// A metadata file is written when its layer begins, and a copy of it later than that by more than this, in seconds.
const COPY_LAG_SECONDS: i64 = 60;

/// What is known of the directory at `path`, and which file its head is.
pub fn gather(path: &Path, node: &str) -> (Evidence, Option<FileId>) {
    let mut evidence = Evidence {
        node: node.to_owned(),
        path: super::written(path.as_os_str()),
        volume: super::volume_of(path),
        scanned_at: Some(Timestamp::now()),
        ..Evidence::default()
    };
    let replica = match ReplicaDir::open(path) {
        Ok(replica) => replica,
        Err(e) => {
            evidence.trouble.push(e.what().to_owned());
            evidence.trouble.extend(e.io_cause().map(ToString::to_string));
            return (evidence, None);
        }
    };
    let inventory = replica.inventory();
    let outlook = replica.outlook();
    let head = outlook.head.as_ref().and_then(|head| inventory.disks.get(head));
    let head_image = head.and_then(|head| head.image);
    evidence.head_created = head.and_then(created);
    evidence.head_modified = head_image.and_then(modified);
    evidence.head_allocated_bytes = head_image.map_or(0, |image| image.allocated_bytes);
    evidence.allocated_bytes = allocated(inventory);
    evidence.dirty = inventory.told().is_some_and(|meta| meta.dirty);
    evidence.began = outlook.layers.last().and_then(|lowest| created(inventory.disks.get(lowest)?));
    evidence.times_copied = head.is_some_and(|head| times_are_a_copys(inventory, head, &outlook.layers));
    if let Some(&counter) = inventory.revision.good() {
        evidence.revision_counter = u64::try_from(counter).ok();
        evidence.revision_frozen = counter_is_frozen(inventory, head_image);
    }
    evidence.snapshots = snapshots(&replica, &outlook);
    let Outlook { head, size_bytes, chain, state, mut trouble, .. } = outlook;
    trouble.extend(orphans(inventory));
    trouble.extend(uncounted(inventory));
    (Evidence { head, size_bytes, chain, state, trouble, ..evidence }, head_image.map(|image| image.id))
}

fn created(disk: &Disk) -> Option<Timestamp> {
    disk.meta.good()?.created.parse().ok()
}

fn modified(stat: FileStat) -> Option<Timestamp> {
    let (seconds, nanoseconds) = stat.modified;
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}

/// What the images take on the disk; one with two names counts once.
fn allocated(inventory: &Inventory) -> u64 {
    let mut seen = HashSet::new();
    // What has no metadata is on no chain: an interrupted restore leaves such.
    let layers = inventory.disks.values().filter(|disk| disk.meta.good().is_some());
    let images = layers.filter_map(|disk| disk.image).filter(|image| image.regular);
    images
        .filter(|image| seen.insert(image.id))
        .map(|image| image.allocated_bytes)
        .fold(0, u64::saturating_add)
}

/// What is said of images that have no metadata.
fn orphans(inventory: &Inventory) -> Option<String> {
    let written =
        |disk: &&Disk| disk.meta.good().is_none() && disk.image.is_some_and(|i| i.allocated_bytes > 0);
    let count = inventory.disks.values().filter(written).count();
    (count > 0).then(|| {
        format!("{count} layers with data have no usable metadata, as an interrupted restore or rebuild leaves them")
    })
}

/// What is said of a counter that is there and cannot be used.
fn uncounted(inventory: &Inventory) -> Option<String> {
    let damaged = !matches!(inventory.revision, Doc::Absent | Doc::Good(_));
    let why = inventory.revision.trouble().filter(|_| damaged)?;
    Some(format!(
        "{} {why}: the data is not touched by that, but the engine would refuse to open it",
        revision::FILE_NAME
    ))
}

fn counter_is_frozen(inventory: &Inventory, head: Option<FileStat>) -> bool {
    let counter = inventory.files.iter().find(|(name, _)| name == revision::FILE_NAME);
    let times = head.zip(counter).map(|(head, (_, counter))| (head.modified.0, counter.modified.0));
    times.is_some_and(|(head, counter)| head.saturating_sub(counter) > COUNTER_LAG_SECONDS)
}

/// Whether every layer's metadata is younger than the layer, and the head's data no younger than its metadata: as
/// a copy leaves them that does not keep times. A rebuild does the first, but then writes go on.
fn times_are_a_copys(inventory: &Inventory, head: &Disk, layers: &[String]) -> bool {
    let late = |disk: &Disk| {
        let times = disk.meta_file.zip(created(disk));
        times.is_some_and(|(file, created)| {
            file.modified.0.saturating_sub(created.as_second()) > COPY_LAG_SECONDS
        })
    };
    let all_late = layers.iter().filter_map(|name| inventory.disks.get(name)).all(late);
    let files = head.image.zip(head.meta_file);
    let together = files.is_some_and(|(image, meta)| {
        image.modified.0.saturating_sub(meta.modified.0).abs() <= COPY_LAG_SECONDS
    });
    all_late && together && !layers.is_empty()
}

/// The snapshots on the live chain, from the head down, then all others.
fn snapshots(replica: &ReplicaDir, outlook: &Outlook) -> Vec<SnapshotEvidence> {
    let disks = &replica.inventory().disks;
    let on_chain: HashSet<_> = outlook.layers.iter().collect();
    let live = outlook.layers.iter().filter_map(|name| disks.get(name));
    let others = disks.values().filter(|disk| !on_chain.contains(&disk.name));
    let is_snapshot = |disk: &&Disk| disk.kind != DiskKind::Head && disk.meta.good().is_some();
    live.map(|disk| (disk, true))
        .chain(others.map(|disk| (disk, false)))
        .filter(|(disk, _)| is_snapshot(disk))
        .map(|(disk, live)| snapshot(replica, disk, live))
        .collect()
}

fn snapshot(replica: &ReplicaDir, disk: &Disk, live: bool) -> SnapshotEvidence {
    let recorded = disk.has_checksum.then(|| replica.recorded_sum(&disk.name).good().cloned()).flatten();
    let changed = disk.image.and_then(|image| {
        let (seconds, nanoseconds) = image.changed;
        Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
    });
    SnapshotEvidence {
        name: names::snapshot_name(&disk.name).unwrap_or(&disk.name).to_owned(),
        parent: disk.meta.good().map(|meta| meta.parent.clone()).unwrap_or_default(),
        created: created(disk),
        // An empty one in its place is as good as none.
        size_bytes: disk.kept_image().map(|image| image.size_bytes),
        live,
        removed: disk.is_removed(),
        user_created: disk.meta.good().is_some_and(|meta| meta.user_created),
        allocated_bytes: disk.image.map_or(0, |image| image.allocated_bytes),
        recorded_crc64: recorded.as_ref().map(|sum| format!("{:016x}", sum.crc64)),
        computed_crc64: None,
        change_time_equal: recorded.as_ref().and_then(|sum| Some(sum.changed? == changed?)),
        silently_corrupted: recorded.is_some_and(|sum| sum.silently_corrupted),
        unreadable: None,
    }
}
