//! From an archive back to a directory: exactly what was copied, or nothing.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::engine::archive::ArchivedLayer;
use crate::engine::buffer::Buffer;
use crate::engine::keeps;
use crate::engine::layer_digest::{LayerDigest, WindowDigests};
use crate::engine::medium::{Medium, OUTPUT};
use crate::engine::pipeline::{self, BUFFER_BYTES};
use crate::engine::preserve::{Target, copy_window, read_back};
use crate::engine::windows::{WINDOW_BYTES, Windows, for_each_window};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run, Silent};
use crate::format::copy::journal::{self, Record};
use crate::format::copy::manifest::CopyKind;
use crate::model::finding::Finding;
use crate::replica::doctor;
use crate::replica::listing::{Listed, What};
use crate::sink::copy_dir::{CopyDir, Found};
use crate::view::LayerImage;
use crate::view::as_data::UnwrittenAsData;
use crate::view::layer_file::LayerFile;
use crate::workflow::preserve::members::walk;
use crate::workflow::preserve::transfer::{first_other_map, of_the_copy};
use crate::workflow::preserve::{Preserved, describe, finish, unwritten_as_zeros};

/// How the source of a copy that comes out of an archive is called in its journal.
const FROM_ARCHIVE: &str = "an archive";

/// Makes the directory `target` what the archive `from` holds.
///
/// # Errors
/// By kind: the archive is damaged, cut off, or not one of ours (`Source`); the target holds something, or cannot hold a
/// replica (`Refused`); the target fails (`Output`); what was read back differs (`Unverified`); a signal came
/// (`Interrupted`). The target is then what it was before.
pub fn unpack(
    from: impl Read + Send,
    target: &Path,
    workers: Option<usize>,
    run: &Run<'_>,
) -> Result<Preserved> {
    let started = Instant::now();
    let (mut dir, found) = CopyDir::claim(target)?;
    start_over(&dir, &found)?;
    let done = take_all(&mut dir, from, workers, run);
    let mut preserved = match done {
        Ok(preserved) => preserved,
        Err(e) => {
            dir.discard();
            // A stream that was given up says so in its own words.
            return Err(run.check().err().unwrap_or(e));
        }
    };
    preserved.duration = started.elapsed();
    Ok(preserved)
}

/// Only what an unfinished run of the same kind has left is replaced.
fn start_over(dir: &CopyDir, found: &Found) -> Result<()> {
    let refuse = |what: String| {
        Err(Error::refused(what)
            .with_path(dir.path())
            .with_hint("name a directory that is empty or not there yet"))
    };
    match found {
        Found::Nothing => Ok(()),
        Found::Finished(manifest) => {
            refuse(format!("the directory holds a finished copy of {}", manifest.source))
        }
        Found::Unfinished(records) => {
            if let Some(Record::Begun { source, .. }) = records.first() {
                if source != FROM_ARCHIVE {
                    return refuse(format!("the directory holds an unfinished copy of {source}"));
                }
            }
            for record in records {
                if let Record::Naming { files, links } = record {
                    dir.take_names_back(files, links)?;
                }
            }
            dir.remove_strays(std::iter::empty())?;
            dir.forget()
        }
    }
}

fn take_all(
    dir: &mut CopyDir,
    from: impl Read + Send,
    workers: Option<usize>,
    run: &Run<'_>,
) -> Result<Preserved> {
    let keeps_unwritten = keeps::probe(dir.path())?.unwritten;
    dir.begin(&Record::Begun {
        version: journal::VERSION,
        source: FROM_ARCHIVE.to_owned(),
        kind: CopyKind::Archive,
        keeps_unwritten,
    })?;
    let unpacking = Unpacking {
        dir,
        keeps_unwritten,
        workers: workers.unwrap_or_else(pipeline::default_workers),
        run,
        state: RefCell::default(),
    };
    run.event(Event::Phase { name: "unpacking", total_bytes: None });
    let (listing, mut manifest) = walk(from, &mut |file, layer| unpacking.take(file, layer))?;
    run.event(Event::PhaseDone);
    run.check()?;
    let State { mut findings, as_zeros, copied_bytes, cached } = unpacking.state.into_inner();
    for (name, digest) in as_zeros {
        if let Some(file) = manifest.files.iter_mut().find(|file| file.name == name) {
            let hex = Some(digest.digest.to_hex().to_string());
            file.content = Some(describe::content(digest.size_bytes, digest.content, true, hex));
        }
    }
    findings.extend(finish::name_all(dir, &listing, &manifest)?);
    doctor::sort(&mut findings);
    Ok(Preserved {
        path: Some(dir.path().to_path_buf()),
        manifest,
        was_there: false,
        copied_bytes,
        resumed_bytes: 0,
        direct: Some(!cached),
        findings,
        duration: std::time::Duration::ZERO,
    })
}

/// An archive on its way into a directory.
struct Unpacking<'a> {
    dir: &'a CopyDir,
    keeps_unwritten: bool,
    workers: usize,
    run: &'a Run<'a>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    findings: Vec<Finding>,
    /// Files whose preallocated room became written zeros, as they are in the directory.
    as_zeros: Vec<(String, LayerDigest)>,
    copied_bytes: u64,
    /// Whether a file could only be read back after dropping the cache.
    cached: bool,
}

impl Unpacking<'_> {
    /// Writes one file, reads it back, and returns its digest as it is in the archive.
    fn take(&self, file: &Listed, layer: &ArchivedLayer<'_>) -> Result<LayerDigest> {
        let What::File(xattrs) = &file.what else {
            return Err(Error::source("not a file").in_layer(&file.name));
        };
        let size_bytes = layer.size_bytes();
        let copy = self.dir.create(&file.name, size_bytes)?;
        let path = self.dir.partial_path(&file.name);
        let as_data = UnwrittenAsData(layer);
        let wanted: &dyn LayerImage = if self.keeps_unwritten { layer } else { &as_data };
        let written = self.write(wanted, &Target { file: &copy, path: &path, size_bytes })?;
        let left = finish::dress(&file.name, &copy, &file.attributes, xattrs)?;
        drop(copy);
        let medium = Medium::open(&path, &OUTPUT)?;
        self.compare(&file.name, wanted, &written, &medium, &path)?;
        let digest = written.finish(size_bytes);
        let mut state = self.state.borrow_mut();
        state.findings.extend(left);
        state.cached |= !medium.is_direct();
        state.copied_bytes += digest.content.data_bytes;
        let room_bytes = layer.unwritten_bytes();
        if self.keeps_unwritten || room_bytes == 0 {
            return Ok(digest);
        }
        state.findings.push(unwritten_as_zeros(&file.name, room_bytes, layer.first_unwritten()));
        state.as_zeros.push((file.name.clone(), digest));
        self.digest_of(layer, &medium)
    }

    fn write(&self, wanted: &dyn LayerImage, target: &Target<'_>) -> Result<WindowDigests> {
        let mut windows = Windows::of(wanted)?;
        let mut digests = WindowDigests::default();
        let mut buffer = Buffer::new(BUFFER_BYTES);
        while let Some(window) = windows.next_window()? {
            let digest = copy_window(wanted, target, &window, &mut buffer, self.run)?;
            digests.insert(&window, digest);
        }
        Ok(digests)
    }

    /// The copy must have the extents and the bytes that were written.
    fn compare(
        &self,
        name: &str,
        wanted: &dyn LayerImage,
        written: &WindowDigests,
        medium: &Medium,
        path: &Path,
    ) -> Result<()> {
        let open = File::open(path)
            .map_err(|e| Error::output("cannot open the copy").with_path(path).caused_by(e))?;
        let copy = LayerFile::new(name.to_owned(), open).map_err(of_the_copy)?;
        if let Some(offset) = first_other_map(wanted, &copy, self.run)? {
            let what = "the copy's own extents are not those of the archive";
            return Err(keeps::not_kept(self.dir.path(), what).in_layer(name).at_offset(offset));
        }
        let found = Mutex::new(WindowDigests::default());
        let quiet = Run { observer: &Silent, ..*self.run };
        for_each_window(&[&copy], self.workers, self.run, |_, window, buffer| {
            let digest = read_back(medium, window, buffer, &quiet)?;
            found.lock().unwrap_or_else(PoisonError::into_inner).insert(window, digest);
            Ok(())
        })?;
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(index) = written.first_difference(&found) else { return Ok(()) };
        Err(Error::new(ErrorKind::Unverified, "what was read back differs from what was written")
            .with_path(path)
            .at_offset(index.saturating_mul(WINDOW_BYTES))
            .with_hint("the target disk, or this machine's memory, cannot be trusted: unpack somewhere else"))
    }

    /// The digest with the archive's own extents, of bytes that are in the copy.
    fn digest_of(&self, layer: &ArchivedLayer<'_>, medium: &Medium) -> Result<LayerDigest> {
        let mut windows = Windows::of(layer)?;
        let mut digests = WindowDigests::default();
        let mut buffer = Buffer::new(BUFFER_BYTES);
        let quiet = Run { observer: &Silent, ..*self.run };
        while let Some(window) = windows.next_window()? {
            let digest = read_back(medium, &window, &mut buffer, &quiet)?;
            digests.insert(&window, digest);
        }
        Ok(digests.finish(layer.size_bytes()))
    }
}
