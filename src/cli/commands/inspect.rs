//! `lhrecover inspect`: the chain as a tree, and the findings of the chain doctor.

use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::args::VolumeArgs;
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::engine::diagnose::diagnose;
use crate::error::Result;
use crate::event::Run;
use crate::replica::ReplicaDir;
use crate::report::inspect as report;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The replica directory: the one that holds volume.meta and the .img files
    replica_dir: PathBuf,
    #[command(flatten)]
    volume: VolumeArgs,
}

/// Inspects. A replica that cannot be opened is shown as far as it can be.
///
/// # Errors
/// When the directory is not there or is no replica directory; when interrupted.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let replica = ReplicaDir::open(&args.replica_dir)?;
    let diagnosis = diagnose(&replica, &args.volume.options(), args.volume.unwritten(), &run)?;
    let report = report::build(&replica, &diagnosis);
    ui.result(&report, &report::text(&report))?;
    if ui.quiet && !ui.json {
        ui.findings(&report.findings);
    }
    Ok(Outcome::of(diagnosis.worst()))
}
