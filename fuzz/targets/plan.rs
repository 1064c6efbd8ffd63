//! The plan: the segments of any chain are those of the definition, sector by sector. Any difference is a bug.
//!
//! The definition: for each sector of 4096 bytes the topmost layer with an extent there serves it, whole; written
//! data wins a sector of its own layer over unwritten; neighbours served alike are one segment. Extents come in
//! units of 512 bytes, as a file system may tell them, touching or apart, across the volume's end too.

#![no_main]

use arbitrary::Arbitrary;
use lhrecover::model::extent::{Extent, ExtentKind, ExtentList};
use lhrecover::model::overlay::{Overlay, Segment, Served, Tally, Unwritten};
use lhrecover::model::units::{ByteRange, MAX_CHAIN_DISKS, SECTOR_BYTES};
use libfuzzer_sys::fuzz_target;

const UNIT_BYTES: u64 = 512;

/// An extent, `gap` units after the one before it.
#[derive(Arbitrary, Debug)]
struct Piece {
    gap: u8,
    len: u8,
    unwritten: bool,
}

#[derive(Arbitrary, Debug)]
struct Input {
    layers: Vec<Vec<Piece>>,
    start_sector: u8,
    volume_units: u16,
    as_holes: bool,
}

fn extents(pieces: &[Piece]) -> Vec<Extent> {
    let mut at = 0;
    let extent = |piece: &Piece| {
        let start = at + u64::from(piece.gap) * UNIT_BYTES;
        at = start + (u64::from(piece.len) + 1) * UNIT_BYTES;
        let kind = if piece.unwritten { ExtentKind::Unwritten } else { ExtentKind::Data };
        Extent { range: ByteRange::new(start, at), kind }
    };
    pieces.iter().map(extent).collect()
}

/// What one layer holds in each sector of the volume.
fn sectors(extents: &[Extent], count: usize) -> Vec<Option<ExtentKind>> {
    let mut sectors = vec![None; count];
    for extent in extents {
        let first = usize::try_from(extent.range.start_bytes / SECTOR_BYTES).unwrap();
        let end = usize::try_from(extent.range.end_bytes.div_ceil(SECTOR_BYTES)).unwrap();
        for sector in sectors.iter_mut().take(end).skip(first) {
            *sector = (*sector).max(Some(extent.kind));
        }
    }
    sectors
}

/// Who serves a sector, by the definition; `kinds` has what each layer holds there, lowest first.
fn served(kinds: &[Option<ExtentKind>], unwritten: Unwritten) -> Option<Served> {
    let data = |kind: &Option<ExtentKind>| *kind == Some(ExtentKind::Data);
    let counts = |kind: &Option<ExtentKind>| data(kind) || (kind.is_some() && unwritten == Unwritten::Zero);
    let top = kinds.iter().rposition(counts)?;
    let layer = u8::try_from(top).unwrap();
    Some(match kinds[top]? {
        ExtentKind::Data => Served::Data(layer),
        ExtentKind::Unwritten => Served::Unwritten { layer, hides_data: kinds[..top].iter().any(data) },
    })
}

fuzz_target!(|input: Input| {
    let layers: Vec<_> = input.layers.iter().take(MAX_CHAIN_DISKS + 1).map(|l| extents(l)).collect();
    let unwritten = if input.as_holes { Unwritten::Hole } else { Unwritten::Zero };
    let volume_bytes = u64::from(input.volume_units) % 8192 * UNIT_BYTES;
    let start_bytes =
        (u64::from(input.start_sector) * SECTOR_BYTES).min(volume_bytes / SECTOR_BYTES * SECTOR_BYTES);
    let window = ByteRange::new(start_bytes, volume_bytes);
    let count = usize::try_from(volume_bytes.div_ceil(SECTOR_BYTES)).unwrap();
    let first = usize::try_from(start_bytes / SECTOR_BYTES).unwrap();
    let held: Vec<_> = layers.iter().map(|extents| sectors(extents, count)).collect();

    let mut expected: Vec<Segment> = Vec::new();
    for sector in first..count {
        let kinds: Vec<_> = held.iter().map(|layer| layer[sector]).collect();
        let Some(served) = served(&kinds, unwritten) else { continue };
        let start = sector as u64 * SECTOR_BYTES;
        let range = ByteRange::new(start, (start + SECTOR_BYTES).min(volume_bytes));
        match expected.last_mut() {
            Some(last) if last.range.end_bytes == start && last.served == served => {
                last.range.end_bytes = range.end_bytes;
            }
            _ => expected.push(Segment { range, served }),
        }
    }

    let lists = layers.into_iter().map(ExtentList::new).collect();
    let mut overlay = Overlay::new(lists, window, unwritten);
    let mut segments = Vec::new();
    while let Some(segment) = overlay.next_segment().expect("lists do not fail") {
        segments.push(segment);
    }
    assert_eq!(segments, expected);

    let bytes_of = |layer: &[Option<ExtentKind>], kind| {
        layer[first.min(layer.len())..].iter().filter(|k| **k == Some(kind)).count() as u64 * SECTOR_BYTES
    };
    for (layer, Tally { data_bytes, unwritten_bytes, .. }) in held.iter().zip(overlay.tallies()) {
        assert_eq!(data_bytes, bytes_of(layer, ExtentKind::Data));
        assert_eq!(unwritten_bytes, bytes_of(layer, ExtentKind::Unwritten));
    }
});
