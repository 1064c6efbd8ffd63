//! Runs lhrecover on another machine, over the system's own `ssh`.
//!
//! One connection does it all (somebody may have to touch a key for each): the script of `script.rs` looks for
//! the program there, takes ours over the same connection if need be, runs it and removes it. ssh is the user's: its
//! configuration, keys, agent and jump hosts count. What does not count is a configuration that takes host keys
//! unseen, or asks questions: nobody is there to answer, and a recovery is no time to trust strangers.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Cursor, Read};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Run;
use crate::node::binary::{self, Program};
use crate::node::blame;
use crate::node::child::Talk;
use crate::node::inbox::{Inbox, Message, new_mark};
use crate::node::script;
use crate::node::target::Target;

/// How much a program may print there: the report of some ten thousand replicas.
pub const OUTPUT_MAX_BYTES: usize = 64 << 20;
/// How much a login shell may print before our script runs.
const GREETING_MAX_BYTES: usize = 1 << 20;
/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(100);
/// How long ssh may take to end once everything has been said, and whatever holds its pipes open after it.
const LINGER: Duration = Duration::from_secs(2);
/// What is being done once the node has answered: it may take as long as it likes, if it says something now and then.
const RUNNING: &str = "running";
/// The version that both sides should have.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Options that the user's configuration does not override: nothing is asked, no host key is taken unseen or learned,
/// nothing of ours is lent to the node, and no command but ours is run. A master connection that is there is used, and
/// none is left behind. The last two find out within two minutes that a node has died.
const FIXED: [&str; 16] = [
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "NoHostAuthenticationForLocalhost=no",
    "ForwardAgent=no",
    "ForwardX11=no",
    "ClearAllForwardings=yes",
    "Tunnel=no",
    "PermitLocalCommand=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "ControlMaster=no",
    "LogLevel=ERROR",
    "ServerAliveInterval=20",
    "ServerAliveCountMax=6",
];

/// How nodes are reached.
#[derive(Clone, Debug)]
pub struct SshOptions {
    /// The configuration of ssh, instead of the user's and the system's.
    pub config: Option<PathBuf>,
    /// Whether to be root there by `sudo`, which must not ask for a password.
    pub sudo: bool,
    /// How long it may take to connect and to send the program, and then how long the program may say nothing.
    pub timeout: Duration,
    /// Programs to send to nodes that have none of our version, by what `uname -m` says there.
    pub push: BTreeMap<String, PathBuf>,
}

/// What a program on a node did.
#[derive(Clone, Debug)]
pub struct RemoteOutput {
    /// What it printed on standard output: all of it, at most [`OUTPUT_MAX_BYTES`].
    pub stdout: Vec<u8>,
    /// The last lines of standard error, on one line, without control characters.
    pub stderr: String,
    /// Its exit code; 128 and the number of the signal that ended it.
    pub exit_code: u8,
    /// When it was told to run, by our clock.
    pub sent_at: Timestamp,
    /// When its end was known, by our clock.
    pub received_at: Timestamp,
    /// What the node's clock said, if its `date` works.
    pub clock: Option<ClockReading>,
    /// Whether the program was brought along, and removed again.
    pub pushed: bool,
    /// What somebody should know though it worked, without the node's name: that it ran another version.
    pub warnings: Vec<String>,
}

/// A look at a node's clock, which took from `sent_at` to `received_at` by ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    /// Before the look, by our clock.
    pub sent_at: Timestamp,
    /// What the node's clock said, cut to whole seconds.
    pub read_at: Timestamp,
    /// After the look, by our clock.
    pub received_at: Timestamp,
}

/// Runs `lhrecover ARGS` on the node, and waits for its end. It gets no standard input.
///
/// # Errors
/// External, when the node cannot be reached, is not known, has no suitable program, answers nonsense, says too much,
/// or takes too long. Usage, when there is no ssh here, or a program that was named for pushing cannot be used.
/// Interrupted. Whatever it is, no process of ours is left.
pub fn run_remote(
    target: &Target,
    args: &[OsString],
    options: &SshOptions,
    run: &Run<'_>,
) -> Result<RemoteOutput> {
    run.check()?;
    let mark = new_mark();
    let script = script::script(&mark, VERSION, args)?;
    let talk = Talk::start(command(target, options, script.len())).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            Error::usage("there is no ssh on this machine").with_hint("install openssh-client")
        }
        _ => Error::usage("cannot start ssh").caused_by(e),
    })?;
    let mut call = Call {
        target,
        options,
        run,
        talk,
        inbox: Inbox::new(&mark),
        deadline: Instant::now().checked_add(options.timeout),
        doing: "connecting",
    };
    call.talk.send(Cursor::new(script));
    let agreed = call.agree()?;
    call.run(agreed)
}

fn command(target: &Target, options: &SshOptions, script_bytes: usize) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-T");
    for option in FIXED {
        command.args(["-o", option]);
    }
    let seconds = options.timeout.as_secs().clamp(1, 24 * 3600);
    command.args(["-o", &format!("ConnectTimeout={seconds}")]);
    if let Some(config) = &options.config {
        command.arg("-F").arg(config);
    }
    command.arg("--").arg(target.destination());
    command.arg(script::login_line(script_bytes, options.sudo));
    command
}

/// A connection to a node, under way.
struct Call<'a> {
    target: &'a Target,
    options: &'a SshOptions,
    run: &'a Run<'a>,
    talk: Talk,
    inbox: Inbox,
    deadline: Option<Instant>,
    /// What we are at, for messages.
    doing: &'static str,
}

/// Which program will be run, and what somebody should know about it.
struct Agreed {
    pushed: bool,
    warning: Option<String>,
}

impl Call<'_> {
    /// Finds out whether the node has the program, and sends ours if it has not.
    fn agree(&mut self) -> Result<Agreed> {
        let hello = self.expect(&["hello"], GREETING_MAX_BYTES)?;
        let mut words = hello.rest.splitn(3, ' ');
        let (arch, has, other) = (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next());
        if !binary::is_arch(arch) {
            return Err(self.failed(&format!("its architecture is said to be {arch:?}")));
        }
        if has == "same" {
            return Ok(Agreed { pushed: false, warning: None });
        }
        let why_not = match binary::suitable(arch, &self.options.push)? {
            None => format!("there is none of this version here for its architecture, {arch}"),
            Some(program) => match self.push(program)? {
                Ok(agreed) => return Ok(agreed),
                Err(why) => format!("ours could not be used: {why}"),
            },
        };
        match other {
            Some(other) => {
                let its_own = blame::last_lines(other);
                let warning = format!("it ran its own {its_own}, and this is lhrecover {VERSION}: {why_not}");
                Ok(Agreed { pushed: false, warning: Some(warning) })
            }
            None => Err(Error::new(
                ErrorKind::External,
                format!("node {} has no lhrecover, and {why_not}", self.target.destination()),
            )
            .with_hint(format!(
                "name a static one with --push-binary {arch}=PATH, or install it there as /usr/local/bin/lhrecover"
            ))),
        }
    }

    /// Sends a program; the inner error is why the node cannot use it.
    fn push(&mut self, program: Program) -> Result<std::result::Result<Agreed, String>> {
        self.doing = "sending the program";
        let order = format!("push {}\n", program.size_bytes);
        self.talk.send(Cursor::new(order).chain(program));
        let answer = self.expect(&["pushed", "failed"], GREETING_MAX_BYTES)?;
        let says = blame::last_lines(&answer.rest);
        if answer.verb == "failed" {
            return Ok(Err(says));
        }
        let other = says.strip_prefix("lhrecover ") != Some(VERSION);
        let warning = other.then(|| format!("it ran what was sent, {says}, and this is lhrecover {VERSION}"));
        Ok(Ok(Agreed { pushed: true, warning }))
    }

    /// Has the program run, and hears it out.
    fn run(mut self, agreed: Agreed) -> Result<RemoteOutput> {
        self.doing = RUNNING;
        let sent_at = Timestamp::now();
        self.talk.send(Cursor::new("run\n"));
        let begin = self.expect(&["begin"], GREETING_MAX_BYTES)?;
        let begun_at = Timestamp::now();
        let read_at = begin.rest.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        let end = self.expect(&["end"], OUTPUT_MAX_BYTES)?;
        let received_at = Timestamp::now();
        let exit_code = end.rest.parse().map_err(|_| self.failed("it does not say how the program ended"))?;
        self.hang_up()?;
        Ok(RemoteOutput {
            stdout: end.before,
            stderr: blame::last_lines(&String::from_utf8_lossy(self.talk.said())),
            exit_code,
            sent_at,
            received_at,
            clock: read_at.map(|read_at| ClockReading { sent_at, read_at, received_at: begun_at }),
            pushed: agreed.pushed,
            warnings: agreed.warning.into_iter().collect(),
        })
    }

    /// Waits for the node's next message, which must be one of `verbs`, and come before so many bytes of anything else.
    fn expect(&mut self, verbs: &[&str], before_max_bytes: usize) -> Result<Message> {
        let mut ended_at = None;
        loop {
            if let Some(message) = self.inbox.take() {
                if verbs.contains(&message.verb.as_str()) {
                    return Ok(message);
                }
                return Err(self.failed(&format!("it answers out of turn: {:?}", message.verb)));
            }
            if self.inbox.waiting_bytes() > before_max_bytes {
                let what = format!("it says more than {} MiB while {}", before_max_bytes >> 20, self.doing);
                return Err(self.failed(&what));
            }
            if self.talk.is_silent() {
                // What ssh has to say about it may still be on its way.
                let ended_at = ended_at.get_or_insert_with(Instant::now);
                if self.talk.is_over() || ended_at.elapsed() > LINGER {
                    return Err(self.cut_off());
                }
            }
            self.step(TICK)?;
        }
    }

    /// Waits a moment for something to happen.
    fn step(&mut self, patience: Duration) -> Result<()> {
        self.run.check()?;
        let left =
            self.deadline.map_or(patience, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            let (seconds, doing) = (self.options.timeout.as_secs_f64(), self.doing);
            let what = match doing {
                RUNNING => format!("timed out: it said nothing for {seconds} s while {doing}"),
                _ => format!("timed out after {seconds} s, while {doing}"),
            };
            return Err(self.failed(&what).and("a slow node may be given more with --node-timeout"));
        }
        let inbox = &mut self.inbox;
        let (mut heard, mut heard_errors) = (false, false);
        let put = |bytes: &[u8]| {
            heard = true;
            inbox.put(bytes);
        };
        self.talk.step_hearing(left.min(patience), put, |_| heard_errors = true).map_err(|e| {
            Error::new(
                ErrorKind::External,
                format!("node {}: {} failed", self.target.destination(), self.doing),
            )
            .caused_by(e)
        })?;
        if self.doing == RUNNING && (heard || heard_errors) {
            self.deadline = Instant::now().checked_add(self.options.timeout);
        }
        Ok(())
    }

    /// Waits for ssh to end of itself. The program has ended there and is removed: that it takes its time harms nobody.
    fn hang_up(&mut self) -> Result<()> {
        self.talk.hang_up();
        let began = Instant::now();
        while !self.talk.is_over() && began.elapsed() < LINGER {
            self.run.check()?;
            // Nothing is wanted of it any more.
            if self.talk.step(TICK, |_| ()).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// The connection has ended before it should.
    fn cut_off(&self) -> Error {
        if self.doing != "connecting" {
            return self.failed(&format!("the connection ended while {}", self.doing));
        }
        let greeting = self.inbox.waiting_text();
        if self.talk.said().is_empty() {
            let greeting = blame::last_lines(&greeting);
            return self
                .failed(&format!("it did not run what it was told, and says {greeting:?}"))
                .and("does the account have a shell, and does its key force no other command?");
        }
        self.failed("ssh failed")
    }

    fn failed(&self, what: &str) -> Error {
        blame::failed(self.target, self.options.config.as_deref(), what, self.talk.said())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn nothing_of_the_users_is_on_the_command_line_but_the_destination() {
        let target = Target::parse(OsStr::new("root@pi4:/x y'$(z)")).unwrap();
        let options = SshOptions {
            config: Some(PathBuf::from("-v")),
            sudo: true,
            timeout: Duration::from_millis(1),
            push: BTreeMap::new(),
        };
        let command = command(&target, &options, 7);
        let args: Vec<_> = command.get_args().map(|arg| arg.to_str().unwrap()).collect();
        assert_eq!(
            args[args.len() - 7..],
            [
                "-o",
                "ConnectTimeout=1",
                "-F",
                "-v",
                "--",
                "root@pi4",
                "exec env LC_ALL=C sudo -n -- sh -c 'eval \"$(head -c 7)\"'"
            ]
        );
        assert!(args.contains(&"StrictHostKeyChecking=yes"));
    }
}
