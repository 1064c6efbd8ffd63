//! The target itself, which is the user's own: it gets what the volume's root directory has only if nothing was in it.

use crate::error::{Error, Result};
use crate::guest::ext::Found;
use crate::sys::tree::{ITSELF, LockedTree, Tree};
use crate::workflow::browse::extract::Extraction;
use crate::workflow::browse::extract::left::What;
use crate::workflow::browse::extract::partial::is_partial;

/// It is in the target as long as that is still to get what the root directory has, so that a run that was cut short is gone on
/// with: the target is not empty any more then.
const MARK: &[u8] = b".lhrecover-root";

/// What mke2fs makes: a new file system is empty all the same.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Whether the target was empty, or an earlier run found it so.
pub(super) struct RootMark {
    was_empty: bool,
    is_set: bool,
}

impl RootMark {
    pub(super) fn look(target: &LockedTree) -> Result<Self> {
        let is_other = |name: &[u8]| name != LOST_AND_FOUND && name != MARK && !is_partial(name);
        let root = target.root();
        let looked = root.and_then(|root| Ok((root.look(MARK)?.is_some(), root.names(is_other)?.is_empty())));
        match looked {
            Ok((is_set, is_empty)) => Ok(RootMark { was_empty: is_set || is_empty, is_set }),
            Err(e) => Err(failed("cannot look at the target directory", target, e)),
        }
    }

    /// Sets it if the root directory is `wanted` and may be had, and removes it otherwise. Whether the target is to get it.
    pub(super) fn set(self, target: &LockedTree, wanted: bool) -> Result<bool> {
        let takes_root = wanted && self.was_empty;
        let marked = target.root().and_then(|root| match (takes_root, self.is_set) {
            (true, false) => root.make_file(MARK).map(drop),
            (false, true) => root.remove(MARK),
            _ => Ok(()),
        });
        marked.map_err(|e| failed("cannot write to the target directory", target, e))?;
        Ok(takes_root)
    }
}

fn failed(what: &str, target: &LockedTree, cause: std::io::Error) -> Error {
    Error::output(what).with_path(target.path()).caused_by(cause)
}

impl Extraction<'_> {
    /// Gives the target what the root directory `found` has, or says that it has something else.
    pub(super) fn finish_root(&self, root: &Tree, found: &Found) -> Result<()> {
        if self.takes_root {
            root.remove(MARK).map_err(|e| failed("cannot write to the target directory", self.target, e))?;
            self.set_attributes(root, ITSELF, found);
            return Ok(());
        }
        let there = root.look(ITSELF).ok().flatten();
        if there.is_none_or(|there| !self.has_attributes(root, ITSELF, found, &there)) {
            let node = &found.node;
            let has = format!("owner {}:{}, mode {:04o}", node.uid, node.gid, node.mode);
            self.left.add(What::Root, &found.path, has);
        }
        Ok(())
    }
}
