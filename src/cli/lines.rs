//! Results that come line by line, and may be very many.

use std::io::{self, Write};

use crate::cli::ui::Ui;
use crate::error::{Error, Result};
use crate::event::Cancel;

/// How much is gathered before it is written, in bytes.
const GATHERED_BYTES: usize = 64 << 10;

/// Standard output, line by line. A reader that went away ends the work, and is no error.
pub struct Lines<'a> {
    gathered: Vec<u8>,
    cancel: &'a Cancel,
    is_quiet: bool,
    is_gone: bool,
}

impl<'a> Lines<'a> {
    /// Lines for `ui`; `cancel` is raised when nobody reads them any more.
    pub fn new(ui: &Ui, cancel: &'a Cancel) -> Self {
        Lines { gathered: Vec::new(), cancel, is_quiet: ui.quiet, is_gone: false }
    }

    /// Writes a line, or a part of one, with its line end.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn push(&mut self, line: &[u8]) -> Result<()> {
        self.gathered.extend(line);
        if self.gathered.len() >= GATHERED_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what is gathered.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn flush(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.gathered);
        if self.is_quiet || self.is_gone || bytes.is_empty() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        match out.write_all(&bytes).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.is_gone = true;
                self.cancel.cancel();
                Ok(())
            }
            other => other.map_err(|e| Error::output("cannot write to standard output").caused_by(e)),
        }
    }

    /// Writes the rest after `work`, and says how that ended: well, if it was ended because nobody reads any more.
    ///
    /// # Errors
    /// What `work` failed with, or the writing.
    pub fn end(mut self, work: Result<()>) -> Result<()> {
        if self.is_gone {
            return Ok(());
        }
        self.flush()?;
        work
    }
}
