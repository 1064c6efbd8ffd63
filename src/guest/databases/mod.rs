//! Databases inside an image: what a file or a directory is, by its magic and by its neighbours.
//!
//! After an outage the question is seldom "is my file there?" but "is my database there, and which version is needed to
//! open it?". A table of well-known stores (`known.rs`) answers it; nothing is opened, and nothing but the first bytes of
//! files is read. What belongs to a store that was recognised by its directory is not looked into any further, but for what has
//! the name of a database: a directory may look like a store and be none.

mod known;
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{ErrorKind, Result};
use crate::event::Run;
use crate::guest::files::{Entry, FileKind, Files, Places, beginning, lacks_key};

use known::{DIRECTORIES, DirRule, FILES, Looks, Matches, Owned};
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
/// How many files are looked into that do not look like databases from outside.
const MAX_UNLIKELY: u64 = 10_000;
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
    /// Directories or files that could not be read.
    pub unreadable: Places,
    /// The same for want of a key: nothing is wrong with them.
    pub encrypted: Places,
    /// Files that were not looked into, since neither name nor length is that of a database, and there were so many of them.
    pub passed_over: u64,
    /// Whether a limit ended it before all was seen.
    pub cut_short: bool,
}

/// A directory still to be walked.
struct Pending {
    path: PathBuf,
    /// What of it belongs to the store that it is in.
    owned: Owned,
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
    let (walked, seen, pending) = (Walked::default(), HashSet::new(), Vec::new());
    let mut walk = Walk { files, walked, seen, pending, stores: 0, unlikely: 0 };
    walk.pending.push(Pending { path: top.to_path_buf(), owned: Owned::Nothing });
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
    /// How many files were looked into though they do not look like databases from outside.
    unlikely: u64,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        Pending { path, owned }: Pending,
        run: &Run<'_>,
        found: &mut dyn FnMut(Store) -> Result<()>,
    ) -> Result<()> {
        self.walked.directories += 1;
        let rules = DIRECTORIES.iter().filter(|rule| !owned.has(rule.name));
        let mut matches: Vec<Matches<'_>> = rules.map(Matches::of).collect();
        let mut candidates = Candidates::default();
        let mut below: Vec<PathBuf> = Vec::new();
        let files = self.files;
        let listed = files.list(&path, &mut |entry| {
            run.check()?;
            self.count(&entry);
            for rule in &mut matches {
                rule.take(&entry);
            }
            match entry.kind {
                FileKind::Directory => below.extend(self.enter(&path, &entry)),
                FileKind::File => candidates.take(entry),
                FileKind::Link | FileKind::Other => {}
            }
            Ok(())
        });
        self.readable(listed, &path)?;
        let rule = matches.iter().find(|rule| rule.is_full(files, &path));
        let owned = rule.map_or(owned, |rule| owned.and(rule.rule.owns));
        self.pending.extend(below.into_iter().map(|path| Pending { path, owned }));
        if let Some(rule) = rule {
            self.found(describe(files, &path, rule), found)?;
        }
        self.walked.cut_short |= candidates.cut_short;
        for (name, size_bytes) in self.chosen(candidates, owned) {
            run.check()?;
            let file = path.join(name);
            let recognised = recognise_file(files, &file, size_bytes);
            if let Some(store) = self.readable(recognised, &file)?.flatten()
                && !owned.has(store.name)
            {
                self.found(store, found)?;
            }
        }
        Ok(())
    }

    /// The files of a directory that are looked into. A store has thousands of files of its own, none of which are called as
    /// other databases are.
    fn chosen(&mut self, candidates: Candidates, owned: Owned) -> Vec<(OsString, u64)> {
        let Candidates { named, likely, unlikely, logs, .. } = candidates;
        let (with_log, unlikely) = unlikely.into_iter().partition(|(name, _)| logs.contains(name));
        let mut chosen: Vec<_> = [named, with_log].concat();
        if owned == Owned::All {
            chosen.extend(likely.into_iter().filter(|(name, _)| logs.contains(name)));
            return chosen;
        }
        chosen.extend(likely);
        let all: Vec<(OsString, u64)> = unlikely;
        let room = MAX_UNLIKELY - self.unlikely;
        let taken = room.min(all.len() as u64);
        self.unlikely += taken;
        self.walked.passed_over += all.len() as u64 - taken;
        chosen.extend(all.into_iter().take(usize::try_from(taken).unwrap_or(usize::MAX)));
        chosen
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
                let places =
                    if lacks_key(&e) { &mut self.walked.encrypted } else { &mut self.walked.unreadable };
                places.add(path, e);
                Ok(None)
            }
        }
    }
}

/// The files of a directory that may be stores by themselves, with their lengths.
#[derive(Default)]
struct Candidates {
    /// Those with the name of one.
    named: Vec<(OsString, u64)>,
    /// Those with the length of one.
    likely: Vec<(OsString, u64)>,
    /// Those that are long enough.
    unlikely: Vec<(OsString, u64)>,
    /// What has a log of SQLite beside it.
    logs: HashSet<OsString>,
    cut_short: bool,
}

impl Candidates {
    fn take(&mut self, entry: Entry) {
        self.logs.extend(known::base_of_log(&entry.name));
        let places = match known::looks_like(&entry) {
            Looks::Named => &mut self.named,
            Looks::Likely => &mut self.likely,
            Looks::Unlikely => &mut self.unlikely,
            Looks::Impossible => return,
        };
        if places.len() < MAX_CANDIDATES {
            places.push((entry.name, entry.size_bytes));
        } else {
            self.cut_short = true;
        }
    }
}

fn describe(files: &dyn Files, dir: &Path, matches: &Matches<'_>) -> Store {
    let DirRule { name, describe, .. } = matches.rule;
    let (version, facts) = describe(files, dir, &matches.names);
    Store { name, path: dir.to_path_buf(), size_bytes: None, version, facts }
}
