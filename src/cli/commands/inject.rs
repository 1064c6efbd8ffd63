//! `lhrecover inject`: the data back into a live block device.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::mount::JournalArg;
use crate::access::volume::Volume;
use crate::cli::Outcome;
use crate::cli::args::{DeviceArgs, LookArgs, OverlayArgs};
use crate::cli::report_file::ReportFile;
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::event::{Cancel, Run};
use crate::report::inject as report;
use crate::sink::file::FileOptions;
use crate::sink::guard::SourceIdentity;
use crate::workflow::inject::blocks::{self, BlocksOptions, ZeroPolicy};
use crate::workflow::inject::files::{self, Existing, FilesOptions};
use crate::workflow::inject::identity::Met;
use crate::workflow::mount::Journal;
use crate::workflow::tool::Tools;

/// Arguments of `inject`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
blocks: the device is written only where it differs from the volume, and read back afterwards. It keeps everything, UUIDs and \
containers too. files: the volume's files (ext2, ext3, ext4, XFS) are copied with rsync to the file system on the device; if \
there is none, one like the source's is made. An interrupted run is run again, with --overwrite (and --delete, for files), and \
goes on.")]
pub struct Args {
    /// A replica directory, or an image of a volume
    source: PathBuf,
    /// The device to write to, such as `/dev/longhorn/PV`
    device: PathBuf,
    /// How: the exact volume, sector by sector, or its files
    #[arg(long, value_name = "MODE")]
    mode: ModeArg,
    /// Compare afterwards: the device with the volume, or with --mode files the content of every file on both sides [default:
    /// true for blocks, false for files]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    verify: Option<bool>,
    /// Write nothing; say what would be written, and how long that would take
    #[arg(long)]
    dry_run: bool,
    /// Make a file system that is smaller than the device take all of it
    #[arg(long)]
    grow: bool,
    /// Write a LUKS container over a plain volume, or a plain volume over a container
    #[arg(long)]
    allow_luks_mismatch: bool,
    /// Keep the report in this file, as --json prints it
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Replace the report's file
    #[arg(long, requires = "report")]
    force: bool,
    /// How many threads read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(flatten)]
    blocks: BlocksArgs,
    #[command(flatten)]
    files: FilesArgs,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    target: DeviceArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// What matters where blocks are injected.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "With --mode blocks")]
struct BlocksArgs {
    /// Which zeros are written to a device that is not empty: as its kind needs (all, where discarded sectors may come back
    /// after a restart), all, or only those where it reads as something else [default: auto]
    #[arg(long, value_name = "WHICH")]
    zeros: Option<ZerosArg>,
    /// Write to an image file in place, if the target is one
    #[arg(long)]
    allow_file: bool,
}

/// What matters where files are injected.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "With --mode files")]
struct FilesArgs {
    /// What to do with the source's journal: skip it, or replay it on a throw-away copy, so that the last writes are there
    /// [default: skip]
    #[arg(long, value_name = "WHAT")]
    journal: Option<JournalArg>,
    /// Where the device has files, delete those that the source does not have: the device becomes the source
    #[arg(long, conflicts_with = "mix")]
    delete: bool,
    /// Where the device has files, keep them beside the restored ones. A stale journal or WAL beside a restored database
    /// corrupts it
    #[arg(long)]
    mix: bool,
    /// Give a file system that is made the source's UUID
    #[arg(long)]
    keep_uuid: bool,
}

/// How the data goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// The exact volume, sector by sector.
    Blocks,
    /// Its files, with rsync.
    Files,
}

/// Which zeros are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ZerosArg {
    /// As the kind of device needs.
    Auto,
    /// All.
    Write,
    /// Only where the device reads as something else.
    Skip,
}

/// Injects.
///
/// # Errors
/// As [`blocks::inject`] and [`files::inject`]; and bad usage.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    args.refuse_what_means_nothing()?;
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let volume = Volume::open(&args.source, &args.look.options())?;
    let file = args.report.as_deref().map(|path| args.report_file(path, &volume)).transpose()?;
    match args.mode {
        ModeArg::Blocks => args.run_blocks(&volume, file, ui, &run),
        ModeArg::Files => args.run_files(&volume, file, ui, &run),
    }
}

impl Args {
    /// The file for the report: a place that cannot be written to is found before the work.
    fn report_file(&self, path: &Path, volume: &Volume) -> Result<ReportFile> {
        if SourceIdentity::at(&self.device).is_at(path) {
            return Err(Error::refused("the report would take the place of the target")
                .with_path(path)
                .with_hint("name another file"));
        }
        let options = FileOptions { force: self.force, sync: true, fill: false };
        ReportFile::create(path, &volume.identity(), options)
    }

    fn run_blocks(
        &self,
        volume: &Volume,
        file: Option<ReportFile>,
        ui: &Ui,
        run: &Run<'_>,
    ) -> Result<Outcome> {
        let mut met = None;
        let injected = blocks::inject(volume, &self.device, &self.blocks_options(), &mut met, run);
        let (injected, file) = self.kept_if_failed(injected, "blocks", met.as_ref(), file, ui)?;
        let report = report::of_blocks(&self.source, &injected);
        if !ui.json {
            ui.findings(&report.findings);
        }
        let shown = ui.result(&report, &report::text(&report));
        if let Some(file) = file {
            file.finish(&report, run)?;
        }
        shown?;
        Ok(Outcome::of(report.findings.iter().map(|finding| finding.severity).max()))
    }

    fn run_files(
        &self,
        volume: &Volume,
        file: Option<ReportFile>,
        ui: &Ui,
        run: &Run<'_>,
    ) -> Result<Outcome> {
        let mut met = None;
        let injected = files::inject(volume, &self.device, &self.files_options(), &mut met, run);
        let (injected, file) = self.kept_if_failed(injected, "files", met.as_ref(), file, ui)?;
        let report = report::files::of_files(&self.source, &injected);
        if !ui.json {
            ui.findings(&report.findings);
        }
        let shown = ui.result(&report, &report::files::text(&report));
        if let Some(file) = file {
            file.finish(&report, run)?;
        }
        shown?;
        let outcome = Outcome::of(report.findings.iter().map(|finding| finding.severity).max());
        Ok(if injected.is_complete() { outcome } else { Outcome::Findings })
    }

    /// The result and the report's file. When the work failed after something may have been written, that is what the file
    /// tells, and the error is returned.
    fn kept_if_failed<T>(
        &self,
        done: Result<T>,
        mode: &'static str,
        met: Option<&Met>,
        file: Option<ReportFile>,
        ui: &Ui,
    ) -> Result<(T, Option<ReportFile>)> {
        let error = match done {
            Ok(done) => return Ok((done, file)),
            Err(error) => error,
        };
        if let (Some(met), Some(file)) = (met, file) {
            let report = report::of_failure(mode, &self.source, &self.device, met, &error);
            // Also when the work was stopped.
            let run = Run { observer: ui, cancel: &Cancel::default() };
            if let Err(e) = file.finish_failed(&report, &run) {
                ui.trouble(&e);
            }
        }
        Err(error)
    }

    /// An option that has no meaning in this mode is more likely a mistake than a habit.
    fn refuse_what_means_nothing(&self) -> Result<()> {
        let given = |options: &[(bool, &'static str)]| {
            options.iter().find(|(is_given, _)| *is_given).map(|(_, name)| *name)
        };
        let files = &self.files;
        let of_files = given(&[
            (files.journal.is_some(), "--journal"),
            (self.overlay.is_given(), "--overlay and --overlay-max"),
            (files.delete, "--delete"),
            (files.mix, "--mix"),
            (files.keep_uuid, "--keep-uuid"),
            (self.look.partition.is_some(), "--partition"),
        ]);
        let of_blocks =
            given(&[(self.blocks.zeros.is_some(), "--zeros"), (self.blocks.allow_file, "--allow-file")]);
        let (misplaced, mode) = match self.mode {
            ModeArg::Blocks => (of_files, "files"),
            ModeArg::Files => (of_blocks, "blocks"),
        };
        if let Some(name) = misplaced {
            return Err(Error::usage(format!("{name}: for --mode {mode} only")));
        }
        if self.overlay.is_given() && self.journal() == Journal::Skip {
            return Err(Error::usage(
                "--overlay and --overlay-max are for --journal replay: nothing is written without it",
            ));
        }
        Ok(())
    }

    fn journal(&self) -> Journal {
        self.files.journal.map(Journal::from).unwrap_or_default()
    }

    fn blocks_options(&self) -> BlocksOptions {
        BlocksOptions {
            volume: self.look.options(),
            leave: self.target.leave(),
            allow_file: self.blocks.allow_file,
            allow_luks_mismatch: self.allow_luks_mismatch,
            zeros: match self.blocks.zeros {
                None | Some(ZerosArg::Auto) => ZeroPolicy::Auto,
                Some(ZerosArg::Write) => ZeroPolicy::Write,
                Some(ZerosArg::Skip) => ZeroPolicy::Skip,
            },
            verify: self.verify.unwrap_or(true),
            grow: self.grow,
            dry_run: self.dry_run,
            tools: Tools::here(),
            workers: self.threads.map(usize::from),
        }
    }

    fn files_options(&self) -> FilesOptions {
        let existing = [(self.files.delete, Existing::Delete), (self.files.mix, Existing::Mix)];
        FilesOptions {
            volume: self.look.options(),
            partition: self.look.partition,
            leave: self.target.leave(),
            allow_luks_mismatch: self.allow_luks_mismatch,
            journal: self.journal(),
            overlay: self.overlay.space(),
            keep_uuid: self.files.keep_uuid,
            existing: existing.into_iter().find(|(is_given, _)| *is_given).map(|(_, existing)| existing),
            verify: self.verify.unwrap_or(false),
            grow: self.grow,
            dry_run: self.dry_run,
            workers: self.threads.map(usize::from),
            tools: Tools::here(),
        }
    }
}
