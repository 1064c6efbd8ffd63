//! A merge: from a replica directory to a finished image.
//!
//! The order is the promise. Everything that can be refused is refused before anything is written; an output has its
//! name only after it was copied, synced, verified if asked, and the source was found to be what it was.

use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::engine::content;
use crate::engine::copy::{self, CopyOptions, Receipt};
use crate::engine::digest::{self, Algorithm, Hasher};
use crate::engine::judge;
use crate::engine::pipeline;
use crate::engine::plan::Plan;
use crate::engine::stream;
use crate::engine::sweep::{self, Survey};
use crate::engine::verify::{self, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::model::finding::{Code, Finding};
use crate::model::overlay::Unwritten;
use crate::replica::{LayerInfo, ReplicaDir, Source, SourceOptions, View};
use crate::sink::Sink;
use crate::sink::device::DeviceSink;
use crate::sink::file::{self, FileOptions, OutputFile};
use crate::sink::guard::{self, DeviceLeave};
use crate::sink::skip_zeros::SkipZeros;

/// Where the image goes.
pub enum Output<'a> {
    /// A file, under its final name.
    File(PathBuf),
    /// A block device, and what the guard has leave to pass.
    Device(PathBuf, DeviceLeave),
    /// A stream, in order.
    Stream(&'a mut dyn Write),
}

/// How a merge is done.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// Which state of the volume, and what leave there is to read it.
    pub source: SourceOptions,
    /// Go on though every layer is fully allocated.
    pub accept_copy_damage: bool,
    /// What unwritten extents mean.
    pub unwritten: Unwritten,
    /// Replace an output file.
    pub force: bool,
    /// How many threads work; as many as suit the machine when `None`.
    pub workers: Option<usize>,
    /// Whether blocks may be shared with the source.
    pub clone: bool,
    /// Which zeros become holes.
    pub sparse: Sparse,
    /// Wait until the output is on the medium.
    pub sync: bool,
    /// Read the output back and compare.
    pub verify: bool,
    /// Take a digest of the whole image.
    pub digest: Option<Algorithm>,
    /// Other files that the caller is about to write: refused where they are the source's.
    pub also_written: Vec<PathBuf>,
}

/// Which zeros of an output file become holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sparse {
    /// What no layer serves; zeros that were written stay data.
    #[default]
    Auto,
    /// Every sector of zeros, also written ones.
    Always,
    /// None: the file is fully allocated.
    Never,
}

/// What a merge did.
#[derive(Debug)]
pub struct Merged {
    /// The state that was merged.
    pub view: View,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// What is known of each layer, lowest first.
    pub chain: Vec<LayerInfo>,
    /// What the layers hold and serve.
    pub survey: Survey,
    /// Where the image is; `None` for a stream.
    pub output: Option<PathBuf>,
    /// Bytes read and written.
    pub copied_bytes: u64,
    /// Bytes shared with the source.
    pub cloned_bytes: u64,
    /// What reading back found, if it was asked for.
    pub verification: Option<Verification>,
    /// The digest of the whole image, if it was asked for.
    pub digest: Option<(Algorithm, String)>,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
}

/// Merges the state of `replica` that `options` name into `output`.
///
/// # Errors
/// By kind: the source cannot be had (`Source`), a guard refuses (`Refused`), the output fails (`Output`), the
/// verification fails (`Unverified`), a signal came (`Interrupted`). An output file then does not exist.
pub fn merge(
    replica: &ReplicaDir,
    options: &MergeOptions,
    output: Output<'_>,
    run: &Run<'_>,
) -> Result<Merged> {
    let started = Instant::now();
    let source = replica.open_source(&options.source)?;
    if options.verify {
        refuse_changing_head(&source, replica, "leave --verify out, or read a snapshot with --at")?;
    }
    run.event(Event::Phase { name: "surveying", total_bytes: None });
    let survey = sweep::survey(&source.layers, source.volume_bytes, options.unwritten, run)?;
    run.event(Event::PhaseDone);
    let merge = Merge { source: &source, survey: &survey, options, run };
    let mut findings = merge.judge()?;
    options.also_written.iter().try_for_each(|path| file::refuse_source(path, &source.identity()))?;
    let done = match output {
        Output::File(path) => merge.to_file(&path)?,
        Output::Device(path, leave) => merge.to_device(&path, leave)?,
        Output::Stream(out) => merge.to_stream(out)?,
    };
    findings.extend(done.findings);
    Ok(Merged {
        view: source.view.clone(),
        volume_bytes: source.volume_bytes,
        chain: source.chain.clone(),
        output: done.path,
        copied_bytes: done.copied_bytes,
        cloned_bytes: done.cloned_bytes,
        verification: done.verification,
        digest: done.digest,
        findings,
        survey,
        duration: started.elapsed(),
    })
}

/// Refuses to compare anything with a head that changes meanwhile.
///
/// # Errors
/// `Usage` when the head is in use.
pub(super) fn refuse_changing_head(source: &Source, replica: &ReplicaDir, hint: &str) -> Result<()> {
    if source.live.is_live() && matches!(source.view, View::Head(_)) {
        return Err(Error::usage(
            "what is read of a head that is in use cannot be verified: it changes meanwhile",
        )
        .with_path(replica.path())
        .with_hint(hint));
    }
    Ok(())
}

/// What opening a source and surveying it has found; a damaged copy needs leave.
///
/// # Errors
/// `Refused` without that leave; `Source` when a layer cannot be read; interrupted when the run is cancelled.
pub(super) fn judge_source(
    source: &Source,
    survey: &Survey,
    unwritten: Unwritten,
    accept_copy_damage: bool,
    run: &Run<'_>,
) -> Result<Vec<Finding>> {
    let Source { layers, has_backing, volume_bytes, .. } = source;
    let found = judge::judge(layers, survey, *has_backing, *volume_bytes, unwritten);
    if !accept_copy_damage && found.iter().any(|finding| finding.code == Code::CopyFullyAllocated) {
        return Err(judge::refuse_copy_damage());
    }
    let inside = content::glance(source, survey, run)?;
    Ok(source.findings.iter().cloned().chain(found).chain(inside).collect())
}

/// What all outputs have in common.
struct Merge<'a> {
    source: &'a Source,
    survey: &'a Survey,
    options: &'a MergeOptions,
    run: &'a Run<'a>,
}

/// What came of one output.
#[derive(Default)]
struct Done {
    path: Option<PathBuf>,
    copied_bytes: u64,
    cloned_bytes: u64,
    verification: Option<Verification>,
    digest: Option<(Algorithm, String)>,
    findings: Vec<Finding>,
}

impl Merge<'_> {
    /// The findings so far; a damaged copy needs leave.
    fn judge(&self) -> Result<Vec<Finding>> {
        let MergeOptions { unwritten, accept_copy_damage, .. } = *self.options;
        judge_source(self.source, self.survey, unwritten, accept_copy_damage, self.run)
    }

    fn workers(&self) -> usize {
        self.options.workers.unwrap_or_else(pipeline::default_workers)
    }

    fn plan(&self) -> Plan<'_> {
        Plan::new(&self.source.layers, self.source.volume_bytes, self.options.unwritten).surveyed(self.survey)
    }

    fn to_file(&self, path: &Path) -> Result<Done> {
        let options = FileOptions {
            force: self.options.force,
            sync: self.options.sync,
            fill: self.options.sparse == Sparse::Never,
        };
        let output = OutputFile::create(path, self.source.volume_bytes, options, &self.source.identity())?;
        let clone = self.clonable_layers(&output)?;
        let shared = self.survey.layers.iter().zip(&clone).filter(|&(_, &clone)| clone);
        let shared_bytes = shared.map(|(layer, _)| layer.clonable_bytes).sum();
        output.make_room(self.survey.data_bytes.saturating_sub(shared_bytes))?;
        let receipt = match self.options.sparse {
            Sparse::Always => self.copy(&SkipZeros(&output), &clone)?,
            Sparse::Auto | Sparse::Never => self.copy(&output, &clone)?,
        };
        output.sync(self.run)?;
        let mut done = Done {
            verification: self.verify(&receipt, output.partial_path())?,
            digest: self.digest(output.partial_path())?,
            copied_bytes: receipt.copied_bytes,
            cloned_bytes: receipt.cloned_bytes,
            ..Done::default()
        };
        self.source.recheck()?;
        done.path = Some(output.finish(self.run)?);
        Ok(done)
    }

    fn to_device(&self, path: &Path, leave: DeviceLeave) -> Result<Done> {
        let target = guard::check(path, self.source.volume_bytes, &self.source.identity(), leave)?;
        let findings = target.findings();
        let mut sink = DeviceSink::new(target);
        if self.survey.data_bytes < self.source.volume_bytes {
            sink.look_if_fresh(self.run)?;
        }
        // That may have taken hours.
        sink.target().recheck()?;
        let done = self.fill_device(path, &mut sink).map_err(|e| {
            e.and("what the device holds now is not to be used: run the merge again, with --overwrite")
        })?;
        Ok(Done { findings, ..done })
    }

    /// Writes to a device. There is no name that could be withheld from it: after an error, it holds a part of the image, or
    /// a mix.
    fn fill_device(&self, path: &Path, sink: &mut DeviceSink) -> Result<Done> {
        let receipt = self.copy(&*sink, &[])?;
        self.run.event(Event::Phase { name: "syncing", total_bytes: None });
        if self.options.sync {
            sink.finish()?;
        }
        self.run.event(Event::PhaseDone);
        let done = Done {
            path: Some(path.to_path_buf()),
            verification: self.verify(&receipt, path)?,
            digest: self.digest(path)?,
            copied_bytes: receipt.copied_bytes,
            ..Done::default()
        };
        self.source.recheck()?;
        Ok(done)
    }

    fn to_stream(&self, out: &mut dyn Write) -> Result<Done> {
        let mut hasher = self.options.digest.map(Hasher::new);
        self.run.event(Event::Phase { name: "streaming", total_bytes: Some(self.source.volume_bytes) });
        stream::stream(&self.plan(), out, self.workers(), hasher.as_mut(), self.run)?;
        self.run.event(Event::PhaseDone);
        self.source.recheck()?;
        Ok(Done {
            copied_bytes: self.survey.data_bytes,
            digest: self.options.digest.zip(hasher.map(Hasher::finish)),
            ..Done::default()
        })
    }

    fn copy(&self, sink: &dyn Sink, clone: &[bool]) -> Result<Receipt> {
        let options = CopyOptions { workers: self.workers(), clone, sums: self.options.verify };
        self.run.event(Event::Phase { name: "copying", total_bytes: Some(self.survey.data_bytes) });
        let receipt = copy::copy(&self.plan(), sink, options, self.run)?;
        self.run.event(Event::PhaseDone);
        Ok(receipt)
    }

    fn verify(&self, receipt: &Receipt, output: &Path) -> Result<Option<Verification>> {
        if !self.options.verify {
            return Ok(None);
        }
        self.run.event(Event::Phase { name: "verifying", total_bytes: Some(self.survey.data_bytes) });
        let found = verify::verify(&self.plan(), receipt, output, self.workers(), self.run)?;
        self.run.event(Event::PhaseDone);
        if let Some(first) = found.differences.first() {
            return Err(Error::new(
                ErrorKind::Unverified,
                format!(
                    "what was read back differs from what was copied, in {} places, first between {} and {}",
                    found.differences.len(),
                    first.start_bytes,
                    first.end_bytes
                ),
            )
            .with_path(output)
            .with_hint(
                "the target disk, or this machine's memory, cannot be trusted: write somewhere else",
            ));
        }
        Ok(Some(found))
    }

    fn digest(&self, output: &Path) -> Result<Option<(Algorithm, String)>> {
        let Some(algorithm) = self.options.digest else { return Ok(None) };
        let length_bytes = self.source.volume_bytes;
        self.run.event(Event::Phase { name: "hashing", total_bytes: Some(length_bytes) });
        let digest = digest::digest(output, length_bytes, algorithm, self.run)?;
        self.run.event(Event::PhaseDone);
        Ok(Some((algorithm, digest)))
    }

    /// Sharing marks the source's extents as shared: never done to one that is in use.
    fn may_clone(&self) -> bool {
        self.options.clone && self.options.sparse == Sparse::Auto && !self.source.live.is_live()
    }

    /// For each layer, whether blocks can be shared with it; one file of each file system is tried.
    fn clonable_layers(&self, output: &OutputFile) -> Result<Vec<bool>> {
        let mut tried = HashMap::new();
        let mut clonable = Vec::with_capacity(self.source.layers.len());
        for layer in self.source.layers.iter() {
            let file = layer.plain_file().filter(|_| self.may_clone());
            let device = file.and_then(|file| file.metadata().ok()).map(|m| m.dev());
            clonable.push(match (file, device) {
                (Some(file), Some(device)) => match tried.get(&device) {
                    Some(&can) => can,
                    None => *tried.entry(device).or_insert(output.can_share_with(file)?),
                },
                _ => false,
            });
        }
        Ok(clonable)
    }
}
