//! The conversation before the transmission: which export, and what both sides can do.

use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::access::nbd::Catalog;
use crate::error::{Error, ErrorKind};
use crate::format::nbd::{
    BASE_ALLOCATION, ExportRequest, HELLO, MetaRequest, OPTION_HEADER_BYTES, OptionHeader, client_flag,
    clipped, export_flag, export_name_reply, info, info_block_size, info_export, info_text, opt,
    option_reply, rep, server_reply,
};
use crate::view::disk::Disk;

/// The most data of an option that is listened to; a name and some queries are far below. More is an attack.
const MAX_OPTION_BYTES: u32 = 64 << 10;

/// The most options of one client: it asks for what it wants, and goes on.
const MAX_OPTIONS: usize = 1024;

/// The number that `base:allocation` goes by in the transmission.
pub(super) const ALLOCATION_ID: u32 = 1;

/// What a client and we have agreed on.
pub struct Session {
    /// What is served.
    pub disk: Arc<dyn Disk>,
    /// Whether replies come in chunks.
    pub structured: bool,
    /// Whether the client may ask what is allocated.
    pub block_status: bool,
}

/// Negotiates. `None`: the client left, or wanted an export that it cannot have.
///
/// # Errors
/// When the connection fails, or the client breaks the protocol.
pub fn negotiate(
    reader: &mut impl Read,
    writer: &mut impl Write,
    catalog: &dyn Catalog,
) -> io::Result<Option<Session>> {
    writer.write_all(&HELLO)?;
    let mut flags = [0; 4];
    reader.read_exact(&mut flags)?;
    let flags = u32::from_be_bytes(flags);
    if flags & !(client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES) != 0 {
        return Err(broken("flags that are not known"));
    }
    let padded = flags & client_flag::NO_ZEROES == 0;
    let mut haggling = Haggling { writer, catalog, padded, structured: false, context_of: None };
    for _ in 0..MAX_OPTIONS {
        let mut header = [0; OPTION_HEADER_BYTES];
        reader.read_exact(&mut header)?;
        let header = OptionHeader::parse(&header).ok_or_else(|| broken("no option where one should be"))?;
        if header.data_bytes > MAX_OPTION_BYTES {
            return Err(broken("an option that is too long"));
        }
        let mut data = vec![0; usize::try_from(header.data_bytes).unwrap_or_default()];
        reader.read_exact(&mut data)?;
        match haggling.answer(header.option, &data)? {
            Next::Option => {}
            Next::Transmission(session) => return Ok(Some(session)),
            Next::Over => return Ok(None),
        }
    }
    Err(broken("too many options"))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the client sent {what}"))
}

/// How it goes on after an option.
enum Next {
    Option,
    Transmission(Session),
    Over,
}

/// What was agreed so far.
struct Haggling<'a, W> {
    writer: &'a mut W,
    catalog: &'a dyn Catalog,
    /// Whether the client wants zeros after the answer to `NBD_OPT_EXPORT_NAME`.
    padded: bool,
    structured: bool,
    /// The export that `base:allocation` was selected for.
    context_of: Option<String>,
}

impl<W: Write> Haggling<'_, W> {
    fn answer(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        match option {
            opt::EXPORT_NAME => return self.export_name(data),
            opt::ABORT => {
                // The client need not wait for it.
                let _ = self.reply(option, rep::ACK, &[]);
                return Ok(Next::Over);
            }
            opt::INFO | opt::GO => return self.info_or_go(option, data),
            opt::LIST if data.is_empty() => self.list()?,
            opt::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.reply(option, rep::ACK, &[])?;
            }
            opt::LIST | opt::STRUCTURED_REPLY => {
                self.refuse(option, rep::ERR_INVALID, "this option has no data")?;
            }
            opt::LIST_META_CONTEXT | opt::SET_META_CONTEXT => self.meta_context(option, data)?,
            _ => self.refuse(option, rep::ERR_UNSUP, "this server has no such option")?,
        }
        Ok(Next::Option)
    }

    fn reply(&mut self, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
        self.writer.write_all(&option_reply(option, kind, data))
    }

    fn refuse(&mut self, option: u32, kind: u32, why: &str) -> io::Result<()> {
        self.reply(option, kind, clipped(why).as_bytes())
    }

    fn list(&mut self) -> io::Result<()> {
        for export in self.catalog.list() {
            self.writer.write_all(&server_reply(opt::LIST, &export.name, &export.description))?;
        }
        self.reply(opt::LIST, rep::ACK, &[])
    }

    /// The old way to choose an export, which knows no errors.
    fn export_name(&mut self, data: &[u8]) -> io::Result<Next> {
        let name = std::str::from_utf8(data).map_err(|_| broken("a name that is not UTF-8"))?;
        let Some(Ok(disk)) = self.catalog.open(name) else { return Ok(Next::Over) };
        let session = self.session(name, disk);
        let reply = export_name_reply(session.disk.size_bytes(), session.flags(), self.padded);
        self.writer.write_all(&reply)?;
        Ok(Next::Transmission(session))
    }

    fn info_or_go(&mut self, option: u32, data: &[u8]) -> io::Result<Next> {
        let Some(ExportRequest { name, infos }) = ExportRequest::parse(data) else {
            self.refuse(option, rep::ERR_INVALID, "the request is malformed")?;
            return Ok(Next::Option);
        };
        let disk = match self.catalog.open(name) {
            Some(Ok(disk)) => disk,
            Some(Err(e)) => {
                // The state is there, and listed: a client must not take it for one that is not.
                let kind = if e.kind() == ErrorKind::Refused { rep::ERR_POLICY } else { rep::ERR_PLATFORM };
                self.refuse(option, kind, &in_full(&e))?;
                return Ok(Next::Option);
            }
            None => {
                self.refuse(option, rep::ERR_UNKNOWN, "there is no export of that name")?;
                return Ok(Next::Option);
            }
        };
        let session = self.session(name, disk);
        self.reply(option, rep::INFO, &info_export(session.disk.size_bytes(), session.flags()))?;
        for kind in [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE] {
            if infos.contains(&kind) {
                let told = match kind {
                    info::NAME => info_text(kind, name),
                    info::DESCRIPTION => info_text(kind, &self.catalog.describe(name).unwrap_or_default()),
                    _ => info_block_size(),
                };
                self.reply(option, rep::INFO, &told)?;
            }
        }
        self.reply(option, rep::ACK, &[])?;
        Ok(if option == opt::GO { Next::Transmission(session) } else { Next::Option })
    }

    fn session(&self, name: &str, disk: Arc<dyn Disk>) -> Session {
        let block_status = self.structured && self.context_of.as_deref() == Some(name);
        Session { disk, structured: self.structured, block_status }
    }

    fn meta_context(&mut self, option: u32, data: &[u8]) -> io::Result<()> {
        let selects = option == opt::SET_META_CONTEXT;
        if selects {
            // Whatever becomes of this one, what was selected before is not any more.
            self.context_of = None;
        }
        if !self.structured {
            return self.refuse(option, rep::ERR_INVALID, "structured replies come first");
        }
        let Some(MetaRequest { name, queries }) = MetaRequest::parse(data) else {
            return self.refuse(option, rep::ERR_INVALID, "the request is malformed");
        };
        if self.catalog.describe(name).is_none() {
            return self.refuse(option, rep::ERR_UNKNOWN, "there is no export of that name");
        }
        let is_meant = |query: &&str| *query == BASE_ALLOCATION || (!selects && *query == "base:");
        if queries.iter().any(is_meant) || (!selects && queries.is_empty()) {
            let id = if selects { ALLOCATION_ID } else { 0 };
            let context = [&id.to_be_bytes()[..], BASE_ALLOCATION.as_bytes()].concat();
            self.reply(option, rep::META_CONTEXT, &context)?;
            self.context_of = selects.then(|| name.to_owned()).or(self.context_of.take());
        }
        self.reply(option, rep::ACK, &[])
    }
}

impl Session {
    /// `NBD_FLAG_*` of the export. All connections see the same bytes at once, written or not, so several may be used.
    fn flags(&self) -> u16 {
        let can = export_flag::HAS_FLAGS | export_flag::CAN_MULTI_CONN | export_flag::SEND_CACHE;
        let in_chunks = if self.structured { export_flag::SEND_DF } else { 0 };
        let writing = if self.disk.is_writable() {
            export_flag::SEND_FLUSH
                | export_flag::SEND_FUA
                | export_flag::SEND_TRIM
                | export_flag::SEND_WRITE_ZEROES
        } else {
            export_flag::READ_ONLY
        };
        can | in_chunks | writing
    }
}

/// An error and what to do about it, for a client to show.
fn in_full(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}
