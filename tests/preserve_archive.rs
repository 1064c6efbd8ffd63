//! An archive by `preserve` holds a replica exactly: for our own reader, and, but for preallocated room, for GNU tar. One
//! that is damaged, cut off or made up is refused, and leaves nothing behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use common::chain::{Chain, HEAD, Mark, image};
use common::cli::{Lhrecover, lhrecover};
use common::filesystems::TMPFS;
use common::fingerprint::Fingerprint;
use common::strace::{self, READS, WRITES};
use common::{loopdev, scratch, text};
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::workflow::preserve::archive::read_through;

const MIB: u64 = 1 << 20;

fn small(disk: &Path, more: &[(u64, u64, Mark)]) -> PathBuf {
    let head = [&[(3, 1, Mark::Data), (5, 1, Mark::Zeros), (250, 6, Mark::Data)], more].concat();
    let dir = Chain::of(MIB, &[&[(0, 16, Mark::Data)], &head]).write_to(disk);
    let long = format!("volume-snap-{}.img", "long".repeat(30));
    fs::write(dir.join(&long), vec![7; 8192]).unwrap();
    OpenOptions::new().write(true).open(dir.join(&long)).unwrap().set_len(3 * MIB + 5).unwrap();
    fs::write(dir.join("full"), vec![9; 5000]).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    fs::hard_link(dir.join(image("s000")), dir.join(image("twin"))).unwrap();
    symlink("../somewhere/else", dir.join("link")).unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_600_000_000, 120_000_789);
    for name in [HEAD, "full"] {
        File::open(dir.join(name)).unwrap().set_modified(then).unwrap();
    }
    File::open(&dir).unwrap().set_modified(then).unwrap();
    dir
}

fn archive(dir: &Path, to: &Path) {
    lhrecover(&["preserve", text(dir), "--archive", text(to), "--quiet"]).exits(0);
}

fn read(bytes: &[u8]) -> Result<(), String> {
    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    read_through(bytes, &run).map(drop).map_err(|e| e.to_string())
}

#[test]
fn every_fixture_comes_out_as_it_went_in() {
    common::several_at_a_time(common::cases(), |case| {
        let id = case["id"].as_str().unwrap();
        let fixture = common::fixture(id);
        let (dir, _) = fixture.replica();
        let before = Fingerprint::of(&dir);
        let (tar, copy) = (fixture.dir.path().join("a.tar"), fixture.dir.path().join("copy"));
        archive(&dir, &tar);
        lhrecover(&["preserve", "--check-copy", text(&tar), "--quiet"]).exits(0);
        lhrecover(&["preserve", "--unpack", text(&tar), text(&copy), "--quiet"]).exits(0);
        before.assert_copied_to(&copy, id);
        fs::remove_dir_all(&copy).unwrap();
        before.assert_unchanged(&dir, id);
    });
}

#[test]
fn gnu_tar_restores_it_too() {
    let disk = scratch();
    let dir = small(disk.path(), &[]);
    let xattr = xattr::set(dir.join(HEAD), "user.note", b"a\nb=c").is_ok();
    let before = Fingerprint::of(&dir);
    let (tar, copy) = (disk.path().join("a.tar"), disk.path().join("copy"));
    archive(&dir, &tar);
    fs::create_dir(&copy).unwrap();
    let unpacked = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "-xf", text(&tar), "-C", text(&copy)])
        .output();
    let unpacked = unpacked.unwrap();
    assert!(unpacked.status.success() && unpacked.stderr.is_empty(), "{unpacked:?}");
    before.assert_copied_to(&copy, "GNU tar");
    if xattr {
        assert_eq!(xattr::get(copy.join(HEAD), "user.note").unwrap().unwrap(), b"a\nb=c");
    }
    lhrecover(&["preserve", text(&dir), text(&copy), "--check"]).exits(0);
    before.assert_unchanged(&dir, "an archive");
}

#[test]
fn preallocated_room_survives_where_it_can() {
    let disk = scratch();
    let dir = small(disk.path(), &[(100, 20, Mark::Preallocated), (140, 3, Mark::Preallocated)]);
    let before = Fingerprint::of(&dir);
    let (tar, copy) = (disk.path().join("a.tar"), disk.path().join("copy"));
    archive(&dir, &tar);
    lhrecover(&["preserve", "--unpack", text(&tar), text(&copy)]).exits(0);
    before.assert_copied_to(&copy, "an archive");
    // GNU tar has no such thing, and restores zeros: the engine reads the same.
    let by_tar = disk.path().join("by-tar");
    fs::create_dir(&by_tar).unwrap();
    assert!(
        Command::new("tar").args(["-xf", text(&tar), "-C", text(&by_tar)]).output().unwrap().status.success()
    );
    let merged = |dir: &Path| {
        let out = disk.path().join("out");
        lhrecover(&["merge", text(dir), text(&out), "--force", "--quiet"]);
        fs::read(out).unwrap()
    };
    assert!(merged(&by_tar) == merged(&dir));
    let test = "preallocated_room_survives_where_it_can";
    if !loopdev::available(test) {
        return;
    }
    let Some(mounted) = TMPFS.mount(test) else { return };
    let copy = mounted.root.join("copy");
    lhrecover(&["preserve", "--unpack", text(&tar), text(&copy)]).exits(1).says(&["[unwritten-as-zeros]"]);
    lhrecover(&["preserve", "--check-copy", text(&copy)]).exits(0);
    lhrecover(&["preserve", text(&dir), text(&copy), "--check"]).exits(0);
    assert!(merged(&copy) == merged(&dir));
    before.assert_unchanged(&dir, test);
}

#[test]
fn through_a_pipe_as_well() {
    let disk = scratch();
    let dir = small(disk.path(), &[]);
    let before = Fingerprint::of(&dir);
    let bytes = lhrecover(&["preserve", text(&dir), "--archive", "-"]).exits(0).says(&["copied"]).stdout;
    let copy = disk.path().join("copy");
    let mut unpack = Command::new(env!("CARGO_BIN_EXE_lhrecover"))
        .args(["preserve", "--unpack", "-", text(&copy), "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    unpack.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(unpack.wait().unwrap().success());
    before.assert_copied_to(&copy, "a pipe");
    lhrecover(&["preserve", text(&dir), "--archive", "-", "--json"])
        .exits(2)
        .says(&["--check-copy FILE --json"]);
    before.assert_unchanged(&dir, "a pipe");
}

#[test]
fn an_archive_that_ends_too_early_is_refused_wherever_that_is() {
    let disk = scratch();
    let dir = small(disk.path(), &[]);
    let tar = disk.path().join("a.tar");
    archive(&dir, &tar);
    let whole = fs::read(&tar).unwrap();
    read(&whole).unwrap();
    for length in (0..whole.len() - 1024).step_by(253) {
        assert!(read(&whole[..length]).is_err(), "{length} of {} bytes", whole.len());
    }
    let copy = disk.path().join("copy");
    for part in [1, 2, 3] {
        File::options().write(true).open(&tar).unwrap().set_len(whole.len() as u64 * (4 - part) / 4).unwrap();
        let ran = lhrecover(&["preserve", "--unpack", text(&tar), text(&copy)]).exits(3);
        ran.says(&["the archive ends too early", "hint"]);
        assert!(!copy.exists(), "something is left");
        lhrecover(&["preserve", "--check-copy", text(&tar)]).exits(3);
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let disk = scratch();
    let dir = small(disk.path(), &[]);
    let tar = disk.path().join("a.tar");
    archive(&dir, &tar);
    let whole = fs::read(&tar).unwrap();
    let manifest = whole.windows(23).position(|name| name == b"lhrecover-preserve.json").unwrap();
    let mut harmless = 0;
    for at in (0..whole.len()).step_by(97) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        // What fills up the last block of a file is nobody's, and the manifest's own words are told, not compared.
        if read(&flipped).is_ok() {
            harmless += 1;
            assert!(whole[at] == 0 || at > manifest, "byte {at} is {}, and does not count", whole[at]);
        }
    }
    assert!(harmless * 4 < whole.len() / 97, "{harmless} of {} do not count", whole.len() / 97);
}

#[test]
fn archives_of_others_are_refused_and_lead_nowhere() {
    let disk = scratch();
    let root = disk.path().canonicalize().unwrap();
    let inside = root.join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("volume.meta"), "{}").unwrap();
    fs::write(root.join("precious"), "mine").unwrap();
    symlink(root.join("precious"), inside.join("link")).unwrap();
    let tar = root.join("a.tar");
    let copy = root.join("copy");
    let precious = root.join("precious");
    let made = [
        vec!["-C", text(&inside), "."],
        vec!["-C", text(&inside), "volume.meta"],
        vec!["-P", "--transform", "s,volume.meta,../escaped,", "-C", text(&inside), "volume.meta"],
        vec!["-P", text(&precious)],
        vec!["--format=gnu", "--no-recursion", "-C", text(&inside), "./"],
    ];
    for args in made {
        let status = Command::new("tar").args(["-cf", text(&tar)]).args(&args).status().unwrap();
        assert!(status.success());
        lhrecover(&["preserve", "--unpack", text(&tar), text(&copy)])
            .exits(3)
            .says(&["the archive cannot be used"]);
        assert!(!copy.exists() && !root.join("escaped").exists(), "{args:?}");
    }
    for bytes in [&b""[..], &[0; 1024], &[0x7f; 4096]] {
        fs::write(&tar, bytes).unwrap();
        lhrecover(&["preserve", "--unpack", text(&tar), text(&copy)]).exits(3);
        assert!(!copy.exists());
    }
    assert_eq!(fs::read(root.join("precious")).unwrap(), b"mine");
}

#[test]
fn faults_leave_no_archive_and_no_copy() {
    if !strace::available("faults_leave_no_archive_and_no_copy") {
        return;
    }
    let disk = scratch();
    let root = disk.path().canonicalize().unwrap();
    let chain = Chain::of(8 * MIB, &[&[(0, 2048, Mark::Data)], &[(0, 4, Mark::Zeros)]]);
    let dir = chain.write_to(&root);
    let (tar, partial) = (root.join("a.tar"), root.join("a.tar.partial"));
    let args = ["preserve", text(&dir), "--archive", text(&tar), "--quiet"];
    let base = dir.join(image("s000"));
    for (file, injection, code) in [
        (&base, format!("{READS}:error=EIO:when=3+"), 3),
        (&partial, format!("{WRITES}:error=ENOSPC:when=3"), 4),
        // The archive, read back.
        (&partial, format!("{READS}:error=EIO:when=3+"), 1),
        (&partial, "pwrite64:retval=512:when=3".to_owned(), 1),
    ] {
        let ran = strace::tampered(file, std::slice::from_ref(&injection), &args).run();
        assert_eq!(ran.status.code(), Some(code), "{injection}: {}", ran.stderr);
        assert!(!tar.exists() && !partial.exists(), "{injection}");
    }
    archive(&dir, &tar);
    lhrecover(&args).exits(5).says(&["exists already", "--force"]);
    lhrecover(&[&args[..], &["--force"]].concat()).exits(0);
    let copy = root.join("copy");
    fs::create_dir(&copy).unwrap();
    let grown = copy.join(format!("{}.lhrecover-partial", image("s000")));
    let unpack = ["preserve", "--unpack", text(&tar), text(&copy), "--quiet"];
    for (injection, code) in
        [(format!("{WRITES}:error=ENOSPC:when=3"), 4), (format!("{READS}:error=EIO:when=2+"), 4)]
    {
        strace::tampered(&grown, std::slice::from_ref(&injection), &unpack).run().exits(code);
        assert_eq!(fs::read_dir(&copy).unwrap().count(), 0, "{injection}");
    }
    // Killed in the middle, it is begun anew.
    let mut slow = strace::slowed(&grown, 100, &unpack).spawn();
    slow.wait_until("it began", || grown.exists());
    slow.signal(nix::sys::signal::Signal::SIGKILL);
    slow.finish();
    assert!(grown.exists());
    lhrecover(&unpack).exits(0);
    Fingerprint::of(&dir).assert_copied_to(&copy, "a second run");
}

#[test]
fn a_signal_ends_an_unpacking_that_waits_for_its_input() {
    let disk = scratch();
    let copy = disk.path().join("copy");
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut waiting = Lhrecover::new(&["preserve", "--unpack", "-", text(&copy)]).stdin(reader).spawn();
    waiting.wait_until("it began", || copy.exists());
    waiting.signal(nix::sys::signal::Signal::SIGINT);
    waiting.finish().exits(130);
    assert!(!copy.exists());
}

#[test]
fn a_file_of_terabytes_with_nothing_in_it_is_small() {
    let disk = scratch();
    let dir = small(disk.path(), &[]);
    let head = OpenOptions::new().write(true).open(dir.join(HEAD)).unwrap();
    head.set_len(8 << 40).unwrap();
    head.write_all_at(&[1; 4096], 7 << 40).unwrap();
    drop(head);
    let (tar, copy) = (disk.path().join("a.tar"), disk.path().join("copy"));
    archive(&dir, &tar);
    assert!(fs::metadata(&tar).unwrap().len() < MIB);
    let ran = lhrecover(&["preserve", "--unpack", text(&tar), text(&copy), "--quiet"]).exits(0);
    assert!(ran.peak_rss_kib < 200 << 10, "{} KiB", ran.peak_rss_kib);
    Fingerprint::of(&dir).assert_copied_to(&copy, "terabytes");
}
