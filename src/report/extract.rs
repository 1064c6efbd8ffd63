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
    /// How much of what.
    #[serde(flatten)]
    pub extracted: Extracted,
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
        ExtractReport {
            schema_version: SCHEMA_VERSION,
            lhrecover_version: env!("CARGO_PKG_VERSION"),
            opened,
            target: target.display().to_string(),
            extracted,
            findings,
            duration_seconds: duration.as_secs_f64(),
        }
    }
}

/// The same as a few lines.
pub fn text(report: &ExtractReport) -> String {
    let out = &report.extracted;
    let mut text = format!(
        "extracted {} files ({}) and {} directories to {}",
        out.files,
        human::bytes(out.copied_bytes),
        out.directories,
        printable(&report.target)
    );
    let more = [
        (out.symlinks, "symbolic links"),
        (out.hard_links, "further names"),
        (out.specials, "pipes, sockets or devices"),
        (out.skipped, "there already"),
    ];
    for (count, what) in more.iter().filter(|(count, _)| *count > 0) {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {count} {what}");
    }
    let _ = writeln!(text, "; in {:.1} s", report.duration_seconds);
    text
}
