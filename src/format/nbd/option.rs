//! Options: what a client asks before the transmission, and what it is told.

use super::{MAX_PAYLOAD_BYTES, MAX_STRING_BYTES, be16, be32, be64, clipped, info, rep};

/// `IHAVEOPT`, which every option begins with.
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What every answer to an option begins with.
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// How long the header of an option is.
pub const OPTION_HEADER_BYTES: usize = 16;

/// The header of an option; so many bytes of data follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// `NBD_OPT_*`, or another number.
    pub option: u32,
    /// How many bytes of data follow, as the client claims.
    pub data_bytes: u32,
}

impl OptionHeader {
    /// Reads a header; `None` when it is none.
    pub fn parse(bytes: &[u8; OPTION_HEADER_BYTES]) -> Option<Self> {
        be64(bytes, 0).filter(|&magic| magic == OPTION_MAGIC)?;
        Some(OptionHeader { option: be32(bytes, 8)?, data_bytes: be32(bytes, 12)? })
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportRequest<'a> {
    /// Which export; empty for the default one.
    pub name: &'a str,
    /// What is to be told of it: `NBD_INFO_*`, or other numbers.
    pub infos: Vec<u16>,
}

impl<'a> ExportRequest<'a> {
    /// Reads the option's data; `None` when it is malformed.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let (name, rest) = string(data)?;
        let count = usize::from(be16(rest, 0)?);
        let infos = rest.get(2..).filter(|infos| infos.len() == 2 * count)?;
        let infos = infos.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        Some(ExportRequest { name, infos: infos.collect() })
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaRequest<'a> {
    /// Which export; empty for the default one.
    pub name: &'a str,
    /// The contexts that are meant.
    pub queries: Vec<&'a str>,
}

impl<'a> MetaRequest<'a> {
    /// Reads the option's data; `None` when it is malformed.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let (name, rest) = string(data)?;
        let count = be32(rest, 0)?;
        let mut rest = rest.get(4..)?;
        let mut queries = Vec::new();
        // Whatever number is claimed, each has at least its length in the data.
        for _ in 0..count {
            let (query, after) = string(rest)?;
            queries.push(query);
            rest = after;
        }
        rest.is_empty().then_some(MetaRequest { name, queries })
    }
}

/// A string with its length before it, and what follows.
fn string(data: &[u8]) -> Option<(&str, &[u8])> {
    let len = usize::try_from(be32(data, 0)?).ok().filter(|&len| len <= MAX_STRING_BYTES)?;
    let (text, rest) = data.get(4..)?.split_at_checked(len)?;
    std::str::from_utf8(text).ok().map(|text| (text, rest))
}

/// An answer of this kind to an option.
pub fn option_reply(option: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut reply = Vec::with_capacity(20 + data.len());
    reply.extend(OPTION_REPLY_MAGIC.to_be_bytes());
    reply.extend(option.to_be_bytes());
    reply.extend(kind.to_be_bytes());
    // Strings are clipped, and nothing else is long.
    reply.extend(u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    reply.extend(data);
    reply
}

/// `NBD_REP_SERVER`: an export, as an answer to `option`.
pub fn server_reply(option: u32, name: &str, description: &str) -> Vec<u8> {
    let (name, description) = (clipped(name), clipped(description));
    let mut data = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(description.as_bytes());
    option_reply(option, rep::SERVER, &data)
}

/// `NBD_INFO_EXPORT`: size and abilities.
pub fn info_export(size_bytes: u64, flags: u16) -> Vec<u8> {
    [&info::EXPORT.to_be_bytes()[..], &size_bytes.to_be_bytes(), &flags.to_be_bytes()].concat()
}

/// `NBD_INFO_NAME` or `NBD_INFO_DESCRIPTION`.
pub fn info_text(kind: u16, text: &str) -> Vec<u8> {
    [&kind.to_be_bytes()[..], clipped(text).as_bytes()].concat()
}

/// `NBD_INFO_BLOCK_SIZE`: any byte can be asked for, whole sectors are better, and how much at once.
pub fn info_block_size() -> Vec<u8> {
    const MINIMUM: u32 = 1;
    const PREFERRED: u32 = 4096;
    let sizes = [MINIMUM, PREFERRED, MAX_PAYLOAD_BYTES].map(u32::to_be_bytes).concat();
    [&info::BLOCK_SIZE.to_be_bytes()[..], &sizes].concat()
}

/// The answer to `NBD_OPT_EXPORT_NAME`, which has no header; `padded` unless the client did without.
pub fn export_name_reply(size_bytes: u64, flags: u16, padded: bool) -> Vec<u8> {
    const PADDING: usize = 124;
    let mut reply = [&size_bytes.to_be_bytes()[..], &flags.to_be_bytes()].concat();
    reply.resize(reply.len() + if padded { PADDING } else { 0 }, 0);
    reply
}
