//! A copy by `preserve` is the replica: the same names, bytes, holes, zeros, preallocated room, links, modes and times,
//! on every file system that can hold one; others are refused. And `--check` finds what was changed since.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use common::chain::{Chain, HEAD, Layer, Mark, image};
use common::cli::{Ran, has_finding, lhrecover};
use common::filesystems::{
    BTRFS, BTRFS_COMPRESSED, EXFAT, EXT4_1K, EXT4_4K, FAT, FileSystem, Kind, TMPFS, XFS,
};
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::{loopdev, scratch, scratch_has_fiemap, text};
use lhrecover::format::copy::{JOURNAL_NAME, MANIFEST_NAME};
use lhrecover::sys::sparse;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Everything a layer can have, and one that is shorter.
fn chain() -> Chain {
    let size = 6 * MIB - 512;
    Chain {
        volume_bytes: size,
        backing: None,
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
        branch: Some((0, Layer::new(size, &[(20, 300, Mark::Data), (900, 16, Mark::Preallocated)]))),
    }
}

/// A replica with everything in its directory that can be copied.
fn replica(disk: &Path) -> PathBuf {
    let dir = chain().write_to(disk);
    fs::write(dir.join("notes.txt"), "by hand").unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::write(dir.join("volume.meta.tmp"), "{").unwrap();
    fs::hard_link(dir.join(image("s001")), dir.join(image("twin"))).unwrap();
    symlink("../elsewhere", dir.join("link")).unwrap();
    fs::set_permissions(dir.join(HEAD), fs::Permissions::from_mode(0o640)).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 123_456_789);
    for name in [HEAD, "volume.meta", "notes.txt"] {
        File::open(dir.join(name)).unwrap().set_modified(then).unwrap();
    }
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o710)).unwrap();
    File::open(&dir).unwrap().set_modified(then).unwrap();
    dir
}

/// Copies; what the machine does not tell is no finding here.
#[track_caller]
fn preserve(args: &[&str]) -> Value {
    let ran = lhrecover(&[&["preserve", "--json", "--quiet"], args].concat());
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{:?}: {}", ran.status, ran.stderr);
    ran.json()
}

#[track_caller]
fn check(source: &Path, copy: &Path) -> Ran {
    lhrecover(&["preserve", text(source), text(copy), "--check", "--json", "--quiet"])
}

/// The digest of the volume, or the exit code where it cannot be merged.
fn merged(dir: &Path, out: &Path) -> (Option<i32>, Value) {
    let ran = lhrecover(&[
        "merge",
        text(dir),
        text(out),
        "--force",
        "--json",
        "--quiet",
        "--digest",
        "blake3",
        "--no-sync",
    ]);
    (ran.status.code(), ran.json()["digest"]["value"].clone())
}

fn on_each(test: &str, kinds: &[Kind], run: impl Fn(&Kind, &FileSystem)) {
    if !loopdev::available(test) {
        return;
    }
    for kind in kinds {
        if let Some(mounted) = kind.mount(test) {
            run(kind, &mounted);
        }
    }
}

#[test]
fn every_fixture_is_copied_exactly_and_reads_the_same() {
    let merges = AtomicU32::new(0);
    common::several_at_a_time(common::cases(), |case| {
        let id = case["id"].as_str().unwrap();
        let fixture = common::fixture(id);
        // A crash has dozens of states, all alike to a copy.
        let replicas = fixture.replicas();
        let step = replicas.len().div_ceil(6);
        for (dir, _) in replicas.into_iter().step_by(step) {
            let before = Fingerprint::of(&dir);
            let copy = fixture.dir.path().join("copy");
            let report = preserve(&[text(&dir), text(&copy)]);
            assert_eq!(report["manifest"]["kind"], "copy", "{id}");
            before.assert_copied_to(&copy, id);
            let out = fixture.dir.path().join("out.img");
            let (ours, theirs) = (merged(&dir, &out), merged(&copy, &out));
            assert_eq!(theirs, ours, "{id}");
            merges.fetch_add(ours.1.is_string().into(), Ordering::Relaxed);
            check(&dir, &copy).exits(0);
            before.assert_unchanged(&dir, id);
            fs::remove_dir_all(&copy).unwrap();
        }
    });
    let merges = merges.into_inner();
    assert!(merges > 20, "only {merges} of the replicas could be merged");
}

#[test]
fn everything_in_the_directory_is_kept() {
    let disk = scratch();
    let dir = replica(disk.path());
    let xattr = xattr::set(dir.join(HEAD), "user.note", b"a\nb").is_ok();
    let before = Fingerprint::of(&dir);
    let copy = disk.path().join("copy");
    let report = preserve(&[text(&dir), text(&copy)]);
    assert!(
        !has_finding(&report, "attributes-not-kept") && !has_finding(&report, "not-preserved"),
        "{report}"
    );
    before.assert_copied_to(&copy, "a copy");
    if xattr {
        assert_eq!(xattr::get(copy.join(HEAD), "user.note").unwrap().unwrap(), b"a\nb");
    }
    assert!(copy.join(MANIFEST_NAME).exists() && !copy.join(JOURNAL_NAME).exists());
    // A copy is a replica, and can be copied like one; ours is no part of it.
    let inspected = lhrecover(&["inspect", text(&copy), "--json"]).json();
    assert!(!inspected.to_string().contains(MANIFEST_NAME));
    let again = disk.path().join("again");
    preserve(&[text(&copy), text(&again)]);
    before.assert_copied_to(&again, "a copy of the copy");
    before.assert_unchanged(&dir, "two copies");
}

#[test]
fn what_cannot_be_copied_is_named() {
    let disk = scratch();
    let dir = replica(disk.path());
    fs::create_dir(dir.join("sub")).unwrap();
    nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let before = Fingerprint::of(&dir);
    let copy = disk.path().join("copy");
    let ran = lhrecover(&["preserve", text(&dir), text(&copy)]).exits(1);
    ran.says(&["sub is a directory: it is not copied", "pipe is a pipe", "[not-preserved]"]);
    before.assert_unchanged(&dir, "a copy");
}

#[test]
fn from_every_file_system_to_every_other() {
    let test = "from_every_file_system_to_every_other";
    let source = scratch();
    on_each(test, &[EXT4_4K, EXT4_1K, XFS, BTRFS, TMPFS], |kind, mounted| {
        let dir = replica(source.path());
        let before = Fingerprint::of(&dir);
        let copy = mounted.root.join("copy");
        let report = preserve(&[text(&dir), text(&copy)]);
        assert_eq!(has_finding(&report, "unwritten-as-zeros"), !kind.has_fiemap, "{}: {report}", kind.name);
        check(&dir, &copy).exits(0);
        before.assert_unchanged(&dir, kind.name);
        let out = source.path().join("out.img");
        assert_eq!(merged(&copy, &out), merged(&dir, &out), "{}", kind.name);
        let branch = ["--at", "branch", "--force", "--quiet", "--no-sync"];
        lhrecover(&[&["merge", text(&copy), text(&out)], &branch[..]].concat());
        assert!(fs::read(&out).unwrap() == chain().branch_reads(true).unwrap(), "{}", kind.name);
        // And back again.
        let back = source.path().join("back");
        preserve(&[text(&copy), text(&back)]);
        check(&copy, &back).exits(0);
        if kind.has_fiemap {
            before.assert_copied_to(&back, kind.name);
        }
        fs::remove_dir_all(&back).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    });
}

#[test]
fn a_file_system_that_cannot_hold_a_replica_is_refused_and_takes_an_archive() {
    let test = "a_file_system_that_cannot_hold_a_replica_is_refused_and_takes_an_archive";
    on_each(test, &[BTRFS_COMPRESSED, EXFAT, FAT], |kind, mounted| {
        let disk = scratch();
        let dir = replica(disk.path());
        let before = Fingerprint::of(&dir);
        let ran = lhrecover(&["preserve", text(&dir), text(&mounted.root.join("copy"))]).exits(5);
        ran.says(&["does not keep holes and written zeros apart", "--archive FILE"]);
        let inside = lhrecover(&["preserve", text(&dir), text(&mounted.root)]);
        assert_eq!(inside.status.code(), Some(5), "{}", kind.name);
        assert_eq!(fs::read_dir(&mounted.root).unwrap().count(), 0, "{}", kind.name);
        let archive = mounted.root.join("replica.tar");
        preserve(&[text(&dir), "--archive", text(&archive)]);
        let copy = disk.path().join("copy");
        preserve(&["--unpack", text(&archive), text(&copy)]);
        before.assert_copied_to(&copy, kind.name);
        before.assert_unchanged(&dir, kind.name);
        lhrecover(&["preserve", "--unpack", text(&archive), text(&mounted.root.join("copy"))]).exits(5);
    });
}

#[test]
fn blocks_are_shared_where_they_can_be_and_that_is_told() {
    on_each(
        "blocks_are_shared_where_they_can_be_and_that_is_told",
        &[XFS, BTRFS, EXT4_4K],
        |kind, mounted| {
            let dir = replica(&mounted.root);
            let before = Fingerprint::of(&dir);
            let copy = mounted.root.join("copy");
            let args = ["preserve", text(&dir), text(&copy), "--clone", "--json", "--quiet"];
            if !kind.can_share {
                lhrecover(&args).exits(2).says(&["cannot share blocks", "leave --clone out"]);
                assert!(!copy.exists());
                return;
            }
            let report = lhrecover(&args).exits(1).json();
            assert!(has_finding(&report, "blocks-shared"), "{report}");
            assert_eq!(report["manifest"]["kind"], "clone");
            before.assert_copied_to(&copy, kind.name);
            check(&dir, &copy).exits(0);
            lhrecover(&["preserve", "--check-copy", text(&copy)]).exits(0);
            before.assert_unchanged(&dir, kind.name);
        },
    );
}

#[test]
fn the_source_and_what_is_precious_are_never_the_target() {
    let disk = scratch();
    let dir = replica(disk.path());
    let link = disk.path().join("link");
    symlink(&dir, &link).unwrap();
    let other = disk.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("thesis.txt"), "all of it").unwrap();
    let before = [Fingerprint::of(&dir), Fingerprint::of(&other)];
    let refused = |target: &Path, what: &str| {
        lhrecover(&["preserve", text(&dir), text(target)]).exits(5).says(&[what]);
    };
    refused(&dir, "would be the source itself");
    refused(&link, "would be the source itself");
    refused(&dir.join("copy"), "would be inside the source");
    refused(&link.join("copy"), "would be inside the source");
    refused(disk.path(), "the source is inside the directory of the copy");
    refused(dir.parent().unwrap(), "the source is inside the directory of the copy");
    refused(&other, "holds thesis.txt");
    lhrecover(&["preserve", text(&dir), "--archive", text(&dir.join("a.tar"))]).exits(5);
    lhrecover(&["preserve", text(&dir), "--archive", text(&dir.join(HEAD)), "--force"]).exits(5);
    lhrecover(&["preserve", text(&dir), text(&disk.path().join("no/such"))]).exits(4).says(&["cannot make"]);
    lhrecover(&["preserve", text(&other), text(&disk.path().join("copy"))]).exits(3);
    assert!(!disk.path().join("copy").exists());
    before[0].assert_unchanged(&dir, "refusals");
    before[1].assert_unchanged(&other, "refusals");
}

#[test]
fn a_finished_copy_is_left_alone() {
    let disk = scratch();
    let dir = replica(disk.path());
    let copy = disk.path().join("copy");
    preserve(&[text(&dir), text(&copy)]);
    let finished = Fingerprint::of(&copy);
    let report = preserve(&[text(&dir), text(&copy)]);
    assert_eq!(report["was_there"], true);
    finished.assert_unchanged(&copy, "a second run");
    fs::write(dir.join("notes.txt"), "changed since").unwrap();
    let ran = lhrecover(&["preserve", text(&dir), text(&copy)]).exits(5);
    ran.says(&["holds a finished copy", "name another directory"]);
    lhrecover(&["preserve", "--unpack", "-", text(&copy)]).exits(5);
    finished.assert_unchanged(&copy, "a refusal");
}

#[test]
fn a_replica_in_use_needs_leave_and_is_never_shared() {
    let disk = scratch();
    let dir = replica(disk.path());
    let copy = disk.path().join("copy");
    let mut holder = std::process::Command::new("sleep")
        .arg("60")
        .stdin(OpenOptions::new().read(true).write(true).open(dir.join(HEAD)).unwrap())
        .spawn()
        .unwrap();
    let args = ["preserve", text(&dir), text(&copy)];
    lhrecover(&args).exits(5).says(&["is in use", "--allow-live"]);
    let archive = disk.path().join("a.tar");
    lhrecover(&["preserve", text(&dir), "--archive", text(&archive)]).exits(5).says(&["--allow-live"]);
    lhrecover(&[&args[..], &["--allow-live", "--clone"]].concat()).exits(5).says(&["never shared"]);
    assert!(!copy.exists() && !archive.exists());
    lhrecover(&[&args[..], &["--allow-live"]].concat()).exits(1).says(&["[live-head]"]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    check(&dir, &copy).exits(0);
}

/// Something done to a copy, and what a check must say of it: the code, the file, and the first offset.
type Change = (&'static str, fn(&Path), &'static str, &'static str, Option<u64>);

const CHANGES: [Change; 9] = [
    ("a flipped bit", |dir| poke(dir, HEAD, 4 * 4096 + 7), "copy-content-differs", HEAD, Some(4 * 4096 + 7)),
    (
        "zeros that became a hole",
        |dir| {
            let file = OpenOptions::new().write(true).open(dir.join(HEAD)).unwrap();
            sparse::punch_hole(&file, lhrecover::model::units::ByteRange::new(700 * 4096, 710 * 4096))
                .unwrap();
        },
        "copy-content-differs",
        HEAD,
        Some(700 * 4096),
    ),
    (
        "a hole that became zeros",
        |dir| write_at(dir, HEAD, &[0; 4096], 100 * 4096),
        "copy-content-differs",
        HEAD,
        Some(100 * 4096),
    ),
    (
        "a file cut short",
        |dir| OpenOptions::new().write(true).open(dir.join(HEAD)).unwrap().set_len(5 * MIB).unwrap(),
        "copy-content-differs",
        HEAD,
        Some(5 * MIB),
    ),
    (
        "a missing file",
        |dir| fs::remove_file(dir.join("notes.txt")).unwrap(),
        "copy-names-differ",
        "notes.txt",
        None,
    ),
    ("one file more", |dir| fs::write(dir.join("more"), "x").unwrap(), "copy-names-differ", "more", None),
    (
        "a link that became a file",
        |dir| {
            let twin = dir.join("volume-snap-twin.img");
            let bytes = fs::read(&twin).unwrap();
            fs::remove_file(&twin).unwrap();
            fs::write(&twin, bytes).unwrap();
        },
        "copy-names-differ",
        "volume-snap-twin.img",
        None,
    ),
    (
        "another mode",
        |dir| fs::set_permissions(dir.join(HEAD), fs::Permissions::from_mode(0o600)).unwrap(),
        "copy-attributes-differ",
        HEAD,
        None,
    ),
    (
        "another time",
        |dir| File::open(dir.join(HEAD)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap(),
        "copy-attributes-differ",
        HEAD,
        None,
    ),
];

fn poke(dir: &Path, name: &str, at: u64) {
    let mut byte = [0];
    File::open(dir.join(name)).unwrap().read_exact_at(&mut byte, at).unwrap();
    write_at(dir, name, &[byte[0] ^ 1], at);
}

/// Writes, and leaves the times as they were: nothing but the bytes tells.
fn write_at(dir: &Path, name: &str, bytes: &[u8], at: u64) {
    let file = OpenOptions::new().write(true).open(dir.join(name)).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.set_modified(modified).unwrap();
}

fn finding<'a>(report: &'a Value, code: &str, file: &str) -> Option<&'a Value> {
    let about = |found: &&Value| found["code"] == code && found["files"][0] == file;
    report["findings"].as_array().unwrap().iter().find(about)
}

#[test]
fn whatever_was_changed_is_found_by_a_check() {
    let disk = scratch();
    let dir = replica(disk.path());
    let before = Fingerprint::of(&dir);
    for (name, change, code, file, offset) in CHANGES {
        let copy = disk.path().join("copy");
        preserve(&[text(&dir), text(&copy)]);
        change(&copy);
        let report = check(&dir, &copy).exits(1).json();
        let found = finding(&report, code, file).unwrap_or_else(|| panic!("{name}: {report}"));
        assert_eq!(found["ranges"][0]["start_bytes"].as_u64(), offset, "{name}: {found}");
        // The manifest alone knows that something is wrong, too; only not where.
        let alone = lhrecover(&["preserve", "--check-copy", text(&copy), "--json"]).exits(1).json();
        assert!(finding(&alone, code, file).is_some(), "{name}: {alone}");
        before.assert_unchanged(&dir, name);
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn a_check_tells_which_side_has_changed() {
    let disk = scratch();
    let dir = replica(disk.path());
    let copy = disk.path().join("copy");
    preserve(&[text(&dir), text(&copy)]);
    poke(&dir, HEAD, 4096 * 4);
    let report = check(&dir, &copy).exits(1).json();
    let found = finding(&report, "source-changed", HEAD).unwrap_or_else(|| panic!("{report}"));
    assert_eq!(found["ranges"][0]["start_bytes"], 4096 * 4);
    assert!(!has_finding(&report, "copy-content-differs"), "{report}");
    lhrecover(&["preserve", "--check-copy", text(&copy)]).exits(0);
    // Without a manifest the copy is wrong as far as one can see.
    fs::remove_file(copy.join(MANIFEST_NAME)).unwrap();
    let report = check(&dir, &copy).exits(1).json();
    assert!(finding(&report, "copy-content-differs", HEAD).is_some(), "{report}");
    lhrecover(&["preserve", "--check-copy", text(&copy)]).exits(2).says(&["--check"]);
}

/// The copies that ordinary tools make are known for what they are.
#[test]
fn a_check_knows_what_cp_and_cat_do() {
    let disk = scratch();
    let dir = replica(disk.path());
    for flag in ["--sparse=always", "--sparse=never"] {
        let copy = disk.path().join("copy");
        let status =
            std::process::Command::new("cp").args(["-a", flag, text(&dir), text(&copy)]).status().unwrap();
        assert!(status.success());
        let report = check(&dir, &copy).exits(1).json();
        assert!(finding(&report, "copy-content-differs", HEAD).is_some(), "{flag}: {report}");
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn what_it_says() {
    if !scratch_has_fiemap() {
        return;
    }
    let disk = scratch();
    let root = disk.path().canonicalize().unwrap();
    let dir = replica(&root);
    let copy = root.join("copy");
    let run = |args: &[&str]| lhrecover(&[&["preserve", "--progress", "none"], args].concat());
    assert_golden("preserve/done", &root, &run(&[text(&dir), text(&copy)]));
    assert_golden("preserve/was-there", &root, &run(&[text(&dir), text(&copy)]));
    assert_golden("preserve/checked", &root, &run(&[text(&dir), text(&copy), "--check"]));
    poke(&copy, HEAD, 4096 * 4);
    assert_golden("preserve/differs", &root, &run(&[text(&dir), text(&copy), "--check"]));
    assert_golden("preserve/archived", &root, &run(&[text(&dir), "--archive", text(&root.join("a.tar"))]));
    assert_golden(
        "preserve/archive-exists",
        &root,
        &run(&[text(&dir), "--archive", text(&root.join("a.tar"))]),
    );
    assert_golden("preserve/inside", &root, &run(&[text(&dir), text(&dir.join("copy"))]));
    assert_golden("preserve/not-empty", &root, &run(&[text(&dir), text(&root)]));
    assert_golden("preserve/usage", &root, &run(&[text(&dir)]));
}
