//! Which other processes hold files open, from `/proc`; and how many this one may.
//!
//! An engine keeps its head open for writing as long as it lives, so a replica whose files are open for writing
//! is live. `/proc` tells that without touching the files. What it cannot tell is said too: without root, or
//! inside a container, other processes are hidden, and "nobody" would be a guess.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::sys::dir::FileId;

/// The inode of the initial PID namespace (`PROC_PID_INIT_INO` in the kernel's `proc_ns.h`, fixed since 3.8).
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// How many files a process may have open where nothing else is set (`INR_OPEN_CUR` in the kernel's `fs.h`).
const DEFAULT_FILES: u64 = 1024;

/// Somebody who has one of the files open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process, or `None` when it is a loop device.
    pub pid: Option<u32>,
    /// The command's name, or the device's.
    pub command: String,
    /// The file, by the name it was asked for with.
    pub file: String,
    /// Whether it may write.
    pub writes: bool,
}

/// Who holds the files open, as far as can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Everybody who was found, the own process excepted.
    pub found: Vec<Holder>,
    /// Whether every process of the machine could be looked at.
    pub complete: bool,
}

/// Finds out who has any of a replica's `files` open.
///
/// Only descriptors whose own name could be one of a replica's are looked at further: asking the file system
/// about all of them could hang on a dead network mount.
pub fn holders_of(files: &HashMap<FileId, String>) -> Holders {
    holders(files, &may_be_a_replicas)
}

/// Finds out who has the file at `path` open, under a path that ends like that.
pub fn holders_of_file(path: &Path, file: FileId) -> Holders {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    holders(&HashMap::from([(file, path.display().to_string())]), &|target| {
        target.file_name() == path.file_name()
    })
}

/// A child that some program is just starting holds for a moment whatever that program has open, so writers are looked
/// for this many times before they count.
const WRITER_LOOKS: u32 = 4;
/// The pause between two such looks.
const WRITER_PAUSE: Duration = Duration::from_millis(100);

/// Who holds the files, once those who write to them are found to stay.
fn holders(files: &HashMap<FileId, String>, may_be: &dyn Fn(&Path) -> bool) -> Holders {
    let mut looks = 1;
    loop {
        let holders = holders_now(files, may_be);
        if looks == WRITER_LOOKS || !holders.found.iter().any(|holder| holder.writes) {
            return holders;
        }
        looks += 1;
        thread::sleep(WRITER_PAUSE);
    }
}

fn holders_now(files: &HashMap<FileId, String>, may_be: &dyn Fn(&Path) -> bool) -> Holders {
    let mut holders = Holders { found: Vec::new(), complete: sees_all_processes() };
    let Ok(processes) = fs::read_dir("/proc") else {
        return Holders { complete: false, ..holders };
    };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid != std::process::id() {
            match held_by(pid, &process.path(), files, may_be) {
                Ok(found) => holders.found.extend(found),
                // It ended while we looked.
                Err(e)
                    if e.kind() == io::ErrorKind::NotFound
                        || e.raw_os_error() == Some(Errno::ESRCH as i32) => {}
                Err(_) => holders.complete = false,
            }
        }
    }
    holders.found.extend(loop_devices(files, may_be));
    holders
}

/// Whether somebody, perhaps in another container, holds a lock of fcntl's kind on any part of the file.
pub fn is_locked(file: &impl AsFd) -> bool {
    #[allow(clippy::cast_possible_truncation)] // It is 1.
    const WRITE_LOCK: libc::c_short = libc::F_WRLCK as libc::c_short;
    #[allow(clippy::cast_possible_truncation)] // It is 0.
    const FROM_THE_START: libc::c_short = libc::SEEK_SET as libc::c_short;
    let mut lock =
        libc::flock { l_type: WRITE_LOCK, l_whence: FROM_THE_START, l_start: 0, l_len: 0, l_pid: 0 };
    let asked = fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock));
    asked.is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
}

/// Has as many files open at a time as the system lets this process have: by default it is 1,024, so that programs which
/// cannot count further do not break. Returns how many there may be.
pub fn allow_many_files() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        // Whoever needs more than there may be gets an error when it is so far.
        Ok((now, most)) => setrlimit(Resource::RLIMIT_NOFILE, most, most).map_or(now, |()| most),
        Err(_) => DEFAULT_FILES,
    }
}

fn sees_all_processes() -> bool {
    let initial = fs::metadata("/proc/self/ns/pid").is_ok_and(|m| m.ino() == INITIAL_PID_NAMESPACE);
    initial && nix::unistd::geteuid().is_root()
}

fn held_by(
    pid: u32,
    process: &Path,
    files: &HashMap<FileId, String>,
    may_be: &dyn Fn(&Path) -> bool,
) -> io::Result<Vec<Holder>> {
    let mut found = Vec::new();
    for fd in fs::read_dir(process.join("fd"))?.flatten() {
        let Ok(target) = fs::read_link(fd.path()) else { continue };
        if !may_be(&target) {
            continue;
        }
        let Some(file) = identify(&fd.path(), files) else { continue };
        let writes = fs::read_to_string(process.join("fdinfo").join(fd.file_name()))
            .map_or(true, |info| flags_say_write(&info));
        let command = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
        found.push(Holder { pid: Some(pid), command, file: file.clone(), writes });
    }
    Ok(found)
}

/// Whether the path a descriptor was opened by ends like a replica's file. Names of hard links and of files
/// removed since do not matter: they all begin alike.
fn may_be_a_replicas(target: &Path) -> bool {
    let name = target.file_name().map_or(&[][..], OsStrExt::as_bytes);
    name.starts_with(b"volume-") || name.starts_with(b"volume.meta") || name.starts_with(b"revision.counter")
}

fn identify<'a>(path: &Path, files: &'a HashMap<FileId, String>) -> Option<&'a String> {
    let m = fs::metadata(path).ok()?;
    files.get(&FileId { dev: m.dev(), ino: m.ino() })
}

/// Reads the access mode out of `/proc/<pid>/fdinfo/<fd>`; when in doubt, it writes.
fn flags_say_write(fdinfo: &str) -> bool {
    fdinfo
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok())
        .is_none_or(|flags| flags & 0b11 != 0)
}

/// Loop devices hold their file without a descriptor that any process shows.
fn loop_devices(files: &HashMap<FileId, String>, may_be: &dyn Fn(&Path) -> bool) -> Vec<Holder> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    devices
        .flatten()
        .filter(|device| device.file_name().as_bytes().starts_with(b"loop"))
        .filter_map(|device| {
            let backing = fs::read(device.path().join("loop/backing_file")).ok()?;
            let backing = Path::new(OsStr::from_bytes(backing.trim_ascii_end()));
            let file = may_be(backing).then(|| identify(backing, files))??;
            let read_only = fs::read_to_string(device.path().join("ro")).is_ok_and(|ro| ro.trim() == "1");
            let command = device.file_name().to_string_lossy().into_owned();
            Some(Holder { pid: None, command, file: file.clone(), writes: !read_only })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::dir::FileStat;
    use std::fs::File;
    use std::process::{Command, Stdio};

    #[test]
    fn a_writer_is_told_from_a_reader() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("volume-head-000.img");
        let file = File::create(&path).unwrap();
        let files = HashMap::from([(FileStat::of(&file).unwrap().id, "head".to_owned())]);
        drop(file);
        let held_with = |file: File| {
            let mut child = Command::new("sleep").arg("60").stdin(Stdio::from(file)).spawn().unwrap();
            let mut found = holders_of(&files).found;
            child.kill().unwrap();
            child.wait().unwrap();
            // A child that another test starts at this moment has what we have open until it is past its exec; and
            // under an emulator ours may not be past it yet, and have the file open twice.
            found.retain(|holder| holder.pid == Some(child.id()));
            assert!(!found.is_empty());
            found[0].writes
        };
        assert!(!held_with(File::open(&path).unwrap()));
        assert!(held_with(File::options().read(true).write(true).open(&path).unwrap()));
        let given_up = (0..500).any(|_| {
            thread::sleep(Duration::from_millis(10));
            holders_of(&files).found.is_empty()
        });
        assert!(given_up);
    }

    #[test]
    fn flags_are_octal_and_doubt_means_writing() {
        assert!(!flags_say_write("pos:\t0\nflags:\t0100000\nmnt_id:\t1\n"));
        assert!(flags_say_write("pos:\t0\nflags:\t0140002\n"));
        assert!(flags_say_write(""));
    }
}
