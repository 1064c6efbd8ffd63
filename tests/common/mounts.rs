//! `mount` and `umount` in a run directory of their own, which must be empty in the end.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::cli::{Lhrecover, Ran};
use super::loopdev::{self, skipped};
use super::{scratch, text};

/// Names the run directory.
pub const RUN_DIR: &str = "LHRECOVER_RUN_DIR";

/// A run directory and a mount point.
pub struct Mounts {
    pub tmp: TempDir,
    pub run_dir: PathBuf,
    pub point: PathBuf,
}

impl Mounts {
    /// In a temporary directory; `None`, said on stderr, where nothing can be mounted.
    pub fn new(test: &str) -> Option<Self> {
        if !loopdev::available(test) {
            return None;
        }
        if !Path::new("/dev/fuse").exists() {
            skipped(test, "no /dev/fuse");
            return None;
        }
        if std::env::var_os(super::cli::EMULATOR).is_some() {
            skipped(test, "an emulated program cannot start itself anew");
            return None;
        }
        let tmp = scratch();
        let (run_dir, point) = (tmp.path().join("run"), tmp.path().join("mnt"));
        fs::create_dir(&point).unwrap();
        Some(Mounts { tmp, run_dir, point })
    }

    /// The program with these arguments.
    pub fn program<S: AsRef<OsStr>>(&self, args: &[S]) -> Lhrecover {
        Lhrecover::new(args).env(RUN_DIR, &self.run_dir)
    }

    /// Mounts `source` at the mount point.
    pub fn mount(&self, source: &Path, options: &[&str]) -> Ran {
        self.program(&[&["mount", text(source), text(&self.point)], options].concat()).run()
    }

    pub fn umount(&self) -> Ran {
        self.program(&["umount", text(&self.point)]).run()
    }

    pub fn stale(&self) -> Ran {
        self.program(&["umount", "--stale"]).run()
    }

    /// What `umount --list` says is mounted.
    pub fn list(&self) -> Vec<Value> {
        let listed = self.program(&["umount", "--list", "--json"]).run().exits(0).json();
        listed["mounts"].as_array().unwrap().clone()
    }

    /// The process that serves the only mount.
    pub fn server_pid(&self) -> i32 {
        let [mount] = &self.list()[..] else { panic!("not one mount: {:?}", self.list()) };
        mount["server_pid"].as_i64().expect("a server").try_into().unwrap()
    }

    /// The mounts, loop devices and states that are there, of this run directory and mount point.
    fn left(&self) -> Vec<String> {
        let dir = self.tmp.path().canonicalize().unwrap();
        let ours = |line: &&str| line.contains(text(&dir));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let loops = loopdev::run("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]);
        let states = fs::read_dir(&self.run_dir).into_iter().flatten().flatten();
        let states: Vec<_> = states.map(|entry| entry.path().display().to_string()).collect();
        let processes = loopdev::run("ps", &["-eo", "pid,args"]);
        [&mounts, &loops, &processes]
            .iter()
            .flat_map(|lines| lines.lines().filter(ours))
            .filter(|line| !line.contains("ps -eo"))
            .map(str::to_owned)
            .chain(states)
            .collect()
    }

    /// Fails the test unless everything is gone, or goes within a moment.
    #[track_caller]
    pub fn assert_nothing_left(&self, after: &str) {
        let began = Instant::now();
        while !self.left().is_empty() {
            assert!(began.elapsed() < Duration::from_secs(10), "left after {after}: {:#?}", self.left());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mounts {
    /// A test that failed must leave nothing that the next one could trip over.
    fn drop(&mut self) {
        let umount = |point: &Path| {
            let _ = Command::new("umount").arg("--lazy").arg(point).stderr(Stdio::null()).status();
        };
        umount(&self.point);
        for entry in fs::read_dir(&self.run_dir).into_iter().flatten().flatten() {
            umount(&entry.path().join("image"));
        }
    }
}
