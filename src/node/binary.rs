//! Which copy of this program suits a node that has none.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The running program, even when its file has been replaced since.
const OURSELVES: &str = "/proc/self/exe";
/// How large a program may be; a debug build of this one has some 30 MB.
const PROGRAM_MAX_BYTES: u64 = 512 << 20;

/// What an ELF header says about the machine (`e_ident`, `e_machine`; elf.h of glibc).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    class: u8,
    data: u8,
    machine: u16,
}

const fn machine(class: u8, data: u8, machine: u16) -> Machine {
    Machine { class, data, machine }
}

/// What `uname -m` says, and what a program for it says.
const MACHINES: [(&str, Machine); 12] = [
    ("x86_64", machine(2, 1, 62)),
    ("aarch64", machine(2, 1, 183)),
    ("armv6l", machine(1, 1, 40)),
    ("armv7l", machine(1, 1, 40)),
    ("armv8l", machine(1, 1, 40)),
    ("i386", machine(1, 1, 3)),
    ("i586", machine(1, 1, 3)),
    ("i686", machine(1, 1, 3)),
    ("riscv64", machine(2, 1, 243)),
    ("loongarch64", machine(2, 1, 258)),
    ("ppc64le", machine(2, 1, 21)),
    ("s390x", machine(2, 2, 22)),
];

/// A program that can be sent.
#[derive(Debug)]
pub struct Program {
    file: File,
    path: PathBuf,
    /// Its length in bytes.
    pub size_bytes: u64,
    read_bytes: u64,
}

impl Read for Program {
    /// Reads on; a file that ends before its time is an error, as somebody waits for the rest.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left_bytes = self.size_bytes - self.read_bytes;
        let most = usize::try_from(left_bytes).unwrap_or(usize::MAX).min(into.len());
        let read = self.file.read(&mut into[..most])?;
        if read == 0 && most > 0 {
            let what = format!("{} ended before its time", self.path.display());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        self.read_bytes += read as u64;
        Ok(read)
    }
}

/// Reads `ARCH=PATH`: what `uname -m` says on the node, and a program for it.
///
/// # Errors
/// Usage, when it is anything else.
pub fn parse_push(text: &OsStr) -> Result<(String, PathBuf)> {
    let bytes = text.as_bytes();
    let parts = bytes.iter().position(|&b| b == b'=').map(|at| (&bytes[..at], &bytes[at + 1..]));
    match parts.map(|(arch, path)| (std::str::from_utf8(arch), path)) {
        Some((Ok(arch), path)) if is_arch(arch) && !path.is_empty() => {
            Ok((arch.to_owned(), PathBuf::from(OsStr::from_bytes(path))))
        }
        _ => Err(Error::usage(format!("{:?} is not ARCH=PATH", text.to_string_lossy()))
            .with_hint("ARCH is what uname -m says on the node, such as aarch64")),
    }
}

/// Whether this could be what `uname -m` says. It becomes part of a file's name.
pub fn is_arch(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The program for a node of this architecture: the one the user names, the running one, or one that lies beside it;
/// `None` when there is none.
///
/// # Errors
/// Usage, when the one that the user names cannot be read, or is for another machine.
pub fn suitable(arch: &str, given: &BTreeMap<String, PathBuf>) -> Result<Option<Program>> {
    if let Some(path) = given.get(arch) {
        return open(path, arch).map(Some);
    }
    let beside = std::env::current_exe().ok();
    let beside = beside.iter().filter_map(|path| path.parent()).flat_map(|dir| {
        let version = env!("CARGO_PKG_VERSION");
        [format!("lhrecover-{arch}"), format!("lhrecover-{version}-{arch}-linux")].map(|name| dir.join(name))
    });
    Ok([PathBuf::from(OURSELVES)].into_iter().chain(beside).find_map(|path| open(&path, arch).ok()))
}

fn open(path: &Path, arch: &str) -> Result<Program> {
    let fail = |e| Error::usage("cannot read the program for the node").with_path(path).caused_by(e);
    let file = File::open(path).map_err(fail)?;
    let about = file.metadata().map_err(fail)?;
    let mut header = [0; 20];
    let is_program = about.is_file()
        && (20..=PROGRAM_MAX_BYTES).contains(&about.len())
        && file.read_exact_at(&mut header, 0).is_ok();
    let built_for = machine_of(&header).filter(|_| is_program);
    let wanted = MACHINES.iter().find(|(name, _)| *name == arch);
    match (built_for, wanted) {
        (None, _) => Err(Error::usage("not a program for Linux (no ELF file)").with_path(path)),
        (Some(built_for), Some((_, wanted))) if built_for != *wanted => {
            let name =
                MACHINES.iter().find(|(_, m)| *m == built_for).map_or("another machine", |(name, _)| name);
            Err(Error::usage(format!("built for {name}, and the node is {arch}")).with_path(path))
        }
        // An architecture that we do not know: the node finds out.
        _ => Ok(Program { file, path: path.to_path_buf(), size_bytes: about.len(), read_bytes: 0 }),
    }
}

fn machine_of(header: &[u8; 20]) -> Option<Machine> {
    let [0x7f, b'E', b'L', b'F', class, data, ..] = *header else { return None };
    let raw = [header[18], header[19]];
    let machine = if data == 2 { u16::from_be_bytes(raw) } else { u16::from_le_bytes(raw) };
    Some(Machine { class, data, machine })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn elf(class: u8, data: u8, machine: [u8; 2]) -> Vec<u8> {
        let mut header = vec![0x7f, b'E', b'L', b'F', class, data];
        header.resize(18, 0);
        header.extend(machine);
        header.resize(64, 0);
        header
    }

    #[test]
    fn a_program_for_another_machine_is_not_sent() {
        let tmp = tempfile::tempdir().unwrap();
        let given = |arch: &str, bytes: &[u8]| {
            let path = tmp.path().join("program");
            fs::write(&path, bytes).unwrap();
            suitable(arch, &BTreeMap::from([(arch.to_owned(), path)]))
        };
        assert_eq!(given("aarch64", &elf(2, 1, [183, 0])).unwrap().unwrap().size_bytes, 64);
        assert!(given("s390x", &elf(2, 2, [0, 22])).is_ok());
        assert!(given("mips", &elf(1, 2, [0, 8])).is_ok());
        let e = given("aarch64", &elf(2, 1, [62, 0])).unwrap_err().to_string();
        assert!(e.contains("built for x86_64, and the node is aarch64"), "{e}");
        for bytes in [&b"#!/bin/sh\nexit 0\n# and so on"[..], b"", &elf(2, 1, [183, 0])[..19]] {
            assert!(given("aarch64", bytes).unwrap_err().to_string().contains("no ELF"));
        }
        assert!(suitable("x86_64", &BTreeMap::from([("x86_64".to_owned(), tmp.path().to_owned())])).is_err());
    }

    #[test]
    fn the_running_program_suits_a_machine_like_this() {
        let here = nix::sys::utsname::uname().unwrap().machine().to_str().unwrap().to_owned();
        let none = BTreeMap::new();
        // Under an emulator uname speaks of the machine that is emulated, and /proc/self/exe of ourselves.
        assert_eq!(suitable(&here, &none).unwrap().unwrap().path, Path::new(OURSELVES));
        assert!(suitable("s390x", &none).unwrap().is_none());
    }

    #[test]
    fn architecture_and_path() {
        let parsed = parse_push(OsStr::new("aarch64=/a=b c")).unwrap();
        assert_eq!(parsed, ("aarch64".to_owned(), PathBuf::from("/a=b c")));
        for text in ["", "aarch64", "aarch64=", "=/x", "../x=/x", "a b=/x"] {
            assert!(parse_push(OsStr::new(text)).is_err(), "{text}");
        }
    }
}
