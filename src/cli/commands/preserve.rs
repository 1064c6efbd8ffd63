//! `lhrecover preserve`: the safe copy to make before anything is touched.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::ArgGroup;

use crate::cli::Outcome;
use crate::cli::signals::cancel_on_signals;
use crate::cli::stream::{Stdin, exit_when_stuck, stdout};
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::replica::ReplicaDir;
use crate::report::finding::FindingReport;
use crate::report::preserve as report;
use crate::workflow::preserve::archive::{To, archive, check_archive};
use crate::workflow::preserve::check::check;
use crate::workflow::preserve::unpack::unpack;
use crate::workflow::preserve::{PreserveOptions, Preserved, preserve};

/// Arguments of `preserve`.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("mode").args(["clone", "check", "archive", "unpack", "check_copy"])))]
#[command(override_usage = "lhrecover preserve <REPLICA_DIR> <COPY_DIR> [--clone | --check]
       lhrecover preserve <REPLICA_DIR> --archive <FILE>
       lhrecover preserve --unpack <FILE> <COPY_DIR>
       lhrecover preserve --check-copy <COPY_DIR | FILE>")]
pub struct Args {
    /// The replica directory, and the directory that becomes the copy: empty, not there yet, or an unfinished copy
    #[arg(value_name = "DIR", num_args = 0..=2)]
    dirs: Vec<PathBuf>,
    /// Share blocks with the source instead of copying them (XFS, btrfs): quick, and no second copy
    #[arg(long)]
    clone: bool,
    /// Compare an earlier copy with the source, and with its manifest
    #[arg(long)]
    check: bool,
    /// Compare an earlier copy, or an archive, with its manifest alone
    #[arg(long, value_name = "COPY")]
    check_copy: Option<PathBuf>,
    /// Make one file that any medium can hold, instead of a directory; `-` for standard output
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    /// Make a copy of what is in such a file; `-` for standard input
    #[arg(long, value_name = "FILE")]
    unpack: Option<PathBuf>,
    /// Replace the archive file if it exists
    #[arg(long, requires = "archive")]
    force: bool,
    /// Copy though another process has the replica open for writing; if it changes meanwhile, that is an error
    #[arg(long)]
    allow_live: bool,
    /// How many threads read and write; more than cores is good, as they mostly wait
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

/// Copies, or checks a copy.
///
/// # Errors
/// As [`preserve`] and [`check`]; and bad usage.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    if let Some(copy) = &args.check_copy {
        let [] = args.dirs("--check-copy")?;
        return if copy.is_file() {
            compare_archive(copy, ui, &run)
        } else {
            compare(None, copy, args, ui, &run)
        };
    }
    if let Some(from) = &args.unpack {
        let [copy] = args.dirs("--unpack")?;
        return take_out(from, copy, args, ui, &run);
    }
    if let Some(to) = &args.archive {
        let [source] = args.dirs("--archive")?;
        return put_in(source, to, args, ui, &run);
    }
    let [source, copy] = args.dirs("a copy")?;
    if args.check {
        return compare(Some(source), copy, args, ui, &run);
    }
    let options = PreserveOptions {
        clone: args.clone,
        allow_live: args.allow_live,
        workers: args.threads.map(usize::from),
    };
    let preserved = preserve(&ReplicaDir::open(source)?, copy, options, &run)?;
    show(source, &preserved, ui)
}

impl Args {
    /// The directories, of which this way of working takes just so many.
    fn dirs<const N: usize>(&self, what: &str) -> Result<[&Path; N]> {
        let dirs: Vec<_> = self.dirs.iter().map(PathBuf::as_path).collect();
        <[&Path; N]>::try_from(dirs).map_err(|dirs| {
            let given = dirs.len();
            Error::usage(format!("{what} takes {N} directories besides, and {given} are given"))
                .with_hint("lhrecover preserve --help shows the ways to use it")
        })
    }
}

fn compare(source: Option<&Path>, copy: &Path, args: &Args, ui: &Ui, run: &Run<'_>) -> Result<Outcome> {
    let replica = source.map(ReplicaDir::open).transpose()?;
    let checked = check(replica.as_ref(), copy, args.threads.map(usize::from), run)?;
    let report = report::build_check(source, copy, &checked);
    end(&report.findings, ui, || ui.result(&report, &report::check_text(&report)))
}

fn put_in(source: &Path, to: &Path, args: &Args, ui: &Ui, run: &Run<'_>) -> Result<Outcome> {
    let replica = ReplicaDir::open(source)?;
    if to != Path::new("-") {
        let to = To::File(to.to_path_buf(), args.force);
        return show(source, &archive(&replica, to, args.allow_live, run)?, ui);
    }
    if ui.json {
        return Err(Error::usage("--json and an archive cannot both go to standard output")
            .with_hint("the archive has its manifest in it: --check-copy FILE --json shows it"));
    }
    let mut out = stdout()?;
    exit_when_stuck(run.cancel, None);
    let preserved = archive(&replica, To::Stream(&mut out), args.allow_live, run)?;
    let report = report::build(source, &preserved);
    end(&report.findings, ui, || {
        ui.note(&report::text(&report));
        Ok(())
    })
}

fn take_out(from: &Path, copy: &Path, args: &Args, ui: &Ui, run: &Run<'_>) -> Result<Outcome> {
    let workers = args.threads.map(usize::from);
    let preserved = if from == Path::new("-") {
        unpack(Stdin::open(run.cancel)?, copy, workers, run)?
    } else {
        let open = File::open(from);
        let file = open.map_err(|e| Error::source("cannot open the archive").with_path(from).caused_by(e))?;
        unpack(file, copy, workers, run)?
    };
    show(from, &preserved, ui)
}

fn compare_archive(path: &Path, ui: &Ui, run: &Run<'_>) -> Result<Outcome> {
    let checked = check_archive(path, run)?;
    let report = report::build_check(None, path, &checked);
    end(&report.findings, ui, || ui.result(&report, &report::check_text(&report)))
}

fn show(source: &Path, preserved: &Preserved, ui: &Ui) -> Result<Outcome> {
    let report = report::build(source, preserved);
    end(&report.findings, ui, || ui.result(&report, &report::text(&report)))
}

fn end(findings: &[FindingReport], ui: &Ui, result: impl FnOnce() -> Result<()>) -> Result<Outcome> {
    if !ui.json {
        ui.findings(findings);
    }
    result()?;
    Ok(Outcome::of(findings.iter().map(|finding| finding.severity).max()))
}
