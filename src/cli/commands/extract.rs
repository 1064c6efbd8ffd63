//! `lhrecover extract`: files and directories out of the volume.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

use crate::cli::Outcome;
use crate::cli::args::LookArgs;
use crate::cli::browse::{Opened, paths_in_image};
use crate::cli::ui::Ui;
use crate::engine::pipeline::default_workers;
use crate::error::Result;
use crate::report::extract::{self as report, ExtractReport};
use crate::report::finding::FindingReport;
use crate::workflow::browse::LastLink;
use crate::workflow::browse::extract::{ExtractOptions, extract};

/// Arguments of `extract`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each PATH comes out below the target directory under its whole path, as tar does it: extract ... /var/lib/db --to out makes \
out/var/lib/db. Modes, times, holes, links, pipes, extended attributes and access control lists are kept; owners and devices \
need root. What cannot be kept is said; the time at which a file was made never can be. The target directory itself gets what the \
volume's root directory has, if that is extracted and the target was empty.

Run again, it goes on where it was: a file that has its size and time is finished, and only gets the attributes that it lacks; one of \
more than 64 MiB is gone on with, unless --no-sync is given or the volume's state is another; whatever else an earlier run has \
left unfinished (.lhrecover-*.partial) is removed. What is there and differs is left alone without --force. Links in the target are not \
followed, and nothing is written outside of it.")]
pub struct Args {
    /// The replica directory, or an image of a volume
    #[arg(value_name = "REPLICA_DIR|IMAGE")]
    source: PathBuf,
    /// What to extract, with everything below it; a relative path begins at the root [default: /]
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// The directory to extract to; it is made if it is not there
    #[arg(short = 'C', long, value_name = "DIR")]
    to: PathBuf,
    /// Replace files in the target that are something else; never directories
    #[arg(long)]
    force: bool,
    /// Leave out owners, and do not say so
    #[arg(long)]
    no_owner: bool,
    /// Do not wait until everything is on the disk; a large file that is cut short then begins anew
    #[arg(long)]
    no_sync: bool,
    /// How many threads copy
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(flatten)]
    look: LookArgs,
}

/// Extracts.
///
/// # Errors
/// When the volume cannot be opened, a path leads nowhere, or the target cannot be written to. What cannot be read or kept is
/// a finding.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let started = Instant::now();
    let opened = Opened::new(&args.source, &args.look, ui)?;
    let starts = opened.browser.resolve(&paths_in_image(&args.paths), LastLink::Keep)?;
    let options = ExtractOptions {
        force: args.force,
        no_owner: args.no_owner,
        no_sync: args.no_sync,
        workers: args.threads.map_or_else(default_workers, usize::from),
    };
    let (extracted, left) =
        extract(&opened.browser, starts, &args.to, &options, &opened.troubles, &opened.run())?;
    opened.browser.recheck()?;
    let mut findings = opened.findings();
    findings.extend(left);
    findings.sort_by_key(|f| (std::cmp::Reverse(f.severity()), f.code));
    let report = ExtractReport::new(
        opened.report(),
        &args.to,
        extracted,
        findings.iter().map(FindingReport::from).collect(),
        started.elapsed(),
    );
    let outcome = opened.shown(&findings);
    ui.result(&report, &report::text(&report))?;
    Ok(outcome)
}
