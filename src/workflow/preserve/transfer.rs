//! The files of a copy on their way: what an earlier run has done, what is left, the copying, and the reading back.
//!
//! Nothing that is noted as done is believed before it was read back from the medium with everything else. A file whose
//! earlier windows are found wrong (a power cut may leave the note without the data) is copied anew.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use blake3::Hash;
use rayon::prelude::*;

use crate::engine::keeps;
use crate::engine::layer_digest::{Content, WindowDigests};
use crate::engine::medium::{Medium, OUTPUT};
use crate::engine::preserve::{Target, clone_layer, copy_window, first_other_extent, read_back};
use crate::engine::windows::{WINDOW_BYTES, Window, Windows, for_each_window};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::format::copy::journal::{Record, Stamp};
use crate::model::extent::ExtentKind;
use crate::model::units::ByteRange;
use crate::replica::listing::Listed;
use crate::sink::copy_dir::CopyDir;
use crate::view::LayerImage;
use crate::view::as_data::UnwrittenAsData;
use crate::view::layer_file::LayerFile;
use crate::workflow::preserve::original::Original;

/// How many files are worked on at a time: each takes two or three descriptors, of which a process has 1,024.
pub const OPEN_AT_ONCE: usize = 128;

/// How many preallocated ranges of a file are named.
const NAMED_RANGES: usize = 16;

/// One regular file to be copied.
pub struct Task<'a> {
    /// The source.
    pub file: &'a Listed,
    /// What the windows of the copy must be.
    pub windows: Mutex<WindowDigests>,
    /// What the file holds; known once it was surveyed.
    pub content: Content,
    /// The first preallocated ranges.
    pub unwritten: Vec<ByteRange>,
    /// Whether the source's file system tells preallocated room from holes.
    pub tells_unwritten: bool,
    /// The number of the file in the journal; `None` before it was begun.
    number: Option<u64>,
    /// Windows that an earlier run has noted as done.
    done_before: HashMap<u64, Hash>,
}

/// All that the steps of a copy share.
pub struct Transfer<'a> {
    /// From where.
    pub original: &'a Original<'a>,
    /// To where.
    pub dir: &'a CopyDir,
    /// Whether the target keeps preallocated room.
    pub keeps_unwritten: bool,
    /// Whether blocks are shared instead of copied.
    pub clone: bool,
    /// How many threads work.
    pub workers: usize,
    /// Who watches.
    pub run: &'a Run<'a>,
    /// Bytes of data copied by this run.
    pub copied_bytes: AtomicU64,
    /// Bytes of data that an earlier run had copied.
    pub resumed_bytes: AtomicU64,
}

/// What an earlier run has noted of a file.
pub struct Earlier {
    number: u64,
    stamp: Stamp,
    windows: HashMap<u64, Hash>,
}

/// What the records of a journal come to, by the name of the file; the next free number.
pub fn earlier(records: &[Record]) -> (HashMap<String, Earlier>, u64) {
    let mut files = HashMap::new();
    let mut names = HashMap::new();
    for record in records {
        match record {
            Record::File { number, name, stamp } => {
                names.insert(*number, name.clone());
                files.insert(
                    name.clone(),
                    Earlier { number: *number, stamp: *stamp, windows: HashMap::new() },
                );
            }
            Record::Window { file, index, digest } => {
                let earlier = names.get(file).and_then(|name| files.get_mut(name));
                if let (Some(earlier), Ok(digest)) = (earlier, Hash::from_hex(digest)) {
                    earlier.windows.insert(*index, digest);
                }
            }
            Record::Begun { .. } | Record::Naming { .. } => {}
        }
    }
    let next = names.keys().max().map_or(0, |max| max.saturating_add(1));
    (files, next)
}

impl<'a> Task<'a> {
    /// The copy of `file`, of which an earlier run may have done a part.
    pub fn new(file: &'a Listed, earlier: Option<Earlier>) -> Self {
        let earlier = earlier.filter(|earlier| earlier.stamp == file.stamp());
        Task {
            file,
            windows: Mutex::default(),
            content: Content::default(),
            unwritten: Vec::new(),
            tells_unwritten: true,
            number: earlier.as_ref().map(|earlier| earlier.number),
            done_before: earlier.map(|earlier| earlier.windows).unwrap_or_default(),
        }
    }

    fn start_over(&mut self) {
        self.number = None;
        self.done_before.clear();
        self.windows = Mutex::default();
    }

    fn insert(&self, window: &Window, digest: Hash) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).insert(window, digest);
    }
}

/// Layers as the copy is to have them.
fn as_wanted<'a>(
    layers: &'a [LayerFile],
    as_data: &'a [UnwrittenAsData<'a>],
    keeps: bool,
) -> Vec<&'a dyn LayerImage> {
    if keeps {
        layers.iter().map(|layer| layer as &dyn LayerImage).collect()
    } else {
        as_data.iter().map(|layer| layer as &dyn LayerImage).collect()
    }
}

impl Transfer<'_> {
    /// Finds out what each file holds; returns how many bytes are still to be allocated.
    ///
    /// # Errors
    /// `Source` when a map cannot be read; interrupted when cancelled.
    pub fn survey(&self, tasks: &mut [Task<'_>]) -> Result<u64> {
        self.run.event(Event::Phase { name: "surveying", total_bytes: None });
        let mut needed_bytes = 0;
        for task in tasks {
            let layer = self.original.open(task.file)?;
            task.tells_unwritten = layer.tells_unwritten();
            let mut windows = Windows::of(&layer)?;
            while let Some(window) = windows.next_window()? {
                self.run.check()?;
                let content = Content::of(&window);
                if !task.done_before.contains_key(&window.index) {
                    needed_bytes += content.data_bytes + content.unwritten_bytes;
                }
                let unwritten = window.extents.iter().filter(|extent| extent.kind == ExtentKind::Unwritten);
                let room = NAMED_RANGES.saturating_sub(task.unwritten.len());
                task.unwritten.extend(unwritten.take(room).map(|extent| extent.range));
                task.content = task.content.and(content);
            }
        }
        self.run.event(Event::PhaseDone);
        Ok(needed_bytes)
    }

    /// Copies every file, or shares its blocks, and hands it to `finish` once it is complete.
    ///
    /// # Errors
    /// By kind: `Source`, `Output`, interrupted; what `finish` fails with.
    pub fn copy(
        &self,
        tasks: &mut [Task<'_>],
        next_number: &mut u64,
        finish: impl Fn(&Listed, &File) -> Result<()> + Sync,
    ) -> Result<()> {
        let total_bytes = tasks.iter().map(|task| self.bytes_of(task)).sum();
        let name = if self.clone { "sharing" } else { "copying" };
        self.run.event(Event::Phase { name, total_bytes: Some(total_bytes) });
        for group in tasks.chunks_mut(OPEN_AT_ONCE) {
            let layers =
                group.iter().map(|task| self.original.open(task.file)).collect::<Result<Vec<_>>>()?;
            let files =
                group.iter_mut().map(|task| self.begin(task, next_number)).collect::<Result<Vec<_>>>()?;
            if self.clone {
                self.clone_group(group, &layers, &files)?;
            } else {
                self.copy_group(group, &layers, &files)?;
            }
            // Each waits for the medium, which takes many at once.
            group.par_iter().zip(&files).try_for_each(|(task, file)| finish(task.file, file))?;
        }
        self.run.event(Event::PhaseDone);
        Ok(())
    }

    /// Bytes of data in the copy.
    fn bytes_of(&self, task: &Task<'_>) -> u64 {
        let room = if self.keeps_unwritten { 0 } else { task.content.unwritten_bytes };
        task.content.data_bytes + room
    }

    /// Opens what an earlier run has left of a file, or begins it.
    fn begin(&self, task: &mut Task<'_>, next_number: &mut u64) -> Result<File> {
        let Listed { name, attributes, .. } = task.file;
        let left = task.number.and_then(|_| self.dir.reopen(name, attributes.size_bytes));
        if let (Some(file), false) = (left, self.clone) {
            return Ok(file);
        }
        task.start_over();
        let file = self.dir.create(name, attributes.size_bytes)?;
        self.dir.note(&Record::File {
            number: *next_number,
            name: name.clone(),
            stamp: task.file.stamp(),
        })?;
        task.number = Some(*next_number);
        *next_number += 1;
        Ok(file)
    }

    fn copy_group(&self, group: &[Task<'_>], layers: &[LayerFile], files: &[File]) -> Result<()> {
        let as_data: Vec<_> = layers.iter().map(|layer| UnwrittenAsData(layer)).collect();
        let images = as_wanted(layers, &as_data, self.keeps_unwritten);
        let paths: Vec<_> = group.iter().map(|task| self.dir.partial_path(&task.file.name)).collect();
        for_each_window(&images, self.workers, self.run, |place, window, buffer| {
            let task = &group[place];
            let data_bytes = Content::of(window).data_bytes;
            if let Some(digest) = task.done_before.get(&window.index) {
                task.insert(window, *digest);
                self.resumed_bytes.fetch_add(data_bytes, Ordering::Relaxed);
                self.run.event(Event::Advanced { bytes: data_bytes });
                return Ok(());
            }
            let size_bytes = task.file.attributes.size_bytes;
            let target = Target { file: &files[place], path: &paths[place], size_bytes };
            let digest = copy_window(images[place], &target, window, buffer, self.run)?;
            task.insert(window, digest);
            self.copied_bytes.fetch_add(data_bytes, Ordering::Relaxed);
            let file = task.number.unwrap_or_default();
            self.dir.note(&Record::Window { file, index: window.index, digest: digest.to_hex().to_string() })
        })
    }

    fn clone_group(&self, group: &[Task<'_>], layers: &[LayerFile], files: &[File]) -> Result<()> {
        for ((task, layer), file) in group.iter().zip(layers).zip(files) {
            self.run.check()?;
            let path = self.dir.partial_path(&task.file.name);
            let target = Target { file, path: &path, size_bytes: task.file.attributes.size_bytes };
            clone_layer(layer, &target, self.run)?;
            self.run.event(Event::Advanced { bytes: self.bytes_of(task) });
        }
        Ok(())
    }

    /// Reads the copies back from the medium; returns whether the medium itself was read for certain, and the places
    /// of files that must be copied anew, since what an earlier run had noted is not there.
    ///
    /// # Errors
    /// `Refused` when the file system has not kept the extents; `Unverified` when the bytes are others; `Output` when
    /// they cannot be read.
    pub fn read_back(&self, tasks: &mut [Task<'_>]) -> Result<(bool, Vec<usize>)> {
        let total_bytes = (!self.clone).then(|| tasks.iter().map(|task| self.bytes_of(task)).sum());
        self.run.event(Event::Phase { name: "verifying", total_bytes });
        let (mut direct, mut again) = (true, Vec::new());
        for (group, first) in tasks.chunks_mut(OPEN_AT_ONCE).zip((0..).step_by(OPEN_AT_ONCE)) {
            let paths: Vec<_> = group.iter().map(|task| self.dir.partial_path(&task.file.name)).collect();
            let open = |path| {
                File::open(path)
                    .map_err(|e| Error::output("cannot open the copy").with_path(path).caused_by(e))
            };
            let copies = group
                .iter()
                .zip(&paths)
                .map(|(task, path)| LayerFile::new(task.file.name.clone(), open(path)?));
            let copies = copies.collect::<Result<Vec<_>>>().map_err(of_the_copy)?;
            let media = paths.iter().map(|path| Medium::open(path, &OUTPUT)).collect::<Result<Vec<_>>>()?;
            direct &= media.iter().all(|medium| medium.is_direct());
            let found: Vec<_> = group.iter().map(|_| Mutex::new(WindowDigests::default())).collect();
            let images: Vec<_> = copies.iter().map(|copy| copy as &dyn LayerImage).collect();
            if !self.clone {
                for_each_window(&images, self.workers, self.run, |place, window, buffer| {
                    let digest = read_back(&media[place], window, buffer, self.run)?;
                    found[place].lock().unwrap_or_else(PoisonError::into_inner).insert(window, digest);
                    Ok(())
                })
                .map_err(of_the_copy)?;
            }
            for (place, task) in group.iter().enumerate() {
                let found = found[place].lock().unwrap_or_else(PoisonError::into_inner);
                let wanted = task.windows.lock().unwrap_or_else(PoisonError::into_inner);
                if *found == *wanted && !self.clone {
                    continue;
                }
                match self.explain(task, &copies[place], wanted.first_difference(&found)) {
                    Ok(()) => {}
                    Err(_) if !task.done_before.is_empty() => again.push(first + place),
                    Err(e) => return Err(e.with_path(&paths[place])),
                }
            }
        }
        self.run.event(Event::PhaseDone);
        again.iter().for_each(|&place| tasks[place].start_over());
        Ok((direct, again))
    }

    /// Why a copy is not what it should be: other extents, or the window `differs` has other bytes.
    fn explain(&self, task: &Task<'_>, copy: &LayerFile, differs: Option<u64>) -> Result<()> {
        let layer = self.original.open(task.file)?;
        let as_data = UnwrittenAsData(&layer);
        let wanted: &dyn LayerImage = if self.keeps_unwritten { &layer } else { &as_data };
        if let Some(offset) = first_other_map(wanted, copy, self.run)? {
            return Err(keeps::not_kept(
                self.dir.path(),
                "the copy's own extents are not those of the source",
            )
            .at_offset(offset));
        }
        let Some(index) = differs else { return Ok(()) };
        Err(Error::new(ErrorKind::Unverified, "what was read back differs from what was copied")
            .at_offset(index.saturating_mul(WINDOW_BYTES))
            .with_hint(
                "the target disk, or this machine's memory, cannot be trusted: copy to somewhere else",
            ))
    }
}

/// The first place in which two files have other extents.
///
/// # Errors
/// When one of the maps cannot be read; interrupted when cancelled.
pub fn first_other_map(a: &dyn LayerImage, b: &dyn LayerImage, run: &Run<'_>) -> Result<Option<u64>> {
    let (mut a, mut b) = (Windows::of(a)?, Windows::of(b)?);
    loop {
        run.check()?;
        let start = |window: &Window| window.extents.first().map(|extent| extent.range.start_bytes);
        match (a.next_window()?, b.next_window()?) {
            (None, None) => return Ok(None),
            (Some(only), None) | (None, Some(only)) => return Ok(start(&only)),
            (Some(a), Some(b)) if a.index == b.index => {
                if let Some(offset) = first_other_extent(&a.extents, &b.extents) {
                    return Ok(Some(offset));
                }
            }
            (Some(a), Some(b)) => return Ok(start(&a).min(start(&b))),
        }
    }
}

/// What reading a layer calls a source is the output here.
pub fn of_the_copy(e: Error) -> Error {
    if e.kind() != ErrorKind::Source {
        return e;
    }
    let mut output = Error::output("cannot read the copy back")
        .with_hint("the target disk may be failing: look at the kernel log");
    if let Some(layer) = e.layer() {
        output = output.in_layer(layer);
    }
    if let Some(offset) = e.offset_bytes() {
        output = output.at_offset(offset);
    }
    output.caused_by(std::io::Error::other(e.to_string()))
}
