//! The documents say what the program does: every JSON key, every finding code, every command.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use common::chain::{Chain, Mark};
use common::cli::{Lhrecover, lhrecover};
use common::loopdev;
use common::mounts::Mounts;
use common::nbd::Server;
use common::{Fixture, fixture, scratch_has_fiemap, text};
use lhrecover::cli::Cli;
use lhrecover::error::ErrorKind;
use lhrecover::model::finding::{Code, Finding};
use lhrecover::model::units::ByteRange;
use lhrecover::report::finding::FindingReport;
use serde_json::Value;

/// Objects whose keys are data.
const MAPS: [&str; 4] = [
    "entries[].xattrs",
    "layers[].labels",
    "manifest.directory.xattrs",
    "manifest.files[].attributes.xattrs",
];

fn doc(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)
}

/// The keys documented in the section `## <name>` of JSON.md: what stands in backticks in a table's first column.
fn documented(section: &str) -> BTreeSet<String> {
    let page = fs::read_to_string(doc("JSON.md")).unwrap();
    let (_, from) = page.split_once(&format!("\n## {section}\n")).expect(section);
    let body = from.split_once("\n## ").map_or(from, |(body, _)| body);
    body.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect()
}

/// What a value has: paths of its keys, and of those that had nothing below them to look at.
#[derive(Default)]
struct Keys {
    all: BTreeSet<String>,
    hollow: BTreeSet<String>,
}

impl Keys {
    fn add(&mut self, value: &Value, path: &str) {
        match value {
            Value::Object(_) if MAPS.contains(&path) => {}
            Value::Object(members) => {
                for (key, member) in members {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    self.all.insert(path.clone());
                    self.add(member, &path);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for item in items {
                    self.add(item, &format!("{path}[]"));
                }
            }
            Value::Array(_) | Value::Null => {
                self.hollow.insert(path.to_owned());
            }
            _ => {}
        }
    }

    fn of(values: &[Value]) -> Keys {
        let mut keys = Keys::default();
        for value in values {
            keys.add(value, "");
        }
        keys
    }
}

/// Fails unless `values` have just the keys that `section` documents. Findings have a section of their own.
fn compare(section: &str, values: &[Value]) {
    compare_with(section, &documented(section), values);
}

fn compare_with(section: &str, documented: &BTreeSet<String>, values: &[Value]) {
    let seen = Keys::of(values);
    let seen_here: BTreeSet<_> = seen.all.iter().filter(|key| !key.contains("findings[]")).cloned().collect();
    let missing: Vec<_> = seen_here.difference(documented).collect();
    assert!(missing.is_empty(), "docs/JSON.md, {section}: not documented: {missing:?}");
    let below_hollow = |key: &str| {
        seen.hollow
            .iter()
            .any(|at| key.strip_prefix(at.as_str()).is_some_and(|rest| rest.starts_with(['.', '['])))
    };
    let gone: Vec<_> = documented.difference(&seen_here).filter(|key| !below_hollow(key)).collect();
    assert!(gone.is_empty(), "docs/JSON.md, {section}: documented, and never there: {gone:?}");
}

fn findings_in(value: &Value) -> Vec<Value> {
    value["findings"].as_array().cloned().unwrap_or_default()
}

/// A merge of the case's first replica, as `--json` and as `--manifest` tell it.
fn merge(fixture: &Fixture, more: &[&str]) -> [Value; 2] {
    let (replica, _) = fixture.replica();
    let image = fixture.dir.path().join("image");
    let manifest = fixture.dir.path().join("manifest");
    let mut args =
        vec!["merge", text(&replica), text(&image), "--json", "--manifest", text(&manifest), "--force"];
    args.extend(more);
    let printed = serde_json::from_slice(&lhrecover(&args).stdout).expect("JSON on standard output");
    let kept =
        serde_json::from_slice(&fs::read(&manifest).expect("a manifest")).expect("JSON in the manifest");
    [printed, kept]
}

#[test]
fn merge_prints_what_json_md_says() {
    let plain = fixture("02-head-one-snapshot");
    let removed = fixture("09a-marked-removed");
    let snapshots = removed.replica().1["snapshots"].clone();
    let gone =
        snapshots.as_array().unwrap().iter().find(|s| s["removed"] == true).expect("a removed snapshot");
    let values = [
        merge(&plain, &["--verify", "--digest", "sha256"]),
        merge(&plain, &[]),
        merge(&removed, &["--at", gone["name"].as_str().unwrap()]),
    ];
    for [printed, kept] in &values {
        assert_eq!(printed, kept, "the manifest is what --json prints");
    }
    let printed: Vec<_> = values.into_iter().map(|[printed, _]| printed).collect();
    compare("merge", &printed);
    assert!(!findings_in(&printed[2]).is_empty());
}

#[test]
fn inspect_prints_what_json_md_says() {
    let inspected =
        ["08-revert-branches", "12b-qcow2-compressed-backing", "15c-volume-meta-truncated", "16-ext4-sqlite"]
            .map(|id| {
                let fixture = fixture(id);
                let (replica, _) = fixture.replica();
                serde_json::from_slice(&lhrecover(&["inspect", text(&replica), "--json"]).stdout)
                    .expect("JSON")
            });
    compare("inspect", &inspected);
}

#[test]
fn scan_prints_what_json_md_says() {
    let nodes = fixture("19-three-nodes");
    let paths: Vec<_> =
        ["node-a", "node-b", "node-c", "node-d"].map(|node| nodes.dir.path().join(node)).into();
    let hashed = fixture("20-checksums");
    let mut args = vec!["scan", "--json", "--deep", text(hashed.dir.path())];
    args.extend(paths.iter().map(|path| text(path)));
    let deep: Value = serde_json::from_slice(&lhrecover(&args).stdout).expect("JSON");
    let gone = nodes.dir.path().join("gone");
    let nothing: Value =
        serde_json::from_slice(&lhrecover(&["scan", "--json", text(&gone)]).stdout).expect("JSON");
    assert_eq!(findings_in(&nothing).len(), 1);
    compare("scan", &[deep, nothing]);
}

#[test]
fn verify_prints_what_json_md_says() {
    let json = |args: &[&str]| -> Value {
        serde_json::from_slice(&lhrecover(&[args, &["--json"]].concat()).stdout).expect("JSON")
    };
    let (replica, other) = (fixture("20b-checksum-bitflip"), fixture("20b-checksum-bitflip"));
    let (dir, sibling) = (replica.replica().0, other.replica().0);
    fs::write(sibling.join("volume-snap-only-there.img"), "").unwrap();
    let snapshot = sibling.join("volume-snap-78fcc833-5db6-47e5-a0d6-e0080f7bcf26.img");
    fs::OpenOptions::new().write(true).open(snapshot).unwrap().write_all_at(b"x", 8192).unwrap();
    let kept = common::scratch();
    let image = kept.path().join("image");
    fs::write(&image, [1; 5000]).unwrap();
    let verify = ["verify", text(&dir)];
    let mut values = vec![
        json(&[&verify[..], &[text(&image)]].concat()),
        json(&[&verify[..], &["--sibling", text(&sibling)]].concat()),
        json(&[&verify[..], &["--checksums-write", text(kept.path())]].concat()),
    ];
    let sums = values[2]["digests"]["path"].as_str().unwrap().to_owned();
    values.push(json(&[&verify[..], &["--checksums-check", &sums]].concat()));
    compare("verify", &values);
    compare("recorded digests", &[serde_json::from_slice(&fs::read(sums).unwrap()).unwrap()]);
}

#[test]
fn diff_prints_what_json_md_says() {
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let json =
        |args: &[&str]| lhrecover(&[&["diff", text(&replica), "--json"], args].concat()).exits(1).json();
    let ranges = json(&["--from", "stage1", "--ranges"]);
    compare("diff", &[ranges, json(&["--from", "stage1", "--files"])]);
}

#[test]
fn map_prints_what_json_md_says() {
    let fixture = fixture("19-three-nodes");
    let (replica, _) = fixture.replica();
    let json = |args: &[&str]| lhrecover(&[&["map", "--json"], args].concat()).json();
    let scan = fixture.dir.path().join("scan.json");
    fs::write(&scan, &lhrecover(&["scan", "--json", text(&replica)]).stdout).unwrap();
    let volume = Chain::of(1 << 20, &[&[(0, 8, Mark::Data)], &[(4, 2, Mark::Preallocated)]]);
    let marked = volume.write_to(&fixture.dir.path().join("marked"));
    // It prints what inspect does, and more.
    let mut documented_here = documented("map");
    documented_here.extend(documented("inspect"));
    let mut values = vec![json(&[text(&replica), "--ranking", text(&scan)])];
    values.extend(scratch_has_fiemap().then(|| json(&[text(&marked)])));
    compare_with("map", &documented_here, &values);
}

#[test]
fn preserve_prints_what_json_md_says() {
    let fixture = fixture("02-head-one-snapshot");
    let (replica, _) = fixture.replica();
    std::os::unix::fs::symlink("x", replica.join("link")).unwrap();
    let (copy, tar) = (fixture.dir.path().join("copy"), fixture.dir.path().join("a.tar"));
    let run =
        |args: &[&str]| -> Value { lhrecover(&[&["preserve", "--json"], args].concat()).exits(0).json() };
    let made = run(&[text(&replica), text(&copy)]);
    let kept: Value =
        serde_json::from_slice(&fs::read(copy.join("lhrecover-preserve.json")).unwrap()).unwrap();
    assert_eq!(made["manifest"], kept, "the manifest is what --json prints");
    let archived = run(&[text(&replica), "--archive", text(&tar)]);
    let unpacked = run(&["--unpack", text(&tar), text(&fixture.dir.path().join("unpacked"))]);
    assert_eq!(archived["manifest"], unpacked["manifest"]);
    compare("preserve", &[made, archived, unpacked]);
    let checked = run(&[text(&replica), text(&copy), "--check"]);
    compare(
        "preserve check",
        &[checked, run(&["--check-copy", text(&copy)]), run(&["--check-copy", text(&tar)])],
    );
}

#[test]
fn inject_prints_what_json_md_says() {
    if !loopdev::available("inject_prints_what_json_md_says") {
        return;
    }
    let fixture = fixture("02-head-one-snapshot");
    let (replica, case) = fixture.replica();
    let disk = loopdev::sparse_file(&fixture.dir.path().join("disk"), case["size"].as_u64().unwrap() + 4096);
    let device = loopdev::LoopDevice::over(&disk);
    let args = ["inject", text(&replica), text(&device.path), "--mode", "blocks", "--any-device", "--json"];
    let dry = lhrecover(&[&args[..], &["--dry-run"]].concat()).exits(0).json();
    assert!(dry["estimated_seconds"].is_f64());
    compare("inject", &[dry, lhrecover(&args).exits(0).json()]);
}

#[test]
fn inject_of_files_prints_what_json_md_says() {
    let Some(mounts) = Mounts::new("inject_of_files_prints_what_json_md_says") else { return };
    if std::process::Command::new("rsync").arg("--version").output().is_err() {
        loopdev::skipped("inject_of_files_prints_what_json_md_says", "no rsync (package rsync)");
        return;
    }
    let fixture = fixture("16-ext4-sqlite");
    let (replica, case) = fixture.replica();
    let disk = loopdev::sparse_file(&fixture.dir.path().join("disk"), case["size"].as_u64().unwrap());
    let device = loopdev::LoopDevice::over(&disk);
    let base = ["inject", text(&replica), text(&device.path), "--mode", "files", "--any-device", "--json"];
    // Without its journal the fixture is not all there, and that is a finding.
    let args = [&base[..], &["--journal", "replay"]].concat();
    let run = |more: &[&str]| mounts.program(&[&args[..], more].concat()).run().exits(0).json();
    let reports = [run(&["--dry-run"]), run(&["--verify"]), run(&["--overwrite", "--delete"])];
    compare("inject files", &reports);
}

#[test]
fn mount_and_umount_print_what_json_md_says() {
    let Some(mounts) = Mounts::new("mount_and_umount_print_what_json_md_says") else { return };
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let mut seen = [const { Vec::new() }; 3];
    for options in [&["--json"][..], &["--json", "--image-only"]] {
        seen[0].push(mounts.mount(&replica, options).exits(0).json());
        seen[1].push(mounts.program(&["umount", "--list", "--json"]).run().exits(0).json());
        seen[2].push(mounts.program(&["umount", text(&mounts.point), "--json"]).run().exits(0).json());
    }
    for (section, values) in ["mount", "umount list", "umount"].into_iter().zip(seen) {
        compare(section, &values);
    }
}

#[test]
fn serve_prints_what_json_md_says() {
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let server = Server::of(&replica, &[]);
    compare("serve", std::slice::from_ref(&server.report));
    server.stop();
}

#[test]
fn check_prints_what_json_md_says() {
    let tmp = common::scratch();
    let check = |source: &Path| -> Value {
        let args = ["check", text(source), "--json", "--overlay", text(tmp.path())];
        serde_json::from_slice(
            &Lhrecover::new(&args).env("LHRECOVER_RUN_DIR", tmp.path().join("run")).run().stdout,
        )
        .expect("JSON")
    };
    let (ext, luks) = (fixture("16-ext4-sqlite"), fixture("22-luks-encrypted"));
    compare("check", &[check(&ext.replica().0), check(&luks.replica().0)]);
}

#[test]
fn files_are_what_json_md_says() {
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let out = fixture.dir.path().join("out");
    let json = |args: &[&str]| lhrecover(&[args, &["--json"]].concat()).exits(0).json();
    let replica = text(&replica);
    compare("ls", &[json(&["ls", replica, "-R"])]);
    compare("find", &[json(&["find", replica, "--name", "*.txt"])]);
    compare("find databases", &[json(&["find", replica, "--db"])]);
    compare("extract", &[json(&["extract", replica, "docs", "--to", text(&out), "--no-owner"])]);
}

#[test]
fn findings_are_what_json_md_says() {
    let made = Finding::new(Code::UnwrittenHidesData, "what", "meaning")
        .on("volume-snap-a.img")
        .at(vec![ByteRange::new(0, 4096)]);
    let mut values = vec![serde_json::to_value(FindingReport::from(&made)).unwrap()];
    let fixture = fixture("15c-volume-meta-truncated");
    let (replica, _) = fixture.replica();
    let inspected = lhrecover(&["inspect", text(&replica), "--json"]).exits(1);
    values.extend(findings_in(&serde_json::from_slice(&inspected.stdout).unwrap()));
    assert!(values.len() > 1);
    compare("findings", &values);
}

#[test]
fn errors_are_what_json_md_says() {
    let fixture = fixture("15c-volume-meta-truncated");
    let (replica, _) = fixture.replica();
    let image = fixture.dir.path().join("image");
    let refused = lhrecover(&["merge", text(&replica), text(&image), "--json"]);
    let value: Value = serde_json::from_slice(&refused.stdout).expect("JSON on standard output");
    assert_eq!(value["error"]["exit_code"].as_i64(), refused.status.code().map(i64::from));
    compare("error", &[value]);
}

#[test]
fn every_kind_of_error_has_its_exit_code_in_json_md() {
    let page = fs::read_to_string(doc("JSON.md")).unwrap();
    for (kind, name) in [
        (ErrorKind::Unverified, "unverified"),
        (ErrorKind::Usage, "usage"),
        (ErrorKind::Source, "source"),
        (ErrorKind::Output, "output"),
        (ErrorKind::Refused, "refused"),
        (ErrorKind::External, "external"),
        (ErrorKind::Interrupted, "interrupted"),
    ] {
        let row = format!("\n| {} | `{name}` |", kind.exit_code());
        assert!(page.contains(&row), "docs/JSON.md: no exit code of {name}");
    }
}

#[test]
fn progress_lines_are_what_json_md_says() {
    let fixture = fixture("02-head-one-snapshot");
    let (replica, _) = fixture.replica();
    let image = fixture.dir.path().join("image");
    let ran = Lhrecover::new(&["merge", text(&replica), text(&image), "--progress", "json"]).run().exits(0);
    let lines: Vec<Value> = ran.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(!lines.is_empty(), "{}", ran.stderr);
    compare("progress", &lines);
}

/// FINDINGS.md as it must be: the table of codes, in the order of the source.
fn findings_page() -> String {
    let mut page = String::from(
        "# Findings\n\n\
         What `inspect` and the other commands can find in a replica directory. A code is stable and has one severity: \
         `info` is\ngood to know, `warning` means that the data or a part of it is in doubt, `error` that it cannot be had \
         this way or is wrong.\nAnything above `info` makes the exit code 1. What a finding means for the data at hand, and \
         what to do about it, the finding itself says.\n\n\
         Made from the table in the source: `UPDATE_DOCS=1 cargo test --test docs`.\n\n\
         | code | severity | what it stands for |\n|---|---|---|\n",
    );
    for code in Code::ALL {
        let summary = code.summary().replace('|', "\\|");
        let _ = writeln!(page, "| `{code}` | {} | {summary} |", code.severity());
    }
    page
}

#[test]
fn findings_md_has_every_code() {
    let path = doc("FINDINGS.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, findings_page()).unwrap();
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == findings_page(),
        "docs/FINDINGS.md is out of date; make it anew: UPDATE_DOCS=1 cargo test --test docs"
    );
}

#[test]
fn manual_and_completions_mention_every_command() {
    let dir = common::scratch();
    let printed = String::from_utf8(lhrecover(&["man"]).exits(0).stdout).unwrap();
    lhrecover(&["man", "--dir", text(dir.path())]).exits(0);
    let completions = ["bash", "zsh", "fish"]
        .map(|shell| String::from_utf8(lhrecover(&["completions", shell]).exits(0).stdout).unwrap());
    let commands: Vec<_> = Cli::command().get_subcommands().cloned().collect();
    assert!(commands.len() > 1);
    for command in commands.iter().filter(|command| !command.is_hide_set()) {
        let name = command.get_name();
        assert!(printed.contains(&format!("lhrecover\\-{name}(1)")), "the manual does not mention {name}");
        assert!(completions.iter().all(|script| script.contains(name)), "no completion of {name}");
        let page = fs::read_to_string(dir.path().join(format!("lhrecover-{name}.1"))).expect(name);
        let shown = command.get_arguments().filter(|argument| !argument.is_hide_set());
        for option in shown.filter_map(clap::Arg::get_long) {
            assert!(
                page.contains(&option.replace('-', "\\-")),
                "the page of {name} does not mention --{option}"
            );
            assert!(completions[0].contains(&format!("--{option}")), "no completion of --{option} of {name}");
        }
    }
}

/// The lints know which parts of std are newer than `rust-version`; this is about everything below us.
#[test]
fn no_dependency_needs_a_newer_rust_than_is_stated() {
    let Some(cargo) = std::env::var_os("CARGO") else {
        loopdev::skipped("no_dependency_needs_a_newer_rust_than_is_stated", "cargo does not run this");
        return;
    };
    let told = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let needs = |package: &Value| -> Option<Vec<u32>> {
        package["rust_version"].as_str()?.split('.').map(|part| part.parse().ok()).collect()
    };
    let packages = told["packages"].as_array().unwrap();
    let ours =
        packages.iter().find(|package| package["name"] == env!("CARGO_PKG_NAME")).and_then(needs).unwrap();
    let newer: Vec<_> = packages
        .iter()
        .filter(|package| {
            needs(package).is_some_and(|needed| needed > [ours.clone(), vec![u32::MAX]].concat())
        })
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["rust_version"]))
        .collect();
    assert!(packages.len() > 50 && newer.is_empty(), "newer than {ours:?}: {newer:?}");
}
