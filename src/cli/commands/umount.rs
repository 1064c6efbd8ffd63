//! `lhrecover umount`: take down what `mount` has put up.

use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::report::mount as report;
use crate::workflow::mount::state::Entry;
use crate::workflow::mount::teardown::{self, TakenDown};

/// Arguments of `umount`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where `mount` has mounted it
    #[arg(required_unless_present_any = ["stale", "list", "entry"])]
    mountpoint: Option<PathBuf>,
    /// Take down what crashes have left, and nothing that is in order
    #[arg(long, conflicts_with_all = ["mountpoint", "list"])]
    stale: bool,
    /// Show what is mounted
    #[arg(long, conflicts_with = "mountpoint")]
    list: bool,
    /// The directory that keeps track of a mount; how the process behind it has itself taken down
    #[arg(long, hide = true, conflicts_with_all = ["mountpoint", "stale", "list"])]
    entry: Option<PathBuf>,
}

/// Unmounts.
///
/// # Errors
/// `Refused` when it is in use, or was not mounted by us.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    if args.list {
        let listed = report::listed(&teardown::known()?);
        ui.result(&listed, &report::listed_text(&listed))?;
        return Ok(Outcome::Clean);
    }
    if args.stale {
        return show(ui, teardown::stale()?);
    }
    let taken_down = match (&args.entry, &args.mountpoint) {
        (Some(dir), _) => teardown::of(&Entry::at(dir))?,
        (None, Some(mountpoint)) => teardown::at(mountpoint)?,
        (None, None) => return Err(Error::usage("no mount point is named")),
    };
    show(ui, vec![Ok(taken_down)])
}

fn show(ui: &Ui, results: Vec<Result<TakenDown>>) -> Result<Outcome> {
    let done = results.iter().filter_map(|result| result.as_ref().ok());
    let failed = results.iter().filter_map(|result| result.as_ref().err());
    let shown = report::unmounted(done, failed);
    let warnings = shown.unmounted.iter().flat_map(|down| &down.trouble).chain(&shown.failed);
    let mut outcome = Outcome::Clean;
    for warning in warnings {
        outcome = Outcome::Findings;
        ui.warning(warning);
    }
    ui.result(&shown, &report::unmounted_text(&shown))?;
    Ok(outcome)
}
