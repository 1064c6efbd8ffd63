//! What images say of themselves, held to what the tools say that made them; and databases told by their files.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use common::loopdev::{run, skipped, sparse_file};
use common::{fixture, text};
use lhrecover::access::volume::{Volume, VolumeOptions};
use lhrecover::guest::facts::{self, Facts, Journal, Kind};

fn facts_of(image: &Path) -> Facts {
    let volume = Volume::open(image, &VolumeOptions::default()).unwrap();
    facts::read(&*volume.disk(None).unwrap()).unwrap()
}

/// Whether a program is there that makes file systems. If not, says that the test was skipped.
fn has(test: &str, program: &str) -> bool {
    let there = Command::new(program).arg("-V").output().is_ok();
    if !there {
        skipped(test, &format!("no {program}"));
    }
    there
}

/// Writes `bytes` over those at `at`.
fn overwrite(image: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(image).unwrap().write_all_at(bytes, at).unwrap();
}

const UUID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

#[test]
fn ext_says_what_mkfs_made() {
    if !has("ext_says_what_mkfs_made", "mkfs.ext4") {
        return;
    }
    for (mkfs, name, journal) in [
        ("mkfs.ext2", "an ext2 file system", Journal::None),
        ("mkfs.ext3", "an ext3 file system", Journal::Clean),
        ("mkfs.ext4", "an ext4 file system", Journal::Clean),
    ] {
        for block in ["1024", "4096"] {
            let tmp = common::scratch();
            let image = sparse_file(&tmp.path().join("disk.img"), 300 << 20);
            run(mkfs, &["-q", "-b", block, "-L", "my label", "-U", UUID, "-N", "4096", text(&image)]);
            let facts = facts_of(&image);
            assert_eq!((facts.kind, &*facts.name, facts.journal), (Kind::Ext, name, journal));
            assert_eq!((facts.label.as_deref(), facts.uuid.as_deref()), (Some("my label"), Some(UUID)));
            assert_eq!(facts.size_bytes, Some(300 << 20));
            let told = run("dumpe2fs", &["-h", text(&image)]);
            let says =
                |key: &str| told.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
            assert_eq!((facts.inodes, facts.inodes_free), (says("Inode count:"), says("Free inodes:")));
            let free_blocks = facts.free_bytes.unwrap() / block.parse::<u64>().unwrap();
            assert_eq!(Some(free_blocks), says("Free blocks:"));
            assert!(facts.created_at > Some(1_700_000_000) && facts.mounted_at.is_none());
            assert!(facts.damage.is_empty() && facts.notes.is_empty(), "{facts:?}");

            File::options().write(true).open(&image).unwrap().set_len(299 << 20).unwrap();
            assert!(facts_of(&image).damage[0].contains("its end is cut off"));
            overwrite(&image, 1024, &[0; 1024]);
            let facts = facts_of(&image);
            assert_eq!(facts.kind, Kind::Unknown);
            assert!(facts.damage[0].contains("a copy of its superblock"), "{facts:?}");
        }
    }
}

#[test]
fn a_superblock_that_was_touched_shows() {
    if !has("a_superblock_that_was_touched_shows", "mkfs.ext4") {
        return;
    }
    let tmp = common::scratch();
    let image = sparse_file(&tmp.path().join("disk.img"), 64 << 20);
    run("mkfs.ext4", &["-q", text(&image)]);
    overwrite(&image, 1024 + 0x10, &[1, 2]);
    assert_eq!(facts_of(&image).damage, ["its superblock does not match its checksum"]);
    run("debugfs", &["-w", "-R", "ssv error_count 3", text(&image)]);
    run("debugfs", &["-w", "-R", "ssv last_error_func here", text(&image)]);
    let errors = facts_of(&image).recorded_errors.unwrap();
    assert!(errors.contains("met 3 errors") && errors.contains("the last in here"), "{errors}");
}

#[test]
fn xfs_says_what_mkfs_made() {
    if !has("xfs_says_what_mkfs_made", "mkfs.xfs") {
        return;
    }
    let tmp = common::scratch();
    let image = sparse_file(&tmp.path().join("disk.img"), 512 << 20);
    run("mkfs.xfs", &["-q", "-L", "mylabel", "-m", &format!("uuid={UUID}"), text(&image)]);
    let facts = facts_of(&image);
    assert_eq!((facts.kind, facts.journal), (Kind::Xfs, Journal::Clean));
    assert_eq!((facts.label.as_deref(), facts.uuid.as_deref()), (Some("mylabel"), Some(UUID)));
    assert_eq!((facts.size_bytes, facts.inodes), (Some(512 << 20), Some(64)));
    assert!(facts.free_bytes.unwrap() < 512 << 20 && facts.damage.is_empty(), "{facts:?}");
    overwrite(&image, 108, b"other");
    assert_eq!(facts_of(&image).damage, ["its superblock does not match its checksum"]);
}

#[test]
fn btrfs_says_what_mkfs_made() {
    if !has("btrfs_says_what_mkfs_made", "mkfs.btrfs") {
        return;
    }
    let tmp = common::scratch();
    let image = sparse_file(&tmp.path().join("disk.img"), 512 << 20);
    run("mkfs.btrfs", &["-q", "-L", "my label", "-U", UUID, text(&image)]);
    let facts = facts_of(&image);
    assert_eq!((facts.kind, facts.journal), (Kind::Btrfs, Journal::Clean));
    assert_eq!((facts.label.as_deref(), facts.uuid.as_deref()), (Some("my label"), Some(UUID)));
    assert_eq!((facts.size_bytes, facts.damage.len()), (Some(512 << 20), 0), "{facts:?}");
    overwrite(&image, 0x1_0000 + 0x48, &[9]);
    assert_eq!(facts_of(&image).damage, ["its superblock does not match its checksum"]);
    overwrite(&image, 0x1_0040, &[0; 8]);
    assert!(facts_of(&image).damage[0].contains("a copy of its superblock is at byte 67108864"));
}

#[test]
fn swap_says_what_mkswap_made() {
    if !has("swap_says_what_mkswap_made", "mkswap") {
        return;
    }
    let tmp = common::scratch();
    let image = sparse_file(&tmp.path().join("disk.img"), 1 << 20);
    run("mkswap", &["-L", "my swap", "-U", UUID, text(&image)]);
    let facts = facts_of(&image);
    assert_eq!((facts.kind, facts.size_bytes), (Kind::Swap, Some(1 << 20)));
    assert_eq!((facts.label.as_deref(), facts.uuid.as_deref()), (Some("my swap"), Some(UUID)));
}

#[test]
fn lvm_names_its_group() {
    let tmp = common::scratch();
    let image = sparse_file(&tmp.path().join("disk.img"), 4 << 20);
    overwrite(&image, 512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001");
    overwrite(&image, 512 + 32, b"abcdef0123456789ABCDEF0123456789");
    let numbers = [4u64 << 20, 1 << 20, 0, 0, 0, 4096, (1 << 20) - 4096, 0, 0];
    overwrite(&image, 512 + 64, &numbers.map(u64::to_le_bytes).concat());
    overwrite(&image, 4096 + 4, b" LVM2 x[5A%r0N*>");
    overwrite(&image, 4096 + 40, &1024u64.to_le_bytes());
    overwrite(&image, 4096 + 1024, b"vg-data {\nid = \"...\"\n");
    let facts = facts_of(&image);
    assert_eq!((facts.kind, facts.size_bytes), (Kind::Lvm, Some(4 << 20)));
    assert_eq!(facts.uuid.as_deref(), Some("abcdef-0123-4567-89AB-CDEF-0123-456789"));
    assert_eq!(facts.notes, ["volume group vg-data"]);
}

#[test]
fn luks_is_whole_or_says_so() {
    let fixture = fixture("22-luks-encrypted");
    let (replica, _) = fixture.replica();
    let facts = facts_of(&replica);
    assert_eq!((facts.kind, facts.damage.len()), (Kind::Luks, 0), "{facts:?}");
    assert!(facts.uuid.is_some() && facts.notes[0].starts_with("key slots in use: "), "{facts:?}");
    let image = fixture.dir.path().join("image");
    common::cli::lhrecover(&["merge", text(&replica), text(&image)]).exits(0);
    overwrite(&image, 5000, b"x");
    let first = facts_of(&image);
    assert_eq!(first.notes, facts.notes, "the second header tells it, too");
    assert!(first.damage[1].contains("its second header is whole"), "{first:?}");
    overwrite(&image, 16384 + 5000, b"x");
    assert!(facts_of(&image).damage[1].contains("only a backup of the header does"));
}

#[test]
fn crashed_heads_have_a_journal_to_replay_and_snapshots_may_have() {
    for (case, kind) in [("16-ext4-sqlite", Kind::Ext), ("17-xfs-sqlite", Kind::Xfs)] {
        let fixture = fixture(case);
        let (replica, _) = fixture.replica();
        let facts = facts_of(&replica);
        assert_eq!((facts.kind, facts.journal), (kind, Journal::Dirty), "{case}");
    }
}

#[test]
fn a_volume_that_nobody_wrote_to_is_empty() {
    let fixture = fixture("26-fresh-empty");
    assert_eq!(facts_of(&fixture.replica().0).kind, Kind::Empty);
    let zeros = fixture.dir.path().join("zeros");
    fs::write(&zeros, vec![0; 1 << 20]).unwrap();
    assert_eq!(facts_of(&zeros).kind, Kind::Unknown);
}
