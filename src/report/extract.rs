//! What `extract` shows: what came out, and what did not.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::report::browse::OpenedReport;
use crate::report::finding::{FindingReport, printable};
use crate::report::human;
use crate::workflow::browse::extract::Extracted;

/// The version of the JSON that `extract --json` prints.
pub const SCHEMA_VERSION: u32 = 1;

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct ExtractReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// Which file system.
    #[serde(flatten)]
    pub opened: OpenedReport,
    /// The directory that was extracted to, as it was named.
    pub target: String,
    /// Regular files that were copied.
    pub files: u64,
    /// Directories that were made, or were there.
    pub directories: u64,
    /// Symbolic links that were made.
    pub symlinks: u64,
    /// Further names of files that were made.
    pub hard_links: u64,
    /// Pipes, sockets and devices that were made.
    pub specials: u64,
    /// Whatever was there already, the same.
    pub skipped: u64,
    /// Bytes of data that were copied.
    pub copied_bytes: u64,
    /// Damage, doubt, and what could not be kept, the most serious first.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

impl ExtractReport {
    /// Of what came out of `opened` to `target`.
    pub fn new(
        opened: OpenedReport,
        target: &Path,
        extracted: Extracted,
        findings: Vec<FindingReport>,
        duration: Duration,
    ) -> Self {
        let Extracted { files, directories, symlinks, hard_links, specials, skipped, copied_bytes } =
            extracted;
        ExtractReport {
            schema_version: SCHEMA_VERSION,
            lhrecover_version: env!("CARGO_PKG_VERSION"),
            opened,
            target: target.display().to_string(),
            files,
            directories,
            symlinks,
            hard_links,
            specials,
            skipped,
            copied_bytes,
            findings,
            duration_seconds: duration.as_secs_f64(),
        }
    }
}

/// The same as a few lines.
pub fn text(report: &ExtractReport) -> String {
    let mut text = format!(
        "extracted {} files ({}) and {} directories to {}",
        report.files,
        human::bytes(report.copied_bytes),
        report.directories,
        printable(&report.target)
    );
    let more = [
        (report.symlinks, "symbolic links"),
        (report.hard_links, "further names"),
        (report.specials, "pipes, sockets or devices"),
        (report.skipped, "there already"),
    ];
    for (count, what) in more.iter().filter(|(count, _)| *count > 0) {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {count} {what}");
    }
    let _ = writeln!(text, "; in {:.1} s", report.duration_seconds);
    text
}
