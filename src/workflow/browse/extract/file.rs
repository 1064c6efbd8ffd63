//! The data of one file: only what was written; holes stay holes. A large file is gone on with where an earlier run was.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::guest::ext::{Allocated, Found, OpenFile};
use crate::sys::tree::Tree;
use crate::workflow::browse::extract::finish::Ready;
use crate::workflow::browse::extract::left::What;
use crate::workflow::browse::extract::partial::{PREFIX, Partial, WINDOW_BYTES};
use crate::workflow::browse::extract::{Counts, Extraction, Job};
use crate::workflow::browse::listing::name_of;
use crate::workflow::browse::read::PIECE_BYTES;

/// A file that grows.
struct Growing {
    file: File,
    partial: Partial,
}

impl Extraction<'_> {
    /// Copies a file under the name it has while it grows, and makes it ready for its own.
    pub(super) fn copy(&self, job: Job) -> Result<()> {
        let Job { dir, found } = job;
        let mut growing = match self.begin(&dir, &found) {
            Ok(growing) => growing,
            Err(e) if is_about_name(&e) => {
                self.left.add(What::Name, &found.path, e);
                return Ok(());
            }
            Err(e) => return Err(self.unwritten("cannot make a file", &found.path, e)),
        };
        let copied = self.copy_data(&dir, &found, &mut growing);
        let Growing { file, partial } = growing;
        drop(file);
        match copied {
            Ok(()) => {}
            Err(e) if [ErrorKind::Source, ErrorKind::Usage].contains(&e.kind()) => {
                // It would fail there again.
                let _ = dir.remove(&partial.name());
                self.troubles.add(&found.path, e);
                return Ok(());
            }
            Err(e) => {
                if partial.windows == 0 {
                    // The next run would remove it as well.
                    let _ = dir.remove(&partial.name());
                }
                return Err(e);
            }
        }
        let partial = partial.name();
        self.set_attributes(&dir, &partial, &found);
        Counts::one(&self.counts.files);
        self.make_ready(Ready { dir, partial, found })
    }

    /// What an earlier run has begun, or a new file.
    fn begin(&self, dir: &Tree, found: &Found) -> io::Result<Growing> {
        let new = self.stamp.partial(found);
        if found.node.size_bytes > WINDOW_BYTES {
            if let Some(partial) = Partial::furthest(dir, &new)? {
                let open = dir.open_file(&partial.name());
                let has_length = |file: &File| {
                    file.metadata().is_ok_and(|is| is.len() == found.node.size_bytes)
                        && partial.windows <= found.node.size_bytes / WINDOW_BYTES
                };
                if let Some(file) = open.ok().filter(has_length) {
                    return Ok(Growing { file, partial });
                }
                dir.remove(&partial.name())?;
            }
        }
        dir.remove(&new.name())?;
        let file = dir.make_file(&new.name())?;
        match file.set_len(found.node.size_bytes) {
            Ok(()) => Ok(Growing { file, partial: new }),
            Err(e) => {
                let _ = dir.remove(&new.name());
                Err(e)
            }
        }
    }

    fn copy_data(&self, dir: &Tree, found: &Found, growing: &mut Growing) -> Result<()> {
        let fail = |e: io::Error| self.unwritten("cannot write a file", &found.path, e);
        let done_bytes = growing.partial.windows.saturating_mul(WINDOW_BYTES);
        let mut open = self.fs.open_file(&found.node)?;
        let mut at = 0;
        let mut buf = Vec::new();
        let mut has_room_set_aside = false;
        for allocated in self.fs.allocated(&found.node)? {
            let Allocated { range, is_written } = allocated?;
            has_room_set_aside |= !is_written;
            let start_bytes = range.start_bytes.max(done_bytes);
            if !is_written || start_bytes >= range.end_bytes {
                continue;
            }
            if start_bytes != at {
                open.seek(start_bytes)?;
            }
            at = start_bytes;
            while at < range.end_bytes {
                self.check()?;
                let want = usize::try_from(range.end_bytes - at).map_or(PIECE_BYTES, |n| n.min(PIECE_BYTES));
                buf.resize(want.max(buf.len()), 0);
                let read = read_some(&mut open, &mut buf[..want])?;
                growing.file.write_all_at(&buf[..read], at).map_err(fail)?;
                at += read as u64;
                self.counts.copied_bytes.fetch_add(read as u64, Ordering::Relaxed);
                self.run.event(Event::Advanced { bytes: read as u64 });
                self.keep_note(dir, growing, at).map_err(fail)?;
                // Others may have long been ready.
                self.finish_due()?;
            }
        }
        if has_room_set_aside {
            self.left.add(What::RoomSetAside, &found.path, "");
        }
        Ok(())
    }

    /// Notes that all of a file before `at_bytes` is there, when that is a window more.
    fn keep_note(&self, dir: &Tree, growing: &mut Growing, at_bytes: u64) -> io::Result<()> {
        let windows = at_bytes / WINDOW_BYTES;
        // What is not known to be on the disk must not be noted.
        if self.options.no_sync || windows <= growing.partial.windows {
            return Ok(());
        }
        growing.file.sync_data()?;
        let further = Partial { windows, ..growing.partial };
        dir.rename(&growing.partial.name(), &further.name())?;
        growing.partial = further;
        Ok(())
    }
}

/// Whether a file of that name must be left out, lest it be taken for one that grows.
pub(super) fn is_reserved(path: &[u8]) -> bool {
    name_of(path).starts_with(PREFIX)
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
