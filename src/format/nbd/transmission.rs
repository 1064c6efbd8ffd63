//! Requests and replies.

use super::{Errno, be16, be32, be64, clipped};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// `NBD_REPLY_FLAG_DONE`: no chunk of this reply follows.
const CHUNK_DONE: u16 = 1 << 0;

/// `NBD_REPLY_TYPE_*`.
mod chunk {
    pub(super) const NONE: u16 = 0;
    pub(super) const OFFSET_DATA: u16 = 1;
    pub(super) const OFFSET_HOLE: u16 = 2;
    pub(super) const BLOCK_STATUS: u16 = 5;
    pub(super) const ERROR: u16 = 1 << 15 | 1;
}

/// How long a request is, without the payload of a write.
pub const REQUEST_BYTES: usize = 28;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `NBD_CMD_READ`.
    Read,
    /// `NBD_CMD_WRITE`; `length` bytes follow the request.
    Write,
    /// `NBD_CMD_DISC`: the client is done; there is no answer.
    Disconnect,
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_TRIM`.
    Trim,
    /// `NBD_CMD_CACHE`.
    Cache,
    /// `NBD_CMD_WRITE_ZEROES`.
    WriteZeroes,
    /// `NBD_CMD_BLOCK_STATUS`.
    BlockStatus,
    /// Anything else.
    Unknown(u16),
}

/// A request, as the client made it: nothing of it has been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it is for.
    pub command: Command,
    /// `NBD_CMD_FLAG_*`.
    pub flags: u16,
    /// What the client will know the answer by.
    pub cookie: u64,
    /// Where, in bytes of the export.
    pub offset_bytes: u64,
    /// How many bytes.
    pub length_bytes: u32,
}

impl Request {
    /// Reads a request; `None` when it is none.
    pub fn parse(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        be32(bytes, 0).filter(|&magic| magic == REQUEST_MAGIC)?;
        let command = match be16(bytes, 6)? {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            5 => Command::Cache,
            6 => Command::WriteZeroes,
            7 => Command::BlockStatus,
            other => Command::Unknown(other),
        };
        Some(Request {
            command,
            flags: be16(bytes, 4)?,
            cookie: be64(bytes, 8)?,
            offset_bytes: be64(bytes, 16)?,
            length_bytes: be32(bytes, 24)?,
        })
    }
}

/// A simple reply; the data of a read that went well follows it.
pub fn simple_reply(cookie: u64, error: Option<Errno>) -> [u8; 16] {
    let mut reply = [0; 16];
    reply[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    reply[4..8].copy_from_slice(&error.map_or(0, Errno::number).to_be_bytes());
    reply[8..].copy_from_slice(&cookie.to_be_bytes());
    reply
}

/// How long the header of a chunk is.
const CHUNK_HEADER_BYTES: usize = 20;

/// The header of a chunk with `payload_bytes` after it; the `last` one ends the reply.
fn chunk_header(cookie: u64, kind: u16, last: bool, payload_bytes: u32) -> [u8; CHUNK_HEADER_BYTES] {
    let mut header = [0; CHUNK_HEADER_BYTES];
    header[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    header[4..6].copy_from_slice(&(if last { CHUNK_DONE } else { 0 }).to_be_bytes());
    header[6..8].copy_from_slice(&kind.to_be_bytes());
    header[8..16].copy_from_slice(&cookie.to_be_bytes());
    header[16..].copy_from_slice(&payload_bytes.to_be_bytes());
    header
}

/// A chunk that says nothing but that the request is done, and went well unless another chunk said otherwise.
pub fn none_chunk(cookie: u64) -> [u8; CHUNK_HEADER_BYTES] {
    chunk_header(cookie, chunk::NONE, true, 0)
}

/// The beginning of a chunk with `data_bytes` of data, which follow it.
pub fn data_chunk_header(cookie: u64, last: bool, offset_bytes: u64, data_bytes: u32) -> [u8; 28] {
    let mut head = [0; 28];
    let header = chunk_header(cookie, chunk::OFFSET_DATA, last, data_bytes.saturating_add(8));
    head[..CHUNK_HEADER_BYTES].copy_from_slice(&header);
    head[CHUNK_HEADER_BYTES..].copy_from_slice(&offset_bytes.to_be_bytes());
    head
}

/// A chunk that says that `length_bytes` at an offset are zeros.
pub fn hole_chunk(cookie: u64, last: bool, offset_bytes: u64, length_bytes: u32) -> [u8; 32] {
    let mut whole = [0; 32];
    whole[..CHUNK_HEADER_BYTES].copy_from_slice(&chunk_header(cookie, chunk::OFFSET_HOLE, last, 12));
    whole[CHUNK_HEADER_BYTES..28].copy_from_slice(&offset_bytes.to_be_bytes());
    whole[28..].copy_from_slice(&length_bytes.to_be_bytes());
    whole
}

/// A chunk that describes what follows the request's offset, in pairs of length in bytes and `NBD_STATE_*`.
pub fn block_status_chunk(cookie: u64, context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let payload_bytes = u32::try_from(4 + 8 * extents.len()).unwrap_or(u32::MAX);
    let mut whole = chunk_header(cookie, chunk::BLOCK_STATUS, true, payload_bytes).to_vec();
    whole.extend(context.to_be_bytes());
    for (length_bytes, state) in extents {
        whole.extend(length_bytes.to_be_bytes());
        whole.extend(state.to_be_bytes());
    }
    whole
}

/// A chunk that ends the reply with an error, and says why.
pub fn error_chunk(cookie: u64, error: Errno, message: &str) -> Vec<u8> {
    let message = clipped(message);
    let payload_bytes = u32::try_from(6 + message.len()).unwrap_or(u32::MAX);
    let mut whole = chunk_header(cookie, chunk::ERROR, true, payload_bytes).to_vec();
    whole.extend(error.number().to_be_bytes());
    whole.extend(u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes());
    whole.extend(message.as_bytes());
    whole
}
