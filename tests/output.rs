//! The output: it has its name only when it is whole, it never costs anything that was there, and it is what was
//! asked for.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use common::chain::{Chain, HEAD, Mark, SECTOR, image};
use common::cli::{Lhrecover, Ran, lhrecover};
use common::fingerprint::{Fingerprint, by_seek};
use common::loopdev::{self, LoopDevice, run, sparse_file};
use common::{scratch, strace, text};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const MIB: u64 = 1 << 20;

/// 4 MiB in three layers: data, zeros that hide data, zeros that hide nothing, and holes.
fn chain() -> Chain {
    Chain::of(
        4 * MIB,
        &[
            &[(0, 64, Mark::Data), (512, 256, Mark::Data)],
            &[(32, 16, Mark::Zeros), (300, 8, Mark::Zeros)],
            &[(40, 100, Mark::Data), (1020, 4, Mark::Data)],
        ],
    )
}

/// The ranges of [`chain`] that some layer serves, and of them those that are not all zeros.
const SERVED: [(u64, u64); 4] = [(0, 140), (300, 308), (512, 768), (1020, 1024)];
const NOT_ZERO: [(u64, u64); 4] = [(0, 32), (40, 140), (512, 768), (1020, 1024)];

/// A disk with the replica on it, and a place for outputs.
struct Rig {
    disk: tempfile::TempDir,
    dir: PathBuf,
    out: PathBuf,
    partial: PathBuf,
}

fn rig() -> Rig {
    rig_of(&chain())
}

fn rig_of(chain: &Chain) -> Rig {
    let disk = scratch();
    let dir = chain.write_to(disk.path());
    let out = disk.path().join("out.img");
    let partial = disk.path().join("out.img.partial");
    Rig { disk, dir, out, partial }
}

impl Rig {
    fn args<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["merge", text(&self.dir), text(&self.out)], more].concat()
    }

    /// Merges to the output file.
    fn merge(&self, more: &[&str]) -> Ran {
        lhrecover(&self.args(more))
    }

    /// Merges to another output.
    fn merge_to(&self, output: &Path, more: &[&str]) -> Ran {
        lhrecover(&[&["merge", text(&self.dir), text(output)], more].concat())
    }

    #[track_caller]
    fn assert_done(&self) {
        assert!(fs::read(&self.out).unwrap() == chain().reads(), "the bytes are wrong");
        assert!(!self.partial.exists());
    }
}

fn in_bytes(sectors: &[(u64, u64)]) -> Vec<(u64, u64)> {
    sectors.iter().map(|(start, end)| (start * SECTOR, end * SECTOR)).collect()
}

#[test]
fn until_it_is_finished_it_is_partial_and_nobody_elses() {
    if !strace::available("until_it_is_finished_it_is_partial_and_nobody_elses") {
        return;
    }
    let rig = rig();
    let args = rig.args(&["--clone", "never", "--threads", "1"]);
    let mut first = strace::slowed(&rig.partial, 500, &args).spawn();
    first.wait_until("the copy began", || fs::metadata(&rig.partial).is_ok_and(|m| m.len() == 4 * MIB));
    rig.merge(&[]).exits(5).says(&["another run is writing this output", "out.img.partial"]);
    rig.merge(&["--force"]).exits(5);
    assert!(!rig.out.exists() && rig.partial.exists());
    assert!(!first.is_over(), "the first run was to be slower than this");
    first.finish().exits(0);
    rig.assert_done();
}

#[test]
fn what_a_crash_left_is_replaced() {
    let rig = rig();
    fs::write(&rig.partial, vec![0xee; 5 << 20]).unwrap();
    rig.merge(&[]).exits(0);
    rig.assert_done();
}

#[test]
fn a_file_that_exists_is_kept_without_force() {
    let rig = rig();
    fs::write(&rig.out, "precious").unwrap();
    rig.merge(&[]).exits(5).says(&["the output exists already", "--force"]);
    assert_eq!(fs::read(&rig.out).unwrap(), b"precious");
    assert!(!rig.partial.exists());
    rig.merge(&["--force"]).exits(0);
    rig.assert_done();
}

#[test]
fn through_a_link_it_is_the_file_the_link_means() {
    let rig = rig();
    let real = rig.disk.path().join("elsewhere");
    fs::create_dir(&real).unwrap();
    let target = real.join("volume.img");
    fs::write(&target, "old").unwrap();
    symlink(&target, &rig.out).unwrap();
    rig.merge(&[]).exits(5);
    rig.merge(&["--force"]).exits(0);
    assert!(fs::read(&target).unwrap() == chain().reads());
    assert!(fs::symlink_metadata(&rig.out).unwrap().is_symlink());
}

#[test]
fn an_output_that_would_change_the_source_is_refused() {
    let rig = rig();
    let at = |name: &str| rig.disk.path().join(name);
    fs::create_dir(rig.dir.join("sub")).unwrap();
    symlink(&rig.dir, at("replica")).unwrap();
    symlink(rig.dir.join(HEAD), at("head")).unwrap();
    fs::hard_link(rig.dir.join(HEAD), at("twin")).unwrap();
    fs::hard_link(rig.dir.join(image("s000")), at("snapshot")).unwrap();
    let before = Fingerprint::of(&rig.dir);
    let beside = rig.dir.join("../pvc-1-0a1b2c3d/out.img");
    let outputs = [
        rig.dir.join("out.img"),
        rig.dir.join("sub/out.img"),
        rig.dir.join("volume.meta"),
        at("replica/out.img"),
        beside,
        at("head"),
        at("twin"),
        at("snapshot"),
    ];
    for output in &outputs {
        for more in [&[][..], &["--force"]] {
            rig.merge_to(output, more).exits(5);
            before.assert_unchanged(&rig.dir, text(output));
        }
    }
    let inside = Lhrecover::new(&["merge", ".", "out.img", "--force"]).in_dir(&rig.dir);
    inside.run().exits(5).says(&["inside the replica directory"]);
    before.assert_unchanged(&rig.dir, "an output beside the layers");
}

#[test]
fn a_manifest_that_would_change_the_source_is_refused() {
    let rig = rig();
    fs::create_dir(rig.dir.join("sub")).unwrap();
    let link = rig.disk.path().join("link.json");
    fs::write(rig.dir.join("sub/manifest.json"), "").unwrap();
    symlink(rig.dir.join("sub/manifest.json"), &link).unwrap();
    let before = Fingerprint::of(&rig.dir);
    for manifest in [rig.dir.join("m.json"), rig.dir.join("sub/m.json"), rig.dir.join("volume.meta"), link] {
        rig.merge(&["--force", "--manifest", text(&manifest)]).exits(5).says(&["a source is never written"]);
        before.assert_unchanged(&rig.dir, text(&manifest));
    }
    let relative = rig.args(&["--manifest", "m.json"]);
    Lhrecover::new(&relative).in_dir(&rig.dir).run().exits(5).says(&["inside the replica directory"]);
    before.assert_unchanged(&rig.dir, "a manifest beside the layers");
}

#[test]
fn a_manifest_and_an_image_of_one_name_are_refused() {
    let rig = rig();
    let (out, partial) = (text(&rig.out).to_owned(), text(&rig.partial).to_owned());
    let elsewhere = format!("{}/../{}", rig.out.parent().unwrap().display(), "x");
    let there = rig.out.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let by_another_way = format!("{}/../{there}/out.img", rig.out.parent().unwrap().display());
    for (output, manifest) in [
        (&out, &out),
        (&out, &partial),
        (&partial, &out),
        (&out, &by_another_way),
        (&by_another_way, &partial),
    ] {
        let ran = rig.merge_to(Path::new(output), &["--force", "--manifest", manifest]);
        ran.exits(2).says(&["the manifest and the image would have the same name"]);
        assert!(!rig.out.exists() && !rig.partial.exists(), "{output} {manifest}");
    }
    rig.merge(&["--manifest", "-"]).exits(2).says(&["--manifest ./-"]);
    rig.merge(&["--manifest", &elsewhere, "--force"]).exits(0);
    fs::remove_file(elsewhere).unwrap();
}

#[test]
fn an_output_that_cannot_be_a_file_is_refused_before_anything_is_copied() {
    let rig = rig();
    let beside = |name: &str| rig.out.with_file_name(name);
    nix::unistd::mkfifo(&beside("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (output, says) in [
        (beside("new/"), "without a slash at the end"),
        (beside("new/."), "without a slash at the end"),
        (beside("fifo"), "name - as the output"),
        (Path::new("/dev/null").to_path_buf(), "name - as the output"),
        (Path::new("/dev/stdout").to_path_buf(), "name - as the output"),
    ] {
        rig.merge_to(&output, &[]).exits(2).says(&[says]);
    }
    rig.merge_to(&beside(&"x".repeat(250)), &[]).exits(4).says(&["choose a shorter name"]);
}

#[test]
fn sparse_decides_which_zeros_are_holes() {
    let rig = rig();
    let whole = vec![(0, 4 * MIB)];
    let runs = [("auto", in_bytes(&SERVED)), ("always", in_bytes(&NOT_ZERO)), ("never", whole)];
    for (sparse, expected) in runs {
        rig.merge(&["--force", "--sparse", sparse]).exits(0);
        rig.assert_done();
        assert_eq!(by_seek(&rig.out), expected, "--sparse {sparse}");
    }
}

#[test]
fn digests_are_those_of_the_file() {
    let rig = rig();
    let bytes = chain().reads();
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let blake3 = blake3::hash(&bytes).to_hex().to_string();
    for (algorithm, value) in [("blake3", blake3), ("sha256", sha256)] {
        let report = rig.merge(&["--force", "--json", "--digest", algorithm]).exits(0).json();
        assert_eq!(report["digest"], json!({"algorithm": algorithm, "value": value}));
        let manifest = rig.disk.path().join("stream.json");
        let args = ["--digest", algorithm, "--manifest", text(&manifest), "--force"];
        rig.merge_to(Path::new("-"), &args).exits(0);
        assert_eq!(read_json(&manifest)["digest"]["value"], value);
    }
    assert_eq!(rig.merge(&["--force", "--json"]).exits(0).json()["digest"], Value::Null);
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn the_manifest_says_what_was_done() {
    let rig = rig();
    let manifest = rig.disk.path().join("out.json");
    let ran =
        rig.merge(&["--verify", "--digest", "blake3", "--json", "--manifest", text(&manifest)]).exits(0);
    let report = read_json(&manifest);
    assert_eq!(report, ran.json(), "the manifest is what --json prints");
    let data_bytes: u64 = SERVED.iter().map(|(start, end)| (end - start) * SECTOR).sum();
    for (key, value) in [
        ("schema_version", json!(1)),
        ("lhrecover_version", json!(env!("CARGO_PKG_VERSION"))),
        ("source", json!(text(&rig.dir))),
        ("view", json!("head")),
        ("top_layer", json!(HEAD)),
        ("output", json!(text(&rig.out))),
        ("volume_bytes", json!(4 * MIB)),
        ("data_bytes", json!(data_bytes)),
    ] {
        assert_eq!(report[key], value, "{key}");
    }
    let findings = report["findings"].as_array().unwrap();
    // Whether all processes, or unwritten extents, can be seen depends on where this runs.
    assert!(findings.iter().all(|finding| finding["severity"] == "info"), "{report}");
    let layers = report["chain"].as_array().unwrap();
    let column = |key: &str| layers.iter().map(|layer| layer[key].clone()).collect::<Vec<_>>();
    assert_eq!(column("file"), [image("s000"), image("s001"), HEAD.to_owned()]);
    assert_eq!(column("kind"), ["snapshot", "snapshot", "head"]);
    assert_eq!(column("size_bytes"), [4 * MIB; 3]);
    assert_eq!(column("served_bytes"), [(32 + 256) * SECTOR, (8 + 8) * SECTOR, 104 * SECTOR]);
    assert_eq!(column("data_bytes"), [320 * SECTOR, 24 * SECTOR, 104 * SECTOR]);
    assert_eq!(column("extents"), [2, 2, 2]);
    let moved = |key: &str| report[key].as_u64().unwrap();
    assert_eq!(moved("copied_bytes") + moved("cloned_bytes"), data_bytes);
    assert_eq!(report["verification"]["read_bytes"], data_bytes);
    assert_eq!(report["verification"]["differences"], json!([]));
    assert!(report["duration_seconds"].as_f64().unwrap() > 0.0);
    let snapshot = rig.merge(&["--force", "--json", "--at", "s001"]).exits(0).json();
    assert_eq!((&snapshot["view"], &snapshot["top_layer"]), (&json!("snapshot"), &json!(image("s001"))));
}

#[test]
fn no_manifest_remains_of_a_merge_that_failed() {
    let rig = rig();
    fs::write(&rig.out, "precious").unwrap();
    let manifest = rig.disk.path().join("out.json");
    rig.merge(&["--manifest", text(&manifest)]).exits(5);
    let mut left: Vec<_> = fs::read_dir(rig.disk.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["out.img", "replicas"]);
}

#[test]
fn verification_notices_a_medium_that_lies() {
    if !strace::available("verification_notices_a_medium_that_lies") {
        return;
    }
    let rig = rig();
    for lie in ["ff", "00"] {
        // What is read back gets another first byte; the data of this chain is neither.
        let inject = [format!("pread64:poke_exit=@arg2={lie}")];
        let args = rig.args(&["--verify", "--clone", "never"]);
        let ran = strace::tampered(&rig.partial, &inject, &args).run();
        ran.exits(1).says(&["differs from what was copied", "out.img"]);
        assert!(!rig.out.exists() && !rig.partial.exists());
    }
    let inject = ["pread64:error=EIO:when=3+".to_owned()];
    let ran = strace::tampered(&rig.partial, &inject, &rig.args(&["--verify", "--clone", "never"])).run();
    ran.exits(4).says(&["cannot read the output back"]);
    assert!(!rig.out.exists() && !rig.partial.exists());
    rig.merge(&["--verify"]).exits(0);
    rig.assert_done();
}

#[test]
fn a_stream_is_the_file_in_order() {
    let rig = rig();
    for threads in ["1", "7"] {
        let ran = rig.merge_to(Path::new("-"), &["--threads", threads]).exits(0).says(&["merged "]);
        assert!(ran.stdout == chain().reads());
    }
    let at = rig.merge_to(Path::new("-"), &["--at", "s000", "--quiet"]).exits(0);
    assert!(at.stdout == chain().reads_as(0, true));
    assert_eq!(at.stderr, "");
}

#[test]
fn a_stream_takes_no_json_and_no_verification() {
    let rig = rig();
    let json = rig.merge_to(Path::new("-"), &["--json"]).exits(2).says(&["--manifest FILE"]);
    // Nothing that a reader of the image could take for a part of it, but the error it asked for.
    assert_eq!(json.json()["error"]["kind"], "usage");
    let verify = rig.merge_to(Path::new("-"), &["--verify"]).exits(2).says(&["--digest blake3"]);
    assert!(verify.stdout.is_empty());
}

#[test]
fn an_error_is_an_object_too() {
    let rig = rig();
    fs::remove_file(rig.dir.join(format!("{}.meta", image("s000")))).unwrap();
    let ran = rig.merge(&["--json"]).exits(3);
    let report = ran.json();
    assert_eq!(report["schema_version"], 1);
    let error = &report["error"];
    assert_eq!(
        (&error["kind"], &error["exit_code"], &error["path"]),
        (&json!("source"), &json!(3), &json!(text(&rig.dir)))
    );
    for key in ["message", "hint"] {
        assert!(ran.stderr.contains(error[key].as_str().unwrap()), "{key}: {report}");
    }
}

/// A small file system in memory, for root; the fields are dropped in this order.
struct Tmpfs {
    mounted: loopdev::Mounted,
    _tmp: tempfile::TempDir,
}

fn tmpfs(size: &str) -> Tmpfs {
    let tmp = scratch();
    let point = tmp.path().join("mnt");
    fs::create_dir(&point).unwrap();
    let size = format!("size={size}");
    run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", text(&point)]);
    Tmpfs { mounted: loopdev::Mounted { point }, _tmp: tmp }
}

#[test]
fn room_is_asked_for_before_anything_is_copied() {
    if !nix::unistd::geteuid().is_root() {
        loopdev::skipped("room_is_asked_for_before_anything_is_copied", "not root, so no tmpfs of 1 MiB");
        return;
    }
    let small = tmpfs("1m");
    let out = small.mounted.point.join("out.img");
    let rig = rig();
    let needed: u64 = SERVED.iter().map(|(start, end)| (end - start) * SECTOR).sum();
    let says = [format!("{needed} bytes are needed"), format!("{} are short", needed - MIB)];
    rig.merge_to(&out, &[]).exits(4).says(&says.each_ref().map(String::as_str));
    assert_eq!(fs::read_dir(&small.mounted.point).unwrap().count(), 0);
    // Data counts, not the apparent size; but without holes the size is what it takes.
    let vast = Chain::of(64 << 30, &[&[(1 << 20, 8, Mark::Data)]]);
    let vast = rig_of(&vast);
    vast.merge_to(&out, &[]).exits(0);
    assert_eq!(fs::metadata(&out).unwrap().len(), 64 << 30);
    let short = format!("{} are short", (64u64 << 30) - (MIB - fs::metadata(&out).unwrap().blocks() * 512));
    vast.merge_to(&out, &["--force", "--sparse", "never"]).exits(4).says(&[&short]);
}

#[test]
fn a_device_reads_as_the_volume_whatever_it_held() {
    let test = "a_device_reads_as_the_volume_whatever_it_held";
    if !loopdev::available(test) {
        return;
    }
    let rig = rig();
    let backing = sparse_file(&rig.disk.path().join("disk.img"), 5 * MIB);
    fs::write(&backing, vec![0xee; 5 << 20]).unwrap();
    let device = LoopDevice::over(&backing);
    let before = Fingerprint::of(&rig.dir);
    rig.merge_to(&device.path, &[]).exits(5).says(&["--any-device"]);
    rig.merge_to(&device.path, &["--any-device"]).exits(5).says(&["carries data", "--overwrite"]);
    assert!(read_back(&device, 5).iter().all(|&b| b == 0xee), "a refusal has written something");
    let leave = ["--overwrite", "--any-device", "--verify", "--digest", "blake3", "--json"];
    let report = rig.merge_to(&device.path, &leave).exits(0).json();
    let image = read_back(&device, 5);
    assert!(image[..4 << 20] == chain().reads(), "the bytes are wrong");
    assert!(image[4 << 20..].iter().all(|&b| b == 0xee), "the rest of the device is not ours");
    assert_eq!(report["digest"]["value"], blake3::hash(&image[..4 << 20]).to_hex().to_string());
    assert!(common::cli::has_finding(&report, "device-larger"));
    before.assert_unchanged(&rig.dir, "a merge to a device");
}

#[test]
fn a_device_that_is_too_small_or_not_there_is_refused() {
    let test = "a_device_that_is_too_small_or_not_there_is_refused";
    let rig = rig();
    let gone = Path::new("/dev/lhrecover-no-such-device");
    rig.merge_to(gone, &["--any-device"]).exits(2).says(&["cannot find the device"]);
    assert!(!gone.exists(), "a name under /dev must not become a file");
    if !loopdev::available(test) {
        return;
    }
    let device = LoopDevice::over(&sparse_file(&rig.disk.path().join("disk.img"), 3 * MIB));
    let leave = ["--overwrite", "--any-device"];
    rig.merge_to(&device.path, &leave).exits(5).says(&["too small", "1048576 more"]);
}

/// The first `mebibytes` of a device, past the cache of whoever wrote it.
fn read_back(device: &LoopDevice, mebibytes: usize) -> Vec<u8> {
    let file = OpenOptions::new().read(true).open(&device.path).unwrap();
    let mut bytes = vec![0; mebibytes << 20];
    File::read_exact_at(&file, &mut bytes, 0).unwrap();
    bytes
}
