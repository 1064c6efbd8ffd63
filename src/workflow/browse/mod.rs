//! Files straight out of a volume: listed, read, found, extracted, with no copy, no mount and no root.

pub mod extract;
mod glob;
mod listing;
pub mod read;
pub mod search;
mod troubles;

use std::fs::File;
use std::io;
use std::path::Path;

use crate::access::inside;
use crate::access::volume::{Volume, VolumeOptions};
use crate::error::{Error, Result};
use crate::format::volume_meta;
use crate::guest::ext::{ExtFs, JournalState};
use crate::guest::{self, Guest, GuestKind};
use crate::model::finding::{Code, Finding};
use crate::replica::View;
use crate::sys::source_identity::SourceIdentity;

pub use crate::guest::ext::{Found, LastLink};
pub use glob::Glob;
pub use listing::{FileEntry, List, Listed};
pub use troubles::Troubles;

/// A volume whose files can be looked at.
pub struct Browser {
    volume: Volume,
    fs: ExtFs,
    /// The partition that is looked into; `None` for the whole volume.
    pub partition: Option<u32>,
    /// What is to be said of how the file system was found.
    pub note: Option<String>,
    /// What the journal had to say; `None` where it did not have to be replayed.
    pub journal: Option<JournalState>,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
}

impl Browser {
    /// Opens the file system in the volume at `path`, or in a partition of it.
    ///
    /// # Errors
    /// As [`Volume::open`]; when there is no ext file system, or it cannot be opened.
    pub fn open(path: &Path, options: &VolumeOptions, partition: Option<u32>) -> Result<Self> {
        Self::of_volume(Volume::open(path, options).map_err(|e| hint_on_rights(e, path))?, path, partition)
    }

    /// Opens the file system in an open volume, which was opened as `path`, or in a partition of it.
    ///
    /// # Errors
    /// When there is no ext file system, or it cannot be opened.
    pub fn of_volume(volume: Volume, path: &Path, partition: Option<u32>) -> Result<Self> {
        let inside = inside::look(volume.whole(), partition)?;
        check_kind(inside.guest, path)?;
        let fs = ExtFs::open(inside.disk)?;
        let journal = fs.journal();
        let mut findings = volume.findings.clone();
        findings.extend(journal.as_ref().map(of_journal).unwrap_or_default());
        let partition = inside.partition.map(|partition| partition.number);
        Ok(Browser { volume, fs, partition, note: inside.note, journal, findings })
    }

    /// The volume that it is in.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// The file system.
    pub fn fs(&self) -> &ExtFs {
        &self.fs
    }

    /// The state that is shown; `None` for an image.
    pub fn state(&self) -> Option<&View> {
        self.volume.state()
    }

    /// Goes along each of `paths`.
    ///
    /// # Errors
    /// When one of them leads nowhere.
    pub fn resolve(&self, paths: &[Vec<u8>], last: LastLink) -> Result<Vec<Found>> {
        paths.iter().map(|path| self.fs.resolve(path, last)).collect()
    }

    /// The same with links that lead to directories followed; one that leads elsewhere, or nowhere, stays itself.
    pub fn into_directories(&self, starts: Vec<Found>) -> Vec<Found> {
        let follow = |found: Found| match self.fs.resolve(&found.path, LastLink::Follow) {
            Ok(led) if led.node.is_dir() => led,
            _ => found,
        };
        starts.into_iter().map(follow).collect()
    }

    /// What the volume is made of: the replica directory with all in it and the backing image, or the image.
    pub fn source(&self) -> SourceIdentity {
        self.volume.identity()
    }

    /// Looks whether the source is still what it was. Call it when the reading is done.
    ///
    /// # Errors
    /// As [`Volume::recheck`].
    pub fn recheck(&self) -> Result<()> {
        self.volume.recheck()
    }
}

/// Fails unless it is a file system that can be read here.
fn check_kind(guest: Option<Guest>, path: &Path) -> Result<()> {
    let error = match guest {
        Some(Guest { name: guest::EXT, .. }) => return Ok(()),
        Some(Guest { kind: GuestKind::Luks, .. }) => Error::source("the volume is encrypted: it holds a LUKS container")
            .with_hint("lhrecover mount says how to open it, or does it with --key-file"),
        Some(Guest { kind: GuestKind::FileSystem, name }) => {
            Error::source(format!("the volume holds {name}, and files can be read straight out of ext2, ext3 and ext4 only"))
                .with_hint("use lhrecover mount, which lets the kernel read it")
        }
        Some(Guest { kind: GuestKind::Other, name }) => Error::source(format!("the volume holds {name}, and no file system"))
            .with_hint("lhrecover mount --image-only gives other tools the whole volume as an image"),
        None => Error::source("no file system is recognised in the volume").with_hint(
            "is it the right snapshot (--at)? lhrecover check says more; lhrecover mount --image-only gives other tools the \
             whole volume as an image",
        ),
    };
    Err(error.with_path(path))
}

/// Replica files belong to root as a rule. What cannot be read then looks like a damaged replica at first.
fn hint_on_rights(error: Error, path: &Path) -> Error {
    let denied = |e: &io::Error| e.kind() == io::ErrorKind::PermissionDenied;
    let is_denied = error.io_cause().is_some_and(denied)
        || [path, &path.join(volume_meta::FILE_NAME)]
            .iter()
            .any(|path| File::open(path).is_err_and(|e| denied(&e)));
    if is_denied {
        error.with_hint("replica files belong to root: use sudo, or a copy that you may read")
    } else {
        error
    }
}

fn of_journal(journal: &JournalState) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(why) = &journal.cut_short_by {
        findings.push(
            Finding::new(
                Code::JournalCutShort,
                format!(
                    "the journal of the file system inside is damaged after {} transactions: {why}",
                    journal.transactions
                ),
                "what the file system wrote to the journal after that is missing, as if it had been cut off then",
            )
            .advise("compare with another replica: lhrecover verify --sibling; lhrecover check says whether the file system is whole"),
        );
    }
    if journal.has_fast_commits {
        findings.push(
            Finding::new(
                Code::FastCommitsMissing,
                "the journal of the file system inside has fast commits, which only the kernel can replay",
                "the latest changes before the crash are missing",
            )
            .advise("lhrecover mount --journal replay shows them"),
        );
    }
    findings
}
