//! Files that have another name than before: what went in one place and came in another is the same inode.

use std::collections::HashMap;

use crate::error::Result;
use crate::guest::ext::{Found, Kind, Node};
use crate::workflow::diff::pairs::{Met, Pairs};

/// How many files that went, or came, are remembered to find renamed ones among them: some 20 MiB of names. With more, files
/// that were renamed are told as gone and come.
const MOST_REMEMBERED: usize = 100_000;

/// Old and new names.
#[derive(Debug, Default)]
pub struct Renames {
    /// By inode number: the old path, and the new one.
    by_inode: HashMap<u32, (Vec<u8>, Vec<u8>)>,
    /// Directories: the new path, and the old one.
    directories: HashMap<Vec<u8>, Vec<u8>>,
    /// Whether there were too many files to find those that were renamed.
    pub given_up: bool,
}

impl Renames {
    /// Finds them in a walk of their own.
    ///
    /// # Errors
    /// As [`Pairs::next_met`].
    pub fn find(mut pairs: Pairs<'_>) -> Result<Self> {
        let (mut gone, mut come) = (HashMap::<u32, Known>::new(), HashMap::<u32, Known>::new());
        while let Some(met) = pairs.next_met()? {
            let (known, found) = match met {
                Met { from: Some(found), to: None } => (&mut gone, found),
                Met { from: None, to: Some(found) } => (&mut come, found),
                Met { .. } => continue,
            };
            known.entry(found.node.ino).or_insert_with(|| Known::of(found));
            if gone.len() + come.len() > MOST_REMEMBERED {
                return Ok(Renames { given_up: true, ..Renames::default() });
            }
        }
        let mut renames = Renames::default();
        for (inode, old) in gone {
            let Some(new) = come.remove(&inode).filter(|new| new.is_same_file(&old)) else { continue };
            if old.kind == Kind::Directory {
                renames.directories.insert(new.path.clone(), old.path.clone());
            }
            renames.by_inode.insert(inode, (old.path, new.path));
        }
        Ok(renames)
    }

    /// Whether the file that went is one that has another name now.
    pub fn is_old_name(&self, gone: &Found) -> bool {
        self.by_inode.get(&gone.node.ino).is_some_and(|(old, _)| *old == gone.path)
    }

    /// The old path of a file that came, if it had one.
    pub fn old_path(&self, come: &Found) -> Option<&[u8]> {
        let (old, new) = self.by_inode.get(&come.node.ino)?;
        (*new == come.path).then_some(old)
    }

    /// Whether a file that was called `old` has its new path only because its directory has another name.
    pub fn moved_along(&self, old: &[u8], new: &[u8]) -> bool {
        match (split(old), split(new)) {
            (Some((old_dir, old_name)), Some((new_dir, new_name))) => {
                old_name == new_name && self.directories.get(new_dir).is_some_and(|dir| dir == old_dir)
            }
            _ => false,
        }
    }
}

/// A path as directory and name.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    Some((&path[..slash], &path[slash + 1..]))
}

/// What is remembered of a file.
struct Known {
    path: Vec<u8>,
    kind: Kind,
    created: Option<(i64, i64)>,
    modified: (i64, i64),
    size_bytes: u64,
}

impl Known {
    fn of(found: Found) -> Self {
        let Node { kind, created, modified, size_bytes, .. } = found.node;
        Known { path: found.path, kind, created, modified, size_bytes }
    }

    /// Whether an inode number stands for the same file as before, and was not given to another one meanwhile. Where it does
    /// not say when it was made, the file itself must be as it was.
    fn is_same_file(&self, other: &Known) -> bool {
        let unchanged = self.modified == other.modified && self.size_bytes == other.size_bytes;
        self.kind == other.kind && self.created == other.created && (self.created.is_some() || unchanged)
    }
}
