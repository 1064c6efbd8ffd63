//! Who uses a mounted file system, from `/proc` and `/sys`.
//!
//! By the paths that the kernel tells of open files and directories: they are read from links in `/proc`, so that
//! nothing on the file system itself, which may be dead, is touched.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::sys::device::Host;

/// Something that uses a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// A process: its id and the name of its program.
    Process(u32, String),
    /// A loop device over a file there.
    Loop(String),
    /// Another file system that is mounted below.
    Mount(PathBuf),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Process(pid, program) => write!(f, "process {pid} ({program})"),
            User::Loop(name) => write!(f, "the loop device /dev/{name}"),
            User::Mount(point) => write!(f, "what is mounted at {}", point.display()),
        }
    }
}

/// Who uses the file system at `point`, this process left out. Processes in other mount namespaces and those of other
/// users may not show.
pub fn users_of(point: &Path) -> Vec<User> {
    let mut users: Vec<User> = processes(point);
    users.extend(loops_on(point).into_iter().map(User::Loop));
    let mounts = Host::default().own_mounts().unwrap_or_default();
    let below =
        mounts.into_iter().map(|mount| mount.point).filter(|other| is_in(point, other) && other != point);
    users.extend(below.map(User::Mount));
    users
}

fn processes(point: &Path) -> Vec<User> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let users = pids.filter(|&pid| pid != std::process::id() && uses(pid, point));
    users.map(|pid| User::Process(pid, program(pid))).collect()
}

fn program(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn uses(pid: u32, point: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let leads_there = |link: PathBuf| fs::read_link(link).is_ok_and(|target| is_in(point, &target));
    let in_dir = |dir: &str| {
        fs::read_dir(process.join(dir))
            .is_ok_and(|links| links.flatten().any(|link| leads_there(link.path())))
    };
    ["cwd", "root", "exe"].into_iter().any(|name| leads_there(process.join(name)))
        || in_dir("fd")
        || in_dir("map_files")
}

/// Loop devices over files in the tree at `point`, by the kernel's name: `loop3`.
pub fn loops_on(point: &Path) -> Vec<String> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    let names = devices.flatten().filter_map(|device| device.file_name().into_string().ok());
    names.filter(|name| backing_file(name).is_some_and(|file| is_in(point, &file))).collect()
}

/// The file that a loop device stands on, as the kernel names it; `None` when it is not set up.
pub fn backing_file(loop_name: &str) -> Option<PathBuf> {
    let text = fs::read(format!("/sys/block/{loop_name}/loop/backing_file")).ok()?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(text.trim_ascii_end())))
}

/// Whether `path` is `point` or below it, as paths read.
fn is_in(point: &Path, path: &Path) -> bool {
    path.starts_with(point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn whoever_works_in_a_directory_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut child =
            Command::new("sleep").arg("60").current_dir(dir.path()).stdin(Stdio::null()).spawn().unwrap();
        let users = users_of(dir.path());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(users.contains(&User::Process(child.id(), "sleep".to_owned())), "{users:?}");
        assert_eq!(users_of(dir.path()), []);
    }
}
