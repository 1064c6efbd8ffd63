//! The process that serves the image: how it is started, and how the two speak.
//!
//! It is this program, started anew, in a session of its own and with nothing inherited: whatever happens to the process
//! that mounted, or to the terminal, it goes on serving. Over its standard input it gets one line that says what to serve, and
//! a second one when everything is up; when that never comes, whoever started it has died, and it has all taken down. Over
//! its standard output it says, in one line, that it serves, or why not.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::Entry;
use crate::access::volume::VolumeOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::model::overlay::Unwritten;
use crate::replica::SourceOptions;
use crate::sys::daemon::Identity;

/// The hidden command that is the server.
pub const COMMAND: &str = "image-server";

/// How often is looked whether a signal has arrived.
const POLL: Duration = Duration::from_millis(20);

/// What is to be served, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The replica directory or image; its path is absolute.
    pub source: OsString,
    /// The partition to serve instead of the whole volume.
    pub partition: Option<u32>,
    /// The directory to mount the image's file system at.
    pub image_dir: OsString,
    /// Where what is written goes, in a file without a name; nothing can be written without.
    pub overlay: Option<Overlay>,
    at: Option<String>,
    head: Option<String>,
    size_bytes: Option<u64>,
    backing_file: Option<OsString>,
    allow_rebuilding: bool,
    allow_live: bool,
    accept_copy_damage: bool,
    unwritten_is_hole: bool,
}

/// Where what is written on top of a volume goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Overlay {
    /// The directory for the temporary file.
    pub dir: OsString,
    /// How large it may grow, in bytes.
    pub max_bytes: u64,
}

impl Order {
    /// An order for what these options open.
    pub fn new(source: &Path, options: &VolumeOptions, image_dir: &Path) -> Self {
        let from = &options.source;
        Order {
            source: source.into(),
            partition: None,
            image_dir: image_dir.into(),
            overlay: None,
            at: from.at.clone(),
            head: from.head.clone(),
            size_bytes: from.size_bytes,
            backing_file: from.backing_file.as_ref().map(Into::into),
            allow_rebuilding: from.allow_rebuilding,
            allow_live: from.allow_live,
            accept_copy_damage: options.accept_copy_damage,
            unwritten_is_hole: options.unwritten == Unwritten::Hole,
        }
    }

    /// The options to open the source with.
    pub fn options(&self) -> VolumeOptions {
        VolumeOptions {
            source: SourceOptions {
                at: self.at.clone(),
                head: self.head.clone(),
                size_bytes: self.size_bytes,
                backing_file: self.backing_file.as_ref().map(Into::into),
                allow_rebuilding: self.allow_rebuilding,
                allow_live: self.allow_live,
            },
            accept_copy_damage: self.accept_copy_damage,
            unwritten: if self.unwritten_is_hole { Unwritten::Hole } else { Unwritten::Zero },
        }
    }
}

/// What the server says once: nothing when it serves.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Why it does not.
    pub failed: Option<Failure>,
}

/// An error on its way from one process to the other.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    exit_code: u8,
    message: String,
    hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        Failure {
            exit_code: error.kind().exit_code(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let kinds = [ErrorKind::Source, ErrorKind::Output, ErrorKind::Refused, ErrorKind::External];
        let kind = kinds.into_iter().find(|kind| kind.exit_code() == failure.exit_code);
        let error = Error::new(kind.unwrap_or(ErrorKind::Usage), failure.message);
        match failure.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// A server that was started and is not on its own yet.
pub struct Server {
    child: Child,
    orders: ChildStdin,
    serves: bool,
}

impl Server {
    /// Starts one. It does nothing before it has an order.
    ///
    /// # Errors
    /// `Usage` when it cannot be started.
    pub fn start(entry: &Entry) -> Result<Self> {
        let fail = |e| Error::usage("cannot start the process that serves the image").caused_by(e);
        let log = OpenOptions::new().append(true).create(true).mode(0o600).open(entry.log()).map_err(fail)?;
        let mut child = Command::new("/proc/self/exe")
            .arg0("lhrecover")
            .arg(COMMAND)
            .arg(entry.dir())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(fail)?;
        let orders = child.stdin.take().ok_or_else(|| fail(std::io::ErrorKind::BrokenPipe.into()))?;
        Ok(Server { child, orders, serves: false })
    }

    /// Which process it is.
    pub fn identity(&self) -> Option<Identity> {
        Identity::of(self.child.id())
    }

    /// Has it serve, and waits until it does.
    ///
    /// # Errors
    /// The server's own, and `Interrupted`.
    pub fn order(&mut self, order: &Order, run: &Run<'_>) -> Result<()> {
        let fail = |e| Error::usage("cannot speak with the process that serves the image").caused_by(e);
        let line = serde_json::to_string(order).map_err(|e| fail(e.into()))?;
        let (answer, answered) = channel();
        if let Some(stdout) = self.child.stdout.take() {
            thread::spawn(move || {
                let mut line = String::new();
                let read = BufReader::new(stdout).read_line(&mut line);
                // Whoever asked may have gone.
                let _ = answer.send(read.map(|_| line));
            });
        }
        writeln!(self.orders, "{line}").map_err(fail)?;
        let line = loop {
            run.check()?;
            match answered.recv_timeout(POLL) {
                Ok(line) => break line.map_err(fail)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break String::new(),
            }
        };
        let answer: Answer = serde_json::from_str(&line).map_err(|_| {
            Error::usage("the process that serves the image ended before it did")
                .with_hint("was it killed, for want of memory perhaps? try again")
        })?;
        self.serves = answer.failed.is_none();
        answer.failed.map_or(Ok(()), |failure| Err(failure.into()))
    }

    /// Ends one that does not serve yet. Of one that does, the image is unmounted, and it ends.
    pub fn give_up(&mut self) {
        if !self.serves {
            // It may have ended by itself.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Tells it that everything is up, and leaves it to itself.
    ///
    /// # Errors
    /// When it has ended.
    pub fn release(mut self) -> Result<Released> {
        self.orders.write_all(b"go\n").map_err(|e| {
            Error::usage("the process that serves the image ended as soon as it served").caused_by(e)
        })?;
        Ok(Released { child: self.child, _orders: None })
    }

    /// Does not: however this process ends, it takes everything down.
    pub fn hold(self) -> Released {
        Released { child: self.child, _orders: Some(self.orders) }
    }
}

/// A server on its own, or as long as this process lives.
pub struct Released {
    child: Child,
    /// Closed when this process ends, which it waits for.
    _orders: Option<ChildStdin>,
}

impl Released {
    /// How it ended, if it has.
    ///
    /// # Errors
    /// When that cannot be told.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .map_err(|e| Error::usage("cannot watch the process that serves the image").caused_by(e))
    }
}
