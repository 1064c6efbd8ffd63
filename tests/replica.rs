//! Opening replicas: the right layers in the right order, and the right refusals.

mod common;

use std::path::Path;

use lhrecover::model::overlay::{Overlay, Served, Unwritten};
use lhrecover::model::units::ByteRange;
use lhrecover::replica::{ReplicaDir, Source, SourceOptions};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Larger volumes are left to the tests of the copy: reading all of their views here would take minutes.
const MAX_VOLUME_BYTES: u64 = 48 << 20;

fn options_for(case: &Value, replica: &Value, at: Option<&str>, root: &Path) -> SourceOptions {
    let told = case["id"].as_str().is_some_and(|id| !id.starts_with("15"));
    let by_hand = |value: &Value| (!told).then(|| value.clone());
    SourceOptions {
        at: at.map(str::to_owned),
        head: by_hand(&replica["head"]).and_then(|v| v.as_str().map(str::to_owned)),
        size_bytes: by_hand(&replica["size"]).and_then(|v| v.as_u64()),
        backing_file: replica["backing_file"].as_str().map(|file| root.join(file)),
        allow_rebuilding: true,
        allow_live: false,
    }
}

/// The digest of what the source's layers make of the volume.
fn digest(source: &Source) -> String {
    let end = source.volume_bytes;
    let mut image = vec![0; usize::try_from(end).unwrap()];
    let layers = source.layers.iter().map(|layer| layer.extents().unwrap()).collect();
    for segment in Overlay::new(layers, ByteRange::new(0, end), Unwritten::Zero) {
        let segment = segment.unwrap();
        if let Served::Data(layer) = segment.served {
            let (start, end) = (segment.range.start_bytes, segment.range.end_bytes);
            let part = &mut image[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()];
            source.layers[usize::from(layer)].read_exact_at(part, start).unwrap();
        }
    }
    Sha256::digest(image).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_view_of_every_fixture_opens_as_the_engine_sees_it() {
    let mut views = 0;
    for case in common::cases() {
        let id = case["id"].as_str().unwrap();
        let fixture = common::fixture(id);
        for (path, truth) in fixture.replicas() {
            if truth["size"].as_u64().unwrap() > MAX_VOLUME_BYTES {
                continue;
            }
            let replica = ReplicaDir::open(&path).unwrap();
            let snapshots = truth["snapshots"].as_array().cloned().unwrap_or_default();
            let mut wanted = vec![(None, &truth["sha256"])];
            wanted.extend(snapshots.iter().map(|s| (s["disk"].as_str(), &s["sha256"])));
            for (at, sha256) in wanted {
                let opened = replica.open_source(&options_for(&case, &truth, at, fixture.dir.path()));
                let Some(sha256) = sha256.as_str() else { continue };
                let source = opened.unwrap_or_else(|e| panic!("{id} {} {at:?}: {e}", truth["dir"]));
                assert_eq!(digest(&source), sha256, "{id} {} {at:?}", truth["dir"]);
                source.recheck().unwrap();
                views += 1;
            }
        }
    }
    assert!(views > 400, "only {views} views were looked at");
}
