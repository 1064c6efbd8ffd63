//! A directory that becomes a copy of a replica, and does not look like one before.
//!
//! Files grow under names that no engine reads, and get their own in the end, all at once. What is done is noted in a
//! journal, which is locked while a run writes to the directory and goes away last: a run that was killed is resumed.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, Flock, FlockArg, OFlag, RenameFlags, renameat2};
use nix::sys::statvfs::statvfs;

use crate::error::{Error, Result};
use crate::format::copy::journal::{self, Record};
use crate::format::copy::manifest::{self, CopyManifest};
use crate::format::copy::{JOURNAL_NAME, MANIFEST_NAME, is_ours, partial_name};
use crate::sys::dir::Dir;

/// The directory that file systems keep at their root.
const LOST_AND_FOUND: &str = "lost+found";

/// The most names that are looked at: more than a directory with a copy has.
const MAX_NAMES: usize = 1 << 18;

/// What a directory held when it was claimed.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A copy that was not finished, and its journal.
    Unfinished(Vec<Record>),
    /// A finished copy.
    Finished(Box<CopyManifest>),
}

/// The directory.
#[derive(Debug)]
pub struct CopyDir {
    path: PathBuf,
    /// Open, locked, and written to at its end.
    journal: Option<Mutex<Flock<File>>>,
    /// Whether it was not there before.
    made: bool,
}

impl CopyDir {
    /// Takes the directory `path`, which must hold nothing but an earlier copy; makes it if it is not there. A finished
    /// copy is left alone.
    ///
    /// # Errors
    /// `Refused` when it holds anything else, or another run is writing to it; `Output` when it cannot be used.
    pub fn claim(path: &Path) -> Result<(Self, Found)> {
        let made = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => false,
            Err(e) => {
                let hint = "name a directory that is empty or not there yet; the one above it must be there";
                return Err(Error::output("cannot make the directory")
                    .with_path(path)
                    .caused_by(e)
                    .with_hint(hint));
            }
        };
        let mut dir = CopyDir { path: path.to_path_buf(), journal: None, made };
        let found = dir.look()?;
        Ok((dir, found))
    }

    fn look(&mut self) -> Result<Found> {
        let names = self.names()?;
        if names.contains(JOURNAL_NAME) {
            let records = self.open_journal()?;
            let named = records.iter().flat_map(|record| match record {
                Record::Naming { files, links } => files.iter().chain(links).map(String::as_str).collect(),
                _ => Vec::new(),
            });
            let known: HashSet<&str> = named.collect();
            return match names.iter().find(|name| !is_ours(name) && !known.contains(name.as_str())) {
                Some(foreign) => Err(self.foreign(foreign)),
                None => Ok(Found::Unfinished(records)),
            };
        }
        if names.contains(MANIFEST_NAME) {
            let manifest = self.manifest()?;
            return Ok(Found::Finished(Box::new(manifest)));
        }
        // A run that was killed before it began its journal may have left the probe.
        let foreign = names.iter().filter(|name| !is_ours(name)).min();
        foreign.map_or(Ok(Found::Nothing), |name| Err(self.foreign(name)))
    }

    fn foreign(&self, name: &str) -> Error {
        Error::refused(format!("the directory holds {name}, which no earlier copy has put there"))
            .with_path(&self.path)
            .with_hint("name a directory that is empty or not there yet")
    }

    fn names(&self) -> Result<HashSet<String>> {
        let fail = |e| Error::output("cannot list the directory").with_path(&self.path).caused_by(e);
        let dir = Dir::open(&self.path).map_err(fail)?;
        let names = dir.names(MAX_NAMES).map_err(fail)?;
        let names = names.into_iter().map(|name| name.to_string_lossy().into_owned());
        Ok(names.filter(|name| name != LOST_AND_FOUND).collect())
    }

    /// Reads the manifest.
    fn manifest(&self) -> Result<CopyManifest> {
        let dir = Dir::open(&self.path).map_err(|e| self.failed("cannot open the directory", "", e))?;
        read_manifest(&dir)?.ok_or_else(|| self.foreign(MANIFEST_NAME))
    }

    fn open_journal(&mut self) -> Result<Vec<Record>> {
        let fail = |e| self.failed("cannot use the journal", JOURNAL_NAME, e);
        let flags = OFlag::O_NOFOLLOW.bits();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(self.path.join(JOURNAL_NAME))
            .map_err(fail)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| match e {
            Errno::EWOULDBLOCK => Error::refused("another run is writing this copy")
                .with_path(&self.path)
                .with_hint("wait for it, or name another directory"),
            e => fail(e.into()),
        })?;
        let mut bytes = Vec::new();
        (&*file).take(journal::MAX_BYTES).read_to_end(&mut bytes).map_err(fail)?;
        let (records, good_bytes) = journal::parse(&bytes).unwrap_or_default();
        // What is appended to a torn line would be lost with it.
        file.set_len(good_bytes).map_err(fail)?;
        self.journal = Some(Mutex::new(file));
        Ok(records)
    }

    /// Begins a journal, or goes on with the one that was found.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), for the journal.
    pub fn begin(&mut self, header: &Record) -> Result<()> {
        if self.journal.is_none() {
            self.open_journal()?;
        }
        self.note(header)
    }

    /// Notes what is done.
    ///
    /// # Errors
    /// `Output` when it cannot be written.
    pub fn note(&self, record: &Record) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal
            .write_all(record.to_line().as_bytes())
            .map_err(|e| self.failed("cannot write", JOURNAL_NAME, e))
    }

    /// Forgets what the journal says.
    ///
    /// # Errors
    /// `Output` when it cannot be written.
    pub fn forget(&self) -> Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.set_len(0).map_err(|e| self.failed("cannot write", JOURNAL_NAME, e))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file `name` is until it has its name.
    pub fn partial_path(&self, name: &str) -> PathBuf {
        self.path.join(partial_name(name))
    }

    /// Bytes that may still be written there.
    ///
    /// # Errors
    /// `Output` when the file system does not say.
    pub fn free_bytes(&self) -> Result<u64> {
        let vfs = statvfs(&self.path).map_err(|e| self.failed("cannot look at the target", "", e.into()))?;
        let root = nix::unistd::geteuid().is_root();
        let blocks = if root { vfs.blocks_free() } else { vfs.blocks_available() };
        Ok(blocks.saturating_mul(vfs.fragment_size()))
    }

    /// Makes a new, empty file of this length that is to become `name`; what was under its temporary name is gone.
    ///
    /// # Errors
    /// `Output` when the file system takes no such file.
    pub fn create(&self, name: &str, size_bytes: u64) -> Result<File> {
        let path = self.partial_path(name);
        remove(&path).map_err(|e| self.failed("cannot remove", &partial_name(name), e))?;
        let create = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = create.map_err(|e| self.failed("cannot create", &partial_name(name), e))?;
        file.set_len(size_bytes).map_err(|e| {
            Error::output(format!("the file system refuses a file of {size_bytes} bytes"))
                .with_path(&path)
                .caused_by(e)
                .with_hint("copy to one that takes such a file: ext4 ends below 16 TiB, XFS does not")
        })?;
        Ok(file)
    }

    /// Opens the file that is to become `name`, if an earlier run has left it with this length.
    pub fn reopen(&self, name: &str, size_bytes: u64) -> Option<File> {
        let flags = OFlag::O_NOFOLLOW.bits();
        let open =
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(self.partial_path(name));
        open.ok().filter(|file| file.metadata().is_ok_and(|m| m.is_file() && m.len() == size_bytes))
    }

    /// Takes away the names that an earlier run has given, `volume.meta`'s first, so that no half-named copy is seen.
    ///
    /// # Errors
    /// `Output` when that fails.
    pub fn take_names_back(&self, files: &[String], links: &[String]) -> Result<()> {
        for name in files.iter().rev() {
            let (named, partial) = (self.path.join(name), self.partial_path(name));
            if fs::symlink_metadata(&named).is_ok() {
                rename_new(&named, &partial).map_err(|e| self.failed("cannot rename", name, e))?;
            }
        }
        links.iter().try_for_each(|name| {
            remove(&self.path.join(name)).map_err(|e| self.failed("cannot remove", name, e))
        })
    }

    /// Gives the finished file its name. Nothing is replaced.
    ///
    /// # Errors
    /// `Output` when that fails.
    pub fn name(&self, name: &str) -> Result<()> {
        rename_new(&self.partial_path(name), &self.path.join(name))
            .map_err(|e| self.failed("cannot give the copy its name", name, e))
    }

    /// Gives the file `of` another name.
    ///
    /// # Errors
    /// `Output` when the file system has no hard links.
    pub fn link(&self, of: &str, name: &str) -> Result<()> {
        fs::hard_link(self.path.join(of), self.path.join(name))
            .map_err(|e| self.failed("cannot link", name, e))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// `Output` when the file system has none.
    pub fn symlink(&self, target: &str, name: &str) -> Result<()> {
        symlink(target, self.path.join(name)).map_err(|e| self.failed("cannot make the link", name, e))
    }

    /// Removes files under temporary names that are not to become any of `wanted`.
    ///
    /// # Errors
    /// `Output` when one cannot be removed.
    pub fn remove_strays<'a>(&self, wanted: impl Iterator<Item = &'a str>) -> Result<()> {
        let wanted: HashSet<String> = wanted.map(partial_name).collect();
        for name in self.names()?.iter().filter(|name| is_ours(name) && *name != JOURNAL_NAME) {
            if !wanted.contains(name) {
                remove(&self.path.join(name)).map_err(|e| self.failed("cannot remove", name, e))?;
            }
        }
        Ok(())
    }

    /// Brings the directory's names to the medium.
    ///
    /// # Errors
    /// `Output` when that fails.
    pub fn sync(&self) -> Result<()> {
        let synced = File::open(&self.path).and_then(|dir| dir.sync_all());
        synced.map_err(|e| self.failed("cannot bring the directory to the medium", "", e))
    }

    /// Removes the journal: the copy is finished.
    ///
    /// # Errors
    /// `Output` when that fails.
    pub fn finish(&self) -> Result<()> {
        self.sync()?;
        remove(&self.path.join(JOURNAL_NAME)).map_err(|e| self.failed("cannot remove", JOURNAL_NAME, e))
    }

    /// Removes everything of ours, and the directory if it was not there before.
    pub fn discard(&self) {
        // Nothing can be done about a failure here, and the next run passes over what is left.
        for name in self.names().unwrap_or_default().iter().filter(|name| is_ours(name)) {
            let _ = fs::remove_file(self.path.join(name));
        }
        if self.made {
            let _ = fs::remove_dir(&self.path);
        }
    }

    fn failed(&self, what: &str, name: &str, e: io::Error) -> Error {
        Error::output(what).with_path(self.path.join(name)).caused_by(e)
    }
}

/// The manifest of the copy in `dir`, if there is one.
///
/// # Errors
/// `Source` when it cannot be read or understood.
pub fn read_manifest(dir: &Dir) -> Result<Option<CopyManifest>> {
    let path = dir.path().join(MANIFEST_NAME);
    let fail = |e: io::Error| Error::source("cannot read the manifest").with_path(&path).caused_by(e);
    let file = match dir.open_file(MANIFEST_NAME) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(fail)?,
    };
    let mut bytes = Vec::new();
    file.take(manifest::MAX_BYTES).read_to_end(&mut bytes).map_err(fail)?;
    let manifest = CopyManifest::parse(&bytes);
    manifest.map(Some).map_err(|why| Error::source(format!("the manifest {why}")).with_path(&path))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Renames, and replaces nothing.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // Some file systems know no flags; whether the name is free is then asked before.
        Err(Errno::EINVAL) if fs::symlink_metadata(to).is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
        Err(Errno::EINVAL) => fs::rename(from, to),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::format::copy::PROBE_NAME;
    use crate::format::copy::manifest::CopyKind;

    fn header() -> Record {
        Record::Begun {
            version: journal::VERSION,
            source: "/s".into(),
            kind: CopyKind::Copy,
            keeps_unwritten: true,
        }
    }

    #[test]
    fn only_an_empty_directory_or_a_copy_is_taken() {
        let tmp = tempfile::tempdir().unwrap();
        let kind = |path: &Path| CopyDir::claim(path).map(|(_, found)| found).map_err(|e| e.kind());
        fs::create_dir(tmp.path().join("lost+found")).unwrap();
        fs::write(tmp.path().join(PROBE_NAME), "").unwrap();
        assert!(matches!(kind(tmp.path()), Ok(Found::Nothing)));
        fs::write(tmp.path().join("precious"), "x").unwrap();
        assert!(matches!(kind(tmp.path()), Err(ErrorKind::Refused)));
        fs::write(tmp.path().join(JOURNAL_NAME), header().to_line()).unwrap();
        assert!(matches!(kind(tmp.path()), Err(ErrorKind::Refused)));
        fs::remove_file(tmp.path().join("precious")).unwrap();
        assert!(matches!(kind(tmp.path()), Ok(Found::Unfinished(records)) if records == [header()]));
        assert!(matches!(kind(&tmp.path().join("no/such")), Err(ErrorKind::Output)));
    }

    #[test]
    fn one_run_at_a_time_and_the_next_goes_on() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("copy");
        let (mut dir, _) = CopyDir::claim(&path).unwrap();
        dir.begin(&header()).unwrap();
        assert_eq!(CopyDir::claim(&path).err().unwrap().kind(), ErrorKind::Refused);
        dir.create("a", 10).unwrap();
        let naming = Record::Naming { files: vec!["a".into()], links: vec!["b".into()] };
        dir.note(&naming).unwrap();
        dir.name("a").unwrap();
        dir.link("a", "b").unwrap();
        drop(dir);
        fs::OpenOptions::new()
            .append(true)
            .open(path.join(JOURNAL_NAME))
            .unwrap()
            .write_all(b"{\"torn")
            .unwrap();
        let (dir, found) = CopyDir::claim(&path).unwrap();
        assert!(matches!(found, Found::Unfinished(records) if records == [header(), naming]));
        dir.take_names_back(&["a".into()], &["b".into()]).unwrap();
        assert!(dir.reopen("a", 10).is_some() && dir.reopen("a", 11).is_none());
        dir.remove_strays(std::iter::empty()).unwrap();
        assert_eq!(dir.names().unwrap(), HashSet::from([JOURNAL_NAME.to_owned()]));
        dir.discard();
        assert!(path.exists(), "it was there when the second run came");
    }

    #[test]
    fn what_was_made_is_taken_away_again() {
        let tmp = tempfile::tempdir().unwrap();
        let (mut dir, _) = CopyDir::claim(&tmp.path().join("copy")).unwrap();
        dir.begin(&header()).unwrap();
        dir.create("a", 10).unwrap();
        dir.discard();
        assert_eq!(fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}
