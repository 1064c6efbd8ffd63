//! What `merge` shows: the JSON it prints and keeps as a manifest, and the lines for people.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use crate::engine::verify::Verification;
use crate::replica::{LayerInfo, LayerKind, View};
use crate::report::finding::{FindingReport, RangeReport, printable};
use crate::report::human;
use crate::workflow::merge::Merged;

/// The version of the JSON that `merge --json` prints and `--manifest` keeps.
pub const SCHEMA_VERSION: u32 = 1;

/// What a merge did.
#[derive(Clone, Debug, Serialize)]
pub struct MergeReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// The replica directory, as it was named.
    pub source: String,
    /// `head` or `snapshot`.
    pub view: &'static str,
    /// The file name of the top layer.
    pub top_layer: String,
    /// Where the image is; `null` for a stream.
    pub output: Option<String>,
    /// The volume's, and the image's, length in bytes.
    pub volume_bytes: u64,
    /// Bytes that some layer serves with data. The rest is zeros.
    pub data_bytes: u64,
    /// Runs of neighbouring sectors that one layer serves.
    pub segments: u64,
    /// Bytes read and written.
    pub copied_bytes: u64,
    /// Bytes shared with the source instead.
    pub cloned_bytes: u64,
    /// The layers, lowest first.
    pub chain: Vec<MergedLayer>,
    /// What reading the output back found; `null` when it was not asked for.
    pub verification: Option<VerificationReport>,
    /// The digest of the whole image; `null` when it was not asked for.
    pub digest: Option<DigestReport>,
    /// Damage and doubt, the most serious first.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

/// One layer's part in the image.
#[derive(Clone, Debug, Serialize)]
pub struct MergedLayer {
    /// The file name; of a backing image, its path.
    pub file: String,
    /// `head`, `snapshot` or `backing`.
    pub kind: &'static str,
    /// When the snapshot was taken, or the head began (RFC 3339); empty when it does not say.
    pub created: String,
    /// Deleted, and not purged yet.
    pub removed: bool,
    /// The file's length in bytes; `null` when its data is in the layer below.
    pub size_bytes: Option<u64>,
    /// What the file takes on the disk, in bytes.
    pub allocated_bytes: Option<u64>,
    /// How many extents it has.
    pub extents: u64,
    /// Bytes in written extents.
    pub data_bytes: u64,
    /// Bytes in unwritten extents.
    pub unwritten_bytes: u64,
    /// Bytes of the image that come from this layer.
    pub served_bytes: u64,
}

/// A finished verification; a failed one is an error.
#[derive(Clone, Debug, Serialize)]
pub struct VerificationReport {
    /// Bytes of data read back and found to be what was copied.
    pub read_bytes: u64,
    /// Whether the cache was bypassed for certain (direct I/O), and not only dropped beforehand.
    pub direct: bool,
    /// Where they differ: empty.
    pub differences: Vec<RangeReport>,
}

/// A digest of the whole image.
#[derive(Clone, Debug, Serialize)]
pub struct DigestReport {
    /// `blake3` or `sha256`.
    pub algorithm: &'static str,
    /// Lower-case hexadecimal digits, as `b3sum` and `sha256sum` print them.
    pub value: String,
}

impl From<&Verification> for VerificationReport {
    fn from(found: &Verification) -> Self {
        VerificationReport {
            read_bytes: found.read_bytes,
            direct: found.direct,
            differences: found.differences.iter().map(RangeReport::from).collect(),
        }
    }
}

/// Puts together what is shown of a merge of `source`.
pub fn build(source: &Path, merged: &Merged) -> MergeReport {
    let mut findings: Vec<_> = merged.findings.iter().map(FindingReport::from).collect();
    findings.sort_by_key(|f| (std::cmp::Reverse(f.severity), f.code));
    let layer = |(info, found): (&LayerInfo, &crate::engine::sweep::LayerSurvey)| MergedLayer {
        file: info.file.clone(),
        kind: kind(info.kind),
        created: info.created.clone(),
        removed: info.removed,
        size_bytes: info.stat.map(|stat| stat.size_bytes),
        allocated_bytes: info.stat.map(|stat| stat.allocated_bytes),
        extents: found.tally.extents,
        data_bytes: found.tally.data_bytes,
        unwritten_bytes: found.tally.unwritten_bytes,
        served_bytes: found.served_bytes,
    };
    MergeReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        source: source.display().to_string(),
        view: match merged.view {
            View::Head(_) => "head",
            View::Snapshot(_) => "snapshot",
        },
        top_layer: merged.view.file().to_owned(),
        output: merged.output.as_ref().map(|path| path.display().to_string()),
        volume_bytes: merged.volume_bytes,
        data_bytes: merged.survey.data_bytes,
        segments: merged.survey.segments,
        copied_bytes: merged.copied_bytes,
        cloned_bytes: merged.cloned_bytes,
        chain: merged.chain.iter().zip(&merged.survey.layers).map(layer).collect(),
        verification: merged.verification.as_ref().map(VerificationReport::from),
        digest: merged
            .digest
            .as_ref()
            .map(|(algorithm, value)| DigestReport { algorithm: algorithm.name(), value: value.clone() }),
        findings,
        duration_seconds: merged.duration.as_secs_f64(),
    }
}

fn kind(kind: LayerKind) -> &'static str {
    match kind {
        LayerKind::Head => "head",
        LayerKind::Snapshot => "snapshot",
        LayerKind::Backing => "backing",
    }
}

/// The lines for people; findings are shown apart.
pub fn text(report: &MergeReport) -> String {
    let mut text = String::new();
    let output = report.output.as_deref().unwrap_or("standard output");
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "merged {} and {} below it into {}",
        printable(&report.top_layer),
        layers(report.chain.len().saturating_sub(1)),
        printable(output)
    );
    let _ = writeln!(
        text,
        "  volume {}, data {} in {} segments",
        human::bytes(report.volume_bytes),
        human::bytes(report.data_bytes),
        report.segments
    );
    let shared = match report.cloned_bytes {
        0 => String::new(),
        bytes => format!(", shared {}", human::bytes(bytes)),
    };
    let _ = writeln!(
        text,
        "  copied {}{shared} in {:.1} s",
        human::bytes(report.copied_bytes),
        report.duration_seconds
    );
    if let Some(verification) = &report.verification {
        let how = if verification.direct { "" } else { " (after dropping the cache)" };
        let _ = writeln!(
            text,
            "  read back from the medium and compared: {}{how}",
            human::bytes(verification.read_bytes)
        );
    }
    if let Some(digest) = &report.digest {
        let _ = writeln!(text, "  {} {}", digest.algorithm, digest.value);
    }
    text
}

fn layers(count: usize) -> String {
    match count {
        0 => "no layer".to_owned(),
        1 => "1 layer".to_owned(),
        n => format!("{n} layers"),
    }
}
