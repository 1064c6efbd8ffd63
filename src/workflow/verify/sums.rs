//! Layers against the checksums that the engine recorded of them, and what to make of each.

use crate::engine::checksum::{LayerSum, SumVerdict, check_layers};
use crate::error::Result;
use crate::event::Run;
use crate::format::volume_meta;
use crate::model::finding::{Code, Finding};
use crate::replica::ReplicaDir;
use crate::replica::inventory::Doc;

/// What a purge, a prune or an unmap does to a layer that is marked as removed.
pub(super) const REMOVED: &str = "it is marked as removed, and a purge or an unmap changes such a layer";

/// What to do where two replicas can be told apart.
const COMPARE: &str =
    "compare it with another replica of the volume: --sibling DIR names the places that differ";

/// Checks the layers, or those with the given file names, against their recorded checksums.
///
/// # Errors
/// Only when the run is cancelled.
pub fn against_checksums(
    replica: &ReplicaDir,
    layers: Option<&[String]>,
    workers: usize,
    run: &Run<'_>,
) -> Result<(Vec<LayerSum>, Vec<Finding>)> {
    let sums = check_layers(replica, layers, workers, run)?;
    let mut findings: Vec<_> = sums.iter().filter_map(finding).chain(rebuilding(replica)).collect();
    if sums.iter().all(|sum| sum.verdict == SumVerdict::Absent) {
        findings.push(
            Finding::new(
                Code::ChecksumsAbsent,
                "no layer has a recorded checksum: nothing could be verified",
                "the engine hashes snapshots, never the head, and only when the setting snapshot-data-integrity has it do so",
            )
            .advise(COMPARE),
        );
    }
    Ok((sums, findings))
}

/// A replica that was being rebuilt: its checksums are those of the one it was rebuilt from, and come with the files.
fn rebuilding(replica: &ReplicaDir) -> Option<Finding> {
    let is_rebuilding = replica.inventory().told().is_some_and(|meta| meta.rebuilding);
    is_rebuilding.then(|| {
        Finding::new(
            Code::Rebuilding,
            "the replica was being rebuilt from another one",
            "what matches its checksum came whole; whether everything came, the checksums do not tell",
        )
        .on(volume_meta::FILE_NAME)
        .advise("use another replica: `lhrecover scan` ranks those there are")
    })
}

/// What there is to say of a layer whose checksum does not simply match.
fn finding(sum: &LayerSum) -> Option<Finding> {
    let layer = &sum.layer;
    let found = match sum.verdict {
        SumVerdict::Absent => return None,
        SumVerdict::Match => return doubted(sum),
        SumVerdict::Corrupt => Finding::new(
            Code::ChecksumMismatch,
            format!("{layer} is corrupt: {}", apart(sum)),
            "it still has the change time that was recorded, so nobody changed the file: the disk, or what is between, \
             has changed its data, and whatever of the volume this layer serves may be wrong",
        )
        .advise("take another replica; --sibling DIR names the places in which this one differs from it"),
        SumVerdict::Undecided => Finding::new(
            Code::ChecksumStale,
            format!("{layer} is not what its recorded checksum says: {}", apart(sum)),
            undecided(sum),
        )
        .advise(COMPARE),
        SumVerdict::Unusable => Finding::new(
            Code::ChecksumUnusable,
            format!("the checksum of {layer} {}", sum.recorded.trouble().unwrap_or_default()),
            "this layer could not be verified by it",
        )
        .advise(COMPARE),
        SumVerdict::Unreadable => {
            let (what, hint) = match &sum.error {
                Some(e) => (e.to_string(), e.hint().unwrap_or_default().to_owned()),
                None => (format!("cannot read {layer}"), String::new()),
            };
            Finding::new(Code::Unreadable, what, "whatever of the volume this layer serves cannot be had from here")
                .advise(hint)
        }
    };
    Some(found.on(layer))
}

/// Both sums, for a sentence.
fn apart(sum: &LayerSum) -> String {
    let recorded = sum.recorded.good().map_or(0, |recorded| recorded.crc64);
    format!("its checksum is {:016x}, and {recorded:016x} was recorded", sum.computed.unwrap_or_default())
}

fn undecided(sum: &LayerSum) -> String {
    let stale = match (sum.removed, sum.change_time_equal) {
        (true, _) => format!("{REMOVED} and leaves its checksum as it was"),
        (false, Some(_)) => "the file was touched after it was hashed, as any copy does, and the engine itself when it purges \
                             or unmaps; it leaves the checksum as it was then"
            .to_owned(),
        (false, None) => "when the file was hashed is not recorded".to_owned(),
    };
    format!("{stale}: the layer may be right and the checksum out of date, or the layer is damaged")
}

/// A layer that is right now, and which the engine itself once found to be wrong.
fn doubted(sum: &LayerSum) -> Option<Finding> {
    let Doc::Good(recorded) = &sum.recorded else { return None };
    let doubted = recorded.silently_corrupted && sum.change_time_equal == Some(true);
    doubted.then(|| {
        Finding::new(
            Code::ChecksumDoubted,
            format!("{} matches its checksum now, and the engine once found that it did not", sum.layer),
            "what is read of this file is not always the same: the disk, or the memory of this machine, cannot be trusted",
        )
        .on(&sum.layer)
        .advise("look at the kernel log, and prefer another replica")
    })
}
