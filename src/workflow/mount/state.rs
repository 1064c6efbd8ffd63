//! What is mounted, kept where a crash can find it.
//!
//! Each mount has a directory of its own below the run directory: `state.json`, written before anything is put up, so
//! that whatever is left after a crash belongs to something that is known; `log`, in which the server says what it could not
//! read; `image/`, where the image is while a file system is mounted on it; `view/`, where that is, if nobody named a place; `target/`,
//! where a device is mounted that gets what it holds, or the file system itself while its journal is replayed; and `lock`, held by whoever puts up or takes
//! down.

use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::access::fuse::IMAGE_NAME;
use crate::error::{Error, Result};
use crate::sys::daemon::Identity;

/// Names another run directory; for tests.
const RUN_DIR_VARIABLE: &str = "LHRECOVER_RUN_DIR";

/// A state takes less than a thousand bytes, and two paths.
const MAX_STATE_BYTES: u64 = 1 << 16;

/// How much of a log is looked at, in bytes.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// What a line of the log begins with, after the time, when it is about the throw-away copy and not about the source.
pub const OVERLAY_MARK: &str = "throw-away copy: ";

/// What to do when the throw-away copy takes no more.
pub const OVERLAY_ADVICE: &str =
    "give the throw-away copy more room with --overlay-max, or a directory on another disk with --overlay";

/// What a line of the log says of the throw-away copy; `None` when it is about something else.
pub fn of_overlay(line: &str) -> Option<&str> {
    line.split_once(' ').filter(|(_, text)| text.starts_with(OVERLAY_MARK)).map(|(_, text)| text)
}

/// What was put up, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// 1.
    pub schema_version: u32,
    /// The replica directory or image, for people.
    pub source: String,
    /// Where the file system is mounted, or with `image_only` the image's.
    pub mountpoint: PathBuf,
    /// Whether there is the image and nothing on it.
    pub image_only: bool,
    /// The name of the device mapper's device between loop device and file system.
    pub mapper: Option<String>,
    /// Who serves the image, once somebody does.
    pub server: Option<Identity>,
    /// The process it was put up for, where it is to go with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Identity>,
}

/// One mount's directory.
#[derive(Clone, Debug)]
pub struct Entry {
    dir: PathBuf,
}

/// The run directory, which is made unless it is there.
///
/// # Errors
/// `Usage` when it cannot be made, and `Refused` when it may be somebody else's.
pub fn run_dir() -> Result<PathBuf> {
    let dir = match (env::var_os(RUN_DIR_VARIABLE), env::var_os("XDG_RUNTIME_DIR")) {
        (Some(dir), _) => PathBuf::from(dir),
        _ if geteuid().is_root() => PathBuf::from("/run/lhrecover"),
        (None, Some(dir)) => Path::new(&dir).join("lhrecover"),
        (None, None) => env::temp_dir().join(format!("lhrecover-{}", geteuid())),
    };
    let fail =
        |e| Error::usage("cannot make the directory that keeps track of mounts").with_path(&dir).caused_by(e);
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(fail(e)),
        _ => {}
    }
    let meta = fs::symlink_metadata(&dir).map_err(fail)?;
    if !meta.is_dir() || meta.uid() != geteuid().as_raw() || meta.mode() & 0o022 != 0 {
        return Err(Error::refused("the directory that keeps track of mounts is not ours alone")
            .with_path(&dir)
            .with_hint("it must belong to you, and nobody else may write to it"));
    }
    dir.canonicalize().map_err(fail)
}

/// Waits until nobody else claims a mount point, and keeps others from it. The run directory itself is locked: there is no file
/// that could be left behind.
///
/// # Errors
/// As [`run_dir`], and `Usage` when it cannot be locked.
pub fn lock_claims() -> Result<Lock> {
    let dir = run_dir()?;
    let fail =
        |e| Error::usage("cannot lock the directory that keeps track of mounts").with_path(&dir).caused_by(e);
    let file = File::open(&dir).map_err(fail)?;
    Flock::lock(file, FlockArg::LockExclusive).map(Lock).map_err(|(_, e)| fail(e.into()))
}

/// Every mount that is known, in the order of their names.
///
/// # Errors
/// As [`run_dir`].
pub fn entries() -> Result<Vec<Entry>> {
    let run_dir = run_dir()?;
    let fail = |e| Error::usage("cannot look what is mounted").with_path(&run_dir).caused_by(e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(&run_dir).map_err(fail)? {
        let dir = entry.map_err(fail)?.path();
        if dir.is_dir() {
            entries.push(Entry { dir });
        }
    }
    entries.sort_by(|a, b| a.dir.cmp(&b.dir));
    Ok(entries)
}

impl Entry {
    /// A new one, locked.
    ///
    /// # Errors
    /// `Usage` when its directory cannot be made.
    pub fn create() -> Result<(Self, Lock)> {
        let run_dir = run_dir()?;
        let fail = |e| Error::usage("cannot keep track of a mount").with_path(&run_dir).caused_by(e);
        let dir = tempfile::Builder::new().prefix("mount-").tempdir_in(&run_dir).map_err(fail)?;
        let entry = Entry { dir: dir.keep() };
        // Nobody takes a directory without a state for a leftover while it is locked.
        let lock = entry
            .locked(true, FlockArg::LockExclusive)?
            .ok_or_else(|| fail(io::ErrorKind::WouldBlock.into()))?;
        for dir in [entry.image_dir(), entry.view_dir(), entry.target_dir()] {
            DirBuilder::new().mode(0o700).create(dir).map_err(fail)?;
        }
        Ok((entry, lock))
    }

    /// The one at `dir`.
    pub fn at(dir: &Path) -> Self {
        Entry { dir: dir.to_path_buf() }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its name.
    pub fn id(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where the file system is, unless somebody named a place.
    pub fn view_dir(&self) -> PathBuf {
        self.dir.join("view")
    }

    /// Where a device is mounted that gets what the volume holds.
    pub fn target_dir(&self) -> PathBuf {
        self.dir.join("target")
    }

    /// Where the image is while something is mounted on it.
    pub fn image_dir(&self) -> PathBuf {
        self.dir.join("image")
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The state; `None` when it was never written.
    ///
    /// # Errors
    /// `Usage` when it cannot be read.
    pub fn state(&self) -> Result<Option<State>> {
        let path = self.dir.join("state.json");
        let fail = |e| Error::usage("cannot read what is known of a mount").with_path(&path).caused_by(e);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fail)?,
        };
        let mut text = Vec::new();
        file.take(MAX_STATE_BYTES).read_to_end(&mut text).map_err(fail)?;
        serde_json::from_slice(&text).map(Some).map_err(|e| fail(e.into()))
    }

    /// Writes the state down, all of it or nothing.
    ///
    /// # Errors
    /// `Usage` when it cannot be written.
    pub fn write(&self, state: &State) -> Result<()> {
        let path = self.dir.join("state.json");
        let new = self.dir.join("state.json.new");
        let write = || {
            let text = serde_json::to_vec_pretty(state)?;
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            fs::rename(&new, &path)
        };
        write().map_err(|e| Error::usage("cannot write down what is mounted").with_path(&path).caused_by(e))
    }

    /// Waits until nobody else puts up or takes down, and keeps others from it.
    ///
    /// # Errors
    /// `Usage` when it cannot be locked: also when it is gone.
    pub fn lock(&self) -> Result<Lock> {
        self.locked(false, FlockArg::LockExclusive)?
            .ok_or_else(|| Error::usage("the lock of a mount was taken"))
    }

    /// The same without waiting: `None` when somebody else is at work.
    ///
    /// # Errors
    /// As [`lock`](Self::lock).
    pub fn try_lock(&self) -> Result<Option<Lock>> {
        self.locked(true, FlockArg::LockExclusiveNonblock)
    }

    fn locked(&self, create: bool, how: FlockArg) -> Result<Option<Lock>> {
        let path = self.dir.join("lock");
        let fail = |e| Error::usage("cannot lock what is known of a mount").with_path(&path).caused_by(e);
        let file = OpenOptions::new().write(true).create(create).mode(0o600).open(&path).map_err(fail)?;
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Some(Lock(lock))),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(fail(e.into())),
        }
    }

    /// What the server's log says.
    pub fn trouble(&self) -> Vec<String> {
        let mut text = Vec::new();
        if let Ok(file) = File::open(self.log()) {
            // What cannot be read is not shown.
            let _ = file.take(MAX_LOG_BYTES).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// Forgets it. Nothing may be mounted in its directory any more.
    ///
    /// # Errors
    /// `Usage` when something of it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        let fail = |e| Error::usage("cannot forget a mount").with_path(&self.dir).caused_by(e);
        // One by one: what might still be mounted there is never walked into.
        let gone = |result: io::Result<()>| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(fail(e)),
            _ => Ok(()),
        };
        for dir in [self.target_dir(), self.view_dir(), self.image_dir()] {
            gone(fs::remove_dir(dir))?;
        }
        for name in ["log", "state.json.new", "state.json", "lock"] {
            gone(fs::remove_file(self.dir.join(name)))?;
        }
        gone(fs::remove_dir(&self.dir))
    }
}

impl State {
    /// Of a device that this process mounts as a target, and nothing else.
    pub fn apart(source: String, entry: &Entry) -> Self {
        State {
            schema_version: 1,
            source,
            mountpoint: entry.view_dir(),
            image_only: false,
            mapper: None,
            server: None,
            owner: Identity::of(std::process::id()),
        }
    }

    /// Where the image's file system is mounted.
    pub fn image_dir(&self, entry: &Entry) -> PathBuf {
        if self.image_only { self.mountpoint.clone() } else { entry.image_dir() }
    }

    /// The image.
    pub fn image(&self, entry: &Entry) -> PathBuf {
        self.image_dir(entry).join(IMAGE_NAME)
    }
}

/// While it lives, nobody else puts up or takes down.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not looked at")] Flock<File>);
