//! `lhrecover diff --files`: the files that changed are those that the engine's own snapshots, or the kernel, say. No source is
//! changed by it.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::chain::{HEAD, image, write_meta};
use common::cli::{Ran, has_finding, lhrecover};
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::loopdev::{self, LoopDevice, Mounted, run, sparse_file};
use common::{fixture, scratch, text};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;

#[track_caller]
fn diff(source: &Path, more: &[&str]) -> Ran {
    let before = source.is_dir().then(|| Fingerprint::of(source));
    let ran = lhrecover(&[&["diff", text(source), "--files", "--progress", "none"], more].concat());
    if let Some(before) = before {
        before.assert_unchanged(source, &more.join(" "));
    }
    ran
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

/// What a report says of each path.
fn changes(report: &Value) -> BTreeMap<String, Value> {
    let changes = list(&report["files"]["changes"]).iter();
    changes.map(|change| (change["path"].as_str().unwrap().to_owned(), change.clone())).collect()
}

#[test]
fn files_of_real_snapshots_are_what_the_engine_says() {
    let fixture = fixture("16-ext4-sqlite");
    let (dir, truth) = fixture.replica();
    let head = truth["head"].as_str().unwrap();
    let states: Vec<_> = truth["guest_files"].as_object().unwrap().iter().collect();
    assert_eq!(states.len(), 4);
    let files = |state: &Value| -> BTreeMap<String, String> {
        let files = state["files"].as_object().unwrap().iter();
        files.map(|(path, file)| (format!("/{path}"), file["sha256"].as_str().unwrap().to_owned())).collect()
    };
    let mut renamed = 0;
    for (from_name, from) in &states {
        for (to_name, to) in &states {
            let name = |state: &str| if state == "head" { head.to_owned() } else { state.to_owned() };
            let args = ["--from", &name(from_name), "--at", &name(to_name), "--json"];
            let report = diff(&dir, &args).json();
            let (from, to) = (files(from), files(to));
            // What SQLite keeps in memory beside a WAL is not among what the manifest lists.
            let is_listed =
                |c: &&Value| c["type"] == "file" && !c["path"].as_str().unwrap().ends_with("-shm");
            let found: Vec<_> = list(&report["files"]["changes"]).iter().filter(is_listed).collect();
            let of = |what: &str, key: &str| -> BTreeSet<String> {
                let which = found.iter().filter(|change| change["what"] == what);
                which.map(|change| change[key].as_str().unwrap().to_owned()).collect()
            };
            let keys = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<BTreeSet<_>>();
            let come: BTreeSet<_> = of("added", "path").union(&of("renamed", "path")).cloned().collect();
            let gone: BTreeSet<_> =
                of("removed", "path").union(&of("renamed", "old_path")).cloned().collect();
            assert_eq!(come, &keys(&to) - &keys(&from), "{from_name} to {to_name}");
            assert_eq!(gone, &keys(&from) - &keys(&to), "{from_name} to {to_name}");
            let both = keys(&from).intersection(&keys(&to)).cloned().collect::<BTreeSet<_>>();
            let differ = both.into_iter().filter(|path| from[path] != to[path]).collect::<BTreeSet<_>>();
            assert_eq!(of("changed", "path"), differ, "{from_name} to {to_name}");
            for change in found.iter().filter(|change| change["what"] == "renamed") {
                let (old, new) = (change["old_path"].as_str().unwrap(), change["path"].as_str().unwrap());
                assert_eq!(change["content"], from[old] != to[new], "{change}");
                renamed += 1;
            }
            assert_eq!(report["same"], from_name == to_name, "{from_name} to {to_name}");
            // Read byte by byte, it is the same.
            let read = diff(&dir, &[&args[..], &["--contents"]].concat()).json();
            assert_eq!(read["files"], report["files"], "{from_name} to {to_name}");
        }
    }
    assert!(renamed >= 2, "docs/renamed.txt was another file once");
    assert_golden("diff/files", fixture.dir.path(), &diff(&dir, &["--from", "stage1"]).exits(1));
}

/// An ext4 image, and the same after something was done to it by the kernel.
struct Rig {
    tmp: tempfile::TempDir,
    images: [PathBuf; 2],
}

/// Fills a file system and then changes it; `None`, said on stderr, where that cannot be done.
fn rig(test: &str, fill: impl Fn(&Path), change: impl Fn(&Path)) -> Option<Rig> {
    rig_of(test, &["-t", "ext4"], fill, change)
}

/// The same of a file system that is made with these options.
fn rig_of(test: &str, options: &[&str], fill: impl Fn(&Path), change: impl Fn(&Path)) -> Option<Rig> {
    if !loopdev::available(test) {
        return None;
    }
    let tmp = scratch();
    let images = ["one", "other"].map(|name| tmp.path().join(name));
    sparse_file(&images[0], 64 * MIB);
    run("mke2fs", &[&["-q", "-F", "-b", "4096"], options, &[text(&images[0])]].concat());
    with_mounted(&images[0], tmp.path(), fill);
    fs::copy(&images[0], &images[1]).unwrap();
    with_mounted(&images[1], tmp.path(), change);
    Some(Rig { tmp, images })
}

fn with_mounted(image: &Path, tmp: &Path, work: impl Fn(&Path)) {
    let point = tmp.join("mnt");
    fs::create_dir_all(&point).unwrap();
    let device = LoopDevice::over(image);
    let mounted = Mounted::at(&device.path, &point);
    work(&point);
    drop(mounted);
}

impl Rig {
    /// A replica with the one image as a snapshot, and what is other in the second as its head.
    fn replica(&self) -> PathBuf {
        let dir = self.tmp.path().join("replicas/pvc-1-0a1b2c3d");
        fs::create_dir_all(&dir).unwrap();
        let snapshot = image("before");
        fs::copy(&self.images[0], dir.join(&snapshot)).unwrap();
        let [one, other] = [0, 1].map(|i| fs::read(&self.images[i]).unwrap());
        let head = fs::File::create(dir.join(HEAD)).unwrap();
        head.set_len(64 * MIB).unwrap();
        for (at, (before, after)) in (0..).zip(one.chunks(4096).zip(other.chunks(4096))) {
            if before != after {
                head.write_all_at(after, at * 4096).unwrap();
            }
        }
        write_meta(&dir, &snapshot, "");
        write_meta(&dir, HEAD, &snapshot);
        let meta = json!({
            "Size": 64 * MIB, "Head": HEAD, "Dirty": false, "Rebuilding": false, "Error": "",
            "Parent": snapshot, "SectorSize": 512, "BackingFilePath": "",
        });
        fs::write(dir.join("volume.meta"), meta.to_string()).unwrap();
        dir
    }
}

fn fill(root: &Path) {
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for path in [
        "same",
        "gone",
        "content",
        "keeps-its-times",
        "mode",
        "owner",
        "touched",
        "linked",
        "becomes-a-dir",
        "attr",
    ] {
        write(path, path.as_bytes());
    }
    write("dir/a", b"a");
    write("dir/sub/b", b"b");
    write("dir/sub/c", b"c");
    write("big", &vec![7; 3 << 20]);
    write("old-name", b"what has another name later");
    symlink("same", root.join("link")).unwrap();
    // Holes, and something far behind them.
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 30).unwrap();
    sparse.write_all_at(b"far", 39 << 30).unwrap();
}

fn change(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::remove_file(path("gone")).unwrap();
    fs::write(path("content"), "others!").unwrap();
    let times = fs::metadata(path("keeps-its-times")).unwrap().modified().unwrap();
    let file = OpenOptions::new().write(true).open(path("keeps-its-times")).unwrap();
    file.write_all_at(b"K", 0).unwrap();
    file.set_modified(times).unwrap();
    fs::set_permissions(path("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::chown(path("owner"), Some(1234), Some(4321)).unwrap();
    let touched = OpenOptions::new().write(true).open(path("touched")).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::hard_link(path("linked"), path("linked-too")).unwrap();
    fs::remove_file(path("becomes-a-dir")).unwrap();
    fs::create_dir(path("becomes-a-dir")).unwrap();
    run("setfattr", &["-n", "user.x", "-v", "y", text(&path("attr"))]);
    fs::rename(path("dir"), path("renamed-dir")).unwrap();
    fs::write(path("renamed-dir/sub/c"), "changed on the way").unwrap();
    OpenOptions::new().write(true).open(path("big")).unwrap().write_all_at(b"x", 2 << 20).unwrap();
    fs::rename(path("old-name"), path("new name\u{1b}[31m")).unwrap();
    fs::remove_file(path("link")).unwrap();
    symlink("content", path("link")).unwrap();
    fs::write(path("come"), "new").unwrap();
    OpenOptions::new().write(true).open(path("sparse")).unwrap().write_all_at(b"near", 5 << 30).unwrap();
}

#[test]
fn everything_that_can_happen_to_a_file_is_told_as_what_it_is() {
    let test = "everything_that_can_happen_to_a_file_is_told_as_what_it_is";
    if Command::new("setfattr").arg("--version").output().is_err() {
        loopdev::skipped(test, "no setfattr (package attr)");
        return;
    }
    let Some(rig) = rig(test, fill, change) else { return };
    let replica = rig.replica();
    let one = diff(&replica, &["--from", "before", "--json"]).exits(1).json();
    let apart = diff(&rig.images[0], &[text(&rig.images[1]), "--json"]).exits(1).json();
    assert_eq!(one["files"], apart["files"], "read or not, it is the same");
    assert_eq!(
        (&one["by"], &one["ranges"], &one["changed_bytes"]),
        (&json!("files"), &Value::Null, &Value::Null)
    );
    let told = changes(&one);
    let what = |path: &str| {
        let change = told.get(path).unwrap_or_else(|| panic!("{path} is not told"));
        (change["what"].as_str().unwrap(), change["content"].as_bool().unwrap(), change["metadata"].clone())
    };
    let none = || json!([]);
    assert_eq!(what("/gone"), ("removed", false, none()));
    assert_eq!(what("/come"), ("added", false, none()));
    assert_eq!(what("/content"), ("changed", true, json!(["modified"])));
    assert_eq!(what("/keeps-its-times"), ("changed", true, none()));
    assert_eq!(what("/mode"), ("metadata", false, json!(["mode"])));
    assert_eq!(what("/owner"), ("metadata", false, json!(["owner", "group"])));
    assert_eq!(what("/touched"), ("metadata", false, json!(["modified"])));
    assert_eq!(what("/linked"), ("metadata", false, json!(["links"])));
    assert_eq!(what("/linked-too").0, "added");
    assert_eq!(what("/attr"), ("metadata", false, json!(["xattrs"])));
    assert_eq!((what("/becomes-a-dir").0, what("/becomes-a-dir").1), ("changed", true));
    assert_eq!((what("/link").0, what("/link").1), ("changed", true));
    assert_eq!(what("/big"), ("changed", true, json!(["modified"])));
    assert_eq!(what("/sparse"), ("changed", true, json!(["modified"])));
    assert_eq!(what("/renamed-dir"), ("renamed", false, none()));
    assert_eq!(told["/renamed-dir"]["old_path"], "/dir");
    assert_eq!(what("/renamed-dir/sub/c"), ("renamed", true, json!(["modified"])));
    assert_eq!(told["/new name\u{1b}[31m"]["old_path"], "/old-name");
    assert_eq!(told.len(), 17, "{told:#?}");
    // The directory's other files went along: a, sub, sub/b.
    assert_eq!(one["files"]["moved_along"], 3);
    let text = diff(&replica, &["--from", "before"]).exits(1);
    assert!(text.text().contains("renamed   /old-name -> /new name\\u{1b}[31m\n"), "{}", text.text());
    assert!(text.text().contains("metadata  /owner  (owner, group)\n"), "{}", text.text());
    diff(&rig.images[0], &[common::text(&rig.images[0])]).exits(0);
}

#[test]
fn a_change_that_left_no_trace_is_found_when_all_is_read() {
    let test = "a_change_that_left_no_trace_is_found_when_all_is_read";
    let Some(rig) = rig(test, fill, |_| {}) else { return };
    // As a disk that rots, or a tool that writes to the device, changes it.
    let bytes = fs::read(&rig.images[1]).unwrap();
    let block = bytes.chunks(4096).position(|block| block.starts_with(b"touched\0")).unwrap();
    let at = block * 4096;
    OpenOptions::new().write(true).open(&rig.images[1]).unwrap().write_all_at(b"T", at as u64).unwrap();
    let replica = rig.replica();
    diff(&replica, &["--from", "before"]).exits(0);
    let all = diff(&replica, &["--from", "before", "--contents", "--json"]).exits(1).json();
    assert_eq!(changes(&all).into_keys().collect::<Vec<_>>(), ["/touched"]);
    // Two images are never taken for the same unread.
    let apart = diff(&rig.images[0], &[text(&rig.images[1]), "--json"]).exits(1).json();
    assert_eq!(apart["files"], all["files"]);
}

#[test]
fn times_to_the_second_prove_nothing_about_that_second() {
    let test = "times_to_the_second_prove_nothing_about_that_second";
    let small = ["-t", "ext3", "-I", "128"];
    let fill = |root: &Path| fs::write(root.join("same-second"), [1; 9000]).unwrap();
    let Some(rig) = rig_of(test, &small, fill, |_| {}) else { return };
    // The same inode, to the second, with other bytes.
    let mut bytes = fs::read(&rig.images[1]).unwrap();
    let block = bytes.chunks(4096).position(|block| block == [1; 4096]).unwrap();
    bytes[block * 4096] = 2;
    fs::write(&rig.images[1], bytes).unwrap();
    let report = diff(&rig.replica(), &["--from", "before", "--json"]).exits(1).json();
    assert_eq!(changes(&report).into_keys().collect::<Vec<_>>(), ["/same-second"]);
}

#[test]
fn what_cannot_be_read_is_neither_gone_nor_new() {
    let test = "what_cannot_be_read_is_neither_gone_nor_new";
    let Some(rig) = rig(test, fill, |_| {}) else { return };
    let inode = run("debugfs", &["-R", "stat /dir/sub", text(&rig.images[1])]);
    let inode = inode.split_whitespace().nth(1).unwrap().to_owned();
    run("debugfs", &["-w", "-R", &format!("sif <{inode}> block[5] 0xffffff"), text(&rig.images[1])]);
    let report = diff(&rig.images[0], &[text(&rig.images[1]), "--json"]).exits(1).json();
    assert!(has_finding(&report, "files-unreadable"), "{report:#}");
    let told = changes(&report);
    assert!(told.keys().all(|path| !path.starts_with("/dir/sub/")), "{told:#?}");
    let finding = list(&report["findings"]).iter().find(|f| f["code"] == "files-unreadable").unwrap();
    assert!(finding["what"].as_str().unwrap().starts_with("second: "), "{finding}");
}

#[test]
fn what_holds_no_such_file_system_is_refused_with_a_way_out() {
    let fixture = fixture("17-xfs-sqlite");
    let (dir, truth) = fixture.replica();
    let snapshot = truth["snapshots"][0]["name"].as_str().unwrap();
    diff(&dir, &["--from", snapshot]).exits(3).says(&["XFS", "lhrecover mount"]);
    diff(&dir, &["--from", snapshot, "--ranges"]).exits(2);
    lhrecover(&["diff", text(&dir), "--from", snapshot, "--partition", "1"]).exits(2).says(&["--files"]);
}
