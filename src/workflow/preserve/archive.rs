//! A copy in one file, for a medium that cannot hold a replica: written, read back, and compared with itself.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::engine::archive::write::{ArchiveWriter, Out};
use crate::engine::layer_digest::{Content, LayerDigest};
use crate::engine::medium::MediumStream;
use crate::engine::windows::Windows;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::format::copy::MANIFEST_NAME;
use crate::format::copy::manifest::{CopyKind, CopyManifest};
use crate::model::units::ByteRange;
use crate::replica::ReplicaDir;
use crate::replica::doctor;
use crate::replica::listing::What;
use crate::sink::Sink;
use crate::sink::file::{FileOptions, OutputFile};
use crate::view::LayerImage;
use crate::workflow::preserve::check::Checked;
use crate::workflow::preserve::members::{digest_in_order, walk};
use crate::workflow::preserve::original::Original;
use crate::workflow::preserve::{Preserved, describe, unwritten_unknown};

/// Where an archive goes.
pub enum To<'a> {
    /// A file, under its final name; whether one of that name may be replaced.
    File(PathBuf, bool),
    /// A stream.
    Stream(&'a mut dyn Write),
}

/// What a header, its extended header and the filling of a member take, with a name and a few attributes; and what a
/// piece of data takes in a map. Generous: it is asked for beforehand.
const PER_FILE_BYTES: u64 = 8 << 10;
const PER_EXTENT_BYTES: u64 = 48;

/// Puts everything in `replica` into one archive.
///
/// # Errors
/// By kind: the source cannot be read, or changed meanwhile (`Source`); a guard refuses (`Refused`); the target fails
/// (`Output`); what was read back differs (`Unverified`); a signal came (`Interrupted`). A file then does not exist.
pub fn archive(replica: &ReplicaDir, to: To<'_>, allow_live: bool, run: &Run<'_>) -> Result<Preserved> {
    let started = Instant::now();
    let original = Original::take(replica, allow_live)?;
    let mut findings = original.findings();
    let survey = Survey::of(&original, run)?;
    findings.extend((!survey.tells_unwritten).then(unwritten_unknown));
    let (path, manifest, direct) = match to {
        To::File(path, force) => to_file(&original, &path, force, &survey, run)?,
        To::Stream(out) => {
            let manifest = to_stream(&original, out, &survey, run)?;
            original.recheck()?;
            (None, manifest, None)
        }
    };
    doctor::sort(&mut findings);
    Ok(Preserved {
        path,
        manifest,
        was_there: false,
        copied_bytes: survey.content.data_bytes,
        resumed_bytes: 0,
        direct,
        findings,
        duration: started.elapsed(),
    })
}

/// What there is to write.
struct Survey {
    content: Content,
    files: u64,
    tells_unwritten: bool,
}

impl Survey {
    fn of(original: &Original<'_>, run: &Run<'_>) -> Result<Self> {
        let mut survey = Survey { content: Content::default(), files: 0, tells_unwritten: true };
        run.event(Event::Phase { name: "surveying", total_bytes: None });
        for (file, _) in original.files() {
            let layer = original.open(file)?;
            survey.tells_unwritten &= layer.tells_unwritten();
            survey.files += 1;
            let mut windows = Windows::of(&layer)?;
            while let Some(window) = windows.next_window()? {
                run.check()?;
                survey.content = survey.content.and(Content::of(&window));
            }
        }
        run.event(Event::PhaseDone);
        Ok(survey)
    }

    /// No less than the archive will take.
    fn archive_bytes(&self) -> u64 {
        let Content { extents, data_bytes, unwritten_bytes } = self.content;
        data_bytes + unwritten_bytes + extents * PER_EXTENT_BYTES + (self.files + 2) * PER_FILE_BYTES
    }
}

type Written = (Option<PathBuf>, CopyManifest, Option<bool>);

fn to_file(
    original: &Original<'_>,
    path: &Path,
    force: bool,
    survey: &Survey,
    run: &Run<'_>,
) -> Result<Written> {
    original.refuse_overlap(path)?;
    let options = FileOptions { force, sync: true, fill: false };
    let output = OutputFile::create(path, 0, options, &original.replica.identity())?;
    let archive_bytes = survey.archive_bytes();
    output.require_room(archive_bytes, archive_bytes)?;
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        output.write_at(bytes, at)?;
        output.settle(ByteRange::new(at, at + bytes.len() as u64));
        at += bytes.len() as u64;
        Ok(())
    };
    let manifest = write(original, &mut put, survey, run)?;
    output.sync(run)?;
    original.recheck()?;
    run.event(Event::Phase { name: "verifying", total_bytes: Some(survey.content.data_bytes) });
    let stream = MediumStream::open(output.partial_path(), at)?;
    let direct = stream.is_direct();
    let read_back = read_through(stream, run).map_err(|e| match e.kind() {
        ErrorKind::Interrupted => e,
        _ => Error::new(ErrorKind::Unverified, format!("what was read back is not what was written: {e}"))
            .with_path(path)
            .with_hint(
                "the target disk, or this machine's memory, cannot be trusted: write to somewhere else",
            ),
    })?;
    run.event(Event::PhaseDone);
    if read_back != manifest {
        return Err(Error::new(ErrorKind::Unverified, "the manifest that was read back is another one")
            .with_path(path));
    }
    Ok((Some(output.finish(run)?), manifest, Some(direct)))
}

fn to_stream(
    original: &Original<'_>,
    out: &mut dyn Write,
    survey: &Survey,
    run: &Run<'_>,
) -> Result<CopyManifest> {
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        out.write_all(bytes).map_err(|e| {
            let broken = e.kind() == io::ErrorKind::BrokenPipe;
            let failed =
                Error::output("cannot write the archive to standard output").at_offset(at).caused_by(e);
            let gone = "whatever reads the stream went away before its end: what it has is not complete";
            if broken { failed.with_hint(gone) } else { failed }
        })?;
        at += bytes.len() as u64;
        Ok(())
    };
    let manifest = write(original, &mut put, survey, run)?;
    out.flush().map_err(|e| Error::output("cannot write the archive to standard output").caused_by(e))?;
    Ok(manifest)
}

/// Writes the members, the manifest last.
fn write(original: &Original<'_>, put: &mut Out<'_>, survey: &Survey, run: &Run<'_>) -> Result<CopyManifest> {
    run.event(Event::Phase { name: "copying", total_bytes: Some(survey.content.data_bytes) });
    let listing = &original.listing;
    let mut archive = ArchiveWriter::new(put, run);
    archive.directory(&listing.directory, &listing.directory_xattrs)?;
    let mut contents = HashMap::new();
    for file in &listing.files {
        let (name, attributes) = (file.name.as_str(), &file.attributes);
        match &file.what {
            What::File(xattrs) => {
                let layer = original.open(file)?;
                let LayerDigest { size_bytes, content, digest } =
                    archive.file(name, attributes, xattrs, &layer)?;
                let digest = Some(digest.to_hex().to_string());
                contents.insert(name, describe::content(size_bytes, content, false, digest));
            }
            What::Link(of) => archive.link(name, of, attributes)?,
            What::Symlink(target) => archive.symlink(name, target, attributes)?,
        }
    }
    let manifest = describe::manifest(original, CopyKind::Archive, &contents);
    archive.bytes(MANIFEST_NAME, &describe::text(&manifest)?, &listing.directory)?;
    archive.finish()?;
    run.event(Event::PhaseDone);
    Ok(manifest)
}

/// Reads an archive to its end, and compares everything in it with its manifest.
///
/// # Errors
/// `Source` when it is damaged, or cut off; interrupted when cancelled.
pub fn read_through(from: impl Read + Send, run: &Run<'_>) -> Result<CopyManifest> {
    walk(from, &mut |_, layer| digest_in_order(layer, run)).map(|(_, manifest)| manifest)
}

/// Checks the archive at `path` with its own manifest, as [`read_through`], from the medium.
///
/// # Errors
/// As [`read_through`]; and when it cannot be opened.
pub fn check_archive(path: &Path, run: &Run<'_>) -> Result<Checked> {
    let started = Instant::now();
    let fail = |e| Error::source("cannot open the archive").with_path(path).caused_by(e);
    let size_bytes = fs::metadata(path).map_err(fail)?.len();
    run.event(Event::Phase { name: "checking", total_bytes: None });
    let stream = MediumStream::open(path, size_bytes)?;
    let direct = stream.is_direct();
    let manifest = read_through(stream, run).map_err(|e| e.with_path(path))?;
    run.event(Event::PhaseDone);
    let contents: Vec<_> = manifest.files.iter().filter_map(|file| file.content.as_ref()).collect();
    Ok(Checked {
        has_manifest: true,
        files: contents.len() as u64,
        read_bytes: contents.iter().map(|content| content.data_bytes).sum(),
        direct,
        findings: Vec::new(),
        duration: started.elapsed(),
    })
}
