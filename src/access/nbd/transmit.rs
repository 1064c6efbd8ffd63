//! Requests and their answers, several at a time.
//!
//! The workers of a connection take turns: one reads a request, and lets the next one read while it answers. Answers
//! go out as they are ready. Each worker has one buffer, and long reads are answered in pieces that fit, so memory
//! does not depend on what clients ask for.

mod read;

use std::io::{self, IoSlice, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::access::nbd::negotiate::{ALLOCATION_ID, Session};
use crate::access::nbd::record::Record;
use crate::error::{Error, Result};
use crate::format::nbd::{
    Command, Errno, MAX_PAYLOAD_BYTES, REQUEST_BYTES, Request, block_status_chunk, command_flag, error_chunk,
    simple_reply, state,
};
use crate::model::units::ByteRange;
use crate::view::disk::Content;

/// How much a worker reads or writes at once, in bytes. Clients ask for up to 32 MiB; reading less at once costs
/// nothing that can be measured.
const PIECE_BYTES: u32 = 256 << 10;

/// The most extents in an answer on what is allocated; the client asks again.
const MAX_EXTENTS: usize = 4096;

/// A connection on which an export was chosen.
pub struct Transmission<'a, R, W> {
    session: Session,
    record: &'a Record<'a>,
    incoming: Mutex<Incoming<R>>,
    outgoing: Mutex<W>,
}

struct Incoming<R> {
    reader: R,
    /// The client is done, or gone.
    over: bool,
}

/// Why a request is refused.
struct Failure {
    errno: Errno,
    message: String,
}

impl Failure {
    fn new(errno: Errno, message: impl Into<String>) -> Self {
        Failure { errno, message: message.into() }
    }
}

impl<'a, R: Read, W: Write> Transmission<'a, R, W> {
    /// Ready to be worked on.
    pub fn new(session: Session, reader: R, writer: W, record: &'a Record<'a>) -> Self {
        let incoming = Mutex::new(Incoming { reader, over: false });
        Transmission { session, record, incoming, outgoing: Mutex::new(writer) }
    }

    /// Answers requests until there are no more; several threads may.
    ///
    /// # Errors
    /// When the connection fails, or the client breaks the protocol: the connection must be ended.
    pub fn work(&self) -> io::Result<()> {
        let mut buffer = vec![0; length(PIECE_BYTES)];
        while let Some((request, written)) = self.next(&mut buffer)? {
            self.answer(&request, written, &mut buffer)?;
        }
        Ok(())
    }

    /// The next request; of a write, what became of it.
    fn next(&self, buffer: &mut [u8]) -> io::Result<Option<(Request, Written)>> {
        let mut incoming = held(&self.incoming);
        if incoming.over {
            return Ok(None);
        }
        let next = self.read_next(&mut incoming.reader, buffer);
        incoming.over = !matches!(next, Ok(Some(_)));
        match next {
            // Gone, if not as it should be.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            next => next,
        }
    }

    fn read_next(&self, reader: &mut R, buffer: &mut [u8]) -> io::Result<Option<(Request, Written)>> {
        let mut bytes = [0; REQUEST_BYTES];
        reader.read_exact(&mut bytes)?;
        let broken = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
        let request = Request::parse(&bytes).ok_or_else(|| broken("no request where one should be"))?;
        match request.command {
            Command::Disconnect => Ok(None),
            Command::Write if request.length_bytes > MAX_PAYLOAD_BYTES => Err(broken("a write too long")),
            Command::Write => Ok(Some((request, Some(self.take(&request, reader, buffer)?)))),
            _ => Ok(Some((request, None))),
        }
    }

    /// Writes what follows the request, or reads past it.
    fn take(&self, request: &Request, reader: &mut R, buffer: &mut [u8]) -> io::Result<Answer> {
        let mut outcome = self.check(request).map(drop);
        let (mut at, mut left) = (request.offset_bytes, request.length_bytes);
        while left > 0 {
            let now = left.min(PIECE_BYTES);
            let piece = &mut buffer[..length(now)];
            reader.read_exact(piece)?;
            outcome = outcome.and_then(|()| self.tried(self.session.disk.put(piece, at)));
            (at, left) = (at.saturating_add(u64::from(now)), left - now);
        }
        Ok(outcome)
    }

    fn answer(&self, request: &Request, written: Written, buffer: &mut [u8]) -> io::Result<()> {
        let range = match self.check(request) {
            Ok(range) => range,
            Err(failure) => return self.refuse(request, &failure),
        };
        let disk = &self.session.disk;
        let done = match request.command {
            Command::Read => return self.read(request, range, buffer),
            Command::BlockStatus => return self.block_status(request, range),
            Command::Write => written.unwrap_or(Ok(())),
            Command::WriteZeroes => self.tried(disk.zero(range)),
            Command::Cache => {
                // A hint, of which nobody expects much.
                let most = range.start_bytes.saturating_add(u64::from(MAX_PAYLOAD_BYTES));
                self.read_past(range.clip(ByteRange::new(range.start_bytes, most)), buffer)
            }
            // What was written is gone with the server, and what is trimmed may keep its bytes.
            _ => Ok(()),
        };
        match done {
            Ok(()) => self.send(&simple_reply(request.cookie, None), &[]),
            Err(failure) => self.refuse(request, &failure),
        }
    }

    /// The range of a request that is allowed, and lies on the disk.
    fn check(&self, request: &Request) -> std::result::Result<ByteRange, Failure> {
        let writable = self.session.disk.is_writable();
        let everywhere = if writable { command_flag::FUA } else { 0 };
        let flags = everywhere
            | match request.command {
                Command::Read if self.session.structured => command_flag::DF,
                Command::WriteZeroes => command_flag::NO_HOLE,
                Command::BlockStatus => command_flag::REQ_ONE,
                _ => 0,
            };
        let invalid = |message: &str| Err(Failure::new(Errno::Invalid, message));
        let writes = matches!(request.command, Command::Write | Command::WriteZeroes | Command::Trim);
        let end = request.offset_bytes.checked_add(u64::from(request.length_bytes));
        match request.command {
            Command::Unknown(_) => invalid("this server has no such command"),
            _ if writes && !writable => {
                Err(Failure::new(Errno::NotPermitted, "the export is read-only (lhrecover serve --writable)"))
            }
            _ if request.flags & !flags != 0 => invalid("a flag that this command does not have"),
            Command::BlockStatus if !self.session.block_status => {
                invalid("base:allocation was not agreed on")
            }
            Command::BlockStatus if request.length_bytes == 0 => invalid("a status of nothing"),
            Command::Read if request.length_bytes > MAX_PAYLOAD_BYTES => invalid("more than 32 MiB at once"),
            _ => match end.filter(|&end| end <= self.session.disk.size_bytes()) {
                Some(end) => Ok(ByteRange::new(request.offset_bytes, end)),
                None if matches!(request.command, Command::Write | Command::WriteZeroes) => {
                    Err(Failure::new(Errno::NoSpace, "past the end of the volume"))
                }
                None => invalid("past the end of the volume"),
            },
        }
    }

    /// Describes the beginning of `range`.
    fn block_status(&self, request: &Request, range: ByteRange) -> io::Result<()> {
        let most = if request.flags & command_flag::REQ_ONE != 0 { 1 } else { MAX_EXTENTS };
        match self.extents(range, most) {
            Ok(extents) => self.send(&block_status_chunk(request.cookie, ALLOCATION_ID, &extents), &[]),
            Err(e) => self.refuse(request, &self.failure(&e)),
        }
    }

    /// What `range` is made of, from its start on, in lengths and `NBD_STATE_*`; at least one, and no more than `most`.
    fn extents(&self, range: ByteRange, most: usize) -> Result<Vec<(u32, u32)>> {
        let mut extents: Vec<(u32, u32)> = Vec::new();
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            let stretches = match self.session.disk.stretches(ByteRange::new(at, range.end_bytes)) {
                Err(_) if !extents.is_empty() => break,
                stretches => stretches?,
            };
            let before = at;
            for stretch in stretches {
                let state = match stretch.content {
                    Content::Data => 0,
                    Content::Zeros => state::ZERO,
                    Content::Hole => state::HOLE | state::ZERO,
                };
                // No longer than the request, whose length has 32 bits.
                let len = u32::try_from(stretch.range.len_bytes()).unwrap_or(u32::MAX);
                let full = extents.len() == most;
                match extents.last_mut() {
                    Some(last) if last.1 == state => last.0 = last.0.saturating_add(len),
                    _ if full => return Ok(extents),
                    _ => extents.push((len, state)),
                }
                at = stretch.range.end_bytes;
            }
            if at <= before {
                return Err(Error::source("the view tells nothing of a part of itself").at_offset(at));
            }
        }
        Ok(extents)
    }

    fn refuse(&self, request: &Request, failure: &Failure) -> io::Result<()> {
        if self.session.structured {
            self.send(&error_chunk(request.cookie, failure.errno, &failure.message), &[])
        } else {
            self.send(&simple_reply(request.cookie, Some(failure.errno)), &[])
        }
    }

    /// Takes note of a failure that is not the client's.
    fn failure(&self, error: &Error) -> Failure {
        self.record.failed(error);
        let full = error.io_cause().is_some_and(|cause| cause.kind() == io::ErrorKind::StorageFull);
        Failure::new(if full { Errno::NoSpace } else { Errno::Io }, error.to_string())
    }

    fn tried(&self, outcome: Result<()>) -> Answer {
        outcome.map_err(|e| self.failure(&e))
    }

    /// Sends `head` and `data` as one, whoever else sends.
    fn send(&self, head: &[u8], data: &[u8]) -> io::Result<()> {
        write_both(&mut *held(&self.outgoing), head, data)
    }
}

/// What became of a request.
type Answer = std::result::Result<(), Failure>;

/// What became of a write, which happens while it is read; `None` for other requests.
type Written = Option<Answer>;

/// Writes `head` and `data`, in one system call where that is possible.
fn write_both(writer: &mut impl Write, head: &[u8], data: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < head.len() {
        match writer.write_vectored(&[IoSlice::new(&head[done..]), IoSlice::new(data)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    writer.write_all(&data[done - head.len()..])
}

/// Lengths of pieces, which fit.
fn length(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// A lock on what stays whole whoever panicked.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
