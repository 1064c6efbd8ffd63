//! A safe copy of a replica directory: everything in it, exactly, found right on the medium before it has its names.
//!
//! Ordinary tools copy a replica wrongly and say nothing: `cp -a` makes holes of written zeros, and old data comes back;
//! `rsync -a` makes data of holes, and every layer hides those below it. So the target is tried out first, what was
//! copied is read back with its extents, and a target that cannot hold a replica is refused for an archive that any
//! target can.
//!
//! ```text
//!   original ──> claim the target, try it out ──> survey, room ──> copy (journal) ──> attributes, sync
//!            ──> read back ──> the source is what it was ──> manifest ──> names, volume.meta last
//! ```

pub mod archive;
pub mod check;
mod compare;
mod describe;
mod finish;
mod members;
mod original;
mod transfer;
pub mod unpack;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::keeps;
use crate::engine::pipeline;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::format::copy::journal::{self, Record};
use crate::format::copy::manifest::{CopiedContent, CopyKind, CopyManifest};
use crate::model::finding::{Code, Finding};
use crate::model::units::ByteRange;
use crate::replica::ReplicaDir;
use crate::replica::doctor;
use crate::replica::listing::What;
use crate::sink::copy_dir::{CopyDir, Found};
use crate::workflow::preserve::original::Original;
use crate::workflow::preserve::transfer::{Task, Transfer};

/// How a copy is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct PreserveOptions {
    /// Share blocks with the source instead of copying them.
    pub clone: bool,
    /// Go on though another process writes to the replica; it must not change all the same.
    pub allow_live: bool,
    /// How many threads work; as many as suit the machine when `None`.
    pub workers: Option<usize>,
}

/// What a copy came to.
#[derive(Debug)]
pub struct Preserved {
    /// Where it is; `None` for a stream.
    pub path: Option<PathBuf>,
    /// What it holds.
    pub manifest: CopyManifest,
    /// Whether it was there already, finished by an earlier run, and nothing was done.
    pub was_there: bool,
    /// Bytes of data that this run has copied.
    pub copied_bytes: u64,
    /// Bytes of data that an earlier run had copied.
    pub resumed_bytes: u64,
    /// Whether the copy was read back past every cache for certain; `None` when its bytes were not read back.
    pub direct: Option<bool>,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
}

/// What a person can do after a copy was cut short.
const GO_ON: &str =
    "what was copied is kept, under names that no engine reads: run the same command again to go on";

/// Copies everything in `replica` into the directory `target`.
///
/// # Errors
/// By kind: the source cannot be read, or changed meanwhile (`Source`); a guard refuses, or the target cannot hold a
/// replica (`Refused`); the target fails (`Output`); what was read back differs (`Unverified`); a signal came
/// (`Interrupted`). The copy is then not one that any engine takes for a replica.
pub fn preserve(
    replica: &ReplicaDir,
    target: &Path,
    options: PreserveOptions,
    run: &Run<'_>,
) -> Result<Preserved> {
    let started = Instant::now();
    let original = Original::take(replica, options.allow_live)?;
    original.refuse_overlap(target)?;
    if options.clone && original.live.is_live() {
        return Err(Error::refused("blocks are never shared with a replica that is in use")
            .with_path(replica.path())
            .with_hint("leave --clone out, or detach the volume first"));
    }
    let (dir, found) = CopyDir::claim(target)?;
    let records = match found {
        Found::Nothing => None,
        Found::Unfinished(records) => Some(records),
        Found::Finished(manifest) => return already_there(&original, target, *manifest, started),
    };
    let mut copying = Copying { original: &original, dir, options, run, findings: original.findings() };
    match copying.prepare(records.as_deref().unwrap_or_default()) {
        Ok(prepared) => copying.carry_out(prepared, started).map_err(|e| match e.kind() {
            // Going on would end the same way.
            ErrorKind::Refused | ErrorKind::Usage => {
                copying.dir.discard();
                e
            }
            ErrorKind::Unverified => e,
            _ => e.and(GO_ON),
        }),
        Err(e) => {
            if records.is_none() {
                copying.dir.discard();
            }
            Err(e)
        }
    }
}

/// A finished copy is never written to: it may be the only one of its state.
fn already_there(
    original: &Original<'_>,
    target: &Path,
    manifest: CopyManifest,
    started: Instant,
) -> Result<Preserved> {
    let now = describe::outline(&original.listing, manifest.kind, manifest.source.clone());
    let size = |file: &str| original.listing.file(file).map(|listed| listed.attributes.size_bytes);
    let same = now.directory == manifest.directory
        && now.files.len() == manifest.files.len()
        && now.files.iter().zip(&manifest.files).all(|(now, then)| {
            (&now.name, now.kind, &now.target, &now.attributes)
                == (&then.name, then.kind, &then.target, &then.attributes)
                && then.content.as_ref().is_none_or(|content| Some(content.size_bytes) == size(&now.name))
        });
    if !same || Path::new(&manifest.source) != original.path {
        return Err(Error::refused("the directory holds a finished copy, and the source is not what that was made of")
            .with_path(target)
            .with_hint(
                "it may be the only copy of that state: name another directory; --check says where the two differ",
            ));
    }
    Ok(Preserved {
        path: Some(target.to_path_buf()),
        manifest,
        was_there: true,
        copied_bytes: 0,
        resumed_bytes: 0,
        direct: None,
        findings: original.findings(),
        duration: started.elapsed(),
    })
}

/// A copy being made.
struct Copying<'a> {
    original: &'a Original<'a>,
    dir: CopyDir,
    options: PreserveOptions,
    run: &'a Run<'a>,
    findings: Vec<Finding>,
}

/// What is known before the first byte is copied.
struct Prepared<'a> {
    keeps_unwritten: bool,
    tasks: Vec<Task<'a>>,
    next_number: u64,
}

impl<'a> Copying<'a> {
    /// Everything that can be refused is refused here.
    fn prepare(&mut self, records: &[Record]) -> Result<Prepared<'a>> {
        if let Some(Record::Naming { files, links }) =
            records.iter().rev().find(|r| matches!(r, Record::Naming { .. }))
        {
            self.refuse_another_source(records)?;
            self.dir.take_names_back(files, links)?;
        }
        self.refuse_another_source(records)?;
        let keeps = keeps::probe(self.dir.path())?;
        let header = Record::Begun {
            version: journal::VERSION,
            source: self.original.path.display().to_string(),
            kind: if self.options.clone { CopyKind::Clone } else { CopyKind::Copy },
            keeps_unwritten: keeps.unwritten,
        };
        let goes_on = records.first() == Some(&header);
        let (mut earlier, next_number) = transfer::earlier(if goes_on { records } else { &[] });
        let files = self.original.files();
        let mut tasks: Vec<_> = files.map(|(file, _)| Task::new(file, earlier.remove(&file.name))).collect();
        self.dir.remove_strays(tasks.iter().map(|task| task.file.name.as_str()))?;
        let needed_bytes = self.transfer(keeps.unwritten).survey(&mut tasks)?;
        let free_bytes = self.dir.free_bytes()?;
        if free_bytes < needed_bytes && !self.options.clone {
            return Err(Error::output(format!(
                "not enough room: {needed_bytes} bytes are needed, {free_bytes} are free, {} are short",
                needed_bytes - free_bytes
            ))
            .with_path(self.dir.path())
            .with_hint("free some room, or copy to another disk"));
        }
        if !goes_on {
            self.dir.forget()?;
            self.dir.begin(&header)?;
        }
        Ok(Prepared { keeps_unwritten: keeps.unwritten, tasks, next_number })
    }

    /// An unfinished copy of something else is not ours to replace.
    fn refuse_another_source(&self, records: &[Record]) -> Result<()> {
        match records.first() {
            Some(Record::Begun { source, .. }) if Path::new(source) != self.original.path => {
                Err(Error::refused(format!("the directory holds an unfinished copy of {source}"))
                    .with_path(self.dir.path())
                    .with_hint("name another directory, or remove this one"))
            }
            _ => Ok(()),
        }
    }

    fn transfer(&self, keeps_unwritten: bool) -> Transfer<'_> {
        Transfer {
            original: self.original,
            dir: &self.dir,
            keeps_unwritten,
            clone: self.options.clone,
            workers: self.options.workers.unwrap_or_else(pipeline::default_workers),
            run: self.run,
            copied_bytes: AtomicU64::new(0),
            resumed_bytes: AtomicU64::new(0),
        }
    }

    fn carry_out(&mut self, prepared: Prepared<'_>, started: Instant) -> Result<Preserved> {
        let Prepared { keeps_unwritten, mut tasks, mut next_number } = prepared;
        let dressed = Mutex::new(Vec::new());
        let transfer = self.transfer(keeps_unwritten);
        let direct = loop {
            transfer.copy(&mut tasks, &mut next_number, |file, copy| {
                let What::File(xattrs) = &file.what else { return Ok(()) };
                let left = finish::dress(&file.name, copy, &file.attributes, xattrs)?;
                dressed.lock().unwrap_or_else(PoisonError::into_inner).extend(left);
                Ok(())
            })?;
            let (direct, again) = transfer.read_back(&mut tasks)?;
            if again.is_empty() {
                break direct;
            }
            dressed.lock().unwrap_or_else(PoisonError::into_inner).clear();
        };
        self.original.recheck()?;
        self.run.check()?;
        let (copied_bytes, resumed_bytes) =
            (transfer.copied_bytes.into_inner(), transfer.resumed_bytes.into_inner());
        self.findings.extend(dressed.into_inner().unwrap_or_else(PoisonError::into_inner));
        self.say_what_is_doubtful(&tasks, keeps_unwritten);
        let kind = if self.options.clone { CopyKind::Clone } else { CopyKind::Copy };
        let contents =
            tasks.iter().map(|task| (task.file.name.as_str(), self.content_of(task, keeps_unwritten)));
        let manifest = describe::manifest(self.original, kind, &contents.collect());
        let left = finish::name_all(&self.dir, &self.original.listing, &manifest)?;
        self.findings.extend(left);
        doctor::sort(&mut self.findings);
        Ok(Preserved {
            path: Some(self.dir.path().to_path_buf()),
            manifest,
            was_there: false,
            copied_bytes,
            resumed_bytes,
            direct: (!self.options.clone).then_some(direct),
            findings: std::mem::take(&mut self.findings),
            duration: started.elapsed(),
        })
    }

    fn content_of(&self, task: &Task<'_>, keeps_unwritten: bool) -> CopiedContent {
        let size_bytes = task.file.attributes.size_bytes;
        if self.options.clone {
            return describe::content(size_bytes, task.content, false, None);
        }
        let found = task.windows.lock().unwrap_or_else(PoisonError::into_inner).finish(size_bytes);
        let as_zeros = !keeps_unwritten && task.content.unwritten_bytes > 0;
        describe::content(size_bytes, found.content, as_zeros, Some(found.digest.to_hex().to_string()))
    }

    fn say_what_is_doubtful(&mut self, tasks: &[Task<'_>], keeps_unwritten: bool) {
        if self.options.clone {
            self.findings.push(
                Finding::new(
                    Code::BlocksShared,
                    "the copy shares its blocks with the source",
                    "a disk that fails takes both: this is no second copy",
                )
                .advise("before anything is risked, make a real one, on another disk: without --clone"),
            );
        }
        for task in tasks.iter().filter(|task| !keeps_unwritten && task.content.unwritten_bytes > 0) {
            let Task { file, content, unwritten, .. } = task;
            self.findings.push(unwritten_as_zeros(&file.name, content.unwritten_bytes, unwritten.clone()));
        }
        if tasks.iter().any(|task| !task.tells_unwritten) {
            self.findings.push(unwritten_unknown());
        }
    }
}

fn unwritten_unknown() -> Finding {
    Finding::new(
        Code::UnwrittenUnknown,
        "the source's file system does not tell preallocated room from holes",
        "if there is any, the copy has holes there",
    )
}

/// Room in the source that was preallocated and is written zeros in the copy.
fn unwritten_as_zeros(name: &str, bytes: u64, ranges: Vec<ByteRange>) -> Finding {
    Finding::new(
        Code::UnwrittenAsZeros,
        format!("{bytes} bytes of {name} are preallocated and were never written; in the copy they are written zeros"),
        "the engine reads the same from both; but --unwritten hole no longer finds these places",
    )
    .on(name)
    .at(ranges)
    .advise("to keep them, copy to ext4, XFS or btrfs, or into an archive (--archive)")
}
