//! Loop devices, mounts and swap for tests that are root; each is taken down when it is dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Whether loop devices can be had here. If not, says on stderr that the test was skipped, and why.
pub fn available(test: &str) -> bool {
    let why = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/dev/loop-control").exists() {
        "no loop devices"
    } else {
        return true;
    };
    skipped(test, why);
    false
}

/// Says on stderr that a test was skipped, and why.
pub fn skipped(test: &str, why: &str) {
    // Not eprintln!: the harness would capture it, and a skipped test must show.
    let _ = writeln!(io::stderr(), "{test} skipped: {why}");
}

/// Runs a program that must succeed; returns what it printed, trimmed.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A new sparse file of `size_bytes`.
pub fn sparse_file(path: &Path, size_bytes: u64) -> PathBuf {
    File::create_new(path).unwrap().set_len(size_bytes).unwrap();
    path.to_path_buf()
}

/// A loop device.
pub struct LoopDevice {
    /// Its node, `/dev/loopN`.
    pub path: PathBuf,
}

impl LoopDevice {
    /// Over the whole of `backing`.
    pub fn over(backing: &Path) -> Self {
        Self::with_options(backing, &[])
    }

    /// Over `backing`, with further options of losetup(8).
    pub fn with_options(backing: &Path, options: &[&str]) -> Self {
        let mut args: Vec<&OsStr> = vec![OsStr::new("--find"), OsStr::new("--show")];
        args.extend(options.iter().map(OsStr::new));
        args.push(backing.as_os_str());
        LoopDevice { path: PathBuf::from(run("losetup", &args)) }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.path).status();
    }
}

/// A mounted file system.
pub struct Mounted {
    /// Where.
    pub point: PathBuf,
}

impl Mounted {
    /// Mounts `device` at the existing directory `point`.
    pub fn at(device: &Path, point: &Path) -> Self {
        run("mount", &[device, point]);
        Mounted { point: point.to_path_buf() }
    }

    /// Mounts a tmpfs with these options at the existing directory `point`.
    pub fn tmpfs(options: &str, point: &Path) -> Self {
        run(
            "mount",
            &[
                OsStr::new("-t"),
                OsStr::new("tmpfs"),
                OsStr::new("-o"),
                OsStr::new(options),
                OsStr::new("none"),
                point.as_os_str(),
            ],
        );
        Mounted { point: point.to_path_buf() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Somebody who looks at every mount, or a process that is just being started, holds it for a moment.
        let umount = |options: &[&str]| Command::new("umount").args(options).arg(&self.point).output();
        for _ in 0..40 {
            if umount(&[]).is_ok_and(|output| output.status.success()) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        let _ = umount(&["--lazy"]);
    }
}

/// A device in use as swap space.
pub struct Swapped {
    device: PathBuf,
}

impl Swapped {
    /// Swaps on `device`; `None` where the kernel has no swap.
    pub fn on(device: &Path) -> Option<Self> {
        run("mkswap", &[device]);
        let swapped = Command::new("swapon").arg(device).stderr(Stdio::null()).status().unwrap().success();
        swapped.then(|| Swapped { device: device.to_path_buf() })
    }
}

impl Drop for Swapped {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.device).status();
    }
}
