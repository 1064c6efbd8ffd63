//! What `inject` shows: of blocks here, of files in [`files`].

pub mod files;

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::report::finding::{FindingReport, printable};
use crate::report::human;
use crate::report::merge::VerificationReport;
use crate::sink::guard::Identity;
use crate::workflow::inject::blocks::InjectedBlocks;

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
    /// What it begins with now; `null` when that is not known.
    pub after: Option<&'static str>,
    /// Whether the file system was made to take all of the device.
    pub grown: bool,
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
        after: injected.after.map(|guest| guest.name),
        grown: injected.grown,
        dry_run: injected.dry_run,
        volume_bytes: injected.volume_bytes,
        surplus_bytes: injected.surplus_bytes,
        data_bytes: injected.data_bytes,
        fresh: injected.fresh,
        compared_bytes: delta.compared_bytes,
        written_data_bytes: delta.data_bytes,
        written_zero_bytes: delta.zero_bytes,
        estimated_seconds: injected.dry_run.then(|| estimate(injected)),
        verification: injected.verification.as_ref().map(VerificationReport::from),
        findings: injected.findings.iter().map(FindingReport::from).collect(),
        duration_seconds: injected.duration.as_secs_f64(),
    }
}

/// Reading both sides again, and writing what differs as fast as they were read.
#[allow(clippy::cast_precision_loss)] // An estimate.
fn estimate(injected: &InjectedBlocks) -> f64 {
    let seconds = injected.delta_duration.as_secs_f64();
    let read_bytes = injected.data_bytes.saturating_add(injected.delta.compared_bytes).max(1);
    let written_bytes = injected.delta.data_bytes.saturating_add(injected.delta.zero_bytes);
    seconds * (1.0 + written_bytes as f64 / read_bytes as f64)
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
    let _ = writeln!(text, "  before: {}", printable(&report.before));
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
    if report.grown {
        let _ = writeln!(text, "  the file system was made to take all of the device");
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
