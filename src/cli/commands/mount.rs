//! `lhrecover mount`: look at a volume's files without copying it.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::cli::Outcome;
use crate::cli::args::{LookArgs, OverlayArgs};
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::event::Run;
use crate::report::mount as report;
use crate::workflow::mount::{Journal, MountOptions, mount, stay};

/// Arguments of `mount`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The command returns once the file system is there; a process of its own goes on serving it. lhrecover umount MOUNTPOINT \
takes it down, and lhrecover umount --stale what a crash has left. The replica is never written: by default the file system's \
journal is left alone, and with --journal replay it is played back on a throw-away copy.")]
pub struct Args {
    /// The replica directory, or an image of the volume: a file or a block device
    #[arg(value_name = "REPLICA_DIR|IMAGE")]
    source: PathBuf,
    /// An empty directory
    mountpoint: PathBuf,
    /// Stop at the image: MOUNTPOINT gets one file, volume.img, for other tools to take. Needs no root where fusermount3 is
    #[arg(long, conflicts_with = "key_file")]
    image_only: bool,
    /// What to do with the file system's journal: skip it, or replay it on a throw-away copy, so that the last writes show.
    /// With --image-only, `replay` makes the image writable, on such a copy
    #[arg(long, value_name = "WHAT", default_value = "skip")]
    journal: JournalArg,
    /// The key of an encrypted volume (LUKS), as cryptsetup takes it
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Stay, and take it down at the end: on Ctrl-C or another signal
    #[arg(long)]
    foreground: bool,
    #[command(flatten)]
    overlay: OverlayArgs,
    #[command(flatten)]
    look: LookArgs,
}

/// What becomes of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum JournalArg {
    /// Left alone.
    Skip,
    /// Played back on a throw-away copy.
    Replay,
}

impl From<JournalArg> for Journal {
    fn from(journal: JournalArg) -> Self {
        match journal {
            JournalArg::Skip => Journal::Skip,
            JournalArg::Replay => Journal::Replay,
        }
    }
}

/// Mounts.
///
/// # Errors
/// As [`mount`], and as [`stay`] with `--foreground`.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let options = args.options()?;
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let mut mounted = mount(&args.source, &args.mountpoint, &options, &run)?;
    let shown = report::mounted(&mounted, options.journal);
    if !ui.json {
        ui.findings(&shown.findings);
    }
    ui.result(&shown, &report::mounted_text(&shown))?;
    let mut outcome = Outcome::of(shown.findings.iter().map(|f| f.severity).max());
    if args.foreground {
        let taken_down = stay(&mut mounted, &run, &mut |busy| ui.warning(&busy.to_string()))?;
        for trouble in taken_down.iter().flat_map(|down| &down.trouble) {
            ui.warning(trouble);
            outcome = Outcome::Findings;
        }
    }
    Ok(outcome)
}

impl Args {
    fn options(&self) -> Result<MountOptions> {
        let journal = self.journal.into();
        if journal == Journal::Skip && self.overlay.is_given() {
            return Err(Error::usage(
                "--overlay and --overlay-max are for --journal replay: nothing is written without it",
            ));
        }
        Ok(MountOptions {
            volume: self.look.options(),
            partition: self.look.partition,
            image_only: self.image_only,
            journal,
            overlay: self.overlay.space(),
            key_file: self.key_file.clone(),
            hold: false,
        })
    }
}
