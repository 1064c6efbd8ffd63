//! What changed: between two states of a replica, or between two replicas, images or devices.
//!
//! Both sides are opened as any command that looks inside opens them, and compared as they read. How the states of one
//! replica stand to each other is told by their chains.

mod files;
mod pairs;
mod ranges;
mod renames;
mod same;
mod spool;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::access::volume::{Volume, VolumeOptions};
use crate::engine::changes::{self, Changes, Pair};
use crate::engine::plan::Plan;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::format::names;
use crate::model::finding::Finding;
use crate::replica::doctor;
use crate::replica::{LayerInfo, ReplicaDir, SourceOptions, View};
use crate::view::disk::Disk;
use crate::workflow::browse::Browser;

pub use files::{Counts, FileChange, Files, What};
pub use ranges::Ranges;

use ranges::Collecting;

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    /// The replica directory, image or device.
    pub source: PathBuf,
    /// Another one; without it, two states of the first are compared.
    pub other: Option<PathBuf>,
    /// The state of the first one that the changes are counted from.
    pub from: Option<String>,
    /// The state they are counted to, and what leave there is to read both.
    pub volume: VolumeOptions,
    /// What counts as changed.
    pub by: By,
    /// How many threads work.
    pub workers: usize,
}

/// What counts as changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Sectors whose bytes differ.
    Bytes {
        /// Whether every range is kept, and not just the first ones.
        all_ranges: bool,
    },
    /// All that was written; nothing is read.
    Written {
        /// As above.
        all_ranges: bool,
    },
    /// Files in the file system inside.
    Files {
        /// Which partition; without it, the only one with a file system, or the whole volume.
        partition: Option<u32>,
        /// Whether files that look untouched are read, too.
        all_contents: bool,
    },
}

/// How two states stand to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// They are one.
    Same,
    /// The other one stands on the first, whose top layer this is.
    Later(String),
    /// The first stands on the other one, whose top layer this is.
    Earlier(String),
    /// Both stand on this layer, on branches.
    Branches(String),
    /// They have no layer in common.
    Apart,
}

impl Relation {
    /// The topmost layer that both stand on; `None` where there is none, or they are the same.
    pub fn common_layer(&self) -> Option<&str> {
        match self {
            Relation::Later(file) | Relation::Earlier(file) | Relation::Branches(file) => Some(file),
            Relation::Same | Relation::Apart => None,
        }
    }
}

/// One side of a comparison.
#[derive(Clone, Debug)]
pub struct Side {
    /// What it was named.
    pub path: PathBuf,
    /// Which state of a replica; `None` for an image.
    pub view: Option<View>,
    /// The names of the layers, lowest first; of an image, its path.
    pub layers: Vec<String>,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// The top layer's length in bytes: what the volume had at the time.
    pub top_bytes: u64,
    /// Whether it is a block device.
    pub is_device: bool,
}

/// What a comparison found.
pub struct Diff {
    /// The one side.
    pub from: Side,
    /// The other.
    pub to: Side,
    /// How they stand to each other.
    pub relation: Relation,
    /// What counts as changed.
    pub by: By,
    /// How much was written and changed, and by which layers.
    pub changes: Changes,
    /// Where.
    pub ranges: Ranges,
    /// The files that changed, if they were compared.
    pub files: Option<Files>,
    /// Damage and doubt about either side.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
}

/// Compares what `options` name.
///
/// # Errors
/// `Usage` when nothing is named to compare with; as [`Volume::open`] otherwise; `Source` when a layer cannot be read, or the
/// source changed meanwhile.
pub fn diff(options: &DiffOptions, run: &Run<'_>) -> Result<Diff> {
    let started = Instant::now();
    let (from, to) = open(options)?;
    let shared = shared(&from, &to);
    let to_path = options.other.as_deref().unwrap_or(&options.source);
    let sides = (Side::of(&options.source, &from), Side::of(to_path, &to));
    let length = sides.0.volume_bytes.min(sides.1.volume_bytes);
    let unwritten = options.volume.unwritten;
    let pair = Pair {
        from: Plan::new(from.view.layers(), length, unwritten),
        to: Plan::new(to.view.layers(), length, unwritten),
        shared,
    };
    let all_ranges = matches!(options.by, By::Bytes { all_ranges: true } | By::Written { all_ranges: true });
    let mut ranges = Collecting::new(all_ranges)?;
    let mut keep = |change| ranges.add(change);
    let changes = match options.by {
        By::Bytes { .. } => changes::compare(&pair, options.workers, run, &mut keep)?,
        By::Written { .. } => changes::written(&pair, run, &mut keep)?,
        By::Files { .. } => changes::written(&pair, run, &mut |_| Ok(()))?,
    };
    let mut findings = from.findings.clone();
    findings.extend(to.findings.iter().filter(|finding| !from.findings.contains(finding)).cloned());
    let relation = relation(&from, &to, shared);
    let files = match options.by {
        By::Files { partition, all_contents } => {
            let all = all_contents || relation == Relation::Apart;
            let from = Browser::of_volume(from, &sides.0.path, partition)?;
            let to = Browser::of_volume(to, &sides.1.path, partition)?;
            let files = files::compare(from.fs(), to.fs(), all, run)?;
            from.recheck()?;
            to.recheck()?;
            let of_journals = from.findings.iter().chain(&to.findings).chain(&files.findings);
            let new: Vec<_> = of_journals.filter(|finding| !findings.contains(finding)).cloned().collect();
            findings.extend(new);
            Some(files)
        }
        By::Bytes { .. } | By::Written { .. } => {
            from.recheck()?;
            to.recheck()?;
            None
        }
    };
    doctor::sort(&mut findings);
    Ok(Diff {
        relation,
        from: sides.0,
        to: sides.1,
        by: options.by,
        changes,
        ranges: ranges.finish()?,
        files,
        findings,
        duration: started.elapsed(),
    })
}

/// The name that the head goes by besides none at all, unless a snapshot bears it.
const HEAD: &str = "head";

/// What `wanted` means of the states of `source`: the head is none of the snapshots.
fn snapshot_of(source: &Path, wanted: Option<&String>) -> Result<Option<String>> {
    match wanted {
        Some(name) if name == HEAD && source.is_dir() => {
            let replica = ReplicaDir::open(source)?;
            // Its whole name: one that only begins like this is not meant.
            let mut names = replica.inventory().disks.keys();
            let is_snapshot = names.any(|disk| names::snapshot_name(disk) == Some(HEAD));
            Ok(is_snapshot.then(|| name.clone()))
        }
        other => Ok(other.cloned()),
    }
}

/// Opens both sides.
fn open(options: &DiffOptions) -> Result<(Volume, Volume)> {
    let newer = options.other.as_deref().unwrap_or(&options.source);
    let at = snapshot_of(newer, options.volume.source.at.as_ref())?;
    let given = &SourceOptions { at, ..options.volume.source.clone() };
    let state = |source: SourceOptions| VolumeOptions { source, ..options.volume.clone() };
    let head_of_from = given.head.clone().filter(|_| options.from.is_none() && options.other.is_some());
    let from = state(SourceOptions {
        at: snapshot_of(&options.source, options.from.as_ref())?,
        head: head_of_from,
        ..given.clone()
    });
    let Some(other) = &options.other else {
        if options.from.is_none() {
            return Err(Error::usage("there is nothing to compare with").with_path(&options.source).with_hint(
                "name the earlier state (--from SNAPSHOT), or another replica, image or device after this one",
            ));
        }
        let to = Volume::open(&options.source, &state(given.clone()))?;
        return Ok((Volume::open(&options.source, &from)?, to));
    };
    if !options.source.is_dir()
        && (given.head.is_some() || given.size_bytes.is_some() || given.backing_file.is_some())
    {
        return Err(Error::usage(
            "--head, --size and --backing-file say something of a replica directory that comes first",
        )
        .with_path(&options.source)
        .with_hint("name the replica directory first, and then what it is compared with"));
    }
    if given.at.is_some() && !other.is_dir() {
        return Err(Error::usage("--at is a state of what comes second, and an image has only one")
            .with_path(other)
            .with_hint("say with --from which state of the first one it is compared with"));
    }
    let to = match other.is_dir() {
        true => SourceOptions { head: None, ..given.clone() },
        false => SourceOptions::default(),
    };
    Ok((Volume::open(&options.source, &from)?, Volume::open(other, &state(to))?))
}

/// How many layers, from the lowest up, are the same files in both.
fn shared(from: &Volume, to: &Volume) -> usize {
    let chains = (chain(from), chain(to));
    let is_same = |(one, other): &(&LayerInfo, &LayerInfo)| match (one.stat, other.stat) {
        (Some(stat), Some(other)) => stat.id == other.id,
        // A purge that was cut short has left its data in the layer below, which is the same.
        (None, None) => one.file == other.file,
        _ => false,
    };
    chains.0.iter().zip(chains.1).take_while(is_same).count()
}

fn chain(volume: &Volume) -> &[LayerInfo] {
    volume.source.as_ref().map(|source| source.chain.as_slice()).unwrap_or_default()
}

fn relation(from: &Volume, to: &Volume, shared: usize) -> Relation {
    let (one, other) = (chain(from), chain(to));
    match one.get(..shared).and_then(|common| common.last()) {
        None => Relation::Apart,
        Some(_) if one.len() == shared && other.len() == shared => Relation::Same,
        Some(last) if one.len() == shared => Relation::Later(last.file.clone()),
        Some(last) if other.len() == shared => Relation::Earlier(last.file.clone()),
        Some(last) => Relation::Branches(last.file.clone()),
    }
}

impl Side {
    fn of(path: &Path, volume: &Volume) -> Self {
        let layers = volume.view.layers();
        Side {
            path: path.to_path_buf(),
            view: volume.state().cloned(),
            layers: layers.iter().map(|layer| layer.name().to_owned()).collect(),
            volume_bytes: volume.view.size_bytes(),
            top_bytes: layers.last().map_or(0, |top| top.size_bytes()),
            is_device: std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device()),
        }
    }

    /// The name of the layer at this place.
    pub fn layer(&self, place: Option<u8>) -> Option<&str> {
        self.layers.get(usize::from(place?)).map(String::as_str)
    }
}

impl Diff {
    /// Whether both sides are the same, also in length, unless files are compared; only a device may be longer.
    pub fn is_same(&self) -> bool {
        if let Some(files) = &self.files {
            return files.counts.is_same();
        }
        let (from, to) = (&self.from, &self.to);
        let lengths_agree = match from.volume_bytes.cmp(&to.volume_bytes) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => to.is_device,
            std::cmp::Ordering::Greater => from.is_device,
        };
        lengths_agree && self.changes.differing.bytes == 0
    }
}
