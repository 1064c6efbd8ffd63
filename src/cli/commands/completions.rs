//! `lhrecover completions`: made from the same definitions as the arguments.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::ui::Ui;
use crate::cli::{Cli, Outcome};
use crate::error::Result;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Prints the completions.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lhrecover", &mut script);
    ui.print(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Clean)
}
