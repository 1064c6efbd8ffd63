//! The databases inside: found by a walk, and checked where that can be done without their servers.
//!
//! SQLite is opened on copies, several at once; one thread reads the volume. Of a PostgreSQL cluster the control file tells
//! whether a server can start from what is there. Everything else is named, with its version.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tempfile::TempDir;

use crate::engine::pipeline;
use crate::error::{Error, Result};
use crate::event::{Event, Run};
use crate::guest::databases::{Store, StoreFacts, Walked, find};
use crate::guest::files::Files;
use crate::workflow::check::sqlite::{self, SqliteCheck};

/// How many databases are checked at once at most, besides the one that is being copied.
const MAX_AT_ONCE: usize = 8;
/// How much of a file is copied at once.
const PIECE_BYTES: usize = 1 << 20;
/// Room that is left on the disk that takes the copies, in bytes.
const ROOM_LEFT_BYTES: u64 = 64 << 20;
/// How often it is looked whether there is room for the next copy.
const POLL: Duration = Duration::from_millis(5);
/// What a rollback journal ends with that names another one (`aJournalMagic` in SQLite's `pager.c`).
const JOURNAL_MAGIC: &[u8; 8] = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7";

/// How databases are checked.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// Where copies go.
    pub dir: PathBuf,
    /// How much room they may take at any time, in bytes.
    pub max_bytes: u64,
    /// How long one may take.
    pub timeout: Duration,
}

/// A store, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoreCheck {
    /// The store.
    pub store: Store,
    /// Of an SQLite database: what SQLite says of it.
    pub sqlite: Option<SqliteCheck>,
}

/// Finds the stores in `files` and checks those that can be.
///
/// # Errors
/// `Output` when copies cannot be made; when stopped.
pub fn check(
    files: &dyn Files,
    options: &DatabaseOptions,
    run: &Run<'_>,
) -> Result<(Walked, Vec<StoreCheck>)> {
    run.event(Event::Phase { name: "looking for databases", total_bytes: None });
    let mut stores = Vec::new();
    let walked = find(files, Path::new("/"), run, &mut |store| {
        stores.push(StoreCheck { store, sqlite: None });
        Ok(())
    })?;
    run.event(Event::PhaseDone);
    stores.sort_by(|a, b| a.store.path.cmp(&b.store.path));
    check_sqlite(files, options, &mut stores, run)?;
    Ok((walked, stores))
}

fn check_sqlite(
    files: &dyn Files,
    options: &DatabaseOptions,
    stores: &mut [StoreCheck],
    run: &Run<'_>,
) -> Result<()> {
    let is_sqlite = |check: &StoreCheck| matches!(check.store.facts, StoreFacts::Sqlite(_));
    if !stores.iter().any(is_sqlite) {
        return Ok(());
    }
    run.event(Event::Phase { name: "checking databases", total_bytes: None });
    let copies = Copies { files, options, in_use: AtomicU64::new(0) };
    let results: Vec<Mutex<Option<SqliteCheck>>> = stores.iter().map(|_| Mutex::new(None)).collect();
    let keep = |place: usize, check: SqliteCheck| {
        if let Some(slot) = results.get(place) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(check);
        }
    };
    let mut places = stores.iter().enumerate().filter(|(_, check)| is_sqlite(check));
    let next = || loop {
        let Some((place, check)) = places.next() else { return Ok(None) };
        match copies.copy(&check.store, run)? {
            Ok(copy) => return Ok(Some((place, copy))),
            Err(why) => keep(place, SqliteCheck::not_done(why)),
        }
    };
    let workers = thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, MAX_AT_ONCE));
    pipeline::for_each(next, workers, run, |(place, copy), _| {
        keep(*place, sqlite::check(&copy.path, options.timeout, run.cancel));
        run.check()
    })?;
    run.event(Event::PhaseDone);
    for (check, result) in stores.iter_mut().zip(results) {
        check.sqlite = result.into_inner().unwrap_or_else(PoisonError::into_inner);
    }
    Ok(())
}

/// Copies of databases, none of which are kept.
struct Copies<'a> {
    files: &'a dyn Files,
    options: &'a DatabaseOptions,
    in_use: AtomicU64,
}

/// A database with its logs, in a directory of its own.
struct Copy<'a> {
    /// Removed when it is dropped.
    _dir: TempDir,
    path: PathBuf,
    bytes: u64,
    in_use: &'a AtomicU64,
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        self.in_use.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Copies<'_> {
    /// Copies a database once there is room for it; says why when it cannot be.
    fn copy(&self, store: &Store, run: &Run<'_>) -> Result<std::result::Result<Copy<'_>, String>> {
        let mut parts = Vec::new();
        let mut bytes = 0u64;
        for ending in ["", "-wal", "-journal"] {
            let path = with_ending(&store.path, ending);
            // A file that cannot be looked at is found so again when it is read.
            if let Some(size_bytes) = self.files.size_bytes(&path).unwrap_or(None).filter(|&size| size > 0) {
                bytes = bytes.saturating_add(size_bytes);
                parts.push((path, ending, size_bytes));
            }
        }
        let max_bytes = self.options.max_bytes;
        if bytes > max_bytes {
            return Ok(Err(format!(
                "it takes {bytes} bytes, and copies may take {max_bytes} (--databases-max)"
            )));
        }
        self.wait_for_room(bytes, run)?;
        let copy = self.new_copy(bytes)?;
        let room = statvfs(copy.path.parent().unwrap_or(&self.options.dir))
            .map_or(u64::MAX, |fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
        if bytes.saturating_add(ROOM_LEFT_BYTES) > room {
            return Ok(Err(format!(
                "there is no room for a copy of {bytes} bytes in {}",
                self.options.dir.display()
            )));
        }
        for (path, ending, size_bytes) in parts {
            let to = with_ending(&copy.path, ending);
            if let Err(why) = self.copy_file(&path, size_bytes, &to, run)? {
                return Ok(Err(why));
            }
            if ending == "-journal" {
                self.cut_loose(&to, size_bytes, &store.path)?;
            }
        }
        Ok(Ok(copy))
    }

    fn wait_for_room(&self, bytes: u64, run: &Run<'_>) -> Result<()> {
        while self.in_use.load(Ordering::Relaxed).saturating_add(bytes) > self.options.max_bytes {
            run.check()?;
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn new_copy(&self, bytes: u64) -> Result<Copy<'_>> {
        let dir = tempfile::Builder::new().prefix("lhrecover-").tempdir_in(&self.options.dir);
        let dir = dir.map_err(|e| cannot_copy(e, &self.options.dir))?;
        let path = dir.path().join("copy.db");
        self.in_use.fetch_add(bytes, Ordering::Relaxed);
        Ok(Copy { _dir: dir, path, bytes, in_use: &self.in_use })
    }

    /// Copies a file, and says why when it cannot be read. Zeros become holes.
    fn copy_file(
        &self,
        from: &Path,
        size_bytes: u64,
        to: &Path,
        run: &Run<'_>,
    ) -> Result<std::result::Result<(), String>> {
        let fail = |e| cannot_copy(e, to);
        let file = File::create_new(to).map_err(fail)?;
        file.set_len(size_bytes).map_err(fail)?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut at = 0;
        while at < size_bytes {
            run.check()?;
            let want = usize::try_from(size_bytes - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let read = match self.files.read(from, at, &mut piece[..want]) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) => return Ok(Err(e.to_string())),
            };
            if piece[..read].iter().any(|&byte| byte != 0) {
                file.write_all_at(&piece[..read], at).map_err(fail)?;
            }
            run.event(Event::Advanced { bytes: read as u64 });
            at += read as u64;
        }
        Ok(Ok(()))
    }

    /// Makes sure that a rollback journal leads nowhere.
    ///
    /// A transaction over several databases names a journal that all share, by a path of the machine it was made on, and
    /// SQLite would remove whatever is there. If the shared journal is still in the volume, the transaction is to be rolled
    /// back, and the name is taken off; otherwise it had been committed, and the journal means nothing.
    fn cut_loose(&self, journal: &Path, size_bytes: u64, database: &Path) -> Result<()> {
        let fail = |e| cannot_copy(e, journal);
        let file = File::options().read(true).write(true).open(journal).map_err(fail)?;
        let mut end = [0; 16];
        let Some(at) = size_bytes.checked_sub(16) else { return Ok(()) };
        file.read_exact_at(&mut end, at).map_err(fail)?;
        if !end.ends_with(JOURNAL_MAGIC) {
            return Ok(());
        }
        file.write_all_at(&[0; 8], at + 8).map_err(fail)?;
        let length = u64::from(u32::from_be_bytes([end[0], end[1], end[2], end[3]]));
        let mut name = vec![0; usize::try_from(length.min(4096)).unwrap_or_default()];
        let shared = match at.checked_sub(length) {
            Some(start) if file.read_exact_at(&mut name, start).is_ok() => {
                let name = name.rsplit(|&b| b == b'/').next().unwrap_or_default();
                Some(database.with_file_name(OsString::from(String::from_utf8_lossy(name).into_owned())))
            }
            _ => None,
        };
        let is_there = shared.is_some_and(|path| matches!(self.files.size_bytes(&path), Ok(Some(_))));
        if is_there { Ok(()) } else { file.set_len(0).map_err(fail) }
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn cannot_copy(e: std::io::Error, path: &Path) -> Error {
    Error::output("cannot copy a database to check it").with_path(path).caused_by(e).with_hint(
        "name a directory with room with --overlay, or look at the file system only: --no-databases",
    )
}
