//! A scan: every replica directory under some paths, and what is known of each.
//!
//! Without a look at the data it is bounded by metadata reads: a directory listing, a few small files and one
//! `stat` per name. A deep scan computes checksums and looks at the content, too. What comes out is evidence, to be
//! ranked with that of other nodes ([`standing`](crate::model::standing)).

pub mod collect;
mod deep;
pub mod everywhere;
mod gather;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf, absolute};
use std::sync::Mutex;

use rayon::prelude::*;

use crate::engine::pipeline;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::model::evidence::Evidence;
use crate::model::finding::{Code, Finding};
use crate::replica::discover::{self, volume_name};
use crate::sink::copy_dir::read_manifest;
use crate::sys::dir::{Dir, FileId};
use crate::sys::process;

pub use gather::gather;

/// What to look for, and how closely.
#[derive(Clone, Debug, Default)]
pub struct ScanOptions {
    /// What this node is called.
    pub node: String,
    /// Only volumes whose name is one of these or begins with it; all when empty.
    pub volumes: Vec<String>,
    /// Compute checksums, and look at the content.
    pub deep: bool,
    /// How many directories are read at the same time; what suits the machine, each by itself, if `None`.
    pub jobs: Option<usize>,
}

/// What was found on this node.
#[derive(Clone, Debug, Default)]
pub struct Scanned {
    /// What is known of each replica directory, in the order of their paths.
    pub replicas: Vec<Evidence>,
    /// What could not be looked at.
    pub findings: Vec<Finding>,
}

/// Whether a volume is among those that are wanted.
pub fn is_wanted(volume: &str, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|prefix| volume.starts_with(prefix.as_str()))
}

/// Looks at every replica directory that `paths` mean. One that cannot be read is evidence of a broken replica; a
/// path in which none can be found is a finding.
///
/// # Errors
/// When interrupted, or no threads can be had.
pub fn scan(paths: &[PathBuf], options: &ScanOptions, run: &Run<'_>) -> Result<Scanned> {
    let mut scanned = Scanned::default();
    let mut directories = Vec::new();
    for path in paths {
        match discover::discover(path) {
            // In full: it is read elsewhere, too.
            Ok(found) => directories.extend(found.iter().map(|path| absolute(path).unwrap_or(path.clone()))),
            Err(e) => scanned.findings.push(unreadable(path, &e, &options.node)),
        }
    }
    directories.retain(|path| is_wanted(&volume_of(path), &options.volumes));
    // The same directory may have been named twice.
    directories.sort_unstable();
    let mut seen = HashSet::new();
    directories.retain(|path| {
        let directory = std::fs::metadata(path).map(|m| FileId { dev: m.dev(), ino: m.ino() });
        // What cannot be looked at is evidence, too.
        directory.map_or(true, |directory| seen.insert(directory))
    });
    run.event(Event::Phase { name: "reading metadata", total_bytes: None });
    let workers = options.jobs.unwrap_or_else(pipeline::default_workers);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(workers).build();
    let pool = pool.map_err(|e| Error::usage("cannot start threads").with_hint(e.to_string()))?;
    let heads = Mutex::new(HashMap::new());
    let gathered: Result<Vec<_>> = pool.install(|| {
        let one = |path: &PathBuf| {
            run.check()?;
            let (evidence, head) = gather(path, &options.node);
            if let Some(head) = head {
                let mut heads = heads.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                heads.insert(head, evidence.path.clone());
            }
            Ok(evidence)
        };
        directories.par_iter().map(one).collect()
    });
    scanned.replicas = gathered?;
    let origin = origin();
    scanned.replicas.iter_mut().for_each(|replica| replica.origin.clone_from(&origin));
    mark_those_in_use(
        &mut scanned.replicas,
        &heads.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()),
    );
    run.event(Event::PhaseDone);
    if options.deep {
        deep::look(&directories, &mut scanned.replicas, workers, run)?;
    }
    Ok(scanned)
}

/// What tells this machine, since it was started, from any other; empty when the kernel does not say.
fn origin() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// The volume whose replica a directory is, by its name, or by that of the directory that it is a copy of.
fn volume_of(directory: &Path) -> String {
    // `.` and the like have no name of their own.
    let real = || std::fs::canonicalize(directory).ok()?.file_name().map(written);
    let name = directory.file_name().map(written).or_else(real).unwrap_or_default();
    match volume_name(&name) {
        own if own == name => copied_from(directory).unwrap_or(name),
        volume => volume.to_owned(),
    }
}

/// The volume whose replica a directory was copied from, if `preserve` has written it down.
fn copied_from(directory: &Path) -> Option<String> {
    let manifest = read_manifest(&Dir::open(directory).ok()?).ok()??;
    let name = Path::new(&manifest.source).file_name()?.to_str()?.to_owned();
    Some(volume_name(&name).to_owned()).filter(|volume| *volume != name)
}

/// A name as text: two names that differ do so in writing, too, whatever bytes they hold.
fn written(name: &OsStr) -> String {
    let chunks = name.as_bytes().utf8_chunks();
    chunks.fold(String::new(), |text, chunk| {
        format!("{text}{}{}", chunk.valid(), chunk.invalid().escape_ascii())
    })
}

/// All processes are looked at once, not once per replica.
fn mark_those_in_use(replicas: &mut [Evidence], heads: &HashMap<FileId, String>) {
    let holders = process::holders_of(heads).found;
    for holder in holders.iter().filter(|holder| holder.writes) {
        replicas.iter_mut().filter(|r| r.path == holder.file).for_each(|r| r.in_use = true);
    }
}

fn unreadable(path: &Path, error: &Error, node: &str) -> Finding {
    let mut finding = Finding::new(
        Code::PathUnreadable,
        format!("{node}: {error}"),
        "replicas that are there are missing from the ranking: the best one may be among them",
    )
    .on(path.display().to_string());
    if let (Some(hint), false) = (error.hint(), error.kind() == ErrorKind::Interrupted) {
        finding = finding.advise(hint);
    }
    finding
}
