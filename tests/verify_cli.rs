//! `lhrecover verify`: what is right passes, what is wrong is named with its place, and what cannot be read is never
//! taken for zeros. No source is changed by any of it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::chain::{Chain, HEAD, Layer, Mark, edit, image};
use common::cli::{Ran, has_finding, lhrecover};
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::loopdev::{self, LoopDevice};
use common::strace::{self, READS};
use common::{Fixture, fixture, scratch, text};
use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use proptest::prelude::*;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

/// CRC-64 (ISO), bit by bit, as its definition has it.
fn crc64(bytes: &[u8]) -> u64 {
    let table: Vec<u64> = (0..256)
        .map(|byte| (0..8).fold(byte, |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0xd8 << 56 } else { 0 }))
        .collect();
    !bytes.iter().fold(!0, |crc, byte| table[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

/// When anything about the file last changed.
fn changed(path: &Path) -> Timestamp {
    let meta = fs::metadata(path).unwrap();
    Timestamp::new(meta.ctime(), meta.ctime_nsec().try_into().unwrap()).unwrap()
}

/// A time as Go prints it on a node so many hours east of Greenwich.
fn as_go_prints(at: Timestamp, hours: i8) -> String {
    let zone = TimeZone::fixed(Offset::constant(hours));
    at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S%.f %z TIME").to_string()
}

/// A replica on a disk, in which nothing is recorded yet.
struct Rig {
    disk: tempfile::TempDir,
    dir: PathBuf,
    out: PathBuf,
}

fn chain() -> Chain {
    Chain::of(
        4 * MIB,
        &[
            &[(0, 300, Mark::Data), (400, 20, Mark::Zeros)],
            &[(8, 8, Mark::Zeros), (500, 4, Mark::Data)],
            &[(10, 2, Mark::Data), (1000, 4, Mark::Data)],
        ],
    )
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
    fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Records this of a layer, as the engine would have at its present change time.
    fn record(&self, file: &str, crc64: u64) {
        self.record_at(file, crc64, &as_go_prints(changed(&self.path(file)), 0), false);
    }

    fn record_at(&self, file: &str, crc64: u64, change_time: &str, silently_corrupted: bool) {
        let record = json!({
            "method": "crc64", "checksum": format!("{crc64:016x}"), "change_time": change_time,
            "last_hashed_at": "2026-11-20T23:59:43Z", "silently_corrupted": silently_corrupted,
        });
        fs::write(self.path(&format!("{file}.checksum")), format!("{record}\n")).unwrap();
    }

    fn record_right(&self, file: &str) -> u64 {
        let right = crc64(&fs::read(self.path(file)).unwrap());
        self.record(file, right);
        right
    }

    fn verify(&self, more: &[&str]) -> Ran {
        verify(&self.dir, more)
    }

    fn merge(&self, more: &[&str]) {
        let args = ["merge", text(&self.dir), text(&self.out), "--force", "--quiet", "--no-sync"];
        lhrecover(&[&args[..], more].concat()).exits(0);
    }

    #[track_caller]
    fn golden(&self, name: &str, ran: &Ran) {
        assert_golden(&format!("verify/{name}"), self.disk.path(), ran);
    }
}

/// Verifies between two fingerprints of the replica.
#[track_caller]
fn verify(dir: &Path, more: &[&str]) -> Ran {
    let before = Fingerprint::of(dir);
    let ran = lhrecover(&[&["verify", text(dir), "--progress", "none"], more].concat());
    before.assert_unchanged(dir, &more.join(" "));
    ran
}

/// The verdict on a layer.
fn verdict<'a>(report: &'a Value, layer: &str) -> &'a str {
    let layers = report["checksums"].as_array().expect("checksums");
    let layer = layers.iter().find(|l| l["layer"] == layer).unwrap_or_else(|| panic!("{layer} is not in it"));
    layer["verdict"].as_str().unwrap()
}

fn flip(path: &Path, offset: u64, bit: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ bit], offset).unwrap();
}

#[test]
fn recorded_checksums_of_real_replicas() {
    for (id, code) in
        [("20-checksums", 0), ("20b-checksum-bitflip", 1), ("09b-purged", 1), ("24-rpc-clean", 0)]
    {
        let fixture = fixture(id);
        for (dir, _) in fixture.replicas() {
            let ran = verify(&dir, &[]);
            let golden = format!("verify/{id}");
            if !fixture.case["replicas"][1].is_object() {
                assert_golden(&golden, fixture.dir.path(), &ran);
            }
            let report = verify(&dir, &["--json"]).exits(code).json();
            let sums = report["checksums"].as_array().unwrap();
            assert_eq!(
                sums.iter().all(|sum| ["match", "absent"].contains(&sum["verdict"].as_str().unwrap())),
                code == 0
            );
            assert!(sums.iter().any(|sum| sum["verdict"] == "match"));
        }
    }
}

#[test]
fn every_other_replica_has_nothing_to_verify_and_that_is_said() {
    let ids = [
        "01-base-only",
        "06-deep-chain-249",
        "13a-rebuilding-broken-chain",
        "15c-volume-meta-truncated",
        "26-fresh-empty",
    ];
    common::several_at_a_time(ids.to_vec(), |id| {
        for (dir, _) in fixture(id).replicas() {
            let ran = verify(&dir, &["--json"]);
            assert!(has_finding(&ran.json(), "checksums-absent"), "{id}");
            // Nothing failed; but what was being rebuilt is not the volume.
            let rebuilding = has_finding(&ran.json(), "rebuilding");
            assert_eq!(ran.status.code(), Some(i32::from(rebuilding)), "{id}");
            let is_so =
                fs::read_to_string(dir.join("volume.meta")).is_ok_and(|m| m.contains("\"Rebuilding\":true"));
            assert_eq!(rebuilding, is_so, "{id}");
        }
    });
    let rig = rig();
    rig.golden("nothing-recorded", &rig.verify(&[]));
}

#[test]
fn a_layer_that_changed_behind_the_file_systems_back_is_corrupt() {
    let rig = rig();
    let (base, middle) = (image("s000"), image("s001"));
    rig.record_right(&middle);
    // As if the data had changed and the file had not: what is recorded is of other data.
    rig.record(&base, 0x0123_4567_89ab_cdef);
    let mut ran = rig.verify(&[]);
    ran.stderr = ran.stderr.replace(text(&rig.dir), "[REPLICA]");
    rig.golden("corrupt", &ran);
    let report = rig.verify(&["--json"]).exits(1).json();
    assert_eq!((verdict(&report, &base), verdict(&report, &middle)), ("corrupt", "match"));
    assert!(has_finding(&report, "checksum-mismatch"));
    // On a node in another zone it is the same moment, and a nanosecond later it is not.
    let at = changed(&rig.path(&base));
    for (change_time, expected) in [
        (as_go_prints(at, 9), "corrupt"),
        (as_go_prints(at, -4), "corrupt"),
        (as_go_prints(at.checked_add(jiff::Span::new().nanoseconds(1)).unwrap(), 0), "undecided"),
        (String::new(), "undecided"),
        ("yesterday".to_owned(), "undecided"),
    ] {
        rig.record_at(&base, 1, &change_time, false);
        assert_eq!(verdict(&rig.verify(&["--json"]).exits(1).json(), &base), expected, "{change_time}");
    }
}

#[test]
fn a_layer_that_the_engine_once_found_wrong_is_doubted_and_no_more() {
    let rig = rig();
    let base = image("s000");
    let right = rig.record_right(&base);
    rig.record_at(&base, right, &as_go_prints(changed(&rig.path(&base)), 0), true);
    let report = rig.verify(&["--json"]).exits(1).json();
    assert_eq!(verdict(&report, &base), "match");
    assert!(has_finding(&report, "checksum-doubted"));
    // Once the file was touched, that finding is about another file.
    rig.record_at(&base, right, "2020-01-01 00:00:00 +0000 UTC", true);
    rig.verify(&["--json"]).exits(0);
}

#[test]
fn one_flipped_bit_in_any_place_is_noticed() {
    let rig = rig();
    let base = image("s000");
    rig.record_right(&base);
    for offset in [0, 4095, 300 * 4096 - 1, 400 * 4096] {
        flip(&rig.path(&base), offset, 0x10);
        let report = rig.verify(&["--json", "--layer", "s000"]).exits(1).json();
        assert_eq!(verdict(&report, &base), "undecided", "{offset}");
        flip(&rig.path(&base), offset, 0x10);
        assert_eq!(verdict(&rig.verify(&["--json"]).exits(0).json(), &base), "match");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_sum_is_that_of_all_bytes_whatever_the_layer_looks_like(
        size in prop_oneof![Just(0u64), 1..400_000u64, (1..100u64).prop_map(|n| n * 4096)],
        writes in prop::collection::vec(
            (0..120u64, 1..20u64, prop_oneof![Just(Mark::Data), Just(Mark::Zeros), Just(Mark::Preallocated)]),
            0..8,
        ),
    ) {
        let mut chain = chain();
        chain.layers[0] = Layer::new(size, &writes);
        let rig = rig_of(&chain);
        let base = image("s000");
        rig.record_right(&base);
        let report = rig.verify(&["--json"]).json();
        prop_assert_eq!(verdict(&report, &base), "match");
    }
}

#[test]
fn holes_cost_nothing() {
    const SIZE: u64 = 8 << 40;
    let rig = rig();
    let base = image("s000");
    let file = OpenOptions::new().write(true).open(rig.path(&base)).unwrap();
    file.set_len(0).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(b"x", SIZE - 5).unwrap();
    // CRC-64/GO-ISO of 8 TiB of zeros but for one byte, put together by another implementation.
    let zeros = |power: u32| {
        (0..power).fold(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, &[0]), |sum, power| {
            crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc64GoIso, sum, sum, 1 << power)
        })
    };
    let combine = |a, b, len| crc_fast::checksum_combine(crc_fast::CrcAlgorithm::Crc64GoIso, a, b, len);
    // 8 TiB less 8 bytes are 2^42 + 2^41 + ... + 8 bytes.
    let mut sum = zeros(42);
    for power in (3..42).rev() {
        sum = combine(sum, zeros(power), 1 << power);
    }
    let end = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, b"\0\0\0x\0\0\0\0");
    rig.record(&base, combine(sum, end, 8));
    let report = rig.verify(&["--json"]).exits(0).json();
    assert_eq!(verdict(&report, &base), "match");
}

#[test]
fn what_cannot_be_read_is_told_with_its_offset_and_the_rest_is_verified() {
    if !strace::available("what_cannot_be_read_is_told_with_its_offset_and_the_rest_is_verified") {
        return;
    }
    let rig = rig();
    let (base, middle) = (image("s000"), image("s001"));
    rig.record_right(&base);
    rig.record_right(&middle);
    let before = Fingerprint::of(&rig.dir);
    for (fault, cause) in
        [("error=EIO:when=2+", "Input/output error"), ("retval=0:when=2+", "became shorter")]
    {
        let args = ["verify", text(&rig.dir), "--progress", "none", "--json", "--threads", "1"];
        let injection = format!("{READS}:{fault}");
        let ran = strace::tampered(&rig.path(&base), &[injection], &args).run().exits(1);
        let report = ran.json();
        assert_eq!((verdict(&report, &base), verdict(&report, &middle)), ("unreadable", "match"));
        let what = report["findings"][0]["what"].as_str().unwrap().to_owned();
        assert!(what.contains(cause) && what.contains(&format!("layer {base}, offset 262144")), "{what}");
    }
    before.assert_unchanged(&rig.dir, "read errors");
}

#[test]
fn a_recorded_checksum_that_is_nonsense_is_told_and_read_no_further() {
    type Break = (&'static str, fn(&Path));
    let breaks: &[Break] = &[
        ("empty", |path| fs::write(path, "").unwrap()),
        ("NUL", |path| fs::write(path, [0; 170]).unwrap()),
        ("cut off", |path| fs::write(path, "{\"method\":\"crc64\",\"check").unwrap()),
        ("another method", |path| {
            fs::write(path, r#"{"method":"md5","checksum":"0123456789abcdef"}"#).unwrap()
        }),
        ("no sum", |path| fs::write(path, r#"{"method":"crc64","checksum":""}"#).unwrap()),
        ("a sign", |path| fs::write(path, r#"{"method":"crc64","checksum":"+123456789abcdef"}"#).unwrap()),
        ("deep", |path| fs::write(path, "[".repeat(4000)).unwrap()),
        ("huge", |path| File::create(path).unwrap().set_len(1 << 40).unwrap()),
        ("a link", |path| symlink("/etc/hostname", path).unwrap()),
        ("a directory", |path| fs::create_dir(path).unwrap()),
        ("a pipe", |path| {
            nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap()
        }),
    ];
    for (name, inflict) in breaks {
        let rig = rig();
        rig.record_right(&image("s001"));
        inflict(&rig.path(&format!("{}.checksum", image("s000"))));
        let report = rig.verify(&["--json"]).exits(1).json();
        assert_eq!(verdict(&report, &image("s000")), "unusable", "{name}");
        assert_eq!(verdict(&report, &image("s001")), "match", "{name}");
        assert!(has_finding(&report, "checksum-unusable"), "{name}");
    }
}

#[test]
fn a_layer_whose_file_is_gone_cannot_match() {
    let rig = rig();
    rig.record_right(&image("s000"));
    fs::remove_file(rig.path(&image("s000"))).unwrap();
    let report = rig.verify(&["--json"]).exits(1).json();
    assert_eq!(verdict(&report, &image("s000")), "unreadable");
    // A purge leaves its checksum to the last; nothing is lost with it.
    fs::remove_file(rig.path(&format!("{}.meta", image("s000")))).unwrap();
    rig.verify(&["--json"]).exits(0);
}

#[test]
fn the_image_is_the_view_or_is_told_not_to_be() {
    let rig = rig();
    rig.merge(&[]);
    rig.golden("image-same", &rig.verify(&[text(&rig.out)]));
    // Data of the base, data of the head, zeros that were written, and what no layer has.
    for (sector, layer) in [
        (0, Some(image("s000"))),
        (1001, Some(HEAD.to_owned())),
        (9, Some(image("s001"))),
        (400, Some(image("s000"))),
        (700, None),
    ] {
        let offset = sector * 4096 + 17;
        flip(&rig.out, offset, 1);
        let report = rig.verify(&[text(&rig.out), "--json"]).exits(1).json();
        let found = &report["image"];
        assert_eq!((&found["same"], &found["differing_bytes"]), (&json!(false), &json!(4096)));
        let difference = json!({
            "start_bytes": sector * 4096, "end_bytes": (sector + 1) * 4096, "first_offset_bytes": offset, "layer": layer,
        });
        assert_eq!(found["differences"], json!([difference]));
        assert!(has_finding(&report, "image-differs"));
        flip(&rig.out, offset, 1);
    }
    flip(&rig.out, 4096, 1);
    flip(&rig.out, 700 * 4096, 1);
    rig.golden("image-differs", &rig.verify(&[text(&rig.out)]));
}

#[test]
fn the_image_of_a_snapshot_is_that_of_no_other_state() {
    let rig = rig();
    rig.merge(&["--at", "s001"]);
    rig.verify(&[text(&rig.out), "--at", "s001"]).exits(0);
    let report = rig.verify(&[text(&rig.out), "--json"]).exits(1).json();
    let layers: Vec<_> =
        report["image"]["differences"].as_array().unwrap().iter().map(|d| d["layer"].clone()).collect();
    assert_eq!(layers, [json!(HEAD), json!(HEAD)]);
}

#[test]
fn an_image_of_another_length() {
    let rig = rig();
    rig.merge(&[]);
    let file = OpenOptions::new().write(true).open(&rig.out).unwrap();
    for (length, compared) in [(4 * MIB + 512, 4 * MIB), (4 * MIB - 512, 4 * MIB - 4096), (0, 0)] {
        file.set_len(length).unwrap();
        let report = rig.verify(&[text(&rig.out), "--json"]).exits(1).json();
        assert_eq!(
            (&report["image"]["same"], &report["image"]["compared_bytes"]),
            (&json!(false), &json!(compared))
        );
        assert_eq!(report["image"]["differing_bytes"], 0);
        assert!(has_finding(&report, "image-differs"));
    }
}

#[test]
fn an_image_that_is_all_different_names_the_first_places_and_counts_all() {
    let every_other: Vec<_> = (0..512).map(|i| (2 * i, 1, Mark::Data)).collect();
    let chain = Chain::of(4 * MIB, &[&[], &every_other]);
    let rig = rig_of(&chain);
    rig.merge(&[]);
    fs::write(&rig.out, vec![0xff; 4 << 20]).unwrap();
    let report = rig.verify(&[text(&rig.out), "--json"]).exits(1).json();
    assert_eq!(report["image"]["differing_bytes"], 4 * MIB);
    let starts: Vec<_> = report["image"]["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["start_bytes"].as_u64().unwrap())
        .collect();
    assert_eq!(starts, (0..8).map(|i| i * 4096).collect::<Vec<_>>());
}

#[test]
fn images_of_real_replicas() {
    let ids = [
        "03-explicit-zeros",
        "07-expansion",
        "10-512-unaligned",
        "12b-qcow2-compressed-backing",
        "18-fragmented",
    ];
    common::several_at_a_time(ids.to_vec(), |id| {
        let fixture: Fixture = fixture(id);
        let (dir, _) = fixture.replica();
        let out = fixture.dir.path().join("out.img");
        let more: Vec<_> = fixture
            .backing()
            .map(|b| vec!["--backing-file".to_owned(), text(&b).to_owned()])
            .unwrap_or_default();
        let more: Vec<_> = more.iter().map(String::as_str).collect();
        lhrecover(&[&["merge", text(&dir), text(&out), "--quiet", "--no-sync"], &more[..]].concat());
        let report = verify(&dir, &[&[text(&out), "--json"], &more[..]].concat()).json();
        assert_eq!(report["image"]["same"], true, "{id}");
        assert_eq!(report["image"]["compared_bytes"], report["image"]["volume_bytes"], "{id}");
    });
}

#[test]
fn a_device_may_be_longer() {
    if !loopdev::available("a_device_may_be_longer") {
        return;
    }
    let rig = rig();
    rig.merge(&[]);
    let device = LoopDevice::over(&rig.out);
    rig.verify(&[text(&device.path)]).exits(0);
    drop(device);
    OpenOptions::new().write(true).open(&rig.out).unwrap().set_len(5 * MIB).unwrap();
    let device = LoopDevice::over(&rig.out);
    let report = rig.verify(&[text(&device.path), "--json"]).exits(0).json();
    assert!(has_finding(&report, "device-larger"));
    assert_eq!((&report["image"]["same"], &report["image"]["is_device"]), (&json!(true), &json!(true)));
    drop(device);
    flip(&rig.out, 4 * MIB - 1, 1);
    let device = LoopDevice::over(&rig.out);
    rig.verify(&[text(&device.path)]).exits(1);
}

#[test]
fn what_is_no_image() {
    let rig = rig();
    let pipe = rig.disk.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    for (path, code) in [
        (rig.disk.path().join("nothing"), 2),
        (rig.disk.path().to_path_buf(), 2),
        (pipe, 2),
        (PathBuf::from("/dev/null"), 2),
        (rig.path(HEAD), 5),
        (rig.path(&image("s000")), 5),
        (rig.path("volume.meta"), 5),
    ] {
        let ran = rig.verify(&[text(&path)]).exits(code);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
    }
    let other_name = rig.disk.path().join("head-by-another-name");
    fs::hard_link(rig.path(HEAD), &other_name).unwrap();
    rig.verify(&[text(&other_name)]).exits(5);
}

#[test]
fn an_image_or_a_layer_that_cannot_be_read_ends_the_comparison() {
    if !strace::available("an_image_or_a_layer_that_cannot_be_read_ends_the_comparison") {
        return;
    }
    let rig = rig();
    rig.merge(&[]);
    let args = ["verify", text(&rig.dir), text(&rig.out), "--progress", "none", "--threads", "1"];
    let injection = format!("{READS}:error=EIO:when=3+");
    let image_failed = strace::tampered(&rig.out, std::slice::from_ref(&injection), &args).run();
    image_failed.exits(4).says(&["cannot read the image", "offset", "hint: "]);
    let layer = rig.path(&image("s000"));
    let layer_failed = strace::tampered(&layer, &[injection], &args).run();
    layer_failed.exits(3).says(&["cannot read the layer", "layer volume-snap-s000.img, offset", "hint: "]);
}

#[test]
fn a_head_in_use_is_not_compared() {
    let rig = rig();
    rig.merge(&[]);
    let writer = OpenOptions::new().write(true).open(rig.path(HEAD)).unwrap();
    rig.verify(&[text(&rig.out)]).exits(5).says(&["in use"]);
    rig.verify(&[text(&rig.out), "--allow-live"]).exits(2).says(&["it changes meanwhile"]);
    let kept = scratch();
    rig.verify(&["--checksums-write", text(kept.path())]).exits(5).says(&["--layer"]);
    assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 0);
    // Snapshots do not change, whoever has the head.
    rig.record_right(&image("s000"));
    rig.verify(&[]).exits(0);
    rig.verify(&["--checksums-write", text(kept.path()), "--layer", "s000"]).exits(0);
    drop(writer);
}

/// The case with the flipped bit, and a second copy of it in which the bit is as it was.
fn flipped() -> (Fixture, Fixture, String) {
    let (bad, good) = (fixture("20b-checksum-bitflip"), fixture("20b-checksum-bitflip"));
    let layer = "volume-snap-snapshot-e32125bf-23c4-4b68-a4ce-fbfcbd92d189.img".to_owned();
    let path = good.replica().0.join(&layer);
    let recorded: Value =
        serde_json::from_slice(&fs::read(path.with_extension("img.checksum")).unwrap()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let bit = (0..8).map(|bit| 1 << bit).find(|bit| {
        bytes[83154] ^= bit;
        let found = format!("{:016x}", crc64(&bytes)) == recorded["checksum"].as_str().unwrap();
        bytes[83154] ^= bit;
        found
    });
    flip(&path, 83154, bit.expect("a bit that makes the checksum right"));
    (bad, good, layer)
}

#[test]
fn a_sibling_names_the_offset_of_a_flipped_bit_and_who_is_right() {
    let (bad, good, layer) = flipped();
    let (bad_dir, good_dir) = (bad.replica().0, good.replica().0);
    let before = Fingerprint::of(&good_dir);
    let report = verify(&bad_dir, &["--sibling", text(&good_dir), "--json"]).exits(1).json();
    let layers = report["sibling"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    for found in layers {
        assert_eq!(found["same"], found["layer"] != layer.as_str());
    }
    let found = layers.iter().find(|found| found["layer"] == layer.as_str()).unwrap();
    let place = json!({
        "start_bytes": 81920, "end_bytes": 86016, "first_offset_bytes": 83154, "here": "data", "there": "data",
    });
    assert_eq!(found["differences"], json!([place]));
    assert_eq!((&found["verdict"], &found["sibling_verdict"]), (&json!("undecided"), &json!("match")));
    let mut ran = verify(&bad_dir, &["--sibling", text(&good_dir)]);
    ran.stderr = ran.stderr.replace(text(good.dir.path()), "[SIBLING]");
    assert_golden("verify/sibling-bitflip", bad.dir.path(), &ran);
    let ran = verify(&good_dir, &["--sibling", text(&bad_dir)]).exits(1);
    ran.says(&["this side is right"]);
    before.assert_unchanged(&good_dir, "being the sibling");
}

#[test]
fn a_copy_that_lost_zeros_or_holes_is_not_the_same() {
    let rig = rig();
    rig.record_right(&image("s000"));
    rig.record_right(&image("s001"));
    let copies = rig.disk.path().join("copies");
    fs::create_dir(&copies).unwrap();
    for (how, here, there) in [("--sparse=always", "data", "hole"), ("--sparse=never", "hole", "data")] {
        let copy = copies.join(how.trim_start_matches("--sparse="));
        let cp = Command::new("cp").args(["-a", how, text(&rig.dir), text(&copy)]).status().unwrap();
        assert!(cp.success());
        // The checksums do not see it.
        lhrecover(&["verify", text(&copy)]).exits(0);
        let report = rig.verify(&["--sibling", text(&copy), "--json"]).exits(1).json();
        for layer in report["sibling"]["layers"].as_array().unwrap() {
            assert_eq!(layer["same"], false);
            assert!(
                layer["differences"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|d| d["here"] == here && d["there"] == there)
            );
        }
        rig.verify(&["--sibling", text(&copy)]).says(&["cannot tell holes from zeros"]);
    }
}

#[test]
fn siblings_of_other_shapes() {
    let (rig, other) = (rig(), rig());
    rig.golden("sibling-same", &rig.verify(&["--sibling", text(&other.dir), "--quiet"]));
    let report = rig.verify(&["--sibling", text(&other.dir), "--json"]).exits(0).json();
    assert_eq!(report["sibling"]["layers"].as_array().unwrap().len(), 2);
    // Another length, a snapshot that only one has, and only one layer asked for.
    OpenOptions::new().write(true).open(other.path(&image("s000"))).unwrap().set_len(MIB).unwrap();
    rig.verify(&["--sibling", text(&other.dir)]).exits(1).says(&["has 4194304 bytes, and 1048576 in"]);
    rig.verify(&["--sibling", text(&other.dir), "--layer", "s001"]).exits(0);
    for ending in ["", ".meta"] {
        fs::remove_file(other.path(&format!("{}{ending}", image("s000")))).unwrap();
    }
    let report = rig.verify(&["--sibling", text(&other.dir), "--json"]).exits(0).json();
    assert_eq!(report["sibling"]["only_here"], json!([image("s000")]));
    fs::remove_file(other.path(&image("s001"))).unwrap();
    let report = rig.verify(&["--sibling", text(&other.dir), "--json"]).exits(1).json();
    assert!(has_finding(&report, "nothing-in-common"));
    rig.verify(&["--sibling", text(&rig.dir)]).exits(2).says(&["the replica itself"]);
    rig.verify(&["--sibling", "/no-such-directory"]).exits(3);
}

#[test]
fn a_removed_snapshot_may_differ_and_it_is_said() {
    let (rig, other) = (rig(), rig());
    edit(&other.path(&format!("{}.meta", image("s001"))), &[("Removed", json!(true))]);
    flip(&other.path(&image("s001")), 500 * 4096, 1);
    rig.verify(&["--sibling", text(&other.dir)])
        .exits(1)
        .says(&["marked as removed", "sooner than on another"]);
}

#[test]
fn a_sibling_that_cannot_be_read_is_a_finding() {
    if !strace::available("a_sibling_that_cannot_be_read_is_a_finding") {
        return;
    }
    let (rig, other) = (rig(), rig());
    let args = ["verify", text(&rig.dir), "--sibling", text(&other.dir), "--json", "--progress", "none"];
    let injection = format!("{READS}:error=EIO:when=1+");
    let ran = strace::tampered(&other.path(&image("s000")), &[injection], &args).run().exits(1);
    let report = ran.json();
    let layers = report["sibling"]["layers"].as_array().unwrap();
    assert_eq!((&layers[0]["same"], &layers[1]["same"]), (&json!(false), &json!(true)));
    assert!(layers[0]["error"].as_str().unwrap().contains("offset 0"));
    assert!(has_finding(&report, "unreadable"));
}

#[test]
fn a_signal_ends_it_and_leaves_nothing() {
    if !strace::available("a_signal_ends_it_and_leaves_nothing") {
        return;
    }
    let rig = rig();
    rig.merge(&[]);
    let kept = scratch();
    let runs: [&[&str]; 3] =
        [&[], &[text(&rig.out)], &["--checksums-write", text(kept.path()), "--layer", "s000"]];
    rig.record_right(&image("s000"));
    for more in runs {
        let marker = rig.path(&image("s000"));
        let args = [&["verify", text(&rig.dir), "--threads", "1", "--progress", "none"], more].concat();
        let mut slow = strace::tampered(&marker, &[format!("{READS}:delay_enter=400000")], &args).spawn();
        std::thread::sleep(std::time::Duration::from_millis(300));
        slow.signal(nix::sys::signal::Signal::SIGINT);
        slow.finish().exits(130);
        assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 0, "{more:?}");
    }
}

/// The only file in a directory.
fn only_file(dir: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

#[test]
fn digests_are_recorded_elsewhere_and_compared_later() {
    let rig = rig();
    let kept = scratch();
    let write = ["--checksums-write", text(kept.path())];
    let mut ran = rig.verify(&write);
    ran.stdout = ran.text().replace(text(kept.path()), "[KEPT]").into_bytes();
    rig.golden("digests-written", &ran);
    let file = only_file(kept.path());
    assert_eq!(file.file_name().unwrap(), "pvc-1-0a1b2c3d.lhrecover-sums.json");
    let recorded: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(recorded["layers"].as_array().unwrap().len(), 3);
    rig.verify(&write).exits(5).says(&["--force"]);
    rig.verify(&[&write[..], &["--force"]].concat()).exits(0);
    // However the directory is named.
    lhrecover(&["verify", text(&rig.dir.join(".")), "--checksums-write", text(kept.path()), "--force"])
        .exits(0);
    assert_eq!(only_file(kept.path()), file);

    let check = ["--checksums-check", text(&file)];
    rig.verify(&check).exits(0);
    let zeros = rig.path(&image("s000"));
    punch(&zeros, 400 * 4096, 4096);
    let report = rig.verify(&[&check[..], &["--json"]].concat()).exits(1).json();
    assert!(has_finding(&report, "layer-changed"));
    let same: Vec<_> =
        report["digests"]["layers"].as_array().unwrap().iter().map(|l| l["same"].clone()).collect();
    assert_eq!(same, [json!(true), json!(false), json!(true)]);
    rig.verify(&[&check[..], &["--layer", "s001"]].concat()).exits(0);
    fs::remove_file(rig.path(&image("s001"))).unwrap();
    fs::write(rig.path(&image("new")), "").unwrap();
    let mut ran = rig.verify(&check);
    ran.stdout = ran.text().replace(text(kept.path()), "[KEPT]").into_bytes();
    rig.golden("digests-changed", &ran);
}

fn punch(path: &Path, offset: i64, len: i64) {
    use nix::fcntl::{FallocateFlags, fallocate};
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(OpenOptions::new().write(true).open(path).unwrap(), flags, offset, len).unwrap();
}

#[test]
fn digests_are_never_recorded_in_the_source() {
    let rig = rig();
    let inside = rig.dir.join("sums");
    let link = rig.disk.path().join("link");
    symlink(&rig.dir, &link).unwrap();
    for dir in [&rig.dir, &link] {
        rig.verify(&["--checksums-write", text(dir)]).exits(5).says(&["a source is never written"]);
    }
    rig.verify(&["--checksums-write", text(&inside)]).exits(4);
    rig.verify(&["--checksums-write", text(&rig.disk.path().join("no-such"))]).exits(4);
}

#[test]
fn what_are_no_recorded_digests() {
    let rig = rig();
    let file = rig.disk.path().join("sums.json");
    let pipe = rig.disk.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    for bytes in ["", "{}", "[1]", r#"{"schema_version":1,"layers":[{"file":"x","blake3":"y"}]}"#, "\0\0\0"] {
        fs::write(&file, bytes).unwrap();
        rig.verify(&["--checksums-check", text(&file)]).exits(2).says(&["hint: "]);
    }
    File::create(&file).unwrap().set_len(1 << 40).unwrap();
    for path in [&file, &pipe, &rig.dir, &rig.disk.path().join("nothing")] {
        rig.verify(&["--checksums-check", text(path)]).exits(2);
    }
}

#[test]
fn bad_usage() {
    let rig = rig();
    rig.record_right(&image("s000"));
    rig.record_right(&image("s001"));
    let dir = text(rig.disk.path());
    let runs: &[&[&str]] = &[
        &["--at", "s000"],
        &["--head", HEAD],
        &["--accept-copy-damage"],
        &["--allow-rebuilding"],
        &["--unwritten", "hole"],
        &["--layer", "nothing"],
        &["--layer", "s00"],
        &["--threads", "0"],
        &["image", "--sibling", dir],
        &["image", "--layer", "s000"],
        &["image", "--checksums-write", dir],
        &["--sibling", dir, "--checksums-check", dir],
        &["--checksums-write", dir, "--checksums-check", dir],
    ];
    for args in runs {
        rig.verify(args).exits(2);
    }
    let report = rig.verify(&["--layer", "s000", "--layer", &image("s000"), "--json"]).exits(0).json();
    assert_eq!(report["checksums"].as_array().unwrap().len(), 1);
    lhrecover(&["verify", "/no-such-directory"]).exits(3);
}

#[test]
fn quiet_says_nothing_but_warnings() {
    let rig = rig();
    rig.record_right(&image("s000"));
    let ran = lhrecover(&["verify", text(&rig.dir), "--quiet"]).exits(0);
    assert_eq!((ran.text(), ran.stderr.as_str()), ("", ""));
    flip(&rig.path(&image("s000")), 0, 1);
    let ran = lhrecover(&["verify", text(&rig.dir), "--quiet"]).exits(1).says(&["[checksum-stale]"]);
    assert_eq!(ran.text(), "");
}
