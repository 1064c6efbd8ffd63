//! Copies that are cut short, by signals, failing disks and full targets: nothing that is left looks like a replica, and
//! the next run goes on where the last one ended. A source that changes meanwhile is an error.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::chain::{Chain, HEAD, Mark, image};
use common::cli::{Lhrecover, Ran, Running, lhrecover};
use common::filesystems::EXT4_4K;
use common::fingerprint::Fingerprint;
use common::strace::{self, READS, WRITES};
use common::{loopdev, scratch, text};
use lhrecover::format::copy::{JOURNAL_NAME, partial_name};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::Signal;
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Windows of the base layer that hold data: 2 MiB each, 64 MiB apart.
const WINDOWS: u64 = 5;

/// A replica of 320 MiB whose base has data in five windows.
struct Rig {
    disk: tempfile::TempDir,
    dir: PathBuf,
    copy: PathBuf,
    before: Fingerprint,
}

fn rig() -> Rig {
    let disk = scratch();
    let base: Vec<_> = (0..WINDOWS).map(|i| (i * 16384 + 3, 512, Mark::Data)).collect();
    let chain = Chain::of(WINDOWS * 64 * MIB, &[&base, &[(0, 16, Mark::Zeros)]]);
    let dir = chain.write_to(disk.path()).canonicalize().unwrap();
    let copy = dir.parent().unwrap().parent().unwrap().join("copy");
    let before = Fingerprint::of(&dir);
    Rig { disk, dir, copy, before }
}

impl Rig {
    fn base(&self) -> PathBuf {
        self.dir.join(image("s000"))
    }

    fn partial(&self) -> PathBuf {
        self.copy.join(partial_name(&image("s000")))
    }

    /// One thread, so that calls can be counted.
    fn args(&self) -> [&str; 7] {
        ["preserve", text(&self.dir), text(&self.copy), "--threads", "1", "--json", "--quiet"]
    }

    /// A run that is slow at copying the base.
    fn slow(&self) -> Running {
        fs::create_dir_all(&self.copy).unwrap();
        strace::slowed(&self.partial(), 150, &self.args()).spawn()
    }

    /// How many windows of the base the journal says are done.
    fn windows_done(&self) -> usize {
        let journal = fs::read_to_string(self.copy.join(JOURNAL_NAME)).unwrap_or_default();
        let lines: Vec<Value> = journal.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let base = lines.iter().find(|line| line["file"]["name"] == image("s000").as_str());
        let number = base.map(|line| &line["file"]["number"]);
        lines.iter().filter(|line| number.is_some_and(|number| line["window"]["file"] == *number)).count()
    }

    /// Kills a run in the middle of the copy.
    fn killed(&self) {
        let mut slow = self.slow();
        slow.wait_until("some windows were done", || self.windows_done() >= 2);
        slow.signal(Signal::SIGKILL);
        slow.finish();
        assert!((2..5).contains(&self.windows_done()), "{} windows", self.windows_done());
        self.assert_no_replica("a kill");
    }

    #[track_caller]
    fn assert_no_replica(&self, what: &str) {
        for entry in fs::read_dir(&self.copy).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name.contains("lhrecover-"), "{name} is there after {what}");
        }
        lhrecover(&["merge", text(&self.copy), text(&self.disk.path().join("x"))])
            .exits(3)
            .says(&["this is a copy that was not finished"]);
    }

    #[track_caller]
    fn assert_right(&self, what: &str) {
        self.before.assert_copied_to(&self.copy, what);
        self.before.assert_unchanged(&self.dir, what);
        assert!(!self.copy.join(JOURNAL_NAME).exists());
    }

    #[track_caller]
    fn goes_on(&self, what: &str) -> Value {
        let report = lhrecover(&self.args()).exits(0).json();
        self.assert_right(what);
        report
    }
}

fn bytes(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap()
}

#[test]
fn a_run_that_was_killed_goes_on_where_it_ended() {
    if !strace::available("a_run_that_was_killed_goes_on_where_it_ended") {
        return;
    }
    let rig = rig();
    rig.killed();
    let done = rig.windows_done() as u64;
    let log = rig.disk.path().join("log");
    let base = rig.base();
    let wrapper = ["strace", "-D", "-f", "-qq", "-o", text(&log), "-P", text(&base), "-e", "trace=pread64"];
    let report = Lhrecover::under(&wrapper, &rig.args()).run().exits(0).json();
    rig.assert_right("a second run");
    assert!(bytes(&report, "resumed_bytes") >= done * 2 * MIB, "{done} windows were done: {report}");
    // What was done is not read again.
    let log = fs::read_to_string(&log).unwrap();
    let reads = log.lines().filter(|line| line.contains(" = 1048576")).count() as u64;
    assert_eq!(reads * MIB, WINDOWS * 2 * MIB - resumed_of_base(&report), "{report}");
}

/// Bytes of the base that an earlier run had copied; the other files have less than a MiB.
fn resumed_of_base(report: &Value) -> u64 {
    bytes(report, "resumed_bytes") / MIB * MIB
}

#[test]
fn a_window_that_did_not_reach_the_medium_is_copied_anew() {
    if !strace::available("a_window_that_did_not_reach_the_medium_is_copied_anew") {
        return;
    }
    for what in ["other bytes", "a hole", "a shorter file"] {
        let rig = rig();
        rig.killed();
        let partial = OpenOptions::new().write(true).open(rig.partial()).unwrap();
        match what {
            "other bytes" => partial.write_all_at(b"garbage", 4 * 4096).unwrap(),
            "a hole" => {
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(&partial, flags, 4 * 4096, 8192).unwrap();
            }
            _ => partial.set_len(MIB).unwrap(),
        }
        rig.goes_on(what);
    }
}

#[test]
fn a_torn_journal_and_a_changed_file_are_begun_anew() {
    if !strace::available("a_torn_journal_and_a_changed_file_are_begun_anew") {
        return;
    }
    let rig = rig();
    rig.killed();
    let journal = rig.copy.join(JOURNAL_NAME);
    let length = fs::metadata(&journal).unwrap().len();
    let torn = OpenOptions::new().write(true).open(&journal).unwrap();
    torn.set_len(length - 9).unwrap();
    torn.write_all_at(&[0; 64], length - 9).unwrap();
    drop(torn);
    rig.goes_on("a torn journal");

    let mut rig = self::rig();
    rig.killed();
    File::options().write(true).open(rig.base()).unwrap().write_all_at(b"new", 4 * 4096).unwrap();
    rig.before = Fingerprint::of(&rig.dir);
    let report = rig.goes_on("a change of the source between two runs");
    assert_eq!(resumed_of_base(&report), 0, "{report}");
}

#[test]
fn a_kill_while_names_are_given_leaves_no_replica() {
    if !strace::available("a_kill_while_names_are_given_leaves_no_replica") {
        return;
    }
    for nth in [1, 2, 4, 6, 7] {
        let rig = rig();
        let injection = format!("renameat2:signal=KILL:when={nth}");
        let wrapper = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "--inject", &injection];
        let ran = Lhrecover::under(&wrapper, &rig.args()).run();
        assert_eq!(ran.status.code(), None, "rename {nth}: {:?} {}", ran.status, ran.stderr);
        assert!(!rig.copy.join("volume.meta").exists() || nth == 7, "rename {nth}");
        if nth == 7 {
            // Everything has its name but the manifest: that is right, and told.
            lhrecover(&["inspect", text(&rig.copy)]).exits(1).says(&[]);
        }
        lhrecover(&["preserve", text(&rig.dir), text(&rig.copy), "--check"])
            .exits(1)
            .says(&["[copy-unfinished]"]);
        let report = rig.goes_on(&format!("a kill at rename {nth}"));
        assert_eq!(bytes(&report, "copied_bytes"), 0, "rename {nth}: {report}");
    }
}

#[test]
fn a_signal_keeps_what_was_done_and_says_so() {
    if !strace::available("a_signal_keeps_what_was_done_and_says_so") {
        return;
    }
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let rig = rig();
        let mut slow = rig.slow();
        slow.wait_until("some windows were done", || rig.windows_done() >= 2);
        // A second run keeps away.
        lhrecover(&rig.args()).exits(5).says(&["another run is writing this copy"]);
        slow.signal(signal);
        slow.finish().exits(130).says(&["interrupted", "run the same command again to go on"]);
        rig.assert_no_replica("a signal");
        let report = rig.goes_on("a signal");
        assert!(bytes(&report, "resumed_bytes") > 0, "{report}");
    }
}

fn fails(rig: &Rig, file: &Path, injection: &str, code: i32, says: &[&str]) -> Ran {
    fs::create_dir_all(&rig.copy).unwrap();
    strace::tampered(file, &[injection.to_owned()], &rig.args()).run().exits(code).says(says)
}

#[test]
fn a_source_that_cannot_be_read_names_nothing() {
    if !strace::available("a_source_that_cannot_be_read_names_nothing") {
        return;
    }
    let rig = rig();
    let base = image("s000");
    let says = [&format!("layer {base}, offset "), "Input/output error", "run the same command again"];
    fails(&rig, &rig.base(), &format!("{READS}:error=EIO:when=4+"), 3, &says);
    rig.assert_no_replica("a read error");
    rig.goes_on("a read error");
}

#[test]
fn a_target_that_fails_or_runs_full_names_nothing() {
    if !strace::available("a_target_that_fails_or_runs_full_names_nothing") {
        return;
    }
    for (injection, says) in [
        (format!("{WRITES}:error=ENOSPC:when=4"), "free some room"),
        (format!("{WRITES}:error=EIO:when=4"), "the target disk may be failing"),
        (format!("{READS}:error=EIO:when=3+"), "the target disk may be failing"),
        ("fsync:error=EIO:when=1".to_owned(), "cannot bring the copy to the medium"),
    ] {
        let rig = rig();
        fails(&rig, &rig.partial(), &injection, 4, &[says, "run the same command again"]);
        rig.assert_no_replica(&injection);
        rig.goes_on(&injection);
    }
}

#[test]
fn a_target_that_loses_writes_is_found_out() {
    if !strace::available("a_target_that_loses_writes_is_found_out") {
        return;
    }
    let rig = rig();
    // Says that it wrote, and did not: what should be data is a hole.
    let ran = fails(&rig, &rig.partial(), "pwrite64:retval=1048576:when=3", 5, &["not those of the source"]);
    assert!(ran.stderr.contains("offset"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(&rig.copy).unwrap().count(), 0);
}

#[test]
fn a_target_without_room_is_refused_beforehand() {
    let test = "a_target_without_room_is_refused_beforehand";
    if !loopdev::available(test) {
        return;
    }
    let Some(mounted) = EXT4_4K.mount(test) else { return };
    let rig = rig();
    let filler = File::create(mounted.root.join("filler")).unwrap();
    let mut size: i64 = 256 << 20;
    while fallocate(&filler, FallocateFlags::empty(), 0, size).is_err() {
        size -= 1 << 20;
    }
    // Enough to try the target out, and no more.
    filler.set_len(u64::try_from(size).unwrap() - 2 * MIB).unwrap();
    let copy = mounted.root.join("copy");
    let ran = lhrecover(&["preserve", text(&rig.dir), text(&copy)]).exits(4);
    ran.says(&["not enough room", "are short", "hint"]);
    assert!(!copy.exists());
    lhrecover(&["preserve", text(&rig.dir), "--archive", text(&mounted.root.join("a.tar"))])
        .exits(4)
        .says(&["not enough room"]);
    assert!(!mounted.root.join("a.tar").exists() && !mounted.root.join("a.tar.partial").exists());
}

#[test]
fn a_source_that_changes_meanwhile_is_named() {
    if !strace::available("a_source_that_changes_meanwhile_is_named") {
        return;
    }
    let rig = rig();
    let mut slow = rig.slow();
    slow.wait_until("some windows were done", || rig.windows_done() >= 2);
    File::options().write(true).open(rig.dir.join(HEAD)).unwrap().write_all_at(b"new", 0).unwrap();
    slow.finish().exits(3).says(&["the replica changed while it was copied", HEAD]);
    rig.assert_no_replica("a change");
}
