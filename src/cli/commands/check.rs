//! `lhrecover check`: is what a replica holds any good?

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cli::Outcome;
use crate::cli::args::{LookArgs, OverlayArgs, size};
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::event::Run;
use crate::report::check as report;
use crate::workflow::check::databases::DatabaseOptions;
use crate::workflow::check::{CheckOptions, check};
use crate::workflow::tool::Tools;

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file system is checked by its own checker (e2fsck, xfs_repair, btrfs), as it is and after its journal was replayed on a \
throw-away copy: nearly every volume that was in use has a journal that waits. SQLite databases in it are checked on copies; of \
a PostgreSQL cluster it is told whether a server can start from it; other databases are named. The replica is never written. \
Of XFS and btrfs, root is needed for the journal and the files; of ext4, for fast commits in its journal. Exit code 0 says that all was checked and is sound.")]
pub struct Args {
    /// The replica directory, or an image of the volume: a file or a block device
    #[arg(value_name = "REPLICA_DIR|IMAGE")]
    source: PathBuf,
    /// Check the file system only, and not the databases in it
    #[arg(long)]
    no_databases: bool,
    /// How much room copies of databases may take at any time; a larger database is not checked (suffixes K, M, G, T)
    #[arg(long, value_name = "BYTES", value_parser = size, default_value = "4G", conflicts_with = "no_databases")]
    databases_max: u64,
    /// How long the check of one database may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, conflicts_with = "no_databases")]
    databases_timeout: u64,
    /// How long a file system's checker may take, in seconds; without end unless this is given
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    tool_timeout: Option<u64>,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// Checks.
///
/// # Errors
/// When the volume cannot be opened; what is wrong with it is in the outcome.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let options = args.options()?;
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let started = Instant::now();
    let checked = check(&args.source, &options, &run)?;
    let shown = report::new(&args.source, &checked, started.elapsed());
    if !ui.json {
        ui.findings(&shown.findings);
    }
    ui.result(&shown, &report::text(&shown))?;
    Ok(Outcome::of(shown.findings.iter().map(|f| f.severity).max()))
}

impl Args {
    fn options(&self) -> Result<CheckOptions> {
        let mut overlay = self.overlay.space();
        overlay.dir = overlay.real_dir()?;
        let mut tools = Tools::here();
        tools.timeout = self.tool_timeout.map(Duration::from_secs);
        Ok(CheckOptions {
            volume: self.look.options(),
            partition: self.look.partition,
            tools,
            databases: (!self.no_databases).then(|| DatabaseOptions {
                dir: overlay.dir.clone(),
                max_bytes: self.databases_max,
                timeout: Duration::from_secs(self.databases_timeout),
            }),
            overlay,
        })
    }
}
