//! A child process that is talked to over its three pipes, in one thread.
//!
//! One `poll` for all of them, instead of a thread for each: nothing can be left behind that way, and whoever waits can
//! look at the clock and at a signal at any time. The child leads a process group of its own, so that whatever it
//! started (ssh starts proxies) ends with it; its end is certain once this is dropped.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How much is moved at once; what a pipe holds.
const PIECE_BYTES: usize = 64 << 10;
/// How much of standard error is kept: its end, which says why.
const SAID_MAX_BYTES: usize = 16 << 10;

/// A process under way.
pub struct Talk {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// What is still to be sent.
    source: Option<Box<dyn Read>>,
    /// A piece of it, and how much of that has gone.
    piece: Vec<u8>,
    gone: usize,
    said: Vec<u8>,
    /// Whether it was waited for.
    has_ended: bool,
}

impl Talk {
    /// Starts `command`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(mut command: Command) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // From here on, dropping it ends the child.
        let talk = Talk {
            child,
            stdin,
            stdout,
            stderr,
            source: None,
            piece: Vec::new(),
            gone: 0,
            said: Vec::new(),
            has_ended: false,
        };
        talk.stdin.as_ref().map_or(Ok(()), set_nonblocking)?;
        talk.stdout.as_ref().map_or(Ok(()), set_nonblocking)?;
        talk.stderr.as_ref().map_or(Ok(()), set_nonblocking)?;
        Ok(talk)
    }

    /// Sends all of `source`, after what is being sent.
    pub fn send(&mut self, source: impl Read + 'static) {
        self.source = Some(match self.source.take() {
            Some(before) => Box::new(before.chain(source)),
            None => Box::new(source),
        });
    }

    /// Ends its standard input. What has not been sent is not sent.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Whether it has closed standard output and standard error: all has been heard.
    pub fn is_over(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// Whether it has closed standard output.
    pub fn is_silent(&self) -> bool {
        self.stdout.is_none()
    }

    /// The end of what it said on standard error.
    pub fn said(&self) -> &[u8] {
        &self.said
    }

    /// Waits for its end; `None` when a signal ended it. Call it when [`is_over`](Self::is_over).
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn exit_code(&mut self) -> io::Result<Option<i32>> {
        let status = self.child.wait()?;
        self.has_ended = true;
        Ok(status.code())
    }

    /// Waits until something can be moved, `patience` at most, and moves it: what it prints goes to `heard`.
    ///
    /// # Errors
    /// When what is to be sent cannot be read, or a pipe fails. A child that does not listen any more is none.
    pub fn step(&mut self, patience: Duration, heard: impl FnMut(&[u8])) -> io::Result<()> {
        self.step_hearing(patience, heard, |_| {})
    }

    /// The same, with all of what it says on standard error going to `errors`, too.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_hearing(
        &mut self,
        patience: Duration,
        heard: impl FnMut(&[u8]),
        mut errors: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.fill()?;
        let [may_write, may_read, may_hear_errors] = self.wait(patience)?;
        if may_write {
            self.write()?;
        }
        if may_read {
            receive(&mut self.stdout, heard)?;
        }
        if may_hear_errors {
            let said = &mut self.said;
            receive(&mut self.stderr, |bytes| {
                errors(bytes);
                said.extend_from_slice(bytes);
                said.drain(..said.len().saturating_sub(SAID_MAX_BYTES));
            })?;
        }
        Ok(())
    }

    /// Gets the next piece to send.
    fn fill(&mut self) -> io::Result<()> {
        while self.gone == self.piece.len() {
            let Some(source) = &mut self.source else { break };
            self.piece.resize(PIECE_BYTES, 0);
            let read = source.read(&mut self.piece)?;
            self.piece.truncate(read);
            self.gone = 0;
            if read == 0 {
                self.source = None;
            }
        }
        Ok(())
    }

    /// Which of standard input, output and error something can be done with.
    fn wait(&self, patience: Duration) -> io::Result<[bool; 3]> {
        let wants_to_write = self.gone < self.piece.len();
        let pipes = [
            self.stdin.as_ref().filter(|_| wants_to_write).map(|p| (p.as_fd(), PollFlags::POLLOUT)),
            self.stdout.as_ref().map(|p| (p.as_fd(), PollFlags::POLLIN)),
            self.stderr.as_ref().map(|p| (p.as_fd(), PollFlags::POLLIN)),
        ];
        let mut fds: Vec<_> = pipes.iter().flatten().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
        match poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX)) {
            // A signal: whoever waits looks at it.
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let mut answers = fds.iter().map(|fd| fd.revents().is_some_and(|flags| !flags.is_empty()));
        Ok(pipes.each_ref().map(|pipe| pipe.is_some() && answers.next() == Some(true)))
    }

    fn write(&mut self) -> io::Result<()> {
        let Some(stdin) = &mut self.stdin else { return Ok(()) };
        match stdin.write(&self.piece[self.gone..]) {
            Ok(written) => self.gone += written,
            Err(e) if is_not_now(&e) => {}
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.stdin = None,
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// Reads once; a pipe that has ended is closed.
fn receive(pipe: &mut Option<impl Read>, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    let mut piece = [0; PIECE_BYTES];
    match open.read(&mut piece) {
        Ok(0) => *pipe = None,
        Ok(read) => take(&piece[..read]),
        Err(e) if is_not_now(&e) => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

fn is_not_now(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn set_nonblocking(pipe: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

impl Drop for Talk {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        // Not waited for yet, so its number cannot have become another process's. What fails has ended before.
        if let Ok(leader) = i32::try_from(self.child.id()) {
            let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;
    use std::time::Instant;

    fn sh(script: &str) -> Talk {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Talk::start(command).unwrap()
    }

    fn listen(talk: &mut Talk) -> Vec<u8> {
        let mut all = Vec::new();
        let began = Instant::now();
        while !talk.is_over() {
            assert!(began.elapsed() < Duration::from_secs(30));
            if talk.source.is_none() && talk.gone == talk.piece.len() {
                talk.hang_up();
            }
            talk.step(Duration::from_millis(100), |bytes| all.extend_from_slice(bytes)).unwrap();
        }
        all
    }

    #[test]
    fn much_goes_both_ways_at_once() {
        let data: Vec<u8> = (0..3_000_000u32).map(|i| i.to_le_bytes()[1]).collect();
        let mut talk = sh("tee /dev/stderr");
        talk.send(io::Cursor::new(data[..1_000_000].to_vec()));
        talk.send(io::Cursor::new(data[1_000_000..].to_vec()));
        assert!(listen(&mut talk) == data);
        assert!(talk.said() == &data[data.len() - SAID_MAX_BYTES..]);
    }

    #[test]
    fn who_does_not_listen_is_heard_all_the_same() {
        let mut talk = sh("exec <&-; echo no; echo why >&2");
        talk.send(io::repeat(b'x'));
        assert_eq!(listen(&mut talk), b"no\n");
        assert_eq!(talk.said(), b"why\n");
    }

    #[test]
    fn nothing_is_left_of_one_that_is_dropped() {
        let mut talk = sh("sleep 1000 & echo $! $$; wait");
        let mut heard = Vec::new();
        while !heard.ends_with(b"\n") {
            talk.step(Duration::from_secs(10), |bytes| heard.extend_from_slice(bytes)).unwrap();
        }
        drop(talk);
        for pid in String::from_utf8(heard).unwrap().split_whitespace() {
            let began = Instant::now();
            // A grandchild becomes somebody else's, who may take a moment to bury it.
            let alive = || {
                fs::read_to_string(Path::new("/proc").join(pid).join("stat"))
                    .is_ok_and(|stat| !stat.contains(") Z "))
            };
            while alive() {
                assert!(began.elapsed() < Duration::from_secs(10), "{pid} is still there");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
