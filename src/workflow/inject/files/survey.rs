//! What copying would do, told from both sides as they are: what a dry run says, and whether there is room.
//!
//! rsync is not asked. Its own dry run follows the links that it would have replaced, out of the device and into this
//! machine's files; and it takes a file that cannot be read for one that can.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::sys::statvfs::statvfs;

use super::compare::digest;
use super::rsync::{Copied, Failed, MAX_FAILED, in_the_way};
use super::tree::{Pair, Pairs};
use crate::engine::pipeline;
use crate::error::{Error, Result};
use crate::event::{Event, Run};

/// Which files are read, and not only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// All of them: what differs is known, and what cannot be read.
    All,
    /// Those larger than this, in bytes, where their size does not tell whether they differ.
    Larger(u64),
}

/// Both sides, and how they are looked at.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'a> {
    /// Where the source is mounted.
    pub source: &'a Path,
    /// Where the target is.
    pub target: &'a Path,
    /// What the source does not have is deleted.
    pub delete: bool,
    /// Which files are read.
    pub reading: Reading,
    /// How many bytes the source's files have.
    pub total_bytes: u64,
    /// How many threads read; as many as suit the machine when `None`.
    pub workers: Option<usize>,
}

/// What copying takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Bytes of what is new, and of what takes the place of something.
    added_bytes: u64,
    /// Bytes of that which it takes the place of.
    freed_bytes: u64,
    /// The largest file that gives way: it stays until the other is complete.
    largest_bytes: u64,
    /// How many files and directories are new.
    inodes: u64,
}

impl Need {
    /// What has to be free: nothing is deleted before everything is copied.
    pub fn bytes(&self) -> u64 {
        self.added_bytes.saturating_add(self.largest_bytes).saturating_sub(self.freed_bytes)
    }

    fn count(&mut self, pair: &Pair) {
        self.added_bytes = self.added_bytes.saturating_add(held_bytes(&pair.meta));
        match &pair.other {
            Some(other) if other.is_file() => {
                let bytes = held_bytes(other);
                self.largest_bytes = self.largest_bytes.max(bytes);
                // One of several names frees nothing.
                self.freed_bytes += if other.nlink() == 1 { bytes } else { 0 };
            }
            Some(_) => {}
            None => self.inodes += 1,
        }
    }
}

/// What a file or directory takes on the disk. What is set aside beyond its end is not copied.
fn held_bytes(meta: &Metadata) -> u64 {
    let allocated = meta.blocks().saturating_mul(512);
    if meta.is_file() { allocated.min(meta.len().saturating_add(4095) / 4096 * 4096) } else { allocated }
}

/// What would be done.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// What rsync would do. Of what was not read, only what its size tells.
    pub copied: Copied,
    /// What that takes.
    pub need: Need,
}

/// What is found, by many.
#[derive(Default)]
struct Found {
    survey: Survey,
    failed: BTreeMap<PathBuf, String>,
    in_the_way: Vec<Pair>,
    seen: HashSet<(u64, u64)>,
}

/// Looks what copying would do.
///
/// # Errors
/// When stopped.
pub fn survey(sides: Sides<'_>, run: &Run<'_>) -> Result<Survey> {
    let (name, total_bytes) = match sides.reading {
        Reading::All => ("looking what would be copied", Some(sides.total_bytes)),
        Reading::Larger(_) => ("looking if there is room", None),
    };
    run.event(Event::Phase { name, total_bytes });
    let found = Mutex::new(Found::default());
    let note =
        |change: &dyn Fn(&mut Found)| change(&mut found.lock().unwrap_or_else(PoisonError::into_inner));
    let mut pairs = Pairs::new(sides.source, sides.target);
    let next = || {
        Ok(pairs.by_ref().find_map(|pair| match pair {
            Ok(pair) => Some(pair),
            Err(path) => {
                note(&|all| all.fail(&path, "it cannot be looked at in the source"));
                None
            }
        }))
    };
    let workers = sides.workers.unwrap_or_else(pipeline::default_workers);
    pipeline::for_each(next, workers, run, |pair, _| {
        let fate = sides.fate(pair, run)?;
        note(&|all| all.take(pair, &fate));
        Ok(())
    })?;
    let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    found.settle(sides.delete);
    if sides.delete && !found.survey.copied.is_partial {
        found.survey.copied.deleted = deleted(sides, run)?;
    }
    run.event(Event::PhaseDone);
    Ok(found.survey)
}

/// What becomes of something in the source.
enum Fate {
    /// The target has it.
    Same,
    /// It is copied.
    Copied,
    /// A directory that is not empty is in its place.
    InTheWay,
    /// It cannot be read.
    Unreadable(String),
}

impl Sides<'_> {
    fn fate(&self, pair: &Pair, run: &Run<'_>) -> Result<Fate> {
        if pair.meta.is_file() {
            return self.fate_of_file(pair, run);
        }
        Ok(match &pair.other {
            Some(_) if self.is_in_the_way(pair) => Fate::InTheWay,
            Some(other) if other.file_type() == pair.meta.file_type() => Fate::Same,
            _ => Fate::Copied,
        })
    }

    fn fate_of_file(&self, pair: &Pair, run: &Run<'_>) -> Result<Fate> {
        let same_size =
            pair.other.as_ref().is_some_and(|other| other.is_file() && other.len() == pair.meta.len());
        let reads = match self.reading {
            Reading::All => true,
            Reading::Larger(bytes) => same_size && pair.meta.len() > bytes,
        };
        let source = if reads { Some(digest(&self.source.join(&pair.path), run)?) } else { None };
        if reads {
            run.event(Event::Advanced { bytes: pair.meta.len() });
        }
        Ok(match source {
            Some(Err(e)) => Fate::Unreadable(format!("it cannot be read: {e}")),
            _ if self.is_in_the_way(pair) => Fate::InTheWay,
            Some(Ok(source)) if same_size => match digest(&self.target.join(&pair.path), run)? {
                Ok(target) if target == source => Fate::Same,
                _ => Fate::Copied,
            },
            None if same_size => Fate::Same,
            _ => Fate::Copied,
        })
    }

    fn is_in_the_way(&self, pair: &Pair) -> bool {
        pair.is_in_the_way() && !is_empty(&self.target.join(&pair.path))
    }
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

impl Found {
    fn take(&mut self, pair: &Pair, fate: &Fate) {
        match fate {
            Fate::Same => {}
            Fate::Copied => self.copy(pair),
            Fate::Unreadable(reason) => self.fail(&pair.path, reason),
            Fate::InTheWay => {
                let Pair { path, meta, .. } = pair;
                self.in_the_way.push(Pair { path: path.clone(), meta: meta.clone(), other: None });
            }
        }
    }

    fn copy(&mut self, pair: &Pair) {
        // Several names of one file are copied once.
        let is_first = pair.meta.nlink() == 1
            || pair.meta.is_dir()
            || self.seen.insert((pair.meta.dev(), pair.meta.ino()));
        if !is_first {
            return;
        }
        self.survey.need.count(pair);
        if pair.meta.is_file() {
            self.survey.copied.files += 1;
            self.survey.copied.bytes = self.survey.copied.bytes.saturating_add(pair.meta.len());
        }
    }

    fn fail(&mut self, path: &Path, reason: &str) {
        self.survey.copied.is_partial = true;
        if self.failed.len() < MAX_FAILED {
            self.failed.insert(path.to_path_buf(), reason.to_owned());
        } else {
            self.survey.copied.more_failed += 1;
        }
    }

    /// Directories in the way go if anything is to be deleted, and nothing has failed.
    fn settle(&mut self, delete: bool) {
        let gives_way = delete && !self.survey.copied.is_partial;
        for pair in std::mem::take(&mut self.in_the_way) {
            if gives_way {
                self.copy(&pair);
            } else {
                self.fail(&pair.path, in_the_way(delete));
            }
        }
        let failed = std::mem::take(&mut self.failed);
        self.survey.copied.failed =
            failed.into_iter().map(|(path, reason)| Failed { path, reason }).collect();
    }
}

/// What the target has and the source does not. A directory that a file takes the place of is not among it, what is in it
/// is: rsync counts like that.
fn deleted(sides: Sides<'_>, run: &Run<'_>) -> Result<u64> {
    let mut deleted = 0;
    for pair in Pairs::new(sides.target, sides.source).flatten() {
        run.check()?;
        deleted += u64::from(pair.other.is_none());
    }
    Ok(deleted)
}

/// What is free where a file system is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In bytes.
    pub bytes: u64,
    /// For so many files and directories; `None` where that has no bound.
    pub inodes: Option<u64>,
}

impl Room {
    /// Of the one that is mounted at `point`, and will grow by so much.
    ///
    /// # Errors
    /// `Output` when that cannot be told.
    pub fn at(point: &Path, growth_bytes: u64) -> Result<Self> {
        let told = statvfs(point).map_err(|e| {
            Error::output("cannot look how much room the device has").with_path(point).caused_by(e.into())
        })?;
        let bytes = told.blocks_free().saturating_mul(told.fragment_size()).saturating_add(growth_bytes);
        // A file system that grows gets more of them, too.
        let inodes = Some(told.files_free()).filter(|_| told.files() > 0 && growth_bytes == 0);
        Ok(Room { bytes, inodes })
    }

    /// Refuses what there is no room for; `delete` says whether what is on the device may be lost.
    ///
    /// # Errors
    /// `Refused`, with the ways out.
    pub fn refuse_more(&self, need: &Need, device: &Path, delete: bool) -> Result<()> {
        let what = if need.bytes() > self.bytes {
            format!(
                "{} bytes are to be written beside what is there, and {} are free",
                need.bytes(),
                self.bytes
            )
        } else {
            match self.inodes.filter(|&free| need.inodes > free) {
                Some(free) => {
                    format!("{} files and directories are new, and there is room for {free}", need.inodes)
                }
                None => return Ok(()),
            }
        };
        let hint = if delete {
            "what is there stays until everything is copied. If none of it is needed, remove the file system's signature (wipefs \
             --all DEVICE) and inject again: a fresh one is made; or take --mode blocks, or a larger device"
        } else {
            "make room on the device, take a larger one, or expand it and let the file system grow (--grow)"
        };
        Err(Error::refused(format!("the device's file system has no room: {what}"))
            .with_path(device)
            .with_hint(hint))
    }
}
