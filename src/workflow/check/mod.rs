//! `lhrecover check`: is what a replica holds any good?
//!
//! First what the volume says of itself, which costs nothing. Then the file system's own checker, before and after the
//! journal is replayed on a throw-away copy; then the databases in it. Whatever cannot be done is said: a check that left
//! something out in silence would be worth nothing.

pub mod databases;
pub mod file_system;
mod judge;
pub mod sqlite;
mod stage;

use std::path::Path;
use std::sync::Arc;

use nix::unistd::geteuid;

use crate::access::inside;
use crate::access::mounted::MountedFiles;
use crate::access::scratch::ScratchSpace;
use crate::access::volume::{Volume, VolumeOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::guest::databases::Walked;
use crate::guest::ext::ExtFs;
use crate::guest::facts::{self, Facts, Journal, Kind};
use crate::guest::files::Files;
use crate::guest::partition::{self as tables, Partition};
use crate::model::finding::{Code, Finding};
use crate::model::units::ByteRange;
use crate::view::disk::{Disk, Part};
use crate::workflow::mount::refuse_inside;
use crate::workflow::mount::state::of_overlay;
use crate::workflow::tool::{ToolRun, Tools};

use databases::{DatabaseOptions, StoreCheck};
use file_system::{Look, State};
pub use judge::Verdict;
use stage::{Ground, Stage};

/// The most partitions that are checked. A table may name thousands, and they all may be made up.
const MAX_PARTITIONS: usize = 128;

/// e2fsck of e2fsprogs 1.47 makes damage of fast commits that the kernel replays well.
const ONLY_THE_KERNEL: &str =
    "its journal has fast commits, which only the kernel replays reliably: as root, check has it do so";

/// What is checked, and with what.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Which state of the volume.
    pub volume: VolumeOptions,
    /// Which partition; without one, all of them.
    pub partition: Option<u32>,
    /// Other people's checkers.
    pub tools: Tools,
    /// The throw-away copy that a journal is replayed on.
    pub overlay: ScratchSpace,
    /// How databases are checked; `None` when they are not.
    pub databases: Option<DatabaseOptions>,
}

/// What was checked.
pub struct Checked {
    /// The volume.
    pub volume: Volume,
    /// The volume as a whole, or its partitions.
    pub parts: Vec<PartCheck>,
    /// The worst of theirs.
    pub verdict: Verdict,
    /// Damage and doubt, those of opening the volume first.
    pub findings: Vec<Finding>,
}

/// What became of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// There was nothing to replay.
    NotNeeded,
    /// It was replayed on a throw-away copy.
    Done,
    /// It was not, and why.
    NotDone(String),
}

/// A partition, or the whole volume, and what was found out about it.
#[derive(Debug)]
pub struct PartCheck {
    /// The partition; `None` for the whole volume.
    pub partition: Option<Partition>,
    /// Where it is in the volume.
    pub range: ByteRange,
    /// What it says of itself.
    pub facts: Facts,
    /// The checker's look at it as it is; `None` where there is none for what it holds.
    pub before: Option<Look>,
    /// What became of the journal.
    pub replay: Replay,
    /// What the tool said that replayed it.
    pub replay_run: Option<ToolRun>,
    /// The checker's look after that.
    pub after: Option<Look>,
    /// What the walk through its files came by; `None` when there was none, and `not_walked` says why.
    pub walked: Option<Walked>,
    /// Why its files were not looked at.
    pub not_walked: Option<String>,
    /// The databases in it.
    pub stores: Vec<StoreCheck>,
    /// What could not be read meanwhile, as the server of the image has it.
    pub trouble: Vec<String>,
    /// Whether the throw-away copy did not take all that was written. What was seen of it is dropped then.
    pub overlay_failed: bool,
    /// In a word.
    pub verdict: Verdict,
}

/// Checks the volume in the replica directory or image `source`.
///
/// # Errors
/// As [`Volume::open`]; when it was stopped. What cannot be checked is a finding.
pub fn check(source: &Path, options: &CheckOptions, run: &Run<'_>) -> Result<Checked> {
    refuse_inside(&options.overlay.dir, source, "the directory for throw-away copies")?;
    let volume = Volume::open(source, &options.volume)?;
    let ground = Ground {
        source: source.to_path_buf(),
        volume: options.volume.clone(),
        overlay: options.overlay.clone(),
    };
    let checker = Checker { ground, volume: &volume, options, run };
    let mut findings = volume.findings.clone();
    let mut parts = Vec::new();
    for (disk, partition, range) in targets(&volume, options.partition, &mut findings)? {
        let mut part = checker.part(&disk, partition, range)?;
        findings.extend(judge::judge(&mut part, options.databases.is_some()));
        parts.push(part);
    }
    // The replica's metadata may have said so already.
    let mut said = false;
    findings.retain(|finding| finding.code != Code::Encrypted || !std::mem::replace(&mut said, true));
    volume.recheck()?;
    let verdict = parts.iter().map(|part| part.verdict).max().unwrap_or(Verdict::Nothing);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity()));
    Ok(Checked { volume, parts, verdict, findings })
}

/// Something to check: where it is, and which partition it is.
type Target = (Arc<dyn Disk>, Option<Partition>, ByteRange);

/// The partition that was asked for, or all of them, or the whole volume where it has no partition table.
fn targets(volume: &Volume, wanted: Option<u32>, findings: &mut Vec<Finding>) -> Result<Vec<Target>> {
    if let Some(number) = wanted {
        let found = inside::partition(volume.whole(), number)?;
        return Ok(vec![(found.disk, found.partition, found.range)]);
    }
    let whole = volume.whole();
    let all = ByteRange::new(0, whole.size_bytes());
    if facts::read(&*whole)?.kind != Kind::Other {
        return Ok(vec![(whole, None, all)]);
    }
    let table = match tables::read(&*whole) {
        Ok(Some(table)) if !table.partitions.is_empty() => table,
        Ok(_) => return Ok(vec![(whole, None, all)]),
        Err(e) => {
            findings.push(judge::damaged("the partition table", &e.to_string()));
            return Ok(vec![(whole, None, all)]);
        }
    };
    if let Some(doubt) = table.doubt {
        findings.push(judge::damaged("the partition table", doubt));
    }
    if table.partitions.len() > MAX_PARTITIONS {
        findings.push(judge::not_checked(
            format!("{} partitions were", table.partitions.len() - MAX_PARTITIONS),
            &format!("no more than {MAX_PARTITIONS} are"),
            "name those that matter with --partition",
        ));
    }
    let mut targets = Vec::new();
    for partition in table.partitions.into_iter().take(MAX_PARTITIONS) {
        let range = partition.range;
        match Part::new(Arc::clone(&whole), range) {
            Ok(part) => targets.push((Arc::new(part) as Arc<dyn Disk>, Some(partition), range)),
            Err(e) => {
                findings.push(judge::damaged(&format!("partition {}", partition.number), &e.to_string()))
            }
        }
    }
    Ok(targets)
}

struct Checker<'a> {
    ground: Ground,
    volume: &'a Volume,
    options: &'a CheckOptions,
    run: &'a Run<'a>,
}

impl Checker<'_> {
    fn part(
        &self,
        disk: &Arc<dyn Disk>,
        partition: Option<Partition>,
        range: ByteRange,
    ) -> Result<PartCheck> {
        let facts = facts::read(&**disk)?;
        let mut part = PartCheck {
            partition,
            range,
            facts,
            before: None,
            replay: Replay::NotNeeded,
            replay_run: None,
            after: None,
            walked: None,
            not_walked: None,
            stores: Vec::new(),
            trouble: Vec::new(),
            overlay_failed: false,
            verdict: Verdict::Nothing,
        };
        match part.facts.kind {
            Kind::Ext => self.ext(&mut part, disk)?,
            Kind::Xfs | Kind::Btrfs => self.by_kernel(&mut part)?,
            _ => {}
        }
        Ok(part)
    }

    /// e2fsprogs replays the journal, and a reader of our own sees the files: no root is needed. Fast commits are for the
    /// kernel where it can be asked.
    fn ext(&self, part: &mut PartCheck, disk: &Arc<dyn Disk>) -> Result<()> {
        let fast_commits = part.facts.journal == Journal::Dirty && has_fast_commits(disk);
        if fast_commits && geteuid().is_root() {
            return self.ext_by_kernel(part, disk);
        }
        let number = part.partition.as_ref().map(|partition| partition.number);
        let stage = match or_why(Stage::image(&self.ground, number, self.run))? {
            Ok(stage) => stage,
            Err(why) => {
                part.before = Some(self.look_at_file(part, &why)?);
                part.replay = not_replayed(&part.facts, why);
                return self.files_of_ext(part, disk);
            }
        };
        let (image, tools) = (stage.image_file(), &self.options.tools);
        part.before = Some(file_system::look(Kind::Ext, &image, tools, self.run)?);
        if part.facts.journal == Journal::Dirty {
            self.replay_ext(part, &image, fast_commits)?;
        }
        let full = stage.overlay_trouble();
        let is_doubtful = part.replay == Replay::Done && part.state() == State::Unchecked;
        if full.is_some() || is_doubtful {
            if let Some(why) = full {
                part.unseen(why);
            }
            self.take_down(stage, part)?;
            return self.files_of_ext(part, disk);
        }
        let replayed = Volume::open(&image, &VolumeOptions::default())?.whole();
        self.files_of_ext(part, &replayed)?;
        // It holds the image open.
        drop(replayed);
        self.take_down(stage, part)
    }

    /// Has e2fsck replay the journal in the file `image`, and looks again. Of what it finds wrong after it has replayed fast
    /// commits, its own replay may be the cause.
    fn replay_ext(&self, part: &mut PartCheck, image: &Path, fast_commits: bool) -> Result<()> {
        let tools = &self.options.tools;
        match file_system::replay_ext(image, tools, self.run)? {
            Ok(ran) => {
                part.replay = Replay::Done;
                part.replay_run = Some(ran);
                let after = file_system::look(Kind::Ext, image, tools, self.run)?;
                let is_doubtful = fast_commits && after.state == State::Damaged;
                part.after = Some(if is_doubtful { after.doubted(ONLY_THE_KERNEL) } else { after });
            }
            Err(failed) => {
                part.replay = Replay::NotDone(failed.why.unwrap_or_default());
                part.replay_run = failed.run;
            }
        }
        Ok(())
    }

    /// Has the kernel replay the journal. Where that cannot be done, the files are shown without the fast commits.
    fn ext_by_kernel(&self, part: &mut PartCheck, disk: &Arc<dyn Disk>) -> Result<()> {
        self.by_kernel(part)?;
        if part.walked.is_none() {
            part.not_walked = None;
            return self.files_of_ext(part, disk);
        }
        Ok(())
    }

    /// Has e2fsck look at an image file itself, which takes no FUSE, or says `why` there was no look.
    fn look_at_file(&self, part: &PartCheck, why: &str) -> Result<Look> {
        match self.volume.plain_file().filter(|_| part.partition.is_none()) {
            Some(file) => file_system::look(part.facts.kind, &file, &self.options.tools, self.run),
            None => Ok(Look::not_done(why)),
        }
    }

    /// Looks through the files of ext; a journal that was not replayed is replayed in memory.
    fn files_of_ext(&self, part: &mut PartCheck, disk: &Arc<dyn Disk>) -> Result<()> {
        match or_why(ExtFs::open(Arc::clone(disk)))? {
            Ok(files) => self.files(part, &files),
            Err(why) => {
                part.not_walked = Some(why);
                Ok(())
            }
        }
    }

    /// Only the kernel can replay the journals of XFS and btrfs, and fast commits of ext4, which takes root.
    fn by_kernel(&self, part: &mut PartCheck) -> Result<()> {
        let kind = part.facts.kind;
        let number = part.partition.as_ref().map(|partition| partition.number);
        match or_why(Stage::image(&self.ground, number, self.run))? {
            Ok(stage) => {
                part.before =
                    Some(file_system::look(kind, &stage.image_file(), &self.options.tools, self.run)?);
                self.take_down(stage, part)?;
            }
            Err(why) => part.before = Some(Look::not_done(why)),
        }
        if part.facts.journal == Journal::Clean && self.options.databases.is_none() {
            return Ok(());
        }
        if !geteuid().is_root() {
            let why = "mounting it takes root: try again with sudo".to_owned();
            part.replay = not_replayed(&part.facts, why.clone());
            part.not_walked = Some(why);
            return Ok(());
        }
        let stage = match or_why(Stage::file_system(&self.ground, number, self.run))? {
            Ok(stage) => stage,
            Err(why) => {
                part.replay = not_replayed(&part.facts, why.clone());
                part.not_walked = Some(why);
                return Ok(());
            }
        };
        self.files(part, &MountedFiles::new(stage.place()))?;
        if let Err(why) = or_why(stage.unmount_file_system())? {
            part.replay = not_replayed(&part.facts, why);
        } else if part.facts.journal != Journal::Clean {
            part.replay = Replay::Done;
            part.after = Some(file_system::look(kind, &stage.image_file(), &self.options.tools, self.run)?);
        }
        if let Some(why) = stage.overlay_trouble() {
            part.unseen(why.clone());
            (part.walked, part.stores, part.not_walked) = (None, Vec::new(), Some(why));
        }
        self.take_down(stage, part)
    }

    fn files(&self, part: &mut PartCheck, files: &dyn Files) -> Result<()> {
        let Some(options) = &self.options.databases else {
            part.not_walked = Some("--no-databases".to_owned());
            return Ok(());
        };
        let (walked, stores) = databases::check(files, options, self.run)?;
        part.walked = Some(walked);
        part.stores = stores;
        Ok(())
    }

    fn take_down(&self, stage: Stage, part: &mut PartCheck) -> Result<()> {
        let trouble = stage.take_down()?.trouble.into_iter();
        part.trouble.extend(trouble.filter(|line| of_overlay(line).is_none()));
        Ok(())
    }
}

/// Whether there are fast commits in the journal of ext. Where that cannot be told, e2fsck says why.
fn has_fast_commits(disk: &Arc<dyn Disk>) -> bool {
    let journal = ExtFs::open(Arc::clone(disk)).ok().and_then(|files| files.journal());
    journal.is_some_and(|journal| journal.has_fast_commits)
}

/// Why something cannot be checked here, unless all is to stop.
fn or_why<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(e) if e.kind() == ErrorKind::Interrupted => Err(e),
        Err(e) => Ok(Err(in_words(&e))),
    }
}

/// An error and what to do about it.
fn in_words(error: &Error) -> String {
    error.hint().map_or_else(|| error.to_string(), |hint| format!("{error} ({hint})"))
}

fn not_replayed(facts: &Facts, why: String) -> Replay {
    match facts.journal {
        Journal::None | Journal::Clean => Replay::NotNeeded,
        Journal::Dirty | Journal::Unknown => Replay::NotDone(why),
    }
}

impl PartCheck {
    /// The look that counts: the one after the replay, or the only one where nothing had to be replayed.
    pub fn conclusive(&self) -> Option<&Look> {
        match self.replay {
            Replay::NotNeeded => self.before.as_ref(),
            Replay::Done | Replay::NotDone(_) => self.after.as_ref(),
        }
    }

    /// Forgets what was seen on a throw-away copy that did not take all that was written.
    fn unseen(&mut self, why: String) {
        self.overlay_failed = true;
        self.replay = not_replayed(&self.facts, why);
        self.after = None;
    }

    /// What came of the checks of the file system.
    pub fn state(&self) -> State {
        self.conclusive().map_or(State::Unchecked, |look| look.state)
    }
}
