//! `lhrecover diff`: what changed between two states.

use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::args::LookArgs;
use crate::cli::lines::Lines;
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::engine::pipeline::default_workers;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::model::finding::Severity;
use crate::report::diff as report;
use crate::workflow::diff::{By, DiffOptions, diff};

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Of one replica, the changes from the state --from to the state --at, or to the head, are told. Given something else after \
it, the state --from of the first, or its head, is compared with the state --at of the second, or its head, or with the \
image.

A sector that was written again with the same bytes has not changed. With --written it has: extents alone are looked at. \
With --files, the files that came, went, changed or have another name are told instead.

The exit code is 1 when anything changed.")]
pub struct Args {
    /// A replica directory, an image or a block device
    source: PathBuf,
    /// Another one
    other: Option<PathBuf>,
    /// The state of the first that changes are counted from: a snapshot's name, its file name, or a unique beginning of it
    #[arg(long, value_name = "SNAPSHOT")]
    from: Option<String>,
    /// List all ranges that changed, and not only the first ones
    #[arg(long, conflicts_with = "files")]
    ranges: bool,
    /// Take what was written between for changed, and read no data
    #[arg(long, conflicts_with = "files")]
    written: bool,
    /// Tell which files changed, in an ext2, ext3 or ext4 file system
    #[arg(long)]
    files: bool,
    /// Read all files, also those that look untouched by their inodes; two replicas' files are all read anyway
    #[arg(long, requires = "files")]
    contents: bool,
    /// How many threads read and compare
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(flatten)]
    look: LookArgs,
}

/// Compares.
///
/// # Errors
/// When a side cannot be opened or read, or there is nothing to compare with; differences are in the outcome.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    if args.look.partition.is_some() && !args.files {
        return Err(Error::usage("--partition says where files are, and they are not asked for")
            .with_hint("compare the files in it with --files"));
    }
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let found = diff(&args.options(), &run)?;
    let report = report::build(&found);
    if !ui.json {
        ui.findings(&report.findings);
    }
    ui.result(&report, &report::text(&report))?;
    if !ui.json {
        let lost = |e| Error::output("cannot read the changes back").caused_by(e);
        let mut lines = Lines::new(ui, &cancel);
        let listed = report::lines(&report).try_for_each(|line| lines.push(line.map_err(lost)?.as_bytes()));
        lines.end(listed)?;
    }
    let worst = report.findings.iter().map(|f| f.severity).max();
    Ok(Outcome::of(worst.max((!report.same).then_some(Severity::Warning))))
}

impl Args {
    fn options(&self) -> DiffOptions {
        DiffOptions {
            source: self.source.clone(),
            other: self.other.clone(),
            from: self.from.clone(),
            volume: self.look.options(),
            by: match (self.files, self.written) {
                (true, _) => By::Files { partition: self.look.partition, all_contents: self.contents },
                (false, true) => By::Written { all_ranges: self.ranges },
                (false, false) => By::Bytes { all_ranges: self.ranges },
            },
            workers: self.threads.map_or_else(default_workers, usize::from),
        }
    }
}
