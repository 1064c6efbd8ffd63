//! `lhrecover scan`: the replicas of every volume on every node, best first, and why.

use std::path::{Path, PathBuf};

use crate::cli::Outcome;
use crate::cli::args::NodeArgs;
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::model::finding::Severity;
use crate::model::standing::Confidence;
use crate::node::Target;
use crate::replica::discover::DEFAULT_DATA_PATH;
use crate::report::scan as report;
use crate::workflow::scan::ScanOptions;
use crate::workflow::scan::collect::{Collected, Told};
use crate::workflow::scan::everywhere::scan_everywhere;

/// Arguments of `scan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data paths, replicas directories or replica directories on this machine; Longhorn's usual place,
    /// /var/lib/longhorn, when none is named
    paths: Vec<PathBuf>,
    /// Rank what `scan --json` printed elsewhere, too (may be given again)
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
    /// Only volumes of this name, or whose names begin with it (may be given again)
    #[arg(long, value_name = "NAME")]
    volume: Vec<String>,
    /// Look closer: compute the checksums of all snapshots, and look at what is inside
    #[arg(long)]
    deep: bool,
    /// How many directories are read at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Print only the best replica of each volume: volume, node, directory and confidence, with tabs between them;
    /// control characters in names are escaped (with --json, all names are as they are)
    #[arg(long)]
    best: bool,
    /// What to call this machine; its host name without it
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    #[command(flatten)]
    nodes: NodeArgs,
}

/// Scans, ranks and shows.
///
/// # Errors
/// When a node is not named as nodes are, a file of an earlier scan cannot be used, there is nothing to look at, or the run is interrupted. A path, a
/// replica or a node that cannot be read is a finding.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    // Before signals are caught: a pipe that nobody writes to is waited for, and can be given up.
    let told = args.from.iter().map(|path| Told::read(path)).collect::<Result<Vec<_>>>()?;
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let (nodes, ssh) = (args.nodes.targets()?, args.nodes.ssh()?);
    let paths = own_paths(args, &nodes)?;
    let alone = paths.is_empty() && nodes.is_empty() && told.len() == 1;
    let options = ScanOptions {
        node: args.node_name.clone().unwrap_or_else(host_name),
        volumes: args.volume.clone(),
        deep: args.deep,
        jobs: args.jobs.map(usize::from),
    };
    let mut collected = scan_everywhere(&paths, &nodes, &options, &ssh, &run)?;
    told.into_iter().for_each(|told| collected.add_told(told, alone));
    collected.tidy(&args.volume);
    show(args, &collected, ui)
}

fn show(args: &Args, collected: &Collected, ui: &Ui) -> Result<Outcome> {
    let rankings = collected.rank();
    let report = report::build(collected, &rankings);
    if args.best {
        let best = report::best(&report);
        if ui.json {
            ui.result(&best, "")?;
        } else {
            ui.print(&report::best_lines(&best))?;
        }
    } else {
        let text = if ui.json { String::new() } else { report::text(&report) };
        ui.result(&report, &text)?;
    }
    if args.best || (ui.quiet && !ui.json) {
        let of_volumes = report.volumes.iter().flat_map(|volume| &volume.findings);
        of_volumes.chain(&report.findings).for_each(|found| ui.findings(std::slice::from_ref(found)));
    }
    let findings = rankings.iter().flat_map(|ranking| &ranking.findings).chain(&collected.findings);
    let worst = findings.map(crate::model::finding::Finding::severity).max();
    let unsure = rankings.iter().any(|ranking| ranking.confidence == Confidence::PersonMustLook);
    Ok(Outcome::of(worst.max(unsure.then_some(Severity::Warning))))
}

/// What to look at on this machine. When other nodes are looked at, too, the usual place is looked at if it is there:
/// to leave out the machine one is on would be a mistake that is easily made.
fn own_paths(args: &Args, nodes: &[Target]) -> Result<Vec<PathBuf>> {
    if !args.paths.is_empty() {
        return Ok(args.paths.clone());
    }
    let usual = Path::new(DEFAULT_DATA_PATH);
    if usual.is_dir() {
        Ok(vec![usual.to_path_buf()])
    } else if args.from.is_empty() && nodes.is_empty() {
        Err(Error::usage("there is no Longhorn data path here").with_path(usual).with_hint(
            "name the data path of a Longhorn disk, or a directory of replicas: lhrecover scan PATH",
        ))
    } else {
        Ok(Vec::new())
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "this machine".into(), |name| name.to_string_lossy().into_owned())
}
