//! A report that is also kept in a file, under its temporary name until the work is done: a place that cannot be written to
//! is found before the work, not after it.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::report::json;
use crate::sink::Sink;
use crate::sink::file::{FileOptions, OutputFile};
use crate::sink::guard::SourceIdentity;

/// The file, while the work is done.
pub struct ReportFile(OutputFile);

impl ReportFile {
    /// Makes the file that is to be at `path`, which is no part of `source`.
    ///
    /// # Errors
    /// As [`OutputFile::create`].
    pub fn create(path: &Path, source: &SourceIdentity, options: FileOptions) -> Result<Self> {
        OutputFile::create(path, 0, options, source).map(ReportFile)
    }

    /// Where it is for now.
    pub fn partial_path(&self) -> &Path {
        self.0.partial_path()
    }

    /// Writes the report, and gives it its name.
    ///
    /// # Errors
    /// `Output` when it cannot be written.
    pub fn finish(self, report: &impl Serialize, run: &Run<'_>) -> Result<()> {
        self.finish_with(&json::text(report)?, run).map(|_| ())
    }

    /// The same for work that failed: its own error is told elsewhere.
    ///
    /// # Errors
    /// `Output` when it cannot be written.
    pub fn finish_failed(self, report: &impl Serialize, run: &Run<'_>) -> Result<()> {
        let path = self.0.path().to_path_buf();
        self.keep(&json::text(report)?, run).map(|_| ()).map_err(|e| {
            Error::new(e.kind(), format!("the report could not be kept either ({e})"))
                .with_path(path)
                .with_hint("what is shown here is all there is of it: keep that")
        })
    }

    /// Writes this text, and gives the file its name, which is returned.
    ///
    /// # Errors
    /// `Output` when it cannot be written.
    pub fn finish_with(self, text: &str, run: &Run<'_>) -> Result<PathBuf> {
        let path = self.0.path().to_path_buf();
        // What the sink says is meant for the work itself, which is done.
        self.keep(text, run).map_err(|e| match e.kind() {
            ErrorKind::Interrupted => e,
            kind => Error::new(
                kind,
                format!("the work is done, and only this file about it could not be kept ({e})"),
            )
            .with_path(path)
            .with_hint(
                "the result is what the command has shown; --json prints the same as the file would hold",
            ),
        })
    }

    fn keep(self, text: &str, run: &Run<'_>) -> Result<PathBuf> {
        self.0.write_at(text.as_bytes(), 0)?;
        self.0.finish(run)
    }
}
