//! Processes that outlive the one that started them, and some that must not.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, close, setsid};
use serde::{Deserialize, Serialize};

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Which process: its id alone may have come to mean another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The process id.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    pub started_ticks: u64,
}

impl Identity {
    /// Of the process that has this id now; `None` when there is none, or it has ended and only waits to be noticed.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The program's name comes second, in parentheses, and may hold anything, parentheses too.
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let text = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let mut fields = text.split_whitespace();
        let state = fields.next()?;
        let started_ticks = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Identity { pid, started_ticks })
    }

    /// Whether it still runs.
    pub fn is_alive(&self) -> bool {
        Identity::of(self.pid) == Some(*self)
    }

    /// Ends it, whatever it does.
    pub fn kill(&self) {
        if let (true, Ok(pid)) = (self.is_alive(), i32::try_from(self.pid)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Cuts a process that was just started loose from whoever started it: a session of its own, and nothing open but the
/// standard streams. It is called `name`, whatever it was started by.
///
/// # Errors
/// When it cannot be done.
pub fn cut_loose(name: &str) -> io::Result<()> {
    // Only a name: it works without.
    let _ = fs::write("/proc/self/comm", name);
    match setsid() {
        // It leads a session already.
        Ok(_) | Err(Errno::EPERM) => {}
        Err(e) => return Err(e.into()),
    }
    let names =
        fs::read_dir("/proc/self/fd")?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let inherited: Vec<i32> = names.filter_map(|name| name.parse().ok()).filter(|&fd| fd > 2).collect();
    for fd in inherited {
        // The one that listed the others is closed by now.
        let _ = close(fd);
    }
    Ok(())
}

/// Tells the kernel that it may need this process to get memory back: what is written to a loop device over a file that
/// this process serves. Without it, the kernel could wait for us while we wait for memory (prctl(2), `PR_SET_IO_FLUSHER`).
/// Threads that are started later inherit it. Needs rights and a kernel since 5.6; nothing happens without.
pub fn serves_writes() {
    // SAFETY: takes numbers only, and changes nothing but how the kernel finds memory for this thread.
    let _ = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

/// Has what `command` starts end when the thread that starts it does, however that ends: a helper that went on alone would
/// hold what is to be unmounted. Its own children are not covered.
pub fn ends_with_us(command: &mut Command) {
    // A number that fits, of a signal that is never negative.
    let signal = libc::SIGKILL.unsigned_abs();
    let arrange = move || {
        // SAFETY: takes numbers only, and concerns nothing but the process that is being started.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::c_ulong::from(signal)) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: between fork and exec, `arrange` makes one system call, and neither allocates nor locks.
    unsafe { command.pre_exec(arrange) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_is_not_alive_even_before_it_was_waited_for() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(child.id()).unwrap();
        assert!(identity.is_alive());
        assert!(!Identity { started_ticks: identity.started_ticks + 1, ..identity }.is_alive());
        identity.kill();
        while identity.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(Identity::of(child.id()), None);
    }
}
