//! `check`: what it says of sound volumes, of damaged ones, and of what it could not look at; and that it leaves nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::cli::{Lhrecover, Ran, has_finding};
use common::ext::with_fast_commits;
use common::fingerprint::Fingerprint;
use common::loopdev::{available, run, skipped, sparse_file};
use common::{Fixture, fixture, text};
use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// A place for one test: its images, its overlay, and where it keeps track of mounts.
struct Place {
    tmp: TempDir,
}

impl Place {
    fn new() -> Self {
        let tmp = common::scratch();
        for dir in ["run", "overlay"] {
            fs::create_dir(tmp.path().join(dir)).unwrap();
        }
        Place { tmp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.tmp.path().join(name)
    }

    fn command(&self, source: &Path, more: &[&str]) -> Lhrecover {
        let overlay = self.path("overlay");
        let mut args = vec!["check", text(source), "--json", "--overlay", text(&overlay)];
        args.extend(more);
        Lhrecover::new(&args).env("LHRECOVER_RUN_DIR", self.path("run"))
    }

    /// Checks, and makes sure that nothing is left behind.
    fn check(&self, source: &Path, more: &[&str]) -> Ran {
        let ran = self.command(source, more).run();
        self.assert_nothing_left();
        ran
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        let names = |dir: &str| fs::read_dir(self.path(dir)).unwrap().count();
        assert_eq!((names("run"), names("overlay")), (0, 0), "something is left behind");
    }

    /// A new ext4 image with the files of `dir` in it.
    fn ext4(&self, dir: &Path) -> PathBuf {
        let image = sparse_file(&self.path("ext4.img"), 64 << 20);
        run("mkfs.ext4", &["-q", "-b", "4096", "-d", text(dir), text(&image)]);
        image
    }
}

/// Whether images of volumes can be served to tools here. If not, says that the test was skipped.
fn can_serve(test: &str, tool: &str) -> bool {
    if Command::new(tool).arg("-V").output().is_err() {
        skipped(test, &format!("no {tool}"));
        return false;
    }
    let fuse = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    let helper =
        ["fusermount3", "fusermount"].iter().any(|name| Command::new(name).arg("-V").output().is_ok());
    if !fuse || !(helper || nix::unistd::geteuid().is_root()) {
        skipped(test, "no FUSE");
        return false;
    }
    true
}

fn part(report: &Value) -> &Value {
    &report["parts"][0]
}

fn databases(report: &Value) -> &Vec<Value> {
    part(report)["databases"].as_array().unwrap()
}

/// Makes a database of `rows` rows, in many pages.
fn make_database(path: &Path, rows: u32) {
    let database = Connection::open(path).unwrap();
    database
        .execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT); CREATE INDEX i ON t (body)")
        .unwrap();
    for row in 0..rows {
        database.execute("INSERT INTO t (body) VALUES (?1)", [format!("{row:0>400}")]).unwrap();
    }
}

/// All states of a replica: `None` for the head.
fn states(fixture: &Fixture) -> Vec<Option<String>> {
    let (_, truth) = fixture.replica();
    let names = truth["snapshots"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap().to_owned());
    names.map(Some).chain([None]).collect()
}

#[test]
fn every_state_of_an_ext4_volume_is_sound_once_its_journal_is_replayed() {
    let test = "every_state_of_an_ext4_volume_is_sound_once_its_journal_is_replayed";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    let place = Place::new();
    for state in states(&fixture) {
        let at: Vec<&str> = state.iter().flat_map(|name| ["--at", name]).collect();
        let report = place.check(&replica, &at).exits(0).json();
        before.assert_unchanged(&replica, "check");
        let found = part(&report);
        assert_eq!(found["content"]["label"], "lhfix", "{state:?}");
        assert_eq!(found["file_system"]["state"], "sound", "{state:?}");
        assert_eq!(found["file_system"]["before"]["run"]["exit_code"], 0, "{state:?}");
        let dirty = found["content"]["journal"] == "dirty";
        let verdict = if dirty { "sound-after-replay" } else { "sound" };
        assert_eq!((&report["verdict"], has_finding(&report, "journal-dirty")), (&verdict.into(), dirty));
        assert_eq!(found["file_system"]["after"].is_object(), dirty, "{state:?}");
        for database in databases(&report) {
            assert_eq!((&database["state"], &database["name"]), (&"sound".into(), &"SQLite".into()));
        }
        if state.is_none() {
            assert!(dirty, "the head was copied while it was mounted");
            let sqlite = &databases(&report)[0]["sqlite"];
            assert_eq!(
                (&databases(&report)[0]["path"], &sqlite["rows"]),
                (&"/db/app.sqlite".into(), &120.into())
            );
            assert!(sqlite["wal_frames"].as_u64() > Some(0), "{sqlite}");
        }
    }
}

#[test]
fn xfs_is_checked_before_and_after_its_log_is_replayed() {
    let test = "xfs_is_checked_before_and_after_its_log_is_replayed";
    if !can_serve(test, "xfs_repair") || !available(test) {
        return;
    }
    let fixture = fixture("17-xfs-sqlite");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    let place = Place::new();
    let report = place.check(&replica, &[]).exits(0).json();
    before.assert_unchanged(&replica, "check");
    let found = &part(&report)["file_system"];
    assert_eq!(
        (&report["verdict"], &found["after"]["state"]),
        (&"sound-after-replay".into(), &"sound".into())
    );
    assert_eq!((&found["replay"], &found["before"]["state"]), (&"done".into(), &"damaged".into()));
    assert_eq!(databases(&report)[0]["sqlite"]["rows"], 120);
    assert_eq!(databases(&report)[0]["state"], "sound");
    let mkfs = states(&fixture).into_iter().flatten().find(|name| name.starts_with("mkfs")).unwrap();
    let report = place.check(&replica, &["--at", &mkfs]).exits(0).json();
    before.assert_unchanged(&replica, "check of a snapshot");
    assert!(databases(&report).is_empty() && part(&report)["files"]["directories"].as_u64() > Some(0));
}

#[test]
fn btrfs_is_checked_with_the_files_in_it() {
    let test = "btrfs_is_checked_with_the_files_in_it";
    if !can_serve(test, "mkfs.btrfs") || !available(test) {
        return;
    }
    let place = Place::new();
    let files = place.path("files");
    fs::create_dir_all(files.join("deep/er")).unwrap();
    make_database(&files.join("deep/er/app.db"), 50);
    let image = sparse_file(&place.path("btrfs.img"), 256 << 20);
    run("mkfs.btrfs", &["-q", "--rootdir", text(&files), text(&image)]);
    let report = place.check(&image, &[]).exits(0).json();
    assert_eq!(
        (&report["verdict"], &part(&report)["file_system"]["state"]),
        (&"sound".into(), &"sound".into())
    );
    assert_eq!(databases(&report)[0]["path"], "/deep/er/app.db");
    assert_eq!(databases(&report)[0]["sqlite"]["rows"], 50);
    let used = part(&report)["content"]["size_bytes"].as_u64().unwrap();
    assert_eq!(used, 256 << 20);
}

#[test]
fn a_damaged_file_system_is_said_to_be() {
    let test = "a_damaged_file_system_is_said_to_be";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let place = Place::new();
    let files = place.path("files");
    fs::create_dir_all(files.join("a/b")).unwrap();
    fs::write(files.join("a/b/c"), [1; 9000]).unwrap();
    let image = place.ext4(&files);
    place.check(&image, &[]).exits(0);
    run("debugfs", &["-w", "-R", "clri /a/b", text(&image)]);
    let ran = place.check(&image, &[]).exits(1);
    let report = ran.json();
    assert!(report["verdict"] == "damaged" && has_finding(&report, "file-system-damaged"), "{report}");
    let said = report["findings"][0]["what"].as_str().unwrap();
    assert!(said.contains("an ext4 file system is damaged: ") && said.contains("inode"), "{said}");
    assert!(!said.contains("WARNING") && !said.contains(" blocks") && !said.contains("volume.img"), "{said}");
    let look = &part(&report)["file_system"]["before"];
    assert_eq!((&look["state"], &look["run"]["exit_code"]), (&"damaged".into(), &4.into()));
    run("debugfs", &["-w", "-R", "ssv error_count 7", text(&image)]);
    assert!(has_finding(&place.check(&image, &[]).exits(1).json(), "errors-recorded"));
}

#[test]
fn a_damaged_database_is_named_and_a_sound_one_beside_it_is_not() {
    let test = "a_damaged_database_is_named_and_a_sound_one_beside_it_is_not";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let place = Place::new();
    let files = place.path("files");
    fs::create_dir(&files).unwrap();
    for name in ["bad.db", "cut.db", "good.db"] {
        make_database(&files.join(name), 200);
    }
    let bad = fs::OpenOptions::new().write(true).open(files.join("bad.db")).unwrap();
    bad.write_all_at(&[0x5a; 4096], 4096 * 9).unwrap();
    let cut = fs::OpenOptions::new().write(true).open(files.join("cut.db")).unwrap();
    cut.set_len(8192).unwrap();
    let image = place.ext4(&files);
    let report = place.check(&image, &[]).exits(1).json();
    assert_eq!(report["verdict"], "damaged");
    let state = |path: &str| databases(&report).iter().find(|d| d["path"] == path).unwrap()["state"].clone();
    assert_eq!([state("/bad.db"), state("/cut.db"), state("/good.db")], ["damaged", "damaged", "sound"]);
    let findings = report["findings"].as_array().unwrap();
    let damaged: Vec<_> = findings.iter().filter(|f| f["code"] == "database-damaged").collect();
    assert!(damaged.len() == 2 && damaged[0]["what"].as_str().unwrap().contains("/bad.db"), "{damaged:?}");
    assert!(damaged.iter().all(|finding| !finding.to_string().contains("***")), "{damaged:?}");

    let little = place.check(&image, &["--databases-max", "8K"]).exits(1).json();
    let good = databases(&little).iter().find(|d| d["path"] == "/good.db").unwrap().clone();
    assert_eq!(good["state"], "unchecked");
    assert!(good["why"][0].as_str().unwrap().contains("--databases-max"), "{good}");
    let none = place.check(&image, &["--no-databases"]).exits(0).json();
    assert!(none["verdict"] == "sound" && databases(&none).is_empty());
}

/// A rollback journal that says that a transaction on `database` belongs to one over several databases, which `shared`
/// coordinates.
fn journal_naming(shared: &Path, database: &Path) -> Vec<u8> {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let name = text(shared).as_bytes();
    let sum: u32 = name.iter().map(|&b| u32::from(b)).sum();
    let pages = u32::try_from(database.metadata().unwrap().len() / 4096).unwrap();
    let mut journal = MAGIC.to_vec();
    for number in [0, 0, pages, 512, 4096] {
        journal.extend(number.to_be_bytes());
    }
    journal.resize(512, 0);
    journal.extend(((0x4000_0000u32 / 4096) + 1).to_be_bytes());
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    journal.extend(sum.to_be_bytes());
    journal.extend(MAGIC);
    journal
}

#[test]
fn a_journal_cannot_have_a_file_of_this_machine_removed() {
    let test = "a_journal_cannot_have_a_file_of_this_machine_removed";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let place = Place::new();
    let files = place.path("files");
    fs::create_dir(&files).unwrap();
    let victim = place.path("victim");
    fs::write(&victim, "dear").unwrap();
    make_database(&files.join("app.db"), 20);
    let database = files.join("app.db");
    let journal = files.join("app.db-journal");
    let rolled_back = || {
        let place = Place::new();
        let report = place.check(&place.ext4(&files), &[]).exits(0).json();
        let sqlite = &databases(&report)[0]["sqlite"];
        assert_eq!((&sqlite["rows"], fs::read(&victim).unwrap()), (&20.into(), b"dear".to_vec()));
        sqlite["rolled_back"].clone()
    };
    // What is shared is still in the volume: the transaction had not been committed.
    fs::write(&journal, journal_naming(&files.join("app.db-mj00000001"), &database)).unwrap();
    fs::write(files.join("app.db-mj00000001"), "/app.db-journal").unwrap();
    assert_eq!(rolled_back(), true);
    fs::write(&journal, journal_naming(&victim, &database)).unwrap();
    assert_eq!(rolled_back(), false);
    // What it is kept from: whoever opens the files as they are loses the other one.
    let opened = Connection::open(&database).unwrap();
    opened.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0)).unwrap();
    assert!(!victim.exists(), "the journal that the test makes means nothing to SQLite");
}

#[test]
fn a_missing_checker_is_said_and_all_else_is_done() {
    let test = "a_missing_checker_is_said_and_all_else_is_done";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let place = Place::new();
    let ran = place.command(&replica, &[]).env("LHRECOVER_TOOL_PATH", place.path("nowhere")).run().exits(1);
    place.assert_nothing_left();
    let report = ran.json();
    assert!(report["verdict"] == "not-in-full" && has_finding(&report, "not-checked"));
    let said = report["findings"][0]["what"].as_str().unwrap();
    assert!(said.contains("e2fsck is not installed: apt-get install e2fsprogs"), "{said}");
    assert_eq!(databases(&report)[0]["sqlite"]["rows"], 120, "the journal is replayed in memory then");
}

#[test]
fn a_throw_away_copy_that_is_full_is_no_damage() {
    let test = "a_throw_away_copy_that_is_full_is_no_damage";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    let ran = Place::new().check(&replica, &["--overlay-max", "8K"]).exits(1);
    before.assert_unchanged(&replica, "a check without room");
    let report = ran.json();
    assert_eq!(report["verdict"], "not-in-full", "{report:#}");
    assert!(!has_finding(&report, "unreadable") && has_finding(&report, "not-checked"), "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    let said = findings.iter().find(|finding| finding["code"] == "not-checked").unwrap().to_string();
    assert!(said.contains("limit of 8192 bytes"), "{said}");
    assert!(said.contains("--overlay-max") && said.contains("with --overlay\""), "{said}");
    assert_eq!(databases(&report)[0]["sqlite"]["rows"], 120, "the journal is replayed in memory then");
}

/// An ordinary user, who has no help with FUSE.
const NOBODY: &[&str] =
    &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", "PATH=/usr/sbin:/sbin"];

#[test]
fn fast_commits_are_for_the_kernel_to_replay() {
    let test = "fast_commits_are_for_the_kernel_to_replay";
    if !can_serve(test, "e2fsck") || !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let Some(image) = with_fast_commits(test, place.tmp.path()) else { return };
    let report = place.check(&image, &[]).exits(0).json();
    let found = &part(&report)["file_system"];
    assert_eq!((&report["verdict"], &found["state"]), (&"sound-after-replay".into(), &"sound".into()));
    assert!(found["replay"] == "done" && found["replay_run"].is_null(), "by the kernel: {found}");
    assert_eq!(part(&report)["files"]["files"], 30);
    let none = place.check(&image, &["--no-databases"]).exits(0).json();
    assert_eq!(none["verdict"], "sound-after-replay");
}

#[test]
fn without_fuse_an_image_file_is_looked_at_as_it_is() {
    let test = "without_fuse_an_image_file_is_looked_at_as_it_is";
    if !can_serve(test, "e2fsck") || !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let files = place.path("files");
    fs::create_dir(&files).unwrap();
    make_database(&files.join("app.db"), 20);
    let image = place.ext4(&files);
    for path in [place.tmp.path(), &place.path("run"), &place.path("overlay"), &image] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let overlay = place.path("overlay");
    let args = ["check", text(&image), "--json", "--overlay", text(&overlay)];
    let check = || {
        let ran = Lhrecover::under(NOBODY, &args).env("LHRECOVER_RUN_DIR", place.path("run")).run();
        place.assert_nothing_left();
        ran
    };
    if check().status.code().is_none_or(|code| code > 1) {
        return skipped(test, "an ordinary user cannot get at the program, or there is no setpriv");
    }
    let report = check().exits(0).json();
    assert_eq!((&report["verdict"], &databases(&report)[0]["state"]), (&"sound".into(), &"sound".into()));
    assert_eq!(part(&report)["file_system"]["before"]["run"]["exit_code"], 0);
    run("debugfs", &["-w", "-R", "clri /app.db", text(&image)]);
    assert_eq!(check().exits(1).json()["verdict"], "damaged");
    // A journal cannot be replayed there, and the look before that proves nothing.
    run("debugfs", &["-w", "-R", "feature needs_recovery", text(&image)]);
    let report = check().exits(1).json();
    let found = &part(&report)["file_system"];
    assert_eq!((&found["before"]["state"], &found["state"]), (&"damaged".into(), &"unchecked".into()));
    assert_eq!(found["replay"], "not-done");
}

#[test]
fn what_is_encrypted_is_neither_damaged_nor_sound() {
    let test = "what_is_encrypted_is_neither_damaged_nor_sound";
    if !can_serve(test, "debugfs") {
        return;
    }
    let place = Place::new();
    let files = place.path("files");
    fs::create_dir_all(files.join("secret/deep")).unwrap();
    make_database(&files.join("app.db"), 20);
    let image = place.ext4(&files);
    // EXT4_ENCRYPT_FL and EXT4_EXTENTS_FL.
    run("debugfs", &["-w", "-R", "sif /secret flags 0x80800", text(&image)]);
    let nowhere = place.path("nowhere");
    let ran = place.command(&image, &[]).env("LHRECOVER_TOOL_PATH", nowhere).run().exits(1);
    let report = ran.json();
    assert!(
        has_finding(&report, "files-encrypted") && !has_finding(&report, "files-unreadable"),
        "{report:#}"
    );
    assert_eq!(
        (&report["verdict"], &part(&report)["files"]["encrypted"]),
        (&"not-in-full".into(), &1.into())
    );
    for command in [&["ls", "-R"][..], &["find", "--db"]] {
        let ran = Lhrecover::new(&[command, &[text(&image), "--json"]].concat()).run().exits(1);
        let report = ran.json();
        assert!(has_finding(&report, "files-encrypted") && !has_finding(&report, "files-unreadable"));
    }
}

#[test]
fn what_is_no_file_system_is_said_to_be_what_it_is() {
    let place = Place::new();
    for (case, exit, verdict, kind, code) in [
        ("22-luks-encrypted", 1, "not-in-full", "luks", "encrypted"),
        ("26-fresh-empty", 0, "nothing", "empty", "nothing-inside"),
        ("01-base-only", 1, "not-in-full", "unknown", "content-unknown"),
    ] {
        let fixture = fixture(case);
        let (replica, _) = fixture.replica();
        let before = Fingerprint::of(&replica);
        let report = place.check(&replica, &[]).exits(exit).json();
        before.assert_unchanged(&replica, "check");
        assert_eq!((&report["verdict"], &part(&report)["content"]["kind"]), (&verdict.into(), &kind.into()));
        assert!(has_finding(&report, code), "{case}: {report}");
        assert!(part(&report)["file_system"].is_null());
    }
    let zeros = sparse_file(&place.path("swap.img"), 1 << 20);
    run("mkswap", &[&zeros]);
    assert_eq!(part(&place.check(&zeros, &[]).exits(0).json())["content"]["kind"], "swap");
}

#[test]
fn each_partition_is_checked() {
    let test = "each_partition_is_checked";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let place = Place::new();
    let image = sparse_file(&place.path("disk.img"), 64 << 20);
    // Two partitions of 16 and 8 MiB, in a DOS partition table.
    let mut table = [0u8; 66];
    for (at, kind, first, sectors) in [(0, 0x83, 2048u32, 32768u32), (16, 0x82, 40960, 16384)] {
        table[at + 4] = kind;
        table[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        table[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    let files = place.path("files");
    fs::create_dir(&files).unwrap();
    make_database(&files.join("app.db"), 5);
    let part_image = sparse_file(&place.path("part.img"), 16 << 20);
    run("mkfs.ext4", &["-q", "-d", text(&files), text(&part_image)]);
    let disk = fs::OpenOptions::new().write(true).open(&image).unwrap();
    disk.write_all_at(&table, 446).unwrap();
    disk.write_all_at(&fs::read(&part_image).unwrap(), 1 << 20).unwrap();
    let swap = sparse_file(&place.path("swap.img"), 8 << 20);
    run("mkswap", &[&swap]);
    disk.write_all_at(&fs::read(&swap).unwrap(), 40960 * 512).unwrap();
    drop(disk);
    let report = place.check(&image, &[]).exits(0).json();
    let parts = report["parts"].as_array().unwrap();
    let of = |i: usize| (parts[i]["partition"].as_u64(), parts[i]["verdict"].as_str().unwrap());
    assert_eq!([of(0), of(1)], [(Some(1), "sound"), (Some(2), "nothing")]);
    assert_eq!(parts[0]["databases"][0]["sqlite"]["rows"], 5);
    let only = place.check(&image, &["--partition", "2"]).exits(0).json();
    assert_eq!((&only["verdict"], only["parts"].as_array().unwrap().len()), (&"nothing".into(), 1));
}

/// A cluster's directory with the control file `control` and the file of the log that it needs.
fn cluster(files: &Path, control: &[u8]) -> PathBuf {
    let dir = files.join("pgdata");
    for name in ["global", "base", "pg_wal"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    fs::write(dir.join("PG_VERSION"), "15\n").unwrap();
    fs::write(dir.join("global/pg_control"), control).unwrap();
    fs::write(dir.join("pg_wal/000000030000000100000053"), "log").unwrap();
    dir
}

/// A control file of PostgreSQL 15, of a cluster that was running: `ControlFileData` with what matters filled in.
fn control() -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, &7_000_000_000_000_000_001u64.to_le_bytes());
    put(8, &1300u32.to_le_bytes());
    put(12, &202_209_061u32.to_le_bytes());
    put(16, &6u32.to_le_bytes());
    put(24, &1_700_000_000i64.to_le_bytes());
    put(32, &0x1_5300_0100u64.to_le_bytes());
    put(40, &0x1_5300_00c8u64.to_le_bytes());
    put(48, &3u32.to_le_bytes());
    put(104, &1_699_999_000i64.to_le_bytes());
    put(208, &1_234_567f64.to_le_bytes());
    put(228, &(16u32 << 20).to_le_bytes());
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[..288]);
    bytes[288..292].copy_from_slice(&u32::try_from(sum).unwrap().to_le_bytes());
    bytes
}

#[test]
fn a_postgresql_cluster_can_start_or_lacks_something() {
    let test = "a_postgresql_cluster_can_start_or_lacks_something";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let checked = |change: &dyn Fn(&Path), exit: i32| {
        let place = Place::new();
        let files = place.path("files");
        let dir = cluster(&files, &control());
        change(&dir);
        let report = place.check(&place.ext4(&files), &[]).exits(exit).json();
        databases(&report)[0].clone()
    };
    let running = checked(&|_| {}, 0);
    let facts = &running["postgresql"];
    assert_eq!((&running["name"], &running["version"]), (&"PostgreSQL".into(), &"15".into()));
    assert_eq!((&running["state"], &facts["state"]), (&"recognised".into(), &"in production".into()));
    assert_eq!((&facts["redo_location"], &facts["has_redo_file"]), (&"1/530000C8".into(), &true.into()));
    assert_eq!(facts["checkpoint_at"], "2023-11-14T21:56:40Z");
    let without_log =
        checked(&|dir| fs::remove_file(dir.join("pg_wal/000000030000000100000053")).unwrap(), 1);
    assert!(without_log["why"][0].as_str().unwrap().contains("000000030000000100000053"), "{without_log}");
    let touched = checked(
        &|dir| {
            let mut bytes = control();
            bytes[40] ^= 1;
            fs::write(dir.join("global/pg_control"), bytes).unwrap();
        },
        1,
    );
    assert_eq!(
        (&touched["state"], &touched["postgresql"]["checksum_is_right"]),
        (&"damaged".into(), &false.into())
    );
    let linked = checked(
        &|dir| {
            fs::remove_dir_all(dir.join("pg_wal")).unwrap();
            std::os::unix::fs::symlink("/etc", dir.join("pg_wal")).unwrap();
        },
        0,
    );
    assert!(linked["postgresql"]["has_redo_file"].is_null(), "the log is elsewhere: {linked}");
}

#[test]
fn a_real_cluster_reads_as_pg_controldata_reads_it() {
    let test = "a_real_cluster_reads_as_pg_controldata_reads_it";
    let bin = Command::new("initdb").arg("--version").output().ok().and_then(|_| {
        let found = run("sh", &["-c", "readlink -f \"$(command -v initdb)\""]);
        Some(Path::new(&found).parent()?.to_path_buf())
    });
    let Some(bin) = bin.filter(|bin| bin.join("pg_controldata").exists()) else {
        return skipped(test, "no initdb (package postgresql)");
    };
    if !can_serve(test, "e2fsck") || !available(test) {
        return;
    }
    let place = Place::new();
    // PostgreSQL refuses to be root.
    let home = tempfile::tempdir().unwrap();
    let files = home.path().join("files");
    fs::create_dir(&files).unwrap();
    for dir in [home.path(), &files] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let data = files.join("pgdata");
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    run(
        "setpriv",
        &[&nobody[..], &[text(&bin.join("initdb")), "-N", "-A", "trust", "-D", text(&data)]].concat(),
    );
    let told = run(text(&bin.join("pg_controldata")), &[&data]);
    let image = sparse_file(&place.path("pg.img"), 128 << 20);
    run("mkfs.ext4", &["-q", "-d", text(&files), text(&image)]);
    let report = place.check(&image, &[]).exits(0).json();
    let found = &databases(&report)[0];
    assert_eq!((&found["path"], &found["state"]), (&"/pgdata".into(), &"recognised".into()));
    let says = |key: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    let facts = &found["postgresql"];
    assert_eq!(facts["state"], says("Database cluster state"));
    assert_eq!(facts["control_version"].to_string(), says("pg_control version number"));
    assert_eq!(facts["catalog_version"].to_string(), says("Catalog version number"));
    assert_eq!(facts["system_identifier"].to_string(), says("Database system identifier"));
    assert_eq!(facts["checkpoint_location"], says("Latest checkpoint location"));
    assert_eq!(facts["redo_location"], says("Latest checkpoint's REDO location"));
    assert_eq!(facts["redo_file"], says("Latest checkpoint's REDO WAL file"));
    assert_eq!((&facts["has_redo_file"], &facts["checksum_is_right"]), (&true.into(), &true.into()));
}

/// A directory with an `e2fsck` that waits for so long.
fn slow_tools(place: &Place, seconds: u32) -> PathBuf {
    let dir = place.path("tools");
    fs::create_dir(&dir).unwrap();
    let tool = dir.join("e2fsck");
    // It has the image open, as a checker does.
    let script =
        format!("#!/bin/sh\necho began >&2\nfor image; do :; done\nexec sleep {seconds} < \"$image\"\n");
    fs::write(&tool, script).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

#[test]
fn a_signal_or_a_kill_leaves_nothing_mounted() {
    let test = "a_signal_or_a_kill_leaves_nothing_mounted";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let place = Place::new();
        let run_dir = place.path("run");
        let tools = slow_tools(&place, 8);
        let mut running = place.command(&replica, &[]).env("LHRECOVER_TOOL_PATH", &tools).spawn();
        let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
        running.wait_until("the image is served", || mounts().contains(text(&run_dir)));
        running.signal(signal);
        let ran = running.finish();
        assert_eq!(ran.status.code(), (signal == Signal::SIGINT).then_some(130), "{}", ran.stderr);
        let began = Instant::now();
        while mounts().contains(text(&run_dir)) || fs::read_dir(&run_dir).unwrap().count() > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "{signal}: still mounted");
            thread::sleep(Duration::from_millis(20));
        }
        place.assert_nothing_left();
        before.assert_unchanged(&replica, "a check that was ended");
    }
}

#[test]
fn a_tool_that_takes_too_long_is_ended() {
    let test = "a_tool_that_takes_too_long_is_ended";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let fixture = fixture("16-ext4-sqlite");
    let place = Place::new();
    let tools = slow_tools(&place, 60);
    let began = Instant::now();
    let ran = place
        .command(&fixture.replica().0, &["--tool-timeout", "1", "--no-databases"])
        .env("LHRECOVER_TOOL_PATH", &tools)
        .run()
        .exits(1);
    assert!(began.elapsed() < Duration::from_secs(40));
    let before = part(&ran.json())["file_system"]["before"].clone();
    assert_eq!((&before["state"], before["run"]["exit_code"].is_null()), (&"unchecked".into(), true));
    assert_eq!(before["run"]["lines"].as_array().unwrap().last().unwrap(), "it took too long, and was ended");
}

#[test]
fn copies_are_never_made_in_the_replica() {
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    let ran = Lhrecover::new(&["check", text(&replica), "--overlay", text(&replica)]).run().exits(5);
    before.assert_unchanged(&replica, "a check that was refused");
    ran.says(&["the directory for throw-away copies is inside the replica directory"]);
}

/// Where the volume was mounted last is a place on whatever machine made the fixture.
fn without_mountpoints(text: &str) -> String {
    let line =
        |line: &str| match line.split_once(" on /").map(|(before, after)| (before, after.split_once(','))) {
            Some((before, Some((_, after)))) => format!("{before} on [MOUNTPOINT],{after}\n"),
            _ => format!("{line}\n"),
        };
    text.lines().map(line).collect()
}

#[test]
fn people_read_what_was_found_and_the_verdict_last() {
    let test = "people_read_what_was_found_and_the_verdict_last";
    if !can_serve(test, "e2fsck") {
        return;
    }
    let place = Place::new();
    for (case, golden) in [("16-ext4-sqlite", "check-ext4"), ("22-luks-encrypted", "check-luks")] {
        let fixture = fixture(case);
        let overlay = place.path("overlay");
        let (replica, _) = fixture.replica();
        let args = ["check", text(&replica), "--progress", "none", "--overlay", text(&overlay)];
        let mut ran = Lhrecover::new(&args).env("LHRECOVER_RUN_DIR", place.path("run")).run();
        ran.stdout = without_mountpoints(ran.text()).into_bytes();
        common::golden::assert_golden(golden, fixture.dir.path(), &ran);
    }
}
