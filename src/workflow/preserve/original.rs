//! The source of a copy: everything in a replica directory, whatever state it is in, and that it stays what it is.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::finding::{Code, Finding};
use crate::replica::ReplicaDir;
use crate::replica::listing::{Listed, Listing, What};
use crate::replica::live::Live;
use crate::sys::attributes::Xattrs;
use crate::view::LayerImage;
use crate::view::layer_file::LayerFile;

/// A source that is about to be copied.
pub struct Original<'a> {
    /// The directory.
    pub replica: &'a ReplicaDir,
    /// Its path, as it really is.
    pub path: PathBuf,
    /// Every name in it.
    pub listing: Listing,
    /// Whether another process writes to it.
    pub live: Live,
}

impl<'a> Original<'a> {
    /// Lists what there is to copy.
    ///
    /// # Errors
    /// `Refused` when the replica is in use and there is no leave to copy it all the same; `Source` when something in
    /// it cannot be looked at.
    pub fn take(replica: &'a ReplicaDir, allow_live: bool) -> Result<Self> {
        let live = Live::look(replica.inventory());
        if live.is_live() && !allow_live {
            return Err(Error::refused(format!("the replica is in use: {} has it open for writing", live.who()))
                .with_path(replica.path())
                .with_hint("detach the volume first; to copy it all the same, which fails if it changes meanwhile: --allow-live"));
        }
        let path = fs::canonicalize(replica.path()).unwrap_or_else(|_| replica.path().to_path_buf());
        Ok(Original { replica, path, listing: Listing::of(replica.dir())?, live })
    }

    /// The regular files, each once, with their extended attributes.
    pub fn files(&self) -> impl Iterator<Item = (&Listed, &Xattrs)> {
        self.listing.files.iter().filter_map(|file| match &file.what {
            What::File(xattrs) => Some((file, xattrs)),
            What::Link(_) | What::Symlink(_) => None,
        })
    }

    /// Opens one of the files.
    ///
    /// # Errors
    /// `Source` when it cannot be opened, or its extents cannot be told.
    pub fn open(&self, file: &Listed) -> Result<LayerFile> {
        let layer = self.replica.open_image(&file.name)?;
        if layer.size_bytes() == file.attributes.size_bytes {
            Ok(layer)
        } else {
            Err(self.changed(&file.name))
        }
    }

    /// Refuses a target that is the source, or within it, or around it.
    ///
    /// # Errors
    /// `Refused`; no flag gives leave.
    pub fn refuse_overlap(&self, target: &Path) -> Result<()> {
        let id = |m: &Metadata| (m.dev(), m.ino());
        let source = self.listing.directory.id;
        let is_source = |m: &Metadata| id(m) == (source.dev, source.ino);
        let refuse =
            |what: &str| Err(Error::refused(what).with_path(target).with_hint("name a place elsewhere"));
        let there = fs::metadata(target).ok();
        if there.as_ref().is_some_and(is_source) {
            return refuse("the copy would be the source itself");
        }
        if self.replica.identity().holds(target) {
            return refuse("the copy would be inside the source");
        }
        let around = there.is_some_and(|there| {
            there.is_dir()
                && self.path.ancestors().any(|up| fs::metadata(up).is_ok_and(|m| id(&m) == id(&there)))
        });
        if around { refuse("the source is inside the directory of the copy") } else { Ok(()) }
    }

    /// Looks again at everything: it must be what it was. Call it when the reading is done.
    ///
    /// # Errors
    /// `Source`, naming a file that is another one now.
    pub fn recheck(&self) -> Result<()> {
        let now = Listing::of(self.replica.dir())?;
        self.listing.first_change(&now).map_or(Ok(()), |name| Err(self.changed(name)))
    }

    fn changed(&self, name: &str) -> Error {
        Error::source(format!("the replica changed while it was copied: {name} is not what it was"))
            .with_path(self.replica.path())
            .with_hint("stop what uses the replica, and run the same command again: what has not changed is not copied twice")
    }

    /// What is doubtful about the source, or will be missing from the copy.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.live.findings();
        for (name, why) in &self.listing.left_out {
            findings.push(
                Finding::new(
                    Code::NotPreserved,
                    format!("{name} {why}: it is not copied"),
                    "nothing that Longhorn makes is lost by it; whether it matters, somebody has to know",
                )
                .on(name)
                .advise("copy it by other means if it matters"),
            );
        }
        findings
    }
}
