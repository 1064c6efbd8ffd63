//! `lhrecover scan` over several nodes, each a real sshd: they are ranked together, and one that fails stops nobody.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::cli::{Lhrecover, PROGRAM, Ran, has_finding, lhrecover};
use common::fingerprint::Fingerprint;
use common::sshd::Nodes;
use common::{Fixture, fixture, text};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// The volume of the fixture.
const VOLUME: &str = "pvc-96982083-7f5f-43a2-a6e7-80eba830df05";

/// The fixture of four replicas on four nodes: `a` the newest, `b` stale, `c` rebuilding, `d` empty.
fn disks() -> Fixture {
    fixture("19-three-nodes")
}

/// The data path of the fixture's node.
fn disk(disks: &Fixture, node: &str) -> PathBuf {
    disks.dir.path().join(format!("node-{node}"))
}

/// Scans these nodes, each as `--node` takes it, and nothing that this machine may have.
fn scan(nodes: &Nodes, named: &[&str], more: &[&str]) -> Lhrecover {
    let config = nodes.config("");
    let mut args = vec!["scan", "--ssh-config", text(&config), "--volume", VOLUME];
    args.extend(named.iter().flat_map(|node| ["--node", node]));
    args.extend(more);
    Lhrecover::new(&args)
}

/// Node and verdict of each replica of the one volume, best first.
fn ranked(report: &Value) -> Vec<(&str, &str)> {
    let volumes = report["volumes"].as_array().unwrap();
    assert_eq!(volumes.len(), 1, "{report}");
    let replicas = volumes[0]["replicas"].as_array().unwrap();
    replicas.iter().map(|r| (r["node"].as_str().unwrap(), r["verdict"].as_str().unwrap())).collect()
}

/// What is said of the node `name`.
fn node<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["nodes"].as_array().unwrap().iter().find(|node| node["node"] == name).unwrap()
}

fn install_link(nodes: &Nodes, name: &str) {
    let bin = nodes.home(name).join(".local/bin");
    fs::create_dir_all(&bin).unwrap();
    symlink(PROGRAM, bin.join("lhrecover")).unwrap();
}

#[test]
fn nodes_are_ranked_together() {
    let Some(mut nodes) = Nodes::new("nodes_are_ranked_together") else { return };
    let disks = disks();
    let odd = disks.dir.path().join("it's a \"disk\" $(touch pwned)\\");
    fs::rename(disk(&disks, "c"), &odd).unwrap();
    let before = Fingerprint::of(disks.dir.path());
    for name in ["a", "b", "c", "d"] {
        nodes.start(name, "");
    }
    install_link(&nodes, "a");
    // The rest has no lhrecover: the running program goes there. One is in a file, one is a replicas directory.
    let list = nodes.dir().join("list");
    fs::write(&list, format!("# the one with the odd name\n\nc:{}\n", text(&odd))).unwrap();
    let places = [
        format!("d:{}", text(&disk(&disks, "d"))),
        format!("b:{}/replicas", text(&disk(&disks, "b"))),
        format!("a:{}", text(&disk(&disks, "a"))),
    ];
    let more = ["--node-file", text(&list), "--json"];
    let report = scan(&nodes, &places.each_ref().map(String::as_str), &more).run().exits(0).json();
    assert_eq!(ranked(&report), [("a", "best"), ("b", "doubtful"), ("d", "unusable"), ("c", "unusable")]);
    assert_eq!(report["volumes"][0]["best"]["node"], "a");
    assert_eq!(report["volumes"][0]["confidence"], "certain");
    for name in ["a", "b", "c", "d"] {
        let seen = node(&report, name);
        assert_eq!(seen["error"], Value::Null);
        let off = &seen["clock"]["off_seconds"];
        assert!(off.as_i64().is_some_and(|off| off.abs() <= 1), "{seen}");
        assert!(fs::read_dir(nodes.tmp(name)).unwrap().next().is_none(), "something is left on {name}");
    }
    assert!(!nodes.home("c").join("pwned").exists() && !Path::new("pwned").exists());
    assert!(before == Fingerprint::of(disks.dir.path()), "a source was touched");
}

#[test]
fn a_node_that_is_down_or_slow_is_reported_and_stops_nobody() {
    let Some(mut nodes) = Nodes::new("a_node_that_is_down_or_slow_is_reported_and_stops_nobody") else {
        return;
    };
    let disks = disks();
    nodes.start("a", "");
    install_link(&nodes, "a");
    nodes.add("down");
    nodes.start("slow", "ForceCommand exec sleep 120");
    nodes.start("new", "");
    nodes.forget("new");
    let place = format!("a:{}", text(&disk(&disks, "a")));
    let began = Instant::now();
    let named = ["slow:/x", "down", &place, "new"];
    let ran = scan(&nodes, &named, &["--json", "--node-timeout", "10"]).run().exits(1);
    assert!(began.elapsed() < Duration::from_secs(60));
    let report = ran.json();
    assert_eq!(ranked(&report)[0].0, "a");
    for (name, why) in
        [("down", "Connection refused"), ("slow", "timed out"), ("new", "Host key verification")]
    {
        let error = node(&report, name)["error"].as_str().unwrap();
        assert!(error.contains(why), "{error}");
    }
    let findings = report["findings"].as_array().unwrap();
    let unreachable = findings.iter().filter(|found| found["code"] == "node-unreachable");
    assert_eq!(unreachable.count(), 3);
    // What is missing may be better than what is there.
    assert_ne!(report["volumes"][0]["confidence"], "certain");
    let doubts = report["volumes"][0]["doubts"].to_string();
    assert!(doubts.contains("not everything could be looked at"), "{doubts}");
    assert_eq!(node(&report, "a")["error"], Value::Null);
}

#[test]
fn a_hostile_directory_harms_nobody() {
    let Some(mut nodes) = Nodes::new("a_hostile_directory_harms_nobody") else { return };
    let disks = disks();
    for name in ["a", "evil"] {
        nodes.start(name, "");
        install_link(&nodes, name);
    }
    let replicas = nodes.dir().join("evil/replicas");
    let dirs =
        [format!("{VOLUME}-00000001"), format!("{VOLUME}-00000002"), format!("{VOLUME}-\x1b[2J\n-00000003")];
    for dir in &dirs {
        fs::create_dir_all(replicas.join(dir)).unwrap();
    }
    let write = |at: usize, name: &str, value: Value| {
        fs::write(replicas.join(&dirs[at]).join(name), value.to_string()).unwrap();
    };
    let info = |head: &str| json!({"Size": 33_554_432, "Head": head, "Dirty": false, "Rebuilding": false, "Error": ""});
    let layer = |parent: &str| json!({"Name": "x", "Parent": parent, "Created": "2100-01-01T00:00:00Z"});
    write(0, "volume.meta", info("../../../../../../etc/passwd"));
    write(1, "volume.meta", info("volume-head-000.img"));
    write(1, "volume-head-000.img.meta", layer("volume-snap-\x1b[31m.img"));
    write(1, "volume-snap-\x1b[31m.img.meta", layer("volume-snap-\x1b[31m.img"));
    symlink("/etc/passwd", replicas.join(&dirs[1]).join("volume-head-000.img")).unwrap();
    write(2, "volume.meta", json!("[".repeat(100_000)));
    symlink("/", replicas.join(format!("{VOLUME}-00000004"))).unwrap();
    let places =
        [format!("evil:{}", text(replicas.parent().unwrap())), format!("a:{}", text(&disk(&disks, "a")))];
    let named = places.each_ref().map(String::as_str);
    let report = scan(&nodes, &named, &["--json"]).run().json();
    let ranked_first = &report["volumes"].as_array().unwrap().iter().find(|v| v["volume"] == VOLUME).unwrap();
    assert_eq!(ranked_first["best"]["node"], "a");
    let replicas = ranked_first["replicas"].as_array().unwrap();
    let evil: Vec<_> = replicas.iter().filter(|replica| replica["node"] == "evil").collect();
    assert!(evil.len() >= 2 && evil.iter().all(|replica| replica["verdict"] == "unusable"), "{ranked_first}");
    let shown = scan(&nodes, &named, &[]).run();
    assert!(!shown.text().contains('\x1b') && !shown.stderr.contains('\x1b'));
    assert!(!shown.text().contains("root:"));
}

#[test]
fn a_node_that_lies_is_found_out_or_held_to_its_name() {
    let Some(mut nodes) = Nodes::new("a_node_that_lies_is_found_out_or_held_to_its_name") else { return };
    let disks = disks();
    nodes.start("a", "");
    install_link(&nodes, "a");
    let place = format!("a:{}", text(&disk(&disks, "a")));
    let truth = scan(&nodes, &[&place], &["--json"]).run().text().to_owned();
    let lies = [
        ("mute", String::new()),
        ("garbled", truth.replace("\"volumes\"", "volumes")),
        ("later", truth.replace("\"schema_version\": 1", "\"schema_version\": 2")),
        // The truth about somebody else.
        ("other", truth.clone()),
    ];
    let mut named = vec![place.as_str()];
    for (name, says) in &lies {
        nodes.start(name, "");
        let bin = nodes.home(name).join(".local/bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("says"), says).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" != --version ] || exec echo lhrecover {version}\ncat {}\n",
            text(&bin.join("says"))
        );
        fs::write(bin.join("lhrecover"), script).unwrap();
        common::loopdev::run("chmod", &["755", text(&bin.join("lhrecover"))]);
        named.push(name);
    }
    let report = scan(&nodes, &named, &["--json"]).run().exits(1).json();
    for name in ["mute", "garbled", "later"] {
        assert!(node(&report, name)["error"].as_str().unwrap().contains("its answer is no scan"), "{report}");
    }
    let mut of = ranked(&report).into_iter().map(|(node, _)| node).collect::<Vec<_>>();
    of.sort_unstable();
    assert_eq!(of, ["a", "other"]);
    assert!(has_finding(&report, "node-unreachable"));
}

#[test]
fn interrupted_or_killed_it_leaves_nothing_behind() {
    let Some(mut nodes) = Nodes::new("interrupted_or_killed_it_leaves_nothing_behind") else { return };
    let tmp = |nodes: &Nodes| fs::read_dir(nodes.tmp("a")).unwrap().count();
    nodes.start("a", "");
    nodes.start("slow", "ForceCommand exec sleep 120");
    let alone = |process: &PathBuf, config: &str| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(config)
    };
    for (signal, code) in [(Signal::SIGINT, Some(130)), (Signal::SIGKILL, None)] {
        let mut running = scan(&nodes, &["slow", "a:/nowhere"], &[]).spawn();
        running.wait_until("the program was sent", || tmp(&nodes) > 0);
        running.signal(signal);
        let Ran { status, .. } = running.finish();
        assert_eq!(status.code(), code);
        let config = text(nodes.dir()).to_owned() + "/config";
        let began = Instant::now();
        let ssh_is_there = || {
            let mut processes = fs::read_dir("/proc").unwrap().flatten().map(|process| process.path());
            processes.any(|process| alone(&process, &config))
        };
        while tmp(&nodes) > 0 || (code.is_some() && ssh_is_there()) {
            assert!(began.elapsed() < Duration::from_secs(20), "something is left after {signal}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn what_is_no_node_is_refused_before_anything_is_done() {
    for args in [
        &["--node", "-oProxyCommand=touch x"][..],
        &["--node=-l"],
        &["--node", "a b"],
        &["--node", "a:relative"],
        &["--node", ""],
        &["--node-file", "/nowhere"],
        &["--node", "a", "--push-binary", "nothing"],
        &["--node", "a", "--node-timeout", "0"],
    ] {
        lhrecover(&[&["scan"], args].concat()).exits(2);
    }
}
