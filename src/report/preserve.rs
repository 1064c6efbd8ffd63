//! What `preserve` shows: of a copy, of an archive, of a check.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::format::copy::manifest::{CopyKind, CopyManifest};
use crate::report::finding::{FindingReport, printable};
use crate::report::human;
use crate::workflow::preserve::Preserved;
use crate::workflow::preserve::check::Checked;

/// The version of the JSON.
pub const SCHEMA_VERSION: u32 = 1;

/// What a copy came to.
#[derive(Clone, Debug, Serialize)]
pub struct PreserveReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What was copied: a replica directory, or an archive; `-` for standard input.
    pub source: String,
    /// Where the copy is; `null` for a stream.
    pub copy: Option<String>,
    /// Whether it was there already, and nothing was done.
    pub was_there: bool,
    /// Bytes of data that were copied.
    pub copied_bytes: u64,
    /// Bytes of data that an earlier, unfinished run had copied.
    pub resumed_bytes: u64,
    /// Whether the copy was read back past every cache for certain; `null` when it was not read back.
    pub direct: Option<bool>,
    /// What the copy holds.
    pub manifest: CopyManifest,
    /// Damage and doubt, the most serious first.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

/// What a check came to.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The source it was compared with; `null` when there was none.
    pub source: Option<String>,
    /// The copy.
    pub copy: String,
    /// Whether it has a manifest, which it was compared with too.
    pub has_manifest: bool,
    /// Files whose bytes were compared.
    pub files: u64,
    /// Bytes of data of the copy that were read.
    pub read_bytes: u64,
    /// Whether they were read past every cache for certain.
    pub direct: bool,
    /// Where the copy is not what it should be, the most serious first.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

/// Puts together what is shown of a copy of `source`.
pub fn build(source: &Path, preserved: &Preserved) -> PreserveReport {
    PreserveReport {
        schema_version: SCHEMA_VERSION,
        source: source.display().to_string(),
        copy: preserved.path.as_ref().map(|path| path.display().to_string()),
        was_there: preserved.was_there,
        copied_bytes: preserved.copied_bytes,
        resumed_bytes: preserved.resumed_bytes,
        direct: preserved.direct,
        manifest: preserved.manifest.clone(),
        findings: preserved.findings.iter().map(FindingReport::from).collect(),
        duration_seconds: preserved.duration.as_secs_f64(),
    }
}

/// Puts together what is shown of a check.
pub fn build_check(source: Option<&Path>, copy: &Path, checked: &Checked) -> CheckReport {
    CheckReport {
        schema_version: SCHEMA_VERSION,
        source: source.map(|path| path.display().to_string()),
        copy: copy.display().to_string(),
        has_manifest: checked.has_manifest,
        files: checked.files,
        read_bytes: checked.read_bytes,
        direct: checked.direct,
        findings: checked.findings.iter().map(FindingReport::from).collect(),
        duration_seconds: checked.duration.as_secs_f64(),
    }
}

/// The lines for people; findings are shown apart.
pub fn text(report: &PreserveReport) -> String {
    let copy = printable(report.copy.as_deref().unwrap_or("standard output"));
    let files = report.manifest.files.len();
    if report.was_there {
        return format!(
            "{copy} is a finished copy of {} already; nothing was done\n  to compare the two: --check\n",
            printable(&report.source)
        );
    }
    let contents = report.manifest.files.iter().filter_map(|file| file.content.as_ref());
    let (data, room) =
        contents.fold((0, 0), |(data, room), c| (data + c.data_bytes, room + c.unwritten_bytes));
    let mut text = match report.manifest.kind {
        CopyKind::Clone => format!("shared {files} files of {} with {copy}\n", printable(&report.source)),
        CopyKind::Archive | CopyKind::Copy => {
            format!("copied {files} files of {} to {copy}\n", printable(&report.source))
        }
    };
    let room = if room > 0 { format!(", {} preallocated", human::bytes(room)) } else { String::new() };
    let resumed = match report.resumed_bytes {
        0 => String::new(),
        bytes => format!(", {} by an earlier run", human::bytes(bytes)),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "  data {}{room}", human::bytes(data));
    if report.manifest.kind != CopyKind::Clone {
        let copied = human::bytes(report.copied_bytes);
        let _ = writeln!(text, "  copied {copied}{resumed} in {:.1} s", report.duration_seconds);
    }
    match report.direct {
        Some(true) => text.push_str("  read back from the medium, and found to be the same\n"),
        Some(false) => text.push_str("  read back (after dropping the cache), and found to be the same\n"),
        None => {}
    }
    text
}

/// The lines for people; findings are shown apart.
pub fn check_text(report: &CheckReport) -> String {
    let with = match (&report.source, report.has_manifest) {
        (Some(source), true) => format!("{} and its own manifest", printable(source)),
        (Some(source), false) => printable(source),
        (None, _) => "its manifest".to_owned(),
    };
    let found = match report.findings.len() {
        0 => "no difference".to_owned(),
        1 => "1 finding".to_owned(),
        n => format!("{n} findings"),
    };
    format!(
        "compared {} with {with}: {found}\n  {} files, {} read from the medium in {:.1} s\n",
        printable(&report.copy),
        report.files,
        human::bytes(report.read_bytes),
        report.duration_seconds
    )
}
