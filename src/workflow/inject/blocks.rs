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
use crate::sink::device::DeviceSink;
use crate::sink::guard::{self, DeviceLeave, SourceIdentity};
use crate::sink::in_place::ImageFile;
use crate::sys::device::{Identity, Kind};
use crate::view::disk::Disk;
use crate::workflow::inject::files::target::TargetDevice;
use crate::workflow::inject::grow::{self, Growth};
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
    /// What it begins with now.
    pub after: Option<Guest>,
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
    /// Whether the file system was made to take all of the device.
    pub grown: bool,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// What reading back found, if it was asked for.
    pub verification: Option<Verification>,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
    /// How long the reading and, but for a dry run, the writing of what differs took.
    pub delta_duration: Duration,
}

/// Makes `target` hold `volume`.
///
/// # Errors
/// By kind: the source cannot be read (`Source`), a guard refuses (`Refused`), the target fails (`Output`), what is
/// read back differs (`Unverified`), a signal came (`Interrupted`).
pub fn inject(
    volume: &Volume,
    target: &Path,
    options: &BlocksOptions,
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
    let Done { identity, before, after, surplus_bytes, grown, copy, findings: of_target } =
        if is_device { inject.to_device()? } else { inject.to_file()? };
    volume.recheck()?;
    Ok(InjectedBlocks {
        target: target.to_path_buf(),
        identity,
        before,
        after,
        top_layer: volume.state().map(|view| view.file().to_owned()),
        volume_bytes,
        surplus_bytes,
        data_bytes: survey.data_bytes,
        fresh: copy.fresh,
        delta: copy.delta,
        grown,
        dry_run: options.dry_run,
        verification: copy.verification,
        findings: findings.into_iter().chain(of_target).collect(),
        duration: started.elapsed(),
        delta_duration: copy.delta_duration,
    })
}

/// What was done to a target.
struct Done {
    identity: Option<Identity>,
    before: String,
    after: Option<Guest>,
    surplus_bytes: u64,
    grown: bool,
    copy: Copied,
    findings: Vec<Finding>,
}

/// What came of the writing, and the reading back.
struct Copied {
    fresh: bool,
    delta: Delta,
    delta_duration: Duration,
    verification: Option<Verification>,
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
    fn to_device(&self) -> Result<Done> {
        let identity = self.volume.identity();
        let device = guard::check(self.target, self.plan.volume_bytes, &identity, self.options.leave)?;
        let growth = self.growth(device.surplus_bytes())?;
        let is_mapping = device.is_crypt_mapping();
        self.refuse_luks_mismatch(is_mapping, |buf, at| device.device().read_exact_at(buf, at))?;
        let zeros = self.zeros(device.kind());
        let name = device.identity().clone();
        let findings = device.findings();
        let surplus_bytes = device.surplus_bytes();
        let mut sink = DeviceSink::new(device);
        if self.survey.data_bytes < self.plan.volume_bytes {
            sink.look_if_fresh(self.run)?;
        }
        // That may have taken hours.
        sink.target().recheck()?;
        let before = sink.target().contents().to_string();
        let copy = self.carry_out(&sink, zeros, || sink.finish())?;
        let after = recognise(&sink, surplus_bytes.saturating_add(self.plan.volume_bytes))?;
        drop(sink);
        let grown = match growth.filter(|_| !self.options.dry_run) {
            Some(file_system) => self.grow(file_system, &identity).map(|()| true)?,
            None => false,
        };
        let findings = self.of_surplus(findings, grown)?;
        Ok(Done { identity: Some(name), before, after, surplus_bytes, grown, copy, findings })
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

    /// Has the file system take all of the device, which was let go of.
    fn grow(&self, file_system: FileSystem, identity: &SourceIdentity) -> Result<()> {
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
            }
        };
        grow().map_err(|e| e.and("the volume is on the device as it was; only growing it failed"))
    }

    /// Says of a device that is larger what can be done about it; once that is done it is none.
    fn of_surplus(&self, findings: Vec<Finding>, grown: bool) -> Result<Vec<Finding>> {
        let can_grow = FileSystem::of(guest::on_disk(&*self.volume.view)?)
            .is_some_and(|file_system| Growth::of(file_system.name).is_some());
        let say = |finding: Finding| match finding.code {
            Code::DeviceLarger if grown => None,
            Code::DeviceLarger if can_grow => {
                Some(finding.advise("--grow makes the file system take all of the device"))
            }
            _ => Some(finding),
        };
        Ok(findings.into_iter().filter_map(say).collect())
    }

    fn to_file(&self) -> Result<Done> {
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
        self.refuse_luks_mismatch(false, |buf, at| file.read_exact_at(buf, at))?;
        file.look_if_empty(self.run)?;
        file.recheck()?;
        let copy = self.carry_out(&file, self.zeros(Kind::Loop), || file.finish())?;
        Ok(Done {
            identity: None,
            before: file.contents().to_string(),
            after: recognise(&file, file.size_bytes())?,
            surplus_bytes: file.size_bytes().saturating_sub(self.plan.volume_bytes),
            grown: false,
            copy,
            findings: Vec::new(),
        })
    }

    fn zeros(&self, kind: Kind) -> Zeros {
        match self.options.zeros {
            ZeroPolicy::Auto if kind.may_zero_out() => Zeros::Differing,
            ZeroPolicy::Skip => Zeros::Differing,
            ZeroPolicy::Auto | ZeroPolicy::Write => Zeros::All,
        }
    }

    fn refuse_luks_mismatch(
        &self,
        is_mapping: bool,
        read: impl FnOnce(&mut [u8], u64) -> Result<()>,
    ) -> Result<()> {
        let source = guest::on_disk(&*self.volume.view)?;
        let target = guest::recognise(&guest::head(self.plan.volume_bytes, read)?);
        luks::refuse_mismatch(self.target, source, target, is_mapping, self.options.allow_luks_mismatch)
    }

    /// The writing, and the reading back.
    fn carry_out(
        &self,
        target: &dyn Target,
        zeros: Zeros,
        finish: impl FnOnce() -> Result<()>,
    ) -> Result<Copied> {
        let Inject { plan, options, run, .. } = *self;
        let workers = options.workers.unwrap_or_else(pipeline::default_workers);
        let fresh = !target.needs_zeros();
        let total = if fresh { self.survey.data_bytes } else { plan.volume_bytes };
        let name = if options.dry_run { "comparing" } else { "writing what differs" };
        run.event(Event::Phase { name, total_bytes: Some(total) });
        let began = Instant::now();
        let delta_options = DeltaOptions { workers, zeros, write: !options.dry_run };
        let delta = delta::delta(&plan, target, delta_options, run).map_err(|e| match options.dry_run {
            true => e,
            false => e.and(
                "the target holds a part of the volume now: run it again, with --overwrite, and it goes on",
            ),
        })?;
        let delta_duration = began.elapsed();
        run.event(Event::PhaseDone);
        let mut verification = None;
        if !options.dry_run {
            run.event(Event::Phase { name: "syncing", total_bytes: None });
            finish()?;
            run.event(Event::PhaseDone);
            if options.verify {
                verification = Some(self.verify(&delta, workers)?);
            }
        }
        Ok(Copied { fresh, delta, delta_duration, verification })
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
