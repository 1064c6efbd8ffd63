//! Answers to reads. A byte that cannot be read is an error of its request, and never a zero.

use std::io::{self, Read, Write};

use super::{Answer, Failure, PIECE_BYTES, Transmission, held, length, write_both};
use crate::error::{Error, Result};
use crate::format::nbd::{
    Errno, Request, command_flag, data_chunk_header, hole_chunk, none_chunk, simple_reply,
};
use crate::model::units::ByteRange;
use crate::view::disk::Content;

/// From which length on zeros are told instead of sent, in bytes. A chunk of its own costs both sides more than
/// sending fewer.
const HOLE_BYTES: u64 = 32 << 10;

/// A part of a read that is sent, or told to be zeros.
struct Run {
    range: ByteRange,
    zeros: bool,
}

impl<R: Read, W: Write> Transmission<'_, R, W> {
    pub(super) fn read(&self, request: &Request, range: ByteRange, buffer: &mut [u8]) -> io::Result<()> {
        if !self.session.structured {
            return self.read_in_one(request, range, buffer);
        }
        if request.flags & command_flag::DF == 0 {
            return self.read_in_chunks(request, range, buffer);
        }
        if request.length_bytes > PIECE_BYTES {
            let message = format!("more than {PIECE_BYTES} bytes cannot be sent without fragments");
            return self.refuse(request, &Failure::new(Errno::Overflow, message));
        }
        if range.is_empty() {
            return self.send(&none_chunk(request.cookie), &[]);
        }
        match self.read_piece(range, buffer) {
            Ok(piece) => self.send_data(request, true, range, piece),
            Err(failure) => self.refuse(request, &failure),
        }
    }

    fn read_in_chunks(&self, request: &Request, range: ByteRange, buffer: &mut [u8]) -> io::Result<()> {
        if range.is_empty() {
            return self.send(&none_chunk(request.cookie), &[]);
        }
        let mut left = range;
        while !left.is_empty() {
            let runs = match self.runs(left) {
                Ok(runs) => runs,
                Err(e) => return self.refuse(request, &self.failure(&e)),
            };
            for run in runs {
                left.start_bytes = run.range.end_bytes;
                if run.zeros {
                    // No longer than the request, whose length has 32 bits.
                    let len = u32::try_from(run.range.len_bytes()).unwrap_or(u32::MAX);
                    let head = hole_chunk(request.cookie, left.is_empty(), run.range.start_bytes, len);
                    self.send(&head, &[])?;
                    continue;
                }
                for piece in pieces(run.range) {
                    match self.read_piece(piece, buffer) {
                        Ok(data) => {
                            self.send_data(request, piece.end_bytes == range.end_bytes, piece, data)?
                        }
                        Err(failure) => return self.refuse(request, &failure),
                    }
                }
            }
        }
        Ok(())
    }

    /// The beginning of `range` as it is to be sent, not empty.
    fn runs(&self, range: ByteRange) -> Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        for stretch in self.session.disk.stretches(range)? {
            let zeros = stretch.content != Content::Data && stretch.range.len_bytes() >= HOLE_BYTES;
            match runs.last_mut() {
                Some(last) if last.zeros == zeros => last.range.end_bytes = stretch.range.end_bytes,
                _ => runs.push(Run { range: stretch.range, zeros }),
            }
        }
        match runs.last() {
            Some(last) if last.range.end_bytes > range.start_bytes => Ok(runs),
            _ => {
                Err(Error::source("the view tells nothing of a part of itself").at_offset(range.start_bytes))
            }
        }
    }

    fn read_piece<'b>(
        &self,
        range: ByteRange,
        buffer: &'b mut [u8],
    ) -> std::result::Result<&'b [u8], Failure> {
        let piece = &mut buffer[..length(u32::try_from(range.len_bytes()).unwrap_or(PIECE_BYTES))];
        self.tried(self.session.disk.read_exact_at(piece, range.start_bytes))?;
        Ok(piece)
    }

    fn send_data(&self, request: &Request, last: bool, range: ByteRange, data: &[u8]) -> io::Result<()> {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.send(&data_chunk_header(request.cookie, last, range.start_bytes, len), data)
    }

    /// A simple reply says first whether the read went well, and so it must have before anything is sent. What is more
    /// than a piece is therefore read twice.
    fn read_in_one(&self, request: &Request, range: ByteRange, buffer: &mut [u8]) -> io::Result<()> {
        let head = simple_reply(request.cookie, None);
        if request.length_bytes <= PIECE_BYTES {
            return match self.read_piece(range, buffer) {
                Ok(data) => self.send(&head, data),
                Err(failure) => self.refuse(request, &failure),
            };
        }
        if let Err(failure) = self.read_past(range, buffer) {
            return self.refuse(request, &failure);
        }
        let mut outgoing = held(&self.outgoing);
        let mut head = &head[..];
        for piece in pieces(range) {
            // Too late to say so: the connection ends.
            let data = self.read_piece(piece, buffer).map_err(|failure| io::Error::other(failure.message))?;
            write_both(&mut *outgoing, head, data)?;
            head = &[];
        }
        Ok(())
    }

    /// Reads, and keeps nothing: it can be read, and the kernel has it at hand.
    pub(super) fn read_past(&self, range: ByteRange, buffer: &mut [u8]) -> Answer {
        pieces(range).try_for_each(|piece| self.read_piece(piece, buffer).map(drop))
    }
}

/// The parts of `range` that a buffer holds.
fn pieces(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    let piece_bytes = u64::from(PIECE_BYTES);
    (range.start_bytes..range.end_bytes)
        .step_by(length(PIECE_BYTES))
        .map(move |start| ByteRange::new(start, start.saturating_add(piece_bytes).min(range.end_bytes)))
}
