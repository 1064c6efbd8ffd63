//! What `verify` shows: a short table, and the same as JSON.

mod text;

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::engine::checksum::{LayerSum, SumVerdict};
use crate::format::layer_sums::LayerSums;
use crate::model::finding::Finding;
use crate::replica::View;
use crate::report::finding::FindingReport;
use crate::workflow::verify::digests::DigestCheck;
use crate::workflow::verify::image::ImageVerified;
use crate::workflow::verify::sibling::{self, SharedLayer, SiblingCompared};

pub use text::text;

/// The version of the JSON that `verify --json` prints.
pub const SCHEMA_VERSION: u32 = 1;

/// What a verification found. What was not asked for is `null`.
#[derive(Clone, Debug, Serialize)]
pub struct VerifyReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// The replica directory, as it was named.
    pub source: String,
    /// The layers against the checksums that the engine recorded.
    pub checksums: Option<Vec<ChecksumReport>>,
    /// The replica against an image.
    pub image: Option<ImageReport>,
    /// The snapshots against those of another replica.
    pub sibling: Option<SiblingReport>,
    /// The layers against digests that were recorded before, or the recording of them.
    pub digests: Option<DigestsReport>,
    /// Damage and doubt, the most serious first.
    pub findings: Vec<FindingReport>,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
}

/// A layer and its recorded checksum.
#[derive(Clone, Debug, Serialize)]
pub struct ChecksumReport {
    /// The file name.
    pub layer: String,
    /// The file's length in bytes.
    pub size_bytes: u64,
    /// Deleted, and not purged yet.
    pub removed: bool,
    /// Bytes of data that were hashed.
    pub data_bytes: u64,
    /// `match`, `corrupt`, `undecided`, `absent`, `unusable` or `unreadable`.
    pub verdict: &'static str,
    /// The recorded sum.
    pub recorded: Option<String>,
    /// The file's change time when it was hashed, as it is written.
    pub recorded_change_time: Option<String>,
    /// When it was hashed; empty when a rebuild brought the file.
    pub last_hashed_at: Option<String>,
    /// Whether the engine itself found it changed.
    pub silently_corrupted: Option<bool>,
    /// The sum as it is now.
    pub computed: Option<String>,
    /// Whether the file still has the recorded change time.
    pub change_time_equal: Option<bool>,
    /// Why the layer, or its recorded sum, cannot be read.
    pub error: Option<String>,
}

/// A comparison with an image.
#[derive(Clone, Debug, Serialize)]
pub struct ImageReport {
    /// The image, as it was named.
    pub path: String,
    /// Whether it is a block device.
    pub is_device: bool,
    /// `head` or `snapshot`.
    pub view: &'static str,
    /// The file name of the top layer.
    pub top_layer: String,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// The image's length in bytes.
    pub image_bytes: u64,
    /// Bytes of the volume that were compared.
    pub compared_bytes: u64,
    /// Bytes of them that some layer serves with data; the rest is zeros.
    pub data_bytes: u64,
    /// Whether the cache was bypassed for certain.
    pub direct: bool,
    /// Whether image and view are the same, also in length; a device may be longer.
    pub same: bool,
    /// Bytes in sectors that differ.
    pub differing_bytes: u64,
    /// The first places that differ.
    pub differences: Vec<ImageDifference>,
}

/// A place where an image differs.
#[derive(Clone, Debug, Serialize)]
pub struct ImageDifference {
    /// The first byte of the first sector that differs.
    pub start_bytes: u64,
    /// The byte after the last one.
    pub end_bytes: u64,
    /// The first byte that differs.
    pub first_offset_bytes: u64,
    /// The layer that serves it; `null` where none does, and zeros should be.
    pub layer: Option<String>,
}

/// A comparison with another replica.
#[derive(Clone, Debug, Serialize)]
pub struct SiblingReport {
    /// The other replica directory, as it was named.
    pub path: String,
    /// The snapshots that both have.
    pub layers: Vec<SharedReport>,
    /// Those that only this one has.
    pub only_here: Vec<String>,
    /// Those that only the other one has.
    pub only_there: Vec<String>,
}

/// A snapshot that both replicas have.
#[derive(Clone, Debug, Serialize)]
pub struct SharedReport {
    /// The file name.
    pub layer: String,
    /// Deleted on either side, and not purged yet.
    pub removed: bool,
    /// The file's length in bytes here.
    pub size_bytes: u64,
    /// The file's length in bytes there.
    pub sibling_size_bytes: u64,
    /// Whether both were read, and are the same, sector by sector.
    pub same: bool,
    /// Bytes that are data on both sides, and were compared.
    pub compared_bytes: Option<u64>,
    /// Bytes in sectors that differ.
    pub differing_bytes: Option<u64>,
    /// The first places that differ.
    pub differences: Vec<SharedDifference>,
    /// What its recorded checksum says of this side, where they differ.
    pub verdict: Option<&'static str>,
    /// What its recorded checksum says of the other side, where they differ.
    pub sibling_verdict: Option<&'static str>,
    /// Why one side cannot be read.
    pub error: Option<String>,
}

/// A place where two layers differ.
#[derive(Clone, Debug, Serialize)]
pub struct SharedDifference {
    /// The first byte of the first sector that differs.
    pub start_bytes: u64,
    /// The byte after the last one.
    pub end_bytes: u64,
    /// The first byte that differs.
    pub first_offset_bytes: u64,
    /// `data`, `hole` or `unwritten`: what it is here.
    pub here: &'static str,
    /// What it is there.
    pub there: &'static str,
}

/// Layer digests.
#[derive(Clone, Debug, Serialize)]
pub struct DigestsReport {
    /// The file that they are recorded in.
    pub path: String,
    /// Whether they were recorded now, and not compared.
    pub written: bool,
    /// When they were recorded.
    pub taken_at: Timestamp,
    /// The layers, by file name.
    pub layers: Vec<DigestReport>,
}

/// The digest of a layer.
#[derive(Clone, Debug, Serialize)]
pub struct DigestReport {
    /// The file name.
    pub file: String,
    /// Whether it is what was recorded; `null` when it was recorded just now, or is new.
    pub same: Option<bool>,
    /// The recorded digest; `null` of a layer that is new.
    pub recorded: Option<String>,
    /// The digest now; `null` of a layer that is gone.
    pub now: Option<String>,
}

/// The report of a verification of which nothing is told yet.
pub fn new(source: &Path, mut findings: Vec<Finding>, duration: Duration) -> VerifyReport {
    findings.sort_by_key(|f| (std::cmp::Reverse(f.severity()), f.code));
    VerifyReport {
        schema_version: SCHEMA_VERSION,
        lhrecover_version: env!("CARGO_PKG_VERSION"),
        source: source.display().to_string(),
        checksums: None,
        image: None,
        sibling: None,
        digests: None,
        findings: findings.iter().map(FindingReport::from).collect(),
        duration_seconds: duration.as_secs_f64(),
    }
}

fn verdict(verdict: SumVerdict) -> &'static str {
    match verdict {
        SumVerdict::Match => "match",
        SumVerdict::Corrupt => "corrupt",
        SumVerdict::Undecided => "undecided",
        SumVerdict::Absent => "absent",
        SumVerdict::Unusable => "unusable",
        SumVerdict::Unreadable => "unreadable",
    }
}

impl From<&LayerSum> for ChecksumReport {
    fn from(sum: &LayerSum) -> Self {
        let recorded = sum.recorded.good();
        let unusable = sum.recorded.trouble().filter(|_| sum.verdict == SumVerdict::Unusable);
        ChecksumReport {
            layer: sum.layer.clone(),
            size_bytes: sum.size_bytes,
            removed: sum.removed,
            data_bytes: sum.data_bytes,
            verdict: verdict(sum.verdict),
            recorded: recorded.map(|recorded| format!("{:016x}", recorded.crc64)),
            recorded_change_time: recorded.map(|recorded| recorded.change_time.clone()),
            last_hashed_at: recorded.map(|recorded| recorded.last_hashed_at.clone()),
            silently_corrupted: recorded.map(|recorded| recorded.silently_corrupted),
            computed: sum.computed.map(|computed| format!("{computed:016x}")),
            change_time_equal: sum.change_time_equal,
            error: sum.error.as_ref().map(ToString::to_string).or(unusable),
        }
    }
}

impl ImageReport {
    /// What a comparison with the image at `path` found.
    pub fn new(path: &Path, verified: &ImageVerified) -> Self {
        let difference = |d: &crate::engine::differences::Difference<Option<u8>>| ImageDifference {
            start_bytes: d.range.start_bytes,
            end_bytes: d.range.end_bytes,
            first_offset_bytes: d.first_bytes,
            layer: verified.layer(d.between).map(str::to_owned),
        };
        ImageReport {
            path: path.display().to_string(),
            is_device: verified.is_device,
            view: match verified.view {
                View::Head(_) => "head",
                View::Snapshot(_) => "snapshot",
            },
            top_layer: verified.view.file().to_owned(),
            volume_bytes: verified.volume_bytes,
            image_bytes: verified.image_bytes,
            compared_bytes: verified.compared_bytes,
            data_bytes: verified.comparison.data_bytes,
            direct: verified.direct,
            same: verified.is_same(),
            differing_bytes: verified.comparison.differing_bytes,
            differences: verified.comparison.differences.iter().map(difference).collect(),
        }
    }
}

impl SiblingReport {
    /// What a comparison with the replica at `path` found.
    pub fn new(path: &Path, compared: &SiblingCompared) -> Self {
        SiblingReport {
            path: path.display().to_string(),
            layers: compared.shared.iter().map(SharedReport::from).collect(),
            only_here: compared.only_here.clone(),
            only_there: compared.only_there.clone(),
        }
    }
}

impl From<&SharedLayer> for SharedReport {
    fn from(layer: &SharedLayer) -> Self {
        let compared = layer.compared.as_ref();
        let differences = compared.map(|compared| compared.differences.as_slice()).unwrap_or_default();
        SharedReport {
            layer: layer.layer.clone(),
            removed: layer.removed,
            size_bytes: layer.size_bytes,
            sibling_size_bytes: layer.sibling_size_bytes,
            same: layer.is_same(),
            compared_bytes: compared.map(|compared| compared.compared_bytes),
            differing_bytes: compared.map(|compared| compared.differing_bytes),
            differences: differences
                .iter()
                .map(|d| SharedDifference {
                    start_bytes: d.range.start_bytes,
                    end_bytes: d.range.end_bytes,
                    first_offset_bytes: d.first_bytes,
                    here: sibling::kind(d.between.here),
                    there: sibling::kind(d.between.there),
                })
                .collect(),
            verdict: layer.sum.as_ref().map(|sum| verdict(sum.verdict)),
            sibling_verdict: layer.sibling_sum.as_ref().map(|sum| verdict(sum.verdict)),
            error: layer.error.as_ref().map(ToString::to_string),
        }
    }
}

impl DigestsReport {
    /// What was recorded in the file at `path` just now.
    pub fn written(path: &Path, sums: &LayerSums) -> Self {
        let layers = sums.layers.iter().map(|layer| DigestReport {
            file: layer.file.clone(),
            same: None,
            recorded: Some(layer.blake3.clone()),
            now: Some(layer.blake3.clone()),
        });
        DigestsReport {
            path: path.display().to_string(),
            written: true,
            taken_at: sums.taken_at,
            layers: layers.collect(),
        }
    }

    /// What a comparison with `recorded`, kept in the file at `path`, found.
    pub fn compared(path: &Path, recorded: &LayerSums, checks: &[DigestCheck]) -> Self {
        let layers = checks.iter().map(|check| DigestReport {
            file: check.file.clone(),
            same: check.recorded.as_ref().map(|_| check.is_same()),
            recorded: check.recorded.as_ref().map(|digest| digest.blake3.clone()),
            now: check.now.as_ref().map(|digest| digest.blake3.clone()),
        });
        DigestsReport {
            path: path.display().to_string(),
            written: false,
            taken_at: recorded.taken_at,
            layers: layers.collect(),
        }
    }
}
