//! What is done, in this order; each step leaves the device such that the next may fail.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use super::check::{self, Checked};
use super::compare::{self, Comparison};
use super::mkfs::{self, Making};
use super::place::{Place, Plan, head_of, inside_of};
use super::rsync::{self, Copied, Copy, TEMPORARY};
use super::survey::{self, Reading, Room, Sides};
use super::target::{For, MountedTarget};
use super::tree::{self, Tally, Walk};
use super::{Existing, FilesOptions, InjectedFiles, NOT_ALL_DELETED, NOT_DELETED, NOT_KEPT, Origin};
use crate::access::volume::Volume;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::guest::{self, facts};
use crate::model::finding::{Code, Finding};
use crate::view::disk::Disk;
use crate::workflow::inject::grow::{self, Growth};
use crate::workflow::inject::identity::Met;
use crate::workflow::mount::file_system::{FileSystem, Journal};
use crate::workflow::mount::state::Entry;
use crate::workflow::mount::{MountOptions, Mounted, mount_apart, teardown};
use crate::workflow::tool::Call;

/// How much of the source is read to learn how fast it is, and for how long at most.
const SAMPLE_BYTES: u64 = 256 << 20;
const SAMPLE_TIME: Duration = Duration::from_secs(3);

/// What all steps share.
pub(super) struct Steps<'a> {
    pub source: &'a Path,
    pub from: &'a Origin,
    pub place: &'a Place,
    pub options: &'a FilesOptions,
    pub run: &'a Run<'a>,
}

/// Said by a dry run of a device whose journal may hold more.
const PENDING_JOURNAL: &str = "the device's journal was not played back, as that would write to it: files that only it knows of are not in \
                               these numbers, and what becomes of them has to be said with --overwrite and --delete or --mix";

/// What came of writing.
struct Written {
    /// Whether files were there.
    had_files: bool,
    copied: Copied,
    target_tally: Tally,
    checked: Checked,
    comparison: Option<Comparison>,
}

impl Steps<'_> {
    /// Mounts the source, does all of it, and takes the source down again.
    pub fn carry_out(&self, volume: &Volume, met: &mut Option<Met>) -> Result<InjectedFiles> {
        let mkfs = self.mkfs()?;
        let mounted = mount_apart(self.source, &self.mount_options(), self.run)?;
        let done = self.with_source(&mounted, mkfs, volume, met);
        let taken_down = teardown::of(&mounted.entry);
        match (done, taken_down) {
            (Ok(done), Ok(taken_down)) => Ok(InjectedFiles { trouble: taken_down.trouble, ..done }),
            (Ok(_), Err(e)) => {
                Err(e.and("the files are on the device; what is left mounted: lhrecover umount --stale"))
            }
            (Err(e), Ok(_)) => Err(e),
            (Err(e), Err(left)) => {
                Err(e.and(&format!("not all of it could be taken down ({left}): lhrecover umount --stale")))
            }
        }
    }

    fn mount_options(&self) -> MountOptions {
        MountOptions {
            volume: self.options.volume.clone(),
            partition: self.from.inside.partition.as_ref().map(|partition| partition.number),
            journal: self.options.journal,
            overlay: self.options.overlay.clone(),
            ..MountOptions::default()
        }
    }

    /// What makes the file system, if one is to be made.
    fn mkfs(&self) -> Result<Option<Call>> {
        let FilesOptions { keep_uuid, tools, .. } = self.options;
        if self.place.plan != Plan::Make {
            return Ok(None);
        }
        let device_bytes = self.place.identity.size_bytes;
        let making = Making { keep_uuid: *keep_uuid, is_used: self.place.is_used, device_bytes };
        mkfs::call(&self.from.geometry, self.place.device.path(), making, tools, self.run).map(Some)
    }

    fn with_source(
        &self,
        mounted: &Mounted,
        mkfs: Option<Call>,
        volume: &Volume,
        met: &mut Option<Met>,
    ) -> Result<InjectedFiles> {
        let Steps { from, place, options, run, .. } = *self;
        let view = mounted.state.mountpoint.as_path();
        let entry = &mounted.entry;
        let source_tally = tree::tally(view, "counting the source's files", run)?;
        let had_files = self.look_at_files(entry)?;
        let file_system = match place.plan {
            Plan::Make => from.file_system,
            Plan::Keep(file_system) => file_system,
        };
        let mut done = InjectedFiles {
            target: place.device.path().to_path_buf(),
            identity: place.identity.clone(),
            before: place.before.clone(),
            inside_before: place.inside.clone(),
            after: None,
            inside_after: None,
            top_layer: volume.state().map(|view| view.file().to_owned()),
            volume_bytes: volume.view.size_bytes(),
            partition: mounted.partition,
            source_file_system: mounted.file_system.clone().unwrap_or((from.file_system.name, String::new())),
            target_file_system: file_system.name,
            mkfs: mkfs.as_ref().map(Call::text),
            existing: options.existing.filter(|_| had_files),
            surplus_bytes: place.surplus_bytes,
            growth_bytes: place.growth_bytes(options),
            copied: Copied::default(),
            source_tally,
            target_tally: None,
            checked: None,
            comparison: None,
            trouble: Vec::new(),
            notes: self.notes(mounted),
            dry_run: options.dry_run,
            estimate: None,
            findings: self.findings(volume),
            duration: Duration::ZERO,
        };
        if options.dry_run {
            let began = Instant::now();
            done.copied = self.would_copy(view, entry, file_system, &source_tally, had_files)?;
            done.estimate = Some(self.estimate(view, &done, began)?);
            done.notes.extend(place.has_pending_journal().then(|| PENDING_JOURNAL.to_owned()));
            return Ok(done);
        }
        *met = Some(place.met());
        let written = self.write(view, entry, mkfs, file_system, &source_tally, had_files);
        self.written(done, written.map_err(|e| self.and_how_to_go_on(e))?)
    }

    /// What was known before, and what came of writing.
    fn written(&self, mut done: InjectedFiles, written: Written) -> Result<InjectedFiles> {
        let Written { had_files, copied, target_tally, checked, comparison } = written;
        let held = self.place.device.hold()?;
        done.existing = self.options.existing.filter(|_| had_files);
        if done.existing == Some(Existing::Delete) && copied.is_partial {
            done.notes.push(if copied.deleted == 0 { NOT_DELETED } else { NOT_ALL_DELETED }.to_owned());
        }
        Ok(InjectedFiles {
            after: guest::recognise(&head_of(&held)?),
            inside_after: inside_of(&held),
            copied,
            target_tally: Some(target_tally),
            checked: Some(checked),
            comparison,
            ..done
        })
    }

    /// What is known of source and device, and that not all of the source shows.
    fn findings(&self, volume: &Volume) -> Vec<Finding> {
        let mut findings: Vec<_> = volume.findings.iter().chain(&self.place.findings).cloned().collect();
        if self.options.journal == Journal::Skip && self.from.journal == facts::Journal::Dirty {
            findings.push(
                Finding::new(
                    Code::JournalSkipped,
                    "the source's file system was not unmounted, and its journal is not played back",
                    "the last files and changes before the volume stopped are not copied",
                )
                .advise("--journal replay plays it back on a throw-away copy; the source stays as it is"),
            );
        }
        findings
    }

    /// What was copied stays, so that a second run need not begin anew.
    fn and_how_to_go_on(&self, e: Error) -> Error {
        match (e.kind(), self.options.existing) {
            (ErrorKind::Interrupted, Some(Existing::Mix)) => {
                e.and("what was copied stays: run it again, with --overwrite --mix, and it goes on")
            }
            (ErrorKind::Interrupted, _) => {
                e.and("what was copied stays: run it again, with --overwrite --delete, and it goes on")
            }
            _ => e,
        }
    }

    fn notes(&self, mounted: &Mounted) -> Vec<String> {
        let mut notes = mounted.notes.clone();
        if let Plan::Keep(kept) = self.place.plan {
            if kept != self.from.file_system {
                let (kept, source) = (kept.name, self.from.file_system.name);
                notes.push(format!(
                    "the device's file system is kept: it is {kept}, the source's is {source}"
                ));
            }
        }
        notes.extend(["lost+found", TEMPORARY].into_iter().filter_map(|name| {
            let dir = mounted.state.mountpoint.join(name);
            // A link would lead out of the volume, to this machine's files.
            let is_dir = fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir());
            let has_files = is_dir && fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some());
            has_files.then(|| {
                format!("the source has files in /{name}: they are neither copied nor counted; lhrecover mount shows them")
            })
        }));
        if self.place.surplus_bytes > 0 && self.place.growth_bytes(self.options) == 0 {
            let surplus_bytes = self.place.surplus_bytes;
            notes.push(match self.place.growth() {
                Some(_) => format!("the device's file system leaves {surplus_bytes} bytes of it unused: --grow makes it take them"),
                None => format!("the device's file system leaves {surplus_bytes} bytes of it unused"),
            });
        }
        notes.push(NOT_KEPT.to_owned());
        notes
    }

    /// Whether there are files on the device. Those must not be touched without leave.
    fn look_at_files(&self, entry: &Entry) -> Result<bool> {
        let Plan::Keep(file_system) = self.place.plan else { return Ok(false) };
        let mut mounted = self.place.device.mount(entry, file_system, For::Looking)?;
        let has_files = mounted.has_files()?;
        mounted.unmount()?;
        if has_files {
            self.refuse_files()?;
        }
        Ok(has_files)
    }

    fn refuse_files(&self) -> Result<()> {
        let refused = |what: &str, hint: &str| {
            Err(Error::refused(what).with_path(self.place.device.path()).with_hint(hint))
        };
        match (self.options.leave.overwrite, self.options.existing) {
            (true, Some(_)) => Ok(()),
            (true, None) => refused(
                "the device's file system has files, and what becomes of them was not said",
                "--delete makes it the same as the source; with --mix they stay, but a journal or WAL that is older or newer than a \
                 restored database beside it corrupts the database",
            ),
            (false, _) => refused(
                "the device's file system has files already",
                "give leave with --overwrite, and say what becomes of them: --delete (the device becomes the source) or --mix (they \
                 stay; a stale journal or WAL beside a restored database corrupts it)",
            ),
        }
    }

    fn would_copy(
        &self,
        view: &Path,
        entry: &Entry,
        file_system: FileSystem,
        tally: &Tally,
        had_files: bool,
    ) -> Result<Copied> {
        if self.place.plan == Plan::Make {
            return Ok(Copied { files: tally.files, bytes: tally.bytes, ..Copied::default() });
        }
        let mut mounted = self.place.device.mount(entry, file_system, For::Looking)?;
        // What has nothing on the other side differs, unread.
        let reading = if had_files { Reading::All } else { Reading::Larger(u64::MAX) };
        let point = mounted.point();
        let survey = survey::survey(self.sides(view, &point, tally, had_files, reading), self.run)?;
        let room = Room::at(&point, self.place.growth_bytes(self.options))?;
        mounted.unmount()?;
        self.refuse_without_room(room, &survey)?;
        Ok(survey.copied)
    }

    fn sides<'b>(
        &self,
        source: &'b Path,
        target: &'b Path,
        tally: &Tally,
        had_files: bool,
        reading: Reading,
    ) -> Sides<'b> {
        Sides {
            source,
            target,
            delete: self.deletes(had_files),
            reading,
            total_bytes: tally.bytes,
            workers: self.options.workers,
        }
    }

    fn refuse_without_room(&self, room: Room, survey: &survey::Survey) -> Result<()> {
        let may_be_lost = self.options.existing != Some(Existing::Mix);
        room.refuse_more(&survey.need, self.place.device.path(), may_be_lost)
    }

    fn deletes(&self, had_files: bool) -> bool {
        had_files && self.options.existing == Some(Existing::Delete)
    }

    /// How long the real run would take: reading at the rate of the source, writing as fast.
    #[allow(clippy::cast_precision_loss)] // An estimate.
    fn estimate(&self, view: &Path, done: &InjectedFiles, began: Instant) -> Result<Duration> {
        let comparing = began.elapsed();
        let (bytes, time) = self.sample(view)?;
        let passes = if self.options.verify { 4 } else { 2 };
        let seconds = if bytes == 0 { 0.0 } else { time.as_secs_f64() / bytes as f64 };
        let copying = Duration::try_from_secs_f64(seconds * done.copied.bytes as f64 * f64::from(passes));
        Ok(comparing.saturating_add(copying.unwrap_or(Duration::MAX)))
    }

    /// How long it takes to read so many bytes of the source's files.
    fn sample(&self, view: &Path) -> Result<(u64, Duration)> {
        let began = Instant::now();
        let mut read_bytes = 0;
        let mut piece = vec![0; 1 << 20];
        for (path, meta) in Walk::new(view).flatten() {
            if read_bytes >= SAMPLE_BYTES || began.elapsed() >= SAMPLE_TIME {
                break;
            }
            if !meta.is_file() {
                continue;
            }
            let Ok(mut file) = File::open(view.join(path)) else { continue };
            // What cannot be read does not count.
            while let Ok(len) = file.read(&mut piece) {
                self.run.check()?;
                read_bytes += len as u64;
                if len == 0 || began.elapsed() >= SAMPLE_TIME {
                    break;
                }
            }
        }
        Ok((read_bytes, began.elapsed()))
    }

    fn write(
        &self,
        view: &Path,
        entry: &Entry,
        mkfs: Option<Call>,
        file_system: FileSystem,
        tally: &Tally,
        had_files: bool,
    ) -> Result<Written> {
        let Steps { place, options, run, .. } = *self;
        if let Some(call) = mkfs {
            drop(place.device.hold()?);
            mkfs::make(&call, place.device.path(), &options.tools, run)?;
        }
        self.grow_if(Growth::Unmounted, || grow::ext(place.device.path(), &options.tools, run))?;
        let mounted = place.device.mount(entry, file_system, For::Writing)?;
        // A journal that was just played back may have brought some.
        let brought = !had_files && mounted.has_files()?;
        if brought {
            self.refuse_files()?;
        }
        let had_files = had_files || brought;
        self.grow_if(Growth::Mounted, || grow::xfs(&mounted.point(), &options.tools, run))?;
        let copied = self.fill(view, &mounted, tally, had_files)?;
        run.event(Event::Phase { name: "syncing", total_bytes: None });
        mounted.finish()?;
        run.event(Event::PhaseDone);
        let checked = check::check(&place.device, file_system.name, &options.tools, run)?;
        let (target_tally, comparison) = self.look_back(view, entry, file_system, &copied, tally)?;
        Ok(Written { had_files, copied, target_tally, checked, comparison })
    }

    fn grow_if(&self, growth: Growth, grow: impl Fn() -> Result<()>) -> Result<()> {
        if self.place.growth_bytes(self.options) == 0 || self.place.growth() != Some(growth) {
            return Ok(());
        }
        if growth == Growth::Unmounted {
            drop(self.place.device.hold()?);
        }
        grow()
    }

    fn fill(&self, view: &Path, mounted: &MountedTarget, tally: &Tally, had_files: bool) -> Result<Copied> {
        let target = &mounted.point();
        if self.place.plan != Plan::Make {
            // What may stay from an earlier run takes no room any more.
            mounted.remove_temporary()?;
            let room = Room::at(target, 0)?;
            let sides = self.sides(view, target, tally, had_files, Reading::Larger(room.bytes));
            self.refuse_without_room(room, &survey::survey(sides, self.run)?)?;
        }
        mounted.make_temporary()?;
        let delete = self.deletes(had_files);
        let copy = Copy { source: view, target, compare: had_files, delete, total_bytes: tally.bytes };
        let copied = rsync::copy(copy, &self.options.tools, self.run)?;
        mounted.remove_temporary()?;
        mounted.set_time_of_root(view);
        Ok(copied)
    }

    /// Looks at what is on the device, which was unmounted: from the device, that is.
    fn look_back(
        &self,
        view: &Path,
        entry: &Entry,
        file_system: FileSystem,
        copied: &Copied,
        tally: &Tally,
    ) -> Result<(Tally, Option<Comparison>)> {
        let Steps { place, options, run, .. } = *self;
        let mut mounted = place.device.mount(entry, file_system, For::Looking)?;
        let target = mounted.point();
        let target_tally = tree::tally(&target, "counting the device's files", run)?;
        let comparison = options
            .verify
            .then(|| compare::compare(view, &target, &copied.failed, tally.bytes, options.workers, run));
        let comparison = comparison.transpose()?;
        mounted.unmount()?;
        Ok((target_tally, comparison))
    }
}
