//! Files and directories out of a volume, as they are there: names, modes, owners, times, links, holes, attributes.
//!
//! One thread walks the image and makes directories, links and devices; others copy the data of files. A file has its name
//! only when it is complete and on the disk: it grows as `.lhrecover-….partial`, and many are synced at once, since that takes
//! as long as one. So an extraction that was cut short goes on where it was: a file that has its name, size and time is
//! finished, and a large one is gone on with (`partial.rs`); what else was left unfinished is removed first. The target is locked
//! meanwhile, and no name leads out of it (`sys/tree.rs`).

mod attributes;
mod file;
mod finish;
mod left;
mod leftovers;
mod partial;
mod root;
mod survey;
mod tree;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::bounded;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::guest::ext::{ExtFs, Found, as_path};
use crate::model::finding::Finding;
use crate::sys::source_identity::SourceIdentity;
use crate::sys::tree::{LockedTree, Tree};
use crate::workflow::browse::{Browser, Troubles};

use finish::Waiting;
use left::Left;
use partial::Stamp;
use root::RootMark;
use survey::Survey;
use tree::{DirDone, Link};

/// How many files may wait for a thread that copies them.
const QUEUED: usize = 64;

/// How to extract.
#[derive(Clone, Copy, Debug)]
pub struct ExtractOptions {
    /// Replace files that are there and are something else.
    pub force: bool,
    /// Leave out owners, and do not say so.
    pub no_owner: bool,
    /// Do not wait for the disk.
    pub no_sync: bool,
    /// How many threads copy.
    pub workers: usize,
}

/// What came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Extracted {
    /// Regular files that were copied.
    pub files: u64,
    /// Directories that were made, or were there.
    pub directories: u64,
    /// Symbolic links that were made.
    pub symlinks: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Pipes, sockets and devices that were made.
    pub specials: u64,
    /// Whatever was there already.
    pub skipped: u64,
    /// Bytes of data that were copied.
    pub copied_bytes: u64,
}

/// Extracts `starts`, each with its path in the image, to below the directory at `target`, which is made if it is not there.
///
/// What cannot be read is in `troubles`; what cannot be kept is among the findings that are returned.
///
/// # Errors
/// `Refused` when the target is inside the source, or another extraction fills it; `Output` when it cannot be written to,
/// or has no room.
pub fn extract(
    browser: &Browser,
    starts: Vec<Found>,
    target: &Path,
    options: &ExtractOptions,
    troubles: &Troubles,
    run: &Run<'_>,
) -> Result<(Extracted, Vec<Finding>)> {
    let source = browser.source();
    let target = lock(&source, target)?;
    let stamp = Stamp::of(browser);
    let mark = RootMark::look(&target)?;
    let wanted_bytes = survey(browser, &starts, &target, &source, &stamp, run)?;
    let takes_root = mark.set(&target, starts.iter().any(|start| start.path == b"/"))?;
    let extraction = Extraction {
        fs: browser.fs(),
        target: &target,
        source,
        stamp,
        takes_root,
        options: *options,
        run,
        troubles,
        left: Left::default(),
        counts: Counts::default(),
        ready: Mutex::default(),
        finishing: Mutex::default(),
        failed: Mutex::default(),
        stopped: AtomicBool::new(false),
    };
    run.event(Event::Phase { name: "extracting", total_bytes: Some(wanted_bytes) });
    let done = extraction.everything(starts);
    if done.is_err() {
        // What is complete is kept for the next run. It may fail as well; what came first is told.
        let _ = extraction.finish_ready();
    }
    done?;
    run.event(Event::PhaseDone);
    Ok((extraction.counts.taken(), extraction.left.findings()))
}

/// How many bytes there are to copy. What earlier runs have left, and this one has no use for, is removed.
fn survey(
    browser: &Browser,
    starts: &[Found],
    target: &LockedTree,
    source: &SourceIdentity,
    stamp: &Stamp,
    run: &Run<'_>,
) -> Result<u64> {
    let mut survey = Survey::new(browser.fs(), target, source, stamp);
    survey.look(starts, run)?;
    survey.leftovers.remove(target)?;
    require_room(target, survey.wanted_bytes)?;
    Ok(survey.wanted_bytes)
}

/// An extraction under way; threads share it.
struct Extraction<'a> {
    fs: &'a ExtFs,
    target: &'a LockedTree,
    /// What the volume is made of, which nothing is put into or in place of.
    source: SourceIdentity,
    /// The state of the volume.
    stamp: Stamp,
    /// Whether the target directory gets what the volume's root directory has.
    takes_root: bool,
    options: ExtractOptions,
    run: &'a Run<'a>,
    troubles: &'a Troubles,
    left: Left,
    counts: Counts,
    ready: Mutex<Waiting>,
    /// Held by the thread that gives files their names.
    finishing: Mutex<()>,
    /// What ends the work.
    failed: Mutex<Option<Error>>,
    stopped: AtomicBool,
}

/// A regular file to be copied.
struct Job {
    dir: Arc<Tree>,
    found: Found,
}

#[derive(Default)]
struct Counts {
    files: AtomicU64,
    directories: AtomicU64,
    symlinks: AtomicU64,
    hard_links: AtomicU64,
    specials: AtomicU64,
    skipped: AtomicU64,
    copied_bytes: AtomicU64,
}

impl Extraction<'_> {
    fn everything(&self, starts: Vec<Found>) -> Result<()> {
        let (links, dirs) = self.tree_and_files(starts)?;
        self.finish_ready()?;
        self.make_links(links)?;
        self.finish_dirs(dirs)?;
        if self.options.no_sync { Ok(()) } else { self.sync() }
    }

    /// Makes everything but the further names of files, and what directories get last.
    fn tree_and_files(&self, starts: Vec<Found>) -> Result<(Vec<Link>, Vec<DirDone>)> {
        let (send, jobs) = bounded::<Job>(QUEUED);
        let walked = thread::scope(|scope| {
            for _ in 0..self.options.workers.max(1) {
                let jobs = jobs.clone();
                scope.spawn(move || {
                    for job in jobs {
                        if !self.stopped.load(Ordering::Relaxed) {
                            self.copy(job).unwrap_or_else(|e| self.stop(e));
                        }
                    }
                });
            }
            drop(jobs);
            self.walk(starts, send)
        });
        // What a thread failed with comes first: the walk then only noticed.
        match self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(e) => Err(e),
            None => walked,
        }
    }

    /// Ends the work; the first reason counts.
    fn stop(&self, error: Error) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> Result<()> {
        self.run.check()?;
        if self.stopped.load(Ordering::Relaxed) { Err(Error::interrupted()) } else { Ok(()) }
    }

    fn sync(&self) -> Result<()> {
        self.target.sync().map_err(|e| {
            Error::output("the target could not be written to the disk")
                .with_path(self.target.path())
                .caused_by(e)
        })
    }

    /// The refusal to touch what the volume is made of.
    fn is_source(&self, path: &[u8]) -> Error {
        let inside = as_path(path.strip_prefix(b"/").unwrap_or(path));
        Error::refused("the target holds the source itself: the replica directory, or the image")
            .with_path(self.target.path().join(inside))
            .with_hint("a source is never written: name a directory elsewhere")
    }

    /// An error about what is being written at `path`, a path of the image.
    fn unwritten(&self, what: &str, path: &[u8], cause: std::io::Error) -> Error {
        let inside = as_path(path.strip_prefix(b"/").unwrap_or(path));
        let full = cause.raw_os_error() == Some(nix::errno::Errno::ENOSPC as i32);
        let error = Error::output(what).with_path(self.target.path().join(inside)).caused_by(cause);
        if full { error.with_hint("free some room and run it again: it goes on where it was") } else { error }
    }
}

impl Counts {
    fn one(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn taken(&self) -> Extracted {
        let [files, directories, symlinks, hard_links, specials, skipped, copied_bytes] = [
            &self.files,
            &self.directories,
            &self.symlinks,
            &self.hard_links,
            &self.specials,
            &self.skipped,
            &self.copied_bytes,
        ]
        .map(|counter| counter.load(Ordering::Relaxed));
        Extracted { files, directories, symlinks, hard_links, specials, skipped, copied_bytes }
    }
}

fn lock(source: &SourceIdentity, target: &Path) -> Result<LockedTree> {
    // Of a target that is yet to be made, what is there already.
    let there = std::path::absolute(target).unwrap_or_else(|_| target.to_path_buf());
    let there = there.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    if source.holds(&there.join("x")) {
        return Err(Error::refused("the target is inside the replica directory")
            .with_path(target)
            .with_hint("a source is never written: name a directory elsewhere"));
    }
    std::fs::create_dir_all(target)
        .map_err(|e| Error::output("cannot make the target directory").with_path(target).caused_by(e))?;
    LockedTree::lock(target).map_err(|e| match e.kind() {
        std::io::ErrorKind::WouldBlock => {
            Error::refused("another process is extracting to the same directory").with_path(target)
        }
        _ => Error::output("cannot open the target directory").with_path(target).caused_by(e),
    })
}

fn require_room(target: &LockedTree, needed: u64) -> Result<()> {
    let free = target.free_bytes().map_err(|e| {
        Error::output("cannot tell how much room the target has").with_path(target.path()).caused_by(e)
    })?;
    if needed <= free {
        return Ok(());
    }
    Err(Error::output(format!(
        "not enough room: {needed} bytes are needed, {free} are free, {} are short",
        needed - free
    ))
    .with_path(target.path())
    .with_hint("free some room, extract only a part, or extract to another disk"))
}
