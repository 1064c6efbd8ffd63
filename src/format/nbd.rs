//! The NBD protocol as it is on the wire: fixed newstyle negotiation, and transmission with structured replies.
//!
//! A client may be anyone, so every length is a claim. This module turns bytes into what was asked, and answers into
//! bytes; when which of them is right is a matter of [`access::nbd`](crate::access).
//!
//! ```text
//! negotiation:   server's hello, client's flags, { option -> option replies }* ── GO ──┐
//! transmission:  { request (28 bytes, payload of a write) -> simple reply, or chunks }* <┘
//! ```
//!
//! Source: `doc/proto.md` of the NBD project (github.com/NetworkBlockDevice/nbd, May 2026), whose names are kept. All
//! numbers are big-endian.

mod option;
mod transmission;

pub use option::{
    ExportRequest, MetaRequest, OPTION_HEADER_BYTES, OptionHeader, export_name_reply, info_block_size,
    info_export, info_text, option_reply, server_reply,
};
pub use transmission::{
    Command, REQUEST_BYTES, Request, block_status_chunk, data_chunk_header, error_chunk, hole_chunk,
    none_chunk, simple_reply,
};

/// The first thing a server says: `NBDMAGIC`, `IHAVEOPT`, and the handshake flags FIXED_NEWSTYLE and NO_ZEROES.
pub const HELLO: [u8; 18] = *b"NBDMAGICIHAVEOPT\0\x03";

/// The most bytes a string may have: names, queries, messages.
pub const MAX_STRING_BYTES: usize = 4096;

/// The most bytes that one request may carry or ask for, as every client may expect of a server.
pub const MAX_PAYLOAD_BYTES: u32 = 32 << 20;

/// The one metadata context there is: what is allocated, and what reads as zeros.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Flags that a client answers the server's hello with.
pub(crate) mod client_flag {
    /// It speaks fixed newstyle.
    pub(crate) const FIXED_NEWSTYLE: u32 = 1 << 0;
    /// It does not want the zeros after the answer to `NBD_OPT_EXPORT_NAME`.
    pub(crate) const NO_ZEROES: u32 = 1 << 1;
}

/// `NBD_OPT_*`: what a client may ask before the transmission.
pub(crate) mod opt {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// `NBD_REP_*`: kinds of answers to an option. Errors have the highest bit, and their data is a message.
pub(crate) mod rep {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const ERR_UNSUP: u32 = 1 << 31 | 1;
    pub(crate) const ERR_POLICY: u32 = 1 << 31 | 2;
    pub(crate) const ERR_INVALID: u32 = 1 << 31 | 3;
    pub(crate) const ERR_PLATFORM: u32 = 1 << 31 | 4;
    pub(crate) const ERR_UNKNOWN: u32 = 1 << 31 | 6;
}

/// `NBD_INFO_*`: what can be asked of an export.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// `NBD_FLAG_*`: what an export can do.
pub(crate) mod export_flag {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const SEND_FLUSH: u16 = 1 << 2;
    pub(crate) const SEND_FUA: u16 = 1 << 3;
    pub(crate) const SEND_TRIM: u16 = 1 << 5;
    pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const SEND_DF: u16 = 1 << 7;
    pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(crate) const SEND_CACHE: u16 = 1 << 10;
}

/// `NBD_CMD_FLAG_*`: how a request is meant.
pub(crate) mod command_flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const REQ_ONE: u16 = 1 << 3;
}

/// `NBD_STATE_*`: what `base:allocation` says of a range.
pub(crate) mod state {
    pub(crate) const HOLE: u32 = 1 << 0;
    pub(crate) const ZERO: u32 = 1 << 1;
}

/// Why a request failed, in the numbers of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// `NBD_EPERM`: the export is read-only.
    NotPermitted = 1,
    /// `NBD_EIO`: the bytes cannot be had.
    Io = 5,
    /// `NBD_EINVAL`: the request makes no sense.
    Invalid = 22,
    /// `NBD_ENOSPC`: no room for what was written.
    NoSpace = 28,
    /// `NBD_EOVERFLOW`: more than can be sent in one piece.
    Overflow = 75,
}

impl Errno {
    /// The number on the wire.
    pub fn number(self) -> u32 {
        self as u32
    }
}

/// The beginning of `text` that fits into a string of the protocol.
pub(crate) fn clipped(text: &str) -> &str {
    let mut end = text.len().min(MAX_STRING_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}

#[cfg(test)]
mod tests;
