//! What `inject --mode files` shows.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::{DeviceReport, InsideReport, SCHEMA_VERSION, before_and_now, growth_line};
use crate::report::finding::{FindingReport, printable};
use crate::report::human;
use crate::workflow::inject::files::check::Checked;
use crate::workflow::inject::files::compare::Comparison;
use crate::workflow::inject::files::rsync::Failed;
use crate::workflow::inject::files::tree::Tally;
use crate::workflow::inject::files::{Existing, InjectedFiles};

/// How many files that failed are shown to people; all that are known are in the JSON.
const SHOWN: usize = 20;

/// What was injected.
#[derive(Clone, Debug, Serialize)]
pub struct InjectFilesReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// `files`.
    pub mode: &'static str,
    /// The replica directory or image, as it was named.
    pub source: String,
    /// The file name of the top layer; `null` for an image.
    pub top_layer: Option<String>,
    /// The partition that was taken; `null` for the whole volume.
    pub partition: Option<u32>,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// What was mounted of it.
    pub source_file_system: FileSystemReport,
    /// The device, as it was named.
    pub target: String,
    /// What it is called otherwise.
    pub device: DeviceReport,
    /// What it carried before.
    pub before: String,
    /// What was on it, by what that says of itself; `null` when it was nothing that is known.
    pub inside_before: Option<InsideReport>,
    /// What it begins with now; `null` when that is not known.
    pub after: Option<&'static str>,
    /// What is on it now; `null` when nothing was written.
    pub inside_after: Option<InsideReport>,
    /// The kernel's name for the device's file system.
    pub target_file_system: &'static str,
    /// The command that made it; `null` when it was there.
    pub mkfs: Option<String>,
    /// What became of files that were there: `delete` or `mix`; `null` when there were none.
    pub existing: Option<&'static str>,
    /// Bytes of the device that the file system which was there left unused.
    pub surplus_bytes: u64,
    /// Whether it was made to take them.
    pub grown: bool,
    /// Bytes that it was made to take, or would be.
    pub growth_bytes: u64,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// What was copied, or would be.
    pub copied: CopiedReport,
    /// Whether not everything was copied.
    pub partial: bool,
    /// Files that were not copied, the first of them.
    pub failed: Vec<FailedReport>,
    /// How many more there were.
    pub more_failed: u64,
    /// What the source has.
    pub source_counts: Tally,
    /// What the device has; `null` when nothing was written.
    pub target_counts: Option<Tally>,
    /// Whether these are equal; `null` when they need not be.
    pub counts_equal: Option<bool>,
    /// What the file system's checker said; `null` when nothing was written.
    pub check: Option<CheckReport>,
    /// What comparing the content of both sides found; `null` when it was not asked for.
    pub verification: Option<ComparisonReport>,
    /// What of the source could not be read.
    pub trouble: Vec<String>,
    /// What else is to be said.
    pub notes: Vec<String>,
    /// How long the real run would take, in seconds; `null` unless dry.
    pub estimated_seconds: Option<f64>,
    /// Damage and doubt.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

/// A file system that was mounted.
#[derive(Clone, Debug, Serialize)]
pub struct FileSystemReport {
    /// The kernel's name for it.
    pub name: &'static str,
    /// What it was mounted with, beyond `ro,nosuid,nodev,noexec`.
    pub options: String,
}

/// What was copied.
#[derive(Clone, Debug, Serialize)]
pub struct CopiedReport {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What was deleted.
    pub deleted: u64,
}

/// A file, and what is wrong with it.
#[derive(Clone, Debug, Serialize)]
pub struct FailedReport {
    /// Its path in the volume.
    pub path: String,
    /// What is wrong.
    pub reason: String,
}

impl From<&Failed> for FailedReport {
    fn from(failed: &Failed) -> Self {
        FailedReport { path: failed.path.display().to_string(), reason: failed.reason.clone() }
    }
}

/// What a checker said.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// What was run; `null` when nothing was.
    pub command: Option<String>,
    /// Whether it found nothing wrong; `null` when it could not tell.
    pub sound: Option<bool>,
    /// The first lines of what it said.
    pub lines: Vec<String>,
    /// Why it could not tell.
    pub why: Option<String>,
}

impl From<&Checked> for CheckReport {
    fn from(checked: &Checked) -> Self {
        let Checked { command, is_sound, lines, why } = checked.clone();
        CheckReport { command, sound: is_sound, lines, why }
    }
}

/// What comparing found.
#[derive(Clone, Debug, Serialize)]
pub struct ComparisonReport {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What differs, the first of it.
    pub differences: Vec<FailedReport>,
    /// How much more there was.
    pub more_differences: u64,
}

impl From<&Comparison> for ComparisonReport {
    fn from(found: &Comparison) -> Self {
        ComparisonReport {
            files: found.files,
            bytes: found.bytes,
            differences: found.differences.iter().map(FailedReport::from).collect(),
            more_differences: found.more_differences,
        }
    }
}

/// Puts together what is shown of files that were injected from `source`.
pub fn of_files(source: &Path, injected: &InjectedFiles) -> InjectFilesReport {
    let (name, options) = injected.source_file_system.clone();
    let copied = &injected.copied;
    InjectFilesReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        mode: "files",
        source: source.display().to_string(),
        top_layer: injected.top_layer.clone(),
        partition: injected.partition,
        volume_bytes: injected.volume_bytes,
        source_file_system: FileSystemReport { name, options },
        target: injected.target.display().to_string(),
        device: DeviceReport::from(&injected.identity),
        before: injected.before.clone(),
        inside_before: injected.inside_before.as_ref().map(InsideReport::from),
        after: injected.after.map(|guest| guest.name),
        inside_after: injected.inside_after.as_ref().map(InsideReport::from),
        target_file_system: injected.target_file_system,
        mkfs: injected.mkfs.clone(),
        existing: injected.existing.map(|existing| match existing {
            Existing::Delete => "delete",
            Existing::Mix => "mix",
        }),
        surplus_bytes: injected.surplus_bytes,
        grown: injected.growth_bytes > 0 && !injected.dry_run,
        growth_bytes: injected.growth_bytes,
        dry_run: injected.dry_run,
        copied: CopiedReport { files: copied.files, bytes: copied.bytes, deleted: copied.deleted },
        partial: copied.is_partial,
        failed: copied.failed.iter().map(FailedReport::from).collect(),
        more_failed: copied.more_failed,
        source_counts: injected.source_tally,
        target_counts: injected.target_tally,
        counts_equal: injected.counts_equal(),
        check: injected.checked.as_ref().map(CheckReport::from),
        verification: injected.comparison.as_ref().map(ComparisonReport::from),
        trouble: injected.trouble.clone(),
        notes: injected.notes.clone(),
        estimated_seconds: injected.estimate.map(|time| time.as_secs_f64()),
        findings: injected.findings.iter().map(FindingReport::from).collect(),
        duration_seconds: injected.duration.as_secs_f64(),
    }
}

/// The lines for people; findings are shown apart.
pub fn text(report: &InjectFilesReport) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |words: String| {
        let _ = writeln!(text, "{words}");
    };
    let (would, verb) = if report.dry_run { ("would be ", "would put") } else { ("", "put") };
    line(format!("{verb} the files of {} on {}", printable(&report.source), printable(&report.target)));
    line(format!("  device {}, {}", printable(&report.device.name), human::bytes(report.device.size_bytes)));
    line(before_and_now(&report.before, report.inside_before.as_ref(), report.inside_after.as_ref()));
    line(match &report.mkfs {
        Some(mkfs) => format!("  file system {would}made: {}", printable(mkfs)),
        None => format!("  file system kept: {}", report.target_file_system),
    });
    growth_line(report.grown, report.growth_bytes).into_iter().for_each(&mut line);
    let copied = &report.copied;
    line(format!("  {would}copied: {} files, {}", copied.files, human::bytes(copied.bytes)));
    if report.existing == Some("delete") {
        line(format!("  {would}deleted: {}", copied.deleted));
    }
    line(format!("  source: {}", counts(&report.source_counts)));
    if let Some(target) = &report.target_counts {
        line(format!("  device: {}", counts(target)));
    }
    list(&mut line, "not copied", &report.failed, report.more_failed);
    check_and_comparison(&mut line, report);
    report.trouble.iter().for_each(|trouble| line(format!("  source: {}", printable(trouble))));
    report.notes.iter().for_each(|note| line(format!("  note: {}", printable(note))));
    line(match report.estimated_seconds {
        Some(seconds) => format!("  nothing was written; it would take about {seconds:.0} s"),
        None => format!("  in {:.1} s", report.duration_seconds),
    });
    text
}

fn check_and_comparison(line: &mut impl FnMut(String), report: &InjectFilesReport) {
    if let Some(check) = &report.check {
        let command = check.command.as_deref().unwrap_or_default();
        match (check.sound, &check.why) {
            (Some(true), _) => line(format!("  checked: sound ({})", printable(command))),
            (Some(false), _) => line(format!("  checked: DAMAGED ({})", printable(command))),
            (None, why) => line(format!("  not checked: {}", printable(why.as_deref().unwrap_or_default()))),
        }
        if check.sound != Some(true) {
            check.lines.iter().for_each(|words| line(format!("    {}", printable(words))));
        }
    }
    if let Some(found) = &report.verification {
        line(format!("  compared: the content of {} files, {}", found.files, human::bytes(found.bytes)));
        list(line, "differs", &found.differences, found.more_differences);
    }
    if report.counts_equal == Some(false) && report.failed.is_empty() {
        line("  the device does not have as many files as the source, or not of the same sizes".to_owned());
    }
}

fn counts(tally: &Tally) -> String {
    let Tally { files, bytes, directories, links, others, unreadable } = tally;
    let mut words =
        format!("{files} files, {}, {directories} directories, {links} links", human::bytes(*bytes));
    if *others > 0 {
        words += &format!(", {others} devices, pipes and sockets");
    }
    if *unreadable > 0 {
        words += &format!(", {unreadable} UNREADABLE");
    }
    words
}

fn list(line: &mut impl FnMut(String), what: &str, failed: &[FailedReport], more: u64) {
    for FailedReport { path, reason } in failed.iter().take(SHOWN) {
        line(format!("  {what}: {}: {}", printable(path), printable(reason)));
    }
    let more = more.saturating_add(failed.len().saturating_sub(SHOWN) as u64);
    if more > 0 {
        line(format!("  {what}: {more} more"));
    }
}
