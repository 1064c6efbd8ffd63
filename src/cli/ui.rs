//! How results, findings, errors and progress are shown.
//!
//! Results go to standard output, everything else to standard error.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::args::{Progress, UiArgs};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Observer};
use crate::model::finding::Severity;
use crate::report::finding::{self, FindingReport, printable};
use crate::report::human;
use crate::report::json;

/// How often a plain or JSON line of progress is printed.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Where a command says things.
pub struct Ui {
    /// Whether the result is JSON.
    pub json: bool,
    /// Whether only errors and warnings are wanted.
    pub quiet: bool,
    style: Progress,
    state: Mutex<State>,
}

/// The phase that is being shown.
#[derive(Default)]
struct State {
    phase: String,
    total_bytes: Option<u64>,
    done_bytes: u64,
    started: Option<Instant>,
    last_line: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Ui {
    /// As the arguments and the terminal have it.
    pub fn new(args: &UiArgs) -> Self {
        let style = match args.progress {
            _ if args.quiet => Progress::None,
            Progress::Auto if io::stderr().is_terminal() => Progress::Bar,
            Progress::Auto => Progress::Plain,
            style => style,
        };
        Ui { json: args.json, quiet: args.quiet, style, state: Mutex::default() }
    }

    /// Prints a result: `value` as JSON if that was asked for, `text` otherwise.
    ///
    /// # Errors
    /// When standard output cannot be written. A reader that went away is none.
    pub fn result(&self, value: &impl Serialize, text: &str) -> Result<()> {
        if self.json {
            printed(json::write(value, &mut io::stdout().lock()))
        } else if self.quiet {
            Ok(())
        } else {
            self.print(text)
        }
    }

    /// Prints `text` on standard output, whatever else was asked for.
    ///
    /// # Errors
    /// When standard output cannot be written. A reader that went away is none.
    pub fn print(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        printed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    }

    /// Says something on standard error, unless only errors and warnings are wanted.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }

    /// Says on standard error what needs somebody, whatever else was asked for.
    pub fn warning(&self, text: &str) {
        to_stderr(&format!("warning: {}\n", printable(text)));
    }

    /// Shows findings on standard error; only those that need somebody when quiet.
    pub fn findings(&self, findings: &[FindingReport]) {
        for found in findings.iter().filter(|f| !self.quiet || f.severity >= Severity::Warning) {
            to_stderr(&finding::text(found));
        }
    }

    /// Shows an error that the work goes on after.
    pub fn trouble(&self, error: &Error) {
        to_stderr(&said(error));
    }

    /// Shows the error that ended the program; as JSON on standard output too, if that was asked for.
    pub fn error(&self, error: &Error) {
        self.end_phase();
        to_stderr(&said(error));
        if self.json {
            let value = serde_json::json!({
                "schema_version": 1,
                "error": {
                    "kind": kind(error.kind()),
                    "exit_code": error.kind().exit_code(),
                    "message": error.to_string(),
                    "hint": error.hint(),
                    "path": error.path().map(|path| path.display().to_string()),
                    "layer": error.layer(),
                    "offset_bytes": error.offset_bytes(),
                }
            });
            // The error has been said already.
            let _ = json::text(&value).and_then(|text| self.print(&text));
        }
    }

    fn end_phase(&self) {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(bar) = state.bar.take() {
            bar.finish_and_clear();
        }
        *state = State::default();
    }
}

impl Observer for Ui {
    fn event(&self, event: Event<'_>) {
        if self.style == Progress::None {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match event {
            Event::Phase { name, total_bytes } => {
                let now = Instant::now();
                *state = State {
                    phase: name.to_owned(),
                    total_bytes,
                    started: Some(now),
                    last_line: Some(now),
                    bar: (self.style == Progress::Bar).then(|| bar(name, total_bytes)),
                    ..State::default()
                };
            }
            Event::Advanced { bytes } => {
                state.done_bytes += bytes;
                if let Some(bar) = &state.bar {
                    bar.inc(bytes);
                } else if state.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    state.last_line = Some(Instant::now());
                    self.line(&state);
                }
            }
            Event::PhaseDone => {
                if let Some(bar) = state.bar.take() {
                    bar.finish_and_clear();
                } else if state.done_bytes > 0 || state.started.is_some_and(|at| at.elapsed() >= LINE_EVERY) {
                    self.line(&state);
                }
                *state = State::default();
            }
        }
    }
}

impl Ui {
    fn line(&self, state: &State) {
        let seconds = state.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = if seconds > 0.0 { state.done_bytes as f64 / seconds } else { 0.0 };
        let left = state.total_bytes.map(|total| total.saturating_sub(state.done_bytes));
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        let eta = left.filter(|_| rate > 0.0).map(|left| left as f64 / rate);
        if self.style == Progress::Json {
            let value = serde_json::json!({
                "schema_version": 1,
                "event": "progress",
                "phase": state.phase,
                "done_bytes": state.done_bytes,
                "total_bytes": state.total_bytes,
                "bytes_per_second": rate.round(),
                "eta_seconds": eta.map(f64::round),
            });
            to_stderr(&format!("{value}\n"));
            return;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate for people")]
        let rate = human::bytes(rate as u64);
        if state.done_bytes == 0 {
            // A phase that counts nothing, and has taken its time.
            to_stderr(&format!("{}: {seconds:.0} s\n", state.phase));
            return;
        }
        let total = state.total_bytes.map(|total| format!(" of {}", human::bytes(total))).unwrap_or_default();
        let eta = eta.filter(|&eta| eta >= 1.0).map(|eta| format!(", {eta:.0} s to go")).unwrap_or_default();
        to_stderr(&format!("{}: {}{total}, {rate}/s{eta}\n", state.phase, human::bytes(state.done_bytes)));
    }
}

fn bar(name: &str, total_bytes: Option<u64>) -> ProgressBar {
    let template = match total_bytes {
        Some(_) => {
            "{msg} {bar:30} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} to go"
        }
        None => "{msg} {spinner} {elapsed}",
    };
    let bar = total_bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A reader that went away is no error.
fn printed(written: io::Result<()>) -> Result<()> {
    match written {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::output("cannot write to standard output").caused_by(e)),
    }
}

fn kind(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unverified => "unverified",
        ErrorKind::Usage => "usage",
        ErrorKind::Source => "source",
        ErrorKind::Output => "output",
        ErrorKind::Refused => "refused",
        ErrorKind::External => "external",
        ErrorKind::Interrupted => "interrupted",
    }
}

fn said(error: &Error) -> String {
    let hint = error.hint().map(|hint| format!(" hint: {}\n", printable(hint))).unwrap_or_default();
    format!("error: {}\n{hint}", printable(&error.to_string()))
}

fn to_stderr(text: &str) {
    // There is nowhere left to say that standard error is gone.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
