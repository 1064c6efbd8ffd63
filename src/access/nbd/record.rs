//! What went wrong while others read: said once, when it happens, and remembered for the end.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind};
use crate::model::finding::{Code, Finding};
use crate::model::units::{ByteRange, SECTOR_BYTES, sector_floor};

/// How many different troubles are told apart. A dying disk has millions.
const MAX_TROUBLES: usize = 1000;

/// Who is told at once. May be called from several threads.
pub trait Watcher: Sync {
    /// A client did not get what it asked for.
    fn failed(&self, error: &Error);

    /// An export was opened, and this is damaged or doubtful about it.
    fn found(&self, findings: &[Finding]);
}

/// Everything that was told so far.
pub struct Record<'a> {
    watcher: &'a dyn Watcher,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// The texts of errors: layer and offset are in them.
    troubles: HashSet<String>,
    /// The bytes that could not be read, by layer.
    unreadable: BTreeMap<String, Vec<u64>>,
    findings: Vec<Finding>,
}

impl<'a> Record<'a> {
    /// An empty record; `watcher` is told what is new.
    pub fn new(watcher: &'a dyn Watcher) -> Self {
        Record { watcher, kept: Mutex::default() }
    }

    /// Takes note of why a client did not get what it asked for.
    pub fn failed(&self, error: &Error) {
        let mut kept = self.kept();
        if kept.troubles.len() >= MAX_TROUBLES || !kept.troubles.insert(error.to_string()) {
            return;
        }
        if let (ErrorKind::Source, Some(layer), Some(at)) =
            (error.kind(), error.layer(), error.offset_bytes())
        {
            kept.unreadable.entry(layer.to_owned()).or_default().push(at);
        }
        drop(kept);
        self.watcher.failed(error);
    }

    /// Takes note of what is damaged or doubtful about an export; snapshots of one replica have much in common.
    pub fn found(&self, findings: &[Finding]) {
        let mut kept = self.kept();
        let new: Vec<_> =
            findings.iter().filter(|finding| !kept.findings.contains(finding)).cloned().collect();
        kept.findings.extend(new.iter().cloned());
        drop(kept);
        if !new.is_empty() {
            self.watcher.found(&new);
        }
    }

    /// Everything that was found, which the watcher has been told.
    pub fn findings(&self) -> Vec<Finding> {
        self.kept().findings.clone()
    }

    /// Sums up what could not be read, a finding for each layer.
    pub fn sum_up_unreadable(&self) {
        let unreadable = std::mem::take(&mut self.kept().unreadable);
        let findings: Vec<_> = unreadable
            .into_iter()
            .map(|(layer, mut places)| {
                places.iter_mut().for_each(|at| *at = sector_floor(*at));
                places.sort_unstable();
                places.dedup();
                let sector = |at: u64| ByteRange::new(at, at.saturating_add(SECTOR_BYTES));
                Finding::new(
                    Code::Unreadable,
                    format!("layer {layer} could not be read in {} places or more", places.len()),
                    "clients got an input/output error there, and no data",
                )
                .on(layer)
                .at(places.into_iter().map(sector).collect())
                .advise("look at the kernel log; copy the disk with ddrescue, or try another replica")
            })
            .collect();
        self.found(&findings);
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
