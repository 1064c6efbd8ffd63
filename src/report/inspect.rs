//! What `inspect` shows: the volume's flags, its layers as a tree, and the findings.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::engine::diagnose::Diagnosis;
use crate::engine::sweep::LayerSurvey;
use crate::format::names::{self, DiskKind};
use crate::model::overlay::Tally;
use crate::replica::inventory::{Disk, Doc};
use crate::replica::{LayerInfo, LayerKind, ReplicaDir};
use crate::report::finding::{self, FindingReport, printable};
use crate::report::{human, tree};

/// The version of the JSON that `inspect --json` prints.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything `inspect` shows.
#[derive(Clone, Debug, Serialize)]
pub struct InspectReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The replica directory, as it was named.
    pub path: String,
    /// What `volume.meta` says; `null` when it cannot be used.
    pub volume: Option<VolumeReport>,
    /// The number in `revision.counter`; `null` when there is none.
    pub revision_counter: Option<i64>,
    /// The head looked at; the likely one when `volume.meta` cannot tell.
    pub head: Option<String>,
    /// Whether the state at the head can be read.
    pub readable: bool,
    /// Why not.
    pub error: Option<String>,
    /// Bytes of the volume that some layer serves with data.
    pub data_bytes: Option<u64>,
    /// What all files of layers take on the disk, in bytes; a file with two names counts once.
    pub allocated_bytes: u64,
    /// The layers: the live chain from the head down (a backing image comes last), then the others by name.
    pub layers: Vec<LayerReport>,
    /// Everything found, the most serious first.
    pub findings: Vec<FindingReport>,
}

/// What `volume.meta` says.
#[derive(Clone, Debug, Serialize)]
pub struct VolumeReport {
    /// The volume's length in bytes.
    pub size_bytes: i64,
    /// The head's file name.
    pub head: String,
    /// Not closed.
    pub dirty: bool,
    /// Being rebuilt from another replica.
    pub rebuilding: bool,
    /// Why the engine gave this replica up; empty when it did not.
    pub error: String,
    /// The backing image's path as the engine sees it; empty when there is none.
    pub backing_file_path: String,
    /// Whether it says that the volume is encrypted; `null` when it does not say (before 1.12).
    pub encrypted: Option<bool>,
}

/// Where a layer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On the chain of the state looked at, which is the head's unless a snapshot was asked for.
    Live,
    /// On the chain of the head, above the snapshot that was asked for.
    Above,
    /// A snapshot beside the live chain.
    Branch,
    /// Neither: another head, or half a layer.
    Leftover,
}

/// One layer.
#[derive(Clone, Debug, Serialize)]
pub struct LayerReport {
    /// The file name; of a backing image, its path.
    pub file: String,
    /// The snapshot's name; of a backing image, the end of its path; of another layer, the same as `file`.
    pub name: String,
    /// `head`, `snapshot`, `backing` or `other`.
    pub kind: &'static str,
    /// Where it stands.
    pub place: Place,
    /// The file name of the layer below; empty at the lowest, `null` when it is not known.
    pub parent: Option<String>,
    /// When the snapshot was taken, or the head began (RFC 3339); empty when it does not say.
    pub created: String,
    /// Deleted, and not purged yet.
    pub removed: bool,
    /// Taken by a user rather than by the system.
    pub user_created: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The file's length in bytes; `null` when there is no file.
    pub size_bytes: Option<u64>,
    /// What the file takes on the disk, in bytes.
    pub allocated_bytes: Option<u64>,
    /// Other names of the same file.
    pub same_file_as: Vec<String>,
    /// How many extents it has; `null` when they could not be told.
    pub extents: Option<u64>,
    /// Bytes in written extents.
    pub data_bytes: Option<u64>,
    /// Bytes in unwritten extents.
    pub unwritten_bytes: Option<u64>,
    /// Bytes of the volume, in the state looked at, that come from this layer.
    pub served_bytes: Option<u64>,
}

/// Puts together what is shown of a replica.
pub fn build(replica: &ReplicaDir, diagnosis: &Diagnosis) -> InspectReport {
    let inventory = replica.inventory();
    let volume = inventory.volume_meta.good().map(|meta| VolumeReport {
        size_bytes: meta.size_bytes,
        head: meta.head.clone(),
        dirty: meta.dirty,
        rebuilding: meta.rebuilding,
        error: meta.error.clone(),
        backing_file_path: meta.backing_file_path.clone(),
        encrypted: meta.encrypted,
    });
    let mut counted = std::collections::HashSet::new();
    let images = inventory.disks.values().filter_map(|disk| disk.image).filter(|image| image.regular);
    let allocated_bytes =
        images.filter(|image| counted.insert(image.id)).map(|image| image.allocated_bytes).sum();
    InspectReport {
        schema_version: SCHEMA_VERSION,
        path: replica.path().display().to_string(),
        volume,
        revision_counter: inventory.revision.good().copied(),
        head: diagnosis.head.clone(),
        readable: diagnosis.survey.is_some(),
        error: diagnosis.error.as_ref().map(ToString::to_string),
        data_bytes: diagnosis.survey.as_ref().map(|survey| survey.data_bytes),
        allocated_bytes,
        layers: layers(replica, diagnosis),
        findings: diagnosis.findings.iter().map(FindingReport::from).collect(),
    }
}

fn layers(replica: &ReplicaDir, diagnosis: &Diagnosis) -> Vec<LayerReport> {
    let disks = &replica.inventory().disks;
    let mut layers: Vec<_> = diagnosis
        .chain
        .layers
        .iter()
        .filter_map(|name| disks.get(name))
        .map(|disk| layer(replica, diagnosis, disk, Place::Live))
        .collect();
    layers.extend(backing(diagnosis));
    let of_head = diagnosis.head.as_deref().map(|head| replica.chain_from(head)).unwrap_or_default();
    for disk in disks.values().filter(|disk| !diagnosis.chain.contains(&disk.name)) {
        let whole = disk.image.is_some() && matches!(disk.meta, Doc::Good(_));
        let place = match disk.kind {
            _ if of_head.contains(&disk.name) => Place::Above,
            DiskKind::Head => Place::Leftover,
            _ if whole => Place::Branch,
            _ => Place::Leftover,
        };
        layers.push(layer(replica, diagnosis, disk, place));
    }
    layers
}

fn layer(replica: &ReplicaDir, diagnosis: &Diagnosis, disk: &Disk, place: Place) -> LayerReport {
    let meta = disk.meta.good();
    let found = surveyed(diagnosis, |info| info.kind != LayerKind::Backing && info.file == disk.name);
    let tally = found.map(|found| found.tally).or_else(|| diagnosis.off_chain.get(&disk.name).copied());
    LayerReport {
        file: disk.name.clone(),
        name: names::snapshot_name(&disk.name).unwrap_or(&disk.name).to_owned(),
        kind: match disk.kind {
            DiskKind::Head => "head",
            DiskKind::Snapshot => "snapshot",
            DiskKind::Other => "other",
        },
        place,
        parent: meta.map(|meta| meta.parent.clone()),
        created: meta.map(|meta| meta.created.clone()).unwrap_or_default(),
        removed: disk.is_removed(),
        user_created: meta.is_some_and(|meta| meta.user_created),
        labels: meta.map(|meta| meta.labels.iter().cloned().collect()).unwrap_or_default(),
        size_bytes: disk.image.map(|image| image.size_bytes),
        allocated_bytes: disk.image.map(|image| image.allocated_bytes),
        same_file_as: replica.inventory().twins(disk).map(|twin| twin.name.clone()).collect(),
        served_bytes: found.map(|found| found.served_bytes),
        ..LayerReport::holding(tally)
    }
}

fn backing(diagnosis: &Diagnosis) -> Option<LayerReport> {
    let source = diagnosis.source.as_ref()?;
    let info = source.chain.first().filter(|info| info.kind == LayerKind::Backing)?;
    let found = surveyed(diagnosis, |info| info.kind == LayerKind::Backing);
    Some(LayerReport {
        file: info.file.clone(),
        name: image_name(&info.file),
        kind: "backing",
        place: Place::Live,
        parent: Some(String::new()),
        size_bytes: source.layers.first().map(|image| image.size_bytes()),
        allocated_bytes: info.stat.map(|stat| stat.allocated_bytes),
        served_bytes: found.map(|found| found.served_bytes),
        ..LayerReport::holding(found.map(|found| found.tally))
    })
}

/// The end of a backing image's path: its own directory, which bears its name, and the file.
fn image_name(path: &str) -> String {
    let names: Vec<_> = path.rsplit('/').take(2).collect();
    names.into_iter().rev().collect::<Vec<_>>().join("/")
}

fn surveyed(diagnosis: &Diagnosis, is_it: impl Fn(&LayerInfo) -> bool) -> Option<LayerSurvey> {
    let place = diagnosis.source.as_ref()?.chain.iter().position(is_it)?;
    diagnosis.survey.as_ref()?.layers.get(place).copied()
}

impl LayerReport {
    /// A report that says no more than what the layer holds.
    pub(super) fn holding(tally: Option<Tally>) -> Self {
        LayerReport {
            file: String::new(),
            name: String::new(),
            kind: "other",
            place: Place::Leftover,
            parent: None,
            created: String::new(),
            removed: false,
            user_created: false,
            labels: BTreeMap::new(),
            size_bytes: None,
            allocated_bytes: None,
            same_file_as: Vec::new(),
            extents: tally.map(|tally| tally.extents),
            data_bytes: tally.map(|tally| tally.data_bytes),
            unwritten_bytes: tally.map(|tally| tally.unwritten_bytes),
            served_bytes: None,
        }
    }

    /// What is special about it, in a few words.
    pub(super) fn marks(&self) -> Vec<String> {
        let mut marks = Vec::new();
        if self.kind == "head" && self.place == Place::Leftover {
            marks.push("another head".to_owned());
        } else if self.kind != "snapshot" {
            marks.push(self.kind.to_owned());
        } else if !self.user_created {
            marks.push("system".to_owned());
        }
        if self.removed {
            marks.push("removed".to_owned());
        }
        if self.size_bytes.is_none() {
            marks.push("no data file".to_owned());
        }
        if self.parent.is_none() {
            marks.push("no metadata".to_owned());
        }
        if !self.same_file_as.is_empty() {
            marks.push("linked".to_owned());
        }
        marks.extend(self.labels.iter().map(|(key, value)| format!("{key}={value}")));
        marks
    }
}

/// The report as text.
pub fn text(report: &InspectReport) -> String {
    let mut text = summary(report);
    text.push('\n');
    text.push_str(&table(report));
    if !report.findings.is_empty() {
        text.push('\n');
    }
    for finding in &report.findings {
        text.push_str(&finding::text(finding));
    }
    text
}

fn summary(report: &InspectReport) -> String {
    let mut text = format!("replica   {}\n", printable(&report.path));
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<9} {}", printable(&value));
    };
    if let Some(volume) = &report.volume {
        let size =
            u64::try_from(volume.size_bytes).map(human::bytes).unwrap_or_else(|_| "invalid".to_owned());
        line("volume", format!("{size} ({} bytes)", volume.size_bytes));
        let flags = [
            (volume.dirty, "dirty"),
            (volume.rebuilding, "rebuilding"),
            (!volume.error.is_empty(), "error"),
            (volume.encrypted == Some(true), "encrypted"),
        ];
        let set: Vec<_> = flags.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect();
        line("flags", if set.is_empty() { "none".to_owned() } else { set.join(", ") });
        if !volume.backing_file_path.is_empty() {
            line("backing", volume.backing_file_path.clone());
        }
    } else {
        line("volume", "not known: volume.meta cannot be used".to_owned());
    }
    if let Some(counter) = report.revision_counter {
        line("revision", counter.to_string());
    }
    if let Some(data) = report.data_bytes {
        line(
            "data",
            format!(
                "{} at the head, {} on the disk",
                human::bytes(data),
                human::bytes(report.allocated_bytes)
            ),
        );
    } else {
        line(
            "data",
            format!("not readable at the head; {} on the disk", human::bytes(report.allocated_bytes)),
        );
    }
    text
}

/// The layers as a tree, with what each holds beside it.
fn table(report: &InspectReport) -> String {
    let drawn = tree::draw(&report.layers);
    let name_width = drawn.iter().map(|line| line.width()).max().unwrap_or_default();
    let mut text = format!(
        "{:name_width$}  {:20}  {:>10}  {:>10}  {:>8}  {:>10}\n",
        "layer", "created", "size", "allocated", "extents", "serves"
    );
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), human::bytes);
    for line in &drawn {
        let row = match line.layer {
            None => line.label.clone(),
            Some(layer) => {
                let pad = name_width - line.width();
                format!(
                    "{}{:pad$}  {:20}  {:>10}  {:>10}  {:>8}  {:>10}  {}",
                    line.label,
                    "",
                    printable(&layer.created.chars().take(20).collect::<String>()),
                    number(layer.size_bytes),
                    number(layer.allocated_bytes),
                    layer.extents.map_or_else(|| "-".to_owned(), |extents| extents.to_string()),
                    number(layer.served_bytes),
                    printable(&layer.marks().join(", ")),
                )
            }
        };
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}
