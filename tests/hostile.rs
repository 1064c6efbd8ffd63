//! Hostile directories: any bytes may be refused; none may panic, hang, read outside the directory, exhaust memory,
//! or speak to the terminal.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::chain::{Chain, HEAD, Mark, edit, image, write_meta};
use common::cli::{Ran, lhrecover};
use common::fingerprint::Fingerprint;
use common::{scratch, text};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
/// What no run of this file may take longer than, on a machine that is busy with the other tests.
const MAX_TIME: Duration = Duration::from_secs(20);
/// What no run of this file may have resident, in KiB.
const MAX_RSS_KIB: u64 = 64 << 10;
/// What stands in files that nothing in the replica directory may lead to.
const SECRET: &[u8] = b"the secret of another file";

/// A replica of two layers, and a file beside it that is none of its business.
struct Rig {
    disk: tempfile::TempDir,
    dir: PathBuf,
    out: PathBuf,
    secret: PathBuf,
}

fn rig() -> Rig {
    let disk = scratch();
    let dir = Chain::of(MIB, &[&[(0, 64, Mark::Data)], &[(8, 8, Mark::Data)]]).write_to(disk.path());
    let secret = disk.path().join("volume-snap-secret.img");
    fs::write(&secret, SECRET.repeat(1000)).unwrap();
    write_meta(disk.path(), "volume-snap-secret.img", "");
    // What `..` leads to from the replica directory.
    fs::copy(&secret, disk.path().join("replicas/volume-snap-secret.img")).unwrap();
    write_meta(&disk.path().join("replicas"), "volume-snap-secret.img", "");
    let out = disk.path().join("out.img");
    Rig { disk, dir, out, secret }
}

impl Rig {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn set_parent(&self, disk: &str, parent: &str) {
        edit(&self.path(&format!("{disk}.meta")), &[("Parent", json!(parent))]);
    }

    fn set_volume(&self, key: &str, value: Value) {
        edit(&self.path("volume.meta"), &[(key, value)]);
    }

    /// Replaces a file of the replica with what `make` puts in its place.
    fn replace(&self, name: &str, make: impl Fn(&Path)) {
        fs::remove_file(self.path(name)).unwrap();
        make(&self.path(name));
    }

    /// Runs every command that reads a replica on it; returns what `merge` said.
    #[track_caller]
    fn survives(&self, what: &str) -> Ran {
        let _ = fs::remove_file(&self.out);
        let before = Fingerprint::of(&self.dir);
        let inspect = bounded(what, &["inspect", text(&self.dir)]);
        assert!(matches!(inspect.status.code(), Some(0 | 1 | 3)), "{what}: {:?}", inspect.status);
        bounded(what, &["inspect", text(&self.dir), "--json"]).json();
        let json = bounded(what, &["merge", text(&self.dir), text(&self.out), "--no-sync", "--json"]).json();
        let _ = fs::remove_file(&self.out);
        let merge = bounded(what, &["merge", text(&self.dir), text(&self.out), "--no-sync"]);
        let done = matches!(merge.status.code(), Some(0 | 1));
        assert_eq!(done, json["error"].is_null(), "{what}: {json}");
        before.assert_unchanged(&self.dir, what);
        let holds_secret = |path: &Path| {
            fs::read(path).is_ok_and(|bytes| bytes.windows(SECRET.len()).any(|window| window == SECRET))
        };
        assert!(!holds_secret(&self.out), "{what}: the image has the bytes of another file");
        assert!(!self.out.with_extension("img.partial").exists());
        merge
    }

    /// As [`survives`](Self::survives), and the source is found to be unusable.
    #[track_caller]
    fn is_refused(&self, what: &str) -> Ran {
        let ran = self.survives(what).exits(3);
        assert!(!self.out.exists(), "{what}");
        ran
    }
}

/// Runs the program, and fails the test when it takes too long or too much, or sends the terminal control codes.
#[track_caller]
fn bounded(what: &str, args: &[&str]) -> Ran {
    let began = Instant::now();
    let ran = lhrecover(args);
    assert!(began.elapsed() < MAX_TIME, "{what}: {:?}", began.elapsed());
    assert!(ran.peak_rss_kib < MAX_RSS_KIB, "{what}: {} KiB resident", ran.peak_rss_kib);
    for text in [ran.text(), &ran.stderr] {
        let control = text.chars().find(|&c| c.is_control() && c != '\n');
        assert_eq!(control, None, "{what}: {text:?}");
    }
    ran
}

/// Names that are none, or lead elsewhere.
fn hostile_names(rig: &Rig) -> Vec<String> {
    let mut names: Vec<String> = [
        "..",
        ".",
        "/",
        "../volume-snap-secret.img",
        "./volume-head-001.img",
        "sub/volume-snap-secret.img",
        "volume-snap-s000.img/",
        "volume-snap-s000.img\0",
        "\0",
        "\u{1b}[2J\u{1b}]0;owned\u{7}.img",
        "no-such-file.img",
        "volume.meta",
        "\u{202e}gmi.000s-pans-emulov",
    ]
    .map(str::to_owned)
    .into();
    names.push(text(&rig.secret).to_owned());
    names.push("a".repeat(300));
    names.push("x".repeat(100_000));
    names.push(format!("/proc/self/root{}", text(&rig.secret)));
    names
}

#[test]
fn parents_and_heads_that_are_no_plain_names() {
    let names = hostile_names(&rig());
    for name in &names {
        let shown: String = name.chars().take(60).collect();
        let rig = rig();
        rig.set_parent(HEAD, name);
        rig.is_refused(&format!("Parent {shown:?}"));
        rig.set_parent(HEAD, &image("s000"));
        rig.set_volume("Head", json!(name));
        rig.is_refused(&format!("Head {shown:?}"));
        for flag in ["--head", "--at", "--backing-file"] {
            if !name.contains('\0') && !name.starts_with("/proc") && name != text(&rig.secret) {
                let ran = bounded(flag, &["merge", text(&rig.dir), text(&rig.out), flag, name]);
                assert!(matches!(ran.status.code(), Some(2 | 3)), "{flag} {shown:?}: {}", ran.stderr);
            }
        }
    }
}

#[test]
fn layers_that_lead_out_of_the_directory() {
    let rig = rig();
    for name in [image("s000"), HEAD.to_owned()] {
        let original = rig.disk.path().join("original");
        fs::rename(rig.path(&name), &original).unwrap();
        for target in
            [text(&rig.secret), "../volume-snap-secret.img", "/dev/zero", "volume-head-001.img", "nowhere"]
        {
            symlink(target, rig.path(&name)).unwrap();
            rig.is_refused(&format!("{name} is a link to {target}"));
            fs::remove_file(rig.path(&name)).unwrap();
        }
        fs::rename(&original, rig.path(&name)).unwrap();
    }
    rig.survives("all is well again").exits(0);
}

#[test]
fn metadata_that_leads_out_of_the_directory() {
    for name in ["volume.meta".to_owned(), format!("{HEAD}.meta"), image("s000") + ".meta"] {
        let rig = rig();
        let elsewhere = rig.disk.path().join("elsewhere");
        fs::copy(rig.path(&name), &elsewhere).unwrap();
        rig.replace(&name, |path| symlink(&elsewhere, path).unwrap());
        rig.is_refused(&format!("{name} is a link"));
    }
}

#[test]
fn things_that_are_no_files() {
    let names = [
        image("s000"),
        HEAD.to_owned(),
        "volume.meta".to_owned(),
        image("s000") + ".meta",
        "revision.counter".to_owned(),
        "volume-snap-stray.img".to_owned(),
        "volume-snap-stray.img.meta".to_owned(),
    ];
    type Make = fn(&Path);
    let kinds: [(&str, Make); 3] = [
        ("fifo", |path| mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap()),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("socket", |path| {
            // The name of a socket has at most 108 bytes: bind it by a short one, and move it.
            let dir = tempfile::tempdir_in("/tmp").unwrap();
            let short = dir.path().join("s");
            drop(std::os::unix::net::UnixListener::bind(&short).unwrap());
            if fs::rename(&short, path).is_err() {
                symlink("nowhere", path).unwrap(); // Another file system: a thing that is no file all the same.
            }
        }),
    ];
    for name in &names {
        for (kind, make) in kinds {
            let rig = rig();
            let _ = fs::remove_file(rig.path(name));
            make(&rig.path(name));
            let ran = rig.survives(&format!("{name} is a {kind}"));
            let matters = !name.contains("stray") && name != "revision.counter";
            assert_eq!(ran.status.code() == Some(3), matters, "{name} is a {kind}: {}", ran.stderr);
        }
    }
}

#[test]
fn chains_without_end() {
    let rig = rig();
    rig.set_parent(HEAD, HEAD);
    rig.is_refused("a head that is its own parent").says(&["is its own parent"]);
    rig.set_parent(HEAD, &image("s000"));
    rig.set_parent(&image("s000"), HEAD);
    rig.is_refused("two layers in a circle").says(&["each other's parents"]);
    for i in 0..300 {
        let name = image(&format!("ring{i}"));
        File::create(rig.path(&name)).unwrap();
        write_meta(&rig.dir, &name, &image(&format!("ring{}", (i + 1) % 300)));
    }
    rig.set_parent(HEAD, &image("ring0"));
    rig.is_refused("a circle longer than any chain").says(&["each other's parents"]);
}

#[test]
fn ten_thousand_layers() {
    let rig = rig();
    let name = |i: u32| image(&format!("many{i}"));
    for i in 0..10_000 {
        File::create(rig.path(&name(i))).unwrap();
        write_meta(&rig.dir, &name(i), &if i == 0 { String::new() } else { name(i - 1) });
    }
    // Fingerprints of 20,000 files would take longer than all the rest.
    let merge =
        || bounded("10,000 layers", &["merge", text(&rig.dir), text(&rig.out), "--force", "--no-sync"]);
    merge().exits(0);
    bounded("10,000 layers", &["inspect", text(&rig.dir)]);
    for (place, layers) in [(9_999, "layers"), (249, "251 layers")] {
        rig.set_parent(HEAD, &name(place));
        merge().exits(3).says(&[layers, "at most 250"]);
    }
    // An empty file is what an engine makes in the place of a lost one, and two lowest layers are a rebuild's.
    (0..=248).for_each(|i| File::create(rig.path(&name(i))).and_then(|file| file.set_len(4096)).unwrap());
    rig.set_parent(&image("s000"), &name(0));
    rig.set_parent(HEAD, &name(248));
    merge().exits(0);
}

#[test]
fn metadata_of_a_hundred_megabytes() {
    let megabyte = vec![b' '; 1_000_000];
    for name in ["volume.meta".to_owned(), image("s000") + ".meta"] {
        let rig = rig();
        let path = rig.path(&name);
        let good = fs::read(&path).unwrap();
        // White space is still JSON, and a file of holes is NULs without end.
        let mut file = File::create(&path).unwrap();
        (0..100).for_each(|_| file.write_all(&megabyte).unwrap());
        file.write_all(&good).unwrap();
        drop(file);
        rig.is_refused(&format!("100 MB of white space as {name}")).says(&["far too large"]);
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        rig.is_refused(&format!("a TiB of nothing as {name}")).says(&["far too large"]);
        // Nested lists are what recursion dies of, also where size does not speak against them.
        for member in [vec![b'['; 20_000], [b"\"".to_vec(), vec![b'x'; 20_000]].concat()] {
            let start = [&good[..good.len() - 2], b",\"X\":"].concat();
            fs::write(&path, [start, member].concat()).unwrap();
            rig.is_refused(&format!("a member without end in {name}"));
        }
    }
    let rig = rig();
    for i in 0..200 {
        fs::write(rig.path(&format!("volume-snap-{i}.img.meta")), &megabyte).unwrap();
    }
    rig.survives("200 MB of metadata in small files");
}

#[test]
fn sizes_that_are_none() {
    let max = i64::MAX;
    let none = [
        ("0", "is no size"),
        ("-1", "is negative"),
        ("-4096", "is negative"),
        ("9223372036854775807", "is more than a volume can have"),
        ("1000", "is not a multiple of 512"),
        ("9223372036854775808", "Size is not a whole 64-bit number"),
        ("1e30", "Size is not a whole 64-bit number"),
        ("1.5", "Size is not a whole 64-bit number"),
        ("\"1048576\"", "Size is not a whole 64-bit number"),
        ("{}", "Size is not a whole 64-bit number"),
    ];
    for (size, says) in none {
        let rig = rig();
        let meta = fs::read_to_string(rig.path("volume.meta")).unwrap();
        fs::write(rig.path("volume.meta"), meta.replace("1048576", size)).unwrap();
        rig.is_refused(&format!("Size {size}")).says(&[says]);
    }
    // What a volume can have, but no file system: that is the target's word, and nothing is left of the attempt.
    let rig = rig();
    for size in [max / 4096 * 4096, 1 << 60] {
        rig.set_volume("Size", json!(size));
        rig.survives(&format!("Size {size}")).exits(4).says(&["the file system refuses a file of"]);
        let expected = format!("--size {}", 1 << 20);
        let args = ["merge", text(&rig.dir), text(&rig.out), "--size", "1M", "--force"];
        let ran = bounded(&expected, &args).exits(1);
        ran.says(&["chosen-by-hand"]);
        fs::remove_file(&rig.out).unwrap();
    }
    for size in ["0", "-1", "", "12x", "1000", "99999999999999999999", "16E"] {
        let flag = format!("--size={size}");
        bounded(&flag, &["merge", text(&rig.dir), text(&rig.out), &flag]).exits(2);
    }
}

#[test]
fn a_layer_far_larger_than_the_volume() {
    let rig = rig();
    let base = File::options().write(true).open(rig.path(&image("s000"))).unwrap();
    base.set_len(8 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&base, SECRET, (8 << 40) - 100).unwrap();
    drop(base);
    rig.survives("a layer of 8 TiB").exits(1).says(&["layer-past-end"]);
    assert_eq!(fs::metadata(&rig.out).unwrap().len(), MIB);
}

#[test]
fn backing_files_that_lead_elsewhere() {
    let rig = rig();
    let images = rig.disk.path().join("backing-images");
    fs::create_dir_all(images.join("img-1")).unwrap();
    symlink(&rig.secret, images.join("img-1/link")).unwrap();
    symlink(rig.disk.path(), images.join("img-2")).unwrap();
    mkfifo(&images.join("img-1/fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    fs::create_dir(images.join("img-1/dir")).unwrap();
    let secret = text(&rig.secret).to_owned();
    for path in [
        secret.as_str(),
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/mem",
        "../../volume-snap-secret.img",
        "/x/backing-images/../volume-snap-secret.img",
        "/x/backing-images/img-1/../../volume-snap-secret.img",
        "/x/backing-images/img-1/link",
        "/x/backing-images/img-1/fifo",
        "/x/backing-images/img-1/dir",
        "/x/backing-images/img-1",
        "/x/backing-images/img-2/volume-snap-secret.img",
        "/x/backing-images/img-3/backing",
        "/x/backing-images/\0/backing",
        "backing-images//",
        "\u{1b}[31m",
    ] {
        rig.set_volume("BackingFilePath", json!(path));
        rig.is_refused(&format!("BackingFilePath {path:?}")).says(&["--backing-file PATH"]);
    }
}

#[test]
fn names_and_labels_do_not_speak_to_the_terminal() {
    let escape = "\u{1b}[31m\u{7}\u{9b}2J\r\u{8}";
    let rig = rig();
    let name = image(&format!("esc{escape}"));
    fs::rename(rig.path(&image("s000")), rig.path(&name)).unwrap();
    fs::rename(rig.path(&(image("s000") + ".meta")), rig.path(&format!("{name}.meta"))).unwrap();
    rig.set_parent(HEAD, &name);
    let labels = json!({"key\u{1b}[2J": escape, "b": "\u{7}"});
    let meta = [("Labels", labels), ("Created", json!(escape)), ("Name", json!(escape))];
    edit(&rig.path(&format!("{name}.meta")), &meta);
    for key in ["Error", "Parent"] {
        rig.set_volume(key, json!(escape));
    }
    rig.survives("names that are escape sequences");
    for stray in ["stray\u{1b}[2J", "volume.meta\u{1b}.tmp", "volume-snap-\u{1b}c.img.checksum"] {
        fs::write(rig.path(stray), escape).unwrap();
    }
    use std::os::unix::ffi::OsStrExt;
    fs::write(rig.dir.join(std::ffi::OsStr::from_bytes(b"volume-snap-\xff\xfe.img.meta")), "{").unwrap();
    rig.survives("strangers that are escape sequences");
    let at = bounded("--at", &["merge", text(&rig.dir), text(&rig.out), "--force", "--at", "esc"]);
    assert!(matches!(at.status.code(), Some(0 | 1)), "{}", at.stderr);
    bounded("--at", &["merge", text(&rig.dir), text(&rig.out), "--force", "--at", escape]).exits(2);
    rig.set_parent(HEAD, escape);
    rig.is_refused("a parent that is an escape sequence");
    let dir = rig.disk.path().join(format!("dir{escape}"));
    fs::rename(&rig.dir, &dir).unwrap();
    bounded("a directory", &["merge", text(&dir), text(&rig.out), "--force"]).exits(3);
}

#[test]
fn directories_that_are_no_replicas() {
    let rig = rig();
    let empty = rig.disk.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let fifo = rig.disk.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    for dir in [empty.as_path(), &fifo, &rig.secret, Path::new("/dev/null"), Path::new("/no-such-directory")]
    {
        let ran = bounded(text(dir), &["merge", text(dir), text(&rig.out)]);
        assert!(matches!(ran.status.code(), Some(2 | 3)), "{}: {}", dir.display(), ran.stderr);
        assert!(ran.stderr.contains(text(dir)), "{}", ran.stderr);
    }
    assert!(fs::metadata(&fifo).unwrap().mode() & 0o010_000 != 0);
}
