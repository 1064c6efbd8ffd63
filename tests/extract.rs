//! `extract` against the kernel: for file systems of every kind of the ext family, what comes out is what a mount shows.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::cli::{Lhrecover, Ran, lhrecover};
use common::ext::{ExtImage, PLAIN, Recipe, make};
use common::fingerprint::Fingerprint;
use common::loopdev::{LoopDevice, Mounted, available, skipped};
use common::same_tree::assert_same_tree;
use common::text;
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Makes the file system, and compares what `extract` makes of it with what the kernel shows: after it was unmounted, and as
/// it was in the middle, with a journal to be replayed.
fn compare(recipe: &Recipe) {
    let test = format!("extract of {}", recipe.name);
    if !available(&test) {
        return;
    }
    let tmp = common::scratch();
    let Some((clean, dirty)) = recipe.images(tmp.path()) else {
        return skipped(&test, "mke2fs or the kernel does not know it");
    };
    for (state, image) in [("clean", clean), ("dirty", dirty)] {
        let what = format!("{}, {state}", recipe.name);
        let dir = tmp.path().join(state);
        fs::create_dir(&dir).unwrap();
        let before = state_of(&image.path);
        // A target that keeps all of it.
        let target = recipe.large_xattrs.then(|| {
            let image = make(&dir.join("target.img"), recipe.mke2fs, 256 << 20).unwrap();
            fs::create_dir(dir.join("target")).unwrap();
            let device = LoopDevice::over(&image.path);
            (Mounted::at(&device.path, &dir.join("target")), device)
        });
        let out = if target.is_some() { dir.join("target/out") } else { dir.join("out") };
        let ran = lhrecover(&["extract", text(&image.path), "--to", text(&out), "--json", "--no-sync"]);
        assert_eq!(ran.status.code(), Some(0), "{what}: {}{}", ran.text(), ran.stderr);
        assert_eq!(state_of(&image.path), before, "{what}: the image was changed");
        let _mounted = image.mounted(&dir.join("copy.img"), &dir.join("mnt"));
        assert_same_tree(&dir.join("mnt"), &out, &what);
        // A second time there is nothing left to do.
        let again = ["extract", text(&image.path), "--to", text(&out), "--json", "--no-sync"];
        let again = lhrecover(&again).exits(0).json();
        assert_eq!(
            (&again["files"], &again["symlinks"], &again["specials"]),
            (&0.into(), &0.into(), &0.into())
        );
        assert_same_tree(&dir.join("mnt"), &out, &format!("{what}, again"));
    }
}

/// An image's bytes, and what else must stay. Its extents are not looked at: in ranges that the loop device has only
/// preallocated, reading makes SEEK_DATA find data.
fn state_of(image: &Path) -> (String, [i64; 6]) {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs::File::open(image).unwrap()).unwrap();
    let meta = fs::metadata(image).unwrap();
    let times =
        [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec(), meta.atime(), meta.atime_nsec()];
    (hasher.finalize().to_hex().to_string(), times)
}

/// A test for each recipe.
macro_rules! recipes {
    ($($name:ident: $recipe:expr;)*) => {
        $(#[test] fn $name() { compare(&$recipe); })*
    };
}

recipes! {
    ext2_of_revision_0: Recipe { name: "ext2 of revision 0", mke2fs: &["-t", "ext2", "-r", "0"], extra_times: false, ..PLAIN };
    ext2: Recipe { name: "ext2", mke2fs: &["-t", "ext2", "-b", "1024", "-I", "128"], extra_times: false, ..PLAIN };
    ext3_1k: Recipe { name: "ext3, 1K", mke2fs: &["-t", "ext3", "-b", "1024"], ..PLAIN };
    ext3_data_in_journal: Recipe { name: "ext3, data=journal", mke2fs: &["-t", "ext3"], mount: "data=journal", ..PLAIN };
    ext4_1k: Recipe { name: "ext4, 1K", mke2fs: &["-t", "ext4", "-b", "1024"], ..PLAIN };
    ext4_2k: Recipe { name: "ext4, 2K", mke2fs: &["-t", "ext4", "-b", "2048"], ..PLAIN };
    ext4_4k: Recipe { name: "ext4, 4K", mke2fs: &["-t", "ext4", "-b", "4096", "-O", "64bit,metadata_csum"], ..PLAIN };
    ext4_data_in_journal: Recipe { name: "ext4, data=journal", mount: "data=journal", ..PLAIN };
    ext4_32bit: Recipe { name: "ext4 without 64bit", mke2fs: &["-t", "ext4", "-O", "^64bit"], ..PLAIN };
    ext4_without_checksums: Recipe { name: "ext4 without checksums", mke2fs: &["-t", "ext4", "-O", "^metadata_csum,^uninit_bg"], ..PLAIN };
    ext4_group_checksums: Recipe { name: "ext4 with uninit_bg", mke2fs: &["-t", "ext4", "-O", "^metadata_csum,uninit_bg"], ..PLAIN };
    ext4_journal_checksum: Recipe {
        name: "ext4, journal_checksum", mke2fs: &["-t", "ext4", "-O", "^metadata_csum,^64bit"], mount: "journal_checksum", ..PLAIN
    };
    ext4_async_commit: Recipe {
        name: "ext4, journal_async_commit", mke2fs: &["-t", "ext4", "-O", "^metadata_csum"],
        mount: "journal_async_commit,data=writeback", ..PLAIN
    };
    ext4_async_commit_v3: Recipe {
        name: "ext4, journal_async_commit, metadata_csum", mke2fs: &["-t", "ext4", "-O", "metadata_csum"],
        mount: "journal_async_commit,data=writeback", ..PLAIN
    };
    ext4_without_extents: Recipe { name: "ext4 without extents", mke2fs: &["-t", "ext4", "-b", "1024", "-O", "^extents,^64bit"], ..PLAIN };
    ext4_inline_data: Recipe { name: "ext4 with inline_data", mke2fs: &["-t", "ext4", "-O", "inline_data"], ..PLAIN };
    ext4_inline_data_in_large_inodes: Recipe {
        name: "ext4 with inline_data, 1K inodes", mke2fs: &["-t", "ext4", "-O", "inline_data", "-I", "1024"], ..PLAIN
    };
    ext4_bigalloc: Recipe { name: "ext4 with bigalloc", mke2fs: &["-t", "ext4", "-O", "bigalloc", "-C", "65536", "-N", "4000"], ..PLAIN };
    ext4_large_xattrs: Recipe { name: "ext4 with ea_inode", mke2fs: &["-t", "ext4", "-O", "ea_inode"], large_xattrs: true, ..PLAIN };
    ext4_without_journal: Recipe { name: "ext4 without journal", mke2fs: &["-t", "ext4", "-O", "^has_journal"], ..PLAIN };
    ext4_small_inodes: Recipe {
        name: "ext4, 128-byte inodes", mke2fs: &["-t", "ext4", "-I", "128", "-O", "metadata_csum"], extra_times: false, ..PLAIN
    };
    ext4_meta_bg: Recipe {
        name: "ext4 with meta_bg", mke2fs: &["-t", "ext4", "-b", "1024", "-g", "512", "-O", "meta_bg,^resize_inode"], ..PLAIN
    };
    ext4_sparse_super2: Recipe { name: "ext4 with sparse_super2", mke2fs: &["-t", "ext4", "-b", "1024", "-O", "sparse_super2,meta_bg,^resize_inode"], ..PLAIN };
    ext4_without_dir_index: Recipe { name: "ext4 without dir_index", mke2fs: &["-t", "ext4", "-O", "^dir_index,^filetype,^metadata_csum"], ..PLAIN };
    ext4_everything: Recipe {
        name: "ext4 with many features",
        mke2fs: &["-t", "ext4", "-O", "large_dir,mmp,orphan_file,metadata_csum_seed,encrypt,verity,stable_inodes"], ..PLAIN
    };
    ext4_small_journal: Recipe { name: "ext4, a journal that wraps", mke2fs: &["-t", "ext4", "-b", "1024", "-J", "size=1"], ..PLAIN };
}

/// A replica of a volume, and a directory to extract to.
fn fixture_and_target() -> (common::Fixture, PathBuf, PathBuf) {
    let fixture = common::fixture("16-ext4-sqlite");
    let (replica, _) = fixture.replica();
    let out = fixture.dir.path().join("out");
    (fixture, replica, out)
}

#[test]
fn what_is_there_is_left_alone_unless_told_otherwise() {
    let (_fixture, replica, out) = fixture_and_target();
    let elsewhere = out.with_file_name("elsewhere");
    fs::create_dir_all(out.join("docs")).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    fs::write(out.join("docs/shared.txt"), "mine").unwrap();
    symlink(elsewhere.join("secret"), out.join("docs/note-1.txt")).unwrap();
    symlink(&elsewhere, out.join("db")).unwrap();
    fs::create_dir(out.join("README.txt")).unwrap();
    let args = ["extract", text(&replica), "-C", text(&out), "--no-owner"];
    lhrecover(&args).exits(1).says(&["[not-extracted]", "--force"]);
    assert_eq!(fs::read(out.join("docs/shared.txt")).unwrap(), b"mine");
    assert!(out.join("docs/note-1.txt").is_symlink());
    assert!(out.join("docs/note-2.txt").is_file());
    let forced = lhrecover(&[&args[..], &["--force", "--json"]].concat()).exits(1).json();
    assert_eq!(forced["findings"][0]["files"], serde_json::json!(["/README.txt", "/db"]));
    assert_eq!(fs::metadata(out.join("docs/shared.txt")).unwrap().len(), 9000);
    assert!(fs::symlink_metadata(out.join("docs/note-1.txt")).unwrap().is_file());
    assert!(out.join("README.txt").is_dir() && out.join("db").is_symlink());
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "something was written through a link");
}

#[test]
fn what_a_target_hands_down_is_not_kept() {
    let (_fixture, replica, out) = fixture_and_target();
    fs::create_dir(&out).unwrap();
    // A default access control list: user, group, a named user, mask, others.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1u16, 7u16, u32::MAX), (2, 7, 1234), (4, 7, u32::MAX), (16, 7, u32::MAX), (32, 7, u32::MAX)]
    {
        acl.extend([&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    if xattr::set(&out, "system.posix_acl_default", &acl).is_err() {
        return skipped("what_a_target_hands_down_is_not_kept", "no access control lists here");
    }
    lhrecover(&["extract", text(&replica), "docs", "-C", text(&out), "--no-owner"]).exits(0);
    for name in ["docs", "docs/shared.txt"] {
        assert_eq!(xattr::list(out.join(name)).unwrap().count(), 0, "{name}");
    }
    assert_eq!(fs::metadata(out.join("docs/shared.txt")).unwrap().permissions().mode() & 0o7777, 0o644);
}

#[test]
fn the_source_is_no_target() {
    let (_fixture, replica, _) = fixture_and_target();
    let before = Fingerprint::of(&replica);
    for target in [replica.clone(), replica.join("new/deep")] {
        lhrecover(&["extract", text(&replica), "-C", text(&target)])
            .exits(5)
            .says(&["inside the replica directory", "never written"]);
    }
    before.assert_unchanged(&replica, "a refused extract");
}

#[test]
fn a_target_is_filled_by_one_at_a_time() {
    let (_fixture, replica, out) = fixture_and_target();
    fs::create_dir(&out).unwrap();
    let held = lhrecover::sys::tree::LockedTree::lock(&out).unwrap();
    lhrecover(&["extract", text(&replica), "-C", text(&out)]).exits(5).says(&["another process"]);
    drop(held);
    lhrecover(&["extract", text(&replica), "docs/", "-C", text(&out), "--no-owner"]).exits(0);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn too_little_room_is_found_beforehand() {
    if !available("too_little_room_is_found_beforehand") {
        return;
    }
    let (_fixture, replica, out) = fixture_and_target();
    fs::create_dir(&out).unwrap();
    let _mounted = Mounted::tmpfs("size=16k", &out);
    lhrecover(&["extract", text(&replica), "-C", text(&out)]).exits(4).says(&["not enough room"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}

/// An image with some files that take a while, and what is in it.
fn large_image(dir: &Path) -> Option<PathBuf> {
    let content = dir.join("content");
    fs::create_dir(&content).unwrap();
    for i in 0..40 {
        fs::write(content.join(format!("file-{i}")), common::ext::pattern(2 << 20, i)).unwrap();
    }
    let options = ["-t", "ext4", "-d", text(&content)];
    Some(make(&dir.join("large.img"), &options, 160 << 20)?.path)
}

#[test]
fn a_killed_extraction_goes_on_where_it_was() {
    let tmp = common::scratch();
    let Some(image) = large_image(tmp.path()) else {
        return skipped("a_killed_extraction_goes_on_where_it_was", "no mke2fs -d");
    };
    let out = tmp.path().join("out");
    let args = ["extract", text(&image), "-C", text(&out), "--no-owner", "--threads", "2"];
    let partial = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".partial");
    let names = || -> Vec<_> {
        fs::read_dir(&out)
            .map(|dir| dir.map(|entry| entry.unwrap().file_name()).collect())
            .unwrap_or_default()
    };
    let finished = || names().iter().filter(|name| name.to_string_lossy().starts_with("file-")).count();

    // A signal takes down what is not finished, and what is gets its name.
    let mut interrupted = Lhrecover::new(&args).spawn();
    interrupted.wait_until("it goes on", || names().iter().filter(|name| partial(name)).count() > 2);
    interrupted.signal(Signal::SIGINT);
    let ended = interrupted.finish().status.code();
    assert!(ended == Some(130) || ended == Some(0), "{ended:?}");
    assert!(finished() > 0 && !names().iter().any(|name| partial(name)), "{:?}", names());
    if finished() == 40 {
        // It was quicker than the signal.
        fs::remove_dir_all(&out).unwrap();
    }

    let mut killed = Lhrecover::new(&args).spawn();
    killed.wait_until("a file grows", || names().iter().any(|name| partial(name)));
    killed.signal(Signal::SIGKILL);
    killed.finish();
    assert!(names().iter().any(|name| partial(name)), "nothing was left");

    let finished = finished();
    let again = lhrecover(&[&args[..], &["--json"]].concat()).exits(0).json();
    assert_eq!(again["skipped"], finished);
    assert_eq!(again["files"], 40 - finished);
    for i in 0..40 {
        let content = fs::read(out.join(format!("file-{i}"))).unwrap();
        assert!(content == common::ext::pattern(2 << 20, i), "file-{i}");
    }
    assert!(!names().iter().any(|name| partial(name)), "{:?}", names());
}

/// An ordinary user, and an image with one of everything to extract from.
struct Nobody {
    tmp: TempDir,
    image: ExtImage,
    out: PathBuf,
}

impl Nobody {
    const WRAPPER: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

    /// `None`, and that is said, where this cannot be had.
    fn found(test: &str) -> Option<Self> {
        if !available(test) {
            return None;
        }
        let there_is = Command::new(Self::WRAPPER[0]).args(&Self::WRAPPER[1..]).arg("true").status();
        if !there_is.is_ok_and(|status| status.success()) {
            skipped(test, "no setpriv");
            return None;
        }
        let tmp = common::scratch();
        fs::set_permissions(tmp.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let Some((image, _)) = PLAIN.images(tmp.path()) else {
            skipped(test, "no ext4");
            return None;
        };
        let out = tmp.path().join("out");
        Some(Nobody { tmp, image, out })
    }

    fn args<'a>(&'a self, paths: &[&'a str]) -> Vec<&'a str> {
        [&["extract", text(&self.image.path)], paths, &["-C", text(&self.out), "--json"]].concat()
    }

    fn extracts(&self, paths: &[&str]) -> Ran {
        Lhrecover::under(&Self::WRAPPER, &self.args(paths)).run()
    }
}

#[test]
fn what_an_ordinary_user_cannot_keep_is_told() {
    let Some(nobody) = Nobody::found("what_an_ordinary_user_cannot_keep_is_told") else { return };
    let out = &nobody.out;
    let told = nobody.extracts(&["attributes", "specials"]).exits(1).json();
    let said: Vec<_> =
        told["findings"].as_array().unwrap().iter().map(|f| f["what"].as_str().unwrap()).collect();
    for part in ["the owner of", "set-user-ID", "trusted.t", "security.capability", "devices"] {
        assert!(said.iter().any(|what| what.contains(part)), "{part}: {said:?}");
    }
    assert!(fs::metadata(out.join("specials/fifo")).unwrap().file_type().is_fifo());
    let mode =
        |name: &str| fs::metadata(out.join("attributes").join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("mode-4755"), mode("mode-1777"), mode("mode-400")), (0o755, 0o1777, 0o400));
}

#[test]
fn the_source_below_the_target_is_not_written_either() {
    let (fixture, replica, out) = fixture_and_target();
    // The volume has a directory data, and so has the target: the replica itself.
    fs::create_dir(&out).unwrap();
    fs::rename(&replica, out.join("data")).unwrap();
    let replica = out.join("data");
    let source = Fingerprint::of(&replica);
    for force in [&[][..], &["--force"]] {
        let args = ["extract", text(&replica), "/", "--to", text(&out), "--quiet"];
        lhrecover(&[&args[..], force].concat()).exits(5).says(&["the source itself"]);
        source.assert_unchanged(&replica, "extract");
    }
    drop(fixture);
}

#[test]
fn an_image_is_not_replaced_by_a_file_of_its_name() {
    let tmp = common::scratch();
    let content = tmp.path().join("content");
    fs::create_dir(&content).unwrap();
    fs::write(content.join("vol.img"), "small").unwrap();
    let image = tmp.path().join("own/vol.img");
    fs::create_dir(tmp.path().join("own")).unwrap();
    image_of(&content, &image);
    let before = state_of(&image).0;
    let own = tmp.path().join("own");
    lhrecover(&["extract", text(&image), "/", "--to", text(&own), "--force"])
        .exits(5)
        .says(&["the source itself"]);
    assert_eq!(state_of(&image).0, before);
}

#[test]
fn a_further_name_is_never_one_of_a_file_that_was_there_before() {
    let tmp = common::scratch();
    let content = tmp.path().join("content");
    fs::create_dir_all(content.join("d")).unwrap();
    fs::write(content.join("d/a"), "right").unwrap();
    fs::hard_link(content.join("d/a"), content.join("d/z")).unwrap();
    let (image, out) = (tmp.path().join("vol.img"), tmp.path().join("out"));
    image_of(&content, &image);
    // Which of the two is the first name is the directory's order: both are taken once.
    for taken in ["a", "z"] {
        let _ = fs::remove_dir_all(&out);
        fs::create_dir_all(out.join("d")).unwrap();
        fs::write(out.join("d").join(taken), "another").unwrap();
        lhrecover(&["extract", text(&image), "/d", "--to", text(&out), "--quiet"]).exits(1);
        assert_eq!(fs::read_to_string(out.join("d").join(taken)).unwrap(), "another");
        let other = out.join("d").join(if taken == "a" { "z" } else { "a" });
        assert!(fs::read_to_string(other).map_or(true, |bytes| bytes == "right"));
    }
}

/// An ext4 image of what is in `content`.
fn image_of(content: &Path, image: &Path) {
    let args = ["-q", "-t", "ext4", "-d", text(content), text(image), "8M"];
    common::loopdev::run("mke2fs", &args);
}

/// Runs commands of debugfs that change an image.
fn debugfs(image: &Path, commands: &[&str]) {
    for command in commands {
        common::loopdev::run("debugfs", &["-w", "-R", command, text(image)]);
    }
}

fn codes(report: &serde_json::Value) -> Vec<&str> {
    report["findings"].as_array().unwrap().iter().map(|f| f["code"].as_str().unwrap()).collect()
}

fn said(report: &serde_json::Value) -> String {
    let findings = report["findings"].as_array().unwrap();
    findings.iter().map(|f| f["what"].as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn a_large_file_is_gone_on_with_in_the_same_state_only() {
    let tmp = common::scratch();
    let content = tmp.path().join("content");
    fs::create_dir(&content).unwrap();
    let large = fs::File::create(content.join("large")).unwrap();
    // Windows of 64 MiB, the second of which is mostly a hole.
    for mib in (0..70).chain(130..260) {
        let bytes = common::ext::pattern(1 << 20, mib);
        std::os::unix::fs::FileExt::write_all_at(&large, &bytes, (mib as u64) << 20).unwrap();
    }
    large.set_len((260 << 20) + 5).unwrap();
    let Some(image) = make(&tmp.path().join("vol.img"), &["-t", "ext4", "-d", text(&content)], 400 << 20)
    else {
        return skipped("a_large_file_is_gone_on_with", "no mke2fs -d");
    };
    let out = tmp.path().join("out");
    let args = ["extract", text(&image.path), "large", "-C", text(&out), "--no-owner", "--json"];
    let left = || -> Vec<String> {
        let names = fs::read_dir(&out).into_iter().flatten();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.ends_with(".partial")).collect()
    };
    let has_begun = || left().iter().any(|name| !name.ends_with("-0.partial"));
    for signal in [Signal::SIGKILL, Signal::SIGINT] {
        let _ = fs::remove_dir_all(&out);
        let mut cut_short = Lhrecover::new(&args).spawn();
        cut_short.wait_until("a window is there", has_begun);
        cut_short.signal(signal);
        cut_short.finish();
        assert!(has_begun(), "{signal}: {:?}", left());
        // What another file has left goes away as well.
        fs::write(out.join(".lhrecover-99-0000000000000001-1.partial"), "x").unwrap();
        let again = lhrecover(&args).exits(0).json();
        let copied = again["copied_bytes"].as_u64().unwrap();
        assert!(copied > 0 && copied <= 136 << 20, "{signal}: {copied}");
        assert!(left().is_empty(), "{signal}: {:?}", left());
        assert!(fs::read(out.join("large")).unwrap() == fs::read(content.join("large")).unwrap(), "{signal}");
    }

    let _ = fs::remove_dir_all(&out);
    let mut cut_short = Lhrecover::new(&args).spawn();
    cut_short.wait_until("a window is there", has_begun);
    cut_short.signal(Signal::SIGKILL);
    cut_short.finish();
    fs::File::options().write(true).open(&image.path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let anew = lhrecover(&args).exits(0).json();
    assert!(anew["copied_bytes"].as_u64().unwrap() >= 200 << 20, "{anew}");
    assert!(left().is_empty(), "{:?}", left());
}

#[test]
fn what_earlier_runs_have_left_unfinished_is_removed() {
    let (_fixture, replica, out) = fixture_and_target();
    fs::create_dir_all(out.join("docs/.lhrecover-3.partial")).unwrap();
    fs::create_dir(out.join("other")).unwrap();
    let left = [".lhrecover-1f.partial", "docs/.lhrecover-20-00000000000000aa-3.partial"];
    let not_ours = ["docs/.lhrecover-notes", "other/.lhrecover-1f.partial", "mine.partial"];
    for name in left.iter().chain(&not_ours) {
        fs::write(out.join(name), "x").unwrap();
    }
    lhrecover(&["extract", text(&replica), "docs/shared.txt", "-C", text(&out), "--no-owner"]).exits(0);
    for name in left {
        assert!(!out.join(name).exists(), "{name}");
    }
    for name in not_ours.iter().chain(&["docs/.lhrecover-3.partial"]) {
        assert!(out.join(name).exists(), "{name}");
    }
}

#[test]
fn what_an_earlier_run_could_not_set_is_set_or_said_again() {
    let test = "what_an_earlier_run_could_not_set_is_set_or_said_again";
    let Some(nobody) = Nobody::found(test) else { return };
    let paths = ["attributes", "links"];
    nobody.extracts(&paths).exits(1);
    // Directories are set anew each time; these are files.
    let again = nobody.extracts(&paths).exits(1).json();
    assert_eq!(again["files"], 0);
    for part in ["attributes/mode-4755", "set-user-ID", "trusted.t", "security.capability"] {
        assert!(again["findings"].to_string().contains(part), "{part}: {again}");
    }
    let as_root = lhrecover(&nobody.args(&paths)).exits(0).json();
    assert_eq!((&as_root["files"], codes(&as_root)), (&0.into(), vec![]));
    let Nobody { tmp, image, out } = &nobody;
    let _mounted = image.mounted(&tmp.path().join("copy.img"), &tmp.path().join("mnt"));
    assert_same_tree(&tmp.path().join("mnt/attributes"), &out.join("attributes"), test);
    let link = fs::symlink_metadata(out.join("links/dangling")).unwrap();
    assert_eq!((link.uid(), link.gid()), (5, 6));
}

/// An image whose root directory has attributes of its own.
fn image_with_a_root(dir: &Path) -> PathBuf {
    let content = dir.join("content");
    fs::create_dir(&content).unwrap();
    fs::write(content.join("a"), "x").unwrap();
    let image = dir.join("vol.img");
    image_of(&content, &image);
    let set = ["sif / mode 040750", "sif / uid 999", "sif / gid 998", "sif / mtime 20010203040506"];
    debugfs(&image, &set);
    debugfs(&image, &["ea_set / user.root 1"]);
    image
}

#[test]
fn an_empty_target_gets_what_the_root_directory_has() {
    if !available("an_empty_target_gets_what_the_root_directory_has") {
        return;
    }
    let tmp = common::scratch();
    let image = image_with_a_root(tmp.path());
    let out = tmp.path().join("out");
    let args = ["extract", text(&image), "-C", text(&out), "--json"];
    let is = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        let has_xattr = xattr::get(path, "user.root").unwrap().is_some();
        (meta.mode() & 0o7777, meta.uid(), meta.gid(), has_xattr)
    };
    let wanted = (0o750, 999, 998, true);
    // What is there before: nothing; an empty directory; a new file system; what a run that was cut short has left.
    let befores: [&[&str]; 4] = [&[], &[""], &["lost+found"], &[".lhrecover-root", "b"]];
    for before in befores {
        let _ = fs::remove_dir_all(&out);
        for name in before {
            if ["", "lost+found"].contains(name) {
                fs::create_dir_all(out.join(name)).unwrap();
            } else {
                fs::create_dir_all(&out).unwrap();
                fs::write(out.join(name), "").unwrap();
            }
        }
        assert_eq!(codes(&lhrecover(&args).exits(0).json()), [""; 0], "{before:?}");
        assert_eq!(is(&out), wanted, "{before:?}");
        assert_eq!(fs::metadata(&out).unwrap().mtime(), 981_173_106, "{before:?}");
        assert!(!out.join(".lhrecover-root").exists());
        // It is right already, though it is not empty any more.
        assert_eq!(codes(&lhrecover(&args).exits(0).json()), [""; 0], "{before:?}");
    }

    // The user's own is left alone.
    let _ = fs::remove_dir_all(&out);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "").unwrap();
    let (left_alone, told) = (is(&out), lhrecover(&args).exits(1).json());
    assert_eq!((is(&out), codes(&told)), (left_alone, vec!["attributes-not-kept"]));
    assert!(said(&told).contains("owner 999:998, mode 0750"), "{told}");
    // Only for the root directory itself.
    let _ = fs::remove_dir_all(&out);
    assert_eq!(codes(&lhrecover(&[&args[..], &["a"]].concat()).exits(0).json()), [""; 0]);
    assert_ne!(is(&out), wanted);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn what_is_never_kept_is_said() {
    let tmp = common::scratch();
    let content = tmp.path().join("content");
    fs::create_dir_all(content.join("dir")).unwrap();
    for name in ["plain", "flags", "immutable", "project", "room"] {
        fs::write(content.join(name), "x").unwrap();
    }
    let image = tmp.path().join("vol.img");
    let options = ["-q", "-t", "ext4", "-O", "quota,project", "-I", "256", "-d", text(&content)];
    common::loopdev::run("mke2fs", &[&options[..], &[text(&image), "8M"]].concat());
    // Each in extents as well, which is no flag of its user's.
    debugfs(&image, &["sif flags flags 0x800c0", "sif immutable flags 0x80010", "sif dir flags 0x20080000"]);
    debugfs(&image, &["sif project projid 4242", "fallocate room 4 20", "sif room size 20480"]);
    let out = tmp.path().join("out");
    let args = ["extract", text(&image), "-C", text(&out), "--no-owner", "--json"];
    for again in [false, true] {
        let told = lhrecover(&args).exits(1).json();
        let all = said(&told);
        for part in ["flag A", "flag d", "flag P", "flag i", "/flags", "/dir", "/immutable", "project 4242"] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert!(!all.contains("/plain"), "{all}");
        assert_eq!(all.contains("preallocated room of /room"), !again, "{all}");
        let severe = codes(&told).into_iter().filter(|code| *code != "traits-not-kept").count();
        assert_eq!(severe, 1, "{told}");
    }
    lhrecover(&[
        "extract",
        text(&image),
        "plain",
        "project",
        "-C",
        text(&tmp.path().join("b")),
        "--no-owner",
    ])
    .exits(0);
}

#[test]
fn what_is_named_twice_is_extracted_once() {
    let (_fixture, replica, out) = fixture_and_target();
    let run = |paths: &[&str], out: &Path| {
        let args = [&["extract", text(&replica)], paths, &["-C", text(out), "--json", "--no-owner"]].concat();
        lhrecover(&args).exits(0).json()
    };
    let twice = run(&["docs/shared.txt", "docs", "docs/note-1.txt", "docs", "docs/"], &out);
    let once = run(&["docs"], &out.with_file_name("once"));
    for count in ["files", "directories", "skipped", "hard_links"] {
        assert_eq!(twice[count], once[count], "{count}");
    }
    assert_eq!(codes(&twice), Vec::<&str>::new());
}

#[test]
fn a_name_that_a_damaged_directory_has_twice_is_extracted_once_and_said() {
    let tmp = common::scratch();
    let content = tmp.path().join("content");
    fs::create_dir(&content).unwrap();
    fs::write(content.join("a"), "the first").unwrap();
    fs::write(content.join("b"), "another").unwrap();
    let image = tmp.path().join("vol.img");
    let without_checksums =
        ["-q", "-t", "ext4", "-O", "^metadata_csum", "-d", text(&content), text(&image), "8M"];
    common::loopdev::run("mke2fs", &without_checksums);
    // The entry of b, from the length of its name on, gets the name of a.
    let mut bytes = fs::read(&image).unwrap();
    let entries: Vec<_> = (0..bytes.len() - 4).filter(|&at| bytes[at..at + 4] == *b"\x01\x01b\0").collect();
    assert_eq!(entries.len(), 1);
    bytes[entries[0] + 2] = b'a';
    fs::write(&image, bytes).unwrap();
    let out = tmp.path().join("out");
    let ran = lhrecover(&["extract", text(&image), "-C", text(&out), "--json", "--no-owner"]).exits(1).json();
    assert!(said(&ran).contains("another file of the same directory"), "{ran}");
    let kept = fs::read(out.join("a")).unwrap();
    assert!([&b"the first"[..], b"another"].contains(&&*kept), "{kept:?}");
    assert_eq!(ran["files"], 1);
}
