//! The data of one file: only what was written; holes stay holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::guest::ext::{Allocated, Found, OpenFile};
use crate::workflow::browse::extract::finish::Ready;
use crate::workflow::browse::extract::left::What;
use crate::workflow::browse::extract::{Counts, Extraction, Job, PARTIAL_PREFIX};
use crate::workflow::browse::listing::name_of;
use crate::workflow::browse::read::PIECE_BYTES;

impl Extraction<'_> {
    /// Copies a file under the name it has while it grows, and makes it ready for its own.
    pub(super) fn copy(&self, job: Job) -> Result<()> {
        let Job { dir, found } = job;
        let partial = partial_name(&found);
        let fail = |what: &str, e| self.unwritten(what, &found.path, e);
        dir.remove(&partial).map_err(|e| fail("cannot remove what an earlier run has left", e))?;
        let file = match dir.make_file(&partial) {
            Ok(file) => file,
            Err(e) if is_about_name(&e) => {
                self.left.add(What::Name, &found.path, e);
                return Ok(());
            }
            Err(e) => return Err(fail("cannot make a file", e)),
        };
        match self.copy_data(&found, &file) {
            Ok(()) => {}
            Err(e) => {
                // The next run would remove it as well.
                let _ = dir.remove(&partial);
                return match e.kind() {
                    ErrorKind::Source | ErrorKind::Usage => {
                        self.troubles.add(&found.path, e);
                        Ok(())
                    }
                    _ => Err(e),
                };
            }
        }
        drop(file);
        self.set_attributes(&dir, &partial, &found);
        Counts::one(&self.counts.files);
        self.make_ready(Ready { dir, partial, found })
    }

    fn copy_data(&self, found: &Found, file: &File) -> Result<()> {
        let fail = |e: io::Error| self.unwritten("cannot write a file", &found.path, e);
        file.set_len(found.node.size_bytes).map_err(fail)?;
        let mut open = self.fs.open_file(&found.node)?;
        let mut at = 0;
        let mut buf = Vec::new();
        for allocated in self.fs.allocated(&found.node)? {
            let Allocated { range, is_written } = allocated?;
            if !is_written {
                continue;
            }
            if range.start_bytes != at {
                open.seek(range.start_bytes)?;
            }
            at = range.start_bytes;
            while at < range.end_bytes {
                self.check()?;
                let want = usize::try_from(range.end_bytes - at).map_or(PIECE_BYTES, |n| n.min(PIECE_BYTES));
                buf.resize(want.max(buf.len()), 0);
                let read = read_some(&mut open, &mut buf[..want])?;
                file.write_all_at(&buf[..read], at).map_err(fail)?;
                at += read as u64;
                self.counts.copied_bytes.fetch_add(read as u64, Ordering::Relaxed);
                self.run.event(Event::Advanced { bytes: read as u64 });
            }
        }
        Ok(())
    }
}

/// What a file is called while it grows. It is its own in the directory, since other names of it are made later.
pub(super) fn partial_name(found: &Found) -> Vec<u8> {
    [PARTIAL_PREFIX, format!("{:x}.partial", found.node.ino).as_bytes()].concat()
}

/// Whether a file of that name must be left out, lest it be taken for one that grows.
pub(super) fn is_reserved(path: &[u8]) -> bool {
    name_of(path).starts_with(PARTIAL_PREFIX)
}

/// Whether the target's file system does not take such a name.
pub(super) fn is_about_name(error: &io::Error) -> bool {
    use nix::errno::Errno::{EILSEQ, EINVAL, ENAMETOOLONG};
    [EILSEQ as i32, EINVAL as i32, ENAMETOOLONG as i32].contains(&error.raw_os_error().unwrap_or_default())
}

fn read_some(open: &mut OpenFile, buf: &mut [u8]) -> Result<usize> {
    match open.read(buf)? {
        0 => Err(Error::source("the file ends before its data does")),
        read => Ok(read),
    }
}
