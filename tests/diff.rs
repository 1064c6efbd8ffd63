//! `lhrecover diff`: every byte that differs is in a range, no other sector is, and what was only written again with
//! the same bytes is none. No source is changed by it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::chain::{BRANCH, Chain, HEAD, Layer, Mark, SECTOR, edit, image, snapshot};
use common::chains::chain_on_disk;
use common::cli::{Ran, has_finding, lhrecover};
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::loopdev::{self, LoopDevice};
use common::{fixture, scratch, text};
use proptest::prelude::*;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// Compares between two fingerprints of the first source.
#[track_caller]
fn diff(source: &Path, more: &[&str]) -> Ran {
    let before = source.is_dir().then(|| Fingerprint::of(source));
    let ran = lhrecover(&[&["diff", text(source), "--progress", "none"], more].concat());
    if let Some(before) = before {
        before.assert_unchanged(source, &more.join(" "));
    }
    ran
}

#[track_caller]
fn report(source: &Path, more: &[&str]) -> Value {
    let ran = diff(source, &[more, &["--json", "--ranges"]].concat());
    assert!(matches!(ran.status.code(), Some(0 | 1)), "{:?}: {}", ran.status, ran.stderr);
    ran.json()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// The sectors in a report's ranges, which must be in order, apart or of other layers, and add up.
#[track_caller]
fn sectors(report: &Value) -> BTreeSet<u64> {
    let mut sectors = BTreeSet::new();
    let (mut end, mut bytes) = (0, 0);
    let mut before = (Value::Null, Value::Null);
    for range in list(&report["ranges"]) {
        let (start, stop) = (number(&range["start_bytes"]), number(&range["end_bytes"]));
        let layers = (range["from_layer"].clone(), range["to_layer"].clone());
        assert!(start >= end && stop > start && start.is_multiple_of(SECTOR), "{range}");
        assert!(start > end || layers != before || end == 0, "{range} is part of the one before it");
        assert!((start..stop).contains(&number(&range["first_offset_bytes"])), "{range}");
        sectors.extend(start / SECTOR..stop.div_ceil(SECTOR));
        bytes += stop - start;
        (end, before) = (stop, layers);
    }
    assert_eq!(number(&report["changed_bytes"]), bytes);
    assert_eq!(number(&report["range_count"]), list(&report["ranges"]).len() as u64);
    for side in ["from", "to"] {
        for key in ["written_bytes", "changed_bytes"] {
            let sum: u64 = list(&report[side]["layers"]).iter().map(|layer| number(&layer[key])).sum();
            assert_eq!(number(&report[key]), sum, "{side} {key}");
        }
    }
    sectors
}

/// The sectors in which two volumes differ, by the definition.
fn differing(one: &[u8], other: &[u8]) -> BTreeSet<u64> {
    let size = usize::try_from(SECTOR).unwrap();
    let pairs = (0u64..).zip(one.chunks(size).zip(other.chunks(size)));
    pairs.filter(|(_, (one, other))| one != other).map(|(sector, _)| sector).collect()
}

/// The sectors that layers write, whatever they write.
fn written<'a>(layers: impl Iterator<Item = &'a Layer>, volume_bytes: u64) -> BTreeSet<u64> {
    let has_fiemap = common::scratch_has_fiemap();
    let mut sectors = BTreeSet::new();
    for layer in layers {
        let writes = layer.writes.iter().filter(|write| has_fiemap || write.mark != Mark::Preallocated);
        let end = volume_bytes.min(layer.size_bytes).div_ceil(SECTOR);
        sectors.extend(writes.flat_map(|w| w.first..(w.first + w.sectors).min(end)));
    }
    sectors
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ranges_are_what_the_oracle_says(chain in chain_on_disk(), pick in any::<(usize, usize)>()) {
        let disk = scratch();
        let dir = chain.write_to(disk.path());
        let hides = common::scratch_has_fiemap();
        let places = chain.layers.len();
        let (from, to) = (pick.0 % places, pick.1 % places);
        let name = |place: usize| if place + 1 == places { HEAD.to_owned() } else { snapshot(place) };
        let args = ["--from", &name(from), "--at", &name(to), "--accept-copy-damage"];
        let found = report(&dir, &args);
        let expected = differing(&chain.reads_as(from, hides), &chain.reads_as(to, hides));
        prop_assert_eq!(sectors(&found), expected.clone());
        prop_assert_eq!(&found["same"], expected.is_empty());
        let relation = match from.cmp(&to) {
            std::cmp::Ordering::Less => "later",
            std::cmp::Ordering::Equal => "same",
            std::cmp::Ordering::Greater => "earlier",
        };
        prop_assert_eq!(&found["relation"], relation);

        let between = &chain.layers[from.min(to) + 1..=from.max(to)];
        let touched = written(between.iter(), chain.volume_bytes);
        let told = report(&dir, &[&args[..], &["--written"]].concat());
        prop_assert_eq!(sectors(&told), touched.clone());
        prop_assert_eq!(&told["written_bytes"], &found["written_bytes"]);
        prop_assert!(touched.is_superset(&expected));

        if let (Some((parent, _)), Some(branch)) = (&chain.branch, chain.branch_reads(hides)) {
            let found = report(&dir, &["--from", &image(BRANCH), "--at", &name(to), "--accept-copy-damage"]);
            prop_assert_eq!(sectors(&found), differing(&branch, &chain.reads_as(to, hides)));
            let relation = if to <= *parent { "earlier" } else { "branches" };
            prop_assert_eq!(&found["relation"], relation);
        }
    }

    #[test]
    fn two_replicas_and_images_are_what_the_oracle_says(one in chain_on_disk(), other in chain_on_disk()) {
        let disks = [scratch(), scratch()];
        let dirs = [one.write_to(disks[0].path()), other.write_to(disks[1].path())];
        let hides = common::scratch_has_fiemap();
        let reads = [&one, &other].map(|chain| chain.reads_as(chain.layers.len() - 1, hides));
        let shorter = reads[0].len().min(reads[1].len());
        let expected = differing(&reads[0][..shorter], &reads[1][..shorter]);
        let leave = "--accept-copy-damage";
        let found = report(&dirs[0], &[text(&dirs[1]), leave]);
        prop_assert_eq!(sectors(&found), expected.clone());
        prop_assert_eq!(&found["same"], expected.is_empty() && reads[0].len() == reads[1].len());
        prop_assert_eq!(&found["relation"], "apart");
        let image = disks[1].path().join("image");
        fs::write(&image, &reads[1]).unwrap();
        prop_assert_eq!(sectors(&report(&dirs[0], &[text(&image), leave])), expected.clone());
        prop_assert_eq!(sectors(&report(&image, &[text(&dirs[0]), leave])), expected);
        fs::write(&image, &reads[0]).unwrap();
        let same = diff(&dirs[0], &[text(&image), leave, "--quiet"]);
        prop_assert!(same.text().is_empty());
    }
}

/// A base, a snapshot with changes of every sort, and a head: what it rewrites with zeros is zeros already.
fn chain() -> Chain {
    Chain::of(
        4 * MIB,
        &[
            &[(0, 100, Mark::Data), (200, 20, Mark::Zeros)],
            &[(10, 10, Mark::Data), (90, 20, Mark::Zeros)],
            &[(205, 10, Mark::Zeros), (300, 5, Mark::Zeros), (400, 2, Mark::Data)],
        ],
    )
}

#[test]
fn what_is_written_again_with_the_same_bytes_has_not_changed() {
    let disk = scratch();
    let dir = chain().write_to(disk.path());
    let golden = |name: &str, ran: &Ran| assert_golden(&format!("diff/{name}"), disk.path(), ran);
    let from_base = ["--from", &snapshot(0)[..]];
    let found = report(&dir, &from_base);
    assert_eq!(number(&found["changed_bytes"]), (10 + 10 + 2) * SECTOR);
    assert_eq!(number(&found["written_bytes"]), (10 + 20 + 10 + 5 + 2) * SECTOR);
    golden("since-the-base", &diff(&dir, &from_base).exits(1));
    golden("written", &diff(&dir, &[&from_base[..], &["--written"]].concat()).exits(1));
    golden("reversed", &diff(&dir, &["--from", HEAD, "--at", &snapshot(1)]).exits(1));
    golden("same-state", &diff(&dir, &["--from", HEAD]).exits(0));
    golden("nothing-to-compare", &diff(&dir, &[]).exits(2));
}

#[test]
fn zeros_over_zeros_alone_leave_the_states_the_same() {
    let layers: [&[(u64, u64, Mark)]; 2] = [&[(0, 50, Mark::Data)], &[(60, 40, Mark::Zeros)]];
    let disk = scratch();
    let dir = Chain::of(MIB, &layers).write_to(disk.path());
    let args = ["--from", &snapshot(0)[..]];
    assert_golden("diff/written-and-the-same", disk.path(), &diff(&dir, &args).exits(0));
    assert_eq!(number(&report(&dir, &args)["written_bytes"]), 40 * SECTOR);
    diff(&dir, &[&args[..], &["--written"]].concat()).exits(1);
}

/// A volume with more ranges than are shown unasked.
fn scattered(count: u64) -> Chain {
    let writes: Vec<_> = (0..count).map(|i| (i * 2, 1, Mark::Data)).collect();
    Chain::of(count * 2 * SECTOR, &[&[(0, 1, Mark::Zeros)], &writes])
}

#[test]
fn all_ranges_are_listed_when_asked_for_and_the_first_ones_otherwise() {
    let disk = scratch();
    let dir = scattered(5000).write_to(disk.path());
    let from = ["--from", &snapshot(0)[..]];
    let few = diff(&dir, &[&from[..], &["--json"]].concat()).exits(1).json();
    assert_eq!((number(&few["range_count"]), list(&few["ranges"]).len()), (5000, 16));
    let all = report(&dir, &from);
    assert_eq!(sectors(&all).len(), 5000);
    assert_eq!(list(&all["ranges"])[..16], *list(&few["ranges"]));
    let text = diff(&dir, &[&from[..], &["--ranges"]].concat());
    let listed: Vec<_> = text.text().lines().filter(|line| line.contains(" -> ")).collect();
    assert_eq!(
        (listed.len(), listed[4999]),
        (5000, "40951808..40955904  4 KiB  no layer -> volume-head-001.img")
    );
    assert!(diff(&dir, &from).text().ends_with("and 4984 more ranges: --ranges lists them all\n"));
    // However many threads there are, and wherever they are cut.
    for threads in ["1", "7", "32"] {
        let again = report(&dir, &[&from[..], &["--threads", threads]].concat());
        assert_eq!(again["ranges"], all["ranges"]);
    }
}

#[test]
fn an_expansion_between_two_states_is_said() {
    let fixture = fixture("07-expansion");
    let (dir, truth) = fixture.replica();
    let sizes: Vec<_> = list(&truth["snapshots"])
        .iter()
        .map(|s| (s["name"].as_str().unwrap(), number(&s["file_size"])))
        .collect();
    let size = number(&truth["size"]);
    let (oldest, small) = *sizes.iter().min_by_key(|(_, size)| *size).unwrap();
    assert!(small < size, "{sizes:?}");
    let ran = diff(&dir, &["--from", oldest]);
    assert!(ran.text().contains("the volume was expanded between the two"), "{}", ran.text());
    let found = report(&dir, &["--from", oldest]);
    assert_eq!(
        (number(&found["from"]["top_layer_bytes"]), number(&found["to"]["top_layer_bytes"])),
        (small, size)
    );
}

/// Merges a state into a file.
fn merged(dir: &Path, out: &Path, at: &str) -> Vec<u8> {
    lhrecover(&["merge", text(dir), text(out), "--at", at, "--force", "--no-sync", "--quiet"]);
    fs::read(out).unwrap()
}

#[test]
fn states_of_real_replicas_differ_as_their_images_do() {
    for id in ["05-deep-chain-40", "07-expansion", "08-revert-branches", "16-ext4-sqlite"] {
        let fixture = fixture(id);
        let (dir, truth) = fixture.replica();
        let out = fixture.dir.path().join("image");
        let names: Vec<_> =
            list(&truth["snapshots"]).iter().map(|s| s["disk"].as_str().unwrap().to_owned()).collect();
        let head = truth["head"].as_str().unwrap().to_owned();
        let states: Vec<_> = names.iter().step_by(names.len().div_ceil(4)).chain([&head]).collect();
        let images: Vec<_> = states.iter().map(|state| merged(&dir, &out, state)).collect();
        for (from, one) in states.iter().zip(&images) {
            for (to, other) in states.iter().zip(&images) {
                let found = report(&dir, &["--from", from, "--at", to]);
                assert_eq!(sectors(&found), differing(one, other), "{id}: {from} {to}");
            }
        }
        assert_ne!(images[0], images[images.len() - 1], "{id}");
    }
}

#[test]
fn replicas_images_and_devices_are_compared_with_each_other() {
    let (one, other) = (scratch(), scratch());
    let dirs = [one.path(), other.path()].map(|disk| chain().write_to(disk));
    assert_golden(
        "diff/two-replicas-same",
        one.path(),
        &without(other.path(), diff(&dirs[0], &[text(&dirs[1])]).exits(0)),
    );
    let head = OpenOptions::new().write(true).open(dirs[1].join(HEAD)).unwrap();
    head.write_all_at(b"x", 401 * SECTOR + 77).unwrap();
    drop(head);
    let found = report(&dirs[0], &[text(&dirs[1])]);
    assert_eq!(sectors(&found), BTreeSet::from([401]));
    assert_eq!(number(&found["ranges"][0]["first_offset_bytes"]), 401 * SECTOR + 77);
    assert_golden(
        "diff/two-replicas",
        one.path(),
        &without(other.path(), diff(&dirs[0], &[text(&dirs[1])]).exits(1)),
    );
    // The same snapshot of both is still the same, and the head is the other's snapshot and what came after.
    diff(&dirs[0], &[text(&dirs[1]), "--from", &snapshot(1), "--at", &snapshot(1)]).exits(0);

    let image = one.path().join("image");
    let bytes = merged(&dirs[0], &image, HEAD);
    diff(&dirs[0], &[text(&image)]).exits(0);
    diff(&image, &[text(&dirs[0])]).exits(0);
    diff(&image, &[text(&image)]).exits(0);
    let found = report(&dirs[0], &[text(&image), "--from", &snapshot(0)]);
    assert_eq!(sectors(&found), differing(&chain().reads_as(0, true), &bytes));
    assert_eq!(found["ranges"][0]["to_layer"], text(&image));
    // Another length is a difference.
    fs::write(&image, &bytes[..bytes.len() - 4096]).unwrap();
    let shorter = diff(&dirs[0], &[text(&image)]).exits(1);
    assert!(shorter.text().contains("are compared"), "{}", shorter.text());

    if !loopdev::available("replicas_images_and_devices_are_compared_with_each_other") {
        return;
    }
    fs::write(&image, [&bytes[..], &[0; 8192]].concat()).unwrap();
    let device = LoopDevice::over(&image);
    diff(&dirs[0], &[text(&device.path)]).exits(0);
    fs::write(&image, [&bytes[..4096], &[7; 8192], &bytes[12288..], &[0; 8192]].concat()).unwrap();
    let device = LoopDevice::over(&image);
    assert_eq!(sectors(&report(&dirs[0], &[text(&device.path)])), BTreeSet::from([1, 2]));
}

/// The run, with the other directory's path out of it.
fn without(other: &Path, mut ran: Ran) -> Ran {
    ran.stdout = ran.text().replace(text(other), "[OTHER]").into_bytes();
    ran
}

#[test]
fn what_means_nothing_is_refused_with_a_way_out() {
    let disk = scratch();
    let dir = chain().write_to(disk.path());
    let image = disk.path().join("image");
    fs::write(&image, [0; 8192]).unwrap();
    diff(&dir, &[text(&image), "--at", "s000"]).exits(2).says(&["an image has only one", "--from"]);
    diff(&image, &[text(&dir), "--size", "8192"]).exits(2).says(&["replica directory first"]);
    diff(&image, &["--from", "s000"]).exits(2);
    diff(&image, &[]).exits(2).says(&["nothing to compare with"]);
    diff(&dir, &["--from", "head"]).exits(0);
    diff(&dir, &["--from", "head", "--at", "head"]).exits(0);
    // A snapshot whose name only begins like it is not meant.
    let snapshot = image_of(0);
    for end in ["", ".meta"] {
        let of = |path: &Path| dir.join(format!("{}{end}", path.display()));
        fs::copy(of(&snapshot), of(Path::new("volume-snap-head-before.img"))).unwrap();
    }
    diff(&dir, &["--from", "head-before"]).exits(1);
    diff(&dir, &["--from", "head"]).exits(0);
    diff(&dir, &["--from", "nope"]).exits(2).says(&["there is no snapshot"]);
    diff(&dir, &["/nowhere"]).exits(2);
    fs::remove_file(dir.join(image_of(0))).unwrap();
    diff(&dir, &["--from", "s001"]).exits(3);
}

fn image_of(place: usize) -> PathBuf {
    PathBuf::from(image(&snapshot(place)))
}

#[test]
fn what_is_doubtful_about_a_side_is_said() {
    let disk = scratch();
    let dir = chain().write_to(disk.path());
    let meta = dir.join(format!("{}.meta", image(&snapshot(0))));
    edit(&meta, &[("Removed", true.into())]);
    let ran = diff(&dir, &["--from", &snapshot(0), "--json"]).exits(1);
    assert!(has_finding(&ran.json(), "removed-view"));
    edit(&dir.join("volume.meta"), &[("Rebuilding", true.into())]);
    diff(&dir, &["--from", &snapshot(0)]).exits(5).says(&["--allow-rebuilding"]);
    diff(&dir, &["--from", &snapshot(0), "--allow-rebuilding"]).exits(1);
}
