//! Files of an image as a stream.

use std::io::Write;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::guest::ext::{ExtFs, Found, Kind, as_path};

/// How much is read at once, in bytes: large enough that a layer is read in long stretches.
pub const PIECE_BYTES: usize = 1 << 20;

/// Fails unless all of `files` are regular ones.
///
/// # Errors
/// `Usage`, with the first that is none.
pub fn check_regular(files: &[Found]) -> Result<()> {
    match files.iter().find(|found| found.node.kind != Kind::Regular) {
        None => Ok(()),
        Some(found) => {
            let what = if found.node.is_dir() { "is a directory" } else { "is not a regular file" };
            Err(Error::usage(format!("{what} in the image"))
                .with_path(as_path(&found.path))
                .with_hint("lhrecover ls shows what is in a directory; lhrecover extract brings it out"))
        }
    }
}

/// Writes what is in `file` to `out`; holes are zeros.
///
/// # Errors
/// `Source` where it cannot be read, which says how much was written before; `Output` when `out` cannot be written to.
pub fn copy_to(fs: &ExtFs, file: &Found, out: &mut dyn Write, run: &Run<'_>) -> Result<u64> {
    let at_path = |e: Error| if e.path().is_none() { e.with_path(as_path(&file.path)) } else { e };
    let mut open = fs.open_file(&file.node).map_err(at_path)?;
    let mut buf =
        vec![0; PIECE_BYTES.min(usize::try_from(file.node.size_bytes).unwrap_or(PIECE_BYTES).max(1))];
    let mut written = 0;
    loop {
        run.check()?;
        let read = match open.read(&mut buf) {
            Ok(0) => return Ok(written),
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                return Err(at_path(e).and(&format!("{written} bytes of the file were written before that")));
            }
        };
        out.write_all(&buf[..read])
            .map_err(|e| Error::output("cannot write to standard output").caused_by(e))?;
        written += read as u64;
        run.event(Event::Advanced { bytes: read as u64 });
    }
}
