//! A look at an earlier copy: whether it is what the source is, and what its manifest says it must be.
//!
//! With both at hand it can be told which side has changed: a copy that its manifest still describes is good, whatever
//! became of the source. The copy's bytes are read from the medium, the source's as any reader would.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::engine::pipeline;
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::format::copy::manifest::{Attributes, CopiedFile, CopyKind, CopyManifest, FileKind};
use crate::format::copy::{JOURNAL_NAME, MANIFEST_NAME};
use crate::model::finding::{Code, Finding};
use crate::replica::ReplicaDir;
use crate::replica::doctor;
use crate::replica::listing::Listing;
use crate::sink::copy_dir::read_manifest;
use crate::sys::dir::Dir;
use crate::workflow::preserve::compare::Comparison;
use crate::workflow::preserve::describe;
use crate::workflow::preserve::transfer::of_the_copy;

/// What a check came to.
#[derive(Debug)]
pub struct Checked {
    /// Whether the copy has a manifest.
    pub has_manifest: bool,
    /// Files whose bytes were compared.
    pub files: u64,
    /// Bytes of data of the copy that were read.
    pub read_bytes: u64,
    /// Whether they were read past every cache for certain.
    pub direct: bool,
    /// Where the copy is not what it should be.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
}

/// Compares the copy in `path` with `source`, and with its own manifest; at least one of the two must be there.
///
/// # Errors
/// `Source` when the source, or the manifest, cannot be read; `Output` when the copy cannot be; `Usage` when there is
/// nothing to compare with. Differences are findings.
pub fn check(
    source: Option<&ReplicaDir>,
    path: &Path,
    workers: Option<usize>,
    run: &Run<'_>,
) -> Result<Checked> {
    let started = Instant::now();
    let copy = Dir::open(path).map_err(|e| {
        let hint = "name the directory that holds the copy";
        Error::usage("cannot open the copy").with_path(path).caused_by(e).with_hint(hint)
    })?;
    let manifest = read_manifest(&copy)?;
    let wanted = wanted(source, manifest.as_ref(), path)?;
    let is = describe::outline(&Listing::of(&copy).map_err(of_the_copy)?, CopyKind::Copy, String::new());
    let workers = workers.unwrap_or_else(pipeline::default_workers);
    let comparison = Comparison { source, copy: &copy, workers, run };
    let mut checked = Checked {
        has_manifest: manifest.is_some(),
        files: 0,
        read_bytes: 0,
        direct: true,
        findings: unfinished(&copy).into_iter().collect(),
        duration: Duration::ZERO,
    };
    checked.findings.extend(names(&wanted, &is, manifest.as_ref()));
    let (there, told) = (is.by_name(), manifest.as_ref().map(CopyManifest::by_name).unwrap_or_default());
    let noted = |name: &str| told.get(name)?.content.as_ref();
    let total_bytes = manifest
        .as_ref()
        .map(|m| m.files.iter().filter_map(|f| f.content.as_ref()).map(|c| c.data_bytes).sum());
    run.event(Event::Phase { name: "checking", total_bytes });
    let is_file = |file: &&CopiedFile| file.kind == FileKind::File;
    for file in
        wanted.files.iter().filter(is_file).filter(|file| there.get(file.name.as_str()).is_some_and(is_file))
    {
        run.check()?;
        let compared = comparison.compare(&file.name, noted(&file.name))?;
        checked.files += 1;
        checked.read_bytes += compared.copy.content.data_bytes;
        checked.direct &= compared.direct;
        checked.findings.extend(compared.judge(&file.name, noted(&file.name)));
    }
    run.event(Event::PhaseDone);
    doctor::sort(&mut checked.findings);
    checked.duration = started.elapsed();
    Ok(checked)
}

fn unfinished(copy: &Dir) -> Option<Finding> {
    copy.stat(JOURNAL_NAME).ok()?;
    let finding = Finding::new(
        Code::CopyUnfinished,
        "the copy is not finished",
        "files may be missing, and not all of those that are there need be of one moment",
    );
    Some(finding.on(JOURNAL_NAME).advise("run lhrecover preserve once more, with the same source"))
}

/// What the copy should be: what the source is, or what the manifest says.
fn wanted(source: Option<&ReplicaDir>, manifest: Option<&CopyManifest>, path: &Path) -> Result<CopyManifest> {
    match (source, manifest) {
        (Some(source), _) => Ok(describe::outline(
            &Listing::of(source.dir())?,
            CopyKind::Copy,
            source.path().display().to_string(),
        )),
        (None, Some(manifest)) => Ok(manifest.clone()),
        (None, None) => Err(Error::usage(format!("there is no {MANIFEST_NAME} to check the copy with"))
            .with_path(path)
            .with_hint("name the source: lhrecover preserve REPLICA_DIR COPY_DIR --check")),
    }
}

/// Names, what they stand for, and attributes.
fn names(wanted: &CopyManifest, is: &CopyManifest, manifest: Option<&CopyManifest>) -> Vec<Finding> {
    let (there, told) = (is.by_name(), manifest.map(CopyManifest::by_name).unwrap_or_default());
    let should = wanted.by_name();
    let mut findings = Vec::new();
    let mut differ = |name: &str, what: String| {
        let meaning = "the copy is not complete, or not only a copy";
        findings.push(Finding::new(Code::CopyNamesDiffer, what, meaning).on(name));
    };
    let mut attributes =
        vec![("the directory", &wanted.directory, &is.directory, manifest.map(|m| &m.directory))];
    for file in &wanted.files {
        let name = file.name.as_str();
        let noted = told.get(name);
        match there.get(name) {
            None => differ(name, format!("{name} is not in the copy")),
            Some(there) if (there.kind, &there.target) != (file.kind, &file.target) => {
                differ(name, format!("{name} is {}, and should be {}", stands_for(there), stands_for(file)));
            }
            Some(there) => {
                if let (Some(wanted), Some(is)) = (&file.attributes, &there.attributes) {
                    attributes.push((name, wanted, is, noted.and_then(|noted| noted.attributes.as_ref())));
                }
            }
        }
    }
    for file in is.files.iter().filter(|file| !should.contains_key(file.name.as_str())) {
        differ(&file.name, format!("{} is in the copy, and should not be", file.name));
    }
    findings.extend(
        attributes.into_iter().filter_map(|(name, wanted, is, noted)| compare(name, wanted, is, noted)),
    );
    findings
}

fn stands_for(file: &CopiedFile) -> String {
    match (file.kind, &file.target) {
        (FileKind::File, _) => "a file of its own".to_owned(),
        (FileKind::Link, target) => format!("another name of {}", target.as_deref().unwrap_or_default()),
        (FileKind::Symlink, target) => format!("a link to {}", target.as_deref().unwrap_or_default()),
    }
}

fn compare(name: &str, wanted: &Attributes, is: &Attributes, noted: Option<&Attributes>) -> Option<Finding> {
    if wanted == is {
        return None;
    }
    let parts = [
        ("mode", wanted.mode != is.mode),
        ("owner", (wanted.uid, wanted.gid) != (is.uid, is.gid)),
        (
            "time",
            (wanted.modified_seconds, wanted.modified_nanoseconds)
                != (is.modified_seconds, is.modified_nanoseconds),
        ),
        ("extended attributes", wanted.xattrs != is.xattrs),
    ];
    let differing: Vec<_> = parts.iter().filter(|(_, differs)| *differs).map(|(part, _)| *part).collect();
    let differing = differing.join(", ");
    let finding = if noted == Some(is) {
        let meaning = "the copy is what its manifest says, so it is the source that has changed";
        Finding::new(Code::SourceChanged, format!("{name} of the source has changed: {differing}"), meaning)
    } else {
        let meaning = "the data is not touched by it; an engine needs the files to be root's";
        Finding::new(Code::CopyAttributesDiffer, format!("{name} of the copy differs: {differing}"), meaning)
    };
    Some(finding.on(name))
}
