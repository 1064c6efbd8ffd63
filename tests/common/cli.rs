//! The program itself, run with a deadline: what it printed, how it ended, and that it did not panic.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long any run may take; far more than one needs, and far less than a hang.
const DEADLINE: Duration = Duration::from_secs(60);

/// The program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lhrecover");

/// Names the emulator, with its arguments, that runs a program built for another machine (`scripts/test-aarch64`).
pub const EMULATOR: &str = "LHRECOVER_TEST_EMULATOR";

/// What the kernel calls a process that runs the program: the beginning of the file name.
fn running_name() -> String {
    let emulator = std::env::var(EMULATOR).unwrap_or_default();
    let file = Path::new(emulator.split_whitespace().next().unwrap_or(PROGRAM)).file_name();
    file.and_then(OsStr::to_str).expect("a file name").chars().take(15).collect()
}

/// A run in the making.
pub struct Lhrecover(Command);

/// Runs `lhrecover` with these arguments.
pub fn lhrecover<S: AsRef<OsStr>>(args: &[S]) -> Ran {
    Lhrecover::new(args).run()
}

impl Lhrecover {
    /// The program with these arguments.
    pub fn new<S: AsRef<OsStr>>(args: &[S]) -> Self {
        Self::under(&[], args)
    }

    /// The program as the last argument of another one, such as `strace`, followed by its own.
    pub fn under<S: AsRef<OsStr>>(wrapper: &[&str], args: &[S]) -> Self {
        let emulator = std::env::var(EMULATOR).unwrap_or_default();
        let mut words = wrapper.iter().copied().chain(emulator.split_whitespace()).chain([PROGRAM]);
        let mut command = Command::new(words.next().unwrap_or(PROGRAM));
        command.args(words);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Lhrecover(command)
    }

    /// With this working directory.
    pub fn in_dir(mut self, dir: &Path) -> Self {
        self.0.current_dir(dir);
        self
    }

    /// With this variable in its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// With its standard output going there; [`Ran::stdout`] is then empty.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.0.stdout(to);
        self
    }

    /// With its standard input coming from there.
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.0.stdin(from);
        self
    }

    pub fn run(self) -> Ran {
        self.spawn().finish()
    }

    pub fn spawn(mut self) -> Running {
        let mut child = self.0.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", self.0));
        Running { stdout: child.stdout.take().map(drain), stderr: child.stderr.take().map(drain), child }
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("read a pipe");
        bytes
    })
}

/// A run under way; killed when it is dropped unfinished.
pub struct Running {
    child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

impl Running {
    /// Sends a signal, once it is our program that gets it and no longer what was to start it.
    pub fn signal(&mut self, signal: Signal) {
        let comm = format!("/proc/{}/comm", self.child.id());
        let name = running_name();
        self.wait_until("the program began", || {
            fs::read_to_string(&comm).is_ok_and(|comm| comm.trim_end() == name)
        });
        kill(Pid::from_raw(self.child.id().try_into().expect("pid")), signal).expect("kill");
    }

    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    /// Waits until `condition` holds; fails the test when the run ends, or takes too long, before that.
    pub fn wait_until(&mut self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(!self.is_over(), "the run ended before {what}");
            assert!(began.elapsed() < DEADLINE, "no {what} after {DEADLINE:?}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the end; fails the test when it does not come in time, or the program panicked.
    pub fn finish(mut self) -> Ran {
        let began = Instant::now();
        let mut peak_rss_kib = 0;
        let status = loop {
            peak_rss_kib = peak_rss_kib.max(rss_kib(self.child.id()).unwrap_or_default());
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(began.elapsed() < DEADLINE, "still running after {DEADLINE:?}");
            thread::sleep(Duration::from_millis(2));
        };
        let drained = |pipe: Option<JoinHandle<Vec<u8>>>| {
            let Some(pipe) = pipe else { return Vec::new() };
            while !pipe.is_finished() {
                assert!(began.elapsed() < DEADLINE, "something holds its output open after {DEADLINE:?}");
                thread::sleep(Duration::from_millis(2));
            }
            pipe.join().expect("pipe")
        };
        let stdout = drained(self.stdout.take());
        let stderr = String::from_utf8(drained(self.stderr.take())).expect("UTF-8 on standard error");
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ran { status, stdout, stderr, peak_rss_kib }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run that has ended.
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// The most memory it was seen to have resident. What it had for less than a few milliseconds does not show.
    pub peak_rss_kib: u64,
}

/// The most that a process of ours has had resident so far. Its `ru_maxrss` would not do: that begins with what the
/// process that started it has.
fn rss_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = |key: &str| status.lines().find_map(|line| line.strip_prefix(key));
    value("Name:").filter(|name| name.trim() == "lhrecover")?;
    value("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok()
}

impl Ran {
    /// Fails the test unless the exit code is this one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{:?}\n{}", self.status, self.stderr);
        self
    }

    /// Fails the test unless standard error says all of this.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not said in\n{}", self.stderr);
        }
        self
    }

    /// Standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("UTF-8 on standard output")
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

/// Whether a finding of this code is in a report.
pub fn has_finding(report: &Value, code: &str) -> bool {
    report["findings"].as_array().expect("findings").iter().any(|finding| finding["code"] == code)
}
