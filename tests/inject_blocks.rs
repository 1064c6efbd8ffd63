//! `inject --mode blocks`: the exact volume in a device, with no byte written that is right already.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::chain::{Chain, Mark};
use common::chains::chain_on_disk;
use common::cli::{Lhrecover, Ran, lhrecover};
use common::fingerprint::Fingerprint;
use common::loopdev::{LoopDevice, Mounted, available, run, sparse_file};
use common::{strace, text};
use nix::sys::signal::Signal;
use proptest::prelude::*;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A replica directory, what it reads as, and an image file to inject it into.
struct Rig {
    tmp: tempfile::TempDir,
    dir: PathBuf,
    bytes: Vec<u8>,
    target: PathBuf,
}

fn rig_of(chain: &Chain) -> Rig {
    let tmp = common::scratch();
    let dir = chain.write_to(tmp.path());
    let target = sparse_file(&tmp.path().join("target.img"), chain.volume_bytes);
    let bytes = chain.reads_as(chain.layers.len() - 1, common::scratch_has_fiemap());
    Rig { tmp, dir, bytes, target }
}

/// Sixteen MiB with data, written zeros and holes in two layers.
fn chain() -> Chain {
    Chain::of(
        16 * MIB,
        &[
            &[(0, 300, Mark::Data), (1000, 700, Mark::Data), (4095, 1, Mark::Data)],
            &[(100, 50, Mark::Zeros), (290, 20, Mark::Data), (2000, 1000, Mark::Data)],
        ],
    )
}

impl Rig {
    fn inject(&self, more: &[&str]) -> Ran {
        self.inject_into(&self.target, more)
    }

    fn inject_into(&self, target: &Path, more: &[&str]) -> Ran {
        lhrecover(&[&self.args(target), more].concat())
    }

    fn args<'a>(&'a self, target: &'a Path) -> Vec<&'a str> {
        vec![
            "inject",
            text(&self.dir),
            text(target),
            "--mode",
            "blocks",
            "--accept-copy-damage",
            "--any-device",
            "--allow-file",
            "--json",
        ]
    }

    #[track_caller]
    fn target_is_right(&self) {
        let held = fs::read(&self.target).unwrap();
        assert_eq!(held.len(), self.bytes.len());
        assert!(held == self.bytes, "the target is not the volume");
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(&self.target).unwrap().write_all_at(bytes, at).unwrap();
    }
}

fn written(report: &Value) -> (u64, u64) {
    let bytes = |key: &str| report[key].as_u64().unwrap();
    (bytes("written_data_bytes"), bytes("written_zero_bytes"))
}

/// Findings, such as an odd size, are expected from generated chains.
fn done(ran: Ran) -> Value {
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{:?}: {}", ran.status, ran.stderr);
    ran.json()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_target_held_it_holds_the_volume(
        chain in chain_on_disk(),
        old in proptest::collection::vec((any::<prop::sample::Index>(), 1..9000usize, any::<u8>()), 0..8),
        zeros in prop::sample::select(vec!["auto", "write", "skip"]),
    ) {
        let rig = rig_of(&chain);
        for (at, len, value) in old {
            let at = at.index(rig.bytes.len());
            rig.write(at as u64, &vec![value; len.min(rig.bytes.len() - at)]);
        }
        let source = Fingerprint::of(&rig.dir);
        let dry = done(rig.inject(&["--overwrite", "--dry-run", "--zeros", zeros]));
        let report = done(rig.inject(&["--overwrite", "--zeros", zeros]));
        rig.target_is_right();
        prop_assert_eq!(written(&dry), written(&report), "a dry run says what is written");
        // Again: nothing is left to write.
        let again = done(rig.inject(&["--overwrite", "--zeros", "skip"]));
        prop_assert_eq!(written(&again), (0, 0));
        source.assert_unchanged(&rig.dir, "inject");
    }
}

#[test]
fn only_what_differs_is_written() {
    let rig = rig_of(&chain());
    let first = rig.inject(&[]).exits(0).json();
    rig.target_is_right();
    assert_eq!(first["fresh"], true);
    // Written zeros are zeros already.
    assert_eq!(written(&first), ((300 - 50 + 10 + 700 + 1 + 1000) * 4096, 0));
    rig.write(10 * 4096 + 7, b"x");
    rig.write(500 * 4096, &[1; 8192]);
    let second = rig.inject(&["--overwrite"]).exits(0).json();
    rig.target_is_right();
    assert_eq!((second["fresh"].as_bool(), written(&second)), (Some(false), (4096, 8192)));
    assert_eq!(second["compared_bytes"], 16 * MIB);
    assert_eq!(second["verification"]["differences"], serde_json::json!([]));
    // With all zeros: written ones count as data, those nobody wrote as zeros.
    let third = rig.inject(&["--overwrite", "--zeros", "write"]).exits(0).json();
    assert_eq!(written(&third).0, 50 * 4096);
    assert_eq!(written(&third).1, 16 * MIB - (300 + 10 + 700 + 1 + 1000) * 4096);
}

#[test]
fn a_snapshot_and_an_image_can_be_injected() {
    let rig = rig_of(&chain());
    rig.inject(&["--at", "s000"]).exits(0);
    let expected = chain().reads_as(0, true);
    assert!(fs::read(&rig.target).unwrap() == expected);
    let image = rig.tmp.path().join("flat.img");
    lhrecover(&["merge", text(&rig.dir), text(&image), "--quiet"]).exits(0);
    let args = [
        "inject",
        text(&image),
        text(&rig.target),
        "--mode=blocks",
        "--allow-file",
        "--overwrite",
        "--quiet",
    ];
    lhrecover(&args).exits(0);
    rig.target_is_right();
}

#[test]
fn refusals_name_the_flag_and_write_nothing() {
    let rig = rig_of(&chain());
    let (dir, target) = (text(&rig.dir), text(&rig.target));
    let base = ["inject", dir, target, "--mode", "blocks"];
    lhrecover(&base).exits(5).says(&["not a block device", "--allow-file"]);
    rig.write(5 * MIB, b"precious");
    let other = rig.tmp.path().join("other-name.img");
    fs::hard_link(rig.dir.join("volume-head-001.img"), &other).unwrap();
    let (source, held) = (Fingerprint::of(&rig.dir), fs::read(&rig.target).unwrap());
    lhrecover(&[&base[..], &["--allow-file"]].concat()).exits(5).says(&["carries data", "--overwrite"]);
    lhrecover(&["inject", dir, target]).exits(2).says(&["--mode"]);
    let missing = rig.tmp.path().join("missing.img");
    rig.inject_into(&missing, &[]).exits(2);
    assert!(!missing.exists());
    let small = sparse_file(&rig.tmp.path().join("small.img"), 16 * MIB - 4096);
    let refused = rig.inject_into(&small, &[]).exits(5).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("too small"), "{refused}");
    fs::remove_file(&small).unwrap();
    // A file of the source, under its name and under another.
    let head = rig.dir.join("volume-head-001.img");
    rig.inject_into(&head, &["--overwrite"]).exits(5);
    rig.inject_into(&other, &["--overwrite"]).exits(5);
    // Of a snapshot the head is no part; it is a file of the source all the same.
    for file in [&head, &other, &rig.dir.join("volume-head-001.img.meta")] {
        let refused = rig.inject_into(file, &["--overwrite", "--at", "s000"]).exits(5).json();
        assert!(refused["error"]["message"].as_str().unwrap().contains("is the source"), "{refused}");
    }
    let report = rig.dir.join("report.json");
    rig.inject(&["--overwrite", "--report", text(&report)]).exits(5);
    assert!(!report.exists());
    source.assert_unchanged(&rig.dir, "refusals");
    assert!(fs::read(&rig.target).unwrap() == held);
}

#[test]
fn the_report_is_kept() {
    let rig = rig_of(&chain());
    let path = rig.tmp.path().join("report.json");
    let printed = rig.inject(&["--report", text(&path)]).exits(0).json();
    let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(printed, kept);
    assert_eq!(printed["before"], "nothing but zeros where it was looked at");
    rig.inject(&["--overwrite", "--report", text(&path)]).exits(5);
    rig.inject(&["--overwrite", "--report", text(&path), "--force"]).exits(0);
}

#[test]
fn a_report_takes_the_place_of_nothing_that_matters() {
    let rig = rig_of(&chain());
    let at = |name: &str| rig.tmp.path().join(name);
    let image = at("volume.img.partial");
    lhrecover(&["merge", text(&rig.dir), text(&image), "--quiet"]).exits(0);
    let kept = fs::read(&image).unwrap();
    let inject = |source: &Path, report: &Path| {
        let args =
            ["inject", text(source), text(&rig.target), "--mode=blocks", "--allow-file", "--overwrite"];
        lhrecover(&[&args[..], &["--force", "--report", text(report)]].concat())
    };
    inject(&image, &image).exits(5).says(&["file of the source"]);
    // While the report grows it would have the image's name.
    inject(&image, &at("volume.img")).exits(5).says(&["file of the source"]);
    inject(&rig.dir, &rig.target).exits(5).says(&["place of the target"]);
    assert!(fs::read(&image).unwrap() == kept);
    assert_eq!(fs::metadata(&rig.target).unwrap().blocks(), 0, "nothing was written");
}

#[test]
fn a_report_that_cannot_be_kept_is_no_failure_of_the_target() {
    if !available("a_report_that_cannot_be_kept_is_no_failure_of_the_target") {
        return;
    }
    let rig = rig_of(&chain());
    let full = rig.tmp.path().join("full");
    fs::create_dir(&full).unwrap();
    run("mount", &["-t", "tmpfs", "-o", "size=4k", "none", text(&full)]);
    let report = full.join("report.json");
    let ran = Lhrecover::new(&[&rig.args(&rig.target)[..], &["--report", text(&report)]].concat());
    fs::write(full.join("filler"), [1; 4096]).unwrap();
    let ran = ran.run();
    run("umount", &[text(&full)]);
    let ran = ran.exits(4);
    assert!(ran.text().contains("\"written_data_bytes\""), "the result is shown: {}", ran.text());
    assert!(ran.stderr.contains("only this file about it could not be kept"), "{}", ran.stderr);
    rig.target_is_right();
}

#[test]
fn data_that_samples_miss_is_found_before_it_is_lost() {
    let size = 1024 * MIB;
    let rig = rig_of(&Chain::of(size, &[&[(0, 4, Mark::Data)]]));
    let precious = 37 * MIB + 2_000_000;
    rig.write(precious, b"PRECIOUS");
    let at = format!("offset {precious}");
    let refused = rig.inject(&[]).exits(5).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains(&at), "{refused}");
    let held = |path: &Path| {
        let mut word = [0; 8];
        fs::File::open(path).unwrap().read_exact_at(&mut word, precious).unwrap();
        word
    };
    assert_eq!(&held(&rig.target), b"PRECIOUS");
    if available("data_that_samples_miss_is_found_before_it_is_lost on a device") {
        let device = LoopDevice::over(&rig.target);
        for command in ["inject", "merge"] {
            let args = ["--json", command, text(&rig.dir), text(&device.path), "--any-device"];
            let mode: &[&str] = if command == "inject" { &["--mode=blocks"] } else { &[] };
            let refused = lhrecover(&[&args[..], mode].concat()).exits(5).json();
            let message = refused["error"]["message"].as_str().unwrap();
            assert!(message.contains(&at), "{refused}");
        }
        let report = rig.inject_into(&device.path, &["--overwrite"]).exits(0).json();
        assert!(report["before"].as_str().unwrap().contains(&at), "{report}");
    } else {
        rig.inject(&["--overwrite"]).exits(0);
    }
    assert_eq!(held(&rig.target), [0; 8]);
}

#[test]
fn an_image_that_somebody_writes_to_is_no_target_and_no_source() {
    let rig = rig_of(&chain());
    let open = OpenOptions::new().read(true).write(true).open(&rig.target).unwrap();
    // Another process, which has it as its standard input.
    let mut holder = std::process::Command::new("sleep").arg("60").stdin(open).spawn().unwrap();
    let as_target = rig.inject(&["--overwrite"]);
    let other = sparse_file(&rig.tmp.path().join("other.img"), 16 * MIB);
    let base = ["inject", text(&rig.target), text(&other), "--mode=blocks"];
    let as_source = lhrecover(&[&base[..], &["--allow-file"]].concat());
    let with_leave = lhrecover(&[&base[..], &["--allow-file", "--allow-live"]].concat());
    holder.kill().unwrap();
    holder.wait().unwrap();
    as_target.exits(5).says(&["open for writing in process", "(sleep)"]);
    as_source.exits(5).says(&["the image is in use", "(sleep)", "--allow-live"]);
    with_leave.exits(1).says(&["the image is in use"]);
    rig.inject(&["--overwrite"]).exits(0);
}

#[test]
fn an_image_that_is_mounted_or_empty_is_no_source() {
    let tmp = common::scratch();
    let (empty, target) = (tmp.path().join("empty.img"), sparse_file(&tmp.path().join("target"), 16 * MIB));
    fs::write(&empty, "").unwrap();
    let inject =
        |source: &Path| lhrecover(&["inject", text(source), text(&target), "--mode=blocks", "--allow-file"]);
    inject(&empty).exits(3).says(&["the image is empty"]);
    if !available("an_image_that_is_mounted_or_empty_is_no_source") {
        return;
    }
    let image = sparse_file(&tmp.path().join("image"), 16 * MIB);
    run("mke2fs", &["-q", "-F", text(&image)]);
    let device = LoopDevice::over(&image);
    inject(&image).exits(0);
    let point = tmp.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let mounted = Mounted::at(&device.path, &point);
    for source in [&image, &device.path] {
        let overwrite = ["--overwrite"];
        let args = ["inject", text(source), text(&target), "--mode=blocks", "--allow-file"];
        lhrecover(&[&args[..], &overwrite].concat())
            .exits(5)
            .says(&["is mounted for writing at", text(&point)]);
    }
    drop(mounted);
}

#[test]
fn containers_and_plain_volumes_are_not_mixed_up() {
    let fixture = common::fixture("22-luks-encrypted");
    let (luks, _) = fixture.replica();
    let tmp = common::scratch();
    let target = sparse_file(&tmp.path().join("target.img"), 24 * MIB);
    let inject = |source: &Path, more: &[&str]| {
        let base = ["inject", text(source), text(&target), "--mode", "blocks", "--allow-file"];
        lhrecover(&[&base[..], more].concat())
    };
    // Onto an empty target a container may go.
    inject(&luks, &["--quiet"]).exits(0);
    let plain = Chain::of(24 * MIB, &[&[(0, 4, Mark::Data)]]).write_to(tmp.path());
    inject(&plain, &["--overwrite"]).exits(5).says(&[
        "LUKS container",
        "--allow-luks-mismatch",
        "cryptsetup open",
    ]);
    inject(&plain, &["--overwrite", "--allow-luks-mismatch", "--quiet"]).exits(0);
    run("mke2fs", &["-q", "-F", text(&target)]);
    inject(&luks, &["--overwrite"]).exits(5).says(&["--allow-luks-mismatch"]);
}

/// Numbers that look random, and are the same in every run.
fn scattered(count: u64) -> impl Iterator<Item = f64> {
    let scramble = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    (1..=count).map(move |n| scramble(n) as f64 / (1u64 << 53) as f64)
}

#[test]
fn killed_anywhere_it_goes_on() {
    if !available("killed_anywhere_it_goes_on") {
        return;
    }
    const OLD: u8 = 0x5a;
    let layers: &[&[(u64, u64, Mark)]] = &[&[(0, 7000, Mark::Data)], &[(3000, 500, Mark::Data)]];
    let rig = rig_of(&Chain::of(32 * MIB, layers));
    let device = LoopDevice::over(&rig.target);
    // Old data everywhere: all of it is read, and all of it is written.
    let spoil = || {
        let file = OpenOptions::new().write(true).open(&device.path).unwrap();
        file.write_all_at(&[OLD; 32 << 20], 0).unwrap();
        file.sync_all().unwrap();
    };
    let args = [&rig.args(&device.path)[..], &["--overwrite"]].concat();
    // Reading back is of no interest while it is killed.
    let unverified = [&args[..], &["--verify=false"]].concat();
    spoil();
    let began = Instant::now();
    lhrecover(&unverified).exits(0);
    let whole_run = began.elapsed();
    let mut in_the_middle = 0;
    for share in scattered(50) {
        spoil();
        let mut running = Lhrecover::new(&unverified).spawn();
        std::thread::sleep(whole_run.mul_f64(share));
        if !running.is_over() {
            running.signal(Signal::SIGKILL);
        }
        drop(running);
        let held = fs::read(&device.path).unwrap();
        let right = held.chunks(4096).zip(rig.bytes.chunks(4096)).filter(|(is, wanted)| is == wanted).count();
        in_the_middle += u32::from(right > 0 && held.chunks(4096).any(|sector| sector == [OLD; 4096]));
        lhrecover(&args).exits(0);
        assert!(fs::read(&device.path).unwrap() == rig.bytes, "killed after {share} of a run");
    }
    assert!(in_the_middle >= 3, "only {in_the_middle} of 50 kills hit the writing");
}

#[test]
fn a_device_that_fails_in_the_middle_is_an_error_with_its_place() {
    let test = "a_device_that_fails_in_the_middle_is_an_error_with_its_place";
    if !available(test) || !strace::available(test) {
        return;
    }
    let rig = rig_of(&Chain::of(64 * MIB, &[&[(0, 16384, Mark::Data)]]));
    for (calls, error, what) in [(strace::READS, "EIO", "cannot read"), ("pwrite64", "ENXIO", "cannot write")]
    {
        rig.write(0, &vec![1; 64 << 20]);
        let device = LoopDevice::over(&rig.target);
        // strace counts for each thread.
        let args = [&rig.args(&device.path)[..], &["--overwrite", "--threads", "1"]].concat();
        let injection = format!("{calls}:error={error}:when=20+");
        let failed = strace::tampered(&device.path, &[injection], &args).run().exits(4).json();
        let failed = &failed["error"];
        assert!(failed["message"].as_str().unwrap().contains(what), "{failed}");
        assert_eq!(failed["path"], text(&device.path), "{failed}");
        assert!(failed["offset_bytes"].as_u64().is_some(), "{failed}");
        assert!(failed["hint"].as_str().unwrap().contains("--overwrite"), "{failed}");
        rig.inject_into(&device.path, &["--overwrite"]).exits(0);
        drop(device);
        rig.target_is_right();
    }
}

#[test]
fn a_signal_ends_it_and_says_how_to_go_on() {
    let rig = rig_of(&Chain::of(256 * MIB, &[&[(0, 60000, Mark::Data)], &[(5, 5, Mark::Data)]]));
    let kept = rig.tmp.path().join("report.json");
    let mut running =
        Lhrecover::new(&[&rig.args(&rig.target)[..], &["--report", text(&kept)]].concat()).spawn();
    let target = rig.target.clone();
    running.wait_until("something was written", || fs::metadata(&target).unwrap().blocks() > 0);
    running.signal(Signal::SIGTERM);
    let ran = running.finish();
    if ran.status.code() != Some(0) {
        let ran = ran.exits(130);
        let hint = ran.json()["error"]["hint"].as_str().unwrap().to_owned();
        assert!(hint.contains("--overwrite"), "{hint}");
        let kept: Value = serde_json::from_slice(&fs::read(&kept).unwrap()).unwrap();
        assert_eq!((&kept["mode"], &kept["error"]["exit_code"]), (&"blocks".into(), &130.into()), "{kept}");
        assert_eq!(
            (&kept["before"], &kept["inside_before"]),
            (&"nothing but zeros where it was looked at".into(), &Value::Null)
        );
    }
    rig.inject(&["--overwrite"]).exits(0);
    rig.target_is_right();
}

#[test]
fn what_was_fresh_goes_on_without_its_zeros() {
    if !strace::available("what_was_fresh_goes_on_without_its_zeros") {
        return;
    }
    let rig = rig_of(&chain());
    let args = [&rig.args(&rig.target)[..], &["--zeros", "write", "--threads", "1"]].concat();
    let failed = strace::tampered(&rig.target, &["pwrite64:error=ENXIO:when=3+".to_owned()], &args).run();
    let hint = failed.exits(4).json()["error"]["hint"].as_str().unwrap().to_owned();
    assert!(hint.contains("--overwrite --zeros skip"), "{hint}");
    let report = rig.inject(&["--overwrite", "--zeros", "skip"]).exits(0).json();
    assert_eq!(written(&report).1, 0, "{report}");
    rig.target_is_right();
}

#[test]
fn what_is_not_read_is_no_measure() {
    let rig = rig_of(&Chain::of(1 << 30, &[&[(0, 300, Mark::Data)], &[(5, 5, Mark::Data)]]));
    rig.write(900 * MIB, b"data");
    let dry = rig.inject(&["--overwrite", "--dry-run", "--zeros", "write"]).exits(0).json();
    assert!(written(&dry).1 > 1000 * MIB, "{dry}");
    let seconds = dry["estimated_seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < 600.0, "{dry}");
}

#[test]
fn an_unreadable_source_ends_it() {
    let rig = rig_of(&chain());
    let layer = rig.dir.join("volume-snap-s000.img");
    if !strace::available("an_unreadable_source_ends_it") {
        return;
    }
    let injection = format!("{}:error=EIO:when=3+", strace::READS);
    // strace counts for each thread.
    let args = [&rig.args(&rig.target)[..], &["--threads", "1"]].concat();
    let ran = strace::tampered(&layer, &[injection], &args).run().exits(3);
    let error = ran.json();
    assert!(error["error"]["layer"].as_str().unwrap().contains("s000"), "{error}");
}

/// Sectors the kernel was asked to write to a loop device.
fn sectors_written(device: &Path) -> u64 {
    let name = device.file_name().unwrap().to_str().unwrap();
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    stat.split_whitespace().nth(6).unwrap().parse().unwrap()
}

#[test]
fn one_percent_that_differs_is_one_percent_written() {
    if !available("one_percent_that_differs_is_one_percent_written") {
        return;
    }
    let rig = rig_of(&Chain::of(64 * MIB, &[&[(0, 15000, Mark::Data)], &[(3000, 500, Mark::Data)]]));
    rig.inject(&[]).exits(0);
    // One sector in a hundred.
    for sector in (0..16384).step_by(100) {
        rig.write(sector * 4096, &[0xee; 4096]);
    }
    let device = LoopDevice::over(&rig.target);
    let before = sectors_written(&device.path);
    rig.inject_into(&device.path, &["--overwrite"]).exits(0);
    let written_bytes = (sectors_written(&device.path) - before) * 512;
    drop(device);
    rig.target_is_right();
    let differing_bytes = 16384u64.div_ceil(100) * 4096;
    assert!(written_bytes >= differing_bytes, "{written_bytes}");
    assert!(written_bytes * 100 <= 64 * MIB * 12 / 10, "{written_bytes} of {}", 64 * MIB);
}

#[test]
fn a_device_gets_the_volume_and_keeps_what_is_beyond_it() {
    if !available("a_device_gets_the_volume_and_keeps_what_is_beyond_it") {
        return;
    }
    let rig = rig_of(&chain());
    let backing = sparse_file(&rig.tmp.path().join("disk.img"), 20 * MIB);
    OpenOptions::new().write(true).open(&backing).unwrap().write_all_at(b"beyond", 18 * MIB).unwrap();
    let device = LoopDevice::over(&backing);
    let report = rig.inject_into(&device.path, &["--overwrite"]).exits(0).json();
    assert_eq!(report["surplus_bytes"], 4 * MIB);
    assert!(report["findings"].as_array().unwrap().iter().any(|f| f["code"] == "device-larger"), "{report}");
    assert_eq!(report["device"]["size_bytes"], 20 * MIB);
    drop(device);
    let held = fs::read(&backing).unwrap();
    assert!(held[..16 << 20] == rig.bytes && &held[18 << 20..(18 << 20) + 6] == b"beyond");
}

#[test]
fn a_device_in_use_is_refused() {
    if !available("a_device_in_use_is_refused") {
        return;
    }
    let rig = rig_of(&chain());
    run("mke2fs", &["-q", "-F", text(&rig.target)]);
    let device = LoopDevice::over(&rig.target);
    let point = rig.tmp.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let mounted = Mounted::at(&device.path, &point);
    let refused = rig.inject_into(&device.path, &["--overwrite"]).exits(5).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("mounted"), "{refused}");
    drop(mounted);
    // Through the file below the device, nobody would be told.
    let refused = rig.inject(&["--overwrite"]).exits(5).json();
    assert!(refused["error"]["message"].as_str().unwrap().contains("attached as /dev/loop"), "{refused}");
    rig.inject_into(&device.path, &["--overwrite"]).exits(0);
}

#[test]
fn real_volumes_end_in_the_device_bit_by_bit() {
    if !available("real_volumes_end_in_the_device_bit_by_bit") {
        return;
    }
    for (id, mkfs) in [("16-ext4-sqlite", "mkfs.ext4"), ("17-xfs-sqlite", "mkfs.xfs")] {
        let fixture = common::fixture(id);
        let (replica, case) = fixture.replica();
        let size = case["size"].as_u64().unwrap();
        let tmp = common::scratch();
        let inject = |device: &Path, more: &[&str]| {
            let base =
                ["inject", text(&replica), text(device), "--mode", "blocks", "--any-device", "--quiet"];
            lhrecover(&[&base[..], more].concat())
        };
        let digest = |device: &Path| run("sha256sum", &[device])[..64].to_owned();
        let backing = sparse_file(&tmp.path().join("disk.img"), size);
        let device = LoopDevice::over(&backing);
        let older = case["snapshots"][0]["name"].as_str().unwrap();
        inject(&device.path, &["--at", older]).exits(0);
        assert_eq!(digest(&device.path), case["snapshots"][0]["sha256"], "{id} at {older}");
        // An older state of the same data becomes the newer one.
        inject(&device.path, &["--overwrite"]).exits(0);
        assert_eq!(digest(&device.path), case["sha256"], "{id}");
        // So does a device with a file system on it that is new.
        run(mkfs, &[if mkfs == "mkfs.xfs" { "-qf" } else { "-qF" }, text(&device.path)]);
        inject(&device.path, &[]).exits(5);
        inject(&device.path, &["--overwrite"]).exits(0);
        assert_eq!(digest(&device.path), case["sha256"], "{id}");
        drop(device);

        let larger = sparse_file(&tmp.path().join("larger.img"), size + 64 * MIB);
        let device = LoopDevice::over(&larger);
        inject(&device.path, &[]).exits(0);
        assert_eq!(
            run("sh", &["-c", &format!("head -c {size} {} | sha256sum", text(&larger))])[..64],
            case["sha256"]
        );
        let point = tmp.path().join("mnt");
        fs::create_dir(&point).unwrap();
        let mounted = Mounted::at(&device.path, &point);
        let files = case["guest_files"]["head"]["files"].as_object().unwrap();
        assert!(!files.is_empty());
        for (path, expected) in files {
            let found = run("sha256sum", &[&point.join(path)]);
            assert_eq!(found[..64], expected["sha256"], "{id}: {path}");
        }
        drop(mounted);
    }
}
