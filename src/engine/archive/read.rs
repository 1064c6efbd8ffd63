//! Reads an archive from its beginning to its end, and believes nothing of it.
//!
//! An archive may come from anywhere. Names are plain names, and nobody writes through a link; sizes are only numbers until
//! there are bytes behind them; a map must ascend, in whole sectors, within the file; headers, members and runs are
//! bounded. What our own writer does not write is not taken.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;

use tar::{EntryType, Header};

use crate::engine::archive::layer::{ArchivedLayer, FileMap};
use crate::engine::archive::{DIRECTORY_NAME, MAX_RUNS, padding, pax};
use crate::engine::pipeline::BUFFER_BYTES;
use crate::error::{Error, Result};
use crate::format::names::is_plain;
use crate::model::units::{ByteRange, MAX_VOLUME_BYTES, SECTOR_BYTES};
use crate::sys::attributes::Xattrs;

/// The most members an archive may have: as many as a directory may have names, and two of our own.
const MAX_MEMBERS: usize = 65_538;

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Its name, a plain one; empty for the directory itself.
    pub name: String,
    /// What it is.
    pub what: Stored,
    /// The permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// When it was last modified: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// What a member is.
#[derive(Debug, PartialEq, Eq)]
pub enum Stored {
    /// The directory itself.
    Directory,
    /// A regular file.
    File(FileMap),
    /// Another name of a file further up.
    Link(String),
    /// A symbolic link.
    Symlink(String),
}

/// An archive being read.
pub struct ArchiveReader<R: Read> {
    from: BufReader<R>,
    members: usize,
    runs: u64,
}

impl<R: Read + Send> ArchiveReader<R> {
    /// Begins to read.
    pub fn new(from: R) -> Self {
        ArchiveReader { from: BufReader::with_capacity(BUFFER_BYTES, from), members: 0, runs: 0 }
    }

    /// The next member, or `None` at the end. A file's bytes must be read ([`with_file`](Self::with_file)) before the
    /// next one.
    ///
    /// # Errors
    /// `Source` when the archive is damaged, ends too early, or is not one of ours.
    pub fn next_member(&mut self) -> Result<Option<Member>> {
        let Some(mut header) = self.header()? else { return Ok(None) };
        self.members += 1;
        if self.members > MAX_MEMBERS {
            return Err(unusable("it has too many members"));
        }
        let mut records = Vec::new();
        if header.entry_type() == EntryType::XHeader {
            let length = header.entry_size().map_err(|_| unusable("a header has no size"))?;
            if length > pax::MAX_BYTES {
                return Err(unusable("an extended header is too long"));
            }
            let mut bytes = Vec::new();
            (&mut self.from).take(length).read_to_end(&mut bytes).map_err(cut_off)?;
            self.skip(length - bytes.len() as u64 + padding(length))?;
            records = pax::parse(&bytes).map_err(unusable)?;
            header = self.header()?.ok_or_else(|| cut_off(io::ErrorKind::UnexpectedEof.into()))?;
        }
        let extended = Extended(records);
        let what = self.what(&header, &extended)?;
        let name = self.name(&header, &extended, &what)?;
        let number = |key: &str, plain: io::Result<u64>| -> Result<u64> {
            extended.number(key)?.map_or_else(|| plain.map_err(|_| unusable("a header is malformed")), Ok)
        };
        let owner = |key: &str, plain| {
            u32::try_from(number(key, plain)?).map_err(|_| unusable("an owner is too large"))
        };
        Ok(Some(Member {
            name,
            mode: header.mode().map_err(|_| unusable("a mode is malformed"))? & 0o7777,
            owner: (owner("uid", header.uid())?, owner("gid", header.gid())?),
            modified: match extended.text("mtime")? {
                Some(text) => pax::parse_time(text).ok_or_else(|| unusable("a time is malformed"))?,
                None => (
                    number("mtime", header.mtime())?
                        .try_into()
                        .map_err(|_| unusable("a time is malformed"))?,
                    0,
                ),
            },
            xattrs: extended.xattrs(),
            what,
        }))
    }

    /// Gives the bytes of a file that was just named to `read`, as a layer that can be read once, from its beginning on.
    ///
    /// # Errors
    /// What `read` fails with; `Source` when the archive ends too early.
    pub fn with_file<T>(
        &mut self,
        name: &str,
        map: &FileMap,
        read: impl FnOnce(&ArchivedLayer<'_>) -> Result<T>,
    ) -> Result<T> {
        let result = {
            let layer = ArchivedLayer::new(name, map, &mut self.from);
            let result = read(&layer)?;
            layer.finish()?;
            result
        };
        self.skip(padding(map.runs.iter().map(ByteRange::len_bytes).sum()))?;
        Ok(result)
    }

    /// The next header; `None` at the block of zeros that ends an archive.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        self.from.read_exact(header.as_mut_bytes()).map_err(cut_off)?;
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        // The checksum's own bytes count as blanks.
        let sum: u32 = header.as_bytes().iter().map(|&b| u32::from(b)).sum();
        let own: u32 = header.as_old().cksum.iter().map(|&b| u32::from(b)).sum();
        let expected = sum - own + 8 * u32::from(b' ');
        match header.cksum() {
            Ok(told) if told == expected => Ok(Some(header)),
            _ => Err(unusable("a header has a wrong checksum")),
        }
    }

    fn what(&mut self, header: &Header, extended: &Extended) -> Result<Stored> {
        let target = || -> Result<String> {
            let plain =
                || header.link_name_bytes().and_then(|name| String::from_utf8(name.into_owned()).ok());
            let target = extended.text("linkpath")?.map(str::to_owned).or_else(plain);
            target.ok_or_else(|| unusable("a link leads nowhere"))
        };
        match header.entry_type() {
            EntryType::Directory => Ok(Stored::Directory),
            EntryType::Link => Ok(Stored::Link(target()?)),
            EntryType::Symlink => Ok(Stored::Symlink(target()?)),
            EntryType::Regular => {
                let plain = || header.entry_size().map_err(|_| unusable("a header has no size"));
                let stored_bytes = extended.number("size")?.map_or_else(plain, Ok)?;
                self.map(stored_bytes, extended).map(Stored::File)
            }
            _ => Err(unusable("it has a member of a kind that no replica has")),
        }
    }

    fn name(&self, header: &Header, extended: &Extended, what: &Stored) -> Result<String> {
        let given = match extended.text("GNU.sparse.name")? {
            Some(name) => Some(name),
            None => extended.text("path")?,
        };
        let plain = || {
            String::from_utf8(header.path_bytes().into_owned()).map_err(|_| unusable("a name is not UTF-8"))
        };
        let name = given.map(str::to_owned).map_or_else(plain, Ok)?;
        match what {
            Stored::Directory if name == DIRECTORY_NAME && self.members == 1 => Ok(String::new()),
            Stored::Directory => Err(unusable("it has a directory in it")),
            _ if is_plain(&name) => Ok(name),
            _ => Err(unusable("a name in it leads out of the directory")),
        }
    }

    /// The map of a file of which the archive has `stored_bytes`: the map itself, if it has one, and its data.
    fn map(&mut self, stored_bytes: u64, extended: &Extended) -> Result<FileMap> {
        if extended.text("GNU.sparse.major")?.is_none() {
            check_size(stored_bytes)?;
            let whole = Some(ByteRange::new(0, stored_bytes)).filter(|whole| !whole.is_empty());
            let runs = whole.into_iter().collect();
            return Ok(FileMap { size_bytes: stored_bytes, runs, unwritten: Vec::new() });
        }
        let version = (extended.number("GNU.sparse.major")?, extended.number("GNU.sparse.minor")?);
        if version != (Some(1), Some(0)) {
            return Err(unusable("a sparse file in it has another format than 1.0"));
        }
        let size_bytes =
            extended.number("GNU.sparse.realsize")?.ok_or_else(|| unusable("a sparse file has no size"))?;
        check_size(size_bytes)?;
        let (runs, map_bytes) = self.runs(stored_bytes, size_bytes)?;
        let data_bytes: u64 = runs.iter().map(ByteRange::len_bytes).sum();
        if map_bytes.checked_add(data_bytes) != Some(stored_bytes) {
            return Err(unusable("a sparse file does not have as much data as its map says"));
        }
        let unwritten =
            extended.text(pax::UNWRITTEN)?.map_or_else(|| Ok(Vec::new()), |text| ranges(text, &runs))?;
        Ok(FileMap { size_bytes, runs, unwritten })
    }

    /// Reads a map; returns its runs, and how many bytes it took, with what fills it up to a whole block.
    fn runs(&mut self, stored_bytes: u64, size_bytes: u64) -> Result<(Vec<ByteRange>, u64)> {
        let mut taken_bytes = 0;
        let count = self.map_number(&mut taken_bytes, stored_bytes)?;
        let mut runs = Vec::new();
        let mut end_bytes = 0;
        for _ in 0..count {
            let start = self.map_number(&mut taken_bytes, stored_bytes)?;
            let length = self.map_number(&mut taken_bytes, stored_bytes)?;
            let end = start.checked_add(length).filter(|&end| end <= size_bytes);
            let end = end.ok_or_else(|| unusable("a sparse file has data past its end"))?;
            if start < end_bytes {
                return Err(unusable("the map of a sparse file is out of order"));
            }
            let whole = start % SECTOR_BYTES == 0 && (end % SECTOR_BYTES == 0 || end == size_bytes);
            // The run of no bytes that only says how long the file is.
            let last = length == 0 && start == size_bytes;
            if !whole && !last {
                return Err(unusable("the map of a sparse file is not in whole sectors"));
            }
            self.runs += 1;
            if self.runs > MAX_RUNS {
                return Err(unusable("its files are in too many pieces"));
            }
            end_bytes = end;
            if length > 0 {
                runs.push(ByteRange::new(start, end));
            }
        }
        let fill = padding(taken_bytes);
        self.skip(fill)?;
        Ok((runs, taken_bytes + fill))
    }

    /// One line of a map.
    fn map_number(&mut self, taken_bytes: &mut u64, stored_bytes: u64) -> Result<u64> {
        /// As many digits as a `u64` has, and the line end.
        const MAX_LINE: u64 = 21;
        let mut line = Vec::new();
        let length = (&mut self.from).take(MAX_LINE).read_until(b'\n', &mut line).map_err(cut_off)?;
        *taken_bytes += length as u64;
        let number = line.strip_suffix(b"\n").and_then(|digits| std::str::from_utf8(digits).ok());
        let number = number.filter(|_| *taken_bytes <= stored_bytes).and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| unusable("the map of a sparse file is malformed"))
    }

    fn skip(&mut self, bytes: u64) -> Result<()> {
        let passed = io::copy(&mut (&mut self.from).take(bytes), &mut io::sink()).map_err(cut_off)?;
        if passed == bytes { Ok(()) } else { Err(cut_off(io::ErrorKind::UnexpectedEof.into())) }
    }
}

/// The records of an extended header.
struct Extended(Vec<pax::Record>);

impl Extended {
    /// The last value counts.
    fn get(&self, key: &str) -> Option<&[u8]> {
        self.0.iter().rev().find(|(k, _)| k == key.as_bytes()).map(|(_, value)| value.as_slice())
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        self.get(key)
            .map(|value| std::str::from_utf8(value).map_err(|_| unusable("an extended header is not UTF-8")))
            .transpose()
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        let text = self.text(key)?;
        text.map(|text| text.parse().map_err(|_| unusable("a number in an extended header is malformed")))
            .transpose()
    }

    fn xattrs(&self) -> Xattrs {
        let xattr = |(key, value): &pax::Record| {
            let name = key.strip_prefix(pax::XATTR_PREFIX.as_bytes())?;
            Some((OsString::from_vec(name.to_vec()), value.clone()))
        };
        self.0.iter().filter_map(xattr).collect()
    }
}

/// Preallocated ranges, each within one of the runs.
fn ranges(text: &str, runs: &[ByteRange]) -> Result<Vec<ByteRange>> {
    let mut ranges: Vec<ByteRange> = Vec::new();
    for part in text.split(',') {
        let range = part.split_once('+').and_then(|(start, length)| {
            let (start, length): (u64, u64) = (start.parse().ok()?, length.parse().ok()?);
            Some(ByteRange::new(start, start.checked_add(length)?))
        });
        let within = range.filter(|range| {
            let run = runs.get(runs.partition_point(|run| run.end_bytes <= range.start_bytes));
            !range.is_empty()
                && ranges.last().is_none_or(|last| last.end_bytes <= range.start_bytes)
                && run.is_some_and(|run| {
                    range.start_bytes >= run.start_bytes && range.end_bytes <= run.end_bytes
                })
        });
        ranges.push(
            within.ok_or_else(|| unusable("the preallocated ranges of a file are not within its data"))?,
        );
    }
    Ok(ranges)
}

fn check_size(size_bytes: u64) -> Result<()> {
    if size_bytes <= MAX_VOLUME_BYTES { Ok(()) } else { Err(unusable("a file in it is absurdly large")) }
}

/// The archive is damaged, or none of ours.
pub(super) fn unusable(why: &str) -> Error {
    Error::source(format!("the archive cannot be used: {why}"))
        .with_hint("it is damaged, or was not made by lhrecover preserve --archive")
}

/// The archive could not be read on.
pub(super) fn cut_off(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::source("the archive ends too early")
            .with_hint("it was cut off on its way: copy it once more"),
        _ => Error::source("cannot read the archive").caused_by(e),
    }
}
