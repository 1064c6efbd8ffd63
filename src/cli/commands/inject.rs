//! `lhrecover inject`: the data back into a live block device.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::Outcome;
use crate::cli::args::{DeviceArgs, LookArgs};
use crate::cli::report_file::ReportFile;
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::event::Run;
use crate::report::inject as report;
use crate::sink::file::FileOptions;
use crate::workflow::inject::blocks::{self, BlocksOptions, ZeroPolicy};

/// Arguments of `inject`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The device is written only where it differs from the volume, and read back afterwards. An interrupted run is run again, \
with --overwrite, and goes on.")]
pub struct Args {
    /// A replica directory, or an image of a volume
    source: PathBuf,
    /// The device to write to, such as `/dev/longhorn/PV`
    device: PathBuf,
    /// How: the exact volume, sector by sector
    #[arg(long, value_name = "MODE")]
    mode: ModeArg,
    /// Which zeros are written to a device that is not empty: as its kind needs (all, where discarded sectors may come back
    /// after a restart), all, or only those where it reads as something else
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    zeros: ZerosArg,
    /// Read the device back and compare
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    verify: bool,
    /// Write nothing; say what would be written, and how long that would take
    #[arg(long)]
    dry_run: bool,
    /// Write to an image file in place, if the target is one
    #[arg(long)]
    allow_file: bool,
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
    target: DeviceArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// How the data goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// The exact volume, sector by sector.
    Blocks,
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
/// As [`blocks::inject`]; and bad usage.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let file = args.report.as_deref().map(|path| {
        let options = FileOptions { force: args.force, sync: true, fill: false };
        ReportFile::create(path, "report", &args.source, options)
    });
    let file = file.transpose()?;
    let ModeArg::Blocks = args.mode;
    let injected = blocks::inject(&args.source, &args.device, &args.blocks(), &run)?;
    let report = report::of_blocks(&args.source, &injected);
    if let Some(file) = file {
        file.finish(&report, &run)?;
    }
    if !ui.json {
        ui.findings(&report.findings);
    }
    ui.result(&report, &report::text(&report))?;
    Ok(Outcome::of(report.findings.iter().map(|finding| finding.severity).max()))
}

impl Args {
    fn blocks(&self) -> BlocksOptions {
        BlocksOptions {
            volume: self.look.options(),
            leave: self.target.leave(),
            allow_file: self.allow_file,
            allow_luks_mismatch: self.allow_luks_mismatch,
            zeros: match self.zeros {
                ZerosArg::Auto => ZeroPolicy::Auto,
                ZerosArg::Write => ZeroPolicy::Write,
                ZerosArg::Skip => ZeroPolicy::Skip,
            },
            verify: self.verify,
            dry_run: self.dry_run,
            workers: self.threads.map(usize::from),
        }
    }
}
