//! A replica directory on a disk: what is in it, whether it can be trusted, and its layers, opened.
//!
//! ```text
//!   ReplicaDir::open ──> Inventory ──> head and size ──> Chain ──> guards ──> Source (open layers)
//!                            │            (head)       (model)              (source, backing)
//!                            └──> Diagnosis (doctor): findings, also when nothing can be opened
//! ```
//!
//! Nothing here writes, and nothing is opened outside the directory except a backing image, under rules of its
//! own ([`backing`]).

pub mod backing;
mod decide;
pub mod discover;
pub mod doctor;
pub mod head;
pub mod inventory;
pub mod listing;
pub mod live;
pub mod outlook;
pub mod recorded;
pub mod source;

use std::path::Path;

use crate::error::{Error, Result};
use crate::model::chain::{Chain, Link};
use crate::replica::inventory::{Doc, Inventory};
use crate::sys::dir::Dir;
use crate::sys::process::allow_many_files;
use crate::sys::source_identity::SourceIdentity;

pub use source::{LayerInfo, LayerKind, Source, SourceOptions, View};

/// A replica directory, read but not yet opened for its data.
#[derive(Debug)]
pub struct ReplicaDir {
    pub(crate) dir: Dir,
    inventory: Inventory,
}

impl ReplicaDir {
    /// Opens a directory and reads all of its metadata.
    ///
    /// # Errors
    /// When it is not there or may not be read, when it is not a replica directory at all, or when it holds
    /// absurdly many files.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = Dir::open(path).map_err(|e| {
            let error = Error::source("cannot open the replica directory").with_path(path);
            let hint = match e.kind() {
                std::io::ErrorKind::NotFound => {
                    "replicas are under <disk path>/replicas/, usually /var/lib/longhorn/replicas/"
                }
                std::io::ErrorKind::PermissionDenied => "replica directories belong to root: run as root",
                _ => "name the directory that holds volume.meta and the .img files",
            };
            error.caused_by(e).with_hint(hint)
        })?;
        // Each layer is an open file, and a chain has up to 250.
        allow_many_files();
        let inventory = Inventory::read(&dir)?;
        Ok(ReplicaDir { dir, inventory })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The directory itself.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The directory and everything in it: layers of other chains too, and what is no layer.
    pub fn identity(&self) -> SourceIdentity {
        let mut identity = SourceIdentity::at(self.path());
        self.inventory.files.iter().for_each(|(_, stat)| identity.add_file(stat.id));
        let names = self.dir.names(inventory::MAX_NAMES).unwrap_or_default();
        let others = names.iter().filter_map(|name| self.dir.stat(name.to_str()?).ok());
        others.for_each(|stat| identity.add_file(stat.id));
        identity
    }

    /// What is in it.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// The chain from `top` down, as far as it can be followed.
    pub fn chain_from(&self, top: &str) -> Chain {
        self.inventory.chain_from(top)
    }
}

impl Inventory {
    /// The chain from `top` down, as far as it can be followed.
    pub fn chain_from(&self, top: &str) -> Chain {
        Chain::follow(top, |layer| match self.disks.get(layer).map(|disk| &disk.meta) {
            None | Some(Doc::Absent) => Link::NoMeta,
            Some(Doc::Unreadable(_) | Doc::Damaged(_)) => Link::DamagedMeta,
            Some(Doc::Good(meta)) if meta.parent.is_empty() => Link::Lowest,
            Some(Doc::Good(meta)) => Link::Parent(&meta.parent),
        })
    }
}
