//! The chain doctor: every damage is found and named, every crash state is named as what it is, good replicas are
//! left alone, and nothing is ever written.

#![allow(clippy::unwrap_used)] // helpers of tests may panic, too

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use common::damage::{self, Opens, Victim};
use lhrecover::engine::diagnose::{Diagnosis, diagnose};
use lhrecover::error::ErrorKind;
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::model::finding::Severity;
use lhrecover::model::overlay::Unwritten;
use lhrecover::replica::doctor::{self, Subject};
use lhrecover::replica::inventory::{Doc, NotRead};
use lhrecover::replica::{ReplicaDir, SourceOptions};
use lhrecover::report::inspect;

fn examine(replica: &ReplicaDir) -> Diagnosis {
    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    diagnose(replica, &SourceOptions::default(), Unwritten::Zero, &run).unwrap()
}

fn codes(diagnosis: &Diagnosis) -> Vec<&'static str> {
    // Whether other processes can be seen depends on where the tests run.
    let findings = diagnosis.findings.iter().map(|finding| finding.code.as_str());
    findings.filter(|code| *code != "live-unknown").collect()
}

/// Names, sizes and times of everything in a directory. (Not the blocks: asking for extents makes the kernel write
/// out what is still in the page cache, and that allocates.)
fn fingerprint(dir: &Path) -> BTreeMap<String, (u64, i64, i64, i64, i64)> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let m = fs::symlink_metadata(entry.path()).unwrap();
        let times = (m.size(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        (entry.file_name().to_string_lossy().into_owned(), times)
    });
    entries.collect()
}

#[test]
fn every_damage_is_found_named_and_survived() {
    for damage in damage::ALL {
        let fixture = common::fixture("03-explicit-zeros");
        let (dir, truth) = fixture.replica();
        let victim = Victim::new(dir.clone(), &truth);
        (damage.inflict)(&victim);
        let before = fingerprint(&dir);

        let replica = ReplicaDir::open(&dir).unwrap();
        let diagnosis = examine(&replica);
        assert!(codes(&diagnosis).contains(&damage.code), "{}: {:?}", damage.name, codes(&diagnosis));
        let text = inspect::text(&inspect::build(&replica, &diagnosis));
        assert!(text.contains(&format!("[{}]", damage.code)), "{}: {text}", damage.name);

        let opened = replica.open_source(&SourceOptions::default());
        let opens = match &opened {
            Ok(_) => Opens::Yes,
            Err(e) if e.kind() == ErrorKind::Refused => Opens::Refused,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Source, "{}: {e}", damage.name);
                assert!(e.hint().is_some(), "{}: no hint with: {e}", damage.name);
                Opens::No
            }
        };
        assert_eq!(opens, damage.opens, "{}: {:?}", damage.name, opened.err());
        if opens == Opens::No {
            // What cannot be opened is an error, whatever else is said.
            assert_eq!(diagnosis.worst(), Some(Severity::Error), "{}", damage.name);
        }
        assert_eq!(fingerprint(&dir), before, "{}: the source was changed", damage.name);
    }
}

#[test]
fn made_crash_states_are_named_as_what_they_are_and_need_nobody() {
    for crash in damage::CRASHES {
        let fixture = common::fixture("03-explicit-zeros");
        let (dir, truth) = fixture.replica();
        (crash.inflict)(&Victim::new(dir.clone(), &truth));
        let replica = ReplicaDir::open(&dir).unwrap();
        let diagnosis = examine(&replica);
        let codes = codes(&diagnosis);
        assert_eq!(diagnosis.worst(), Some(Severity::Info), "{}: {codes:?}", crash.name);
        let named = diagnosis.findings.iter().filter(|finding| finding.code.as_str() == crash.code);
        let meanings: Vec<_> = named.map(|finding| finding.meaning.as_str()).collect();
        assert_eq!(meanings.len(), 1, "{}: {codes:?}", crash.name);
        assert!(meanings[0].contains("the content is right"), "{}: {}", crash.name, meanings[0]);
        let as_before = meanings[0].contains("as it was before");
        assert_eq!(
            as_before,
            crash.name.contains("before") || crash.name.contains("without metadata"),
            "{}",
            crash.name
        );
        assert!(replica.open_source(&SourceOptions::default()).is_ok(), "{}", crash.name);
    }
}

#[test]
fn what_only_root_may_read_is_not_called_damaged() {
    let fixture = common::fixture("03-explicit-zeros");
    let replica = ReplicaDir::open(&fixture.replica().0).unwrap();
    let mut inventory = replica.inventory().clone();
    let denied = NotRead { why: "permission denied".into(), denied: true };
    inventory.volume_meta = Doc::Unreadable(denied.clone());
    inventory.revision = Doc::Unreadable(denied.clone());
    inventory.disks.values_mut().for_each(|disk| disk.meta = Doc::Unreadable(denied.clone()));
    let head = inventory.heads().next().unwrap().name.clone();
    let chain = inventory.chain_from(&head);
    let findings = doctor::examine(&inventory, Subject { head: Some(&head), chain: &chain });
    assert!(findings.len() >= 5, "{findings:?}");
    for finding in findings {
        assert!(finding.advice.contains("run as root"), "{finding:?}");
    }
}

#[test]
fn whichever_head_is_looked_at_the_one_that_volume_meta_names_is_compared() {
    let fixture = common::fixture("03-explicit-zeros");
    let (dir, truth) = fixture.replica();
    let victim = Victim::new(dir.clone(), &truth);
    let newer = damage::ALL.iter().find(|damage| damage.code == "stale-volume-meta").unwrap();
    (newer.inflict)(&victim);
    let replica = ReplicaDir::open(&dir).unwrap();
    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    let by_hand = SourceOptions { head: Some("volume-head-009.img".to_owned()), ..SourceOptions::default() };
    let diagnosis = diagnose(&replica, &by_hand, Unwritten::Zero, &run).unwrap();
    let found = |code: &str| diagnosis.findings.iter().find(|finding| finding.code.as_str() == code);
    assert!(found("chosen-by-hand").is_some(), "{:?}", codes(&diagnosis));
    let stale = found("stale-volume-meta").unwrap();
    assert!(stale.what.starts_with("volume-head-009.img is newer than"), "{}", stale.what);
}

#[test]
fn a_head_is_not_proposed_for_a_chain_that_has_lost_data() {
    let fixture = common::fixture("03-explicit-zeros");
    let (dir, truth) = fixture.replica();
    let victim = Victim::new(dir.clone(), &truth);
    victim.write("volume-head-009.img", "written");
    let meta =
        r#"{"Name":"volume-head-009.img","Parent":"volume-snap-x.img","Created":"2099-01-01T00:00:00Z"}"#;
    victim.write("volume-head-009.img.meta", meta);
    victim.add_branch("x", &format!(r#"{{"Name":"n","Parent":"{}"}}"#, victim.lowest()));
    for lost in ["made anew", "gone"] {
        let replica = ReplicaDir::open(&dir).unwrap();
        let likely = lhrecover::replica::head::propose(replica.inventory()).unwrap();
        assert_eq!(likely.head, victim.head(), "{lost}: {}", likely.why);
        if lost == "made anew" {
            victim.remove("volume-snap-x.img");
        }
    }
}

#[test]
fn every_code_of_the_doctor_has_a_damage_or_a_crash_that_shows_it() {
    // Said when reading by hand, when a process is there, of real crash states, or by `verify`, all of which have tests
    // of their own.
    let elsewhere = [
        "new-head-cut-short",
        "snapshot-cut-short",
        "expansion-cut-short",
        "revert-cut-short",
        "purge-cut-short",
        "same-file",
        "live-head",
        "live-unknown",
        "chosen-by-hand",
        "removed-view",
        "backing-unrecorded",
        "two-heads",
        "unreadable",
        "unwritten-extents",
        "unwritten-unknown",
        "copy-no-zeros",
        // Of siblings and nodes: tests/scan.rs and its like.
        "no-trusted-replica",
        "sibling-has-more",
        "snapshot-differs",
        "sibling-size-differs",
        "head-time-impossible",
        "clock-off",
        "nothing-found",
        "node-unreachable",
        "path-unreadable",
        "node-version",
        "checksum-mismatch",
        "checksum-stale",
        "checksum-doubted",
        "checksum-unusable",
        "checksums-absent",
        "image-differs",
        "layer-changed",
        "nothing-in-common",
        "blocks-shared",
        "not-preserved",
        "unwritten-as-zeros",
        "attributes-not-kept",
        "copy-names-differ",
        "copy-content-differs",
        "copy-attributes-differ",
        "source-changed",
        // Of what is inside a volume: tests/check.rs.
        "file-system-damaged",
        "database-damaged",
        "errors-recorded",
        "content-unknown",
        "not-checked",
        "journal-dirty",
        "nothing-inside",
        // Of what is inside a volume: tests/browse.rs, tests/extract.rs, tests/journal.rs.
        "files-unreadable",
        "journal-cut-short",
        "fast-commits-missing",
        "not-extracted",
        "files-encrypted",
        "traits-not-kept",
        // Of what goes into a device: tests/inject_files.rs.
        "journal-skipped",
    ];
    for code in lhrecover::model::finding::Code::ALL {
        let shown = damage::ALL.iter().any(|damage| damage.code == code.as_str());
        let of_outputs = code.as_str().starts_with("device-");
        assert!(shown || of_outputs || elsewhere.contains(&code.as_str()), "{code} is shown by no test");
    }
}

#[test]
fn crash_states_are_named_as_what_they_are_and_need_nobody() {
    // What the engine was doing in the words of the manifest, the codes it may be named by, and the steps at which
    // it cannot be told from a healthy replica: before its first lasting change and after its last.
    let operations = [
        ("21-crash-snapshot", vec!["snapshot-cut-short", "new-head-cut-short"], vec!["renameat #1"]),
        ("21-crash-expand", vec!["expansion-cut-short", "new-head-cut-short"], vec!["renameat #1"]),
        (
            "21-crash-revert",
            vec!["revert-cut-short", "new-head-cut-short"],
            vec!["renameat #1", "renameat #4", "unlinkat #3"],
        ),
        (
            "21-crash-purge",
            vec!["purge-cut-short", "removed-layer"],
            vec!["renameat #1", "renameat #2", "unlinkat #4"],
        ),
        ("21-crash-prune", vec!["removed-behind-head"], vec!["renameat #1", "renameat #2"]),
    ];
    for (id, names, silent) in operations {
        let fixture = common::fixture(id);
        for (dir, truth) in fixture.replicas() {
            let role = truth["role"].as_str().unwrap();
            let replica = ReplicaDir::open(&dir).unwrap();
            let diagnosis = examine(&replica);
            let codes = codes(&diagnosis);
            assert_eq!(diagnosis.worst().unwrap_or(Severity::Info), Severity::Info, "{id} {role}: {codes:?}");
            let named = codes.iter().any(|code| names.contains(code));
            let is_silent = silent.iter().any(|step| role.ends_with(step));
            assert_eq!(named, !is_silent, "{id} {role}: {codes:?}");
            let cut_short = codes.iter().filter(|code| code.ends_with("cut-short"));
            assert!(cut_short.clone().count() <= 1, "{id} {role}: {codes:?}");
            for code in cut_short {
                assert!(names.contains(code), "{id} {role}: {code}");
                let finding = diagnosis.findings.iter().find(|f| f.code.as_str() == *code).unwrap();
                assert!(finding.meaning.contains("the content is right"), "{id} {role}: {}", finding.meaning);
            }
            let left =
                fs::read_dir(&dir).unwrap().any(|e| e.unwrap().path().extension() == Some("tmp".as_ref()));
            assert_eq!(codes.contains(&"tmp-leftover"), left, "{id} {role}");
            let linked = truth["note"].as_str().unwrap_or_default().contains("same inode");
            assert_eq!(codes.contains(&"same-file"), linked, "{id} {role}");
        }
    }
}

#[test]
fn healthy_replicas_are_left_alone() {
    let harmless = ["dirty", "encrypted", "removed-layer", "removed-behind-head"];
    common::several_at_a_time(common::cases(), |case| {
        let id = case["id"].as_str().unwrap();
        if id.starts_with("15") || id.starts_with("21") {
            return;
        }
        let fixture = common::fixture(id);
        for (dir, truth) in fixture.replicas() {
            let replica = ReplicaDir::open(&dir).unwrap();
            let diagnosis = examine(&replica);
            let codes = codes(&diagnosis);
            if truth["rebuilding"] == true {
                assert!(codes.contains(&"rebuilding"), "{id}: {codes:?}");
                continue;
            }
            assert!(codes.iter().all(|code| harmless.contains(code)), "{id} {}: {codes:?}", truth["dir"]);
            assert_eq!(codes.contains(&"dirty"), truth["dirty"] == true, "{id}");
            let survey = diagnosis.survey.as_ref().unwrap();
            let served: u64 = survey.layers.iter().map(|layer| layer.served_bytes).sum();
            assert_eq!(served, survey.data_bytes, "{id}");
        }
    });
}

#[test]
fn a_replica_without_volume_meta_opens_with_the_proposal_it_was_given() {
    for id in [
        "15a-volume-meta-empty",
        "15b-volume-meta-missing",
        "15c-volume-meta-truncated",
        "15d-volume-meta-nul",
    ] {
        let fixture = common::fixture(id);
        let (dir, truth) = fixture.replica();
        let replica = ReplicaDir::open(&dir).unwrap();
        let refused = replica.open_source(&SourceOptions::default()).err().unwrap();
        let (head, size) = (truth["head"].as_str().unwrap(), truth["size"].as_u64().unwrap());
        let proposal = format!("--head {head} --size {size}");
        assert!(refused.hint().unwrap().contains(&proposal), "{id}: {:?}", refused.hint());
        let told =
            SourceOptions { head: Some(head.into()), size_bytes: Some(size), ..SourceOptions::default() };
        let source = replica.open_source(&told).unwrap();
        assert_eq!(source.volume_bytes, size);
        let codes: Vec<_> = source.findings.iter().map(|finding| finding.code.as_str()).collect();
        assert!(codes.contains(&"chosen-by-hand"), "{id}: {codes:?}");
        // A snapshot needs no head, only the size.
        let snapshot = truth["snapshots"][0]["name"].as_str().unwrap();
        let at = SourceOptions { at: Some(snapshot.into()), ..SourceOptions::default() };
        assert!(replica.open_source(&at).err().unwrap().hint().unwrap().contains(&format!("--size {size}")));
        let at = SourceOptions { size_bytes: Some(size), ..at };
        assert_eq!(
            replica.open_source(&at).unwrap().chain.len(),
            truth["chain_head_first"].as_array().unwrap().len() - 1
        );
    }
}

#[test]
fn the_right_head_is_proposed_when_a_crash_left_two_and_volume_meta_is_gone() {
    for id in ["21-crash-snapshot", "21-crash-expand", "21-crash-revert"] {
        let fixture = common::fixture(id);
        for (dir, truth) in fixture.replicas() {
            fs::remove_file(dir.join("volume.meta")).unwrap();
            let replica = ReplicaDir::open(&dir).unwrap();
            let likely = lhrecover::replica::head::propose(replica.inventory()).unwrap();
            let role = truth["role"].as_str().unwrap();
            // Once the new head has its metadata, the old one is a link to the snapshot below it, or, in a revert,
            // holds what the revert throws away: then the one with data is proposed, as the safer choice.
            let by_link = ["renameat #3", "linkat #2"].iter().any(|step| role.ends_with(step));
            let after_revert = id == "21-crash-revert" && role.ends_with("unlinkat #1");
            if by_link {
                let chain = replica.chain_from(&likely.head);
                assert!(chain.is_whole(), "{id} {role}");
            } else if after_revert {
                assert!(likely.why.contains("was never written to"), "{id} {role}: {}", likely.why);
            } else {
                assert_eq!(likely.head, truth["head"].as_str().unwrap(), "{id} {role}: {}", likely.why);
            }
        }
    }
}

#[test]
fn a_process_that_writes_makes_it_live_and_a_snapshot_can_still_be_read() {
    let fixture = common::fixture("03-explicit-zeros");
    let (dir, truth) = fixture.replica();
    let victim = Victim::new(dir.clone(), &truth);
    let head = fs::OpenOptions::new().read(true).write(true).open(victim.path(victim.head())).unwrap();
    let mut engine = std::process::Command::new("sleep").arg("60").stdin(head).spawn().unwrap();
    let replica = ReplicaDir::open(&dir).unwrap();
    let refused = replica.open_source(&SourceOptions::default()).err();
    let found = codes(&examine(&replica)).contains(&"live-head");
    let at = SourceOptions { at: Some(victim.middle().into()), ..SourceOptions::default() };
    let snapshot = replica.open_source(&at).map(|source| source.recheck());
    let allowed = SourceOptions { allow_live: true, ..SourceOptions::default() };
    let live = replica.open_source(&allowed);
    engine.kill().unwrap();
    engine.wait().unwrap();

    let refused = refused.unwrap();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.hint().unwrap().contains("--allow-live"), "{:?}", refused.hint());
    assert!(found);
    snapshot.unwrap().unwrap();
    // The head may change under a live source, the layers below it may not.
    let live = live.unwrap();
    fs::write(victim.path(victim.head()), "changed").unwrap();
    live.recheck().unwrap();
    fs::write(victim.path(victim.lowest()), "changed").unwrap();
    assert_eq!(live.recheck().unwrap_err().kind(), ErrorKind::Source);
}

#[test]
fn what_changes_while_it_is_read_is_an_error() {
    let changes: [fn(&Victim); 4] = [
        |v| fs::write(v.path(v.head()), "changed").unwrap(),
        |v| fs::rename(v.path(v.middle()), v.path("away")).unwrap(),
        |v| v.edit_layer(v.head(), serde_json::json!({"Parent": ""})),
        |v| v.edit_volume(serde_json::json!({"Head": "volume-head-001.img"})),
    ];
    for (i, change) in changes.into_iter().enumerate() {
        let fixture = common::fixture("03-explicit-zeros");
        let (dir, truth) = fixture.replica();
        let victim = Victim::new(dir.clone(), &truth);
        let source = ReplicaDir::open(&dir).unwrap().open_source(&SourceOptions::default()).unwrap();
        source.recheck().unwrap();
        change(&victim);
        assert_eq!(source.recheck().err().map(|e| e.kind()), Some(ErrorKind::Source), "change {i}");
    }
}

#[test]
fn much_data_without_a_single_block_of_zeros_is_suspicious() {
    const DATA_BYTES: u64 = 160 << 20;
    let scratch = common::scratch();
    let victim = |name: &str| scratch.path().join(name);
    let head = fs::File::create(victim("volume-head-000.img")).unwrap();
    head.set_len(DATA_BYTES * 2).unwrap();
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i % 251) as u8 + 1).collect();
    for i in 0..DATA_BYTES >> 20 {
        head.write_all_at(&block, (i * 2) << 20).unwrap();
    }
    fs::write(victim("volume-head-000.img.meta"), r#"{"Parent":"volume-snap-a.img"}"#).unwrap();
    fs::File::create(victim("volume-snap-a.img")).unwrap().set_len(DATA_BYTES * 2).unwrap();
    fs::write(victim("volume-snap-a.img.meta"), r#"{"Parent":""}"#).unwrap();
    let size = DATA_BYTES * 2;
    fs::write(victim("volume.meta"), format!(r#"{{"Size":{size},"Head":"volume-head-000.img"}}"#)).unwrap();
    let found = || codes(&examine(&ReplicaDir::open(scratch.path()).unwrap()));
    assert_eq!(found(), ["copy-no-zeros"]);
    // With nothing below, a zero that became a hole reads the same.
    fs::write(victim("volume-head-000.img.meta"), r#"{"Parent":""}"#).unwrap();
    assert!(!found().contains(&"copy-no-zeros"));
    fs::write(victim("volume-head-000.img.meta"), r#"{"Parent":"volume-snap-a.img"}"#).unwrap();
    // One written MiB of zeros in the middle is enough.
    head.write_all_at(&[0; 1 << 20], 100 << 20).unwrap();
    assert!(found().is_empty());
    // Of an encrypted volume nothing else can be expected.
    fs::remove_file(victim("volume-head-000.img")).unwrap();
    let head = fs::File::create(victim("volume-head-000.img")).unwrap();
    head.set_len(size).unwrap();
    for i in 0..DATA_BYTES >> 20 {
        head.write_all_at(&block, (i * 2) << 20).unwrap();
    }
    head.write_all_at(b"LUKS\xba\xbe", 0).unwrap();
    assert_eq!(found(), ["encrypted"]);
}

#[test]
fn ten_thousand_layers_are_looked_at_in_bounded_time() {
    let fixture = common::fixture("03-explicit-zeros");
    let (dir, truth) = fixture.replica();
    let victim = Victim::new(dir.clone(), &truth);
    for i in 0..10_000 {
        let parent = format!("volume-snap-n{}.img", (i * 7 + 1) % 10_000);
        victim.write(&format!("volume-snap-n{i}.img.meta"), format!("{{\"Parent\":\"{parent}\"}}"));
    }
    let begun = Instant::now();
    let replica = ReplicaDir::open(&dir).unwrap();
    let diagnosis = examine(&replica);
    let text = inspect::text(&inspect::build(&replica, &diagnosis));
    assert!(diagnosis.survey.is_some());
    assert!(text.len() < 20 << 20, "{} bytes of text", text.len());
    assert!(begun.elapsed() < Duration::from_secs(20), "took {:?}", begun.elapsed());
}
