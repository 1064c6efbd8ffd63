//! Opening replicas by hand: which state, which head, what size, which backing image, and in what order things are
//! refused. (That every view is what the engine reads is shown in `ground_truth.rs`.)

#![allow(clippy::unwrap_used)] // helpers of tests may panic, too

mod common;

use std::fs;

use common::damage::Victim;
use lhrecover::error::ErrorKind;
use lhrecover::replica::{LayerKind, ReplicaDir, Source, SourceOptions, View};
use serde_json::json;

fn victim(id: &str) -> (common::Fixture, Victim) {
    let fixture = common::fixture(id);
    let (dir, truth) = fixture.replica();
    let victim = Victim::new(dir, &truth);
    (fixture, victim)
}

fn open(victim: &Victim, options: SourceOptions) -> lhrecover::error::Result<Source> {
    ReplicaDir::open(&victim.dir)?.open_source(&options)
}

fn codes(source: &Source) -> Vec<&'static str> {
    source.findings.iter().map(|finding| finding.code.as_str()).collect()
}

fn at(name: &str) -> SourceOptions {
    SourceOptions { at: Some(name.into()), ..SourceOptions::default() }
}

fn by_hand(head: &str) -> SourceOptions {
    SourceOptions { head: Some(head.into()), ..SourceOptions::default() }
}

#[test]
fn a_snapshot_is_found_by_name_file_or_unique_beginning() {
    let (_fixture, v) = victim("08-revert-branches");
    for name in ["c-5b79b472-6225-482a-9a6a-81defbad8226", "c-", "volume-snap-c-"] {
        let source = open(&v, at(name)).unwrap();
        assert_eq!(
            source.view,
            View::Snapshot("volume-snap-c-5b79b472-6225-482a-9a6a-81defbad8226.img".into())
        );
        let chain: Vec<_> =
            source.chain.iter().map(|layer| &layer.file["volume-snap-".len()..][..1]).collect();
        assert_eq!(chain, ["a", "b", "c"], "a branch has its own chain");
        assert_eq!(source.volume_bytes, 33_554_432, "the volume's present size");
    }
    let nothing = open(&v, at("zz")).err().unwrap();
    assert_eq!(nothing.kind(), ErrorKind::Usage);
    assert!(nothing.hint().unwrap().contains("e-daily-b-c-ac316665-b34278"), "{:?}", nothing.hint());
    v.add_branch("c-2", r#"{"Parent":""}"#);
    let two = open(&v, at("c-")).err().unwrap();
    assert_eq!(two.kind(), ErrorKind::Usage);
    assert!(two.hint().unwrap().contains("c-2, c-5b79b472"), "{:?}", two.hint());
}

#[test]
fn a_head_by_hand_is_taken_and_doubted() {
    let fixture = common::fixture("21-crash-revert");
    let (dir, _) =
        fixture.replicas().into_iter().find(|(_, t)| t["role"] == "revert killed at unlinkat #1").unwrap();
    let replica = ReplicaDir::open(&dir).unwrap();
    for options in [by_hand("volume-head-003.img"), at("volume-head-003.img")] {
        let source = replica.open_source(&options).unwrap();
        assert_eq!(source.view, View::Head("volume-head-003.img".into()));
        assert_eq!(source.chain.last().unwrap().kind, LayerKind::Head);
    }
    assert!(
        codes(&replica.open_source(&by_hand("volume-head-003.img")).unwrap()).contains(&"chosen-by-hand")
    );
    assert_eq!(replica.open_source(&by_hand("volume-head-007.img")).err().unwrap().kind(), ErrorKind::Usage);
}

#[test]
fn what_a_purge_has_left_makes_no_beginning_ambiguous() {
    let (_fixture, v) = victim("08-revert-branches");
    v.write("volume-snap-c-gone.img.checksum", "{}");
    v.write("volume-snap-c-gone2.img.meta", r#"{"Name":"n","Parent":"","Removed":true}"#);
    assert!(open(&v, at("c-")).is_ok());
    // By its whole name it can still be asked for.
    assert_eq!(open(&v, at("c-gone2")).unwrap().view.file(), "volume-snap-c-gone2.img");
}

#[test]
fn without_its_metadata_the_head_names_the_snapshot_that_volume_meta_remembers() {
    for damage in [
        |v: &Victim| v.write(&format!("{}.meta", v.head()), [0; 150]),
        |v: &Victim| {
            v.remove(v.head());
            v.remove(&format!("{}.meta", v.head()));
        },
    ] {
        let (_fixture, v) = victim("03-explicit-zeros");
        damage(&v);
        let e = open(&v, SourceOptions::default()).err().unwrap();
        let name = v.middle().trim_start_matches("volume-snap-").trim_end_matches(".img");
        assert!(e.hint().unwrap().contains(&format!("--at {name}")), "{:?}", e.hint());
    }
}

#[test]
fn a_size_by_hand_is_judged() {
    let (_fixture, v) = victim("03-explicit-zeros");
    for size in [0, 513, u64::MAX] {
        let told = SourceOptions { size_bytes: Some(size), ..SourceOptions::default() };
        assert_eq!(open(&v, told).err().unwrap().kind(), ErrorKind::Usage, "{size}");
    }
    let told = SourceOptions { size_bytes: Some(1 << 20), ..SourceOptions::default() };
    let source = open(&v, told).unwrap();
    assert_eq!(source.volume_bytes, 1 << 20);
    assert!(codes(&source).contains(&"chosen-by-hand"), "{:?}", codes(&source));
    // It also overrides a size that is nonsense.
    v.edit_volume(json!({"Size": -1}));
    assert_eq!(open(&v, SourceOptions::default()).err().unwrap().kind(), ErrorKind::Source);
    let told = SourceOptions { size_bytes: Some(16 << 20), ..SourceOptions::default() };
    assert!(!codes(&open(&v, told).unwrap()).contains(&"size-invalid"));
}

#[test]
fn a_removed_snapshot_can_be_read_and_is_not_to_be_trusted() {
    let (_fixture, v) = victim("09b-purged");
    let source = open(&v, at("s4-snap-3f4b895a47")).unwrap();
    assert!(codes(&source).contains(&"removed-view"), "{:?}", codes(&source));
    let trusted = open(&v, at("s1-daily")).unwrap();
    assert!(!codes(&trusted).contains(&"removed-view"));
}

#[test]
fn what_cannot_be_had_is_said_before_a_guard_is_named() {
    let (_fixture, v) = victim("03-explicit-zeros");
    v.edit_volume(json!({"Rebuilding": true}));
    let refused = open(&v, SourceOptions::default()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.hint().unwrap().contains("--allow-rebuilding"));
    let leave = SourceOptions { allow_rebuilding: true, ..SourceOptions::default() };
    assert!(codes(&open(&v, leave).unwrap()).contains(&"rebuilding"));
    v.remove(v.middle());
    let broken = open(&v, SourceOptions::default()).err().unwrap();
    assert_eq!(broken.kind(), ErrorKind::Source);
    assert!(!broken.hint().unwrap().contains("--allow"), "{:?}", broken.hint());
    // What is below the break can still be had.
    let leave = SourceOptions { allow_rebuilding: true, ..at(v.lowest()) };
    assert_eq!(open(&v, leave).unwrap().layers.len(), 1);
}

#[test]
fn a_backing_image_is_found_named_or_missed_but_never_zeros() {
    let (fixture, v) = victim("11-raw-backing");
    let found = open(&v, SourceOptions::default()).unwrap();
    assert!(found.has_backing);
    assert_eq!(found.chain[0].kind, LayerKind::Backing);
    assert_eq!((found.chain.len(), found.layers.len()), (4, 4));

    let image = fixture.backing().unwrap();
    let elsewhere = fixture.dir.path().join("elsewhere.raw");
    fs::rename(&image, &elsewhere).unwrap();
    let missed = open(&v, SourceOptions::default()).err().unwrap();
    assert_eq!(missed.kind(), ErrorKind::Source);
    assert!(missed.hint().unwrap().contains("--backing-file"), "{:?}", missed.hint());
    let named = SourceOptions { backing_file: Some(elsewhere.clone()), ..SourceOptions::default() };
    let source = open(&v, named.clone()).unwrap();
    assert!(source.has_backing && !codes(&source).contains(&"backing-unrecorded"));

    v.edit_volume(json!({"BackingFilePath": ""}));
    assert!(!open(&v, SourceOptions::default()).unwrap().has_backing);
    assert!(codes(&open(&v, named).unwrap()).contains(&"backing-unrecorded"));
}

#[test]
fn two_heads_that_nothing_tells_apart_are_a_warning() {
    let (_fixture, v) = victim("03-explicit-zeros");
    v.write("volume-head-009.img", "written");
    v.write(
        "volume-head-009.img.meta",
        json!({"Name": "volume-head-009.img", "Parent": v.middle()}).to_string(),
    );
    assert!(codes(&open(&v, SourceOptions::default()).unwrap()).contains(&"two-heads"));
    // When it began later, it is the newer one.
    v.edit_layer("volume-head-009.img", json!({"Created": "2099-01-01T00:00:00Z"}));
    let source = open(&v, SourceOptions::default()).unwrap();
    assert_eq!(source.view.file(), v.head(), "volume.meta is still believed");
    assert!(codes(&source).contains(&"stale-volume-meta"), "{:?}", codes(&source));
    // When it began earlier, it is what a revert left behind, which harms nobody.
    v.edit_layer("volume-head-009.img", json!({"Created": "2001-01-01T00:00:00Z"}));
    assert!(codes(&open(&v, SourceOptions::default()).unwrap()).contains(&"revert-cut-short"));
}

#[test]
fn something_that_is_no_replica_is_said_to_be_none() {
    let scratch = common::scratch();
    let e = ReplicaDir::open(scratch.path()).err().unwrap();
    assert_eq!(e.kind(), ErrorKind::Source);
    assert!(e.to_string().contains("not a replica directory"), "{e}");
    let e = ReplicaDir::open(&scratch.path().join("nothing")).err().unwrap();
    assert!(e.hint().unwrap().contains("/var/lib/longhorn/replicas"), "{:?}", e.hint());
}

#[test]
fn what_a_cut_off_volume_meta_still_says_counts() {
    let fixture = common::fixture("03-explicit-zeros");
    let (dir, truth) = fixture.replica();
    let head = truth["head"].as_str().unwrap();
    let size = truth["size"].as_u64().unwrap();
    let by_hand =
        SourceOptions { head: Some(head.to_owned()), size_bytes: Some(size), ..SourceOptions::default() };
    let open = |said: &str, options: &SourceOptions| {
        std::fs::write(dir.join("volume.meta"), format!(r#"{{"Size":{size},{said},"Dir"#)).unwrap();
        ReplicaDir::open(&dir).unwrap().open_source(options).map(|_| ()).map_err(|e| e.kind())
    };
    assert_eq!(open(r#""Rebuilding":false"#, &by_hand), Ok(()));
    assert_eq!(open(r#""Rebuilding":true"#, &by_hand), Err(ErrorKind::Refused));
    let allowed = SourceOptions { allow_rebuilding: true, ..by_hand.clone() };
    assert_eq!(open(r#""Rebuilding":true"#, &allowed), Ok(()));
    let backing = r#""BackingFilePath":"/host/var/lib/longhorn/backing-images/none-12345678/backing""#;
    assert_eq!(open(backing, &by_hand), Err(ErrorKind::Source));
    // After a power cut, the end of the file may be there as NUL bytes.
    fs::write(dir.join("volume.meta"), format!("{{\"Size\":{size},\"Rebuilding\":true,\"Dir\0\0\0\0\0"))
        .unwrap();
    let refused = ReplicaDir::open(&dir).unwrap().open_source(&by_hand).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
}

#[test]
fn a_snapshot_whose_file_a_purge_has_folded_may_still_be_meant() {
    let fixture = common::fixture("03-explicit-zeros");
    let (dir, truth) = fixture.replica();
    let victim = Victim::new(dir.clone(), &truth);
    victim.edit_layer(victim.lowest(), json!({"Removed": true}));
    let folded = fs::File::options().write(true).open(victim.path(victim.lowest())).unwrap();
    folded.set_modified(std::time::SystemTime::now()).unwrap();
    victim.remove(victim.middle());
    let replica = ReplicaDir::open(&dir).unwrap();
    assert!(replica.open_source(&SourceOptions::default()).is_ok());
    assert_eq!(replica.find_layer(victim.middle()).unwrap(), victim.middle());
    // It is what is left of the two, and the other one is on its way out.
    assert_eq!(replica.find_layer("volume-snap-").unwrap_err().kind(), ErrorKind::Usage);
}
