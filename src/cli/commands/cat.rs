//! `lhrecover cat`: files of the volume on standard output.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use crate::cli::Outcome;
use crate::cli::args::LookArgs;
use crate::cli::browse::{Opened, paths_in_image};
use crate::cli::stream;
use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::event::{Event, Run, Silent};
use crate::report::finding::printable;
use crate::workflow::browse::LastLink;
use crate::workflow::browse::read::{check_regular, copy_to};

/// From how many bytes on progress is shown.
const LARGE_BYTES: u64 = 64 << 20;

/// Arguments of `cat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Bytes come out as they are, holes as zeros. On a terminal, control characters are shown, not obeyed. A reader that goes away \
is exit code 4, as the file did not get there whole.")]
pub struct Args {
    /// The replica directory, or an image of a volume
    #[arg(value_name = "REPLICA_DIR|IMAGE")]
    source: PathBuf,
    /// Regular files in the volume; a relative path begins at the root
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<OsString>,
    #[command(flatten)]
    look: LookArgs,
}

/// Prints.
///
/// # Errors
/// When the volume cannot be opened, a path is no regular file, or one cannot be read or written to its end.
pub fn run(args: &Args, ui: &Ui) -> Result<Outcome> {
    if ui.json {
        return Err(Error::usage("cat prints files, and nothing else: there is no --json for it")
            .with_hint("lhrecover ls --json tells about files"));
    }
    let opened = Opened::new(&args.source, &args.look, ui)?;
    let files = opened.browser.resolve(&paths_in_image(&args.paths), LastLink::Follow)?;
    check_regular(&files)?;
    let mut out = output()?;
    stream::exit_when_stuck(&opened.cancel, None);
    let total = files.iter().fold(0u64, |sum, found| sum.saturating_add(found.node.size_bytes));
    let is_large = total >= LARGE_BYTES;
    let run = if is_large { opened.run() } else { Run { observer: &Silent, cancel: &opened.cancel } };
    if is_large {
        run.event(Event::Phase { name: "reading", total_bytes: Some(total) });
    }
    for found in &files {
        copy_to(opened.browser.fs(), found, &mut *out, &run)?;
    }
    out.flush().map_err(|e| Error::output("cannot write to standard output").caused_by(e))?;
    let is_large = total >= LARGE_BYTES;
    let run = if is_large { opened.run() } else { Run { observer: &Silent, cancel: &opened.cancel } };
    if is_large {
        run.event(Event::PhaseDone);
    }
    opened.finish()
}

fn output() -> Result<Box<dyn Write>> {
    if io::stdout().is_terminal() {
        return Ok(Box::new(Shown::default()));
    }
    Ok(Box::new(stream::stdout()?) as Box<dyn Write>)
}

/// A terminal, which is shown control characters instead of being sent them.
#[derive(Default)]
struct Shown {
    /// The beginning of a character whose rest is still to come.
    held: Vec<u8>,
}

impl Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend(bytes);
        let whole = match std::str::from_utf8(&self.held) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => self.held.len(),
        };
        let text: Vec<u8> = self.held.drain(..whole).collect();
        let text = String::from_utf8_lossy(&text);
        let lines =
            text.split('\n').map(|line| line.split('\t').map(printable).collect::<Vec<_>>().join("\t"));
        io::stdout().write_all(lines.collect::<Vec<_>>().join("\n").as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let rest = std::mem::take(&mut self.held);
        let mut out = io::stdout();
        out.write_all(printable(&String::from_utf8_lossy(&rest)).as_bytes())?;
        out.flush()
    }
}
