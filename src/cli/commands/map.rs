//! `lhrecover map`: which layer serves what, as a strip, a picture and a page.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::cli::Outcome;
use crate::cli::args::VolumeArgs;
use crate::cli::report_file::ReportFile;
use crate::cli::signals::cancel_on_signals;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::event::Run;
use crate::replica::{ReplicaDir, SourceOptions};
use crate::report::finding::printable;
use crate::report::map::{self as report, Depth, Style};
use crate::sink::file::FileOptions;
use crate::workflow::map::map;
use crate::workflow::scan::collect::{Collected, Told};

/// Arguments of `map`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The strip shows, from the first byte to the last, the layer that serves most of each part: in colour, the older the \
darker, and as high as the part is full; or as a letter.")]
pub struct Args {
    /// The replica directory: the one that holds volume.meta and the .img files
    replica_dir: PathBuf,
    /// Draw the volume as of this snapshot, on the live chain or a branch: its name, its file name, or a unique
    /// beginning of it
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "head", help_heading = "Source")]
    at: Option<String>,
    #[command(flatten)]
    volume: VolumeArgs,
    /// Write a picture to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write a page to this file, which loads nothing from anywhere: the picture, the chain in time, and the findings
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Show how the replica stands among its siblings, by what `scan --json` printed
    #[arg(long, value_name = "FILE")]
    ranking: Option<PathBuf>,
    /// Replace the picture and the page if they exist
    #[arg(long)]
    force: bool,
}

/// Draws. A replica that cannot be opened is shown as far as it can be.
///
/// # Errors
/// When the directory is not there or is no replica directory, there is no such snapshot, a file cannot be written, or the
/// scan does not know the replica; when interrupted.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    let told = args.ranking.as_deref().map(Told::read).transpose()?;
    let cancel = cancel_on_signals()?;
    let run = Run { observer: ui, cancel: &cancel };
    let replica = ReplicaDir::open(&args.replica_dir)?;
    // A place that cannot be written to is found before the work.
    let svg = args.svg.as_deref().map(|path| args.create(path, &replica)).transpose()?;
    let html = args.html.as_deref().map(|path| args.create(path, &replica)).transpose()?;
    let mapped = map(&replica, &args.options(), args.volume.unwritten(), &run)?;
    let collected = told.map(|told| {
        let mut collected = Collected::default();
        collected.add_told(told, true);
        collected.tidy(&[]);
        collected
    });
    let rankings = collected.as_ref().map(Collected::rank);
    let ranking = rankings.as_deref().map(|rankings| mapped.ranking(rankings)).transpose()?;
    let report = report::build(&replica, &mapped, ranking);
    let shown = ui.result(&report, &report::text(&report, style()));
    if ui.quiet && !ui.json {
        ui.findings(&report.replica.findings);
    }
    if let Some(file) = svg {
        finish(file, &report::svg(&report), ui, &run)?;
    }
    if let Some(file) = html {
        finish(file, &report::html(&report, Timestamp::now()), ui, &run)?;
    }
    shown?;
    Ok(Outcome::of(mapped.diagnosis.worst()))
}

impl Args {
    fn options(&self) -> SourceOptions {
        SourceOptions { at: self.at.clone(), ..self.volume.options() }
    }

    fn create(&self, path: &Path, replica: &ReplicaDir) -> Result<ReportFile> {
        let options = FileOptions { force: self.force, sync: true, fill: false };
        ReportFile::create(path, &replica.identity(), options)
    }
}

fn finish(file: ReportFile, text: &str, ui: &Ui, run: &Run<'_>) -> Result<()> {
    let path = file.finish_with(text, run)?;
    ui.note(&format!("wrote {}\n", printable(&path.display().to_string())));
    Ok(())
}

/// As wide and as colourful as the terminal is, if it is one, and as <https://no-color.org> has it.
fn style() -> Style {
    let out = io::stdout();
    if !out.is_terminal() {
        return Style { columns: None, depth: Depth::None };
    }
    let columns = terminal_size::terminal_size_of(&out).map(|(width, _)| usize::from(width.0));
    let is = |name: &str, values: &[&str]| std::env::var(name).is_ok_and(|v| values.contains(&v.as_str()));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || is("TERM", &["dumb"]);
    let depth = match (plain, is("COLORTERM", &["truecolor", "24bit"])) {
        (true, _) => Depth::None,
        (false, true) => Depth::True,
        (false, false) => Depth::Palette,
    };
    Style { columns, depth }
}
