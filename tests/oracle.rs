//! The oracle: one layer index per 4096-byte sector, filled base to head, is the definition of a merge. The plan
//! must equal it, and so must the bytes of merged directories.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::path::Path;

use common::chain::{BRANCH, image, snapshot};
use common::chains::{chain_on_disk, volume_bytes};
use common::cli::lhrecover;
use common::text;
use lhrecover::model::extent::{Extent, ExtentKind, ExtentList};
use lhrecover::model::overlay::{Overlay, Segment, Served, Unwritten};
use lhrecover::model::units::{ByteRange, SECTOR_BYTES};
use proptest::prelude::*;
use proptest::sample::select;

/// The most sectors of a generated volume in memory.
const MAX_SECTORS: u64 = 96;

/// One layer's extents as a file system might tell them: unaligned, touching or apart, past the volume's end.
fn extents(end_bytes: u64) -> impl Strategy<Value = Vec<Extent>> {
    let kind = select(vec![ExtentKind::Data, ExtentKind::Data, ExtentKind::Unwritten]);
    // Block sizes from 512 bytes up, and gaps of none at all.
    let extent = (0u64..40, 1u64..40, select(vec![512u64, 1024, 4096]), kind);
    proptest::collection::vec(extent, 0..24).prop_map(move |parts| {
        let mut at = 0;
        let mut all = Vec::new();
        for (gap, len, unit, kind) in parts {
            let start = at + gap * unit;
            at = start + len * unit;
            if start >= end_bytes + 2 * SECTOR_BYTES {
                break;
            }
            all.push(Extent { range: ByteRange::new(start, at), kind });
        }
        all
    })
}

/// What a layer has in each sector: any byte of an extent claims it whole, and data wins over unwritten.
fn claims(extents: &[Extent], sectors: usize) -> Vec<Option<ExtentKind>> {
    let mut claims = vec![None; sectors];
    for extent in extents {
        let first = extent.range.start_bytes / SECTOR_BYTES;
        let last = (extent.range.end_bytes - 1) / SECTOR_BYTES;
        for sector in first..=last {
            if let Some(slot) = claims.get_mut(usize::try_from(sector).unwrap()) {
                *slot = (*slot).max(Some(extent.kind));
            }
        }
    }
    claims
}

/// Who serves each sector, filled from the lowest layer to the highest.
fn oracle(layers: &[Vec<Extent>], sectors: usize, unwritten: Unwritten) -> Vec<Option<Served>> {
    let mut served = vec![None; sectors];
    let mut data_below = vec![false; sectors];
    for (layer, extents) in (0u8..=255).zip(layers) {
        for (sector, claim) in claims(extents, sectors).into_iter().enumerate() {
            match claim {
                Some(ExtentKind::Data) => {
                    served[sector] = Some(Served::Data(layer));
                    data_below[sector] = true;
                }
                Some(ExtentKind::Unwritten) if unwritten == Unwritten::Zero => {
                    let hides_data = data_below[sector];
                    served[sector] = Some(Served::Unwritten { layer, hides_data });
                }
                _ => {}
            }
        }
    }
    served
}

/// The plan as one entry per sector. Segments must be in order, apart or unlike, and within the volume.
fn plan(layers: &[Vec<Extent>], volume_bytes: u64, unwritten: Unwritten) -> Vec<Option<Served>> {
    let sources = layers.iter().cloned().map(ExtentList::new).collect();
    let mut sectors = vec![None; usize::try_from(volume_bytes.div_ceil(SECTOR_BYTES)).unwrap()];
    let mut before: Option<Segment> = None;
    for segment in Overlay::new(sources, ByteRange::new(0, volume_bytes), unwritten) {
        let segment = segment.unwrap();
        let ByteRange { start_bytes, end_bytes } = segment.range;
        assert!(start_bytes < end_bytes && end_bytes <= volume_bytes);
        assert_eq!(start_bytes % SECTOR_BYTES, 0);
        assert!(end_bytes % SECTOR_BYTES == 0 || end_bytes == volume_bytes);
        if let Some(before) = before {
            let touches = before.range.end_bytes == start_bytes;
            assert!(before.range.end_bytes <= start_bytes, "{before:?} and {segment:?} overlap");
            assert!(!touches || before.served != segment.served, "{before:?} and {segment:?} are one");
        }
        for sector in start_bytes / SECTOR_BYTES..end_bytes.div_ceil(SECTOR_BYTES) {
            sectors[usize::try_from(sector).unwrap()] = Some(segment.served);
        }
        before = Some(segment);
    }
    sectors
}

fn chain_in_memory(most_layers: usize) -> impl Strategy<Value = (u64, Vec<Vec<Extent>>)> {
    volume_bytes(MAX_SECTORS)
        .prop_flat_map(move |bytes| (Just(bytes), proptest::collection::vec(extents(bytes), 0..=most_layers)))
}

fn assert_plan_is_oracle(volume_bytes: u64, layers: &[Vec<Extent>]) {
    let sectors = usize::try_from(volume_bytes.div_ceil(SECTOR_BYTES)).unwrap();
    for unwritten in [Unwritten::Zero, Unwritten::Hole] {
        assert_eq!(
            plan(layers, volume_bytes, unwritten),
            oracle(layers, sectors, unwritten),
            "{unwritten:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_plan_is_the_oracle((bytes, layers) in chain_in_memory(6)) {
        assert_plan_is_oracle(bytes, &layers);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_plan_is_the_oracle_up_to_the_longest_chain((bytes, layers) in chain_in_memory(250)) {
        assert_plan_is_oracle(bytes, &layers);
    }
}

/// Merges with the program; guards against suspected damage are told to let it pass.
fn merged(dir: &Path, out: &Path, at: Option<&str>) -> Vec<u8> {
    let mut args =
        vec!["merge", text(dir), text(out), "--force", "--no-sync", "--quiet", "--accept-copy-damage"];
    args.extend(at.into_iter().flat_map(|at| ["--at", at]));
    let ran = lhrecover(&args);
    // Findings, such as an odd size, are expected.
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{:?}: {}", ran.status, ran.stderr);
    fs::read(out).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn merged_directories_read_as_the_oracle_says(chain in chain_on_disk()) {
        let disk = common::scratch();
        let dir = chain.write_to(disk.path());
        let out = disk.path().join("out.img");
        // Without FIEMAP, what was preallocated is a hole.
        let unwritten_hides = common::scratch_has_fiemap();
        let head = chain.layers.len() - 1;
        prop_assert!(merged(&dir, &out, None) == chain.reads_as(head, unwritten_hides), "the head");
        for place in 0..chain.layers.len() - 1 {
            let snapshot = snapshot(place);
            let bytes = merged(&dir, &out, Some(&snapshot));
            prop_assert!(bytes == chain.reads_as(place, unwritten_hides), "{snapshot}");
        }
        if let Some(branch) = chain.branch_reads(unwritten_hides) {
            prop_assert!(merged(&dir, &out, Some(&image(BRANCH))) == branch, "the branch");
        }
    }
}
