//! `mount` and `umount`: what shows is what the engine and the kernel say, nothing touches the replica, and nothing is left
//! whatever dies.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::cli::Ran;
use common::ext::with_fast_commits;
use common::fingerprint::{Fingerprint, by_seek};
use common::golden::assert_golden;
use common::loopdev::{LoopDevice, run, skipped, sparse_file};
use common::mounts::Mounts;
use common::{Fixture, fixture, text};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn sha256(path: &Path) -> String {
    let mut file = File::open(path).unwrap();
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
            len => hasher.update(&buffer[..len]),
        }
    }
}

/// Every file below `dir`, and what is in it.
fn files(dir: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = fs::symlink_metadata(&path).unwrap();
            let name = text(path.strip_prefix(root).unwrap()).to_owned();
            if kind.is_dir() {
                found.insert(name, "directory".to_owned());
                walk(&path, root, found);
            } else if kind.is_file() {
                found.insert(name, sha256(&path));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, dir, &mut found);
    found
}

/// The states of a replica that have a file system: the manifest's name for each, and the options that ask for it.
fn states(replica: &Value) -> Vec<(String, Vec<String>)> {
    let named = replica["guest_files"].as_object().unwrap().keys();
    let options = |name: &String| match name.as_str() {
        "head" => vec![],
        snapshot => vec!["--at".to_owned(), snapshot.to_owned()],
    };
    named.map(|name| (name.clone(), options(name))).collect()
}

/// How many rows the database in `dir` has, with what is in its log.
fn sqlite_rows(dir: &Path, scratch: &Path) -> u64 {
    let copy = scratch.join("db");
    let _ = fs::remove_dir_all(&copy);
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if !text(&path).ends_with("-shm") {
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
    }
    let count = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
                 names = [n for (n,) in db.execute(\"select name from sqlite_master where type = 'table'\")]; \
                 print(max(db.execute('select count(*) from ' + n).fetchone()[0] for n in names))";
    run("python3", &["-c", count, text(&copy.join("app.sqlite"))]).parse().unwrap()
}

/// Mounts every state of the case with and without its journal, and compares with the kernel's own mount of a merged image,
/// and with the manifest.
fn every_state_shows(test: &str, case: &str, kernel_options: &str) {
    let Some(mounts) = Mounts::new(test) else { return };
    let fixture = fixture(case);
    let (replica, truth) = fixture.replica();
    let before = Fingerprint::of(&replica);
    let image = fixture.dir.path().join("image");
    for (state, at) in states(&truth) {
        let at: Vec<_> = at.iter().map(String::as_str).collect();
        mounts
            .program(&[&["merge", text(&replica), text(&image), "--force"], &at[..]].concat())
            .run()
            .exits(0);
        let by_kernel = {
            let device = LoopDevice::with_options(&image, &["--read-only"]);
            run("mount", &["-o", kernel_options, text(&device.path), text(&mounts.point)]);
            let _mounted = common::loopdev::Mounted { point: mounts.point.clone() };
            files(&mounts.point)
        };

        mounts.mount(&replica, &at).exits(0);
        assert_eq!(files(&mounts.point), by_kernel, "{case} {state} without its journal");
        mounts.umount().exits(0);
        mounts.assert_nothing_left("a mount without replay");
        before.assert_unchanged(&replica, "a mount without replay");

        mounts.mount(&replica, &[&["--journal", "replay"], &at[..]].concat()).exits(0);
        let shown = files(&mounts.point);
        let guest = &truth["guest_files"][&state];
        for (path, file) in guest["files"].as_object().unwrap() {
            assert_eq!(
                shown.get(path).map(String::as_str),
                file["sha256"].as_str(),
                "{case} {state}: {path}"
            );
        }
        if let Some(rows) = guest["sqlite_rows_with_wal"].as_u64() {
            assert_eq!(sqlite_rows(&mounts.point.join("db"), mounts.tmp.path()), rows, "{case} {state}");
        }
        mounts.umount().exits(0);
        mounts.assert_nothing_left("a mount with replay");
        before.assert_unchanged(&replica, "a mount with replay");
    }
}

#[test]
fn ext4_shows_every_state_with_and_without_its_journal() {
    every_state_shows(
        "ext4_shows_every_state_with_and_without_its_journal",
        "16-ext4-sqlite",
        "ro,noload,errors=continue",
    );
}

#[test]
fn xfs_shows_every_state_with_and_without_its_log() {
    every_state_shows(
        "xfs_shows_every_state_with_and_without_its_log",
        "17-xfs-sqlite",
        "ro,norecovery,nouuid",
    );
}

/// Whether a program is there; if not, says that the test was skipped.
fn has(test: &str, program: &str, package: &str) -> bool {
    let there =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !there {
        skipped(test, &format!("no {program} (package {package})"));
    }
    there
}

/// A directory with a file in it, to make a file system of.
fn content(dir: &Path, words: &str) -> PathBuf {
    let content = dir.join(format!("content {words}"));
    fs::create_dir(&content).unwrap();
    fs::write(content.join("file"), words).unwrap();
    content
}

#[test]
fn mounts_can_run_nothing_and_panic_at_nothing() {
    let test = "mounts_can_run_nothing_and_panic_at_nothing";
    let Some(mounts) = Mounts::new(test) else { return };
    let image = sparse_file(&mounts.tmp.path().join("image"), 16 << 20);
    run("mkfs.ext4", &["-q", "-e", "panic", "-d", text(&content(mounts.tmp.path(), "x")), text(&image)]);
    let shown = mounts.mount(&image, &["--json"]).exits(0).json();
    assert_eq!(shown["file_system"]["options"], "ro,nosuid,nodev,noexec,noload,errors=continue");
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mountinfo.lines().find(|line| line.contains(&format!(" {} ", text(&mounts.point)))).unwrap();
    assert!(line.contains("ro,nosuid,nodev,noexec"), "{line}");
    let name = Path::new(shown["loop_device"].as_str().unwrap()).file_name().unwrap().to_owned();
    let options = fs::read_to_string(Path::new("/proc/fs/ext4").join(&name).join("options")).unwrap();
    assert!(options.contains("errors=continue") && options.starts_with("ro"), "{options}");
    let read_only = fs::read_to_string(Path::new("/sys/block").join(&name).join("ro")).unwrap();
    assert_eq!(read_only.trim(), "1");
    mounts.umount().exits(0);
    mounts.assert_nothing_left("umount");
}

#[test]
fn ext2_and_ext3_mount_as_well() {
    let test = "ext2_and_ext3_mount_as_well";
    let Some(mounts) = Mounts::new(test) else { return };
    let content = content(mounts.tmp.path(), "old");
    for kind in ["ext2", "ext3"] {
        let image = sparse_file(&mounts.tmp.path().join(kind), 16 << 20);
        run("mkfs.ext4", &["-q", "-t", kind, "-d", text(&content), text(&image)]);
        for journal in ["skip", "replay"] {
            mounts.mount(&image, &["--journal", journal]).exits(0);
            assert_eq!(fs::read_to_string(mounts.point.join("file")).unwrap(), "old", "{kind} {journal}");
            mounts.umount().exits(0);
        }
    }
    mounts.assert_nothing_left("umount");
}

#[test]
fn btrfs_mounts_unless_another_device_has_its_identity() {
    let test = "btrfs_mounts_unless_another_device_has_its_identity";
    let Some(mounts) = Mounts::new(test) else { return };
    if !has(test, "mkfs.btrfs", "btrfs-progs") {
        return;
    }
    let image = sparse_file(&mounts.tmp.path().join("image"), 256 << 20);
    let content = content(mounts.tmp.path(), "b");
    run("mkfs.btrfs", &["-q", "--rootdir", text(&content), text(&image)]);
    let before = sha256(&image);
    for journal in ["skip", "replay"] {
        let shown = mounts.mount(&image, &["--json", "--journal", journal]).exits(0).json();
        let options = shown["file_system"]["options"].as_str().unwrap();
        assert_eq!(options.contains("rescue=nologreplay"), journal == "skip", "{options}");
        assert_eq!(fs::read_to_string(mounts.point.join("file")).unwrap(), "b");
        // The one that is mounted is a twin of the next.
        let again = mounts.tmp.path().join("again");
        fs::create_dir_all(&again).unwrap();
        mounts.program(&["mount", text(&image), text(&again)]).run().exits(5).says(&["same btrfs identity"]);
        mounts.umount().exits(0);
        mounts.assert_nothing_left("umount");
    }
    let twin = LoopDevice::with_options(&image, &["--read-only"]);
    mounts.mount(&image, &[]).exits(5).says(&["same btrfs identity", text(&twin.path)]);
    drop(twin);
    mounts.assert_nothing_left("a refusal");
    assert_eq!(sha256(&image), before);
}

/// An image with a partition table as `script` has it (sfdisk(8)), and ext4 in the partitions that begin at these bytes.
fn partitioned(dir: &Path, script: &str, file_systems: &[(u64, &str)]) -> PathBuf {
    let image = sparse_file(&dir.join(format!("image of {}", script.len())), 64 << 20);
    let table = dir.join("table");
    fs::write(&table, script).unwrap();
    let status = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel"])
        .arg(&image)
        .stdin(File::open(&table).unwrap())
        .status();
    assert!(status.unwrap().success());
    for (start, words) in file_systems {
        let content = content(dir, &format!("{words} {}", script.len()));
        let offset = format!("offset={start}");
        run("mkfs.ext4", &["-q", "-F", "-E", &offset, "-d", text(&content), text(&image), "8M"]);
    }
    image
}

#[test]
fn partitions_are_found_and_named() {
    let test = "partitions_are_found_and_named";
    let Some(mounts) = Mounts::new(test) else { return };
    if !has(test, "sfdisk", "fdisk") {
        return;
    }
    const MIB: u64 = 1 << 20;
    let scripts = [
        ("label: gpt\nstart=2048, size=20480\nstart=40960, size=20480\n", 2),
        (
            "label: dos\nstart=2048, size=20480, type=83\nstart=32768, size=65536, type=5\nstart=40960, size=20480, type=83\n",
            5,
        ),
    ];
    for (script, second) in scripts {
        let one = partitioned(mounts.tmp.path(), script, &[(20 * MIB, "second")]);
        mounts.mount(&one, &[]).exits(0);
        assert!(fs::read_to_string(mounts.point.join("file")).unwrap().starts_with("second"), "{script}");
        mounts.umount().exits(0);
        mounts.mount(&one, &["--partition", "1"]).exits(3).says(&["no file system was recognised"]);
        mounts
            .mount(&one, &["--partition", "9"])
            .exits(2)
            .says(&["no partition 9", "it has 1 (at byte 1048576"]);

        let script = format!("{script}\n");
        let two = partitioned(mounts.tmp.path(), &script, &[(MIB, "first"), (20 * MIB, "second")]);
        let second = second.to_string();
        mounts.mount(&two, &[]).exits(2).says(&[
            "several partitions",
            "1 (at byte 1048576",
            &format!("{second} (at byte 20971520"),
        ]);
        for (number, words) in [("1", "first"), (second.as_str(), "second")] {
            for journal in ["skip", "replay"] {
                let shown =
                    mounts.mount(&two, &["--json", "--partition", number, "--journal", journal]).exits(0);
                assert_eq!(shown.json()["partition"].to_string(), number);
                assert!(
                    fs::read_to_string(mounts.point.join("file")).unwrap().starts_with(words),
                    "{script}"
                );
                mounts.umount().exits(0);
            }
        }
    }
    let plain = fixture("16-ext4-sqlite");
    mounts.mount(&plain.replica().0, &["--partition", "1"]).exits(2).says(&["no partition table"]);
    mounts.assert_nothing_left("partitions");
}

#[test]
fn what_is_no_file_system_is_named_with_the_way_to_go_on() {
    let Some(mounts) = Mounts::new("what_is_no_file_system_is_named_with_the_way_to_go_on") else { return };
    let luks = fixture("22-luks-encrypted");
    let (replica, _) = luks.replica();
    mounts.mount(&replica, &[]).exits(5).says(&[
        "encrypted (LUKS)",
        &format!("lhrecover mount --image-only {}", replica.display()),
        "cryptsetup open --readonly",
        "mount -o ro,noload",
        "cryptsetup close",
    ]);
    if Path::new("/dev/mapper/control").exists() {
        skipped("encrypted volumes without a device mapper", "there is one");
    } else {
        mounts.mount(&replica, &["--key-file", "/dev/null"]).exits(2).says(&["device mapper"]);
    }
    let head = |bytes: &[(u64, &[u8])]| {
        let image = mounts.tmp.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(1 << 20).unwrap();
        bytes.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        image
    };
    mounts.mount(&head(&[(512, b"LABELONE")]), &[]).exits(3).says(&[
        "LVM physical volume",
        "vgchange",
        "--image-only",
    ]);
    mounts.mount(&head(&[(4086, b"SWAPSPACE2")]), &[]).exits(3).says(&["swap space", "--image-only"]);
    mounts.mount(&head(&[]), &[]).exits(3).says(&["no file system was recognised", "--image-only"]);
    // A magic, and nothing behind it.
    mounts.mount(&head(&[(0, b"XFSB")]), &[]).exits(3).says(&["cannot mount the xfs file system"]);
    mounts.assert_nothing_left("refusals");
}

#[test]
fn the_image_is_the_volume_with_its_holes() {
    let Some(mounts) = Mounts::new("the_image_is_the_volume_with_its_holes") else { return };
    for case in [
        "03-explicit-zeros",
        "05-deep-chain-40",
        "10-512-unaligned",
        "11-raw-backing",
        "12b-qcow2-compressed-backing",
    ] {
        let fixture = fixture(case);
        let (replica, truth) = fixture.replica();
        let before = Fingerprint::of(&replica);
        let mut options = vec!["--image-only".to_owned()];
        options.extend(
            fixture
                .backing()
                .into_iter()
                .flat_map(|path| ["--backing-file".to_owned(), text(&path).to_owned()]),
        );
        let snapshots = truth["snapshots"].as_array().unwrap().iter().take(3);
        let states = snapshots.map(|s| (s["name"].as_str().unwrap(), &s["sha256"]));
        for (state, digest) in states.chain([("", &truth["sha256"])]) {
            let mut options: Vec<_> = options.iter().map(String::as_str).collect();
            if !state.is_empty() {
                options.extend(["--at", state]);
            }
            let ran = mounts.mount(&replica, &options);
            assert!(matches!(ran.status.code(), Some(0 | 1)), "{case} {state}: {}", ran.stderr);
            let image = mounts.point.join("volume.img");
            assert_eq!(sha256(&image), digest.as_str().unwrap(), "{case} {state}");
            mounts.umount().exits(0);
        }
        before.assert_unchanged(&replica, "mount --image-only");
    }
    mounts.assert_nothing_left("images");
}

#[test]
fn holes_of_the_image_are_those_of_a_merged_one() {
    let Some(mounts) = Mounts::new("holes_of_the_image_are_those_of_a_merged_one") else { return };
    let fixture = fixture("23-huge-sparse");
    let (replica, _) = fixture.replica();
    let merged = fixture.dir.path().join("merged");
    mounts.program(&["merge", text(&replica), text(&merged)]).run();
    mounts.mount(&replica, &["--image-only"]);
    let image = mounts.point.join("volume.img");
    let (shown, flat) = (fs::metadata(&image).unwrap(), fs::metadata(&merged).unwrap());
    assert_eq!(shown.len(), flat.len());
    assert!(shown.blocks() < shown.len() / 512 / 100, "{} blocks", shown.blocks());
    assert_eq!(by_seek(&image), by_seek(&merged));
    assert!(File::options().write(true).open(&image).is_err());
    mounts.umount().exits(0);
    mounts.assert_nothing_left("an image");
}

#[test]
fn a_writable_image_is_written_beside_the_replica_and_within_bounds() {
    let Some(mounts) = Mounts::new("a_writable_image_is_written_beside_the_replica_and_within_bounds") else {
        return;
    };
    let fixture = fixture("02-head-one-snapshot");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    let options =
        ["--image-only", "--journal", "replay", "--overlay", text(mounts.tmp.path()), "--overlay-max", "64K"];
    mounts.mount(&replica, &options).exits(0);
    let image = File::options().read(true).write(true).open(mounts.point.join("volume.img")).unwrap();
    image.write_all_at(b"written", 8190).unwrap();
    let mut read = [0; 7];
    image.read_exact_at(&mut read, 8190).unwrap();
    assert_eq!(&read, b"written");
    let full = image.write_all_at(&vec![7; 128 << 10], 1 << 20).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    assert!(image.set_len(5).is_err());
    drop(image);
    mounts.umount().exits(1).says(&["has reached its limit of 65536 bytes"]);
    before.assert_unchanged(&replica, "writes to the image");
    mounts.assert_nothing_left("a writable image");
}

#[test]
fn a_journal_that_has_no_room_to_be_replayed_in_is_an_error() {
    let Some(mounts) = Mounts::new("a_journal_that_has_no_room_to_be_replayed_in_is_an_error") else {
        return;
    };
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    mounts.mount(&replica, &["--journal", "replay", "--overlay-max", "4096"]).exits(4).says(&[
        "throw-away copy: what was written on top of the replica has reached its limit of 4096 bytes",
        "cannot mount the ext4 file system",
        "--overlay-max",
        "with --overlay",
    ]);
    mounts.mount(&replica, &["--overlay-max", "4096"]).exits(2).says(&["--journal replay"]);
    let inside = replica.join("x");
    mounts
        .mount(&replica, &["--journal", "replay", "--overlay", text(&inside)])
        .exits(5)
        .says(&["inside the replica"]);
    before.assert_unchanged(&replica, "failed replays");
    mounts.assert_nothing_left("failed replays");
}

#[test]
fn fast_commits_are_replayed_by_the_kernel() {
    let Some(mounts) = Mounts::new("fast_commits_are_replayed_by_the_kernel") else { return };
    let Some(image) = with_fast_commits("fast_commits_are_replayed_by_the_kernel", mounts.tmp.path()) else {
        return;
    };
    let before = sha256(&image);
    mounts.mount(&image, &[]).exits(0);
    assert!(!mounts.point.join("d/renamed").exists(), "nothing is replayed unasked");
    mounts.umount().exits(0);
    mounts.mount(&image, &["--journal", "replay"]).exits(0);
    assert_eq!(&fs::read(mounts.point.join("d/renamed")).unwrap()[..5], b"ren22");
    assert_eq!(fs::read(mounts.point.join("f4")).unwrap().len(), 10);
    assert!(!mounts.point.join("f3").exists());
    assert_eq!(File::create(mounts.point.join("new")).unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
    mounts.umount().exits(0);
    mounts.assert_nothing_left("a replay of fast commits");
    assert_eq!(sha256(&image), before, "the image was changed");
}

/// A fixture whose volume has one more reader of its sources: the test.
fn ext4() -> (Fixture, PathBuf) {
    let fixture = fixture("16-ext4-sqlite");
    let replica = fixture.replica().0;
    (fixture, replica)
}

#[test]
fn mount_points_that_cannot_be_are_refused() {
    let Some(mounts) = Mounts::new("mount_points_that_cannot_be_are_refused") else { return };
    let (fixture, replica) = ext4();
    let before = Fingerprint::of(fixture.dir.path());
    let at = |point: &Path| mounts.program(&["mount", text(&replica), text(point)]).run();
    let file = mounts.tmp.path().join("file");
    fs::write(&file, "x").unwrap();
    at(&file).exits(2).says(&["no directory"]);
    at(&mounts.tmp.path().join("nothing")).exits(2).says(&["cannot find the mount point", "mkdir"]);
    at(mounts.tmp.path()).exits(5).says(&["not empty"]);
    at(&replica).exits(5).says(&["inside the replica directory"]);
    at(Path::new("/proc")).exits(5).says(&["something is mounted there already"]);
    at(&mounts.point).exits(0);
    at(&mounts.point).exits(5).says(&["a volume is mounted there already", "lhrecover umount"]);
    // By another name for the same place.
    let link = mounts.tmp.path().join("link");
    std::os::unix::fs::symlink(&mounts.point, &link).unwrap();
    mounts.program(&["umount", text(&link)]).run().exits(0);
    mounts.umount().exits(5).says(&["not mounted by lhrecover"]);
    mounts.program(&["umount", "/proc"]).run().exits(5).says(&["not mounted by lhrecover"]);
    before.assert_unchanged(fixture.dir.path(), "refusals");
    mounts.assert_nothing_left("refusals");
}

#[test]
fn a_file_system_that_is_bound_elsewhere_stays_where_it_is() {
    let Some(mounts) = Mounts::new("a_file_system_that_is_bound_elsewhere_stays_where_it_is") else { return };
    let (_fixture, replica) = ext4();
    mounts.mount(&replica, &[]).exits(0);
    let shown = files(&mounts.point);
    let elsewhere = mounts.tmp.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    run("mount", &["--bind", text(&mounts.point), text(&elsewhere)]);
    {
        let _bound = common::loopdev::Mounted { point: elsewhere.clone() };
        mounts.umount().exits(5).says(&["mounted in another place", "elsewhere"]);
        assert_eq!(files(&mounts.point), shown, "something was taken down");
    }
    mounts.umount().exits(0);
    mounts.assert_nothing_left("a refused umount");
}

#[test]
fn of_several_that_mount_at_once_at_one_place_one_does() {
    let Some(mounts) = Mounts::new("of_several_that_mount_at_once_at_one_place_one_does") else { return };
    let (_fixture, replica) = ext4();
    let mut exits: Vec<_> = std::thread::scope(|scope| {
        let at_once: Vec<_> =
            (0..4).map(|_| scope.spawn(|| mounts.mount(&replica, &[]).status.code())).collect();
        at_once.into_iter().map(|mount| mount.join().unwrap()).collect()
    });
    exits.sort_unstable();
    assert_eq!(exits, [0, 5, 5, 5].map(Some));
    assert_eq!(mounts.list().len(), 1);
    mounts.umount().exits(0);
    mounts.assert_nothing_left("mounts at once");
}

#[test]
fn what_is_said_is_what_the_goldens_have() {
    let Some(mounts) = Mounts::new("what_is_said_is_what_the_goldens_have") else { return };
    let dir = mounts.tmp.path();
    for case in ["16-ext4-sqlite", "22-luks-encrypted"] {
        common::unpack::unpack(case, dir).unwrap();
    }
    let replica = dir.join("pvc-3c0326f1-db9d-44d4-ba17-6ea3566ec218-e3ac5892");
    let encrypted = dir.join("pvc-009f0124-a65e-4adc-bdfe-8a2ad239e564-98f4520b");
    let golden = |name: &str, ran: &Ran| assert_golden(&format!("mount/{name}"), dir, ran);
    golden("list-nothing", &mounts.program(&["umount", "--list"]).run());
    golden("stale-nothing", &mounts.stale());
    golden("mounted", &mounts.mount(&replica, &[]));
    golden("list", &mounts.program(&["umount", "--list"]).run());
    golden("mounted-already", &mounts.mount(&replica, &[]));
    mounts.umount().exits(0);
    golden("replayed", &mounts.mount(&replica, &["--journal", "replay", "--at", "stage1"]));
    mounts.umount().exits(0);
    golden("image", &mounts.mount(&replica, &["--image-only"]));
    golden("unmounted", &mounts.umount());
    golden("not-ours", &mounts.umount());
    golden("encrypted", &mounts.mount(&encrypted, &[]));
    golden("overlay-without-replay", &mounts.mount(&replica, &["--overlay-max", "1G"]));
    mounts.assert_nothing_left("goldens");
}
