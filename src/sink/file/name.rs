//! The names of an output: the one it is to have, and the one it has until then, which is locked.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::error::{Error, Result};
use crate::sink::guard::SourceIdentity;

/// What a run that may not overwrite says.
const FORCE_HINT: &str = "choose another name, or overwrite it with --force";

/// What to do about a name that no directory takes.
const NAME_TOO_LONG: &str = "choose a shorter name: it has at most 255 bytes, and .partial is added to it until the output is finished";

/// Whether two outputs would get in each other's way: one is the other, or has the name that the other has until it is
/// finished.
pub fn collide(one: &Path, other: &Path) -> bool {
    let (Some(one), Some(other)) = (names_taken(one), names_taken(other)) else { return false };
    one.iter().any(|name| other.contains(name))
}

/// The final and the temporary name of an output, whichever way its directory is named.
fn names_taken(path: &Path) -> Option<[PathBuf; 2]> {
    let path = resolve(path).ok()?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let path = fs::canonicalize(parent).ok()?.join(path.file_name()?);
    let partial = partial_name(&path);
    Some([path, partial])
}

/// The name that an output has until it is finished.
pub(super) fn partial_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".partial");
    path.with_file_name(name)
}

/// The file that `path` means: through symbolic links, so that a link to another disk is honoured.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let fail = |e| Error::output("cannot use the output path").with_path(path).caused_by(e);
    match fs::symlink_metadata(path) {
        Ok(m) if m.is_symlink() => {
            fs::canonicalize(path).map_err(|e| fail(e).with_hint("the symbolic link leads nowhere"))
        }
        Ok(m) if m.is_dir() => {
            Err(Error::usage("the output is a directory").with_path(path).with_hint("name a file in it"))
        }
        Ok(_) => Ok(path.to_path_buf()),
        Err(e) if e.kind() == io::ErrorKind::NotFound && names_directory(path) => {
            Err(Error::usage("the output is named as a directory, and there is none")
                .with_path(path)
                .with_hint("name a file, without a slash at the end"))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.file_name().is_some() => Ok(path.to_path_buf()),
        Err(e) if e.raw_os_error() == Some(Errno::ENAMETOOLONG as i32) => {
            Err(fail(e).with_hint(NAME_TOO_LONG))
        }
        Err(e) => Err(fail(e)),
    }
}

/// Whether a path ends in `/` or `/.`, which only a directory can, and which is not seen in its components.
fn names_directory(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.")
}

/// Refuses an output that is a part of the source, or inside it.
///
/// # Errors
/// `Refused`; no flag gives leave.
pub fn refuse_source(path: &Path, source: &SourceIdentity) -> Result<()> {
    let what = if source.is_at(path) {
        "the output is a file of the source"
    } else if source.holds(path) {
        "the output is inside the replica directory"
    } else {
        return Ok(());
    };
    Err(Error::refused(what).with_path(path).with_hint("a source is never written: name an output elsewhere"))
}

pub(super) fn refuse_existing(path: &Path, force: bool) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(m) if !m.is_file() => {
            Err(Error::usage("the output exists and is not a regular file").with_path(path))
        }
        Ok(_) if !force => Err(exists(path)),
        _ => Ok(()),
    }
}

pub(super) fn exists(path: &Path) -> Error {
    Error::refused("the output exists already").with_path(path).with_hint(FORCE_HINT)
}

/// Creates a locked file of that name, replacing one that a crash left.
///
/// What is there is neither truncated nor written to: it may be a link to something precious.
pub(super) fn lock_new(partial: &Path) -> Result<Flock<File>> {
    let fail = |what: &str, e| Error::output(what).with_path(partial).caused_by(e);
    loop {
        let create = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(partial);
        match create {
            Ok(file) => match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                // Another run may have taken it for a leftover between the two calls.
                Ok(file) if is_still_at(&file, partial) => return Ok(file),
                Ok(_) | Err((_, Errno::EWOULDBLOCK)) => return Err(locked(partial)),
                Err((_, e)) => return Err(fail("cannot lock the output", e.into())),
            },
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => remove_leftover(partial)?,
            Err(e) => {
                let hint = match e.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::ENAMETOOLONG) => NAME_TOO_LONG,
                    _ => "the directory must exist, and be writable",
                };
                return Err(fail("cannot create the output", e).with_hint(hint));
            }
        }
    }
}

fn remove_leftover(partial: &Path) -> Result<()> {
    let fail = |e: io::Error| {
        Error::output("cannot replace the leftover of an earlier run")
            .with_path(partial)
            .caused_by(e)
            .with_hint("look at it, and move it away")
    };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(partial) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
    };
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(fail(io::Error::other("not a regular file")));
    }
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(file) if is_still_at(&file, partial) => fs::remove_file(partial).map_err(fail),
        Ok(_) => Ok(()),
        Err((_, Errno::EWOULDBLOCK)) => Err(locked(partial)),
        Err((_, e)) => Err(fail(e.into())),
    }
}

fn locked(partial: &Path) -> Error {
    Error::refused("another run is writing this output")
        .with_path(partial)
        .with_hint("wait for it, or choose another name")
}

fn is_still_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}
