//! The real thing: the same replica gives the same bytes whatever file system it lies on. As root, on loop devices.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::chain::{BRANCH, Chain, HEAD, Layer, Mark, SECTOR, image, snapshot};
use common::cli::{has_finding, lhrecover};
use common::filesystems::{
    BTRFS, BTRFS_COMPRESSED, EXFAT, EXT4_1K, EXT4_4K, FAT, FileSystem, Kind, TMPFS, XFS,
};
use common::fingerprint::{Fingerprint, by_fiemap, by_seek};
use common::loopdev::{self, run};
use common::{scratch, text};
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// 1 MiB, the extent-size hint of these tests, in sectors.
const HINT_SECTORS: u64 = 256;

/// Every kind of file system a replica may lie on.
const ALL: [Kind; 6] = [EXT4_4K, EXT4_1K, XFS, BTRFS, BTRFS_COMPRESSED, TMPFS];

/// Everything but unwritten room: zeros, a shorter layer, a branch, a backing image, an odd size.
fn chain() -> Chain {
    let size = 6 * MIB - 512;
    Chain {
        volume_bytes: size,
        backing: Some(Layer::new(4 * MIB, &[(0, 1024, Mark::Data)])),
        layers: vec![
            Layer::new(
                2 * MIB + 512,
                &[(10, 100, Mark::Data), (200, 64, Mark::Zeros), (500, 20, Mark::Data)],
            ),
            Layer::new(size, &[(50, 20, Mark::Zeros), (600, 300, Mark::Data), (1530, 6, Mark::Data)]),
            Layer::new(
                size,
                &[(0, 1, Mark::Data), (2, 1, Mark::Zeros), (4, 1, Mark::Data), (700, 64, Mark::Zeros)],
            ),
        ],
        branch: Some((0, Layer::new(size, &[(20, 300, Mark::Data)]))),
    }
}

/// Runs `check` on every one of `kinds` that can be had here.
fn on_each(test: &str, kinds: &[Kind], check: impl Fn(&Kind, &FileSystem)) {
    if !loopdev::available(test) {
        return;
    }
    for kind in kinds {
        if let Some(mounted) = kind.mount(test) {
            check(kind, &mounted);
        }
    }
}

/// Merges, and returns the report. Findings are expected.
fn merge(dir: &Path, out: &Path, more: &[&str]) -> Value {
    let ran = lhrecover(&[&["merge", text(dir), text(out), "--force", "--json", "--quiet"], more].concat());
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{:?}: {}", ran.status, ran.stderr);
    ran.json()
}

#[track_caller]
fn assert_bytes(out: &Path, expected: &[u8], what: &str) {
    assert!(fs::read(out).unwrap() == expected, "{what}: the bytes are wrong");
}

#[test]
fn the_same_replica_gives_the_same_bytes() {
    on_each("the_same_replica_gives_the_same_bytes", &ALL, |kind, mounted| {
        let chain = chain();
        let dir = chain.write_to(&mounted.root);
        let before = Fingerprint::of(&mounted.root.join("replicas"));
        let elsewhere = scratch();
        for out in [mounted.root.join("out.img"), elsewhere.path().join("out.img")] {
            let report = merge(&dir, &out, &["--verify"]);
            assert_bytes(&out, &chain.reads(), kind.name);
            assert_eq!(has_finding(&report, "unwritten-unknown"), !kind.has_fiemap, "{}", kind.name);
            for place in 0..2 {
                merge(&dir, &out, &["--at", &snapshot(place)]);
                assert_bytes(&out, &chain.reads_as(place, true), kind.name);
            }
            merge(&dir, &out, &["--at", &image(BRANCH)]);
            assert_bytes(&out, &chain.branch_reads(true).unwrap(), kind.name);
        }
        before.assert_unchanged(&mounted.root.join("replicas"), kind.name);
    });
}

/// What tar unpacks on XFS has unwritten extents that the replica never had: XFS allocates ahead of writes that
/// extend a file, and a hole that tar leaves next is then no hole. That is told, and undone by `--unwritten hole`.
#[test]
fn real_replicas_too() {
    on_each("real_replicas_too", &ALL, |kind, mounted| {
        for id in ["03-explicit-zeros", "10-512-unaligned", "07-expansion"] {
            let dir = tempfile::tempdir_in(&mounted.root).unwrap();
            let fixture = common::fixture_in(id, dir);
            let (replica, truth) = fixture.replica();
            let out = scratch();
            let out = out.path().join("out.img");
            let as_engine = merge(&replica, &out, &["--digest", "sha256"]);
            let through = merge(&replica, &out, &["--digest", "sha256", "--unwritten", "hole"]);
            let told = has_finding(&as_engine, "unwritten-hides-data");
            assert_eq!(through["digest"]["value"], truth["sha256"], "{id} on {}", kind.name);
            assert!(told || as_engine["digest"] == through["digest"], "{id} on {}", kind.name);
            assert!(!told || kind.name == "XFS", "{id} on {}", kind.name);
        }
    });
}

#[test]
fn fiemap_and_seek_data_agree_on_what_was_written_and_what_was_not() {
    let test = "fiemap_and_seek_data_agree_on_what_was_written_and_what_was_not";
    on_each(test, &ALL, |kind, mounted| {
        let chain = chain();
        let dir = chain.write_to(&mounted.root);
        for place in 0..chain.layers.len() {
            let path = dir.join(chain.file(place));
            let (start, len) = ((8 * SECTOR).to_string(), (2 * SECTOR).to_string());
            run("fallocate", &["--punch-hole", "--offset", &start, "--length", &len, text(&path)]);
            let extents = by_fiemap(&File::open(&path).unwrap());
            // A file's last block may reach past its end.
            let end = fs::metadata(&path).unwrap().len();
            let told: Vec<_> = extents.iter().map(|&(start, to, _)| (start, to.min(end))).collect();
            if kind.has_fiemap {
                assert!(extents.iter().all(|extent| extent.2), "{}: {extents:?}", kind.name);
                assert_eq!(told, by_seek(&path), "{} of {}", chain.file(place), kind.name);
            } else {
                assert!(extents.is_empty());
            }
        }
    });
}

#[test]
fn a_part_of_a_sector_claims_all_of_it() {
    on_each("a_part_of_a_sector_claims_all_of_it", &ALL, |kind, mounted| {
        let chain = Chain::of(MIB, &[&[(0, 16, Mark::Data)], &[]]);
        let dir = chain.write_to(&mounted.root);
        let head = OpenOptions::new().write(true).open(dir.join(HEAD)).unwrap();
        head.write_all_at(&[0xab; 1024], 5 * SECTOR + 1024).unwrap();
        drop(head);
        let out = mounted.root.join("out.img");
        merge(&dir, &out, &[]);
        let mut expected = chain.reads();
        expected[5 * 4096..6 * 4096].fill(0);
        expected[5 * 4096 + 1024..][..1024].fill(0xab);
        assert_bytes(&out, &expected, kind.name);
    });
}

/// The ranges of a finding, in sectors.
fn ranges(report: &Value, code: &str) -> Vec<(u64, u64)> {
    let findings = report["findings"].as_array().unwrap();
    let of = |range: &Value, key: &str| range[key].as_u64().unwrap() / SECTOR;
    let found = findings.iter().filter(|finding| finding["code"] == code);
    found
        .flat_map(|finding| finding["ranges"].as_array().unwrap())
        .map(|range| (of(range, "start_bytes"), of(range, "end_bytes")))
        .collect()
}

#[test]
fn unwritten_extents_read_as_told() {
    on_each("unwritten_extents_read_as_told", &ALL, |kind, mounted| {
        let mut chain = Chain::of(
            4 * MIB,
            &[&[(100, 200, Mark::Data)], &[(400, 16, Mark::Data)], &[(150, 64, Mark::Preallocated)]],
        );
        chain.layers[2].writes.extend(Layer::new(0, &[(600, 128, Mark::Preallocated)]).writes);
        let dir = chain.write_to(&mounted.root);
        let before = Fingerprint::of(&dir);
        let out = mounted.root.join("out.img");
        for (flags, as_zeros) in
            [(&[][..], true), (&["--unwritten", "zero"], true), (&["--unwritten", "hole"], false)]
        {
            let report = merge(&dir, &out, flags);
            // Without FIEMAP they cannot be told from holes, and that is said.
            assert_bytes(&out, &chain.reads_as(2, as_zeros && kind.has_fiemap), kind.name);
            let (hiding, harmless) = match kind.has_fiemap {
                true => (vec![(150, 214)], vec![(600, 728)]),
                false => (vec![], vec![]),
            };
            assert_eq!(ranges(&report, "unwritten-hides-data"), hiding, "{} {flags:?}", kind.name);
            assert_eq!(ranges(&report, "unwritten-extents"), harmless, "{} {flags:?}", kind.name);
            assert_eq!(has_finding(&report, "unwritten-unknown"), !kind.has_fiemap, "{}", kind.name);
        }
        let code = if kind.has_fiemap { 1 } else { 0 };
        lhrecover(&["merge", text(&dir), text(&out), "--force"]).exits(code);
        before.assert_unchanged(&dir, kind.name);
    });
}

#[test]
fn an_extent_size_hint_makes_unwritten_extents_of_its_own() {
    let test = "an_extent_size_hint_makes_unwritten_extents_of_its_own";
    on_each(test, &[XFS], |kind, mounted| {
        let disk = mounted.root.join("hinted");
        fs::create_dir(&disk).unwrap();
        run("xfs_io", &["-c", "extsize 1m", text(&disk)]);
        let mut chain = Chain::of(
            8 * MIB,
            &[
                &[(10, 100, Mark::Data), (700, 30, Mark::Data)],
                &[(600, 4, Mark::Zeros)],
                &[(3, 2, Mark::Data)],
            ],
        );
        let dir = chain.write_to(&disk);
        let out = scratch();
        let out = out.path().join("out.img");
        let report = merge(&dir, &out, &["--unwritten", "hole"]);
        assert_bytes(&out, &chain.reads(), "as it was written");
        assert!(has_finding(&report, "unwritten-hides-data"), "{report}");
        // To the engine, and by default, every MiB that was touched at all is the layer's own.
        for layer in &mut chain.layers {
            for write in layer.writes.clone() {
                let first = write.first / HINT_SECTORS * HINT_SECTORS;
                let end = (write.first + write.sectors).next_multiple_of(HINT_SECTORS);
                layer.writes.extend(Layer::new(0, &[(first, end - first, Mark::Preallocated)]).writes);
            }
        }
        merge(&dir, &out, &[]);
        assert_bytes(&out, &chain.reads(), kind.name);
    });
}

/// 32 MiB of data in pieces of 8 MiB, and some small ones.
fn large_chain() -> Chain {
    let small = (0..16).map(|i| (9000 + 2 * i, 1, Mark::Data));
    let mut chain = Chain::of(
        64 * MIB,
        &[&[(0, 4096, Mark::Data)], &[(4096, 4096, Mark::Data)], &[(1024, 512, Mark::Zeros)]],
    );
    chain.layers[2].writes.extend(Layer::new(0, &small.collect::<Vec<_>>()).writes);
    chain
}

fn free_bytes(root: &Path) -> u64 {
    run("sync", &["-f", text(root)]);
    let stat = statvfs(root).unwrap();
    stat.blocks_free() * stat.fragment_size()
}

#[test]
fn where_blocks_can_be_shared_they_are_unless_told_otherwise() {
    let test = "where_blocks_can_be_shared_they_are_unless_told_otherwise";
    on_each(test, &[XFS, BTRFS, EXT4_4K], |kind, mounted| {
        let chain = large_chain();
        let dir = chain.write_to(&mounted.root);
        let before = Fingerprint::of(&dir);
        let out = mounted.root.join("out.img");
        let free = free_bytes(&mounted.root);
        let report = merge(&dir, &out, &["--verify"]);
        assert_bytes(&out, &chain.reads(), kind.name);
        let bytes = |key: &str| report[key].as_u64().unwrap();
        assert_eq!(bytes("cloned_bytes") + bytes("copied_bytes"), bytes("data_bytes"));
        if kind.can_share {
            assert!(bytes("copied_bytes") <= 16 * SECTOR, "{}: {report}", kind.name);
            let taken = free.saturating_sub(free_bytes(&mounted.root));
            assert!(taken < 4 * MIB, "{}: {taken} bytes were taken", kind.name);
        } else {
            assert_eq!(bytes("cloned_bytes"), 0);
        }
        let report = merge(&dir, &out, &["--clone", "never"]);
        assert_bytes(&out, &chain.reads(), kind.name);
        assert_eq!(report["cloned_bytes"], json!(0));
        before.assert_unchanged(&dir, kind.name);
    });
}

#[test]
fn where_the_target_has_no_holes_the_whole_size_is_needed() {
    on_each("where_the_target_has_no_holes_the_whole_size_is_needed", &[EXFAT, FAT], |kind, mounted| {
        let disk = scratch();
        let out = mounted.root.join("out.img");
        let merge_of = |volume_bytes: u64| -> (Chain, PathBuf) {
            let chain = Chain::of(volume_bytes, &[&[(3, 5, Mark::Data)], &[(1000, 24, Mark::Data)]]);
            let place = disk.path().join(volume_bytes.to_string());
            let dir = chain.write_to(&place);
            (chain, dir)
        };
        let (chain, dir) = merge_of(4 * MIB);
        merge(&dir, &out, &["--verify"]);
        assert_bytes(&out, &chain.reads(), kind.name);
        fs::remove_file(&out).unwrap();
        let (_, dir) = merge_of(256 * MIB);
        lhrecover(&["merge", text(&dir), text(&out)])
            .exits(4)
            .says(&["268435456 bytes are needed", "are short"]);
        assert_eq!(fs::read_dir(&mounted.root).unwrap().count(), 0, "{}", kind.name);
    });
}

#[test]
fn fat_holds_no_file_of_four_gib() {
    let test = "fat_holds_no_file_of_four_gib";
    on_each(test, &[FAT], |kind, mounted| {
        let disk = scratch();
        let dir = Chain::of(4 << 30, &[&[(3, 5, Mark::Data)]]).write_to(disk.path());
        let ran = lhrecover(&["merge", text(&dir), text(&mounted.root.join("out.img"))]).exits(4);
        ran.says(&["no file of 4 GiB or more"]);
        assert_eq!(fs::read_dir(&mounted.root).unwrap().count(), 0, "{}", kind.name);
    });
}
