//! The command line: the only place that prints, asks the environment, and turns errors into exit codes.

pub mod args;
pub mod browse;
pub mod commands;
pub mod lines;
pub mod report_file;
pub mod signals;
pub mod stream;
pub mod ui;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cli::args::UiArgs;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::model::finding::Severity;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, clean.
    Clean,
    /// Done, with findings of severity warning or worse, or with differences.
    Findings,
}

impl Outcome {
    /// The outcome of work whose most serious finding is this.
    pub fn of(worst: Option<Severity>) -> Self {
        if worst >= Some(Severity::Warning) { Outcome::Findings } else { Outcome::Clean }
    }
}

/// Recovers Longhorn volumes from replica directories, without Longhorn and without writing to them.
#[derive(Debug, Parser)]
#[command(name = "lhrecover", version, propagate_version = true, max_term_width = 110)]
#[command(after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How to show it.
    #[command(flatten)]
    pub ui: UiArgs,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the volume that a replica directory holds to a file, a block device or a stream
    Merge(commands::merge::Args),
    /// Show what a replica directory holds: its layers as a tree, its flags, and everything that is wrong or doubtful
    Inspect(commands::inspect::Args),
    /// Tell what changed between two states of a replica, or between two replicas, images or devices
    Diff(Box<commands::diff::Args>),
    /// Draw which layer serves what: a strip in the terminal, a picture, or a page
    Map(commands::map::Args),
    /// Find the replicas of every volume, rank them, and say why
    Scan(commands::scan::Args),
    /// Verify a replica: against the checksums that the engine recorded, an image, another replica, or earlier digests
    Verify(commands::verify::Args),
    /// Copy a replica directory, or put it into an archive, such that holes and written zeros stay what they are; check
    /// such a copy
    Preserve(commands::preserve::Args),
    /// Serve the volume over NBD, with every snapshot as an export of its own, until interrupted
    Serve(commands::serve::Args),
    /// Mount a volume's file system, or its image, without copying anything
    Mount(commands::mount::Args),
    /// Take down what `mount` has put up, also what a crash has left of it
    Umount(commands::umount::Args),
    /// The process behind `mount`
    #[command(hide = true)]
    ImageServer(commands::image_server::Args),
    /// Write the data back into a block device, such as a fresh Longhorn volume's
    Inject(Box<commands::inject::Args>),
    /// List files straight out of the ext2, ext3 or ext4 file system in a volume, with no copy and no root
    Ls(commands::ls::Args),
    /// Print files straight out of the file system in a volume
    Cat(commands::cat::Args),
    /// Find files, or databases, in the file system in a volume
    Find(commands::find::Args),
    /// Copy files and directories out of the file system in a volume
    Extract(commands::extract::Args),
    /// Check what a volume holds: its file system, before and after its journal is replayed, and the databases in it
    Check(Box<commands::check::Args>),
    /// Print shell completions
    Completions(commands::completions::Args),
    /// Print the manual page, or write one page per command
    Man(commands::man::Args),
}

const EXIT_CODES: &str = "\
Exit codes:
  0    done, clean
  1    done, with findings of severity warning or worse; or a verification failed, or diff found differences
  2    could not start: bad usage, or something the environment lacks
  3    the source is unusable: broken chain, damaged metadata, unreadable data
  4    the output failed: no space, device error, closed pipe
  5    refused by a guard; the message names the flag that gives leave, if one does
  6    an outside program failed
  130  interrupted";

/// Runs the program with the given arguments, the program's name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = match Cli::command().try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(e) => {
            // Nothing can be said when standard error is gone.
            let _ = e.print();
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    let ui = Ui::new(&cli.ui);
    match dispatch(cli.command, &ui) {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Findings) => ExitCode::from(1),
        Err(e) => {
            ui.error(&e);
            ExitCode::from(e.kind().exit_code())
        }
    }
}

fn dispatch(command: Command, ui: &Ui) -> Result<Outcome> {
    match command {
        Command::Merge(args) => commands::merge::run(args, ui),
        Command::Inspect(args) => commands::inspect::run(&args, ui),
        Command::Diff(args) => commands::diff::run(&args, ui),
        Command::Map(args) => commands::map::run(&args, ui),
        Command::Scan(args) => commands::scan::run(&args, ui),
        Command::Verify(args) => commands::verify::run(&args, ui),
        Command::Preserve(args) => commands::preserve::run(&args, ui),
        Command::Serve(args) => commands::serve::run(&args, ui),
        Command::Mount(args) => commands::mount::run(&args, ui),
        Command::Umount(args) => commands::umount::run(&args, ui),
        Command::ImageServer(args) => commands::image_server::run(&args),
        Command::Inject(args) => commands::inject::run(&args, ui),
        Command::Ls(args) => commands::ls::run(&args, ui),
        Command::Cat(args) => commands::cat::run(&args, ui),
        Command::Find(args) => commands::find::run(&args, ui),
        Command::Extract(args) => commands::extract::run(&args, ui),
        Command::Check(args) => commands::check::run(&args, ui),
        Command::Completions(args) => commands::completions::run(&args, ui),
        Command::Man(args) => commands::man::run(&args, ui),
    }
}
