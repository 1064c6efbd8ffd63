//! What `inject` shows: of blocks here, of files in [`files`].

pub mod files;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::Error;
use crate::report::finding::{FindingReport, printable};
use crate::report::human;
use crate::report::merge::VerificationReport;
use crate::sink::guard::Identity;
use crate::workflow::inject::blocks::InjectedBlocks;
use crate::workflow::inject::identity::{Inside, Met};

/// The version of the JSON that `inject --json` prints and `--report` keeps.
pub const SCHEMA_VERSION: u32 = 1;

/// What was injected.
#[derive(Clone, Debug, Serialize)]
pub struct InjectReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// `blocks`.
    pub mode: &'static str,
    /// The replica directory or image, as it was named.
    pub source: String,
    /// The file name of the top layer; `null` for an image.
    pub top_layer: Option<String>,
    /// The device, as it was named.
    pub target: String,
    /// What it is called otherwise; `null` for an image file.
    pub device: Option<DeviceReport>,
    /// What it carried before.
    pub before: String,
    /// What was on it, by what that says of itself; `null` when it was nothing that is known.
    pub inside_before: Option<InsideReport>,
    /// What it begins with now; `null` when that is not known.
    pub after: Option<&'static str>,
    /// What is on it now; `null` when nothing was written, or it is nothing that is known.
    pub inside_after: Option<InsideReport>,
    /// Whether the file system was made to take all of the device.
    pub grown: bool,
    /// Bytes that it was made to take beyond the volume, or would be.
    pub growth_bytes: u64,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// Bytes of the target beyond it, left as they are.
    pub surplus_bytes: u64,
    /// Bytes that layers serve with data.
    pub data_bytes: u64,
    /// Whether the target read as zeros throughout, so that zeros were not written.
    pub fresh: bool,
    /// Bytes of the target that were read and compared.
    pub compared_bytes: u64,
    /// Bytes of data that differed, and were written.
    pub written_data_bytes: u64,
    /// Bytes of zeros that were written.
    pub written_zero_bytes: u64,
    /// How long the real run would take, in seconds, at the rate at which both sides were read; `null` unless dry.
    pub estimated_seconds: Option<f64>,
    /// What reading the target back found; `null` when it was not asked for.
    pub verification: Option<VerificationReport>,
    /// Damage and doubt.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

/// What a device is called.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceReport {
    /// The kernel's name.
    pub name: String,
    /// Its number, `major:minor`.
    pub number: String,
    /// Other names under `/dev/longhorn` and `/dev/mapper`.
    pub aliases: Vec<String>,
    /// As the disk says.
    pub vendor: Option<String>,
    /// As the disk says.
    pub model: Option<String>,
    /// How many bytes it has.
    pub size_bytes: u64,
}

impl From<&Identity> for DeviceReport {
    fn from(identity: &Identity) -> Self {
        DeviceReport {
            name: identity.name.clone(),
            number: identity.number.to_string(),
            aliases: identity.aliases.iter().map(|path| path.display().to_string()).collect(),
            vendor: identity.vendor.clone(),
            model: identity.model.clone(),
            size_bytes: identity.size_bytes,
        }
    }
}

/// What is on a device.
#[derive(Clone, Debug, Serialize)]
pub struct InsideReport {
    /// What it is, in words.
    pub kind: String,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// How large it says it is.
    pub size_bytes: Option<u64>,
}

impl From<&Inside> for InsideReport {
    fn from(inside: &Inside) -> Self {
        let Inside { name, label, uuid, size_bytes, .. } = inside.clone();
        InsideReport { kind: name, label, uuid, size_bytes }
    }
}

/// What is kept in the file when the work failed after something may have been written.
#[derive(Clone, Debug, Serialize)]
pub struct InjectFailedReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// `blocks` or `files`.
    pub mode: &'static str,
    /// The replica directory or image, as it was named.
    pub source: String,
    /// The device, as it was named.
    pub target: String,
    /// What it is called otherwise; `null` for an image file.
    pub device: Option<DeviceReport>,
    /// What it carried before.
    pub before: String,
    /// What was on it, by what that says of itself.
    pub inside_before: Option<InsideReport>,
    /// Why it failed.
    pub error: ErrorReport,
}

/// Why it failed, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorReport {
    /// The exit code.
    pub exit_code: u8,
    /// What happened, and where.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// Puts together what is kept of work that failed.
pub fn of_failure(
    mode: &'static str,
    source: &Path,
    target: &Path,
    met: &Met,
    error: &Error,
) -> InjectFailedReport {
    InjectFailedReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        mode,
        source: source.display().to_string(),
        target: target.display().to_string(),
        device: met.device.as_ref().map(DeviceReport::from),
        before: met.before.clone(),
        inside_before: met.inside.as_ref().map(InsideReport::from),
        error: ErrorReport {
            exit_code: error.kind().exit_code(),
            message: error.to_string(),
            hint: error.hint().map(str::to_owned),
        },
    }
}

/// Puts together what is shown of blocks that were injected from `source`.
pub fn of_blocks(source: &Path, injected: &InjectedBlocks) -> InjectReport {
    let delta = &injected.delta;
    InjectReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        mode: "blocks",
        source: source.display().to_string(),
        top_layer: injected.top_layer.clone(),
        target: injected.target.display().to_string(),
        device: injected.identity.as_ref().map(DeviceReport::from),
        before: injected.before.clone(),
        inside_before: injected.inside_before.as_ref().map(InsideReport::from),
        after: injected.after.map(|guest| guest.name),
        inside_after: injected.inside_after.as_ref().map(InsideReport::from),
        grown: injected.growth_bytes > 0 && !injected.dry_run,
        growth_bytes: injected.growth_bytes,
        dry_run: injected.dry_run,
        volume_bytes: injected.volume_bytes,
        surplus_bytes: injected.surplus_bytes,
        data_bytes: injected.data_bytes,
        fresh: injected.fresh,
        compared_bytes: delta.compared_bytes,
        written_data_bytes: delta.data_bytes,
        written_zero_bytes: delta.zero_bytes,
        estimated_seconds: injected.estimate.map(|time| time.as_secs_f64()),
        verification: injected.verification.as_ref().map(VerificationReport::from),
        findings: injected.findings.iter().map(FindingReport::from).collect(),
        duration_seconds: injected.duration.as_secs_f64(),
    }
}

/// The line that tells what was on a device, and what is there now.
fn before_and_now(
    before: &str,
    inside_before: Option<&InsideReport>,
    inside_after: Option<&InsideReport>,
) -> String {
    let before = inside_before.map_or_else(|| printable(before), inside_words);
    let now = inside_after.map(|inside| format!("; now: {}", inside_words(inside))).unwrap_or_default();
    format!("  before: {before}{now}")
}

fn inside_words(inside: &InsideReport) -> String {
    let label = inside.label.as_ref().map(|label| format!(" '{label}'"));
    let uuid = inside.uuid.as_ref().map(|uuid| format!(", UUID {uuid}"));
    let size = inside.size_bytes.map(|bytes| format!(", {}", human::bytes(bytes)));
    let more: String = [label, uuid, size].into_iter().flatten().collect();
    printable(&format!("{}{more}", inside.kind))
}

/// The line about a file system that grows.
fn growth_line(grown: bool, growth_bytes: u64) -> Option<String> {
    let was = if grown { "was" } else { "would be" };
    let bytes = human::bytes(growth_bytes);
    (growth_bytes > 0).then(|| format!("  the file system {was} made to take {bytes} more of the device"))
}

/// The lines for people; findings are shown apart.
pub fn text(report: &InjectReport) -> String {
    let mut text = String::new();
    let (would, verb) = if report.dry_run { ("would be ", "would make") } else { ("", "made") };
    let target = printable(&report.target);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{verb} {target} the volume at {}", printable(&report.source));
    if let Some(device) = &report.device {
        let names: Vec<_> = device.aliases.iter().map(|name| printable(name).to_string()).collect();
        let also = if names.is_empty() { String::new() } else { format!(", also {}", names.join(", ")) };
        let _ =
            writeln!(text, "  device {}{also}, {}", printable(&device.name), human::bytes(device.size_bytes));
    }
    let before = before_and_now(&report.before, report.inside_before.as_ref(), report.inside_after.as_ref());
    let _ = writeln!(text, "{before}");
    let _ = writeln!(
        text,
        "  volume {}, data {}; {} of the device compared",
        human::bytes(report.volume_bytes),
        human::bytes(report.data_bytes),
        human::bytes(report.compared_bytes)
    );
    let _ = writeln!(
        text,
        "  {would}written: {} of data and {} of zeros",
        human::bytes(report.written_data_bytes),
        human::bytes(report.written_zero_bytes)
    );
    if let Some(verification) = &report.verification {
        let _ = writeln!(
            text,
            "  read back and compared: {}, and zeros everywhere else",
            human::bytes(verification.read_bytes)
        );
    }
    if let Some(line) = growth_line(report.grown, report.growth_bytes) {
        let _ = writeln!(text, "{line}");
    }
    match report.estimated_seconds {
        Some(seconds) => {
            let _ = writeln!(
                text,
                "  nothing was written; it would take about {seconds:.0} s, and verifying as long as reading"
            );
        }
        None => {
            let _ = writeln!(text, "  in {:.1} s", report.duration_seconds);
        }
    }
    text
}
