//! `mount` when something dies, is in use, or is asked to end: no thread sticks, who uses it is named, and what is left is
//! found and taken down.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::cli::Running;
use common::fingerprint::Fingerprint;
use common::loopdev::{LoopDevice, run, skipped};
use common::mounts::{Mounts, RUN_DIR};
use common::{Fixture, fixture, strace, text};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn ext4() -> (Fixture, PathBuf) {
    let fixture = fixture("16-ext4-sqlite");
    let replica = fixture.replica().0;
    (fixture, replica)
}

/// Waits until `condition` holds; fails the test when it takes too long.
#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "no {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads all that a program prints, which must end by itself: nothing may hang.
#[track_caller]
fn ends(program: &str, args: &[&str]) -> bool {
    let mut child =
        Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.success();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{program} {args:?} hangs");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A process that works in a directory, until it is dropped.
struct User(Child);

impl User {
    fn of(dir: &Path) -> Self {
        User(Command::new("sleep").arg("600").current_dir(dir).stdin(Stdio::null()).spawn().unwrap())
    }

    fn named(&self) -> String {
        format!("process {} (sleep)", self.0.id())
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_mounted(point: &Path) -> bool {
    let point = format!(" {} ", text(point));
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.contains(&point))
}

#[test]
fn a_killed_server_leaves_errors_and_no_hang_and_is_cleaned_up() {
    let test = "a_killed_server_leaves_errors_and_no_hang_and_is_cleaned_up";
    let Some(mounts) = Mounts::new(test) else { return };
    let (_fixture, replica) = ext4();
    let before = Fingerprint::of(&replica);
    let kinds: [&[&str]; 3] = [&[], &["--journal", "replay"], &["--image-only"]];
    for (options, by_stale) in kinds.into_iter().flat_map(|options| [(options, true), (options, false)]) {
        mounts.mount(&replica, options).exits(0);
        kill(Pid::from_raw(mounts.server_pid()), Signal::SIGKILL).unwrap();
        let read = format!("find {0} -type f -exec cat {{}} +", text(&mounts.point));
        assert!(!ends("sh", &["-c", &read]), "{options:?}: everything could be read");
        ends("ls", &["-lR", text(&mounts.point)]);
        wait_until("leftover", || mounts.list()[0]["whole"] == false);
        if by_stale {
            mounts.stale().exits(0);
            mounts.assert_nothing_left("a killed server");
        }
        before.assert_unchanged(&replica, "a killed server");
        // The place can be used again, whoever takes down what was left.
        mounts.mount(&replica, options).exits(0);
        assert!(ends("ls", &["-lR", text(&mounts.point)]));
        mounts.umount().exits(0);
        mounts.assert_nothing_left("a second mount");
    }
}

#[test]
fn what_is_in_order_is_no_leftover() {
    let Some(mounts) = Mounts::new("what_is_in_order_is_no_leftover") else { return };
    let (_fixture, replica) = ext4();
    let stale = || mounts.program(&["umount", "--stale", "--json"]).run().exits(0).json();
    for options in [&[][..], &["--image-only"]] {
        mounts.mount(&replica, options).exits(0);
        assert_eq!(stale()["unmounted"].as_array().unwrap().len(), 0);
        assert!(is_mounted(&mounts.point));
        // Unmounted by hand, the rest is a leftover.
        run("umount", &[&mounts.point]);
        let down = stale();
        assert_eq!(down["unmounted"][0]["mountpoint"].as_str(), Some(text(&mounts.point)));
        mounts.assert_nothing_left("umount by hand");
    }
}

#[test]
fn who_uses_it_is_named_and_it_goes_on_being_served() {
    let Some(mounts) = Mounts::new("who_uses_it_is_named_and_it_goes_on_being_served") else { return };
    let (_fixture, replica) = ext4();
    for options in [&[][..], &["--image-only"]] {
        mounts.mount(&replica, options).exits(0);
        let user = User::of(&mounts.point);
        mounts.umount().exits(5).says(&["in use by", &user.named()]);
        // A signal to the server says so in its log.
        let server = mounts.server_pid();
        kill(Pid::from_raw(server), Signal::SIGTERM).unwrap();
        let id = mounts.list()[0]["id"].as_str().unwrap().to_owned();
        let log = mounts.run_dir.join(id).join("log");
        wait_until("word in the log", || {
            fs::read_to_string(&log).is_ok_and(|log| log.contains("in use by") && log.contains(&user.named()))
        });
        assert!(ends("ls", &["-lR", text(&mounts.point)]));
        assert_eq!(mounts.list()[0]["whole"], true);
        drop(user);
        kill(Pid::from_raw(server), Signal::SIGTERM).unwrap();
        mounts.assert_nothing_left("a signal to the server");
    }
}

#[test]
fn a_loop_device_on_the_image_is_named() {
    let Some(mounts) = Mounts::new("a_loop_device_on_the_image_is_named") else { return };
    let (_fixture, replica) = ext4();
    mounts.mount(&replica, &["--image-only"]).exits(0);
    let device = LoopDevice::with_options(&mounts.point.join("volume.img"), &["--read-only"]);
    mounts.umount().exits(5).says(&["the loop device", text(&device.path)]);
    drop(device);
    mounts.umount().exits(0);
    mounts.assert_nothing_left("umount");
}

/// A mount in the foreground, once everything is up.
fn in_foreground(mounts: &Mounts, replica: &Path, options: &[&str]) -> Running {
    let args = [&["mount", text(replica), text(&mounts.point), "--foreground"], options].concat();
    let mut running = mounts.program(&args).spawn();
    running.wait_until("it is up", || is_mounted(&mounts.point) && mounts.list()[0]["whole"] == true);
    running
}

#[test]
fn a_mount_in_the_foreground_ends_with_a_signal_once_nothing_uses_it() {
    let Some(mounts) = Mounts::new("a_mount_in_the_foreground_ends_with_a_signal_once_nothing_uses_it")
    else {
        return;
    };
    let (_fixture, replica) = ext4();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut running = in_foreground(&mounts, &replica, &[]);
        let user = User::of(&mounts.point);
        // Everything is up a moment before the process begins to wait for a signal.
        thread::sleep(Duration::from_millis(300));
        running.signal(signal);
        thread::sleep(Duration::from_millis(1000));
        assert!(!running.is_over() && is_mounted(&mounts.point));
        let named = user.named();
        drop(user);
        running.signal(signal);
        running.finish().exits(0).says(&["in use by", &named]);
        mounts.assert_nothing_left("a signal");
    }
}

#[test]
fn a_mount_in_the_foreground_ends_when_it_is_unmounted_or_its_server_dies() {
    let Some(mounts) = Mounts::new("a_mount_in_the_foreground_ends_when_it_is_unmounted_or_its_server_dies")
    else {
        return;
    };
    let (_fixture, replica) = ext4();
    for options in [&[][..], &["--image-only"]] {
        let running = in_foreground(&mounts, &replica, options);
        mounts.umount().exits(0);
        running.finish().exits(0);
        let running = in_foreground(&mounts, &replica, options);
        kill(Pid::from_raw(mounts.server_pid()), Signal::SIGKILL).unwrap();
        running.finish().exits(2).says(&["the process that served the image was ended"]);
        mounts.assert_nothing_left("a dead server");
    }
    // The server serves on when the process in the foreground dies.
    let mut running = in_foreground(&mounts, &replica, &[]);
    thread::sleep(Duration::from_millis(300));
    running.signal(Signal::SIGKILL);
    drop(running);
    assert!(ends("ls", &["-lR", text(&mounts.point)]));
    mounts.umount().exits(0);
    mounts.assert_nothing_left("a dead foreground");
}

/// System calls of `mount` at which it is killed, or gets a signal: writing its state down, starting the server, giving it
/// orders, the loop device, the mount itself, letting the server go.
const POINTS: [&str; 11] = [
    "flock:when=1",
    "rename:when=1",
    "rename:when=2",
    "execve:when=2",
    "write:when=3",
    "ioctl:when=1",
    "ioctl:when=2",
    "ioctl:when=3",
    "mount:when=1",
    "umount2:when=1",
    "write:when=4",
];

/// Runs `mount` such that `signal` arrives at this system call.
fn interrupted(mounts: &Mounts, replica: &Path, point: &str, signal: &str) -> common::cli::Ran {
    let inject = point.replacen(':', &format!(":signal={signal}:"), 1);
    let wrapper = ["strace", "-qq", "-o", "/dev/null", "--inject", &inject];
    let args = ["mount", text(replica), text(&mounts.point)];
    common::cli::Lhrecover::under(&wrapper, &args).env(RUN_DIR, &mounts.run_dir).run()
}

#[test]
fn a_mount_that_is_killed_anywhere_is_cleaned_up() {
    let test = "a_mount_that_is_killed_anywhere_is_cleaned_up";
    let Some(mounts) = Mounts::new(test) else { return };
    if !strace::available(test) {
        return;
    }
    let (_fixture, replica) = ext4();
    let before = Fingerprint::of(&replica);
    let mut killed = 0;
    for point in POINTS {
        let ran = interrupted(&mounts, &replica, point, "KILL");
        if ran.status.success() {
            // It never came there.
            mounts.umount().exits(0);
        } else {
            killed += 1;
            // The server notices, and has everything taken down; whatever it cannot do is left to this.
            wait_until("end of what was left", || mounts.stale().status.success());
        }
        mounts.assert_nothing_left(point);
        before.assert_unchanged(&replica, point);
    }
    assert!(killed >= 7, "only {killed} of the calls were made");
    mounts.mount(&replica, &[]).exits(0);
    mounts.umount().exits(0);
    mounts.assert_nothing_left("a mount after all that");
}

#[test]
fn a_mount_that_is_interrupted_anywhere_takes_down_what_is_there() {
    let test = "a_mount_that_is_interrupted_anywhere_takes_down_what_is_there";
    let Some(mounts) = Mounts::new(test) else { return };
    if !strace::available(test) {
        return;
    }
    let (_fixture, replica) = ext4();
    let mut interruptions = 0;
    for point in POINTS {
        let ran = interrupted(&mounts, &replica, point, "INT");
        match ran.status.code() {
            Some(130) => interruptions += 1,
            // Nobody listened for signals yet: it ended as any program does.
            None => {}
            // It came too late, or never.
            Some(0) => {
                mounts.umount().exits(0);
            }
            other => panic!("{point}: {other:?} {}", ran.stderr),
        }
        mounts.assert_nothing_left(point);
    }
    assert!(interruptions >= 5, "only {interruptions} of the calls were made");
}

#[test]
fn what_cannot_be_read_is_an_error_with_its_place_and_never_zeros() {
    let test = "what_cannot_be_read_is_an_error_with_its_place_and_never_zeros";
    let Some(mounts) = Mounts::new(test) else { return };
    let (_fixture, replica) = ext4();
    mounts.mount(&replica, &["--image-only"]).exits(0);
    let image = File::open(mounts.point.join("volume.img")).unwrap();
    // A layer that became shorter can be read no more.
    let snapshot = fs::read_dir(&replica).unwrap().map(|entry| entry.unwrap().path());
    let snapshot =
        snapshot.into_iter().find(|path| text(path).contains("snap-mkfs") && text(path).ends_with(".img"));
    File::options().write(true).open(snapshot.unwrap()).unwrap().set_len(0).unwrap();
    let mut buffer = vec![1; 4096];
    let failed = (0..16384_u64).filter(|i| image.read_exact_at(&mut buffer, i * 4096).is_err()).count();
    assert!(failed > 0, "everything could be read");
    drop(image);
    let down =
        mounts.program(&["umount", text(&mounts.point), "--json"]).run().exits(1).says(&["warning: "]).json();
    let trouble = down["unmounted"][0]["trouble"].as_array().unwrap();
    let first = trouble
        .iter()
        .find(|line| line.as_str().unwrap().contains("layer volume-snap-mkfs"))
        .expect("a layer");
    assert!(first.as_str().unwrap().contains("offset "), "{trouble:?}");
    let mut once: Vec<_> =
        trouble.iter().map(|line| line.as_str().unwrap().split_once(' ').unwrap().1).collect();
    once.sort_unstable();
    let all = once.len();
    once.dedup();
    assert_eq!(once.len(), all, "each place once: {trouble:?}");
    mounts.assert_nothing_left("unreadable data");
}

#[test]
fn a_server_has_little_in_memory_and_nothing_inherited() {
    let Some(mounts) = Mounts::new("a_server_has_little_in_memory_and_nothing_inherited") else { return };
    let fixture = fixture("06-deep-chain-249");
    let (replica, _) = fixture.replica();
    mounts.mount(&replica, &["--image-only"]).exits(0);
    let server = mounts.server_pid();
    assert!(ends("cat", &[text(&mounts.point.join("volume.img"))]));
    let status = fs::read_to_string(format!("/proc/{server}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().trim().to_owned();
    let kib: u64 = peak.strip_suffix(" kB").unwrap().parse().unwrap();
    assert!(kib < 128 << 10, "{peak}");
    assert_eq!(status.lines().next(), Some("Name:\tlhrecover"));
    let session = nix::unistd::getsid(Some(Pid::from_raw(server))).unwrap();
    assert_eq!(session, Pid::from_raw(server), "a session of its own");
    assert_eq!(fs::read_link(format!("/proc/{server}/cwd")).unwrap(), Path::new("/"));
    for entry in fs::read_dir(format!("/proc/{server}/fd")).unwrap().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let ours = [replica.as_path(), &mounts.run_dir, Path::new("/dev/fuse")];
        let known = ours.iter().any(|path| target.starts_with(path))
            || ["pipe:", "socket:", "anon_inode:"].iter().any(|kind| text(&target).starts_with(kind));
        assert!(known, "inherited: {}", target.display());
    }
    mounts.umount().exits(0);
    mounts.assert_nothing_left("umount");
}

#[test]
fn an_ordinary_user_mounts_the_image() {
    let test = "an_ordinary_user_mounts_the_image";
    if Mounts::new(test).is_none() {
        return;
    }
    let helper =
        ["fusermount3", "fusermount"].into_iter().any(|name| Command::new(name).arg("-V").output().is_ok());
    if !helper {
        return skipped(test, "no fusermount3 (package fuse3)");
    }
    // A place that everybody can reach, which a build directory need not be.
    let open = tempfile::Builder::new().prefix("lhrecover-user-").tempdir_in("/tmp").unwrap();
    let fixture = common::fixture_in("02-head-one-snapshot", tempfile::tempdir_in(open.path()).unwrap());
    let (replica, truth) = fixture.replica();
    fs::copy(common::cli::PROGRAM, open.path().join("lhrecover")).unwrap();
    fs::create_dir(open.path().join("mnt")).unwrap();
    run("chmod", &["-R", "a+rX", text(open.path())]);
    for dir in [open.path(), &open.path().join("mnt")] {
        std::os::unix::fs::chown(dir, Some(65534), Some(65534)).unwrap();
    }
    // In a container /dev/fuse may be root's alone: in a mount namespace of its own, the test has another.
    let script = r#"
        cd "$1"
        mknod fuse c 10 229 && chmod 666 fuse && mount --bind fuse /dev/fuse || exit 77
        as() { setpriv --reuid=65534 --regid=65534 --clear-groups env LHRECOVER_RUN_DIR="$PWD/run" "$@"; }
        as ./lhrecover mount "$2" mnt && exit 1
        as ./lhrecover mount --image-only --quiet "$2" mnt || exit 2
        as sha256sum mnt/volume.img
        as ./lhrecover umount --quiet mnt || exit 3
        [ -z "$(ls run)" ] && ! grep -q "$PWD/mnt" /proc/self/mounts || exit 4
    "#;
    let arguments = ["--mount", "sh", "-c", script, "sh", text(open.path()), text(&replica)];
    let ran = Command::new("unshare").args(arguments).output().unwrap();
    if ran.status.code() == Some(77) {
        return skipped(test, "no device nodes can be made here");
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{:?}\n{said}", ran.status);
    assert!(said.contains("mounting a file system takes root"), "{said}");
    assert!(String::from_utf8_lossy(&ran.stdout).starts_with(truth["sha256"].as_str().unwrap()));
}
