//! rsync: the copying, its progress, and what it could not copy.
//!
//! Deleting is a run of its own, after one that has copied everything: rsync deletes while it copies, and what it could
//! not read would be gone on both sides. For the same reason a directory that is in a file's way stays in the first run, and
//! gives way in a second one, once that file has been read. `--ignore-errors` is never passed: it means to delete in
//! spite of errors.

mod lines;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::{Path, PathBuf};

use self::lines::{About, Lines, failure, progress, sent};
use super::compare::differs_but_for_content;
use super::tree::Pairs;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::workflow::tool::{Heard, Tool, ToolRun, Tools};

/// The tool.
pub const RSYNC: Tool = Tool { program: "rsync", package: "rsync" };
/// Where its temporary files go: a directory in the root of the target, removed in the end. Always the same, so that
/// one left by a crash is known.
pub const TEMPORARY: &str = ".lhrecover-temporary";

/// How many files that failed are named.
pub const MAX_FAILED: usize = 1000;
/// How many lines of trouble are kept.
const MAX_TOLD: usize = 3;

/// A file that was not copied, or not in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Its path in the volume.
    pub path: PathBuf,
    /// What is said of it.
    pub reason: String,
}

/// What rsync did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Regular files that were copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was deleted: files, directories and all.
    pub deleted: u64,
    /// Files that failed, by path, the first of them.
    pub failed: Vec<Failed>,
    /// How many more there were.
    pub more_failed: u64,
    /// Whether not everything was copied.
    pub is_partial: bool,
}

/// What is copied where.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    /// Where the source is mounted.
    pub source: &'a Path,
    /// Where the target is.
    pub target: &'a Path,
    /// Whether files may be there already: then it is by their content that they are compared.
    pub compare: bool,
    /// What the source does not have is deleted.
    pub delete: bool,
    /// How many bytes the source's files have.
    pub total_bytes: u64,
}

/// Copies.
///
/// # Errors
/// `Usage` when rsync is not installed; `Output` when the target fails or is full; `External` when rsync does; when
/// stopped.
pub fn copy(copy: Copy<'_>, tools: &Tools, run: &Run<'_>) -> Result<Copied> {
    let total_bytes = Some(copy.total_bytes);
    run.event(Event::Phase { name: "copying files with rsync", total_bytes });
    let Passed { mut copied, in_the_way } = pass(copy, &[], tools, run)?;
    run.event(Event::PhaseDone);
    if !copy.delete {
        return Ok(copied);
    }
    if !in_the_way.is_empty() && can_be_read(copy.source, &in_the_way, run)? {
        run.event(Event::Phase { name: "replacing directories with files", total_bytes });
        copied = copied.and_then(pass(copy, &["--force"], tools, run)?.copied);
        run.event(Event::PhaseDone);
    }
    if !copied.is_partial {
        run.event(Event::Phase { name: "deleting what the source does not have", total_bytes: None });
        let more = ["--delete", "--existing", "--ignore-existing"];
        copied = copied.and_then(pass(copy, &more, tools, run)?.copied);
        run.event(Event::PhaseDone);
    }
    Ok(copied)
}

impl Copied {
    /// What was done in all, when `later` went over everything again.
    fn and_then(self, later: Copied) -> Copied {
        Copied {
            files: self.files.saturating_add(later.files),
            bytes: self.bytes.saturating_add(later.bytes),
            deleted: self.deleted.saturating_add(later.deleted),
            ..later
        }
    }
}

/// Why a file was not copied whose place a directory has; what is to be `deleted` would have been one of it.
pub fn in_the_way(delete: bool) -> &'static str {
    if delete {
        "a directory that is not empty is in its place on the device: it stays, since not everything could be copied"
    } else {
        "a directory that is not empty is in its place on the device, and nothing is deleted with --mix"
    }
}

/// Whether each of these can be read to its end.
fn can_be_read(root: &Path, paths: &BTreeSet<PathBuf>, run: &Run<'_>) -> Result<bool> {
    let mut piece = vec![0; 1 << 20];
    for path in paths.iter().map(|path| root.join(path)) {
        let Ok(meta) = fs::symlink_metadata(&path) else { return Ok(false) };
        if !meta.is_file() {
            continue;
        }
        let Ok(mut file) = File::open(&path) else { return Ok(false) };
        loop {
            run.check()?;
            match file.read(&mut piece) {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) => return Ok(false),
            }
        }
    }
    Ok(true)
}

/// What came of one run of rsync.
struct Passed {
    copied: Copied,
    /// What directories are in the way of; empty when anything else failed, too.
    in_the_way: BTreeSet<PathBuf>,
}

fn pass(copy: Copy<'_>, more: &[&str], tools: &Tools, run: &Run<'_>) -> Result<Passed> {
    let mut call = RSYNC.call(["-aHAXS", "--numeric-ids", "--no-human-readable", "--stats", "--outbuf=N"]);
    // Times are told apart by their nanoseconds, too: what was written in the same second would keep a wrong one.
    let more_options = ["--info=progress2", "--modify-window=-1", "--exclude=/lost+found"];
    call.args.extend(more_options.map(OsString::from));
    // Neither copied nor deleted.
    call.args.push(format!("--exclude=/{TEMPORARY}").into());
    if copy.compare {
        call.args.push("--checksum".into());
    }
    call.args
        .extend([format!("--temp-dir={TEMPORARY}"), "--out-format=%i %l %n".to_owned()].map(OsString::from));
    call.args.extend(more.iter().map(OsString::from));
    // With a slash at the end: what is in it.
    call.args.extend([copy.source.join(""), copy.target.join("")].map(PathBuf::into_os_string));
    let mut said = Said::new(copy, run);
    let ran = tools.call(&call, run, |heard| said.hear(heard))?;
    said.finish(&ran)
}

/// What rsync says, taken apart as it comes in.
struct Said<'a> {
    copy: Copy<'a>,
    run: &'a Run<'a>,
    output: Lines,
    errors: Lines,
    done_bytes: u64,
    /// Files that were sent, by a hash of their path: one that fails is sent again, and counts once.
    sent: HashSet<u64>,
    copied: Copied,
    failed: BTreeMap<PathBuf, String>,
    in_the_way: BTreeSet<PathBuf>,
    /// Names of temporary files that failed, without their directories.
    temporary: BTreeMap<OsString, String>,
    /// Whether something failed that is no file's.
    has_other_trouble: bool,
    told: Vec<String>,
}

impl<'a> Said<'a> {
    fn new(copy: Copy<'a>, run: &'a Run<'a>) -> Self {
        Said {
            copy,
            run,
            output: Lines::default(),
            errors: Lines::default(),
            done_bytes: 0,
            sent: HashSet::new(),
            copied: Copied::default(),
            failed: BTreeMap::new(),
            in_the_way: BTreeSet::new(),
            temporary: BTreeMap::new(),
            has_other_trouble: false,
            told: Vec::new(),
        }
    }

    fn hear(&mut self, heard: Heard<'_>) {
        let (lines, bytes) = match heard {
            Heard::Output(bytes) => (&mut self.output, bytes),
            Heard::Errors(bytes) => (&mut self.errors, bytes),
        };
        for line in lines.cut(bytes) {
            match heard {
                Heard::Output(_) => self.output_line(&line),
                Heard::Errors(_) => self.error_line(&line),
            }
        }
    }

    fn output_line(&mut self, line: &str) {
        if let Some((bytes, path)) = sent(line) {
            if self.sent.insert(hash(&path)) {
                self.copied.files += 1;
                self.copied.bytes = self.copied.bytes.saturating_add(bytes);
            }
        }
        if let Some(done_bytes) = progress(line) {
            // What is sent again counts again.
            let done_bytes = done_bytes.min(self.copy.total_bytes);
            self.run.event(Event::Advanced { bytes: done_bytes.saturating_sub(self.done_bytes) });
            self.done_bytes = self.done_bytes.max(done_bytes);
        } else if let Some(rest) = line.strip_prefix("Number of deleted files:") {
            let number = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next();
            self.copied.deleted = number.and_then(|number| number.parse().ok()).unwrap_or_default();
        }
    }

    fn error_line(&mut self, line: &str) {
        if self.told.len() < MAX_TOLD && (line.starts_with("rsync") || line.contains("error")) {
            self.told.push(line.to_owned());
        }
        match failure(line, &[self.copy.source, self.copy.target]) {
            Some((About::File(path), reason)) => self.fail(path, reason),
            Some((About::InTheWay(path), _)) => {
                // After another reason it is what follows from that.
                if !self.failed.contains_key(&path) {
                    self.in_the_way.insert(path.clone());
                    self.fail(path, in_the_way(self.copy.delete).to_owned());
                }
            }
            Some((About::Temporary(name), reason)) => {
                self.has_other_trouble = true;
                if self.temporary.len() < MAX_FAILED {
                    self.temporary.entry(name).or_insert(reason);
                }
            }
            None => {
                self.has_other_trouble |= !line.starts_with("rsync error: ") && !line.starts_with("WARNING: ")
            }
        }
    }

    fn fail(&mut self, path: PathBuf, reason: String) {
        if self.failed.contains_key(&path) {
            // The first reason is the cause, the others follow from it.
        } else if self.failed.len() < MAX_FAILED {
            self.failed.insert(path, reason);
        } else {
            self.copied.more_failed += 1;
        }
    }

    fn finish(mut self, ran: &ToolRun) -> Result<Passed> {
        let error = |kind, what: &str| Err(Error::new(kind, format!("{what}: {}", self.ending(ran))));
        match ran.exit_code {
            Some(0) => {}
            // Some of it was not copied; 24: since it vanished meanwhile.
            Some(23 | 24) => self.copied.is_partial = true,
            Some(11) => return error(ErrorKind::Output, "rsync cannot write to the target").map_err(|e: Error| {
                e.with_hint(
                    "is it full? lhrecover inject --dry-run says how much is to be copied; a larger device takes more; \
                     see dmesg for what the disk said",
                )
            }),
            _ => return error(ErrorKind::External, "rsync failed").map_err(|e: Error| {
                e.with_hint(
                    "what was copied stays: run it again, with --overwrite --delete, and it goes on; `dmesg` says whether a \
                     disk failed",
                )
            }),
        }
        self.name_temporary_ones()?;
        self.count_failed_out();
        let is_only_in_the_way = !self.has_other_trouble
            && self.copied.more_failed == 0
            && self.failed.len() == self.in_the_way.len();
        let in_the_way = if is_only_in_the_way { self.in_the_way } else { BTreeSet::new() };
        self.copied.failed = self.failed.into_iter().map(|(path, reason)| Failed { path, reason }).collect();
        Ok(Passed { copied: self.copied, in_the_way })
    }

    /// A temporary file has its file's name, and not its directory: that is where one of that name is not as it should be.
    fn name_temporary_ones(&mut self) -> Result<()> {
        if self.temporary.is_empty() {
            return Ok(());
        }
        let mut temporary = std::mem::take(&mut self.temporary);
        for pair in Pairs::new(self.copy.source, self.copy.target).flatten() {
            self.run.check()?;
            let name = pair.path.file_name().unwrap_or_default();
            let Some(reason) = temporary.get(name).cloned() else { continue };
            let (source, target) = (self.copy.source.join(&pair.path), self.copy.target.join(&pair.path));
            if pair.meta.is_file() && differs_but_for_content(&source, &pair.meta, &target).is_some() {
                self.fail(pair.path, reason);
            }
        }
        temporary.retain(|name, _| !self.failed.keys().any(|path| path.file_name() == Some(name)));
        for (name, reason) in temporary {
            self.fail(name.into(), reason);
        }
        Ok(())
    }

    /// What failed was sent all the same, up to where it did.
    fn count_failed_out(&mut self) {
        for path in self.failed.keys().filter(|path| self.sent.contains(&hash(path))) {
            let bytes = fs::symlink_metadata(self.copy.source.join(path)).map_or(0, |meta| meta.len());
            self.copied.files = self.copied.files.saturating_sub(1);
            self.copied.bytes = self.copied.bytes.saturating_sub(bytes);
        }
    }

    /// How it ended, in its own words.
    fn ending(&self, ran: &ToolRun) -> String {
        match (ran.exit_code, self.told.is_empty()) {
            (Some(code), true) => format!("exit code {code}"),
            (None, true) => "a signal ended it".to_owned(),
            _ => self.told.join("; "),
        }
    }
}

fn hash(path: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}
