//! `lhrecover find`: where in the volume is it?

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::ValueEnum;
use jiff::Timestamp;

use crate::cli::Outcome;
use crate::cli::args::{LookArgs, size};
use crate::cli::browse::{Opened, paths_in_image};
use crate::cli::lines::Lines;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::report::browse::{self as report, Each, Entries, FileReport, StoreReport, Stores, Streamed};
use crate::workflow::browse::search::{self, Wanted};
use crate::workflow::browse::{Found, Glob, LastLink};

/// Arguments of `find`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the paths of all files below PATH that are as asked for, one to a line; with --db, the databases and other stores of data \
that are known by their first bytes or by what is in their directory, with version. Files that have neither the name nor the \
length of a database, nor a log beside them, are looked into as well, but for those after the first 10,000. Links are not followed.")]
pub struct Args {
    /// The replica directory, or an image of a volume
    #[arg(value_name = "REPLICA_DIR|IMAGE")]
    source: PathBuf,
    /// Where to look; a relative path begins at the root [default: /]
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Databases: SQLite, PostgreSQL, MySQL, MariaDB and other well-known ones
    #[arg(long, conflicts_with_all = ["name", "types", "min_size", "newer", "null"])]
    db: bool,
    /// Only files whose name, without the directory, is like this: *, ?, [a-z]
    #[arg(long, value_name = "PATTERN")]
    name: Option<OsString>,
    /// Only files of this type (may be given again)
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<Type>,
    /// Only files of this size or larger (suffixes K, M, G, T: powers of 1024)
    #[arg(long, value_name = "BYTES", value_parser = size)]
    min_size: Option<u64>,
    /// Only files whose data changed after this time, such as 2026-08-10T09:00:00Z
    #[arg(long, value_name = "TIME")]
    newer: Option<Timestamp>,
    /// End each path with a NUL instead of a line end, and do not escape anything in it
    #[arg(short = '0', long)]
    null: bool,
    #[command(flatten)]
    look: LookArgs,
}

/// Types of files, as find(1) has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Type {
    /// Regular files.
    F,
    /// Directories.
    D,
    /// Symbolic links.
    L,
    /// Named pipes.
    P,
    /// Sockets.
    S,
    /// Character devices.
    C,
    /// Block devices.
    B,
}

/// Finds.
///
/// # Errors
/// When the volume cannot be opened, or a path leads nowhere. What cannot be read otherwise is a finding.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let opened = Opened::new(&args.source, &args.look, ui)?;
    let starts = opened.browser.resolve(&paths_in_image(&args.paths), LastLink::Keep)?;
    let starts = opened.browser.into_directories(starts);
    if args.db {
        stores(&opened, &starts, ui)?
    } else {
        args.files(&opened, starts, ui)?
    }
    opened.finish()
}

fn stores(opened: &Opened<'_>, starts: &[Found], ui: &Ui) -> Result<()> {
    let run = opened.run();
    let all = |each: Each<'_, StoreReport>| {
        search::stores(&opened.browser, starts, &run, &opened.troubles, &mut |store| {
            each(&StoreReport::from(&store))
        })
    };
    if ui.json {
        let stores = Streamed::new(&all);
        return opened.print_json(Stores { stores: &stores }).map_err(|e| stores.failed().unwrap_or(e));
    }
    let mut lines = Lines::new(ui, &opened.cancel);
    let work = all(&mut |store| lines.push(report::store(store).as_bytes()));
    lines.end(work)
}

impl Args {
    fn files(&self, opened: &Opened<'_>, starts: Vec<Found>, ui: &Ui) -> Result<()> {
        let (browser, troubles, run) = (&opened.browser, &opened.troubles, opened.run());
        let wanted = self.wanted();
        if ui.json {
            let all = |each: Each<'_, FileReport>| {
                search::files(browser, starts.clone(), &wanted, true, &run, troubles, &mut |entry| {
                    each(&FileReport::from(&entry))
                })
            };
            let entries = Streamed::new(&all);
            return opened
                .print_json(Entries { entries: &entries })
                .map_err(|e| entries.failed().unwrap_or(e));
        }
        let mut lines = Lines::new(ui, &opened.cancel);
        let work = search::files(browser, starts, &wanted, false, &run, troubles, &mut |entry| {
            if self.null {
                lines.push(&entry.path)?;
                lines.push(b"\0")
            } else {
                lines.push(report::name(&entry.path).as_bytes())?;
                lines.push(b"\n")
            }
        });
        lines.end(work)
    }

    fn wanted(&self) -> Wanted {
        let letter = |kind: &Type| match kind {
            Type::F => 'f',
            Type::D => 'd',
            Type::L => 'l',
            Type::P => 'p',
            Type::S => 's',
            Type::C => 'c',
            Type::B => 'b',
        };
        Wanted {
            name: self.name.as_ref().map(|pattern| Glob::new(pattern.as_bytes())),
            kinds: self.types.iter().map(letter).collect(),
            min_bytes: self.min_size,
            newer_than: self.newer.map(|at| (at.as_second(), at.subsec_nanosecond().into())),
        }
    }
}
