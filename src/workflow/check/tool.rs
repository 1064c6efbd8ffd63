//! Tools of others that check: found, run, and heard, within bounds.
//!
//! They say much, in words that came from a disk; the first lines are kept, cut to a length. They end with us: a signal is
//! seen while they run, and they are in a process group of their own, none of which is left behind.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::node::child::Talk;

/// How many lines of what a tool says are kept, and how long each may be, in bytes.
const MAX_LINES: usize = 60;
const MAX_LINE_BYTES: usize = 300;
/// How often a signal and the clock are looked at.
const POLL: Duration = Duration::from_millis(100);
/// Where Debian keeps the tools for file systems: the PATH of one who is not root lacks it.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where tools are, and how long one may take.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// The directories they are looked for in.
    pub dirs: Vec<PathBuf>,
    /// How long one may take; without end, when nothing is said.
    pub timeout: Option<Duration>,
}

/// A tool, and the Debian package that it comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The program's name.
    pub program: &'static str,
    /// The package's.
    pub package: &'static str,
}

/// What a tool said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolRun {
    /// What was run, with its arguments; the image is called `IMAGE`.
    pub command: String,
    /// Its exit code; `None` when a signal or the time-out ended it.
    pub exit_code: Option<i32>,
    /// The first lines of what it said, on standard output and then on standard error.
    pub lines: Vec<String>,
    /// How many more there were.
    pub more_lines: u64,
}

impl Tools {
    /// In the directories of `path`, as PATH has them, and where the system keeps such tools.
    pub fn in_path(path: Option<&OsStr>) -> Self {
        let mut dirs: Vec<_> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
        dirs.extend(SYSTEM_DIRS.map(PathBuf::from));
        // An empty entry would mean the working directory.
        dirs.retain(|dir| dir.is_absolute());
        Tools { dirs, timeout: None }
    }

    fn find(&self, program: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        };
        self.dirs.iter().map(|dir| dir.join(program)).find(is_program)
    }

    /// Runs `tool` with `args` and, last, the image; `None` when it is not installed.
    ///
    /// # Errors
    /// `External` when it cannot be started; when stopped.
    pub fn run(&self, tool: Tool, args: &[&str], image: &Path, run: &Run<'_>) -> Result<Option<ToolRun>> {
        let Some(program) = self.find(tool.program) else { return Ok(None) };
        let fail = |e| {
            Error::new(ErrorKind::External, format!("cannot run {}", tool.program))
                .with_path(&program)
                .caused_by(e)
        };
        let mut command = Command::new(&program);
        // Their words are looked at, and nothing of ours is their business.
        command
            .args(args)
            .arg(image)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", SYSTEM_DIRS.join(":") + ":/usr/bin:/bin");
        let began = Instant::now();
        let mut said = Said::default();
        let mut talk = Talk::start(command).map_err(fail)?;
        talk.hang_up();
        while !talk.is_over() {
            run.check()?;
            if self.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                drop(talk);
                said.line("it took too long, and was ended");
                return Ok(Some(said.into_run(tool, args, None)));
            }
            talk.step(POLL, |bytes| said.hear(bytes)).map_err(fail)?;
        }
        said.end_line();
        said.hear(talk.said());
        said.end_line();
        let exit_code = talk.exit_code().map_err(fail)?;
        Ok(Some(said.into_run(tool, args, exit_code)))
    }
}

/// Lines as they come in.
#[derive(Default)]
struct Said {
    open: Vec<u8>,
    lines: Vec<String>,
    more_lines: u64,
}

impl Said {
    fn hear(&mut self, bytes: &[u8]) {
        let mut parts = bytes.split(|&b| b == b'\n');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.extend(part);
            self.end_line();
        }
        self.extend(last);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES.saturating_sub(self.open.len());
        self.open.extend(bytes.iter().take(room));
    }

    fn end_line(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.line(String::from_utf8_lossy(&open).trim());
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
        } else if self.lines.len() < MAX_LINES {
            self.lines.push(line.to_owned());
        } else {
            self.more_lines += 1;
        }
    }

    fn into_run(self, tool: Tool, args: &[&str], exit_code: Option<i32>) -> ToolRun {
        let command = format!("{} {} IMAGE", tool.program, args.join(" "));
        ToolRun { command, exit_code, lines: self.lines, more_lines: self.more_lines }
    }
}
