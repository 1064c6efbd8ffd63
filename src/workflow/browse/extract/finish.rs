//! Files get their names when they are on the disk, many at once.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::guest::ext::Found;
use crate::sys::tree::Tree;
use crate::workflow::browse::extract::Extraction;
use crate::workflow::browse::extract::file::is_about_name;
use crate::workflow::browse::extract::left::What;
use crate::workflow::browse::extract::partial::Partial;
use crate::workflow::browse::extract::survey::data_bytes;
use crate::workflow::browse::listing::name_of;

/// How many files get their names at once at most. Each keeps a directory open, of which a process can have 1,024.
const AT_ONCE: usize = 256;

/// With how much data in them files get their names before there are that many: so much is copied again after a crash.
const AT_ONCE_BYTES: u64 = 128 << 20;

/// After how long they get them in any case.
const AT_ONCE_TIME: Duration = Duration::from_secs(2);

/// A file that has all its data, and not its name.
pub struct Ready {
    pub(super) dir: Arc<Tree>,
    pub(super) partial: Vec<u8>,
    pub(super) found: Found,
}

/// The files that are ready.
#[derive(Default)]
pub(super) struct Waiting {
    files: Vec<Ready>,
    bytes: u64,
    /// When the first of them was ready.
    since: Option<Instant>,
}

impl Waiting {
    fn add(&mut self, file: Ready) {
        self.bytes = self.bytes.saturating_add(data_bytes(&file.found.node));
        self.since.get_or_insert_with(Instant::now);
        self.files.push(file);
    }

    fn are_due(&self) -> bool {
        self.files.len() >= AT_ONCE
            || self.bytes >= AT_ONCE_BYTES
            || self.since.is_some_and(|since| since.elapsed() >= AT_ONCE_TIME)
    }
}

impl Extraction<'_> {
    pub(super) fn make_ready(&self, file: Ready) -> Result<()> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).add(file);
        self.finish_due()
    }

    /// Gives the files that are ready their names, if it is time to.
    pub(super) fn finish_due(&self) -> Result<()> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if !ready.are_due() {
            return Ok(());
        }
        // While others are still being synced, nobody goes on: what is lost when the run is cut short stays small.
        let turn = self.finishing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = std::mem::take(&mut *ready);
        drop(ready);
        let finished = self.finish(now.files);
        drop(turn);
        finished
    }

    /// Gives all files that are ready their names.
    pub(super) fn finish_ready(&self) -> Result<()> {
        let now = std::mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner));
        self.finish(now.files)
    }

    fn finish(&self, mut files: Vec<Ready>) -> Result<()> {
        let finished = self.name_all(&mut files);
        for Ready { dir, partial, .. } in files {
            // Only what did not get its name is left. The next run goes on with a large one, and would remove the others as well.
            if Partial::parse(&partial).is_none_or(|partial| partial.windows == 0) {
                let _ = dir.remove(&partial);
            }
        }
        finished
    }

    fn name_all(&self, files: &mut Vec<Ready>) -> Result<()> {
        if !self.options.no_sync && !files.is_empty() {
            self.sync()?;
        }
        while let Some(Ready { dir, partial, found }) = files.last() {
            match self.give_name(dir, partial, found) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // It came meanwhile, or a damaged directory has the name twice.
                    self.left.add(What::Exists, &found.path, "another file");
                    let _ = dir.remove(partial);
                }
                Err(e) if is_about_name(&e) => {
                    self.left.add(What::Name, &found.path, e);
                    let _ = dir.remove(partial);
                }
                Err(e) => return Err(self.unwritten("cannot give a file its name", &found.path, e)),
            }
            files.pop();
        }
        Ok(())
    }

    fn give_name(&self, dir: &Tree, partial: &[u8], found: &Found) -> io::Result<()> {
        let name = name_of(&found.path);
        if !self.options.force {
            return dir.rename_new(partial, name);
        }
        match dir.look(name)? {
            Some(there) if self.source.has_file(there.id) => Err(io::ErrorKind::AlreadyExists.into()),
            _ => dir.rename(partial, name),
        }
    }
}
