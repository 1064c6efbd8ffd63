//! What runs that were cut short have left in the target: removed, unless this one goes on with it.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::guest::ext::{Found, as_path};
use crate::sys::dir::FileId;
use crate::sys::source_identity::SourceIdentity;
use crate::sys::tree::{Existing, ExistingKind, LockedTree, Tree};
use crate::workflow::browse::extract::partial::{Partial, Stamp, is_partial};
use crate::workflow::browse::extract::tree::names;

/// The files of one directory.
struct InDir {
    /// The directory's path in the image.
    path: Vec<u8>,
    /// Their names, and what they take on the disk.
    files: Vec<(Vec<u8>, u64)>,
}

/// What is there, by directory of the target.
#[derive(Default)]
pub(super) struct Leftovers(BTreeMap<FileId, InDir>);

impl Leftovers {
    /// Looks what there is in `dir`, which is the image's directory at `path`.
    pub(super) fn look(&mut self, dir: &Tree, path: &[u8], source: &SourceIdentity) {
        let is_leftover =
            |there: &Existing| there.kind == ExistingKind::Regular && !source.has_file(there.id);
        // The source is not even listed: its times stay as well.
        let Some(id) = dir.id().ok().filter(|id| !source.has_file(*id)) else { return };
        // In a directory that cannot be read none can be removed either.
        let Ok(names) = dir.names(is_partial) else { return };
        let files: Vec<_> = names
            .into_iter()
            .filter_map(|name| {
                let there = dir.look(&name).ok().flatten().filter(is_leftover)?;
                Some((name, there.allocated_bytes))
            })
            .collect();
        if !files.is_empty() {
            self.0.entry(id).or_insert_with(|| InDir { path: path.to_vec(), files });
        }
    }

    /// Keeps what the copy of `found` to `dir` goes on with, and returns how many bytes of it are there.
    pub(super) fn keep(&mut self, dir: &Tree, found: &Found, stamp: &Stamp) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let Some(here) = dir.id().ok().and_then(|id| self.0.get_mut(&id)) else { return 0 };
        let Ok(Some(furthest)) = Partial::furthest(dir, &stamp.partial(found)) else { return 0 };
        let name = furthest.name();
        match here.files.iter().position(|(file, _)| furthest.windows > 0 && *file == name) {
            Some(at) => here.files.swap_remove(at).1,
            None => 0,
        }
    }

    /// Removes the rest.
    ///
    /// # Errors
    /// When one cannot be removed.
    pub(super) fn remove(self, target: &LockedTree) -> Result<()> {
        for InDir { path, files } in self.0.into_values() {
            let fail = |e| {
                Error::output("cannot remove what an earlier run has left unfinished")
                    .with_path(target.path().join(as_path(path.strip_prefix(b"/").unwrap_or(&path))))
                    .caused_by(e)
                    .with_hint("run it as who ran it before, or extract to an empty directory")
            };
            let dir = target.root().and_then(|root| root.enter_all(names(&path))).map_err(fail)?;
            for (name, _) in files {
                dir.remove(&name).map_err(fail)?;
            }
        }
        Ok(())
    }
}
