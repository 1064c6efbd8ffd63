//! A tree of files, walked and counted.

use std::collections::HashSet;
use std::fs::{self, Metadata, ReadDir};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::rsync::TEMPORARY;
use crate::error::Result;
use crate::event::{Event, Run};

/// How many files of which kind there are. Names of one file count each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Regular files.
    pub files: u64,
    /// Their lengths, in bytes.
    pub bytes: u64,
    /// Directories, the root among them.
    pub directories: u64,
    /// Symbolic links.
    pub links: u64,
    /// Devices, pipes and sockets.
    pub others: u64,
    /// What could not be looked at: directories, or entries of them.
    pub unreadable: u64,
}

impl Tally {
    fn add(&mut self, meta: &Metadata) {
        let kind = meta.file_type();
        if kind.is_file() {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(meta.len());
        } else if kind.is_dir() {
            self.directories += 1;
        } else if kind.is_symlink() {
            self.links += 1;
        } else {
            self.others += 1;
        }
    }
}

/// Counts what is below `root`.
///
/// # Errors
/// When stopped.
pub fn tally(root: &Path, name: &str, run: &Run<'_>) -> Result<Tally> {
    run.event(Event::Phase { name, total_bytes: None });
    let mut tally = Tally::default();
    for found in Walk::new(root) {
        run.check()?;
        match found {
            Ok((_, meta)) => tally.add(&meta),
            Err(_) => tally.unreadable += 1,
        }
    }
    run.event(Event::PhaseDone);
    Ok(tally)
}

/// Everything below a root, and the root, by paths relative to it; what is copied by nobody is left out. Links are not
/// followed. An error says which directory or entry cannot be looked at.
pub struct Walk {
    root: PathBuf,
    began: bool,
    open: Option<(PathBuf, ReadDir)>,
    ahead: Vec<PathBuf>,
}

impl Walk {
    /// Of everything below `root`.
    pub fn new(root: &Path) -> Self {
        Walk { root: root.to_path_buf(), began: false, open: None, ahead: vec![PathBuf::new()] }
    }

    fn looked_at(&mut self, path: PathBuf) -> std::result::Result<(PathBuf, Metadata), PathBuf> {
        match fs::symlink_metadata(self.root.join(&path)) {
            Ok(meta) => {
                if meta.is_dir() && !path.as_os_str().is_empty() {
                    self.ahead.push(path.clone());
                }
                Ok((path, meta))
            }
            Err(_) => Err(path),
        }
    }
}

impl Iterator for Walk {
    type Item = std::result::Result<(PathBuf, Metadata), PathBuf>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.began {
            self.began = true;
            return Some(self.looked_at(PathBuf::new()));
        }
        loop {
            let Some((dir, entries)) = &mut self.open else {
                let dir = self.ahead.pop()?;
                match fs::read_dir(self.root.join(&dir)) {
                    Ok(entries) => self.open = Some((dir, entries)),
                    Err(_) => return Some(Err(dir)),
                }
                continue;
            };
            let is_root = dir.as_os_str().is_empty();
            match entries.next() {
                None => self.open = None,
                Some(Err(_)) => {
                    let dir = dir.clone();
                    self.open = None;
                    return Some(Err(dir));
                }
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if is_root && (name == "lost+found" || name == TEMPORARY) {
                        continue;
                    }
                    let path = dir.join(name);
                    return Some(self.looked_at(path));
                }
            }
        }
    }
}

/// What one tree has, and what is in its place in another.
#[derive(Debug)]
pub struct Pair {
    /// Its path in both, relative to their roots.
    pub path: PathBuf,
    /// What it is in the one.
    pub meta: Metadata,
    /// What it is in the other; `None` when that has nothing there.
    pub other: Option<Metadata>,
}

impl Pair {
    /// Whether the other tree has a directory where this one has none.
    pub fn is_in_the_way(&self) -> bool {
        !self.meta.is_dir() && self.other.as_ref().is_some_and(Metadata::is_dir)
    }
}

/// A [`Walk`] that looks into a second tree as well. Links are followed in neither: below what is no directory in the other
/// tree, that has nothing, though the link there may lead to something.
pub struct Pairs {
    walk: Walk,
    other: PathBuf,
    /// Directories that the other tree does not have.
    alone: HashSet<PathBuf>,
}

impl Pairs {
    /// Of everything below `root`, with what is below `other`.
    pub fn new(root: &Path, other: &Path) -> Self {
        Pairs { walk: Walk::new(root), other: other.to_path_buf(), alone: HashSet::new() }
    }
}

impl Iterator for Pairs {
    type Item = std::result::Result<Pair, PathBuf>;

    fn next(&mut self) -> Option<Self::Item> {
        let (path, meta) = match self.walk.next()? {
            Ok(found) => found,
            Err(path) => return Some(Err(path)),
        };
        let is_alone = path.parent().is_some_and(|parent| self.alone.contains(parent));
        let other = if is_alone { None } else { fs::symlink_metadata(self.other.join(&path)).ok() };
        if meta.is_dir() && !other.as_ref().is_some_and(Metadata::is_dir) {
            self.alone.insert(path.clone());
        }
        Some(Ok(Pair { path, meta, other }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cancel, Silent};

    #[test]
    fn everything_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("a/b")).unwrap();
        fs::create_dir_all(path("lost+found/x")).unwrap();
        fs::create_dir_all(path("a/lost+found")).unwrap();
        fs::write(path("a/one"), "12345").unwrap();
        fs::hard_link(path("a/one"), path("a/b/two")).unwrap();
        std::os::unix::fs::symlink("one", path("a/link")).unwrap();
        let run = Run { observer: &Silent, cancel: &Cancel::default() };
        let expected = Tally { files: 2, bytes: 10, directories: 4, links: 1, ..Tally::default() };
        assert_eq!(tally(dir.path(), "", &run).unwrap(), expected);
    }

    #[test]
    fn what_a_link_leads_to_is_in_no_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir_all(a.join("x/y")).unwrap();
        fs::write(a.join("x/y/f"), "").unwrap();
        fs::create_dir_all(dir.path().join("elsewhere/y")).unwrap();
        fs::write(dir.path().join("elsewhere/y/f"), "").unwrap();
        fs::create_dir(&b).unwrap();
        std::os::unix::fs::symlink("../elsewhere", b.join("x")).unwrap();
        let has = |pair: Pair| (pair.path.display().to_string(), pair.other.is_some());
        let mut seen: Vec<_> = Pairs::new(&a, &b).flatten().map(has).collect();
        seen.sort();
        let expected = [("", true), ("x", true), ("x/y", false), ("x/y/f", false)];
        assert_eq!(seen, expected.map(|(path, has)| (path.to_owned(), has)));
    }
}
