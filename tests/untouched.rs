//! A source is never written: whatever a command does, and however it fails, names, bytes, maps of holes, times,
//! modes and sizes stay what they were, access times included.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::chain::{Chain, HEAD, Layer, Mark, edit, image};
use common::cli::{Lhrecover, lhrecover};
use common::fingerprint::Fingerprint;
use common::loopdev::{self, LoopDevice, Mounted, run, sparse_file};
use common::{Fixture, fixture, scratch, strace, text};
use nix::sys::signal::Signal;
use serde_json::json;

const MIB: u64 = 1 << 20;

/// A chain with everything in it: zeros, a shorter layer, unwritten room, a branch and a backing image.
fn chain() -> Chain {
    let size = 4 * MIB;
    Chain {
        volume_bytes: size,
        backing: Some(Layer::new(size / 2, &[(0, 300, Mark::Data)])),
        layers: vec![
            Layer::new(size / 2, &[(10, 100, Mark::Data), (200, 64, Mark::Zeros)]),
            Layer::new(size, &[(50, 20, Mark::Zeros), (600, 200, Mark::Data)]),
            Layer::new(size, &[(0, 4, Mark::Data), (900, 16, Mark::Preallocated)]),
        ],
        branch: Some((0, Layer::new(size, &[(20, 30, Mark::Data)]))),
    }
}

/// A disk with a replica on it, whose files were last used long enough ago that reading them would show.
fn disk() -> (tempfile::TempDir, PathBuf) {
    let disk = scratch();
    let dir = chain().write_to(disk.path());
    age(&dir);
    (disk, dir)
}

/// Sets all times far back: with relatime, a file that was read since it was written is left alone for a day.
fn age(dir: &Path) {
    let then = SystemTime::now() - Duration::from_secs(100 * 24 * 3600);
    let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    for path in files.filter(|path| path.is_file()).chain([dir.to_path_buf()]) {
        fs::File::open(path).unwrap().set_times(times).unwrap();
    }
}

/// Runs `merge` with these arguments between two fingerprints of everything on the disk that is source.
#[track_caller]
fn check(sources: &[&Path], args: &[&str], code: i32) {
    let before: Vec<_> = sources.iter().map(|dir| Fingerprint::of(dir)).collect();
    let ran = lhrecover(args);
    for (before, dir) in before.iter().zip(sources) {
        before.assert_unchanged(dir, &args.join(" "));
    }
    ran.exits(code);
}

#[test]
fn whatever_is_done() {
    let (disk, dir) = disk();
    let images = disk.path().join("backing-images");
    let (out, manifest) = (disk.path().join("out.img"), disk.path().join("out.json"));
    let (source, out, manifest) = (text(&dir), text(&out), text(&manifest));
    let runs: &[(&[&str], i32)] = &[
        (&[out], 0),
        (&[out, "--force", "--verify", "--digest", "blake3", "--manifest", manifest], 0),
        (&[out, "--force", "--sparse", "always", "--clone", "never"], 0),
        (&[out, "--force", "--sparse", "never", "--no-sync"], 0),
        (&[out, "--force", "--unwritten", "hole", "--digest", "sha256"], 0),
        (&[out, "--force", "--at", "s000"], 0),
        (&[out, "--force", "--at", "branch", "--json"], 0),
        (&["-", "--at", "s001", "--threads", "1"], 0),
        (&[out, "--force", "--head", HEAD, "--size", "8M"], 1),
    ];
    for (args, code) in runs {
        check(&[&dir, &images], &[&["merge", source][..], args].concat(), *code);
    }
    let kept = scratch();
    let kept = text(kept.path());
    lhrecover(&["merge", source, out, "--force", "--no-sync"]).exits(0);
    for args in [
        &["inspect", source][..],
        &["inspect", source, "--json"],
        &["verify", source],
        &["verify", source, out],
        &["verify", source, "--checksums-write", kept],
    ] {
        check(&[&dir, &images], args, 0);
    }
}

#[test]
fn however_it_fails() {
    let (disk, dir) = disk();
    let out = disk.path().join("out.img");
    fs::write(&out, "precious").unwrap();
    let inside = dir.join("out.img");
    let (source, out, inside) = (text(&dir), text(&out), text(&inside));
    let head = dir.join(HEAD);
    let elsewhere = disk.path().join("no-such-directory/out.img");
    let runs: &[(&[&str], i32)] = &[
        (&[out], 5),
        (&[inside], 5),
        (&[inside, "--force"], 5),
        (&[text(&head), "--force"], 5),
        (&["-", "--manifest", inside], 5),
        (&[source], 5),
        (&[text(&elsewhere)], 4),
        (&[out, "--force", "--at", "nothing"], 2),
        (&[out, "--force", "--head", "volume-head-007.img"], 2),
        (&[out, "--force", "--size", "1000"], 2),
        (&[out, "--force", "--backing-file", "/no-such-file"], 3),
        (&["-", "--json"], 2),
    ];
    for (args, code) in runs {
        check(&[&dir], &[&["merge", source][..], args].concat(), *code);
    }
    assert_eq!(fs::read(out).unwrap(), b"precious");
}

#[test]
fn when_the_source_is_unusable() {
    let breaks: &[fn(&Path)] = &[
        |dir| edit(&dir.join("volume.meta"), &[("Rebuilding", json!(true))]),
        |dir| fs::write(dir.join("volume.meta"), "").unwrap(),
        |dir| fs::remove_file(dir.join("volume.meta")).unwrap(),
        |dir| fs::remove_file(dir.join(HEAD)).unwrap(),
        |dir| fs::remove_file(dir.join(image("s000")).with_extension("img.meta")).unwrap(),
        |dir| edit(&dir.join(format!("{HEAD}.meta")), &[("Parent", json!(HEAD))]),
        |dir| fs::write(dir.join("volume.meta.tmp"), "{").unwrap(),
        |dir| symlink("/etc/hostname", dir.join("volume-snap-link.img")).unwrap(),
        |dir| fs::set_permissions(dir.join(HEAD), fs::Permissions::from_mode(0o000)).unwrap(),
    ];
    for inflict in breaks {
        let (disk, dir) = disk();
        inflict(&dir);
        let before = if nix::unistd::geteuid().is_root() || fs::File::open(dir.join(HEAD)).is_ok() {
            Fingerprint::of(&dir)
        } else {
            // What may not be read has no fingerprint, and cannot be changed either.
            continue;
        };
        let out = disk.path().join("out.img");
        lhrecover(&["merge", text(&dir), text(&out)]);
        before.assert_unchanged(&dir, "a merge of a broken replica");
        lhrecover(&["inspect", text(&dir)]);
        before.assert_unchanged(&dir, "a look at a broken replica");
    }
}

#[test]
fn real_replicas() {
    for id in ["03-explicit-zeros", "08-revert-branches", "12a-qcow2-backing", "21-crash-purge"] {
        let fixture: Fixture = fixture(id);
        let before = Fingerprint::of(fixture.dir.path());
        for (dir, _) in fixture.replicas() {
            let args = ["merge", text(&dir), "-", "--allow-rebuilding", "--accept-copy-damage"];
            lhrecover(&args);
            lhrecover(&["inspect", text(&dir)]);
        }
        before.assert_unchanged(fixture.dir.path(), id);
    }
}

#[test]
fn when_it_is_interrupted() {
    if !strace::available("when_it_is_interrupted") {
        return;
    }
    let (disk, dir) = disk();
    let partial = disk.path().join("out.img.partial");
    let out = disk.path().join("out.img");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let before = Fingerprint::of(&dir);
        let args = ["merge", text(&dir), text(&out), "--clone", "never", "--threads", "1"];
        let mut slow = strace::slowed(&partial, 200, &args).spawn();
        slow.wait_until("the copy began", || fs::metadata(&partial).is_ok_and(|m| m.len() > 0));
        slow.signal(signal);
        slow.finish();
        before.assert_unchanged(&dir, signal.as_str());
    }
}

#[test]
fn access_times_where_every_read_would_show() {
    let test = "access_times_where_every_read_would_show";
    if !loopdev::available(test) {
        return;
    }
    let tmp = scratch();
    let backing = sparse_file(&tmp.path().join("disk.img"), 64 * MIB);
    let point = tmp.path().join("mnt");
    fs::create_dir(&point).unwrap();
    run("mkfs.ext4", &["-q", text(&backing)]);
    let device = LoopDevice::over(&backing);
    let _mounted = Mounted::at(&device.path, &point);
    run("mount", &["-o", "remount,strictatime", text(&point)]);
    let dir = chain().write_to(&point);
    age(&dir);
    let accessed = || fs::metadata(dir.join(HEAD)).unwrap().accessed().unwrap();
    let images = point.join("backing-images");
    let out = tmp.path().join("out.img");
    check(&[&dir, &images], &["merge", text(&dir), text(&out), "--verify"], 0);
    check(&[&dir, &images], &["merge", text(&dir), "-", "--at", "s000"], 0);
    check(&[&dir, &images], &["inspect", text(&dir)], 0);
    let before = accessed();
    fs::read(dir.join(HEAD)).unwrap();
    assert_ne!(accessed(), before, "this mount was to show every read");
}

#[test]
fn a_directory_that_cannot_be_written_to() {
    let (disk, dir) = disk();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o500)).unwrap();
    let out = disk.path().join("out.img");
    check(&[&dir], &["merge", text(&dir), text(&out)], 0);
    Lhrecover::new(&["merge", ".", "-"]).in_dir(&dir).run().exits(0);
    // So that whoever is not root can clean up.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
}
