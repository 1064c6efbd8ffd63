//! Who uses a device: mounts, swap, and processes that have it open.
//!
//! All by device number. Mounts are looked up in our own mount namespace and in that of process 1, since in a
//! container ours shows little; the rest is `O_EXCL`'s to notice.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use nix::libc;

use super::{DeviceNumber, Host};
use crate::error::{Error, Result};

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The number its files have as `st_dev`.
    pub number: DeviceNumber,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The device it is said to be mounted from, for file systems that make their numbers up.
    pub source: Option<DeviceNumber>,
    /// What it is said to be mounted from: a device's node, or just a word.
    pub name: PathBuf,
    /// The type of file system, with its subtype: `ext4`, `fuse.sshfs`.
    pub kind: String,
    /// Whether the file system itself takes writes, whatever this mount of it does.
    pub is_writable: bool,
}

impl Mount {
    /// Whether it is a file system on the device `number`.
    pub fn is_on(&self, number: DeviceNumber) -> bool {
        self.number == number || self.source == Some(number)
    }
}

/// A program that only passes by (udev, losetup looking for a free device) is gone in a moment, so a writer is
/// looked for this many times before it counts.
const WRITER_LOOKS: u32 = 4;
/// The pause between two such looks.
const WRITER_PAUSE: Duration = Duration::from_millis(100);

/// A process that has a device open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opener {
    /// Its process id.
    pub pid: u32,
    /// The name of its program.
    pub program: String,
    /// Which device.
    pub number: DeviceNumber,
    /// Whether it may write to it.
    pub writes: bool,
}

/// Which processes have devices open.
#[derive(Clone, Debug, Default)]
pub struct Openers {
    /// Those found. This process is left out.
    pub found: Vec<Opener>,
    /// How many processes could not be looked at, for want of rights.
    pub unseen: usize,
}

impl Host {
    /// What is mounted, in our mount namespace and in that of process 1 where that can be read.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::error::ErrorKind::Usage) when not even our own mounts can be read.
    pub fn mounts(&self) -> Result<Vec<Mount>> {
        let mut mounts = self.own_mounts()?;
        if let Ok(text) = fs::read(self.path("proc/1/mountinfo")) {
            for mount in parse_mountinfo(&text, |source| self.number_of_name(source)) {
                if !mounts.contains(&mount) {
                    mounts.push(mount);
                }
            }
        }
        Ok(mounts)
    }

    /// What is mounted in our own mount namespace, the last one at a point being the one that shows.
    ///
    /// # Errors
    /// As [`mounts`](Self::mounts).
    pub fn own_mounts(&self) -> Result<Vec<Mount>> {
        let path = self.path("proc/self/mountinfo");
        let text = fs::read(&path).map_err(|e| {
            Error::usage("cannot read what is mounted")
                .with_path(&path)
                .caused_by(e)
                .with_hint("what is in use cannot be told without /proc: mount it")
        })?;
        Ok(parse_mountinfo(&text, |source| self.number_of_name(source)))
    }

    /// The devices used as swap space. A swap *file* needs no entry here: its file system is mounted.
    pub fn swaps(&self) -> Vec<DeviceNumber> {
        // No such file on a kernel without swap.
        let text = fs::read(self.path("proc/swaps")).unwrap_or_default();
        let names = text.split(|&b| b == b'\n').skip(1).filter_map(|line| line.split(|&b| b == b' ').next());
        names.filter_map(|name| self.number_of_name(&unescape(name))).collect()
    }

    /// The block device of a name that the kernel remembers: as we see it, or as process 1 does.
    fn number_of_name(&self, name: &Path) -> Option<DeviceNumber> {
        let relative = name.strip_prefix("/").ok()?;
        DeviceNumber::of_path(&self.path("").join(relative))
            .or_else(|| DeviceNumber::of_path(&self.path("proc/1/root").join(relative)))
    }

    /// Another process that has one of `devices` open for writing, and goes on having it; and how many processes could not
    /// be asked.
    pub fn writer(&self, devices: &[DeviceNumber]) -> (Option<Opener>, usize) {
        let mut looks = 1;
        loop {
            let openers = self.openers(devices);
            let writer = openers.found.into_iter().find(|opener| opener.writes);
            if writer.is_none() || looks == WRITER_LOOKS {
                return (writer, openers.unseen);
            }
            looks += 1;
            thread::sleep(WRITER_PAUSE);
        }
    }

    /// Which other processes have one of `devices` open.
    pub fn openers(&self, devices: &[DeviceNumber]) -> Openers {
        let mut openers = Openers::default();
        let Ok(processes) = fs::read_dir(self.path("proc")) else { return openers };
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid == process::id() {
                continue;
            }
            match fs::read_dir(entry.path().join("fd")) {
                Ok(fds) => {
                    let names = fds.flatten().map(|fd| fd.file_name());
                    openers.found.extend(names.filter_map(|fd| opener(&entry.path(), pid, &fd, devices)));
                }
                Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => openers.unseen += 1,
                // It has ended meanwhile.
                Err(_) => {}
            }
        }
        openers
    }
}

fn opener(process: &Path, pid: u32, fd: &OsString, devices: &[DeviceNumber]) -> Option<Opener> {
    let number = DeviceNumber::of_path(&process.join("fd").join(fd))?;
    if !devices.contains(&number) {
        return None;
    }
    let info = fs::read_to_string(process.join("fdinfo").join(fd)).ok()?;
    let program = fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_owned();
    // What cannot be told counts as writing.
    Some(Opener { pid, program, number, writes: may_write(&info).unwrap_or(true) })
}

/// Whether an open file's `fdinfo` says that it may be written to.
fn may_write(fdinfo: &str) -> Option<bool> {
    let flags = fdinfo.lines().find_map(|line| line.strip_prefix("flags:"))?;
    let flags = libc::c_int::from_str_radix(flags.trim(), 8).ok()?;
    Some(flags & libc::O_ACCMODE != libc::O_RDONLY)
}

/// Reads `/proc/PID/mountinfo`: number in the third field, mount point in the fifth, and after the lone `-`
/// that ends the optional fields the type, the source and the options of the file system (proc_pid_mountinfo(5)).
fn parse_mountinfo(text: &[u8], resolve: impl Fn(&Path) -> Option<DeviceNumber>) -> Vec<Mount> {
    text.split(|&b| b == b'\n')
        .filter_map(|line| {
            let mut fields = line.split(|&b| b == b' ');
            let number = DeviceNumber::parse(std::str::from_utf8(fields.nth(2)?).ok()?)?;
            let point = unescape(fields.nth(1)?);
            let mut after = fields.skip_while(|field| *field != b"-").skip(1);
            let kind =
                after.next().map(|kind| String::from_utf8_lossy(kind).into_owned()).unwrap_or_default();
            let name = after.next().map(unescape).unwrap_or_default();
            let options = after.next().unwrap_or_default();
            let is_writable = options != b"ro" && !options.starts_with(b"ro,");
            Some(Mount { number, point, source: resolve(&name), name, kind, is_writable })
        })
        .collect()
}

/// Undoes the kernel's octal escapes: `\040` is a space.
fn unescape(text: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\').then(|| octal(tail.get(..3)?)).flatten();
        plain.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(plain))
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_tells_number_point_and_source() {
        let text = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 shared:2 - ext3 /dev/root rw\n\
                     40 35 0:45 / /data rw - btrfs /dev/sdb ro,subvol=/\n\
                     garbage\n\
                     41 35 0:46 / /none rw -";
        let sdb = DeviceNumber::parse("8:16");
        let mounts = parse_mountinfo(text, |p| if p == Path::new("/dev/sdb") { sdb } else { None });
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].point, Path::new("/mnt two"));
        assert!(mounts[0].is_on(DeviceNumber::parse("98:0").unwrap()));
        assert!(mounts[1].is_on(sdb.unwrap()) && !mounts[0].is_on(sdb.unwrap()));
        assert!(mounts[0].is_writable && !mounts[1].is_writable && mounts[2].is_writable);
        assert_eq!((mounts[2].source, mounts[1].kind.as_str()), (None, "btrfs"));
    }

    #[test]
    fn escapes_that_are_none_stay_as_they_are() {
        assert_eq!(unescape(b"a\\134b\\"), Path::new("a\\b\\"));
        assert_eq!(unescape(b"\\0x\\777"), Path::new("\\0x\\777"));
    }

    #[test]
    fn access_mode_is_read_from_the_flags() {
        assert_eq!(may_write("pos:\t0\nflags:\t0100000\nmnt_id:\t9\n"), Some(false));
        assert_eq!(may_write("pos:\t0\nflags:\t0100002\n"), Some(true));
        assert_eq!(may_write("flags:\t0100001\n"), Some(true));
        assert_eq!(may_write("pos:\t0\n"), None);
    }
}
