//! Tools of others: found, run, and heard, within bounds.
//!
//! They say much, in words that came from a disk; the first lines are kept, cut to a length. They end with us: a signal is
//! seen while they run, and they are in a process group of their own, none of which is left behind. Only what would leave
//! a file system in pieces is waited for.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::node::child::Talk;
use crate::sys::daemon::ends_with_us;

/// How many lines of what a tool says are kept, and how long each may be, in bytes.
const MAX_LINES: usize = 60;
const MAX_LINE_BYTES: usize = 300;
/// How often a signal and the clock are looked at.
const POLL: Duration = Duration::from_millis(100);
/// Names the only directories that tools are looked for in; for tests.
const PATH_VARIABLE: &str = "LHRECOVER_TOOL_PATH";
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

/// How a tool is to be run.
#[derive(Clone, Debug)]
pub struct Call {
    /// Which.
    pub tool: Tool,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// What it finds in its environment, beyond PATH and the language.
    pub env: &'static [(&'static str, &'static str)],
    /// Whether it is waited for, whatever happens: what it leaves behind half done is damage.
    pub to_the_end: bool,
}

/// What a tool says, as it says it.
#[derive(Clone, Copy, Debug)]
pub enum Heard<'a> {
    /// On standard output.
    Output(&'a [u8]),
    /// On standard error.
    Errors(&'a [u8]),
}

/// What a tool said, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolRun {
    /// What was run, with its arguments.
    pub command: String,
    /// Its exit code; `None` when a signal or the time-out ended it.
    pub exit_code: Option<i32>,
    /// The first lines of what it said, on standard output and then on standard error.
    pub lines: Vec<String>,
    /// How many more there were.
    pub more_lines: u64,
}

impl ToolRun {
    /// What it said, in one line.
    pub fn words(&self) -> String {
        self.lines.join("; ")
    }
}

impl Tool {
    /// A call of it with these arguments.
    pub fn call<S: Into<OsString>>(self, args: impl IntoIterator<Item = S>) -> Call {
        Call { tool: self, args: args.into_iter().map(Into::into).collect(), env: &[], to_the_end: false }
    }
}

impl Call {
    /// The same, to be waited for whatever happens.
    pub fn to_the_end(self) -> Self {
        Call { to_the_end: true, ..self }
    }

    /// As one would type it.
    pub fn text(&self) -> String {
        let args = self.args.iter().map(|arg| {
            let text = arg.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+%@".contains(c);
            if text.chars().all(plain) && !text.is_empty() { text.into_owned() } else { format!("{text:?}") }
        });
        std::iter::once(self.tool.program.to_owned()).chain(args).collect::<Vec<_>>().join(" ")
    }
}

impl Tools {
    /// Those of this machine.
    pub fn here() -> Self {
        match std::env::var_os(PATH_VARIABLE) {
            Some(dirs) => Tools { dirs: std::env::split_paths(&dirs).collect(), timeout: None },
            None => Self::in_path(std::env::var_os("PATH").as_deref()),
        }
    }

    /// In the directories of `path`, as PATH has them, and where the system keeps such tools.
    pub fn in_path(path: Option<&OsStr>) -> Self {
        let mut dirs: Vec<_> = path.map(|path| std::env::split_paths(path).collect()).unwrap_or_default();
        dirs.extend(SYSTEM_DIRS.map(PathBuf::from));
        // An empty entry would mean the working directory.
        dirs.retain(|dir| dir.is_absolute());
        Tools { dirs, timeout: None }
    }

    /// Where a program is, if it is installed.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let is_program = |path: &PathBuf| {
            path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        };
        self.dirs.iter().map(|dir| dir.join(program)).find(is_program)
    }

    /// Where `tool` is.
    ///
    /// # Errors
    /// `Usage` when it is not installed, with the package to install.
    pub fn must_have(&self, tool: Tool) -> Result<PathBuf> {
        self.find(tool.program).ok_or_else(|| {
            Error::usage(format!("{} is not installed", tool.program))
                .with_hint(format!("install it: apt-get install {}", tool.package))
        })
    }

    /// Runs `tool` with `args` and, last, the image; `None` when it is not installed.
    ///
    /// # Errors
    /// `External` when it cannot be started; when stopped.
    pub fn run(&self, tool: Tool, args: &[&str], image: &Path, run: &Run<'_>) -> Result<Option<ToolRun>> {
        if self.find(tool.program).is_none() {
            return Ok(None);
        }
        let mut call = tool.call(args.iter().copied());
        call.args.push(image.into());
        let ran = self.call(&call, run, |_| {})?;
        Ok(Some(ToolRun { command: format!("{} {} IMAGE", tool.program, args.join(" ")), ..ran }))
    }

    /// Runs a tool; what it says goes to `heard` as it says it.
    ///
    /// # Errors
    /// As [`must_have`](Self::must_have); `External` when it cannot be started; when stopped.
    pub fn call(&self, call: &Call, run: &Run<'_>, mut heard: impl FnMut(Heard<'_>)) -> Result<ToolRun> {
        let program = self.must_have(call.tool)?;
        let fail = |e| {
            Error::new(ErrorKind::External, format!("cannot run {}", call.tool.program))
                .with_path(&program)
                .caused_by(e)
        };
        let mut command = Command::new(&program);
        // Their words are looked at, and nothing of ours is their business.
        command
            .args(&call.args)
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", SYSTEM_DIRS.join(":") + ":/usr/bin:/bin")
            .envs(call.env.iter().copied());
        if !call.to_the_end {
            ends_with_us(&mut command);
        }
        let began = Instant::now();
        let mut said = Said::default();
        let mut talk = Talk::start(command).map_err(fail)?;
        talk.hang_up();
        while !talk.is_over() {
            if !call.to_the_end {
                run.check()?;
                if self.timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                    drop(talk);
                    said.line("it took too long, and was ended");
                    return Ok(said.into_run(call, None));
                }
            }
            // Both closures speak to the one that listens.
            let listener = std::cell::RefCell::new(&mut heard);
            talk.step_hearing(
                POLL,
                |bytes| {
                    said.hear(bytes);
                    (listener.borrow_mut())(Heard::Output(bytes));
                },
                |bytes| (listener.borrow_mut())(Heard::Errors(bytes)),
            )
            .map_err(fail)?;
        }
        said.end_line();
        said.hear(talk.said());
        said.end_line();
        let exit_code = talk.exit_code().map_err(fail)?;
        Ok(said.into_run(call, exit_code))
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

    fn into_run(self, call: &Call, exit_code: Option<i32>) -> ToolRun {
        ToolRun { command: call.text(), exit_code, lines: self.lines, more_lines: self.more_lines }
    }
}
