//! Two files, each in a file system of its own: is one what the other is?

use std::iter::Peekable;

use crate::error::{Error, Result};
use crate::event::Run;
use crate::guest::ext::{Allocated, ExtFs, Kind, Node, OpenFile};
use crate::model::units::ByteRange;

/// How much of a file is read at once, in bytes. One that is not longer is read whole: there are no holes worth looking for.
const PIECE_BYTES: usize = 1 << 20;

/// A file, and where it is.
#[derive(Clone, Copy)]
pub struct File<'a> {
    /// The file system.
    pub fs: &'a ExtFs,
    /// The file.
    pub node: &'a Node,
}

/// On which side something cannot be read, and why.
pub enum Unreadable {
    /// In the first file.
    From(Error),
    /// In the second.
    To(Error),
}

/// Seconds that clocks may be apart, and that pass between a change and the note of it.
const MARGIN_SECONDS: i64 = 2;

/// Whether `from` and `to` look untouched: the same inode, which nobody has changed since by any means that leaves a trace.
///
/// An inode of 128 bytes has times to the second. What happened to it in the second in which the first state was taken
/// leaves no trace, so its time must be older than `from_written_at`, when that state's superblock was last written.
pub fn is_untouched(from: &Node, to: &Node, from_written_at: Option<i64>) -> bool {
    let traces = |node: &Node| {
        (
            node.ino,
            node.kind,
            node.size_bytes,
            node.modified,
            node.changed,
            node.created,
            node.mode,
            node.flags,
        )
    };
    // Inodes with room for the time they were made have room for nanoseconds.
    let has_nanoseconds = from.created.is_some();
    let is_older = |at: i64| from.changed.0 < at.saturating_sub(MARGIN_SECONDS);
    traces(from) == traces(to) && (has_nanoseconds || from_written_at.is_some_and(is_older))
}

/// What of the metadata differs, in words. The times of access and of changes to the metadata itself do not count, nor what
/// changes about a directory when something happens in it.
///
/// # Errors
/// When extended attributes cannot be read.
pub fn metadata(from: File<'_>, to: File<'_>) -> std::result::Result<Vec<String>, Unreadable> {
    let (one, other) = (from.node, to.node);
    let of_contents = one.kind != Kind::Directory;
    let xattrs = |file: File<'_>| file.fs.xattrs(file.node);
    let xattrs_differ = xattrs(from).map_err(Unreadable::From)? != xattrs(to).map_err(Unreadable::To)?;
    let checks = [
        (one.mode != other.mode, "mode"),
        (one.uid != other.uid, "owner"),
        (one.gid != other.gid, "group"),
        (of_contents && one.modified != other.modified, "modified"),
        (of_contents && one.links != other.links, "links"),
        (one.flags != other.flags, "flags"),
        (xattrs_differ, "xattrs"),
    ];
    Ok(checks.iter().filter(|(differs, _)| *differs).map(|(_, name)| (*name).to_owned()).collect())
}

/// Whether what is in the two differs: their bytes, where a link leads, which device it is.
///
/// # Errors
/// When one of them cannot be read; interrupted when the run is cancelled.
pub fn contents_differ(from: File<'_>, to: File<'_>, run: &Run<'_>) -> std::result::Result<bool, Unreadable> {
    if from.node.kind != to.node.kind {
        return Ok(true);
    }
    match from.node.kind {
        Kind::Regular if from.node.size_bytes != to.node.size_bytes => Ok(true),
        Kind::Regular => bytes_differ(from, to, run),
        Kind::Symlink => {
            let target = |file: File<'_>| file.fs.read_link(file.node);
            Ok(target(from).map_err(Unreadable::From)? != target(to).map_err(Unreadable::To)?)
        }
        // Device numbers are part of the kind.
        _ => Ok(false),
    }
}

fn bytes_differ(from: File<'_>, to: File<'_>, run: &Run<'_>) -> std::result::Result<bool, Unreadable> {
    let size_bytes = from.node.size_bytes;
    let mut files = (
        from.fs.open_file(from.node).map_err(Unreadable::From)?,
        to.fs.open_file(to.node).map_err(Unreadable::To)?,
    );
    let piece_bytes = usize::try_from(size_bytes).map_or(PIECE_BYTES, |size| size.min(PIECE_BYTES));
    let mut buffers = (vec![0; piece_bytes], vec![0; piece_bytes]);
    let mut compare = |range: ByteRange| {
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            run.check().map_err(Unreadable::From)?;
            let left = usize::try_from(range.end_bytes - at).unwrap_or(piece_bytes).min(piece_bytes);
            fill(&mut files.0, &mut buffers.0[..left], at).map_err(Unreadable::From)?;
            fill(&mut files.1, &mut buffers.1[..left], at).map_err(Unreadable::To)?;
            if buffers.0[..left] != buffers.1[..left] {
                return Ok(true);
            }
            at += left as u64;
        }
        Ok(false)
    };
    let whole = ByteRange::new(0, size_bytes);
    if size_bytes <= PIECE_BYTES as u64 {
        return compare(whole);
    }
    // What is a hole in both need not be read.
    let mut ones = from.fs.allocated(from.node).map_err(Unreadable::From)?.peekable();
    let mut others = to.fs.allocated(to.node).map_err(Unreadable::To)?.peekable();
    let mut at = 0;
    while at < size_bytes {
        let one = ahead(&mut ones, at).map_err(Unreadable::From)?;
        let other = ahead(&mut others, at).map_err(Unreadable::To)?;
        let Some(next) = one.into_iter().chain(other).min() else { break };
        if compare(next.clip(whole))? {
            return Ok(true);
        }
        at = next.end_bytes;
    }
    Ok(false)
}

/// The part behind `at_bytes` of the first range that was written and does not end before it.
fn ahead(
    ranges: &mut Peekable<impl Iterator<Item = Result<Allocated>>>,
    at_bytes: u64,
) -> Result<Option<ByteRange>> {
    loop {
        match ranges.peek() {
            None => return Ok(None),
            Some(Ok(Allocated { range, is_written: true })) if range.end_bytes > at_bytes => {
                return Ok(Some(ByteRange::new(range.start_bytes.max(at_bytes), range.end_bytes)));
            }
            Some(_) => {
                if let Some(Err(e)) = ranges.next() {
                    return Err(e);
                }
            }
        }
    }
}

/// Reads until `buf` is full. A file that ends before its size says so is damaged.
fn fill(file: &mut OpenFile, buf: &mut [u8], at_bytes: u64) -> Result<()> {
    file.seek(at_bytes)?;
    let mut done = 0;
    while done < buf.len() {
        match file.read(&mut buf[done..])? {
            0 => {
                return Err(
                    Error::source("the file ends before its size says").at_offset(at_bytes + done as u64)
                );
            }
            read => done += read,
        }
    }
    Ok(())
}
