//! Generated chains: what proptest varies in tests that read replica directories.

use proptest::prelude::*;
use proptest::sample::select;

use super::chain::{Chain, Layer, Mark, Write};
use lhrecover::model::units::SECTOR_BYTES;

/// Volume sizes in bytes: mostly whole sectors, sometimes not.
pub fn volume_bytes(max_sectors: u64) -> impl Strategy<Value = u64> {
    (1..=max_sectors, select(vec![0u64, 0, 512, 3584]))
        .prop_map(|(sectors, odd)| sectors * SECTOR_BYTES - odd)
}

/// The most sectors of a generated volume on disk.
const MAX_DISK_SECTORS: u64 = 48;

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let mark = select(vec![Mark::Data, Mark::Data, Mark::Zeros, Mark::Preallocated]);
    let write = (0..MAX_DISK_SECTORS, 1u64..12, mark);
    let to_write = |(first, sectors, mark)| Write { first, sectors, mark };
    proptest::collection::vec(write.prop_map(to_write), 0..6)
}

/// A layer of a volume of `volume_bytes`; one in three is shorter, as before an expansion.
fn layer(volume_bytes: u64) -> impl Strategy<Value = Layer> {
    let sizes = prop_oneof![2 => Just(volume_bytes), 1 => (0..=volume_bytes / 512).prop_map(|n| n * 512)];
    (sizes, writes()).prop_map(|(size_bytes, writes)| Layer { size_bytes, writes })
}

/// A chain of one to five layers, some shorter than the volume, at times with a backing image or a branch.
pub fn chain_on_disk() -> impl Strategy<Value = Chain> {
    volume_bytes(MAX_DISK_SECTORS).prop_flat_map(|volume_bytes| {
        let layer = || layer(volume_bytes);
        let layers = (proptest::collection::vec(layer(), 0..5), writes());
        let extras = (proptest::option::of(layer()), proptest::option::of((0usize..5, layer())));
        (layers, extras).prop_map(move |((mut layers, head), (backing, branch))| {
            let below = layers.len();
            layers.push(Layer { size_bytes: volume_bytes, writes: head });
            // The engine opens no backing image that is empty; a revert leaves its branch on a snapshot.
            let backing = backing.filter(|layer| layer.size_bytes > 0);
            let branch = branch.filter(|_| below > 0).map(|(parent, layer)| (parent % below.max(1), layer));
            Chain { volume_bytes, backing, layers, branch }
        })
    })
}
