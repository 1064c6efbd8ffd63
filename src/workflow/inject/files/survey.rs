//! What copying would do, told from both sides as they are: what a dry run says, and whether there is room.
//!
//! rsync is not asked. Its own dry run follows the links that it would have replaced, out of the device and into this
//! machine's files; and it takes a file that cannot be read for one that can.

use std::collections::{BTreeMap, HashMap};
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
    /// Bytes of what is new, and by which files become larger. What others give up may be given up last.
    growth_bytes: u64,
    /// The most that a file has in common with the one that takes its place, which stays until that is complete.
    largest_bytes: u64,
    /// How many files and directories are new.
    inodes: u64,
}

impl Need {
    /// What has to be free: nothing is deleted before everything is copied.
    pub fn bytes(&self) -> u64 {
        self.growth_bytes.saturating_add(self.largest_bytes)
    }

    /// What one file or directory takes.
    fn of(pair: &Pair) -> Self {
        let new_bytes = held_bytes(&pair.meta);
        // One of several names gives nothing up.
        let gives_way = pair.other.as_ref().filter(|other| other.is_file() && other.nlink() == 1);
        let old_bytes = gives_way.map_or(0, held_bytes);
        Need {
            growth_bytes: new_bytes.saturating_sub(old_bytes),
            largest_bytes: old_bytes.min(new_bytes),
            inodes: u64::from(pair.other.is_none()),
        }
    }

    fn and(self, other: Need) -> Self {
        Need {
            growth_bytes: self.growth_bytes.saturating_add(other.growth_bytes),
            largest_bytes: self.largest_bytes.max(other.largest_bytes),
            inodes: self.inodes.saturating_add(other.inodes),
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
    /// Files with several names, by device and inode: what copying one takes, once; `None` where the target has it under
    /// one of the names, so that the others are made from that.
    several: HashMap<(u64, u64), Option<Share>>,
}

/// One file's part in what is copied.
#[derive(Clone, Copy)]
struct Share {
    need: Need,
    is_file: bool,
    bytes: u64,
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

fn has_several_names(pair: &Pair) -> bool {
    pair.meta.nlink() > 1 && !pair.meta.is_dir()
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

impl Found {
    fn take(&mut self, pair: &Pair, fate: &Fate) {
        match fate {
            Fate::Same if has_several_names(pair) => {
                self.several.insert((pair.meta.dev(), pair.meta.ino()), None);
            }
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
        let share = Share { need: Need::of(pair), is_file: pair.meta.is_file(), bytes: pair.meta.len() };
        if has_several_names(pair) {
            self.several.entry((pair.meta.dev(), pair.meta.ino())).or_insert(Some(share));
        } else {
            self.count(share);
        }
    }

    fn count(&mut self, share: Share) {
        self.survey.need = self.survey.need.and(share.need);
        if share.is_file {
            self.survey.copied.files += 1;
            self.survey.copied.bytes = self.survey.copied.bytes.saturating_add(share.bytes);
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
        for share in std::mem::take(&mut self.several).into_values().flatten() {
            self.count(share);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cancel, Silent};

    /// What there is to copy between two directories that `make` has filled.
    fn surveyed(make: impl FnOnce(&Path, &Path)) -> Survey {
        let tmp = tempfile::tempdir().unwrap();
        let (source, target) = (tmp.path().join("source"), tmp.path().join("target"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        make(&source, &target);
        let sides = Sides {
            source: &source,
            target: &target,
            delete: true,
            reading: Reading::All,
            total_bytes: 0,
            workers: None,
        };
        survey(sides, &Run { observer: &Silent, cancel: &Cancel::default() }).unwrap()
    }

    #[test]
    fn what_others_give_up_does_not_make_room_for_what_comes_first() {
        const MIB: u64 = 1 << 20;
        let found = surveyed(|source, target| {
            fs::write(source.join("a"), vec![1; 3 << 20]).unwrap();
            fs::write(source.join("shrinks"), vec![1; 1 << 20]).unwrap();
            fs::write(target.join("shrinks"), vec![2; 8 << 20]).unwrap();
            fs::write(source.join("grows"), vec![1; 3 << 20]).unwrap();
            fs::write(target.join("grows"), vec![2; 2 << 20]).unwrap();
        });
        assert_eq!(found.copied.files, 3);
        // All of a, what grows by, and beside that the old one of it until the new one is there.
        assert_eq!(found.need.bytes(), (3 + 1 + 2) * MIB);
    }

    #[test]
    fn a_further_name_of_what_is_there_takes_nothing() {
        let both = |dir: &Path| {
            fs::write(dir.join("m"), vec![1; 1 << 20]).unwrap();
        };
        let found = surveyed(|source, target| {
            both(source);
            both(target);
            for further in ["a", "z"] {
                fs::hard_link(source.join("m"), source.join(further)).unwrap();
            }
        });
        assert_eq!((found.copied.files, found.copied.bytes, found.need), (0, 0, Need::default()));
        let found = surveyed(|source, _| {
            both(source);
            fs::hard_link(source.join("m"), source.join("z")).unwrap();
        });
        assert_eq!((found.copied.files, found.copied.bytes, found.need.inodes), (1, 1 << 20, 1));
    }
}
