//! What a survey says about the data: unwritten extents, and signs that a copy damaged the replica.

use crate::engine::sweep::{Ranges, Survey};
use crate::error::Error;
use crate::model::finding::{Code, Finding};
use crate::model::overlay::Unwritten;
use crate::model::units::sector_ceil;
use crate::view::LayerImage;
use crate::view::layers::Layers;

/// Whether this is what a copy leaves that turns holes into data: every layer, the empty ones aside, is fully
/// allocated, and there are at least two of them, so that one hides the other.
///
/// `layers` and the survey's are lowest first; a backing image below is none of the chain's, and does not count: one
/// layer over it may well be full.
pub fn every_layer_is_full(layers: &Layers, survey: &Survey, has_backing: bool, volume_bytes: u64) -> bool {
    let chain = layers.iter().zip(&survey.layers).skip(usize::from(has_backing));
    let mut full = chain
        .filter(|(layer, _)| layer.size_bytes() > 0)
        .map(|(layer, found)| found.tally.data_bytes >= sector_ceil(layer.size_bytes().min(volume_bytes)));
    let (mut count, mut all) = (0_usize, true);
    full.by_ref().for_each(|is_full| {
        count += 1;
        all &= is_full;
    });
    all && count >= 2
}

fn copy_damage() -> Finding {
    Finding::new(
        Code::CopyFullyAllocated,
        "every layer of the chain is fully allocated: this looks like a copy that turned holes into data",
        "the top layer hides everything below it, so what is read would be wrong: cp --sparse=never, rsync, scp and \
         tar without -S all do this",
    )
    .advise("go back to the original directory, or to a copy that kept its holes")
}

/// A raw backing image without any data in it, which nobody makes a volume of.
fn blank_backing(image: &dyn LayerImage, survey: &Survey) -> Option<Finding> {
    let held = survey.layers.first().map(|layer| layer.tally)?;
    let blank = held.data_bytes == 0 && held.unwritten_bytes == 0 && image.plain_file().is_some();
    blank.then(|| {
        Finding::new(
            Code::BackingBlank,
            "the backing image is one hole, with no data in it at all",
            "whatever was never written to the volume reads as zeros; if the image has lost its data, the volume has too",
        )
        .on(image.name())
        .advise("compare its checksum with the one in the BackingImage resource, or with the other nodes' copies")
    })
}

/// What somebody is told who wants to read such a copy, and has not given leave.
pub fn refuse_copy_damage() -> Error {
    let damage = copy_damage();
    Error::refused(format!("{}: {}", damage.what, damage.meaning))
        .with_hint(format!("{}; to read it all the same: --accept-copy-damage", damage.advice))
}

/// The findings of a survey.
pub fn judge(
    layers: &Layers,
    survey: &Survey,
    has_backing: bool,
    volume_bytes: u64,
    unwritten: Unwritten,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if every_layer_is_full(layers, survey, has_backing, volume_bytes) {
        findings.push(copy_damage());
    }
    findings.extend(layers.first().filter(|_| has_backing).and_then(|image| blank_backing(&**image, survey)));
    if survey.unwritten_hiding.count > 0 {
        let (here, other) = match unwritten {
            Unwritten::Zero => (
                "zeros, as the engine reads them",
                "--unwritten hole takes the older data instead; for a copy that was made on XFS, that is right",
            ),
            Unwritten::Hole => ("the older data", "--unwritten zero takes zeros instead, as the engine does"),
        };
        findings.push(
            Finding::new(
                Code::UnwrittenHidesData,
                format!("preallocated, never written extents lie above older data: {}", amount(&survey.unwritten_hiding)),
                format!(
                    "after a power cut these are usually writes that never completed; in a copy on XFS, room that \
                     XFS allocated ahead, where the original has holes; here they are taken for {here}"
                ),
            )
            .at(survey.unwritten_hiding.first.clone())
            .advise(other),
        );
    }
    if survey.unwritten_harmless.count > 0 {
        findings.push(
            Finding::new(
                Code::UnwrittenExtents,
                format!("preallocated, never written extents: {}", amount(&survey.unwritten_harmless)),
                "they read as zeros, and so does what is below them",
            )
            .at(survey.unwritten_harmless.first.clone()),
        );
    }
    let untold: Vec<_> =
        layers.iter().filter(|layer| !layer.tells_unwritten()).map(|layer| layer.name().to_owned()).collect();
    if !untold.is_empty() {
        let mut finding = Finding::new(
            Code::UnwrittenUnknown,
            format!("the file system has no FIEMAP: {} layers are read by SEEK_DATA", untold.len()),
            "an extent that was preallocated and never written looks like a hole here, and older data shows through it; \
             the engine would read zeros",
        );
        finding.files = untold;
        findings.push(finding);
    }
    findings
}

fn amount(ranges: &Ranges) -> String {
    let plural = if ranges.count == 1 { "range" } else { "ranges" };
    format!("{} {plural}, {} bytes in all", ranges.count, ranges.bytes)
}
