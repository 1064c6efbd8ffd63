//! `ls`, `cat`, `find`: every state of a real replica as the manifest has it, by an ordinary user; and images that lie.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::cli::{Lhrecover, has_finding, lhrecover};
use common::ext::make;
use common::fingerprint::Fingerprint;
use common::golden::assert_golden;
use common::loopdev::{run, skipped};
use common::{Fixture, fixture, text};
use lhrecover::error::{Error, ErrorKind, Result};
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::guest::ext::{ExtFs, Kind, LastLink, Step, Walk};
use lhrecover::model::units::ByteRange;
use lhrecover::view::disk::{Content, Disk, Stretch, check_range};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// An ordinary user: `nobody`, by number.
const NOBODY: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

/// What runs the program as an ordinary user: nothing where we are one.
fn as_nobody() -> &'static [&'static str] {
    if nix::unistd::geteuid().is_root() { NOBODY } else { &[] }
}

/// The fixture, belonging to the ordinary user: only owners may read without a trace in the access time.
fn readable(id: &str) -> (Fixture, PathBuf, Value) {
    let fixture = fixture(id);
    let (replica, facts) = fixture.replica();
    fs::set_permissions(fixture.dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&replica, Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(&replica).unwrap() {
        let path = entry.unwrap().path();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        give_away(&path);
    }
    give_away(&replica);
    (fixture, replica, facts)
}

fn give_away(path: &Path) {
    if nix::unistd::geteuid().is_root() {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
}

/// Options that pick a state of the manifest's `guest_files`.
fn at(state: &str) -> Vec<&str> {
    if state == "head" { vec![] } else { vec!["--at", state] }
}

/// Whether an ordinary user can run the program here.
fn can_be_nobody(test: &str) -> bool {
    let can = Lhrecover::under(as_nobody(), &["--version"]).run().status.success();
    if !can {
        skipped(test, "an ordinary user cannot get at the program, or there is no setpriv");
    }
    can
}

#[test]
fn cat_gives_every_file_of_every_state_to_an_ordinary_user() {
    if !can_be_nobody("cat_gives_every_file_of_every_state_to_an_ordinary_user") {
        return;
    }
    let (_fixture, replica, facts) = readable("16-ext4-sqlite");
    let before = Fingerprint::of(&replica);
    let states = facts["guest_files"].as_object().unwrap();
    assert_eq!(states.len(), 4);
    let mut seen = 0;
    for (state, truth) in states {
        for (path, file) in truth["files"].as_object().unwrap() {
            let args = [vec!["cat", text(&replica), path], at(state)].concat();
            let ran = Lhrecover::under(as_nobody(), &args).run().exits(0);
            let digest = format!("{:x}", Sha256::digest(&ran.stdout));
            assert_eq!(digest, file["sha256"], "{state}: {path}");
            seen += 1;
        }
    }
    assert_eq!(seen, 26);
    before.assert_unchanged(&replica, "cat");
}

#[test]
fn sqlite_finds_all_rows_in_what_an_ordinary_user_extracts() {
    let test = "sqlite_finds_all_rows_in_what_an_ordinary_user_extracts";
    if Command::new("sqlite3").arg("--version").output().is_err() {
        return skipped(test, "no sqlite3");
    }
    if !can_be_nobody(test) {
        return;
    }
    let (fixture, replica, facts) = readable("16-ext4-sqlite");
    let before = Fingerprint::of(&replica);
    let shared = fixture.dir.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    let mut rows = Vec::new();
    for (state, truth) in facts["guest_files"].as_object().unwrap() {
        let Some(expected) = truth["sqlite_rows_with_wal"].as_u64() else { continue };
        let out = shared.join(state);
        let args = ["extract", text(&replica), "/db", "-C", text(&out), "--no-owner"];
        Lhrecover::under(as_nobody(), &[&args[..], &at(state)].concat()).run().exits(0);
        let wal = out.join("db/app.sqlite-wal");
        let wal_bytes = fs::metadata(&wal).map_or(0, |m| m.len());
        assert_eq!(wal_bytes, truth["wal_bytes"].as_u64().unwrap(), "{state}");
        let counted = run("sqlite3", &[text(&out.join("db/app.sqlite")), "SELECT count(*) FROM t"]);
        assert_eq!(counted, expected.to_string(), "{state}");
        rows.push(expected);
    }
    assert_eq!(rows, [120, 40, 80]);
    before.assert_unchanged(&replica, "extract");
}

#[test]
fn an_ordinary_user_is_told_why_it_cannot_be_read() {
    if !nix::unistd::geteuid().is_root() {
        return skipped(
            "an_ordinary_user_is_told_why_it_cannot_be_read",
            "not root: everything here is our own",
        );
    }
    if !can_be_nobody("an_ordinary_user_is_told_why_it_cannot_be_read") {
        return;
    }
    let (_fixture, replica, _) = readable("16-ext4-sqlite");
    for entry in fs::read_dir(&replica).unwrap() {
        let path = entry.unwrap().path();
        chown(&path, Some(0), Some(0)).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }
    let ran = Lhrecover::under(as_nobody(), &["ls", text(&replica)]).run();
    assert_ne!(ran.status.code(), Some(0));
    ran.says(&["error: ", "sudo"]);
}

#[test]
fn listings_read_as_ls_has_them() {
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let before = Fingerprint::of(&replica);
    let golden = |name: &str, args: &[&str]| {
        let ran = lhrecover(&[&[args[0], text(&replica)], &args[1..]].concat());
        assert_golden(&format!("browse/{name}"), fixture.dir.path(), &ran);
    };
    golden("ls", &["ls"]);
    golden("ls-long", &["ls", "-l", "db", "/docs/shared.txt"]);
    golden("ls-recursive", &["ls", "-R", "/deep", "--at", "stage1"]);
    golden("ls-nowhere", &["ls", "/data/nothing"]);
    golden("cat-directory", &["cat", "/data"]);
    golden("find", &["find", "--name", "*.t[xy]t", "--min-size", "3500"]);
    golden("find-type", &["find", "/deep", "--type", "d"]);
    golden("find-db", &["find", "--db"]);
    before.assert_unchanged(&replica, "ls and find");
}

#[test]
fn what_it_cannot_read_it_names() {
    for (id, says) in [
        ("17-xfs-sqlite", ["an XFS file system", "lhrecover mount"]),
        ("22-luks-encrypted", ["LUKS container", "lhrecover mount"]),
        ("26-fresh-empty", ["no file system is recognised", "--image-only"]),
    ] {
        let fixture = fixture(id);
        let (replica, _) = fixture.replica();
        lhrecover(&["ls", text(&replica)]).exits(3).says(&says);
    }
}

#[test]
fn a_closed_pipe_is_a_failed_output_for_cat_and_none_for_find() {
    let fixture = fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let cat = ["cat", text(&replica), "data/sparse.bin"];
    Lhrecover::new(&cat).stdout(closed()).run().exits(4).says(&["standard output"]);
    Lhrecover::new(&["find", text(&replica)]).stdout(closed()).run().exits(0);
}

/// An image that debugfs has filled by these commands.
fn by_debugfs(dir: &Path, options: &[&str], commands: &str) -> Option<PathBuf> {
    let image = make(&dir.join("image"), options, 8 << 20)?.path;
    let script = dir.join("script");
    fs::write(&script, commands).unwrap();
    run("debugfs", &["-w", "-f", text(&script), text(&image)]);
    Some(image)
}

/// Options for images that can be changed without making checksums wrong.
const NO_CHECKSUMS: &[&str] =
    &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^uninit_bg,^has_journal,^dir_index"];

/// Replaces each `from` in the image.
fn replace(image: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(image).unwrap();
    let places: Vec<_> = (0..bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    fs::write(image, bytes).unwrap();
}

#[test]
fn names_that_lead_out_are_told_and_not_used() {
    let tmp = common::scratch();
    let payload = tmp.path().join("payload");
    fs::write(&payload, "evil").unwrap();
    let commands = format!(
        "mkdir /d\nwrite {0} /d/name-with-slashes\nwrite {0} /d/AA\nwrite {0} /d/name-with-nul\nwrite {0} /d/good\n",
        text(&payload)
    );
    let Some(image) = by_debugfs(tmp.path(), NO_CHECKSUMS, &commands) else { panic!("no image") };
    replace(&image, b"name-with-slashes", b"../../../../../ev");
    replace(&image, b"name-with-nul", b"name\0with-nul");
    replace(&image, b"AA", b"..");
    let listed = lhrecover(&["ls", text(&image), "/d", "--json"]).exits(1).json();
    let paths: Vec<_> = listed["entries"].as_array().unwrap().iter().map(|e| e["path"].clone()).collect();
    assert_eq!(paths, ["/d/good"]);
    assert!(has_finding(&listed, "files-unreadable"), "{listed}");
    let out = tmp.path().join("a/b/c/out");
    lhrecover(&["extract", text(&image), "--to", text(&out), "--json"]).exits(1);
    assert_eq!(fs::read_dir(out.join("d")).unwrap().count(), 1);
    let above = |dir: &Path| fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(
        (above(&tmp.path().join("a/b/c")), above(&tmp.path().join("a/b"))),
        (vec!["out".into()], vec!["c".into()])
    );
}

#[test]
fn circles_of_links_and_directories_end() {
    let tmp = common::scratch();
    let commands = "mkdir /a\nmkdir /a/b\nsymlink /loop /loop\nsymlink /x /y\nsymlink /y /x\nlink /a /a/b/up\nlink / /a/root\n\
                    symlink /out ../../../../etc/passwd\n";
    let Some(image) = by_debugfs(tmp.path(), NO_CHECKSUMS, commands) else { panic!("no image") };
    let image = text(&image);
    for path in ["/loop", "/x", "/x/y/z", "/loop/"] {
        lhrecover(&["cat", image, path]).exits(2).says(&["too many symbolic links"]);
    }
    // It leads to the image's own /etc/passwd, which is not there.
    lhrecover(&["cat", image, "/out"]).exits(2).says(&["no such file"]);
    lhrecover(&["cat", image, "/a/../../../../../out"]).exits(2).says(&["no such file"]);
    for args in [vec!["ls", "-R"], vec!["find"]] {
        let found = lhrecover(&[&args[..1], &[image], &args[1..], &["--json"]].concat()).exits(1).json();
        assert!(has_finding(&found, "files-unreadable"), "{found}");
        assert!(found["entries"].as_array().unwrap().len() < 20, "{found}");
    }
    lhrecover(&["find", image, "--db"]).exits(0);
    let out = tmp.path().join("out");
    lhrecover(&["extract", image, "--to", text(&out)]).exits(1).says(&["more than one place"]);
    assert!(
        out.join("a/b").is_dir()
            && fs::read_link(out.join("out")).unwrap() == Path::new("../../../../etc/passwd")
    );
}

/// An image in memory, of which a part cannot be read.
struct Memory {
    bytes: Vec<u8>,
    unreadable: Option<ByteRange>,
}

impl Disk for Memory {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let range = check_range(self.size_bytes(), offset_bytes, buf.len())?;
        if let Some(bad) = self.unreadable.filter(|bad| !bad.clip(range).is_empty()) {
            return Err(Error::source("cannot read")
                .in_layer("volume-head-000.img")
                .at_offset(bad.start_bytes));
        }
        let start = usize::try_from(offset_bytes).unwrap();
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        Ok(vec![Stretch { range, content: Content::Data }])
    }
}

/// Looks at everything, and reads the beginning of every file; how many files there were, and what could not be read.
fn look_at_all(bytes: Vec<u8>, unreadable: Option<ByteRange>) -> (usize, Vec<Error>) {
    let cancel = Cancel::default();
    let run = Run { observer: &Silent, cancel: &cancel };
    let (mut files, mut errors) = (0, Vec::new());
    let fs = match ExtFs::open(Arc::new(Memory { bytes, unreadable })) {
        Ok(fs) => fs,
        Err(e) => return (0, vec![e]),
    };
    let start = match fs.resolve(b"/", LastLink::Keep) {
        Ok(start) => start,
        Err(e) => return (0, vec![e]),
    };
    let mut walk = Walk::new(&fs, start, &run);
    while let Some(step) = walk.next_step().unwrap() {
        let found = match step {
            Step::Entry(found) => found,
            Step::Leave(_) => continue,
            Step::Trouble(_, e) => {
                errors.push(e);
                continue;
            }
        };
        files += 1;
        errors.extend(fs.xattrs(&found.node).err());
        if found.node.kind == Kind::Symlink {
            errors.extend(fs.read_link(&found.node).err());
        }
        if found.node.kind != Kind::Regular {
            continue;
        }
        match fs.allocated(&found.node) {
            Ok(ranges) => errors.extend(ranges.take(1000).filter_map(std::result::Result::err)),
            Err(e) => errors.push(e),
        }
        let mut buf = vec![0; 64 << 10];
        let read = fs.open_file(&found.node).and_then(|mut open| {
            for _ in 0..64 {
                if open.read(&mut buf)? == 0 {
                    break;
                }
            }
            Ok(())
        });
        errors.extend(read.err());
    }
    (files, errors)
}

/// A small image with a bit of everything, and files of that length.
fn small_image(dir: &Path, options: &[&str], file_bytes: usize) -> Vec<u8> {
    let payload = dir.join("payload");
    fs::write(&payload, common::ext::pattern(file_bytes, 1)).unwrap();
    let mut commands = String::from("mkdir /d\nmkdir /d/e\nsymlink /d/link ../somewhere\n");
    for i in 0..40 {
        commands +=
            &format!("write {} /d/e/a-file-with-a-long-name-{i}\n", text(&payload)).replace("/d/e/a", "a");
    }
    commands += "ea_set /d user.name value\n";
    let image = by_debugfs(dir, options, &commands).unwrap();
    fs::read(image).unwrap()
}

#[test]
fn an_unreadable_block_is_told_as_the_disk_tells_it_and_hides_nothing_else() {
    let tmp = common::scratch();
    let bytes = small_image(tmp.path(), &["-t", "ext4", "-b", "1024"], 60_000);
    let (all, errors) = look_at_all(bytes.clone(), None);
    assert!(all > 40 && errors.is_empty(), "{all}: {errors:?}");
    let mut told = 0;
    for at in (2048..bytes.len() as u64).step_by(64 << 10) {
        let bad = ByteRange::new(at, at + 1024);
        let (_, errors) = look_at_all(bytes.clone(), Some(bad));
        for e in &errors {
            assert_eq!((e.kind(), e.layer()), (ErrorKind::Source, Some("volume-head-000.img")), "{e}");
            assert_eq!(e.offset_bytes(), Some(at), "{e}");
        }
        told += errors.len();
    }
    assert!(told > 10, "{told}");
}

#[test]
fn damaged_images_are_read_or_refused() {
    let kinds: &[&[&str]] = &[
        NO_CHECKSUMS,
        &["-t", "ext2", "-b", "1024"],
        &["-t", "ext4", "-b", "1024", "-O", "inline_data,ea_inode,^metadata_csum"],
        &["-t", "ext3", "-b", "1024", "-J", "size=1"],
    ];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random >> 8).unwrap()
    };
    let mut with_errors = 0;
    for options in kinds {
        let tmp = common::scratch();
        let good = small_image(tmp.path(), options, 100);
        let used: Vec<usize> = (1024..good.len()).filter(|&at| good[at] != 0).collect();
        for _ in 0..150 {
            let mut bytes = good.clone();
            for _ in 0..1 + next() % 8 {
                // Mostly where something is, and in the first groups' metadata.
                let at = if next() % 2 == 0 { used[next() % used.len()] } else { 1024 + next() % (96 << 10) };
                bytes[at] = [0, 1, 0xff, 0x7f, bytes[at] ^ (1 << (next() % 8))][next() % 5];
            }
            with_errors += usize::from(!look_at_all(bytes, None).1.is_empty());
        }
    }
    assert!(with_errors > 50, "{with_errors}");
}
