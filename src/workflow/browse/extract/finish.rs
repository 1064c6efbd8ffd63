//! Files get their names when they are on the disk, many at once.

use std::io;
use std::sync::{Arc, PoisonError};

use crate::error::Result;
use crate::guest::ext::Found;
use crate::sys::tree::Tree;
use crate::workflow::browse::extract::Extraction;
use crate::workflow::browse::extract::file::is_about_name;
use crate::workflow::browse::extract::left::What;
use crate::workflow::browse::listing::name_of;

/// How many files get their names at once. Each keeps a directory open, of which a process can have 1,024.
const AT_ONCE: usize = 256;

/// A file that has all its data, and not its name.
pub struct Ready {
    pub(super) dir: Arc<Tree>,
    pub(super) partial: Vec<u8>,
    pub(super) found: Found,
}

impl Extraction<'_> {
    pub(super) fn make_ready(&self, file: Ready) -> Result<()> {
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        ready.push(file);
        if ready.len() < AT_ONCE {
            return Ok(());
        }
        let now = std::mem::take(&mut *ready);
        drop(ready);
        self.finish(now)
    }

    /// Gives all files that are ready their names.
    pub(super) fn finish_ready(&self) -> Result<()> {
        let now = std::mem::take(&mut *self.ready.lock().unwrap_or_else(PoisonError::into_inner));
        self.finish(now)
    }

    fn finish(&self, mut files: Vec<Ready>) -> Result<()> {
        let finished = self.name_all(&mut files);
        for Ready { dir, partial, .. } in files {
            // Only what did not get its name is left: the next run would remove it as well.
            let _ = dir.remove(&partial);
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

    /// Removes what is ready: the work has failed, or was interrupted.
    pub(super) fn discard_ready(&self) {
        for Ready { dir, partial, .. } in self.ready.lock().unwrap_or_else(PoisonError::into_inner).drain(..)
        {
            let _ = dir.remove(&partial);
        }
    }
}
