//! How much there is to copy: what the room must be for, and the progress.

use std::collections::HashSet;

use crate::error::Result;
use crate::event::{Event, Run};
use crate::guest::ext::{ExtFs, Found, Kind, Node, Step, Walk};
use crate::sys::tree::{Existing, ExistingKind, LockedTree, Tree};
use crate::workflow::browse::extract::tree::parents;
use crate::workflow::browse::listing::name_of;

/// Bytes of data in all regular files below `starts` that are not in the target yet. A file with several names counts once.
///
/// # Errors
/// When asked to stop. What cannot be read counts for nothing here.
pub(super) fn bytes_to_copy(fs: &ExtFs, starts: &[Found], target: &LockedTree, run: &Run<'_>) -> Result<u64> {
    run.event(Event::Phase { name: "looking through the files", total_bytes: None });
    let mut seen = HashSet::new();
    let mut bytes = 0u64;
    for start in starts {
        // The target's directories that the walk is in, as far as they are there.
        let mut dirs: Vec<Option<Tree>> =
            vec![target.root().and_then(|root| root.enter_all(parents(&start.path))).ok()];
        let mut walk = Walk::new(fs, start.clone(), run);
        while let Some(step) = walk.next_step()? {
            let here = dirs.last().and_then(Option::as_ref);
            match step {
                Step::Entry(found) if found.node.is_dir() => {
                    let below = match name_of(&found.path) {
                        b"/" => target.root().ok(),
                        name => here.and_then(|dir| dir.enter(name).ok()),
                    };
                    dirs.push(below);
                }
                Step::Entry(found) if found.node.kind == Kind::Regular => {
                    let there = here.and_then(|dir| dir.look(name_of(&found.path)).ok().flatten());
                    let is_done = there.is_some_and(|there| is_finished(&there, &found.node));
                    let is_counted = found.node.links > 1 && !seen.insert(found.node.ino);
                    if !is_done && !is_counted {
                        bytes = bytes.saturating_add(data_bytes(&found.node));
                    }
                }
                Step::Leave(_) => {
                    dirs.pop();
                }
                Step::Entry(_) | Step::Trouble(..) => {}
            }
        }
    }
    run.event(Event::PhaseDone);
    Ok(bytes)
}

/// Whether a file in the target is `node`, whole: only a complete file has its name and time.
pub(super) fn is_finished(there: &Existing, node: &Node) -> bool {
    let (seconds, nanoseconds) = there.modified;
    // Some file systems keep whole seconds only.
    let same_time = seconds == node.modified.0 && (nanoseconds == node.modified.1 || nanoseconds == 0);
    there.kind == ExistingKind::Regular && there.size_bytes == node.size_bytes && same_time
}

/// What a file holds at most; its holes are not known yet.
fn data_bytes(node: &Node) -> u64 {
    // Data in the inode itself takes no room of its own.
    if node.allocated_bytes == 0 {
        node.size_bytes.min(4096)
    } else {
        node.size_bytes.min(node.allocated_bytes)
    }
}
