//! `inject --mode files`, and `--grow`: the files of a volume end on a device as they were, or it is said which do not, and
//! nothing is left mounted whatever happens.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::cli::{Lhrecover, Ran};
use common::disks::{Memory, Served};
use common::fingerprint::Fingerprint;
use common::loopdev::{LoopDevice, Mounted, run, skipped, sparse_file};
use common::mounts::Mounts;
use common::{Fixture, fixture, text};
use lhrecover::model::units::ByteRange;
use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};

const MIB: u64 = 1 << 20;

/// A run directory, and a place for devices outside of it.
struct Rig {
    mounts: Mounts,
    disks: tempfile::TempDir,
}

impl Rig {
    fn new(test: &str) -> Option<Self> {
        let mounts = Mounts::new(test)?;
        for (program, package) in [("rsync", "rsync"), ("mke2fs", "e2fsprogs"), ("mkfs.xfs", "xfsprogs")] {
            let found = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
            if found.is_err() {
                skipped(test, &format!("no {program} (package {package})"));
                return None;
            }
        }
        Some(Rig { mounts, disks: common::scratch() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.disks.path().join(name)
    }

    /// An empty device of that size.
    fn device(&self, name: &str, size_bytes: u64) -> LoopDevice {
        LoopDevice::over(&sparse_file(&self.path(name), size_bytes))
    }

    fn program(&self, source: &Path, device: &Path, more: &[&str]) -> Lhrecover {
        let base = ["inject", text(source), text(device), "--mode", "files", "--any-device", "--json"];
        self.mounts.program(&[&base[..], more].concat())
    }

    fn inject(&self, source: &Path, device: &Path, more: &[&str]) -> Ran {
        let ran = self.program(source, device, more).run();
        self.mounts.assert_nothing_left("inject");
        ran
    }

    /// An ext4 image with these files.
    fn ext4(&self, name: &str, size_bytes: u64, files: &[(&str, Vec<u8>)]) -> PathBuf {
        let content = self.path(&format!("{name} content"));
        for (path, bytes) in files {
            let path = content.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let image = sparse_file(&self.path(name), size_bytes);
        run("mke2fs", &["-q", "-t", "ext4", "-L", "data", "-d", text(&content), text(&image)]);
        image
    }

    /// What is on a device, by path: digests of files, and what else there is.
    fn held(&self, device: &Path) -> BTreeMap<String, String> {
        let point = self.path("look");
        fs::create_dir_all(&point).unwrap();
        run("mount", &["-o", "ro", text(device), text(&point)]);
        let _mounted = Mounted { point: point.clone() };
        files(&point)
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn files(root: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = text(path.strip_prefix(root).unwrap()).to_owned();
            if name == "lost+found" {
            } else if meta.is_dir() {
                found.insert(name, "directory".to_owned());
                walk(&path, root, found);
            } else if meta.is_file() {
                found.insert(name, sha256(&fs::read(&path).unwrap()));
            } else {
                found.insert(name, "other".to_owned());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

/// What the manifest says that this state has.
fn truth(fixture: &Fixture, state: &str) -> BTreeMap<String, String> {
    let (_, case) = fixture.replica();
    let files = case["guest_files"][state]["files"].as_object().unwrap();
    files.iter().map(|(path, file)| (path.clone(), file["sha256"].as_str().unwrap().to_owned())).collect()
}

fn regular(held: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_file = |what: &&String| *what != "directory" && *what != "other";
    // The manifest leaves out what SQLite keeps in memory.
    held.iter()
        .filter(|(path, what)| is_file(what) && !path.ends_with("-shm"))
        .map(|(path, what)| (path.clone(), what.clone()))
        .collect()
}

/// Bytes that do not repeat.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed * 2 + 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x
    };
    (0..len.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(len).collect()
}

fn codes(report: &Value) -> Vec<String> {
    report["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap().to_owned()).collect()
}

fn failed(report: &Value) -> Vec<&str> {
    report["failed"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect()
}

fn counts_are_equal(report: &Value) {
    assert_eq!(report["counts_equal"], true, "{report:#}");
    assert_eq!(report["source_counts"], report["target_counts"]);
    assert_eq!((&report["partial"], &report["failed"]), (&false.into(), &serde_json::json!([])));
    assert_eq!(report["check"]["sound"], true, "{report:#}");
}

/// Each state of the case into an empty device, one with an older state, and one with a fresh file system that is smaller
/// than the device.
fn ends_on_devices(test: &str, case_id: &str, fresh: &[&str]) {
    let Some(rig) = Rig::new(test) else { return };
    let fixture = fixture(case_id);
    let (replica, case) = fixture.replica();
    let size_bytes = case["size"].as_u64().unwrap();
    let before = Fingerprint::of(&replica);
    let snapshots = case["guest_files"].as_object().unwrap().iter().filter(|(state, _)| *state != "head");
    let number_of_files = |guest: &Value| guest["files"].as_object().unwrap().len();
    let (older, _) = snapshots.max_by_key(|(_, guest)| number_of_files(guest)).unwrap();

    let empty = rig.device("empty", size_bytes);
    let replayed = ["--journal", "replay", "--verify"];
    let report =
        rig.inject(&replica, &empty.path, &[&["--at", older], &replayed[..]].concat()).exits(0).json();
    counts_are_equal(&report);
    assert!(report["mkfs"].is_string());
    assert_eq!(regular(&rig.held(&empty.path)), truth(&fixture, older));

    // An older state becomes the newer one, and only what differs is copied.
    let to_head = rig.inject(&replica, &empty.path, &[&["--overwrite", "--delete"], &replayed[..]].concat());
    let report = to_head.exits(0).json();
    counts_are_equal(&report);
    assert_eq!((&report["mkfs"], &report["existing"]), (&Value::Null, &"delete".into()));
    assert!(report["copied"]["files"].as_u64() < report["source_counts"]["files"].as_u64(), "{report:#}");
    assert_eq!(report["verification"]["differences"], serde_json::json!([]));
    assert_eq!(regular(&rig.held(&empty.path)), truth(&fixture, "head"));
    if let Some(rows) = case["guest_files"]["head"]["sqlite_rows_with_wal"].as_u64() {
        assert_eq!(sqlite_rows(&rig, &empty.path), rows);
    }

    // A fresh file system of another making is kept, and grows.
    let larger = rig.device("larger", size_bytes + 256 * MIB);
    run(fresh[0], &[&fresh[1..], &[text(&larger.path)]].concat());
    let growing = [&["--grow"], &replayed[..]].concat();
    let dry = rig.inject(&replica, &larger.path, &[&growing[..], &["--dry-run"]].concat()).exits(0).json();
    let report = rig.inject(&replica, &larger.path, &growing).exits(0).json();
    assert_eq!((&dry["grown"], &dry["growth_bytes"]), (&false.into(), &report["growth_bytes"]), "{dry:#}");
    counts_are_equal(&report);
    assert_eq!((&report["mkfs"], &report["existing"]), (&Value::Null, &Value::Null));
    assert_eq!(report["grown"], true, "{report:#}");
    assert_eq!(regular(&rig.held(&larger.path)), truth(&fixture, "head"));
    let mixed = ["--overwrite", "--mix", "--dry-run", "--journal", "replay"];
    let again = rig.inject(&replica, &larger.path, &mixed).exits(0).json();
    assert_eq!(again["surplus_bytes"], 0, "it took all of the device: {again:#}");
    // Without its journal the source is not all there.
    let skipped =
        rig.inject(&replica, &larger.path, &["--overwrite", "--delete", "--dry-run"]).exits(1).json();
    assert!(codes(&skipped).contains(&"journal-skipped".to_owned()), "{skipped:#}");
    before.assert_unchanged(&replica, "inject");
}

fn sqlite_rows(rig: &Rig, device: &Path) -> u64 {
    let (point, copy) = (rig.path("look"), rig.path("db"));
    fs::create_dir_all(&copy).unwrap();
    run("mount", &["-o", "ro", text(device), text(&point)]);
    let _mounted = Mounted { point: point.clone() };
    for name in ["app.sqlite", "app.sqlite-wal"] {
        fs::copy(point.join("db").join(name), copy.join(name)).unwrap();
    }
    let count = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                 names = [n for (n,) in db.execute(\"select name from sqlite_master where type = 'table'\")]; \
                 print(max(db.execute('select count(*) from ' + n).fetchone()[0] for n in names))";
    run("python3", &["-c", count, text(&copy.join("app.sqlite"))]).parse().unwrap()
}

#[test]
fn the_ext4_fixture_ends_on_devices() {
    let fresh = ["mkfs.xfs", "-q", "-d", "size=310m"];
    ends_on_devices("the_ext4_fixture_ends_on_devices", "16-ext4-sqlite", &fresh);
}

#[test]
fn the_xfs_fixture_ends_on_devices() {
    // 200 MiB, on a device of more than twice that.
    let fresh = ["sh", "-c", "mke2fs -q -t ext4 \"$0\" 200m"];
    ends_on_devices("the_xfs_fixture_ends_on_devices", "17-xfs-sqlite", &fresh);
}

#[test]
fn a_file_system_is_made_like_the_source() {
    let Some(rig) = Rig::new("a_file_system_is_made_like_the_source") else { return };
    let source = sparse_file(&rig.path("ext"), 64 * MIB);
    let features = "^metadata_csum,^64bit,^orphan_file,^flex_bg,uninit_bg";
    let making =
        ["-q", "-t", "ext4", "-b", "1024", "-I", "128", "-N", "4096", "-m", "1", "-L", "old", "-O", features];
    run("mke2fs", &[&making[..], &[text(&source)]].concat());
    let device = rig.device("ext device", 64 * MIB);
    rig.inject(&source, &device.path, &["--keep-uuid"]).exits(0);
    let facts = |path: &Path| -> Vec<String> {
        let told = run("dumpe2fs", &["-h", text(path)]);
        let kept = [
            "volume name",
            "UUID",
            "Filesystem features",
            "Inode count",
            "Block size",
            "Inode size",
            "Reserved block count",
        ];
        let wanted = |line: &&str| kept.iter().any(|name| line.contains(&format!("{name}:")));
        told.lines().filter(wanted).map(str::to_owned).collect()
    };
    assert_eq!(facts(&device.path), facts(&source));
    assert_eq!(facts(&source).len(), 7);

    let source = sparse_file(&rig.path("xfs"), 320 * MIB);
    let making = [
        "-q",
        "-m",
        "bigtime=0,inobtcount=0,reflink=0",
        "-i",
        "size=512,nrext64=0",
        "-b",
        "size=1024",
        "-L",
        "old",
    ];
    run("mkfs.xfs", &[&making[..], &[text(&source)]].concat());
    let device = rig.device("xfs device", 400 * MIB);
    rig.inject(&source, &device.path, &["--keep-uuid"]).exits(0);
    let facts = |path: &Path| {
        let told = run(
            "xfs_db",
            &[
                "-r",
                "-c",
                "version",
                "-c",
                "uuid",
                "-c",
                "label",
                "-c",
                "sb 0",
                "-c",
                "p blocksize inodesize",
                text(path),
            ],
        );
        let (_, names) = told.split_once(" = ").unwrap();
        // Comes with the first attribute that a file has.
        names.replace(",ATTR,", ",")
    };
    assert_eq!(facts(&device.path), facts(&source));
}

#[test]
fn refusals_name_the_way_out_and_write_nothing() {
    let Some(rig) = Rig::new("refusals_name_the_way_out_and_write_nothing") else { return };
    let source = rig.ext4("source", 16 * MIB, &[("db/app.sqlite", b"new".to_vec())]);
    let device = rig.device("device", 32 * MIB);
    let backing = rig.path("device");
    let refused = |source: &Path, more: &[&str], code: i32, says: &[&str]| {
        let held = fs::read(&backing).unwrap();
        let error = rig.inject(source, &device.path, more).exits(code).json();
        let words = format!("{} {}", error["error"]["message"], error["error"]["hint"]);
        says.iter().for_each(|part| assert!(words.contains(part), "{part:?} is not in {words}"));
        assert!(fs::read(&backing).unwrap() == held, "{words}: something was written");
    };
    let write = |bytes: &[u8], at| {
        OpenOptions::new().write(true).open(&backing).unwrap().write_all_at(bytes, at).unwrap()
    };
    write(b"precious", 20 * MIB);
    refused(&source, &[], 5, &["carries data", "--overwrite"]);
    write(&[0; 8], 20 * MIB);
    // Files that are there.
    rig.inject(&source, &device.path, &[]).exits(0);
    refused(&source, &[], 5, &["has files", "--overwrite", "--delete", "--mix", "WAL"]);
    refused(&source, &["--overwrite"], 5, &["--delete", "--mix", "WAL", "corrupts"]);
    refused(&source, &["--delete"], 5, &["--overwrite"]);
    refused(&source, &["--zeros", "write"], 2, &["--zeros", "blocks"]);
    // What files are not copied from.
    let btrfs = sparse_file(&rig.path("btrfs"), 128 * MIB);
    run("mkfs.btrfs", &["-q", text(&btrfs)]);
    refused(&btrfs, &["--overwrite", "--delete"], 3, &["a btrfs file system", "--mode blocks"]);
    let empty = sparse_file(&rig.path("nothing"), 16 * MIB);
    refused(&empty, &["--overwrite", "--delete"], 3, &["nothing that is known"]);
    let luks = fixture("22-luks-encrypted");
    refused(&luks.replica().0, &["--overwrite", "--delete"], 3, &["LUKS", "cryptsetup"]);
    let larger = rig.ext4("larger", 64 * MIB, &[("a", vec![1])]);
    refused(&larger, &["--overwrite", "--delete"], 5, &["too small"]);
    refused(&backing, &["--overwrite", "--delete"], 5, &["source"]);
    // Mounted elsewhere.
    let point = rig.path("mounted");
    fs::create_dir(&point).unwrap();
    let mounted = Mounted::at(&device.path, &point);
    rig.inject(&source, &device.path, &["--overwrite", "--delete"]).exits(5);
    drop(mounted);
    let error = rig.inject(&source, &backing, &[]).exits(5).json();
    assert!(error["error"]["message"].as_str().unwrap().contains("not a block device"), "{error}");
    let blocks = ["inject", text(&source), text(&device.path), "--mode", "blocks", "--delete"];
    rig.mounts.program(&blocks).run().exits(2).says(&["--delete", "--mode files"]);
}

#[test]
fn what_is_mixed_stays_and_what_is_deleted_goes() {
    let Some(rig) = Rig::new("what_is_mixed_stays_and_what_is_deleted_goes") else { return };
    let old = [
        ("kept", b"kept".to_vec()),
        ("both/a", b"old".to_vec()),
        ("dir/deep/x", vec![1]),
        ("dir/y", vec![1]),
        (".lhrecover-temporary/x", vec![2]),
    ];
    let device = LoopDevice::over(&rig.ext4("device", 32 * MIB, &old));
    // A file in the place of a directory, and content that differs while length and time do not.
    let source = rig.ext4("source", 32 * MIB, &[("both/a", b"new".to_vec()), ("dir", b"a file".to_vec())]);
    let inject = |more: &[&str]| rig.inject(&source, &device.path, &[&["--overwrite"], more].concat());
    // Mixing deletes nothing: what is in a file's way stays, and that is told.
    let dry = inject(&["--mix", "--dry-run"]).exits(1).json();
    let mixed = inject(&["--mix", "--verify"]).exits(1).json();
    for report in [&dry, &mixed] {
        assert_eq!(
            (&report["copied"]["files"], &report["copied"]["deleted"]),
            (&1.into(), &0.into()),
            "{report:#}"
        );
        assert_eq!((&report["partial"], failed(report)), (&true.into(), vec!["dir"]));
        assert!(report["failed"][0]["reason"].as_str().unwrap().contains("not empty"), "{report:#}");
    }
    assert_eq!(mixed["counts_equal"], Value::Null);
    let held = rig.held(&device.path);
    assert_eq!((&held["both/a"], &held["dir/deep/x"]), (&sha256(b"new"), &sha256(&[1])));
    assert_eq!(held["kept"], sha256(b"kept"));
    assert!(!held.contains_key(".lhrecover-temporary"), "{held:?}");
    // The three that are in the directory, and what the source does not have.
    let dry = inject(&["--delete", "--dry-run"]).exits(0).json();
    let deleted = inject(&["--delete"]).exits(0).json();
    counts_are_equal(&deleted);
    for report in [&dry, &deleted] {
        assert_eq!(
            (&report["copied"]["files"], &report["copied"]["deleted"]),
            (&1.into(), &4.into()),
            "{report:#}"
        );
    }
    assert!(!rig.held(&device.path).contains_key("kept"));
}

#[test]
fn a_link_on_the_device_leads_nowhere() {
    let Some(rig) = Rig::new("a_link_on_the_device_leads_nowhere") else { return };
    let elsewhere = rig.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("f"), "of this machine").unwrap();
    fs::write(elsewhere.join("g"), "of this machine").unwrap();
    let source = rig.ext4("source", 16 * MIB, &[("x/f", b"of this machine".to_vec())]);
    fs::create_dir(rig.path("device content")).unwrap();
    symlink(&elsewhere, rig.path("device content").join("x")).unwrap();
    let device = LoopDevice::over(&rig.ext4("device", 16 * MIB, &[("gone", vec![1])]));
    let dry = rig.inject(&source, &device.path, &["--overwrite", "--delete", "--dry-run"]).exits(0).json();
    let done = rig.inject(&source, &device.path, &["--overwrite", "--delete"]).exits(0).json();
    for report in [&dry, &done] {
        assert_eq!(
            (&report["copied"]["files"], &report["copied"]["deleted"]),
            (&1.into(), &1.into()),
            "{report:#}"
        );
    }
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 2);
    assert_eq!(rig.held(&device.path)["x/f"], sha256(b"of this machine"));
}

/// A device that was not unmounted: its root is empty until its journal is played back, which brings this file.
fn with_pending_journal(rig: &Rig, name: &str, content: &[u8], time: fs::FileTimes) -> LoopDevice {
    let mounted_image = sparse_file(&rig.path(&format!("{name} while mounted")), 64 * MIB);
    run("mke2fs", &["-q", "-t", "ext4", text(&mounted_image)]);
    let image = rig.path(name);
    let point = rig.path("pending");
    fs::create_dir_all(&point).unwrap();
    let device = LoopDevice::over(&mounted_image);
    {
        let _mounted = Mounted::at(&device.path, &point);
        run("sync", &["-f", text(&point)]);
        let file = File::create(point.join("app.sqlite")).unwrap();
        file.write_all_at(content, 0).unwrap();
        file.set_times(time).unwrap();
        file.sync_all().unwrap();
        fs::copy(&mounted_image, &image).unwrap();
    }
    LoopDevice::over(&image)
}

#[test]
fn a_journal_that_waits_on_the_device_hides_no_files() {
    let Some(rig) = Rig::new("a_journal_that_waits_on_the_device_hides_no_files") else { return };
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let content = rig.path("source content");
    fs::create_dir(&content).unwrap();
    fs::write(content.join("app.sqlite"), "NEW").unwrap();
    File::options().write(true).open(content.join("app.sqlite")).unwrap().set_times(time).unwrap();
    let source = rig.ext4("source", 32 * MIB, &[]);
    let device = with_pending_journal(&rig, "device", b"OLD", time);
    let dry = rig.inject(&source, &device.path, &["--dry-run"]).exits(0).json();
    let notes = dry["notes"].to_string();
    assert!(notes.contains("journal was not played back") && notes.contains("--overwrite"), "{notes}");
    let refused = rig.inject(&source, &device.path, &[]).exits(5).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("has files"), "{refused}");
    drop(device);
    // Of the same size and time, and shown by nothing before it is mounted for writing.
    let device = with_pending_journal(&rig, "second", b"OLD", time);
    let report = rig.inject(&source, &device.path, &["--overwrite", "--delete", "--verify"]).exits(0).json();
    counts_are_equal(&report);
    assert_eq!(
        (&report["existing"], &report["copied"]["files"]),
        (&"delete".into(), &1.into()),
        "{report:#}"
    );
    assert_eq!(rig.held(&device.path)["app.sqlite"], sha256(b"NEW"));
}

#[test]
fn room_is_looked_for_before_anything_is_copied() {
    let Some(rig) = Rig::new("room_is_looked_for_before_anything_is_copied") else { return };
    let (small, large) = (noise(100_000, 1), noise(36 << 20, 2));
    let source = rig.ext4("source", 64 * MIB, &[("db", large.clone()), ("a", small.clone())]);
    // Of the same length, so that it takes reading to see that both would have to be there for a while.
    let device = LoopDevice::over(&rig.ext4("device", 64 * MIB, &[("db", noise(36 << 20, 3))]));
    for more in [&["--delete", "--dry-run"][..], &["--delete"], &["--mix"]] {
        let refused = rig.inject(&source, &device.path, &[&["--overwrite"], more].concat()).exits(5).json();
        let error = &refused["error"];
        assert!(error["message"].as_str().unwrap().contains("no room"), "{error}");
        assert_eq!(error["hint"].as_str().unwrap().contains("wipefs"), more[0] == "--delete", "{error}");
    }
    let held = rig.held(&device.path);
    assert!(!held.contains_key("a") && held["db"] == sha256(&noise(36 << 20, 3)), "nothing was copied");
    run("wipefs", &["--all", "--quiet", text(&device.path)]);
    rig.inject(&source, &device.path, &["--overwrite"]).exits(0);
    assert_eq!(rig.held(&device.path)["db"], sha256(&large));
    // What is there already takes no more room.
    let again = rig.inject(&source, &device.path, &["--overwrite", "--delete"]).exits(0).json();
    assert_eq!(again["copied"]["files"], 0);
}

#[test]
fn a_dry_run_writes_nothing() {
    let Some(rig) = Rig::new("a_dry_run_writes_nothing") else { return };
    let source = rig.ext4("source", 16 * MIB, &[("a", noise(100_000, 1))]);
    let device = rig.device("device", 16 * MIB);
    let dry = rig.inject(&source, &device.path, &["--dry-run"]).exits(0).json();
    assert_eq!((&dry["copied"]["files"], &dry["copied"]["bytes"]), (&1.into(), &100_000.into()));
    assert!(dry["mkfs"].as_str().unwrap().starts_with("mke2fs "), "{dry:#}");
    assert!(dry["estimated_seconds"].is_f64() && dry["target_counts"].is_null());
    assert_eq!(fs::metadata(rig.path("device")).unwrap().blocks(), 0);
    // Mounted, looked at, and unwritten.
    rig.inject(&source, &device.path, &[]).exits(0);
    let held = fs::read(rig.path("device")).unwrap();
    let dry = rig.inject(&source, &device.path, &["--dry-run", "--overwrite", "--delete"]).exits(0).json();
    assert_eq!(dry["copied"]["files"], 0);
    assert!(fs::read(rig.path("device")).unwrap() == held);
}

#[test]
fn everything_that_a_file_has_is_kept() {
    let Some(rig) = Rig::new("everything_that_a_file_has_is_kept") else { return };
    let image = rig.ext4("source", 32 * MIB, &[("a", vec![1; 5000])]);
    let source = LoopDevice::over(&image);
    let point = rig.path("making");
    fs::create_dir(&point).unwrap();
    {
        let _mounted = Mounted::at(&source.path, &point);
        fs::hard_link(point.join("a"), point.join("b")).unwrap();
        symlink("/etc/passwd", point.join("link")).unwrap();
        xattr::set(point.join("a"), "user.note", b"kept").unwrap();
        run("mkfifo", &[point.join("pipe")]);
        run("mknod", &[text(&point.join("null")), "c", "1", "3"]);
        run("chown", &["1234:4321", text(&point.join("a"))]);
        run("chmod", &["4750", text(&point.join("a"))]);
        let sparse = File::create(point.join("sparse")).unwrap();
        sparse.write_all_at(b"end", 10 * MIB).unwrap();
    }
    let device = rig.device("device", 64 * MIB);
    let report = rig.inject(&image, &device.path, &["--verify"]).exits(0).json();
    counts_are_equal(&report);
    assert_eq!(
        (&report["source_counts"]["links"], &report["source_counts"]["others"]),
        (&1.into(), &2.into())
    );
    let _mounted = Mounted::at(&device.path, &point);
    let meta = |name: &str| fs::symlink_metadata(point.join(name)).unwrap();
    assert_eq!(meta("a").ino(), meta("b").ino());
    assert_eq!((meta("a").uid(), meta("a").gid(), meta("a").mode() & 0o7777), (1234, 4321, 0o4750));
    assert_eq!(fs::read_link(point.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(xattr::get(point.join("a"), "user.note").unwrap().unwrap(), b"kept");
    assert!(meta("sparse").blocks() < 100, "{}", meta("sparse").blocks());
}

/// Where the file of that name begins in an ext4 image.
fn first_block(image: &Path, path: &str) -> u64 {
    let blocks = run("debugfs", &["-R", &format!("blocks \"/{path}\""), text(image)]);
    let block_bytes = run("dumpe2fs", &["-h", text(image)]);
    let block_bytes = block_bytes.lines().find_map(|line| line.strip_prefix("Block size:")).unwrap();
    let first: u64 = blocks.split_whitespace().next().unwrap().parse().unwrap();
    first * block_bytes.trim().parse::<u64>().unwrap()
}

#[test]
fn what_cannot_be_read_is_named_and_nothing_is_deleted() {
    let Some(rig) = Rig::new("what_cannot_be_read_is_named_and_nothing_is_deleted") else { return };
    let names: Vec<_> = (0..20).map(|i| format!("d{}/file {i}", i % 3)).collect();
    let content: Vec<_> =
        names.iter().zip(1..).map(|(name, seed)| (name.as_str(), noise(60_000, seed))).collect();
    let image = rig.ext4("source", 32 * MIB, &content);
    let bad: Vec<_> = ["d0/file 3", "d1/file 7"]
        .map(|name| first_block(&image, name))
        .map(|start| ByteRange::new(start + 8192, start + 12288))
        .to_vec();
    let disk = Memory::new(fs::read(&image).unwrap());
    disk.fail(bad);
    let served = Served::at(&rig.path("failing"), disk);
    let old = [("d0/file 3", b"an older state".to_vec()), ("only here", vec![1])];
    let device = LoopDevice::over(&rig.ext4("device", 32 * MIB, &old));
    let ran = rig.inject(&served.file(), &device.path, &["--overwrite", "--delete", "--verify"]).exits(1);
    let report = ran.json();
    assert_eq!(report["partial"], true, "{report:#}");
    let failed = failed(&report);
    assert_eq!(failed, ["d0/file 3", "d1/file 7"]);
    let copied: u64 =
        content.iter().filter(|(name, _)| !failed.contains(name)).map(|(_, b)| b.len() as u64).sum();
    assert_eq!(
        (&report["copied"]["files"], &report["copied"]["bytes"]),
        (&18.into(), &copied.into()),
        "{report:#}"
    );
    assert_eq!(report["verification"]["files"], 18);
    assert!(report["failed"][0]["reason"].as_str().unwrap().contains("Input/output error"), "{report:#}");
    assert_eq!(report["verification"]["differences"], serde_json::json!([]), "the rest is right");
    assert!(!report["trouble"].as_array().unwrap().is_empty());
    let held = rig.held(&device.path);
    assert_eq!(held["d0/file 3"], sha256(b"an older state"), "never zeros, never a part");
    assert!(held.contains_key("only here") && !held.contains_key("d1/file 7"));
    for (name, bytes) in content.iter().filter(|(name, _)| !failed.contains(name)) {
        assert_eq!(held[*name], sha256(bytes), "{name}");
    }
}

#[test]
fn a_directory_stays_until_all_is_read() {
    let Some(rig) = Rig::new("a_directory_stays_until_all_is_read") else { return };
    let odd = OsStr::from_bytes(b"n\nl\xff\\#012");
    let (bad, good) = (noise(60_000, 1), noise(60_000, 2));
    let content = rig.path("source content");
    fs::create_dir(&content).unwrap();
    fs::write(content.join(odd), noise(60_000, 3)).unwrap();
    let image = rig.ext4("source", 32 * MIB, &[("a", bad.clone()), ("b", good), ("c", b"c".to_vec())]);
    let bytes = fs::read(&image).unwrap();
    let place = |content: &[u8]| {
        let start = bytes.chunks(1024).position(|chunk| content.starts_with(chunk)).unwrap() as u64 * 1024;
        ByteRange::new((start + 8192) / 4096 * 4096, start / 4096 * 4096 + 16384)
    };
    let disk = Memory::new(bytes.clone());
    disk.fail(vec![place(&bad), place(&noise(60_000, 3))]);
    let served = Served::at(&rig.path("failing"), disk);
    let old = [("a/deep/old", vec![1]), ("b/x", vec![2]), ("only here", vec![3])];
    let device = LoopDevice::over(&rig.ext4("device", 32 * MIB, &old));
    let args = ["--overwrite", "--delete", "--verify"];
    let dry = rig.inject(&served.file(), &device.path, &[&args[..], &["--dry-run"]].concat()).exits(1).json();
    let report = rig.inject(&served.file(), &device.path, &args).exits(1).json();
    for report in [&dry, &report] {
        assert_eq!(
            (&report["partial"], &report["copied"]["deleted"]),
            (&true.into(), &0.into()),
            "{report:#}"
        );
        assert_eq!(
            (&report["copied"]["files"], &report["copied"]["bytes"]),
            (&1.into(), &1.into()),
            "{report:#}"
        );
        assert_eq!(failed(report), ["a", "b", &odd.to_string_lossy()], "{report:#}");
    }
    assert!(report["notes"].to_string().contains("nothing was deleted"), "{report:#}");
    assert_eq!(report["verification"]["differences"], serde_json::json!([]), "{report:#}");
    let held = rig.held(&device.path);
    for (path, bytes) in &old {
        assert_eq!(held[*path], sha256(bytes), "{path}");
    }
}

#[test]
fn an_attribute_that_does_not_fit_is_its_files() {
    let Some(rig) = Rig::new("an_attribute_that_does_not_fit_is_its_files") else { return };
    let image = sparse_file(&rig.path("source"), 320 * MIB);
    run("mkfs.xfs", &["-q", text(&image)]);
    let source = LoopDevice::over(&image);
    let point = rig.path("making");
    fs::create_dir(&point).unwrap();
    {
        let _mounted = Mounted::at(&source.path, &point);
        for dir in ["one", "two"] {
            fs::create_dir(point.join(dir)).unwrap();
            fs::write(point.join(dir).join("a"), dir).unwrap();
        }
        xattr::set(point.join("two/a"), "user.big", &[b'x'; 30_000]).unwrap();
    }
    let device = rig.device("device", 400 * MIB);
    run("mke2fs", &["-q", "-t", "ext4", text(&device.path)]);
    let report = rig.inject(&image, &device.path, &["--verify"]).exits(1).json();
    assert_eq!(failed(&report), ["two/a"], "{report:#}");
    assert!(report["failed"][0]["reason"].as_str().unwrap().contains("xattr"), "{report:#}");
}

/// A source that takes a moment to copy.
fn slow_source(rig: &Rig) -> (PathBuf, BTreeMap<String, String>) {
    let names: Vec<_> = (0..150).map(|i| format!("dir {}/file {i}", i % 7)).collect();
    let content: Vec<_> =
        names.iter().zip(1..).map(|(name, seed)| (name.as_str(), noise(300_000, seed))).collect();
    let expected = content.iter().map(|(name, bytes)| ((*name).to_owned(), sha256(bytes))).collect();
    (rig.ext4("slow source", 96 * MIB, &content), expected)
}

#[test]
fn killed_anywhere_a_second_run_ends_equal() {
    let Some(rig) = Rig::new("killed_anywhere_a_second_run_ends_equal") else { return };
    let (source, expected) = slow_source(&rig);
    let device = rig.device("device", 128 * MIB);
    for round in 0..15u64 {
        let mut running = rig.program(&source, &device.path, &["--overwrite", "--delete"]).spawn();
        std::thread::sleep(Duration::from_millis(30 + round * 41));
        if !running.is_over() {
            running.signal(Signal::SIGKILL);
        }
        drop(running);
        // The process behind the mount takes it all down; if rsync was not quick enough to go, this does.
        rig.mounts.stale();
        rig.mounts.assert_nothing_left(&format!("a kill in round {round}"));
    }
    let report = rig.inject(&source, &device.path, &["--overwrite", "--delete", "--verify"]).exits(0).json();
    counts_are_equal(&report);
    assert_eq!(regular(&rig.held(&device.path)), expected);
    assert!(!rig.held(&device.path).contains_key(".lhrecover-temporary"));
}

#[test]
fn a_signal_takes_everything_down() {
    let Some(rig) = Rig::new("a_signal_takes_everything_down") else { return };
    let (source, _) = slow_source(&rig);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let device = rig.device(signal.as_str(), 128 * MIB);
        let kept = rig.path(&format!("report {signal}"));
        let mut running = rig.program(&source, &device.path, &["--verify", "--report", text(&kept)]).spawn();
        let backing = rig.path(signal.as_str());
        running.wait_until("files were written", || fs::metadata(&backing).unwrap().blocks() > 24_000);
        running.signal(signal);
        let ran = running.finish();
        // It may have been done before the signal came.
        assert!(matches!(ran.status.code(), Some(0 | 130)), "{:?} {}", ran.status, ran.stderr);
        rig.mounts.assert_nothing_left("a signal");
        let kept: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
        assert_eq!(kept["mode"], "files");
        if ran.status.code() == Some(130) {
            let error = &ran.json()["error"];
            assert!(error["hint"].as_str().unwrap().contains("--overwrite --delete"), "{error}");
            assert_eq!((&kept["error"]["exit_code"], &kept["error"]["hint"]), (&130.into(), &error["hint"]));
            assert_eq!(kept["before"], "nothing but zeros where it was looked at");
        }
        run("e2fsck", &["-f", "-n", text(&device.path)]);
        assert!(!rig.held(&device.path).contains_key(".lhrecover-temporary"));
    }
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let Some(rig) = Rig::new("a_missing_tool_is_named_with_its_package") else { return };
    let source = rig.ext4("source", 16 * MIB, &[("a", vec![1])]);
    let device = rig.device("device", 16 * MIB);
    let tools = rig.path("tools");
    fs::create_dir(&tools).unwrap();
    let with_tools = |more: &[&str]| {
        rig.program(&source, &device.path, more).env("LHRECOVER_TOOL_PATH", &tools).run().exits(2).json()
    };
    let provide = |program: &str| {
        let path = run("sh", &["-c", &format!("command -v {program}")]);
        symlink(path, tools.join(program)).unwrap();
    };
    let hint = |error: &Value| error["error"]["hint"].as_str().unwrap().to_owned();
    assert_eq!(hint(&with_tools(&[])), "install it: apt-get install rsync");
    provide("rsync");
    assert_eq!(hint(&with_tools(&[])), "install it: apt-get install e2fsprogs");
    assert_eq!(fs::metadata(rig.path("device")).unwrap().blocks(), 0);
    run("mke2fs", &["-q", "-F", text(&device.path), "8m"]);
    // The checker is a step like the others, and missed before anything is written.
    let held = fs::read(rig.path("device")).unwrap();
    let error = with_tools(&[]);
    assert!(error["error"]["message"].as_str().unwrap().contains("e2fsck"), "{error}");
    assert_eq!(hint(&error), "install it: apt-get install e2fsprogs");
    assert!(fs::read(rig.path("device")).unwrap() == held);
    provide("e2fsck");
    assert!(with_tools(&["--grow"])["error"]["message"].as_str().unwrap().contains("resize2fs"));
    rig.program(&source, &device.path, &[]).env("LHRECOVER_TOOL_PATH", &tools).run().exits(0);
    rig.mounts.assert_nothing_left("missing tools");
}

#[test]
fn a_device_that_vanishes_leaves_nothing_mounted() {
    let Some(rig) = Rig::new("a_device_that_vanishes_leaves_nothing_mounted") else { return };
    let (source, expected) = slow_source(&rig);
    let under_way = |running: &mut common::cli::Running, name: &str| {
        running.wait_until("something was written", || fs::metadata(rig.path(name)).unwrap().blocks() > 8000);
    };
    // Detached while it is busy: the kernel keeps it until it is not.
    let device = rig.device("detached", 128 * MIB);
    let mut running = rig.program(&source, &device.path, &[]).spawn();
    under_way(&mut running, "detached");
    run("losetup", &["-d", text(&device.path)]);
    // Its number may be another test's soon.
    std::mem::forget(device);
    let ran = running.finish();
    rig.mounts.assert_nothing_left("losetup -d");
    if ran.status.code() != Some(0) {
        let error = ran.json();
        assert!(error["error"]["message"].is_string(), "{error:#}");
    }
    // The file below it is cut short.
    let device = rig.device("truncated", 128 * MIB);
    let mut running = rig.program(&source, &device.path, &["--verify"]).spawn();
    under_way(&mut running, "truncated");
    OpenOptions::new().write(true).open(rig.path("truncated")).unwrap().set_len(MIB).unwrap();
    let ran = running.finish();
    rig.mounts.assert_nothing_left("a file cut short");
    let code = ran.status.code();
    assert!(matches!(code, Some(1 | 4 | 6)), "{:?} {} {}", ran.status, ran.stderr, ran.text());
    let told = ran.json();
    assert!(
        told["error"]["message"].is_string() || told["check"]["sound"] == false || told["partial"] == true,
        "{told:#}"
    );
    assert!(!expected.is_empty());
}

/// A name under /dev/longhorn, as Longhorn gives its volumes.
struct Longhorn(PathBuf);

impl Longhorn {
    fn name(device: &Path) -> Self {
        fs::create_dir_all("/dev/longhorn").unwrap();
        let name = format!(
            "lhrecover-test-{}-{}",
            std::process::id(),
            device.file_name().unwrap().to_str().unwrap()
        );
        let path = Path::new("/dev/longhorn").join(name);
        symlink(device, &path).unwrap();
        Longhorn(path)
    }
}

impl Drop for Longhorn {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_dir("/dev/longhorn");
    }
}

#[test]
fn discarded_sectors_that_come_back_change_nothing() {
    let Some(rig) = Rig::new("discarded_sectors_that_come_back_change_nothing") else { return };
    let content = [("db/app.sqlite", noise(900_000, 3)), ("a", noise(50_000, 4))];
    let source = rig.ext4("source", 32 * MIB, &content);
    let bytes = fs::read(&source).unwrap();
    for mode in ["blocks", "files"] {
        // Older data throughout, most of it discarded; what was there shows, and so the device is not taken for a new one.
        let disk = Memory::new(noise(32 << 20, 9));
        let served = Served::at(&rig.path(mode), disk.clone());
        let device = LoopDevice::over(&served.file());
        run("blkdiscard", &["--force", "--offset", "1048576", text(&device.path)]);
        assert!(disk.discarded() > 7000, "{}", disk.discarded());
        let longhorn = Longhorn::name(&device.path);
        let args =
            ["inject", text(&source), text(&longhorn.0), "--mode", mode, "--overwrite", "--verify", "--json"];
        rig.mounts.program(&args).run().exits(0);
        rig.mounts.assert_nothing_left(mode);
        if mode == "blocks" {
            assert_eq!(disk.discarded(), 0, "zeros are written");
        }
        drop((longhorn, device));
        disk.restart();
        if mode == "blocks" {
            assert!(disk.bytes() == bytes, "older data came back");
        }
        let image = rig.path(&format!("{mode} after"));
        fs::write(&image, disk.bytes()).unwrap();
        run("e2fsck", &["-f", "-n", text(&image)]);
        let device = LoopDevice::over(&image);
        let held = rig.held(&device.path);
        for (name, bytes) in &content {
            assert_eq!(held[*name], sha256(bytes), "{mode}: {name}");
        }
    }
}

#[test]
fn blocks_grow_into_a_larger_device() {
    let Some(rig) = Rig::new("blocks_grow_into_a_larger_device") else { return };
    let ext4 = rig.ext4("ext4", 32 * MIB, &[("a", noise(10_000, 1))]);
    let xfs = sparse_file(&rig.path("xfs"), 320 * MIB);
    run("mkfs.xfs", &["-q", text(&xfs)]);
    for source in [ext4, xfs] {
        let size_bytes = fs::metadata(&source).unwrap().len();
        let name = source.file_name().unwrap().to_str().unwrap();
        let device = rig.device(&format!("{name} device"), size_bytes + 64 * MIB);
        let args =
            ["inject", text(&source), text(&device.path), "--mode", "blocks", "--any-device", "--json"];
        let point = rig.path("look");
        fs::create_dir_all(&point).unwrap();
        let room = || {
            let _mounted = Mounted::at(&device.path, &point);
            let told = nix::sys::statvfs::statvfs(&point).unwrap();
            told.blocks() * told.fragment_size()
        };
        let plain = rig.mounts.program(&args).run().exits(0).json();
        let finding =
            plain["findings"].as_array().unwrap().iter().find(|f| f["code"] == "device-larger").unwrap();
        assert!(finding["advice"].as_str().unwrap().contains("--grow"), "{finding}");
        let before = room();
        let dry = rig.mounts.program(&[&args[..], &["--overwrite", "--grow", "--dry-run"]].concat()).run();
        let dry = dry.exits(0).json();
        assert_eq!((&dry["grown"], &dry["growth_bytes"]), (&false.into(), &(64 * MIB).into()), "{dry:#}");
        assert!(!codes(&dry).contains(&"device-larger".to_owned()), "{dry:#}");
        let grown =
            rig.mounts.program(&[&args[..], &["--overwrite", "--grow"]].concat()).run().exits(0).json();
        assert_eq!((&grown["grown"], &grown["growth_bytes"]), (&true.into(), &(64 * MIB).into()));
        let (was, is) = (&grown["inside_before"], &grown["inside_after"]);
        assert!(
            was["uuid"].is_string() && was["uuid"] == is["uuid"] && was["label"] == is["label"],
            "{grown:#}"
        );
        assert!(is["size_bytes"].as_u64() > was["size_bytes"].as_u64(), "{grown:#}");
        rig.mounts.assert_nothing_left("growing");
        assert!(room() > before + 40 * MIB, "{name}: {before} and {}", room());
    }
    let swap = sparse_file(&rig.path("swap"), 16 * MIB);
    run("mkswap", &[&swap]);
    let device = rig.device("swap device", 32 * MIB);
    let args = ["inject", text(&swap), text(&device.path), "--mode", "blocks", "--any-device", "--grow"];
    rig.mounts.program(&args).run().exits(2).says(&["--grow is for ext and XFS", "swap space"]);
}
