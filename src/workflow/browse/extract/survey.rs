//! How much there is to copy: what the room must be for, and the progress.

use std::collections::HashSet;

use crate::error::Result;
use crate::event::{Event, Run};
use crate::guest::ext::{ExtFs, Found, Kind, Node, Step, Walk, join};
use crate::sys::source_identity::SourceIdentity;
use crate::sys::tree::{Existing, ExistingKind, LockedTree, Tree};
use crate::workflow::browse::extract::leftovers::Leftovers;
use crate::workflow::browse::extract::partial::Stamp;
use crate::workflow::browse::extract::tree::parents;
use crate::workflow::browse::listing::name_of;

/// A look at the files in the image and at what is in the target, before anything is copied.
pub(super) struct Survey<'a> {
    pub(super) fs: &'a ExtFs,
    pub(super) target: &'a LockedTree,
    pub(super) source: &'a SourceIdentity,
    pub(super) stamp: &'a Stamp,
    /// What runs that were cut short have left.
    pub(super) leftovers: Leftovers,
    /// The files with several names that were counted.
    seen: HashSet<u32>,
    /// How much there is to copy, in bytes.
    pub(super) wanted_bytes: u64,
}

impl<'a> Survey<'a> {
    pub(super) fn new(
        fs: &'a ExtFs,
        target: &'a LockedTree,
        source: &'a SourceIdentity,
        stamp: &'a Stamp,
    ) -> Self {
        let leftovers = Leftovers::default();
        Survey { fs, target, source, stamp, leftovers, seen: HashSet::new(), wanted_bytes: 0 }
    }

    /// Bytes of data in all regular files below `starts` that are not in the target yet, and what of the target's files is
    /// left from a run that was cut short, and of no use to this one. A file with several names counts once.
    ///
    /// # Errors
    /// When asked to stop. What cannot be read counts for nothing here.
    pub(super) fn look(&mut self, starts: &[Found], run: &Run<'_>) -> Result<()> {
        run.event(Event::Phase { name: "looking through the files", total_bytes: None });
        for start in starts {
            let above = self.above(start);
            self.below(start, above, run)?;
        }
        run.event(Event::PhaseDone);
        Ok(())
    }

    /// The target's directory that a start goes to, if it is there.
    fn above(&mut self, start: &Found) -> Option<Tree> {
        let mut here = self.target.root().ok()?;
        let mut path = Vec::new();
        self.leftovers.look(&here, &path, self.source);
        for name in parents(&start.path) {
            here = here.enter(name).ok()?;
            path = join(&path, name);
            self.leftovers.look(&here, &path, self.source);
        }
        Some(here)
    }

    fn below(&mut self, start: &Found, above: Option<Tree>, run: &Run<'_>) -> Result<()> {
        // The target's directories that the walk is in, as far as they are there.
        let mut dirs = vec![above];
        let mut walk = Walk::new(self.fs, start.clone(), run);
        while let Some(step) = walk.next_step()? {
            let here = dirs.last().and_then(Option::as_ref);
            match step {
                Step::Entry(found) if found.node.is_dir() => {
                    let below = match name_of(&found.path) {
                        b"/" => self.target.root().ok(),
                        name => here.and_then(|dir| dir.enter(name).ok()),
                    };
                    if let Some(below) = &below {
                        self.leftovers.look(below, &found.path, self.source);
                    }
                    dirs.push(below);
                }
                Step::Entry(found) if found.node.kind == Kind::Regular => self.file(&found, here),
                Step::Leave(_) => {
                    dirs.pop();
                }
                Step::Entry(_) | Step::Trouble(..) => {}
            }
        }
        Ok(())
    }

    fn file(&mut self, found: &Found, here: Option<&Tree>) {
        let node = &found.node;
        let there = here.and_then(|dir| dir.look(name_of(&found.path)).ok().flatten());
        let is_done = there.is_some_and(|there| is_finished(&there, node));
        let is_counted = node.links > 1 && !self.seen.insert(node.ino);
        if is_done || is_counted {
            return;
        }
        let there_bytes = here.map_or(0, |dir| self.leftovers.keep(dir, found, self.stamp));
        let missing = data_bytes(node).saturating_sub(there_bytes);
        self.wanted_bytes = self.wanted_bytes.saturating_add(missing);
    }
}

/// Whether a file in the target is `node`, whole: only a complete file has its name and time.
pub(super) fn is_finished(there: &Existing, node: &Node) -> bool {
    let (seconds, nanoseconds) = there.modified;
    // Some file systems keep whole seconds only.
    let same_time = seconds == node.modified.0 && (nanoseconds == node.modified.1 || nanoseconds == 0);
    there.kind == ExistingKind::Regular && there.size_bytes == node.size_bytes && same_time
}

/// What a file holds at most; its holes are not known yet.
pub(super) fn data_bytes(node: &Node) -> u64 {
    // Data in the inode itself takes no room of its own.
    if node.allocated_bytes == 0 {
        node.size_bytes.min(4096)
    } else {
        node.size_bytes.min(node.allocated_bytes)
    }
}
