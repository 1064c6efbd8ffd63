//! Faults: disks that fail, targets that run full, signals, files that change. There is never a complete-looking
//! wrong image, never a zero for a byte that could not be read, and nothing is left behind.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::chain::{Chain, HEAD, Mark, image};
use common::cli::{Lhrecover, Ran, Running, lhrecover};
use common::filesystems::{BTRFS, TMPFS, XFS};
use common::fingerprint::Fingerprint;
use common::loopdev::{self, LoopDevice, sparse_file};
use common::strace::{self, READS, WRITES};
use common::{scratch, text};
use nix::sys::signal::Signal;

const MIB: u64 = 1 << 20;

/// 16 MiB: 8 MiB of data in the lowest layer, which takes several reads; gaps, which take several writes.
fn chain() -> Chain {
    let pieces: Vec<_> = (0..12).map(|i| (2048 + 128 * i, 64, Mark::Data)).collect();
    Chain::of(16 * MIB, &[&[(0, 2048, Mark::Data)], &pieces, &[(4000, 10, Mark::Zeros)]])
}

/// A replica on a disk, and where its image is to go.
struct Rig {
    _disk: Option<tempfile::TempDir>,
    dir: PathBuf,
    root: PathBuf,
    out: PathBuf,
    partial: PathBuf,
}

fn rig() -> Rig {
    let disk = scratch();
    let root = disk.path().canonicalize().unwrap();
    Rig { _disk: Some(disk), ..rig_in(&root) }
}

fn rig_in(root: &Path) -> Rig {
    let dir = chain().write_to(root);
    let (out, partial) = (root.join("out.img"), root.join("out.img.partial"));
    Rig { _disk: None, dir, root: root.to_path_buf(), out, partial }
}

impl Rig {
    fn layer(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Arguments that make one thread read and write, so that calls can be counted.
    fn args<'a>(&'a self, output: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let one_by_one = ["--threads", "1", "--clone", "never", "--quiet"];
        [&["merge", text(&self.dir), text(output)][..], &one_by_one, more].concat()
    }

    /// Merges to the output file, while calls on `file` are tampered with.
    fn tampered(&self, file: &Path, injection: &str, more: &[&str]) -> Ran {
        strace::tampered(file, &[injection.to_owned()], &self.args(&self.out, more)).run()
    }

    /// A merge under way, slow enough to be hit in the middle of the copy.
    fn in_the_middle(&self) -> Running {
        let mut slow = strace::slowed(&self.partial, 100, &self.args(&self.out, &[])).spawn();
        slow.wait_until("the copy began", || fs::metadata(&self.partial).is_ok_and(|m| m.len() == 16 * MIB));
        slow
    }

    #[track_caller]
    fn assert_nothing_left(&self) {
        let mut left: Vec<_> = fs::read_dir(&self.root).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.retain(|name| name != "replicas" && name != "lost+found");
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    #[track_caller]
    fn assert_whole(&self) {
        assert!(fs::read(&self.out).unwrap() == chain().reads(), "the image is wrong");
    }

    /// The source failed, and nothing is left; or what failed was only looked at, and the image is whole.
    #[track_caller]
    fn assert_failed_or_whole(&self, ran: &Ran) {
        match ran.status.code() {
            Some(3) => {}
            Some(0 | 1) => {
                self.assert_whole();
                fs::remove_file(&self.out).unwrap();
            }
            other => panic!("{other:?}: {}", ran.stderr),
        }
        self.assert_nothing_left();
    }

    /// Merges once more, with nothing in the way.
    #[track_caller]
    fn assert_next_run_is_right(&self) {
        lhrecover(&["merge", text(&self.dir), text(&self.out), "--no-sync"]).exits(0);
        self.assert_whole();
        assert!(!self.partial.exists());
    }
}

#[test]
fn what_cannot_be_read_is_an_error_with_layer_and_offset() {
    if !strace::available("what_cannot_be_read_is_an_error_with_layer_and_offset") {
        return;
    }
    let rig = rig();
    let base = image("s000");
    let before = Fingerprint::of(&rig.dir);
    for (fault, cause) in
        [("error=EIO:when=4+", "Input/output error"), ("retval=0:when=4+", "became shorter")]
    {
        let injection = format!("{READS}:{fault}");
        let says = [&format!("layer {base}, offset "), cause, "hint: "];
        let file = rig.tampered(&rig.layer(&base), &injection, &[]);
        file.exits(3).says(&says);
        rig.assert_nothing_left();
        let filled = rig.tampered(&rig.layer(&base), &injection, &["--sparse", "never"]);
        filled.exits(3).says(&says);
        rig.assert_nothing_left();
        let to_stdout = rig.args(Path::new("-"), &[]);
        let stream = strace::tampered(&rig.layer(&base), std::slice::from_ref(&injection), &to_stdout).run();
        let stream = stream.exits(3).says(&says);
        // What came out before the fault is right, and the rest did not come out.
        assert!(stream.stdout.len() < 16 << 20 && chain().reads().starts_with(&stream.stdout));
    }
    before.assert_unchanged(&rig.dir, "read errors");
}

#[test]
fn a_single_read_error_is_an_error_too_wherever_it_strikes() {
    if !strace::available("a_single_read_error_is_an_error_too_wherever_it_strikes") {
        return;
    }
    let rig = rig();
    let base = rig.layer(&image("s000"));
    for nth in 1..=9 {
        let ran = rig.tampered(&base, &format!("{READS}:error=EIO:when={nth}"), &[]);
        rig.assert_failed_or_whole(&ran);
    }
}

#[test]
fn an_extent_map_that_cannot_be_read_is_an_error() {
    if !strace::available("an_extent_map_that_cannot_be_read_is_an_error") {
        return;
    }
    let rig = rig();
    let base = rig.layer(&image("s000"));
    let says = ["cannot read the layer's extent map", &image("s000")];
    rig.tampered(&base, "ioctl:error=EIO", &[]).exits(3).says(&says);
    rig.assert_nothing_left();
    for nth in 2..6 {
        // Which thread asks for which part of the map is not certain, and strace counts for each.
        let ran = rig.tampered(&base, &format!("ioctl:error=EIO:when={nth}+"), &[]);
        assert!(ran.status.success() || says.iter().all(|part| ran.stderr.contains(part)), "{}", ran.stderr);
        rig.assert_failed_or_whole(&ran);
    }
    // Without FIEMAP it is read another way, which can fail as well.
    let no_fiemap = "ioctl:error=EOPNOTSUPP".to_owned();
    let args = rig.args(&rig.out, &[]);
    let bad_seek = |when: &str| [no_fiemap.clone(), format!("lseek:error=EIO{when}")];
    strace::tampered(&base, &bad_seek(""), &args).run().exits(3).says(&[&image("s000")]);
    rig.assert_nothing_left();
    for nth in 2..6 {
        rig.assert_failed_or_whole(
            &strace::tampered(&base, &bad_seek(&format!(":when={nth}+")), &args).run(),
        );
    }
    strace::tampered(&base, &[no_fiemap], &args).run().exits(0);
    rig.assert_whole();
}

#[test]
fn where_blocks_cannot_be_shared_after_all_they_are_read() {
    let test = "where_blocks_cannot_be_shared_after_all_they_are_read";
    if !loopdev::available(test) || !strace::available(test) {
        return;
    }
    for kind in [XFS, BTRFS] {
        let Some(mounted) = kind.mount(test) else { continue };
        let rig = rig_in(&mounted.root.canonicalize().unwrap());
        let base = rig.layer(&image("s000"));
        let share = ["merge", text(&rig.dir), text(&rig.out), "--threads", "1", "--force"];
        for errno in ["EIO", "EINVAL", "ENOSPC", "EOPNOTSUPP"] {
            // The first one only asks whether blocks can be shared at all.
            let injection = format!("ioctl:error={errno}:when=2+");
            strace::tampered(&rig.partial, &[injection], &share).run().exits(0);
            rig.assert_whole();
        }
        fs::remove_file(&rig.out).unwrap();
        // What is shared is not read, and so cannot come out wrong; what has to be read, must be.
        let unreadable = [format!("{READS}:error=EIO")];
        let ran = strace::tampered(&rig.layer(HEAD), &unreadable, &share).run().exits(3);
        ran.says(&[HEAD, "offset "]);
        rig.assert_nothing_left();
        strace::tampered(&base, &unreadable, &[&share[..], &["--clone", "never"]].concat()).run().exits(3);
        rig.assert_nothing_left();
        rig.assert_failed_or_whole(&strace::tampered(&base, &unreadable, &share).run());
    }
}

#[test]
fn a_target_that_fails_is_an_output_error() {
    if !strace::available("a_target_that_fails_is_an_output_error") {
        return;
    }
    let rig = rig();
    let before = Fingerprint::of(&rig.dir);
    let writes = |fault: &str| format!("{WRITES}:{fault}");
    for (injection, says) in [
        (writes("error=ENOSPC:when=3+"), "ran full while it was written"),
        (writes("error=EDQUOT:when=2+"), "ran full while it was written"),
        (writes("error=EIO:when=3+"), "the target disk may be failing"),
        (writes("retval=0:when=3+"), "cannot write the output"),
        ("ftruncate:error=EFBIG:when=2+".to_owned(), "the file system refuses a file of 16777216 bytes"),
        ("fsync,fdatasync:error=EIO".to_owned(), "cannot bring the output to the medium"),
        ("rename,renameat,renameat2:error=EACCES".to_owned(), "cannot give the output its name"),
    ] {
        let ran = rig.tampered(&rig.partial, &injection, &[]);
        assert_eq!(ran.status.code(), Some(4), "{injection}: {}", ran.stderr);
        ran.says(&[says, "out.img"]);
        rig.assert_nothing_left();
    }
    // A file system that knows no flags for renaming is no failure.
    rig.tampered(&rig.partial, "renameat2:error=EINVAL", &[]).exits(0);
    rig.assert_whole();
    before.assert_unchanged(&rig.dir, "a target that fails");
}

#[test]
fn a_directory_that_cannot_be_synced_is_an_output_error() {
    if !strace::available("a_directory_that_cannot_be_synced_is_an_output_error") {
        return;
    }
    let rig = rig();
    let ran = rig.tampered(&rig.root, "fsync,fdatasync:error=EIO", &[]).exits(4);
    ran.says(&["cannot bring the output's directory to the medium"]);
    // By then it is whole, and has its name; only whether the name would outlive a power cut is not known.
    rig.assert_whole();
}

#[test]
fn a_target_that_is_filled_behind_our_back() {
    let test = "a_target_that_is_filled_behind_our_back";
    if !strace::available(test) || !loopdev::available(test) {
        return;
    }
    let Some(target) = TMPFS.mount(test) else { return };
    loopdev::run("mount", &["-o", "remount,size=16m", text(&target.root)]);
    let rig = rig();
    let root = target.root.canonicalize().unwrap();
    let (out, partial) = (root.join("out.img"), root.join("out.img.partial"));
    let mut slow = strace::slowed(&partial, 200, &rig.args(&out, &[])).spawn();
    slow.wait_until("the copy began", || fs::metadata(&partial).is_ok_and(|m| m.len() == 16 * MIB));
    let mut filler = fs::File::create(root.join("filler")).unwrap();
    let full = std::iter::repeat_with(|| filler.write_all(&[1; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    slow.finish().exits(4).says(&["ran full while it was written"]);
    assert!(!out.exists() && !partial.exists());
}

#[test]
fn a_limit_on_file_sizes() {
    let rig = rig();
    let wrapper = ["sh", "-c", "ulimit -f 4096; exec \"$@\"", "sh"];
    let ran = Lhrecover::under(&wrapper, &rig.args(&rig.out, &[])).run().exits(4);
    ran.says(&["refuses a file of 16777216 bytes", "File too large"]);
    rig.assert_nothing_left();
}

#[test]
fn a_signal_ends_it_and_takes_the_partial_down() {
    if !strace::available("a_signal_ends_it_and_takes_the_partial_down") {
        return;
    }
    let rig = rig();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut slow = rig.in_the_middle();
        let began = Instant::now();
        slow.signal(signal);
        slow.finish().exits(130).says(&["interrupted"]);
        assert!(began.elapsed() < Duration::from_secs(20), "{signal} took {:?}", began.elapsed());
        rig.assert_nothing_left();
    }
    rig.assert_next_run_is_right();
}

#[test]
fn a_signal_counts_in_every_phase() {
    if !strace::available("a_signal_counts_in_every_phase") {
        return;
    }
    let rig = rig();
    for (injection, more) in [
        ("fsync,fdatasync:delay_enter=1000000", &[][..]),
        ("pread64:delay_enter=300000", &["--verify"]),
        ("lseek:delay_enter=300000", &["--digest", "sha256"]),
    ] {
        let args = rig.args(&rig.out, more);
        let mut slow = strace::tampered(&rig.partial, &[injection.to_owned()], &args).spawn();
        slow.wait_until("the copy began", || fs::metadata(&rig.partial).is_ok_and(|m| m.len() == 16 * MIB));
        thread::sleep(Duration::from_millis(300));
        slow.signal(Signal::SIGTERM);
        slow.finish().exits(130).says(&["interrupted"]);
        rig.assert_nothing_left();
    }
}

#[test]
fn killed_at_any_point_there_is_no_image_or_a_whole_one() {
    if !strace::available("killed_at_any_point_there_is_no_image_or_a_whole_one") {
        return;
    }
    let rig = rig();
    let mut left_behind = 0;
    // Steps of uneven length through a run of about half a second.
    for step in 0..14u64 {
        let args = rig.args(&rig.out, &["--force", "--verify"]);
        let mut slow = strace::slowed(&rig.partial, 20, &args).spawn();
        thread::sleep(Duration::from_millis(step * 41 + step * step % 7));
        slow.signal(Signal::SIGKILL);
        slow.finish();
        if rig.out.exists() {
            rig.assert_whole();
            fs::remove_file(&rig.out).unwrap();
        }
        left_behind += usize::from(rig.partial.exists());
    }
    assert!(left_behind > 0, "no run was killed while it copied");
    rig.assert_next_run_is_right();
}

#[test]
fn killed_it_has_not_touched_the_file_it_was_to_replace() {
    if !strace::available("killed_it_has_not_touched_the_file_it_was_to_replace") {
        return;
    }
    let rig = rig();
    fs::write(&rig.out, "precious").unwrap();
    let mut slow = strace::slowed(&rig.partial, 100, &rig.args(&rig.out, &["--force"])).spawn();
    slow.wait_until("the copy began", || rig.partial.exists());
    slow.signal(Signal::SIGKILL);
    slow.finish();
    assert_eq!(fs::read(&rig.out).unwrap(), b"precious");
    lhrecover(&rig.args(&rig.out, &["--force"])).exits(0);
    rig.assert_whole();
}

#[test]
fn a_layer_that_is_cut_off_while_it_is_read() {
    if !strace::available("a_layer_that_is_cut_off_while_it_is_read") {
        return;
    }
    let rig = rig();
    let slow = rig.in_the_middle();
    let base = OpenOptions::new().write(true).open(rig.layer(&image("s000"))).unwrap();
    base.set_len(MIB / 2).unwrap();
    drop(base);
    // Whether the copy meets the early end, or the look at the end does: it is no image.
    slow.finish().exits(3).says(&["while it was read", &image("s000")]);
    rig.assert_nothing_left();
}

#[test]
fn a_replica_that_changes_while_it_is_read() {
    if !strace::available("a_replica_that_changes_while_it_is_read") {
        return;
    }
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("is not what it was", |dir| {
            OpenOptions::new().append(true).open(dir.join(image("s001"))).unwrap().write_all(b"x").unwrap();
        }),
        ("is not what it was", |dir| {
            // What a purge does: the same name, another file.
            fs::copy(dir.join(image("s001")), dir.join("new")).unwrap();
            fs::rename(dir.join("new"), dir.join(image("s001"))).unwrap();
        }),
        ("its head is now", |dir| {
            let meta = fs::read_to_string(dir.join("volume.meta")).unwrap();
            fs::write(dir.join("volume.meta"), meta.replace(HEAD, "volume-head-002.img")).unwrap();
        }),
        ("its chain is another one", |dir| fs::remove_file(dir.join(image("s000") + ".meta")).unwrap()),
    ];
    for (says, change) in changes {
        let rig = rig();
        let slow = rig.in_the_middle();
        change(&rig.dir);
        slow.finish().exits(3).says(&["the replica changed while it was read", says]);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_reader_of_the_stream_that_goes_away() {
    let rig = rig();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let streaming = Lhrecover::new(&rig.args(Path::new("-"), &[])).stdout(writer).spawn();
    reader.read_exact(&mut [0; 1000]).unwrap();
    drop(reader);
    streaming.finish().exits(4).says(&["went away before its end", "offset "]);
}

#[test]
fn a_reader_of_the_stream_that_stalls_does_not_hold_a_signal_up() {
    let rig = rig();
    let manifest = rig.root.join("out.json");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let args = rig.args(Path::new("-"), &["--manifest", text(&manifest)]);
    let mut streaming = Lhrecover::new(&args).stdout(writer).spawn();
    reader.read_exact(&mut [0; 1000]).unwrap();
    thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    streaming.signal(Signal::SIGTERM);
    streaming.finish().exits(130);
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    rig.assert_nothing_left();
}

#[test]
fn a_stream_to_a_full_disk() {
    let rig = rig();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let ran = Lhrecover::new(&rig.args(Path::new("-"), &[])).stdout(full).run();
    ran.exits(4).says(&["No space left on device"]);
}

#[test]
fn a_device_that_fails() {
    let test = "a_device_that_fails";
    if !loopdev::available(test) || !strace::available(test) {
        return;
    }
    let rig = rig();
    let device = LoopDevice::over(&sparse_file(&rig.root.join("disk.img"), 16 * MIB));
    let args = rig.args(&device.path, &["--any-device", "--overwrite"]);
    for (injection, says) in [
        (format!("{WRITES}:error=EIO:when=3+"), "cannot write to the device"),
        (format!("{WRITES}:error=ENOSPC:when=2+"), "cannot write to the device"),
        ("fsync,fdatasync:error=EIO".to_owned(), "the device failed to store what was written"),
    ] {
        let ran = strace::tampered(&device.path, &[injection], &args).run().exits(4);
        ran.says(&[says, "what it holds now is not complete"]);
    }
    let base = rig.layer(&image("s000"));
    let ran = strace::tampered(&base, &[format!("{READS}:error=EIO:when=4+")], &args).run();
    ran.exits(3).says(&[&image("s000"), "offset "]);
    lhrecover(&args).exits(0);
    assert!(fs::read(&device.path).unwrap() == chain().reads());
}
