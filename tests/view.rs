//! Looking inside: reads anywhere in the merged view equal the oracle, and so does what it says is a hole.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::path::Path;
use std::sync::Arc;
use std::thread;

use common::chain::{BRANCH, Chain, Mark, image, snapshot};
use common::chains::chain_on_disk;
use lhrecover::access::scratch::Scratch;
use lhrecover::access::volume::{Volume, VolumeOptions};
use lhrecover::error::ErrorKind;
use lhrecover::model::units::{ByteRange, SECTOR_BYTES};
use lhrecover::replica::SourceOptions;
use lhrecover::view::disk::{Content, Disk, Part};
use proptest::prelude::*;
use proptest::sample::Index;

/// Where reads begin and how long they are, as shares of the volume.
fn reads() -> impl Strategy<Value = Vec<(Index, Index)>> {
    proptest::collection::vec((any::<Index>(), any::<Index>()), 1..24)
}

fn range(volume_bytes: usize, (start, len): &(Index, Index)) -> (usize, usize) {
    let start = start.index(volume_bytes);
    (start, len.index(volume_bytes - start + 1))
}

fn open(dir: &Path, at: Option<&str>) -> Volume {
    let source = SourceOptions { at: at.map(str::to_owned), ..SourceOptions::default() };
    Volume::open(dir, &VolumeOptions { source, accept_copy_damage: true, ..VolumeOptions::default() })
        .unwrap()
}

/// Reads from `readers` threads at once, each through all of `reads`, from another place on.
fn read_everywhere(disk: &dyn Disk, bytes: &[u8], reads: &[(Index, Index)], readers: usize) {
    assert_eq!(disk.size_bytes(), bytes.len() as u64);
    thread::scope(|scope| {
        for reader in 0..readers {
            scope.spawn(move || {
                for read in reads.iter().cycle().skip(reader).take(reads.len()) {
                    let (start, len) = range(bytes.len(), read);
                    let mut buf = vec![0xa5; len];
                    disk.read_exact_at(&mut buf, start as u64).unwrap();
                    assert!(buf == bytes[start..start + len], "{len} bytes at {start}, reader {reader}");
                }
            });
        }
    });
}

/// Stretches must leave out nothing, end within what was asked for, and be zeros where they say so.
fn stretches_are_right(disk: &dyn Disk, bytes: &[u8], asked: ByteRange) {
    let mut at = asked.start_bytes;
    while at < asked.end_bytes {
        let stretches = disk.stretches(ByteRange::new(at, asked.end_bytes)).unwrap();
        assert!(!stretches.is_empty(), "nothing is said of what is at {at}");
        for stretch in stretches {
            assert_eq!(stretch.range.start_bytes, at);
            assert!(!stretch.range.is_empty() && stretch.range.end_bytes <= asked.end_bytes);
            let within = |at: u64| usize::try_from(at).unwrap();
            let (start, end) = (within(stretch.range.start_bytes), within(stretch.range.end_bytes));
            let is_data = stretch.content == Content::Data;
            assert!(is_data || bytes[start..end].iter().all(|&b| b == 0), "{stretch:?} is not zeros");
            at = stretch.range.end_bytes;
        }
    }
}

fn views(chain: &Chain, unwritten_hides: bool) -> Vec<(Option<String>, Vec<u8>)> {
    let head = chain.layers.len() - 1;
    let mut views = vec![(None, chain.reads_as(head, unwritten_hides))];
    views.extend((0..head).map(|place| (Some(snapshot(place)), chain.reads_as(place, unwritten_hides))));
    views.extend(chain.branch_reads(unwritten_hides).map(|bytes| (Some(image(BRANCH)), bytes)));
    views
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_reads_are_the_oracle(chain in chain_on_disk(), reads in reads()) {
        let tmp = common::scratch();
        let dir = chain.write_to(tmp.path());
        for (at, bytes) in views(&chain, common::scratch_has_fiemap()) {
            let volume = open(&dir, at.as_deref());
            for readers in [1, 8] {
                read_everywhere(&*volume.view, &bytes, &reads, readers);
            }
            for read in &reads {
                let (start, len) = range(bytes.len(), read);
                stretches_are_right(&*volume.view, &bytes, ByteRange::new(start as u64, (start + len) as u64));
            }
            volume.recheck().unwrap();
        }
    }

    #[test]
    fn a_throw_away_copy_reads_as_written_and_leaves_what_is_below(
        chain in chain_on_disk(),
        writes in proptest::collection::vec((any::<Index>(), any::<Index>(), any::<u8>()), 0..12),
        reads in reads(),
    ) {
        let tmp = common::scratch();
        let dir = chain.write_to(tmp.path());
        let volume = open(&dir, None);
        let below = chain.reads_as(chain.layers.len() - 1, common::scratch_has_fiemap());
        let mut bytes = below.clone();
        let scratch = Scratch::new(volume.view.clone(), tmp.path(), 1 << 30).unwrap();
        for (start, len, value) in writes {
            let (start, len) = range(bytes.len(), &(start, len));
            if value == 0 {
                scratch.zero(ByteRange::new(start as u64, (start + len) as u64)).unwrap();
            } else {
                scratch.put(&vec![value; len], start as u64).unwrap();
            }
            bytes[start..start + len].fill(value);
        }
        read_everywhere(&scratch, &bytes, &reads, 4);
        stretches_are_right(&scratch, &bytes, ByteRange::new(0, bytes.len() as u64));
        read_everywhere(&*volume.view, &below, &reads, 1);
    }

    #[test]
    fn a_part_is_what_the_whole_has_there(chain in chain_on_disk(), part in any::<(Index, Index)>(), reads in reads()) {
        let tmp = common::scratch();
        let dir = chain.write_to(tmp.path());
        let volume = open(&dir, None);
        let bytes = chain.reads_as(chain.layers.len() - 1, common::scratch_has_fiemap());
        let (start, len) = range(bytes.len(), &part);
        prop_assume!(len > 0);
        let disk = Part::new(volume.view.clone(), ByteRange::new(start as u64, (start + len) as u64)).unwrap();
        read_everywhere(&disk, &bytes[start..start + len], &reads, 1);
        stretches_are_right(&disk, &bytes[start..start + len], ByteRange::new(0, len as u64));
    }
}

/// A volume of many windows: 1 TiB with data here and there.
fn wide() -> Chain {
    let gib = (1 << 30) / SECTOR_BYTES;
    let mut chain = Chain::of(
        1 << 40,
        &[
            &[(0, 3, Mark::Data), (64 << 8, 2, Mark::Data), (500 * gib, 4, Mark::Data)],
            &[(1, 1, Mark::Zeros), ((64 << 8) - 1, 2, Mark::Data), (1024 * gib - 1, 1, Mark::Data)],
        ],
    );
    chain.layers[0].size_bytes = 1 << 40;
    chain
}

#[test]
fn a_large_volume_is_read_where_it_is_asked_for() {
    let tmp = common::scratch();
    let dir = wide().write_to(tmp.path());
    let volume = open(&dir, None);
    let out = tmp.path().join("out.img");
    common::cli::lhrecover(&["merge", common::text(&dir), common::text(&out), "--quiet"]).exits(0);
    let image = open(&out, None);
    // Both sides of the edge of a window, the middle, and the end.
    for at in [0, (64 << 20) - 8192, 500 << 30, (1 << 40) - 8192] {
        let (mut ours, mut merged) = (vec![1; 8192], vec![2; 8192]);
        volume.view.read_exact_at(&mut ours, at).unwrap();
        image.view.read_exact_at(&mut merged, at).unwrap();
        assert!(ours == merged, "at {at}");
    }
    let mut holes = Vec::new();
    let mut at = 0;
    while at < 1 << 40 {
        for stretch in volume.view.stretches(ByteRange::new(at, 1 << 40)).unwrap() {
            assert_eq!(stretch.range.start_bytes, at);
            at = stretch.range.end_bytes;
            holes.extend((stretch.content == Content::Hole).then_some(stretch.range));
        }
    }
    // Emptiness is stepped over, not walked window by window.
    assert!(holes.len() < 20, "{holes:?}");
    let hole_bytes: u64 = holes.iter().map(ByteRange::len_bytes).sum();
    assert_eq!(hole_bytes, (1 << 40) - (3 + 3 + 4 + 1) * SECTOR_BYTES);
}

#[test]
fn a_throw_away_copy_has_a_limit() {
    let tmp = common::scratch();
    let dir = Chain::of(1 << 20, &[&[(0, 4, Mark::Data)]]).write_to(tmp.path());
    let volume = open(&dir, None);
    let scratch = Scratch::new(volume.view.clone(), tmp.path(), 3 * SECTOR_BYTES).unwrap();
    scratch.put(&[1; 3 * 4096], 0).unwrap();
    scratch.put(&[2; 3 * 4096], 0).unwrap();
    let full = scratch.put(&[3; 1], 3 * SECTOR_BYTES).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Output);
    assert!(full.hint().is_some_and(|hint| hint.contains("--overlay-max")), "{full}");
    assert_eq!(scratch.used_bytes(), 3 * SECTOR_BYTES);
    // What reads as zeros already takes no room.
    scratch.zero(ByteRange::new(8 * SECTOR_BYTES, 1 << 20)).unwrap();
    let mut buf = [0; 4096];
    scratch.read_exact_at(&mut buf, 2 * SECTOR_BYTES).unwrap();
    assert_eq!(buf, [2; 4096]);
    let nothing_left: Vec<_> = std::fs::read_dir(tmp.path()).unwrap().collect();
    assert_eq!(nothing_left.len(), 1, "{nothing_left:?}");
}

#[test]
fn past_the_end_is_an_error() {
    let tmp = common::scratch();
    let dir = Chain::of(1 << 20, &[&[(0, 4, Mark::Data)]]).write_to(tmp.path());
    let volume = open(&dir, None);
    for (at, len) in [(1 << 20, 1), ((1 << 20) - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 4096)] {
        assert!(volume.view.read_exact_at(&mut vec![0; len], at).is_err(), "{len} bytes at {at}");
        let scratch = Scratch::new(volume.view.clone(), tmp.path(), 1 << 20).unwrap();
        assert!(scratch.put(&vec![0; len], at).is_err());
    }
    assert!(volume.view.put(&[0], 0).is_err(), "a replica is never written");
    assert!(volume.view.read_exact_at(&mut [], 1 << 20).is_ok());
    let whole: Arc<dyn Disk> = volume.view.clone();
    assert!(Part::new(whole, ByteRange::new(0, (1 << 20) + 1)).is_err());
}

#[test]
fn options_of_a_replica_mean_nothing_for_an_image() {
    let tmp = common::scratch();
    let path = tmp.path().join("flat.img");
    std::fs::write(&path, vec![7; 10_000]).unwrap();
    let source = SourceOptions { at: Some("snap".into()), ..SourceOptions::default() };
    let refused = Volume::open(&path, &VolumeOptions { source, ..VolumeOptions::default() });
    assert_eq!(refused.err().map(|e| e.kind()), Some(ErrorKind::Usage));
    let volume = open(&path, None);
    let mut buf = vec![0; 10_000];
    volume.view.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(buf, vec![7; 10_000]);
    std::fs::write(&path, b"KDMV").unwrap();
    assert!(Volume::open(&path, &VolumeOptions::default()).is_err(), "a VMDK is no raw image");
}
