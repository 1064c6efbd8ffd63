//! What `lhrecover merge` says, to whom, and how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::chain::{BRANCH, Chain, HEAD, Layer, Mark, edit, image};
use common::cli::{Ran, has_finding, lhrecover};
use common::golden::{assert_golden, without_circumstances};
use common::loopdev::skipped;
use common::{scratch, text};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// A disk with a replica of three layers and a branch on it.
struct Rig {
    disk: tempfile::TempDir,
    dir: PathBuf,
    out: PathBuf,
}

fn chain() -> Chain {
    let mut chain = Chain::of(
        MIB,
        &[&[(0, 64, Mark::Data)], &[(8, 8, Mark::Zeros)], &[(10, 2, Mark::Data), (200, 4, Mark::Data)]],
    );
    chain.branch = Some((0, Layer::new(MIB, &[(20, 4, Mark::Data)])));
    chain
}

fn rig() -> Rig {
    rig_of(&chain())
}

fn rig_of(chain: &Chain) -> Rig {
    let disk = scratch();
    let dir = chain.write_to(disk.path());
    let out = disk.path().join("out.img");
    Rig { disk, dir, out }
}

impl Rig {
    /// Merges without progress, and replaces what is there.
    fn merge(&self, more: &[&str]) -> Ran {
        self.merge_plain(
            &[&["--force", "--progress", "none", "--clone", "never", "--no-sync"], more].concat(),
        )
    }

    fn merge_plain(&self, more: &[&str]) -> Ran {
        lhrecover(&[&["merge", text(&self.dir), text(&self.out)], more].concat())
    }

    #[track_caller]
    fn assert_image(&self, expected: &[u8]) {
        assert!(fs::read(&self.out).unwrap() == expected, "the image is wrong");
    }

    /// Compares all that a run said with a golden.
    #[track_caller]
    fn golden(&self, name: &str, ran: &Ran) {
        assert_golden(&format!("merge/{name}"), self.disk.path(), ran);
    }
}

#[test]
fn done() {
    let rig = rig();
    rig.golden("done", &rig.merge(&[]));
    rig.assert_image(&chain().reads());
    let all = rig.merge(&["--verify", "--digest", "sha256"]);
    rig.golden("done-verified-and-hashed", &all);
}

#[test]
fn a_snapshot_in_every_way_it_can_be_named() {
    let rig = rig();
    for name in ["s000", "volume-snap-s000.img"] {
        rig.merge(&["--at", name]).exits(0);
        rig.assert_image(&chain().reads_as(0, true));
    }
    for name in [BRANCH, "br", "volume-snap-branch.img", "volume-snap-b"] {
        rig.merge(&["--at", name]).exits(0);
        rig.assert_image(&chain().branch_reads(true).unwrap());
    }
    rig.merge(&["--at", HEAD]).exits(0);
    rig.assert_image(&chain().reads());
    rig.golden("at-ambiguous", &rig.merge(&["--at", "s0"]));
    rig.golden("at-unknown", &rig.merge(&["--at", "nothing"]));
}

#[test]
fn a_removed_snapshot() {
    let rig = rig();
    edit(&rig.dir.join(image("s001") + ".meta"), &[("Removed", json!(true))]);
    rig.merge(&[]).exits(0);
    rig.golden("at-removed", &rig.merge(&["--at", "s001"]));
    rig.assert_image(&chain().reads_as(1, true));
}

#[test]
fn a_replica_that_was_being_rebuilt() {
    let fixture = common::fixture("13b-rebuilding-looks-complete");
    let rebuilding =
        |dir: &Path| fs::read_to_string(dir.join("volume.meta")).unwrap().contains("\"Rebuilding\":true");
    let (dir, truth) = fixture.replicas().into_iter().find(|(dir, _)| rebuilding(dir)).unwrap();
    let rig = Rig { out: fixture.dir.path().join("out.img"), dir, disk: fixture.dir };
    rig.golden("rebuilding", &rig.merge(&[]));
    assert!(!rig.out.exists());
    let report = rig.merge(&["--allow-rebuilding", "--json", "--digest", "sha256"]).json();
    assert_eq!(report["digest"]["value"], truth["sha256"]);
}

/// A process that has a file open for writing until it is dropped.
struct Writer(Child);

impl Writer {
    fn of(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        Writer(Command::new("sleep").arg("600").stdin(Stdio::from(file)).spawn().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_live_replica() {
    let rig = rig();
    let writer = Writer::of(&rig.dir.join(HEAD));
    let by_pid = format!("process {}", writer.0.id());
    let mut ran = rig.merge(&[]);
    ran.stderr = ran.stderr.replace(&by_pid, "process [PID]");
    rig.golden("live", &ran);
    assert!(!rig.out.exists());
    let report = rig.merge(&["--allow-live", "--json"]).exits(1).json();
    assert!(has_finding(&report, "live-head"));
    assert_eq!(report["cloned_bytes"], 0);
    rig.assert_image(&chain().reads());
    let report = rig.merge(&["--at", "s001", "--json"]).exits(0).json();
    assert!(!has_finding(&report, "live-head"));
    rig.assert_image(&chain().reads_as(1, true));
    drop(writer);
    // Somebody who only reads is not in the way.
    let reader = File::open(rig.dir.join(HEAD)).unwrap();
    let _reader = Writer(Command::new("sleep").arg("600").stdin(Stdio::from(reader)).spawn().unwrap());
    rig.merge(&[]).exits(0);
}

#[test]
fn a_copy_that_lost_its_holes() {
    let rig = rig();
    let copy = rig.disk.path().join("replicas/copy");
    let cp = Command::new("cp").args(["-a", "--sparse=never", text(&rig.dir), text(&copy)]).status().unwrap();
    assert!(cp.success());
    let copied = Rig { dir: copy, out: rig.out.clone(), disk: rig.disk };
    copied.golden("copy-damage", &copied.merge(&[]));
    assert!(!copied.out.exists());
    let report = copied.merge(&["--accept-copy-damage", "--json"]).exits(1).json();
    assert!(has_finding(&report, "copy-fully-allocated"));
    // A single layer hides nothing, however full it is.
    let single = rig_of(&Chain::of(MIB, &[&[(0, 256, Mark::Data)]]));
    single.merge(&[]).exits(0);
}

#[test]
fn without_volume_meta() {
    let rig = rig();
    fs::remove_file(rig.dir.join("volume.meta")).unwrap();
    rig.golden("volume-meta-missing", &rig.merge(&[]));
    rig.merge(&["--head", HEAD]).exits(3).says(&["--size 1048576"]);
    rig.merge(&["--at", "s000"]).exits(3).says(&["--size 1048576"]);
    assert!(!rig.out.exists());
    rig.golden("by-hand", &rig.merge(&["--head", HEAD, "--size", "1M"]));
    rig.assert_image(&chain().reads());
    rig.golden("head-unknown", &rig.merge(&["--head", "volume-head-009.img", "--size", "1M"]));
}

#[test]
fn against_volume_meta() {
    let rig = rig();
    rig.golden("size-by-hand", &rig.merge(&["--size", "512K"]));
    let expected = chain().reads();
    rig.assert_image(&expected[..512 << 10]);
    rig.merge(&["--size", "2M"]).exits(1).says(&["chosen-by-hand"]);
    rig.assert_image(&[expected, vec![0; 1 << 20]].concat());
}

#[test]
fn a_broken_chain() {
    let rig = rig();
    fs::remove_file(rig.dir.join(image("s000") + ".meta")).unwrap();
    rig.golden("parent-meta-missing", &rig.merge(&[]));
    let rig = self::rig();
    fs::remove_file(rig.dir.join(image("s000"))).unwrap();
    rig.golden("layer-missing", &rig.merge(&[]));
    let rig = self::rig();
    fs::remove_file(rig.dir.join(HEAD)).unwrap();
    rig.golden("head-missing", &rig.merge(&[]));
    rig.merge(&["--at", "s001"]).exits(0);
    rig.assert_image(&chain().reads_as(1, true));
}

#[test]
fn a_backing_image() {
    let chain = Chain { backing: Some(Layer::new(MIB / 2, &[(30, 90, Mark::Data)])), ..chain() };
    let rig = rig_of(&chain);
    let images = rig.disk.path().join("backing-images");
    let moved = rig.disk.path().join("moved.img");
    rig.merge(&[]).exits(0);
    rig.assert_image(&chain.reads());
    fs::rename(images.join("img-1/backing"), &moved).unwrap();
    rig.golden("backing-missing", &rig.merge(&[]));
    rig.merge(&["--at", "s000"]).exits(3).says(&["--backing-file PATH"]);
    let elsewhere = rig.disk.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&moved, elsewhere.join("backing")).unwrap();
    for path in [elsewhere.as_path(), &elsewhere.join("backing")] {
        fs::remove_file(&rig.out).unwrap();
        rig.merge(&["--backing-file", text(path)]).exits(0);
        rig.assert_image(&chain.reads());
    }
    rig.golden("backing-by-hand-missing", &rig.merge(&["--backing-file", "/no-such-file"]));
    // Beside a copied replica, it is found there.
    fs::create_dir_all(rig.disk.path().join("replicas/backing-images/img-1")).unwrap();
    fs::rename(elsewhere.join("backing"), rig.disk.path().join("replicas/backing-images/img-1/backing"))
        .unwrap();
    rig.merge(&[]).exits(0);
    rig.assert_image(&chain.reads());
}

#[test]
fn a_backing_image_that_nobody_recorded() {
    let rig = rig();
    let image = rig.disk.path().join("image.raw");
    fs::write(&image, vec![0x55; 1 << 20]).unwrap();
    rig.golden("backing-unrecorded", &rig.merge(&["--backing-file", text(&image)]));
}

#[test]
fn unwritten_extents_over_data() {
    if !common::scratch_has_fiemap() {
        skipped("unwritten_extents_over_data", "no FIEMAP on the file system of target/");
        return;
    }
    let mut chain = chain();
    chain.layers[2].writes.extend(Layer::new(0, &[(40, 4, Mark::Preallocated)]).writes);
    let rig = rig_of(&chain);
    rig.golden("unwritten", &rig.merge(&[]));
    rig.assert_image(&chain.reads());
    rig.merge(&["--unwritten", "hole"]).exits(1).says(&["unwritten-hides-data"]);
    rig.assert_image(&chain.reads_as(2, false));
}

#[test]
fn quiet_says_nothing_but_warnings() {
    let rig = rig();
    let ran = rig.merge(&["--quiet"]).exits(0);
    assert_eq!((ran.text(), without_circumstances(&ran.stderr).as_str()), ("", ""));
    let ran = rig.merge(&["--quiet", "--size", "512K"]).exits(1).says(&["warning: ", "[chosen-by-hand]"]);
    assert_eq!(ran.text(), "");
    assert_ne!(rig.merge(&["--quiet", "--json"]).exits(0).text(), "");
}

#[test]
fn progress_in_every_style() {
    let rig = rig();
    rig.merge(&[]).exits(0);
    for (style, begins) in [("plain", "copying: "), ("auto", "copying: ")] {
        let ran = rig.merge_plain(&["--force", "--progress", style]).exits(0);
        assert!(ran.stderr.starts_with(begins), "{style}: {}", ran.stderr);
    }
    let ran = rig.merge_plain(&["--force", "--progress", "json"]).exits(0);
    let known = |line: &&str| !line.starts_with("info: ") && !line.starts_with(' ');
    let lines: Vec<Value> =
        ran.stderr.lines().filter(known).map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!((&last["event"], &last["phase"]), (&json!("progress"), &json!("copying")));
    assert_eq!(last["done_bytes"], last["total_bytes"]);
    assert_eq!(
        without_circumstances(&rig.merge_plain(&["--force", "--progress", "bar"]).exits(0).stderr),
        ""
    );
}

#[test]
fn bad_usage() {
    let rig = rig();
    let (dir, out) = (text(&rig.dir), text(&rig.out));
    let runs: &[&[&str]] = &[
        &["merge"],
        &["merge", dir],
        &["merge", dir, out, "--no-such-flag"],
        &["merge", dir, out, "--threads", "0"],
        &["merge", dir, out, "--size", "0"],
        &["merge", dir, out, "--sparse", "sometimes"],
        &["merge", dir, out, "extra"],
        &["no-such-command"],
        &["merge", dir, text(rig.disk.path())],
    ];
    for args in runs {
        let ran = lhrecover(args);
        assert_eq!(ran.status.code(), Some(2), "{args:?}: {}", ran.stderr);
        assert_eq!(ran.text(), "", "{args:?}");
        assert!(ran.stderr.starts_with("error: ") || args.len() == 1, "{args:?}: {}", ran.stderr);
    }
    assert!(!rig.out.exists());
}

#[test]
fn help_names_every_flag_and_every_exit_code() {
    let help = lhrecover(&["merge", "--help"]).exits(0);
    for flag in [
        "--at",
        "--head",
        "--size",
        "--backing-file",
        "--unwritten",
        "--allow-rebuilding",
        "--allow-live",
        "--accept-copy-damage",
        "--overwrite",
        "--any-device",
        "--force",
        "--threads",
        "--clone",
        "--sparse",
        "--no-sync",
        "--verify",
        "--digest",
        "--manifest",
        "--json",
        "--quiet",
        "--progress",
    ] {
        assert!(help.text().contains(flag), "{flag}");
    }
    let overview = lhrecover(&["--help"]).exits(0);
    for code in ["0  ", "1  ", "2  ", "3  ", "4  ", "5  ", "6  ", "130  "] {
        assert!(overview.text().contains(&format!("\n  {code}")), "{code}");
    }
    assert!(lhrecover(&["--version"]).exits(0).text().starts_with("lhrecover "));
}

#[test]
fn an_image_is_not_sent_to_a_terminal() {
    let rig = rig();
    let line = format!("{} merge {} -", env!("CARGO_BIN_EXE_lhrecover"), text(&rig.dir));
    let script = Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output();
    let Ok(script) = script else {
        skipped("an_image_is_not_sent_to_a_terminal", "script is not installed (package bsdutils)");
        return;
    };
    assert_eq!(script.status.code(), Some(2));
    let shown = String::from_utf8(script.stdout).unwrap();
    assert!(shown.contains("standard output is a terminal"), "{shown:?}");
}
