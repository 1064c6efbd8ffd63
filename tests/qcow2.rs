//! qcow2 backing images as QEMU writes them: the bytes QEMU reads, and the extents it tells.

// Clippy's leave for tests does not reach their helper functions.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::text;
use lhrecover::view::LayerImage;
use lhrecover::view::backing::open_backing;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// No whole number of clusters of any size but 512 bytes.
const SIZE_BYTES: usize = (5 << 20) + 512;

/// Whether QEMU's tools are here; says so when they are not.
fn have_qemu(test: &str) -> bool {
    let have =
        ["qemu-img", "qemu-io"].iter().all(|tool| Command::new(tool).arg("--version").output().is_ok());
    if !have {
        eprintln!("{test}: skipped, since qemu-img and qemu-io are not installed (package qemu-utils)");
    }
    have
}

fn run(tool: &str, args: &[&str]) -> String {
    let output = Command::new(tool).args(args).output().expect(tool);
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn open(path: &Path) -> Box<dyn LayerImage> {
    open_backing("backing".into(), File::open(path).unwrap()).unwrap()
}

fn refusal(path: &Path) -> String {
    open_backing("backing".into(), File::open(path).unwrap()).err().expect("a refusal").to_string()
}

/// The image read from beginning to end in pieces of `piece` bytes.
fn read_all(image: &dyn LayerImage, piece: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; usize::try_from(image.size_bytes()).unwrap()];
    for (i, buf) in bytes.chunks_mut(piece).enumerate() {
        image.read_exact_at(buf, (i * piece) as u64).unwrap();
    }
    bytes
}

/// The image's extents, merged where batches cut them.
fn extents(image: &dyn LayerImage) -> Vec<(u64, u64)> {
    let mut walk = image.extents().unwrap();
    let (mut all, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        from = walk.next_extents(at, &mut all).unwrap();
    }
    merged(all.iter().map(|e| (e.range.start_bytes, e.range.end_bytes)))
}

/// Starts and ends, joined where they touch.
fn merged(ranges: impl Iterator<Item = (u64, u64)>) -> Vec<(u64, u64)> {
    ranges.fold(Vec::new(), |mut all: Vec<(u64, u64)>, next| {
        match all.last_mut() {
            Some(last) if last.1 == next.0 => last.1 = next.1,
            _ => all.push(next),
        }
        all
    })
}

/// What QEMU says has data.
fn qemu_extents(image: &Path) -> Vec<(u64, u64)> {
    let map = run("qemu-img", &["map", "--output=json", text(image)]);
    let map: serde_json::Value = serde_json::from_str(&map).unwrap();
    let data = map.as_array().unwrap().iter().filter(|e| e["data"] == true);
    merged(data.map(|e| {
        let (start, length) = (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap());
        (start, start + length)
    }))
}

/// Noise, text, zeros and holes in stretches of many lengths; the same every time.
fn content() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::new();
    while bytes.len() < SIZE_BYTES {
        let len = usize::try_from(1 << (next() % 18)).unwrap() + usize::try_from(next() % 700).unwrap();
        match next() % 3 {
            0 => bytes.extend((0..len).map(|_| next().to_be_bytes()[0])),
            1 => bytes.extend(b"the quick brown fox ".iter().cycle().take(len)),
            _ => bytes.resize(bytes.len() + len, 0),
        }
    }
    bytes.truncate(SIZE_BYTES);
    bytes
}

/// An image of [`content`], converted with some options.
fn image(dir: &Path, options: &str, compress: bool) -> PathBuf {
    let (raw, image) = (dir.join("raw"), dir.join("backing"));
    fs::write(&raw, content()).unwrap();
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-S", "512", "-o", options];
    args.extend(compress.then_some("-c"));
    args.extend([text(&raw), text(&image)]);
    run("qemu-img", &args);
    image
}

/// Compares everything with what QEMU reads of the same image.
fn assert_as_qemu(path: &Path, what: &str) {
    let flat = path.with_extension("flat");
    run("qemu-img", &["convert", "-O", "raw", text(path), text(&flat)]);
    let truth = fs::read(&flat).unwrap();
    let image = open(path);
    for piece in [777, 4096, 64 << 10, 1 << 20, truth.len()] {
        assert!(read_all(&*image, piece) == truth, "{what}: bytes differ when read {piece} at a time");
    }
    let told = extents(&*image);
    assert_eq!(told, qemu_extents(path), "{what}: extents");
    let holes = told.iter().map(|e| e.0).chain([truth.len() as u64]);
    let ends = [0].into_iter().chain(told.iter().map(|e| e.1));
    for (from, to) in ends.zip(holes) {
        let hole = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
        assert!(truth[hole].iter().all(|&b| b == 0), "{what}: data in the hole {from}..{to}");
    }
}

#[test]
fn every_version_cluster_size_and_compression() {
    if !have_qemu("every_version_cluster_size_and_compression") {
        return;
    }
    let dir = common::scratch();
    for cluster_bytes in [512, 4096, 64 << 10, 2 << 20] {
        let variants = [
            ("compat=0.10", false),
            ("compat=0.10", true),
            ("compat=1.1", false),
            ("compat=1.1", true),
            ("compat=1.1,compression_type=zstd", true),
            ("compat=1.1,lazy_refcounts=on,preallocation=metadata", false),
            ("compat=1.1,extended_l2=on", false),
            ("compat=1.1,extended_l2=on,compression_type=zstd", true),
        ];
        for (options, compress) in variants {
            if options.contains("extended_l2") && cluster_bytes < 16 << 10 {
                continue;
            }
            let options = format!("{options},cluster_size={cluster_bytes}");
            let image = image(dir.path(), &options, compress);
            assert_as_qemu(&image, &format!("{options}, compressed: {compress}"));
        }
    }
}

#[test]
fn zero_clusters_and_subclusters() {
    if !have_qemu("zero_clusters_and_subclusters") {
        return;
    }
    let dir = common::scratch();
    let variants = [
        ("cluster_size=512", false),
        ("cluster_size=64k", false),
        ("cluster_size=64k,compression_type=zstd", true),
        ("cluster_size=64k,extended_l2=on", false),
        ("cluster_size=64k,extended_l2=on", true),
        ("cluster_size=2M,extended_l2=on", false),
    ];
    for (options, compress) in variants {
        let image = image(dir.path(), options, compress);
        // Zeros with and without a place in the file, and single subclusters of each kind.
        let changes = [
            "write -z 64k 256k",
            "write -z -u 512k 128k",
            "discard 1M 512k",
            "write -P 7 1100k 2k",
            "write -z 1102k 4k",
            "write -P 8 2049k 512",
            "write -z -u 2100k 6k",
            "write -z 4M 1M",
            "write -P 9 4160k 64k",
        ];
        let changes: Vec<_> = changes.iter().flat_map(|c| ["-c", c]).collect();
        run("qemu-io", &[&["-f", "qcow2", text(&image)], &changes[..]].concat());
        assert_as_qemu(&image, &format!("{options}, compressed: {compress}"));
    }
}

#[test]
fn snapshots_inside_are_passed_over_and_a_grown_image_ends_in_zeros() {
    if !have_qemu("snapshots_inside_are_passed_over_and_a_grown_image_ends_in_zeros") {
        return;
    }
    let dir = common::scratch();
    let image = image(dir.path(), "cluster_size=64k", false);
    run("qemu-img", &["snapshot", "-c", "before", text(&image)]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 1 0 1M", text(&image)]);
    run("qemu-img", &["resize", text(&image), "700M"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 2 699M 4k", text(&image)]);
    let opened = open(&image);
    assert_eq!(opened.size_bytes(), 700 << 20);
    assert_eq!(extents(&*opened), qemu_extents(&image));
    let mut buf = vec![0; 1 << 20];
    opened.read_exact_at(&mut buf, 0).unwrap();
    assert!(buf.iter().all(|&b| b == 1));
    opened.read_exact_at(&mut buf, 699 << 20).unwrap();
    assert!(buf[..4096].iter().all(|&b| b == 2) && buf[4096..].iter().all(|&b| b == 0));
}

#[test]
fn sixteen_tebibytes_of_nothing() {
    if !have_qemu("sixteen_tebibytes_of_nothing") {
        return;
    }
    let dir = common::scratch();
    let image = dir.path().join("backing");
    run("qemu-img", &["create", "-f", "qcow2", text(&image), "16T"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 3 15T 64k", text(&image)]);
    let at = 15 << 40;
    assert_eq!(extents(&*open(&image)), [(at, at + (64 << 10))]);
}

#[test]
fn images_that_need_another_file_or_a_key_are_refused() {
    if !have_qemu("images_that_need_another_file_or_a_key_are_refused") {
        return;
    }
    let dir = common::scratch();
    let path = |name: &str| dir.path().join(name);
    run("qemu-img", &["create", "-f", "raw", text(&path("base")), "1M"]);
    run("qemu-img", &["create", "-f", "qcow2", "-b", text(&path("base")), "-F", "raw", text(&path("child"))]);
    assert_eq!(
        refusal(&path("child")),
        format!(
            "qcow2 image that continues in another file ({}), which is never followed: layer backing",
            path("base").display()
        )
    );
    let data_file = format!("data_file={}", text(&path("data")));
    run("qemu-img", &["create", "-f", "qcow2", "-o", &data_file, text(&path("split")), "1M"]);
    assert_eq!(
        refusal(&path("split")),
        format!(
            "qcow2 image that has its data in another file ({}), which is never followed: layer backing",
            path("data").display()
        )
    );
    let secret = ["--object", "secret,id=key,data=x"];
    let options = "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10";
    let locked = path("locked");
    let create = ["-o", options, text(&locked), "1M"];
    run("qemu-img", &[&["create", "-f", "qcow2"], &secret[..], &create].concat());
    assert_eq!(refusal(&locked), "encrypted qcow2 image (LUKS): layer backing");
}

#[test]
fn other_formats_are_not_taken_for_raw() {
    if !have_qemu("other_formats_are_not_taken_for_raw") {
        return;
    }
    let dir = common::scratch();
    let formats = [
        ("vmdk", "VMDK"),
        ("vhdx", "VHDX"),
        ("vpc", "VHD"),
        ("vdi", "VDI"),
        ("qed", "QED"),
        ("parallels", "Parallels"),
    ];
    for (format, name) in formats {
        let image = dir.path().join(format);
        run("qemu-img", &["create", "-f", format, text(&image), "1M"]);
        assert_eq!(
            refusal(&image),
            format!("backing image in {name} format, where raw and qcow2 can be read: layer backing")
        );
    }
    let image = dir.path().join("qcow");
    run("qemu-img", &["create", "-f", "qcow", text(&image), "1M"]);
    assert_eq!(refusal(&image), "qcow version 1, where 2 and 3 can be read: layer backing");
}

#[test]
fn the_engines_own_backing_images() {
    for id in ["11-raw-backing", "12a-qcow2-backing", "12b-qcow2-compressed-backing"] {
        let fixture = common::fixture(id);
        let image = open(&fixture.backing().expect("a backing image"));
        let flat = Sha256::digest(read_all(&*image, 1 << 20));
        let hex = flat.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex, fixture.replica().1["backing_flat_sha256"], "{id}");
    }
}

#[test]
fn a_raw_image_cut_short_is_refused() {
    let dir = common::scratch();
    let path = dir.path().join("backing");
    fs::write(&path, [1; 1000]).unwrap();
    assert_eq!(refusal(&path), "backing image of 1000 bytes, which is no multiple of 512: layer backing");
    fs::write(&path, [1; 1024]).unwrap();
    assert_eq!(read_all(&*open(&path), 100), [1; 1024]);
}

/// Opens damaged bytes and, where that works, looks at everything there is. Errors are fine.
fn survives(bytes: Vec<u8>) {
    const LOOK_BYTES: u64 = 64 << 20;
    let Ok(image) = lhrecover::view::qcow2::Qcow2Image::open("backing".into(), bytes) else { return };
    let mut found = Vec::new();
    if let Ok(mut walk) = image.extents() {
        let mut from = Some(0);
        while let Some(at) = from {
            from = walk.next_extents(at, &mut found).unwrap_or(None);
            assert!(from.is_none_or(|next| next > at), "the walk does not advance at {at}");
        }
    }
    let mut buf = vec![0; 1 << 20];
    let ends = [image.size_bytes().saturating_sub(1 << 20), image.size_bytes(), u64::MAX];
    let everywhere = (0..image.size_bytes().min(LOOK_BYTES)).step_by(buf.len());
    for at in everywhere.chain(found.iter().take(100).map(|e| e.range.start_bytes)).chain(ends) {
        let _ = image.read_exact_at(&mut buf, at);
        let _ = image.read_exact_at(&mut buf[..1000], at);
    }
}

/// Small images of every kind that can be had here.
fn small_images() -> Vec<Vec<u8>> {
    let fixture = common::fixture("12b-qcow2-compressed-backing");
    let mut images = vec![fs::read(fixture.backing().expect("a backing image")).unwrap()];
    if have_qemu("images other than the fixture") {
        let dir = common::scratch();
        let raw = dir.path().join("raw");
        fs::write(&raw, &content()[..256 << 10]).unwrap();
        let variants = [
            ["-o", "cluster_size=512"].as_slice(),
            &["-o", "cluster_size=4k,compression_type=zstd", "-c"],
            &["-o", "cluster_size=16k,extended_l2=on"],
            &["-o", "compat=0.10,cluster_size=4k", "-c"],
        ];
        for (i, options) in variants.iter().enumerate() {
            let image = dir.path().join(i.to_string());
            run("qemu-img", &[&["convert", "-O", "qcow2", text(&raw), text(&image)], *options].concat());
            images.push(fs::read(&image).unwrap());
        }
    }
    images
}

#[test]
fn damage_anywhere_is_an_error_at_worst() {
    let images = small_images();
    let place = prop_oneof![0..112usize, 0..4096usize, any::<usize>()];
    let flips = proptest::collection::vec((place, any::<u8>()), 1..8);
    // A table entry is 8 bytes; a whole new one reaches states that single bytes rarely do.
    let entries = proptest::collection::vec((any::<usize>(), any::<u64>(), 0..64u32), 0..3);
    let cases = ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(cases, |(which in any::<usize>(), flips in flips, entries in entries, cut in any::<Option<usize>>())| {
        let mut bytes = images[which % images.len()].clone();
        let len = bytes.len();
        for (at, byte) in flips {
            bytes[at % len] = byte;
        }
        for (at, entry, shift) in entries {
            let at = at % (len - 8) / 8 * 8;
            bytes[at..at + 8].copy_from_slice(&(entry >> shift).to_be_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut % len);
        }
        survives(bytes);
    });
}
