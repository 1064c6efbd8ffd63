//! `lhrecover scan`: the bundled siblings rank right, whatever is missing, and in whatever order they come.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::cli::{Lhrecover, Ran, has_finding, lhrecover};
use common::damage::Victim;
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::{Fixture, fixture, scratch, text};
use serde_json::{Value, json};

const A: &str = "node-a";
const B: &str = "node-b";
const C: &str = "node-c";
const D: &str = "node-d";

/// Siblings on several nodes, each scanned by itself as on its own machine.
struct Nodes {
    fixture: Fixture,
}

impl Nodes {
    fn new(case: &str) -> Self {
        Nodes { fixture: fixture(case) }
    }

    fn node(&self, node: &str) -> PathBuf {
        self.fixture.dir.path().join(node)
    }

    fn replica(&self, node: &str) -> PathBuf {
        let replicas = self.node(node).join("replicas");
        fs::read_dir(replicas).unwrap().next().unwrap().unwrap().path()
    }

    fn nodes(&self) -> Vec<&str> {
        [A, B, C, D].into_iter().filter(|node| self.node(node).exists()).collect()
    }

    /// Ranks what each node said by itself, in this order.
    fn rank_reports(&self, order: &[&str], more: &[&str]) -> Ran {
        self.rank_files(order, &self.reports(order, more))
    }

    /// What each node says by itself, as files.
    fn reports(&self, nodes: &[&str], more: &[&str]) -> HashMap<String, PathBuf> {
        let report = |node: &&str| {
            let report = self.fixture.dir.path().join(format!("{node}.json"));
            let path = self.node(node);
            let scan = ["scan", "--json", "--quiet", "--node-name", node, text(&path)];
            fs::write(&report, &lhrecover(&[&scan[..], more].concat()).stdout).unwrap();
            ((*node).to_owned(), report)
        };
        nodes.iter().map(report).collect()
    }

    fn rank_files(&self, order: &[&str], reports: &HashMap<String, PathBuf>) -> Ran {
        let from = order.iter().flat_map(|&node| ["--from".to_owned(), text(&reports[node]).to_owned()]);
        let scan = ["scan", "--json", "--quiet"].map(str::to_owned);
        lhrecover(&scan.into_iter().chain(from).collect::<Vec<_>>())
    }

    /// The order in which the nodes rank, with their verdicts.
    fn ranking(&self, more: &[&str]) -> (Vec<(String, String)>, Value) {
        let report = self.rank_reports(&self.nodes(), more).json();
        (places(&report), report)
    }
}

fn volume(report: &Value) -> &Value {
    let volumes = report["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 1, "{report}");
    &volumes[0]
}

fn places(report: &Value) -> Vec<(String, String)> {
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    let replicas = volume(report)["replicas"].as_array().unwrap();
    replicas.iter().map(|r| (string(&r["node"]), string(&r["verdict"]))).collect()
}

#[track_caller]
fn assert_places(found: &[(String, String)], expected: &[(&str, &str)]) {
    let found: Vec<_> = found.iter().map(|(node, verdict)| (node.as_str(), verdict.as_str())).collect();
    assert_eq!(found, expected);
}

#[track_caller]
fn assert_reason(report: &Value, node: &str, words: &str) {
    let replicas = volume(report)["replicas"].as_array().unwrap();
    let replica = replicas.iter().find(|r| r["node"] == node).unwrap();
    let reasons: Vec<_> =
        replica["reasons"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    assert!(reasons.iter().any(|reason| reason.contains(words)), "{node}: {words:?} is not in {reasons:?}");
}

/// All orders of some things.
fn permutations<'a>(all: &[&'a str]) -> Vec<Vec<&'a str>> {
    if all.is_empty() {
        return vec![Vec::new()];
    }
    let first = |i: usize| {
        let rest: Vec<_> = all.iter().enumerate().filter(|&(j, _)| j != i).map(|(_, &x)| x).collect();
        permutations(&rest).into_iter().map(move |tail| [&[all[i]], &tail[..]].concat())
    };
    (0..all.len()).flat_map(first).collect()
}

const RIGHT: [(&str, &str); 4] = [(A, "best"), (B, "doubtful"), (D, "unusable"), (C, "unusable")];

#[test]
fn four_nodes_rank_right_in_every_order() {
    let nodes = Nodes::new("19-three-nodes");
    for order in permutations(&[A, B, C, D]) {
        let report = nodes.rank_reports(&order, &[]).exits(0).json();
        assert_places(&places(&report), &RIGHT);
        assert_eq!(volume(&report)["confidence"], "certain");
        assert_reason(&report, A, "which node-b lacks");
        assert_reason(&report, B, "it lacks snapshot 77a8c181-0948-4b60-8c4b-4f4a582f193d");
        assert_reason(&report, C, "it was being rebuilt");
        assert_reason(&report, D, "a reinstall makes such ones");
    }
}

#[test]
fn paths_on_one_machine_rank_the_same_in_every_order() {
    let nodes = Nodes::new("19-three-nodes");
    let best = text(&nodes.replica(A)).to_owned();
    for order in permutations(&[A, B, C, D]) {
        let paths: Vec<_> = order.iter().map(|node| text(&nodes.node(node)).to_owned()).collect();
        let args: Vec<_> =
            ["scan", "--best", "--quiet"].map(str::to_owned).into_iter().chain(paths).collect();
        let ran = lhrecover(&args).exits(0);
        let fields: Vec<_> = ran.text().trim_end().split('\t').collect();
        assert_eq!(
            (fields[0], fields[2], fields[3]),
            ("pvc-96982083-7f5f-43a2-a6e7-80eba830df05", &*best, "certain")
        );
    }
}

/// Takes a piece of evidence away.
type Removal = fn(&Nodes);

fn no_counters(nodes: &Nodes) {
    for node in nodes.nodes() {
        fs::remove_file(nodes.replica(node).join("revision.counter")).unwrap();
    }
}

fn one_counter_less(nodes: &Nodes) {
    fs::remove_file(nodes.replica(A).join("revision.counter")).unwrap();
}

/// As a copy that keeps no times leaves them.
fn times_lost(nodes: &Nodes) {
    let now = SystemTime::now();
    for node in nodes.nodes() {
        for entry in fs::read_dir(nodes.replica(node)).unwrap() {
            File::options().write(true).open(entry.unwrap().path()).unwrap().set_modified(now).unwrap();
        }
    }
}

fn no_history(nodes: &Nodes) {
    // The snapshot that only A and C have, under the name that B's head goes by: as if A had never taken it.
    let dir = nodes.replica(A);
    let victim = Victim { dir: dir.clone(), chain: Vec::new() };
    victim.edit_layer("volume-head-003.img", json!({"Parent": "volume-snap-snap-2aada580.img"}));
    for suffix in ["", ".meta"] {
        fs::remove_file(dir.join(format!("volume-snap-77a8c181-0948-4b60-8c4b-4f4a582f193d.img{suffix}")))
            .unwrap();
    }
}

fn no_counters_no_times(nodes: &Nodes) {
    no_counters(nodes);
    times_lost(nodes);
}

fn nothing(_: &Nodes) {}

fn no_mark(nodes: &Nodes) {
    Victim { dir: nodes.replica(C), chain: Vec::new() }.edit_volume(json!({"Rebuilding": false}));
}

fn no_checksums(nodes: &Nodes) {
    for node in nodes.nodes() {
        for entry in fs::read_dir(nodes.replica(node)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "checksum") {
                fs::remove_file(path).unwrap();
            }
        }
    }
}

/// What is taken away, how sure it then is, and each node's verdict with words of its reasons, best first.
type WithoutOne =
    (&'static str, Removal, &'static str, &'static [(&'static str, &'static str, &'static str)]);

/// Ranks what is left in every order of the reports.
fn assert_ranked(nodes: impl Fn() -> Nodes, cases: &[WithoutOne], more: &[&str]) {
    for &(case, remove, confidence, expected) in cases {
        let nodes = nodes();
        remove(&nodes);
        let reports = nodes.reports(&nodes.nodes(), more);
        for order in permutations(&nodes.nodes()) {
            let report = nodes.rank_files(&order, &reports).json();
            let right: Vec<_> = expected.iter().map(|&(node, verdict, _)| (node, verdict)).collect();
            assert_eq!(
                places(&report),
                right.iter().map(|&(n, v)| (n.into(), v.into())).collect::<Vec<_>>(),
                "{case}"
            );
            assert_eq!(volume(&report)["confidence"], confidence, "{case}: {}", volume(&report)["doubts"]);
            expected.iter().for_each(|(node, _, words)| assert_reason(&report, node, words));
        }
    }
}

const B_LACKS: &str = "it lacks snapshot 77a8c181-0948-4b60-8c4b-4f4a582f193d";
const A_HAS: &str = "which node-b lacks";
const D_IS_NEW: &str = "made after the others: a reinstall makes such ones";
const C_WAS_FILLING: &str = "it was being rebuilt";
const BY_HISTORY: &[(&str, &str, &str)] = &[
    (A, "best", A_HAS),
    (B, "doubtful", B_LACKS),
    (D, "unusable", D_IS_NEW),
    (C, "unusable", C_WAS_FILLING),
];

#[test]
fn without_one_piece_of_evidence_the_others_decide() {
    let cases: [WithoutOne; 7] = [
        ("all there", nothing, "certain", BY_HISTORY),
        ("no counters", no_counters, "certain", BY_HISTORY),
        ("one counter less", one_counter_less, "certain", BY_HISTORY),
        ("no times", times_lost, "certain", BY_HISTORY),
        ("no counters, no times", no_counters_no_times, "certain", BY_HISTORY),
        (
            // C, which cannot be trusted, then has a snapshot that no other one has.
            "no history",
            no_history,
            "a person must look",
            &[
                (A, "best", "its revision counter is 447"),
                (B, "doubtful", "missed 41 writes"),
                (D, "unusable", D_IS_NEW),
                (C, "unusable", C_WAS_FILLING),
            ],
        ),
        (
            "no mark that it is rebuilding",
            no_mark,
            "certain",
            &[
                (A, "best", "its revision counter is 447"),
                (C, "doubtful", "missed"),
                (B, "doubtful", B_LACKS),
                (D, "unusable", D_IS_NEW),
            ],
        ),
    ];
    assert_ranked(|| Nodes::new("19-three-nodes"), &cases, &[]);
}

#[test]
fn without_checksums_nothing_tells_which_of_two_is_right() {
    let cases: [WithoutOne; 2] = [
        (
            "checksums",
            nothing,
            "likely",
            &[
                (B, "best", "only one that can be trusted"),
                (A, "doubtful", "fails here and passes in node-b"),
            ],
        ),
        (
            "no checksums",
            |nodes| {
                no_checksums(nodes);
                // What files take on the disk is up to the file system, so let something weightier decide.
                for (node, dirty) in [(A, false), (B, true)] {
                    Victim { dir: nodes.replica(node), chain: Vec::new() }
                        .edit_volume(json!({"Dirty": dirty}));
                }
            },
            "a person must look",
            &[(A, "best", "was closed"), (B, "good", "it was not closed")],
        ),
    ];
    assert_ranked(bit_flipped, &cases, &["--deep"]);
}

#[test]
fn without_the_flag_that_it_is_rebuilding_the_counter_still_tells() {
    let nodes = Nodes::new("19-three-nodes");
    no_mark(&nodes);
    let (found, _) = nodes.ranking(&[]);
    assert_eq!(found[0], (A.into(), "best".into()));
    no_counters(&nodes);
    let (found, report) = nodes.ranking(&[]);
    assert_eq!(found[0], (A.into(), "best".into()));
    // It lacks snap-2aada580, which was folded into the one above, as a purge does: that says nothing against it.
    assert_reason(&report, C, "its head takes");
    assert_eq!(volume(&report)["confidence"], "a person must look");
}

#[test]
fn without_counters_the_head_that_was_written_last_is_likely() {
    let nodes = Nodes::new("19b-three-nodes-norev");
    for order in permutations(&[A, B, C]) {
        let report = nodes.rank_reports(&order, &[]).exits(1).json();
        assert_places(&places(&report), &[(A, "best"), (B, "doubtful"), (C, "doubtful")]);
        // Seconds decide, and nobody has compared the clocks of the three.
        assert_eq!(volume(&report)["confidence"], "a person must look");
        assert_reason(&report, A, "7 s after that of node-b");
        assert_reason(&report, C, "14 s before that of node-a");
    }
    let paths: Vec<_> = [A, B, C].map(|node| text(&nodes.node(node)).to_owned()).into();
    let args: Vec<_> = ["scan", "--json", "--quiet"].map(str::to_owned).into_iter().chain(paths).collect();
    // Three disks in one machine may come from three.
    assert_eq!(volume(&lhrecover(&args).exits(1).json())["confidence"], "a person must look");
    let one_root = nodes.fixture.dir.path().join("replicas");
    fs::create_dir(&one_root).unwrap();
    for node in [A, B, C] {
        let of_node = nodes.replica(node);
        fs::rename(&of_node, one_root.join(of_node.file_name().unwrap())).unwrap();
    }
    let ran = lhrecover(&["scan", "--json", "--quiet", text(&one_root)]).exits(0);
    assert_eq!(volume(&ran.json())["confidence"], "likely", "with one clock");
    let nodes = Nodes::new("19b-three-nodes-norev");
    times_lost(&nodes);
    let ran = nodes.rank_reports(&nodes.nodes(), &[]).exits(1);
    let report = ran.json();
    assert_eq!(places(&report)[0], (A.into(), "best".into()), "its head is the largest");
    assert_eq!(volume(&report)["confidence"], "a person must look");
    assert!(volume(&report)["doubts"].to_string().contains("those of a copy"));
}

#[test]
fn a_fresh_empty_one_is_taken_only_where_nothing_has_data() {
    let empty = fixture("26-fresh-empty");
    let report = lhrecover(&["scan", "--json", "--quiet", text(empty.dir.path())]).exits(0).json();
    assert_eq!(volume(&report)["replicas"][0]["verdict"], "best");
    assert_eq!(volume(&report)["confidence"], "likely");
    // Beside data, under the data's name.
    let data = fixture("01-base-only");
    let name = data.replica().0.file_name().unwrap().to_str().unwrap().to_owned();
    let beside = data.dir.path().join(format!("{}-ffffffff", &name[..name.len() - 9]));
    fs::rename(empty.replica().0, beside).unwrap();
    let report = lhrecover(&["scan", "--json", "--quiet", text(data.dir.path())]).json();
    assert_eq!(volume(&report)["replicas"][0]["verdict"], "best");
    assert_eq!(volume(&report)["best"]["path"], text(&data.replica().0));
    assert_eq!(volume(&report)["replicas"][1]["verdict"], "unusable");
}

#[test]
fn rebuilding_ones_are_never_taken() {
    for case in ["13a-rebuilding-broken-chain", "13b-rebuilding-looks-complete", "13c-rebuilding-just-begun"]
    {
        let fixture = fixture(case);
        let report = lhrecover(&["scan", "--json", "--quiet", text(fixture.dir.path())]).exits(0).json();
        let good = fixture.replicas().into_iter().find(|(_, r)| r["role"] == "healthy source").unwrap().0;
        assert_eq!(volume(&report)["best"]["path"], text(&good), "{case}");
        assert_eq!(volume(&report)["replicas"][1]["verdict"], "unusable", "{case}");
        // Alone, nothing can be trusted.
        let other = fixture.replicas().into_iter().find(|(_, r)| r["role"] != "healthy source").unwrap().0;
        let ran = lhrecover(&["scan", "--json", "--quiet", text(&other)]).exits(1);
        assert_eq!(volume(&ran.json())["best"], Value::Null, "{case}");
        assert!(has_finding(volume(&ran.json()), "no-trusted-replica"), "{case}");
        lhrecover(&["scan", text(&other)]).exits(1);
        assert_eq!(lhrecover(&["scan", "--best", "--quiet", text(&other)]).exits(1).text(), "");
    }
}

/// Two replicas of one volume, made of the two fixtures that differ in one bit.
fn bit_flipped() -> Nodes {
    let nodes = Nodes::new("20b-checksum-bitflip");
    let flipped = nodes.fixture.replica().0;
    for node in [A, B] {
        fs::create_dir_all(nodes.node(node).join("replicas")).unwrap();
    }
    let name = flipped.file_name().unwrap().to_owned();
    fs::rename(&flipped, nodes.node(A).join("replicas").join(&name)).unwrap();
    let again = fixture("20b-checksum-bitflip");
    let whole = again.replica().0;
    let snapshot = whole.join("volume-snap-snapshot-e32125bf-23c4-4b68-a4ce-fbfcbd92d189.img");
    flip(&snapshot, 83154);
    let to = nodes.node(B).join("replicas").join(name);
    fs::rename(whole, to).unwrap();
    nodes
}

/// Flips the bit back that is said to be flipped, and fails unless the recorded checksum then matches.
fn flip(file: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let open = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, offset).unwrap();
    let matches = || {
        let ran = lhrecover(&["verify", "--json", "--quiet", text(file.parent().unwrap())]);
        ran.status.code() == Some(0)
    };
    for bit in 0..8 {
        open.write_all_at(&[byte[0] ^ (1 << bit)], offset).unwrap();
        if matches() {
            return;
        }
    }
    panic!("no bit there makes the checksum match");
}

#[test]
fn a_flipped_bit_is_found_by_a_deep_scan_and_its_sibling_is_taken() {
    let nodes = bit_flipped();
    let report = nodes.rank_reports(&[A, B], &["--deep"]).exits(1).json();
    assert_places(&places(&report), &[(B, "best"), (A, "doubtful")]);
    assert_reason(&report, A, "fails here and passes in node-b");
    assert!(has_finding(volume(&report), "snapshot-differs"));
    let replicas = volume(&report)["replicas"].as_array().unwrap();
    assert!(replicas.iter().all(|r| r["deep"] == true && r["data_bytes"].as_u64() > Some(0)));
    // Without a closer look nothing is known of it, and nothing is held against either.
    let shallow = nodes.rank_reports(&[A, B], &[]).json();
    assert_places(&places(&shallow), &[(A, "best"), (B, "good")]);
    // A deep look at the one and a shallow one at the other.
    let deep = lhrecover(&["scan", "--json", "--deep", "--quiet", "--node-name", B, text(&nodes.node(B))]);
    fs::write(nodes.fixture.dir.path().join("deep.json"), &deep.stdout).unwrap();
    let from = nodes.fixture.dir.path().join("deep.json");
    let of_a = nodes.node(A);
    let mixed = ["scan", "--json", "--quiet", "--node-name", A, "--from", text(&from), text(&of_a)];
    assert_places(&places(&lhrecover(&mixed).json()), &[(A, "best"), (B, "good")]);
}

#[test]
fn without_recorded_checksums_siblings_still_differ() {
    let nodes = bit_flipped();
    no_checksums(&nodes);
    let report = nodes.rank_reports(&[A, B], &["--deep"]).exits(1).json();
    assert!(has_finding(volume(&report), "snapshot-differs"));
    assert_eq!(volume(&report)["confidence"], "a person must look");
    let doubts = volume(&report)["doubts"].to_string();
    assert!(doubts.contains("snapshot-e32125bf-23c4-4b68-a4ce-fbfcbd92d189 is not the same"), "{doubts}");
}

#[test]
fn it_shows_what_is_inside() {
    for (case, guest) in [("16-ext4-sqlite", "ext4"), ("17-xfs-sqlite", "XFS"), ("22-luks-encrypted", "LUKS")]
    {
        let fixture = fixture(case);
        let report = lhrecover(&["scan", "--deep", "--json", "--quiet", text(fixture.dir.path())]).json();
        let found = report["volumes"][0]["replicas"][0]["guest"].as_str().unwrap();
        assert!(found.contains(guest), "{case}: {found}");
    }
}

#[test]
fn every_fixture_is_scanned_and_none_is_changed() {
    for case in common::cases() {
        let id = case["id"].as_str().unwrap();
        let fixture = fixture(id);
        let before = Fingerprint::of(fixture.dir.path());
        for depth in [&[][..], &["--deep"]] {
            let ran = lhrecover(&[&["scan", "--json", "--quiet", text(fixture.dir.path())], depth].concat());
            assert!(matches!(ran.status.code(), Some(0 | 1 | 3)), "{id}: {:?}", ran.status.code());
            before.assert_unchanged(fixture.dir.path(), &format!("scan {depth:?} of {id}"));
        }
    }
}

#[test]
fn volumes_are_chosen_by_name_and_paths_count_once() {
    let nodes = Nodes::new("19-three-nodes");
    let all = [
        text(&nodes.node(A)).to_owned(),
        text(&nodes.replica(A)).to_owned(),
        text(&nodes.node(B)).to_owned(),
    ];
    let scan = |more: &[&str]| {
        let args: Vec<_> =
            ["scan", "--json", "--quiet"].iter().chain(more).map(|s| (*s).to_owned()).collect();
        lhrecover(&[args, all.to_vec()].concat()).json()
    };
    assert_eq!(places(&scan(&[])).len(), 2);
    assert_eq!(places(&scan(&["--volume", "nothing", "--volume", "pvc-9698"])).len(), 2);
    assert_eq!(scan(&["--volume", "nothing"])["volumes"], json!([]));
}

#[test]
fn what_cannot_be_scanned_is_said_and_does_not_stop_the_rest() {
    let nodes = Nodes::new("19-three-nodes");
    let gone = nodes.fixture.dir.path().join("gone");
    let ran = lhrecover(&["scan", "--json", "--quiet", text(&gone), text(&nodes.node(A))]).exits(1);
    assert!(has_finding(&ran.json(), "path-unreadable"));
    assert_eq!(places(&ran.json()).len(), 1);
    // It goes along with the report, as what it holds is missing from any ranking made of it.
    let report = nodes.fixture.dir.path().join("report.json");
    fs::write(&report, &ran.stdout).unwrap();
    let again = lhrecover(&["scan", "--json", "--quiet", "--from", text(&report)]).exits(1);
    assert!(has_finding(&again.json(), "path-unreadable"));
    for (what, json) in [("nothing", ""), ("other JSON", "{}"), ("a later one", r#"{"schema_version": 9}"#)] {
        fs::write(&report, json).unwrap();
        let ran = lhrecover(&["scan", "--from", text(&report)]).exits(2);
        assert!(ran.stderr.contains("report.json"), "{what}: {}", ran.stderr);
    }
}

#[test]
fn hostile_names_and_metadata_are_shown_and_not_obeyed() {
    let disk = scratch();
    let name = "vol\u{1b}[2J\nforged\tetc\tcertain-0123abcd";
    let dir = disk.path().join("replicas").join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("volume-head-000.img"), [1; 4096]).unwrap();
    fs::write(
        dir.join("volume-head-000.img.meta"),
        r#"{"Name":"","Parent":"","Created":"2026-01-01T00:00:00Z"}"#,
    )
    .unwrap();
    let meta = |head: &str| format!(r#"{{"Size":4096,"Head":"{head}","Error":""}}"#);
    fs::write(dir.join("volume.meta"), meta("volume-head-000.img")).unwrap();
    let best = lhrecover(&["scan", "--best", "--quiet", text(disk.path())]);
    assert_eq!(best.text().lines().count(), 1, "{:?}", best.text());
    assert_eq!(best.text().matches('\t').count(), 3, "{:?}", best.text());
    for more in [&[][..], &["--json"], &["--best", "--json"]] {
        let ran = lhrecover(&[&["scan", text(disk.path())], more].concat());
        assert!(!ran.text().contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{more:?}");
    }
    fs::write(dir.join("volume.meta"), meta("../../../etc/passwd")).unwrap();
    let report = lhrecover(&["scan", "--json", "--quiet", text(disk.path())]).exits(1).json();
    assert_eq!(volume(&report)["replicas"][0]["verdict"], "unusable");
}

#[test]
fn a_head_written_before_it_was_made_is_flagged() {
    let fixture = fixture("24-rpc-clean");
    let (dir, truth) = fixture.replica();
    let head = File::options().write(true).open(dir.join(truth["head"].as_str().unwrap())).unwrap();
    head.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)).unwrap();
    let report = lhrecover(&["scan", "--json", "--quiet", text(&dir)]).exits(1).json();
    assert!(has_finding(volume(&report), "head-time-impossible"));
}

/// Without the spaces that fill a table's columns: how wide one is depends on where the test runs.
fn narrow(mut ran: Ran) -> Ran {
    let lines: Vec<_> =
        ran.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    ran.stdout = (lines.join("\n") + "\n").into_bytes();
    ran
}

#[test]
fn one_name_on_several_machines_is_not_one_clock() {
    let nodes = Nodes::new("19b-three-nodes-norev");
    let mut reports = HashMap::new();
    for node in [A, B, C] {
        let path = nodes.node(node);
        let ran = lhrecover(&["scan", "--json", "--quiet", "--node-name", "raspberrypi", text(&path)]);
        let report = nodes.fixture.dir.path().join(format!("{node}.json"));
        fs::write(&report, &ran.stdout).unwrap();
        reports.insert(node.to_owned(), report);
    }
    let first = nodes.rank_files(&[A, B, C], &reports).exits(1);
    assert_eq!(volume(&first.json())["confidence"], "a person must look");
    // The same, from what that printed.
    let again = nodes.fixture.dir.path().join("again.json");
    fs::write(&again, &first.stdout).unwrap();
    let ran = lhrecover(&["scan", "--json", "--quiet", "--from", text(&again)]).exits(1);
    assert_eq!(volume(&ran.json())["doubts"], volume(&first.json())["doubts"]);
}

#[test]
fn a_counter_that_the_engine_would_not_read_is_said() {
    let fixture = fixture("24-rpc-clean");
    let dir = fixture.replica().0;
    fs::write(dir.join("revision.counter"), "").unwrap();
    let report = lhrecover(&["scan", "--json", "--quiet", text(&dir)]).json();
    let trouble = volume(&report)["replicas"][0]["trouble"].to_string();
    assert!(trouble.contains("revision.counter") && trouble.contains("refuse to open it"), "{trouble}");
    assert_eq!(volume(&report)["replicas"][0]["verdict"], "best");
}

#[test]
fn names_that_are_no_text_stay_apart() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let fixture = fixture("24-rpc-clean");
    let disk = scratch();
    for name in [&b"vol\xff-cccccccc"[..], b"vol\xfe-cccccccc"] {
        let to = disk.path().join(OsStr::from_bytes(name));
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(fixture.replica().0).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let report = lhrecover(&["scan", "--json", "--quiet", text(disk.path())]).json();
    let names: Vec<_> =
        report["volumes"].as_array().unwrap().iter().map(|v| v["volume"].as_str().unwrap()).collect();
    assert_eq!(names, ["vol\\xfe", "vol\\xff"]);
}

#[test]
fn a_copy_is_one_of_the_volume_whatever_it_is_called() {
    let fixture = fixture("24-rpc-clean");
    let original = fixture.replica().0;
    let copies = scratch();
    let copy = copies.path().join("copy of C");
    lhrecover(&["preserve", "--quiet", text(&original), text(&copy)]).exits(0);
    let report = lhrecover(&["scan", "--json", "--quiet", text(&original), text(&copy)]).json();
    assert_eq!(volume(&report)["replicas"].as_array().unwrap().len(), 2);
}

#[test]
fn paths_are_told_in_full() {
    let nodes = Nodes::new("19-three-nodes");
    let ran = Lhrecover::new(&["scan", "--best", "node-a"]).in_dir(nodes.fixture.dir.path()).run();
    let path = ran.text().split('\t').nth(2).unwrap().to_owned();
    assert_eq!(path, text(&nodes.replica(A)));
}

#[test]
fn what_it_prints() {
    let nodes = Nodes::new("19-three-nodes");
    let root = nodes.fixture.dir.path();
    let mut args = vec!["scan".to_owned(), "--node-name".into(), "here".into()];
    args.extend([A, B, C, D].map(|node| text(&nodes.node(node)).to_owned()));
    assert_golden("scan-three-nodes", root, &narrow(lhrecover(&args)));
    let of_c = nodes.node(C);
    let alone = ["scan", "--node-name", "here", text(&of_c)];
    assert_golden("scan-nothing-to-trust", root, &narrow(lhrecover(&alone)));
    let gone = root.join("gone");
    let usual = lhrecover(&["scan", "--node-name", "here", text(&gone)]);
    assert_golden("scan-no-such-path", root, &usual);
}
