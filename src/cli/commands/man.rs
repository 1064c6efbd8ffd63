//! `lhrecover man`: the manual, made from the same definitions as the arguments.

use std::path::PathBuf;

use clap::CommandFactory;

use crate::cli::ui::Ui;
use crate::cli::{Cli, Outcome};
use crate::error::{Error, Result};

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write one page per command into this directory, instead of printing the main page
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints or writes the manual.
///
/// # Errors
/// When it cannot be written.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let command = Cli::command();
    match &args.dir {
        Some(dir) => clap_mangen::generate_to(command, dir)
            .map_err(|e| Error::output("cannot write the manual").with_path(dir).caused_by(e))?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command)
                .render(&mut page)
                .map_err(|e| Error::output("cannot write the manual").caused_by(e))?;
            ui.print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Outcome::Clean)
}
