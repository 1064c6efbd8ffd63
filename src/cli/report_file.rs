//! A report that is also kept in a file, under its temporary name until the work is done: a place that cannot be written to
//! is found before the work, not after it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::event::Run;
use crate::report::json;
use crate::sink::Sink;
use crate::sink::file::{self, FileOptions, OutputFile};

/// The file, while the work is done.
pub struct ReportFile(OutputFile);

impl ReportFile {
    /// Makes the file that is to be at `path`, `what` in words, and not in the replica directory `source`.
    ///
    /// # Errors
    /// `Refused` when it is there already and is not to be replaced, or is inside the source; `Output` when it cannot be
    /// made.
    pub fn create(path: &Path, what: &str, source: &Path, options: FileOptions) -> Result<Self> {
        let replica = fs::metadata(source).ok().filter(fs::Metadata::is_dir).map(|m| (m.dev(), m.ino()));
        if file::lies_within(path, |m| Some((m.dev(), m.ino())) == replica) {
            return Err(Error::refused(format!("the {what} is inside the replica directory"))
                .with_path(path)
                .with_hint("a source is never written: name a file elsewhere"));
        }
        OutputFile::create(path, 0, options).map(ReportFile)
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

    /// Writes this text, and gives the file its name, which is returned.
    ///
    /// # Errors
    /// `Output` when it cannot be written.
    pub fn finish_with(self, text: &str, run: &Run<'_>) -> Result<PathBuf> {
        self.0.write_at(text.as_bytes(), 0)?;
        self.0.finish(run)
    }
}
