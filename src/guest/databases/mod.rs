//! Databases inside an image: what a file or a directory is, by its magic and by its neighbours.
//!
//! After an outage the question is seldom "is my file there?" but "is my database there, and which version is needed to
//! open it?". A table of well-known stores (`known.rs`) answers it; nothing is opened, and nothing but the first bytes of
//! files is read. What belongs to a store that was recognised by its directory is not looked into any further.

mod known;
pub mod postgres;
pub mod sqlite;

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::guest::files::{Entry, FileKind, Files, beginning};

use known::{DIRECTORIES, DirRule, FILES, Matches};
use postgres::Cluster;
use sqlite::Header;

/// How many directories a walk enters at most: each is remembered, so that cycles in a damaged file system end.
const MAX_DIRECTORIES: usize = 1 << 20;
/// How many stores a walk finds at most.
const MAX_STORES: usize = 1 << 16;
/// How many files of one directory are looked into at most.
const MAX_CANDIDATES: usize = 1 << 20;
/// How long a path may get, in bytes; what the kernel takes.
const MAX_PATH_BYTES: usize = 4096;
/// How many of the places that cannot be read are kept.
const MAX_UNREADABLE: usize = 16;
/// How much of a file's beginning tells what it is, in bytes.
const HEAD_BYTES: usize = 512;

/// A database, or another store of data that people recover volumes for.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// What it is, as its makers write it: `PostgreSQL`.
    pub name: &'static str,
    /// The file, or the directory that is its data directory.
    pub path: PathBuf,
    /// How long a store that is one file is.
    pub size_bytes: Option<u64>,
    /// Which version made it, or which version of the format it has; which of them, the text says.
    pub version: Option<String>,
    /// What else is known.
    pub facts: StoreFacts,
}

/// What is known of a store beyond its version.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreFacts {
    /// Nothing.
    None,
    /// An SQLite database's header.
    Sqlite(Header),
    /// A PostgreSQL cluster's control file, and whether it can start from there.
    Postgres(Box<Cluster>),
}

/// What a walk came by.
#[derive(Debug, Default)]
pub struct Walked {
    /// Directories, the top one counted.
    pub directories: u64,
    /// Regular files. One with several names counts for each.
    pub files: u64,
    /// How long they say they are in all, in bytes.
    pub file_bytes: u64,
    /// Links, devices and the like.
    pub others: u64,
    /// How many directories or files could not be read, and the first of them.
    pub unreadable: u64,
    /// The first of them.
    pub unreadable_first: Vec<(PathBuf, Error)>,
    /// Whether a limit ended it before all was seen.
    pub cut_short: bool,
}

/// A directory still to be walked.
struct Pending {
    path: PathBuf,
    /// Belongs to a store: its files are counted, and not looked into.
    is_claimed: bool,
}

/// Walks `top` and everything below it, and calls `found` with each store. Links are not followed.
///
/// # Errors
/// When stopped, and what `found` fails with. What cannot be read is counted.
pub fn find(
    files: &dyn Files,
    top: &Path,
    run: &Run<'_>,
    found: &mut dyn FnMut(Store) -> Result<()>,
) -> Result<Walked> {
    let mut walk =
        Walk { files, walked: Walked::default(), seen: HashSet::new(), pending: Vec::new(), stores: 0 };
    walk.pending.push(Pending { path: top.to_path_buf(), is_claimed: false });
    while let Some(next) = walk.pending.pop() {
        run.check()?;
        walk.directory(next, run, found)?;
    }
    Ok(walk.walked)
}

/// What the file at `path` is, if it is a store by itself; `size_bytes` is its length.
///
/// # Errors
/// When it cannot be read.
pub fn recognise_file(files: &dyn Files, path: &Path, size_bytes: u64) -> Result<Option<Store>> {
    let head = beginning(files, path, HEAD_BYTES)?;
    Ok(FILES.iter().find_map(|rule| {
        let (version, facts) = (rule.recognise)(&head)?;
        Some(Store {
            name: rule.name,
            path: path.to_path_buf(),
            size_bytes: Some(size_bytes),
            version,
            facts,
        })
    }))
}

/// A walk under way.
struct Walk<'a> {
    files: &'a dyn Files,
    walked: Walked,
    seen: HashSet<(u64, u64)>,
    pending: Vec<Pending>,
    stores: usize,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        Pending { path, is_claimed }: Pending,
        run: &Run<'_>,
        found: &mut dyn FnMut(Store) -> Result<()>,
    ) -> Result<()> {
        self.walked.directories += 1;
        let mut matches: Vec<Matches<'_>> = DIRECTORIES.iter().map(Matches::of).collect();
        let mut candidates: Vec<(OsString, u64)> = Vec::new();
        let mut below: Vec<PathBuf> = Vec::new();
        let files = self.files;
        let listed = files.list(&path, &mut |entry| {
            run.check()?;
            self.count(&entry);
            if !is_claimed {
                for rule in &mut matches {
                    rule.take(&entry);
                }
            }
            match entry.kind {
                FileKind::Directory => below.extend(self.enter(&path, &entry)),
                FileKind::File if !is_claimed && known::may_be_store(&entry) => {
                    if candidates.len() < MAX_CANDIDATES {
                        candidates.push((entry.name, entry.size_bytes));
                    } else {
                        self.walked.cut_short = true;
                    }
                }
                _ => {}
            }
            Ok(())
        });
        self.readable(listed, &path)?;
        let rule = matches.iter().find(|rule| !is_claimed && rule.is_full(files, &path));
        let claims = rule.is_some() || is_claimed;
        self.pending.extend(below.into_iter().map(|path| Pending { path, is_claimed: claims }));
        if let Some(rule) = rule {
            let store = describe(files, &path, rule);
            return self.found(store, found);
        }
        for (name, size_bytes) in candidates {
            run.check()?;
            let file = path.join(name);
            let recognised = recognise_file(files, &file, size_bytes);
            if let Some(store) = self.readable(recognised, &file)?.flatten() {
                self.found(store, found)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, entry: &Entry) {
        match entry.kind {
            // Counted when it is walked.
            FileKind::Directory => {}
            FileKind::File => {
                self.walked.files += 1;
                self.walked.file_bytes = self.walked.file_bytes.saturating_add(entry.size_bytes);
            }
            FileKind::Link | FileKind::Other => self.walked.others += 1,
        }
    }

    /// The path of a directory that is to be walked: none that was, nor that leads out of its parent.
    fn enter(&mut self, parent: &Path, entry: &Entry) -> Option<PathBuf> {
        let name = entry.name.as_bytes();
        let is_plain = !name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/');
        if !is_plain || self.seen.contains(&entry.id) {
            return None;
        }
        if self.seen.len() >= MAX_DIRECTORIES || parent.as_os_str().len() + name.len() >= MAX_PATH_BYTES {
            self.walked.cut_short = true;
            return None;
        }
        self.seen.insert(entry.id);
        Some(parent.join(&entry.name))
    }

    fn found(&mut self, store: Store, found: &mut dyn FnMut(Store) -> Result<()>) -> Result<()> {
        if self.stores >= MAX_STORES {
            self.walked.cut_short = true;
            return Ok(());
        }
        self.stores += 1;
        found(store)
    }

    /// Passes over what cannot be read, but for an interruption.
    fn readable<T>(&mut self, result: Result<T>, path: &Path) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.kind() == ErrorKind::Interrupted => Err(e),
            Err(e) => {
                self.walked.unreadable += 1;
                if self.walked.unreadable_first.len() < MAX_UNREADABLE {
                    self.walked.unreadable_first.push((path.to_path_buf(), e));
                }
                Ok(None)
            }
        }
    }
}

fn describe(files: &dyn Files, dir: &Path, matches: &Matches<'_>) -> Store {
    let DirRule { name, describe, .. } = matches.rule;
    let (version, facts) = describe(files, dir, &matches.names);
    Store { name, path: dir.to_path_buf(), size_bytes: None, version, facts }
}
