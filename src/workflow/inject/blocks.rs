//! The exact volume, sector by sector, into a device: only what differs is written.
//!
//! It keeps UUIDs, containers, volume groups and databases on raw volumes as they were. Run again after an interruption it
//! goes on, and what it did is read back and compared.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::access::volume::{Volume, VolumeOptions};
use crate::engine::delta::{self, Delta, DeltaOptions, Zeros};
use crate::engine::pipeline;
use crate::engine::plan::Plan;
use crate::engine::sweep::{self, Survey};
use crate::engine::verify::{self, Verification};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::guest::{self, Guest};
use crate::model::finding::{Code, Finding};
use crate::sink::Target;
use crate::sink::contents::Contents;
use crate::sink::device::DeviceSink;
use crate::sink::guard::{self, DeviceLeave, SourceIdentity};
use crate::sink::in_place::ImageFile;
use crate::sys::device::{Identity, Kind};
use crate::view::disk::Disk;
use crate::workflow::inject::files::target::TargetDevice;
use crate::workflow::inject::grow::{self, Growth};
use crate::workflow::inject::identity::{self, Inside, Met};
use crate::workflow::inject::luks;
use crate::workflow::merge;
use crate::workflow::mount::file_system::FileSystem;
use crate::workflow::tool::Tools;

/// Which zeros are written to a target that is not fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroPolicy {
    /// As the kind of target needs: all of them where discarded sectors may come back, else what differs.
    #[default]
    Auto,
    /// All of them.
    Write,
    /// Those where the target reads as something else.
    Skip,
}

/// How blocks are injected.
#[derive(Clone, Debug)]
pub struct BlocksOptions {
    /// Which state of the volume.
    pub volume: VolumeOptions,
    /// What leave there is to write to the device.
    pub leave: DeviceLeave,
    /// The target may be an image file.
    pub allow_file: bool,
    /// Write an encrypted volume over a plain one, or the other way round.
    pub allow_luks_mismatch: bool,
    /// Which zeros are written.
    pub zeros: ZeroPolicy,
    /// Read all of it back and compare.
    pub verify: bool,
    /// Make a file system take all of a device that is larger than the volume.
    pub grow: bool,
    /// Write nothing, and say what would be done.
    pub dry_run: bool,
    /// Where tools are.
    pub tools: Tools,
    /// How many threads work; as many as suit the machine when `None`.
    pub workers: Option<usize>,
}

/// What was done, or would be.
#[derive(Debug)]
pub struct InjectedBlocks {
    /// The target, as it was named.
    pub target: PathBuf,
    /// What the device is called; `None` for an image file.
    pub identity: Option<Identity>,
    /// What the target carried before, in words.
    pub before: String,
    /// What was on it, by what that says of itself.
    pub inside_before: Option<Inside>,
    /// What it begins with now.
    pub after: Option<Guest>,
    /// What is on it now; `None` when nothing was written.
    pub inside_after: Option<Inside>,
    /// The file name of the top layer; `None` for an image.
    pub top_layer: Option<String>,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// Bytes the target has beyond it.
    pub surplus_bytes: u64,
    /// Bytes that layers serve with data.
    pub data_bytes: u64,
    /// Whether the target read as zeros throughout.
    pub fresh: bool,
    /// What differed, and was written.
    pub delta: Delta,
    /// Bytes that the file system was made to take beyond the volume, or would be.
    pub growth_bytes: u64,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// How long the real run would take, but for the reading back; `None` unless dry.
    pub estimate: Option<Duration>,
    /// What reading back found, if it was asked for.
    pub verification: Option<Verification>,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
}

/// Makes `target` hold `volume`.
///
/// # Errors
/// By kind: the source cannot be read (`Source`), a guard refuses (`Refused`), the target fails (`Output`), what is
/// read back differs (`Unverified`), a signal came (`Interrupted`). Once anything may have been written, `met` has what the
/// target was before.
pub fn inject(
    volume: &Volume,
    target: &Path,
    options: &BlocksOptions,
    met: &mut Option<Met>,
    run: &Run<'_>,
) -> Result<InjectedBlocks> {
    let started = Instant::now();
    run.event(Event::Phase { name: "surveying", total_bytes: None });
    let volume_bytes = volume.view.size_bytes();
    let unwritten = options.volume.unwritten;
    let survey = sweep::survey(volume.view.layers(), volume_bytes, unwritten, run)?;
    run.event(Event::PhaseDone);
    let findings = match &volume.source {
        Some(source) => {
            merge::judge_source(source, &survey, unwritten, options.volume.accept_copy_damage, run)?
        }
        None => volume.findings.clone(),
    };
    let plan = Plan::new(volume.view.layers(), volume_bytes, unwritten).surveyed(&survey);
    let inject = Inject { volume, survey: &survey, plan, target, options, run };
    let is_device =
        fs::metadata(target).map_or(target.starts_with("/dev"), |m| m.file_type().is_block_device());
    let Done { met, after, inside_after, surplus_bytes, growth_bytes, copy, findings: of_target } =
        if is_device { inject.to_device(met)? } else { inject.to_file(met)? };
    volume.recheck()?;
    Ok(InjectedBlocks {
        target: target.to_path_buf(),
        identity: met.device,
        before: met.before,
        inside_before: met.inside,
        after,
        inside_after,
        top_layer: volume.state().map(|view| view.file().to_owned()),
        volume_bytes,
        surplus_bytes,
        data_bytes: survey.data_bytes,
        fresh: copy.fresh,
        delta: copy.delta,
        growth_bytes,
        dry_run: options.dry_run,
        estimate: copy.estimate,
        verification: copy.verification,
        findings: findings.into_iter().chain(of_target).collect(),
        duration: started.elapsed(),
    })
}

/// What was done to a target.
struct Done {
    met: Met,
    after: Option<Guest>,
    inside_after: Option<Inside>,
    surplus_bytes: u64,
    growth_bytes: u64,
    copy: Copied,
    findings: Vec<Finding>,
}

/// What came of the writing, and the reading back.
struct Copied {
    fresh: bool,
    delta: Delta,
    estimate: Option<Duration>,
    verification: Option<Verification>,
}

/// With less than this read, in bytes, how fast that was tells nothing; and how much more is read for it, for how long.
const SAMPLE_BYTES: u64 = 64 << 20;
const SAMPLE_TIME: Duration = Duration::from_secs(1);
const SAMPLE_PIECE_BYTES: usize = 1 << 20;

/// How fast something is read.
#[derive(Clone, Copy)]
struct Rate {
    bytes: u64,
    time: Duration,
}

impl Rate {
    fn add(&mut self, more: Rate) {
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.time = self.time.saturating_add(more.time);
    }

    /// How long so many bytes take.
    #[allow(clippy::cast_precision_loss)] // An estimate.
    fn time_for(self, bytes: u64) -> Duration {
        let seconds = self.time.as_secs_f64() / self.bytes.max(1) as f64 * bytes as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

/// What both sorts of target have in common.
struct Inject<'a> {
    volume: &'a Volume,
    survey: &'a Survey,
    plan: Plan<'a>,
    target: &'a Path,
    options: &'a BlocksOptions,
    run: &'a Run<'a>,
}

impl Inject<'_> {
    fn to_device(&self, kept: &mut Option<Met>) -> Result<Done> {
        let identity = self.volume.identity();
        let device = guard::check(self.target, self.plan.volume_bytes, &identity, self.options.leave)?;
        let growth = self.growth(device.surplus_bytes())?;
        let is_mapping = device.is_crypt_mapping();
        let carries_data = device.contents() != Contents::Nothing;
        let of_luks = self.refuse_luks_mismatch(carries_data, is_mapping, |buf, at| {
            device.device().read_exact_at(buf, at)
        })?;
        let zeros = self.zeros(device.kind());
        let name = device.identity().clone();
        let findings = device.findings().into_iter().chain(of_luks).collect();
        let (size_bytes, surplus_bytes) = (device.device().size_bytes(), device.surplus_bytes());
        let mut sink = DeviceSink::new(device);
        if self.survey.data_bytes < self.plan.volume_bytes {
            sink.look_if_fresh(self.run)?;
        }
        // That may have taken hours.
        sink.target().recheck()?;
        let met = Met {
            device: Some(name),
            before: sink.target().contents().to_string(),
            inside: inside_of(&sink, size_bytes),
        };
        self.keep(kept, &met);
        let copy = self.carry_out(&sink, size_bytes, zeros, || sink.finish())?;
        let is_written = !self.options.dry_run;
        let after = if is_written { recognise(&sink, size_bytes)? } else { None };
        let mut inside_after = if is_written { inside_of(&sink, size_bytes) } else { None };
        drop(sink);
        let growth_bytes = if growth.is_some() { surplus_bytes } else { 0 };
        if let Some(file_system) = growth.filter(|_| is_written) {
            inside_after = self.grow(file_system, &identity)?;
        }
        let findings = self.of_surplus(findings, growth_bytes > 0)?;
        Ok(Done { met, after, inside_after, surplus_bytes, growth_bytes, copy, findings })
    }

    /// From here on something may have been written.
    fn keep(&self, kept: &mut Option<Met>, met: &Met) {
        *kept = Some(met.clone()).filter(|_| !self.options.dry_run);
    }

    /// The file system that is to grow by so much, if that was asked for.
    fn growth(&self, surplus_bytes: u64) -> Result<Option<FileSystem>> {
        if !self.options.grow || surplus_bytes == 0 {
            return Ok(None);
        }
        let guest = guest::on_disk(&*self.volume.view)?;
        let known = FileSystem::of(guest).and_then(|known| Some((known, Growth::of(known.name)?)));
        let Some((file_system, growth)) = known else {
            let name = guest.map_or("nothing that is known", |guest| guest.name);
            return Err(Error::usage(format!("--grow is for ext and XFS, and the volume holds {name}"))
                .with_path(self.target)
                .with_hint("leave it out, and grow what is inside with its own tools"));
        };
        growth.check_available(&self.options.tools)?;
        Ok(Some(file_system))
    }

    /// Has the file system take all of the device, which was let go of; tells what that is now.
    fn grow(&self, file_system: FileSystem, identity: &SourceIdentity) -> Result<Option<Inside>> {
        let BlocksOptions { leave, tools, .. } = self.options;
        let grow = || {
            let (device, held) =
                TargetDevice::take(self.target, self.plan.volume_bytes, identity, leave.any_device)?;
            drop(held);
            match Growth::of(file_system.name) {
                Some(Growth::Mounted) => {
                    device.mounted_apart(file_system, |point| grow::xfs(point, tools, self.run))
                }
                _ => grow::ext(self.target, tools, self.run),
            }?;
            let held = device.hold()?;
            Ok(identity::inside(held.device().size_bytes(), |buf, at| held.device().read_exact_at(buf, at)))
        };
        grow().map_err(|e: Error| e.and("the volume is on the device as it was; only growing it failed"))
    }

    /// Says of a device that is larger what can be done about it; where that is done it is none.
    fn of_surplus(&self, findings: Vec<Finding>, grows: bool) -> Result<Vec<Finding>> {
        let can_grow = FileSystem::of(guest::on_disk(&*self.volume.view)?)
            .is_some_and(|file_system| Growth::of(file_system.name).is_some());
        let say = |finding: Finding| match finding.code {
            Code::DeviceLarger if grows => None,
            Code::DeviceLarger if can_grow => {
                Some(finding.advise("--grow makes the file system take all of the device"))
            }
            _ => Some(finding),
        };
        Ok(findings.into_iter().filter_map(say).collect())
    }

    fn to_file(&self, kept: &mut Option<Met>) -> Result<Done> {
        if self.options.grow {
            return Err(Error::usage("--grow is for devices").with_path(self.target).with_hint(
                "an image is grown by hand: e2fsck -f and resize2fs, or xfs_growfs where it is mounted",
            ));
        }
        if !self.options.allow_file {
            return Err(Error::refused("the target is not a block device")
                .with_path(self.target)
                .with_hint("name the device, such as /dev/longhorn/<pv>; to write to an image file in place, give leave with --allow-file"));
        }
        let overwrite = self.options.leave.overwrite;
        let mut file =
            ImageFile::open(self.target, self.plan.volume_bytes, overwrite, &self.volume.identity())?;
        let carries_data = file.contents() != Contents::Nothing;
        let of_luks =
            self.refuse_luks_mismatch(carries_data, false, |buf, at| file.read_exact_at(buf, at))?;
        file.look_if_empty(self.run)?;
        file.recheck()?;
        let size_bytes = file.size_bytes();
        let before = file.contents().to_string();
        let met = Met { device: None, before, inside: inside_of(&file, size_bytes) };
        self.keep(kept, &met);
        let copy = self.carry_out(&file, size_bytes, self.zeros(Kind::Loop), || file.finish())?;
        let is_written = !self.options.dry_run;
        Ok(Done {
            met,
            after: if is_written { recognise(&file, size_bytes)? } else { None },
            inside_after: if is_written { inside_of(&file, size_bytes) } else { None },
            surplus_bytes: size_bytes.saturating_sub(self.plan.volume_bytes),
            growth_bytes: 0,
            copy,
            findings: of_luks.into_iter().collect(),
        })
    }

    fn zeros(&self, kind: Kind) -> Zeros {
        match self.options.zeros {
            ZeroPolicy::Auto if kind.may_zero_out() => Zeros::Differing,
            ZeroPolicy::Skip => Zeros::Differing,
            ZeroPolicy::Auto | ZeroPolicy::Write => Zeros::All,
        }
    }

    /// Refuses to mix encrypted and plain volumes up, and tells what is to be known of a device that is neither.
    fn refuse_luks_mismatch(
        &self,
        carries_data: bool,
        is_mapping: bool,
        read: impl FnOnce(&mut [u8], u64) -> Result<()>,
    ) -> Result<Option<Finding>> {
        let source = guest::on_disk(&*self.volume.view)?;
        let target = guest::recognise(&guest::head(self.plan.volume_bytes, read)?);
        let allowed = self.options.allow_luks_mismatch;
        luks::refuse_mismatch(self.target, source, target, carries_data, is_mapping, allowed)?;
        Ok(luks::of_target(self.target, source, target))
    }

    /// The writing, and the reading back, each with what to do when it fails.
    fn carry_out(
        &self,
        target: &dyn Target,
        size_bytes: u64,
        zeros: Zeros,
        finish: impl FnOnce() -> Result<()>,
    ) -> Result<Copied> {
        let fresh = !target.needs_zeros();
        if self.options.dry_run {
            return self.try_out(target, size_bytes, zeros);
        }
        let go_on = |e: Error| {
            match (e.kind(), fresh && zeros == Zeros::All) {
            (ErrorKind::Unverified, _) => e,
            (_, true) => e.and(
                "the target holds a part of the volume now: run it again, with --overwrite --zeros skip, and it goes on; it was all \
                 zeros before, so what reads as zeros now never held anything else",
            ),
            (_, false) => e.and(
                "the target holds a part of the volume now: run it again, with --overwrite, and it goes on",
            ),
        }
        };
        let delta = self.write(target, zeros, finish).map_err(go_on)?;
        let verification = self.options.verify.then(|| self.verify(&delta, self.workers())).transpose();
        let verification = verification.map_err(|e| match e.kind() {
            ErrorKind::Unverified => e,
            _ => e.and(
                "all of it was written, and only reading it back was not done: lhrecover verify REPLICA_DIR DEVICE, with \
                 the same --at, does that and writes nothing (for an image: cmp)",
            ),
        })?;
        Ok(Copied { fresh, delta, estimate: None, verification })
    }

    fn write(&self, target: &dyn Target, zeros: Zeros, finish: impl FnOnce() -> Result<()>) -> Result<Delta> {
        let fresh = !target.needs_zeros();
        let total = if fresh { self.survey.data_bytes } else { self.plan.volume_bytes };
        let delta = self.delta("writing what differs", total, target, zeros)?;
        self.run.event(Event::Phase { name: "syncing", total_bytes: None });
        finish()?;
        self.run.event(Event::PhaseDone);
        Ok(delta)
    }

    /// What would be written, and how long that would take: as long as reading took, and writing as fast as that.
    fn try_out(&self, target: &dyn Target, size_bytes: u64, zeros: Zeros) -> Result<Copied> {
        let fresh = !target.needs_zeros();
        // Zeros that are written whatever is there are not read.
        let reads_all = !fresh && zeros == Zeros::Differing;
        let total = if reads_all { self.plan.volume_bytes } else { self.survey.data_bytes };
        let began = Instant::now();
        let delta = self.delta("comparing", total, target, zeros)?;
        let mut reading = Rate {
            bytes: self.survey.data_bytes.saturating_add(delta.compared_bytes),
            time: began.elapsed(),
        };
        let comparing = reading.time;
        if reading.bytes < SAMPLE_BYTES {
            reading.add(self.sample(target, size_bytes)?);
        }
        let writing = reading.time_for(delta.data_bytes.saturating_add(delta.zero_bytes));
        Ok(Copied { fresh, delta, estimate: Some(comparing.saturating_add(writing)), verification: None })
    }

    fn delta(&self, name: &str, total_bytes: u64, target: &dyn Target, zeros: Zeros) -> Result<Delta> {
        self.run.event(Event::Phase { name, total_bytes: Some(total_bytes) });
        let options = DeltaOptions { workers: self.workers(), zeros, write: !self.options.dry_run };
        let delta = delta::delta(&self.plan, target, options, self.run)?;
        self.run.event(Event::PhaseDone);
        Ok(delta)
    }

    fn workers(&self) -> usize {
        self.options.workers.unwrap_or_else(pipeline::default_workers)
    }

    /// How fast the target is read, from its start.
    fn sample(&self, target: &dyn Target, size_bytes: u64) -> Result<Rate> {
        let began = Instant::now();
        let mut bytes = 0;
        let mut piece = vec![0; SAMPLE_PIECE_BYTES];
        while bytes < size_bytes.min(SAMPLE_BYTES) && began.elapsed() < SAMPLE_TIME {
            self.run.check()?;
            let len = usize::try_from(size_bytes - bytes)
                .map_or(SAMPLE_PIECE_BYTES, |left| left.min(SAMPLE_PIECE_BYTES));
            target.read_exact_at(&mut piece[..len], bytes)?;
            bytes += len as u64;
        }
        Ok(Rate { bytes, time: began.elapsed() })
    }

    fn verify(&self, delta: &Delta, workers: usize) -> Result<Verification> {
        let total_bytes = Some(self.survey.data_bytes);
        self.run.event(Event::Phase { name: "verifying", total_bytes });
        let mut found = verify::verify(&self.plan, &delta.receipt, self.target, workers, self.run)?;
        self.run.event(Event::PhaseDone);
        found.read_bytes = self.survey.data_bytes;
        let Some(first) = found.differences.first() else { return Ok(found) };
        Err(Error::new(
            ErrorKind::Unverified,
            format!(
                "what was read back differs from the volume, in {} places, first between {} and {}",
                found.differences.len(),
                first.start_bytes,
                first.end_bytes
            ),
        )
        .with_path(self.target)
        .with_hint("the device, or this machine's memory, cannot be trusted: write somewhere else"))
    }
}

/// What a target of that size begins with.
fn recognise(target: &dyn Target, size_bytes: u64) -> Result<Option<Guest>> {
    let head = guest::head(size_bytes, |buf, at| target.read_exact_at(buf, at))?;
    Ok(guest::recognise(&head))
}

/// What is on a target of that size by what it says of itself.
fn inside_of(target: &dyn Target, size_bytes: u64) -> Option<Inside> {
    identity::inside(size_bytes, |buf, at| target.read_exact_at(buf, at))
}
