//! Standard input and output as streams of data, which may stall, and must not keep a signal waiting.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use crate::error::{Error, ErrorKind, Result};
use crate::event::Cancel;

/// Standard output, without the buffer that looks for line ends.
///
/// # Errors
/// When it is a terminal, or cannot be used.
pub fn stdout() -> Result<File> {
    if io::stdout().is_terminal() {
        return Err(Error::usage("standard output is a terminal").with_hint("redirect it, or name a file"));
    }
    let descriptor = io::stdout().as_fd().try_clone_to_owned();
    descriptor.map(File::from).map_err(|e| Error::output("cannot use standard output").caused_by(e))
}

/// How long a stream may take to notice a signal before the process ends all the same.
const STUCK_AFTER: Duration = Duration::from_secs(1);

/// A stream whose reader has stalled cannot notice a signal. It has put nothing up that must be taken down, the
/// unfinished file that is named aside, so the process may end in the middle.
pub fn exit_when_stuck(cancel: &Cancel, unfinished: Option<PathBuf>) {
    let cancel = cancel.clone();
    thread::spawn(move || {
        while !cancel.is_cancelled() {
            thread::sleep(STUCK_AFTER / 10);
        }
        thread::sleep(STUCK_AFTER);
        if let Some(path) = unfinished {
            // The next run replaces what is left.
            let _ = fs::remove_file(path);
        }
        std::process::exit(i32::from(ErrorKind::Interrupted.exit_code()));
    });
}

/// Standard input, read on a thread of its own: whoever waits for it notices a signal.
pub struct Stdin {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Vec<u8>,
    taken: usize,
    cancel: Cancel,
}

impl Stdin {
    /// Begins to read.
    ///
    /// # Errors
    /// When standard input is a terminal.
    pub fn open(cancel: &Cancel) -> Result<Self> {
        const CHUNK_BYTES: u64 = 1 << 20;
        if io::stdin().is_terminal() {
            return Err(Error::usage("standard input is a terminal").with_hint("redirect it, or name a file"));
        }
        let (send, chunks) = bounded(2);
        thread::spawn(move || {
            loop {
                let mut chunk = Vec::new();
                let read = io::stdin().lock().take(CHUNK_BYTES).read_to_end(&mut chunk);
                let over = !matches!(read, Ok(1..));
                if send.send(read.map(|_| chunk)).is_err() || over {
                    break;
                }
            }
        });
        Ok(Stdin { chunks, chunk: Vec::new(), taken: 0, cancel: cancel.clone() })
    }
}

impl Read for Stdin {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.chunk.len() {
            match self.chunks.recv_timeout(STUCK_AFTER / 10) {
                Ok(chunk) => {
                    (self.chunk, self.taken) = (chunk?, 0);
                    if self.chunk.is_empty() {
                        return Ok(0);
                    }
                }
                Err(RecvTimeoutError::Timeout) if self.cancel.is_cancelled() => {
                    return Err(io::Error::other("interrupted"));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let taken = out.len().min(self.chunk.len() - self.taken);
        out[..taken].copy_from_slice(&self.chunk[self.taken..self.taken + taken]);
        self.taken += taken;
        Ok(taken)
    }
}
