//! `lhrecover ls`: what is in the volume?

use std::ffi::OsString;
use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::args::LookArgs;
use crate::cli::browse::{Opened, paths_in_image};
use crate::cli::lines::Lines;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::report::browse::{self as report, Each, Entries, FileReport, Streamed};
use crate::workflow::browse::{FileEntry, LastLink, List, Listed};

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Files are read straight out of the volume's ext2, ext3 or ext4 file system, with its journal replayed in memory: nothing is \
mounted, copied or written, and no root is needed where the replica's files may be read.

Owners are numbers, since the names are the volume's own; times are UTC. With --json everything is listed, hidden files and \
extended attributes too.")]
pub struct Args {
    /// The replica directory, or an image of a volume
    #[arg(value_name = "REPLICA_DIR|IMAGE")]
    source: PathBuf,
    /// What to list; a relative path begins at the root [default: /]
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// With type, mode, links, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Hidden files, too
    #[arg(short, long)]
    all: bool,
    /// What is below directories, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Directories themselves, not what is in them
    #[arg(short, long, conflicts_with = "recursive")]
    directory: bool,
    #[command(flatten)]
    look: LookArgs,
}

/// Lists.
///
/// # Errors
/// When the volume cannot be opened, or a path leads nowhere. What cannot be read otherwise is a finding.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let opened = Opened::new(&args.source, &args.look, ui)?;
    let (browser, run, troubles) = (&opened.browser, opened.run(), &opened.troubles);
    let mut starts = browser.resolve(&paths_in_image(&args.paths), LastLink::Keep)?;
    if !args.directory {
        starts = browser.into_directories(starts);
    }
    let list = List { directories: !args.directory, recursive: args.recursive, xattrs: ui.json };
    let several = starts.len() > 1 || args.recursive;

    if ui.json {
        let all = |each: Each<'_, FileReport>| {
            list.run(browser.fs(), starts.clone(), &run, troubles, &mut |listed| match listed {
                Listed::Directory(_) => Ok(()),
                Listed::File(entry) => each(&FileReport::from(&*entry)),
            })
        };
        let entries = Streamed::new(&all);
        opened.print_json(Entries { entries: &entries }).map_err(|e| entries.failed().unwrap_or(e))?;
    } else {
        let mut lines = Lines::new(ui, &opened.cancel);
        let mut first = true;
        let work = list.run(browser.fs(), starts, &run, troubles, &mut |listed| {
            let line = match &listed {
                Listed::Directory(_) if !several => return Ok(()),
                Listed::Directory(path) => {
                    format!("{}{}:\n", if first { "" } else { "\n" }, report::name(path))
                }
                Listed::File(entry) if !args.all && entry.name().starts_with(b".") => return Ok(()),
                Listed::File(entry) => args.line(entry),
            };
            first = false;
            lines.push(line.as_bytes())
        });
        lines.end(work)?;
    }
    opened.finish()
}

impl Args {
    fn line(&self, entry: &FileEntry) -> String {
        let shown = report::name(entry.name());
        if self.long { report::long(&FileReport::from(entry), &shown) } else { shown + "\n" }
    }
}
