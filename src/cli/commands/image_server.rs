//! `lhrecover image-server`: the process behind `mount`. Nobody calls it by hand.

use std::io::{self, BufReader};
use std::path::PathBuf;

use crate::cli::Outcome;
use crate::error::Result;
use crate::workflow::mount::serve;

/// Arguments of `image-server`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory that keeps track of the mount
    entry: PathBuf,
}

/// Serves.
///
/// # Errors
/// As [`serve::run`].
pub fn run(args: &Args) -> Result<Outcome> {
    let went_well = serve::run(&args.entry, BufReader::new(io::stdin()), &mut io::stdout())?;
    Ok(if went_well { Outcome::Clean } else { Outcome::Findings })
}
