//! A throw-away copy on top of a disk: what is written goes to a temporary file, and away with it.
//!
//! It lets a file system replay its journal, or a checker run, on a replica that stays as it is. The file has no
//! name, so nothing is left behind however the process ends; it holds whole sectors, and takes no more room than what
//! differs. That has a limit. What is kept in memory of it is a bit for each sector of the chunks that were written to: at
//! most about 45 MiB for each TiB of the volume, whatever the limit.

use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::{Error, Result};
use crate::model::units::{ByteRange, SECTOR_BYTES, sector_floor};
use crate::view::disk::{Content, Disk, Stretch, check_range};

/// How much may differ from the replica unless told otherwise, in bytes.
const DEFAULT_MAX_BYTES: u64 = 4 << 30;

/// Where the temporary file goes unless told otherwise: on a disk, while `/tmp` may be in memory.
const DEFAULT_DIR: &str = "/var/tmp";

const SECTOR_LEN: usize = 4096;

/// How many words of bits a chunk has.
const CHUNK_WORDS: usize = 16;

/// How many sectors a chunk has: 4 MiB. Its place in the file is as long, and a hole where nothing was written.
const CHUNK_SECTORS: u64 = CHUNK_WORDS as u64 * 64;

/// How many stretches are told at a time: each written sector may be one.
const MAX_STRETCHES: usize = 4096;

const CANNOT_READ: &str = "cannot read the temporary file that holds what differs from the replica";

/// Where a throw-away copy goes, and how much it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScratchSpace {
    /// The directory for the temporary file, or a file in that directory.
    pub dir: PathBuf,
    /// How large it may grow, in bytes.
    pub max_bytes: u64,
}

impl Default for ScratchSpace {
    /// In `$TMPDIR`, if it is set.
    fn default() -> Self {
        let dir = env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        let dir = dir.map_or_else(|| PathBuf::from(DEFAULT_DIR), PathBuf::from);
        ScratchSpace { dir, max_bytes: DEFAULT_MAX_BYTES }
    }
}

impl ScratchSpace {
    /// The directory, by its real path.
    ///
    /// # Errors
    /// `Usage` when it is not there.
    pub fn real_dir(&self) -> Result<PathBuf> {
        let parent = || self.dir.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = if self.dir.is_dir() { &self.dir } else { parent() };
        dir.canonicalize().map_err(|e| {
            Error::usage("cannot find the directory for the throw-away copy")
                .with_path(dir)
                .caused_by(e)
                .with_hint("name one with --overlay")
        })
    }
}

/// A disk and what was written on top of it.
pub struct Scratch {
    below: Arc<dyn Disk>,
    file: File,
    max_sectors: u64,
    places: RwLock<Places>,
}

/// Which sectors were written, and where they are in the file.
#[derive(Default)]
struct Places {
    chunks: HashMap<u64, Box<Chunk>>,
    /// How many sectors were written.
    sectors: u64,
}

struct Chunk {
    /// Where the chunk begins in the file, in chunks: they are there in the order in which they were first written to.
    slot: u64,
    /// A bit for each sector that was written.
    written: [u64; CHUNK_WORDS],
}

impl Chunk {
    fn place(&self, sector: u64) -> u64 {
        (self.slot * CHUNK_SECTORS + sector % CHUNK_SECTORS) * SECTOR_BYTES
    }

    fn has(&self, sector: u64) -> bool {
        let (word, bit) = bit(sector);
        self.written[word] & bit != 0
    }
}

/// The bit of a sector in its chunk: which word, and which bit in that.
fn bit(sector: u64) -> (usize, u64) {
    let word = usize::try_from(sector % CHUNK_SECTORS / 64).unwrap_or_default();
    (word, 1 << (sector % 64))
}

impl Places {
    fn is_written(&self, sector: u64) -> bool {
        self.chunks.get(&(sector / CHUNK_SECTORS)).is_some_and(|chunk| chunk.has(sector))
    }

    /// Where a sector that was written is in the file, in bytes.
    fn find(&self, sector: u64) -> Option<u64> {
        let chunk = self.chunks.get(&(sector / CHUNK_SECTORS)).filter(|chunk| chunk.has(sector))?;
        Some(chunk.place(sector))
    }

    /// Where a sector that is about to be written goes in the file, in bytes.
    fn place(&mut self, sector: u64) -> u64 {
        let slot = self.chunks.len() as u64;
        let new = || Box::new(Chunk { slot, written: [0; CHUNK_WORDS] });
        self.chunks.entry(sector / CHUNK_SECTORS).or_insert_with(new).place(sector)
    }

    fn mark(&mut self, sector: u64) {
        if let Some(chunk) = self.chunks.get_mut(&(sector / CHUNK_SECTORS)) {
            let (word, bit) = bit(sector);
            self.sectors += u64::from(chunk.written[word] & bit == 0);
            chunk.written[word] |= bit;
        }
    }

    /// The sectors among `sectors` that were written, in ascending order.
    fn written(&self, sectors: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        let chunks = sectors.start / CHUNK_SECTORS..sectors.end.div_ceil(CHUNK_SECTORS);
        // Whichever is less to look through.
        let mut touched: Vec<u64> = if chunks.end - chunks.start > self.chunks.len() as u64 {
            self.chunks.keys().copied().filter(|chunk| chunks.contains(chunk)).collect()
        } else {
            chunks.filter(|chunk| self.chunks.contains_key(chunk)).collect()
        };
        touched.sort_unstable();
        touched
            .into_iter()
            .flat_map(|chunk| chunk * CHUNK_SECTORS..(chunk + 1) * CHUNK_SECTORS)
            .filter(move |sector| sectors.contains(sector) && self.is_written(*sector))
    }

    /// Cuts `stretch`, which reads as zeros below, where something was written; `out` gets the pieces in order. Whether
    /// that was all of it: there is a limit to how many there may be.
    fn cut(&self, stretch: Stretch, out: &mut Vec<Stretch>) -> bool {
        let Stretch { range, content } = stretch;
        let sectors = range.start_bytes / SECTOR_BYTES..range.end_bytes.div_ceil(SECTOR_BYTES);
        let mut at = range.start_bytes;
        for sector in self.written(sectors) {
            let start = (sector * SECTOR_BYTES).max(range.start_bytes);
            let end = ((sector + 1) * SECTOR_BYTES).min(range.end_bytes);
            if start > at && out.len() >= MAX_STRETCHES {
                return false;
            }
            push(out, Stretch { range: ByteRange::new(at, start), content });
            push(out, Stretch { range: ByteRange::new(start, end), content: Content::Data });
            at = end;
        }
        push(out, Stretch { range: ByteRange::new(at, range.end_bytes), content });
        true
    }
}

/// Adds `next`, which follows the last one, and is one with it where both are of one kind.
fn push(out: &mut Vec<Stretch>, next: Stretch) {
    match out.last_mut() {
        _ if next.range.is_empty() => {}
        Some(last) if last.content == next.content && last.range.end_bytes == next.range.start_bytes => {
            last.range.end_bytes = next.range.end_bytes;
        }
        _ => out.push(next),
    }
}

impl Scratch {
    /// On top of `below`, with an unnamed file in the directory `dir`, that grows to `max_bytes` at most.
    ///
    /// # Errors
    /// `Output` when no file can be made there.
    pub fn new(below: Arc<dyn Disk>, dir: &Path, max_bytes: u64) -> Result<Self> {
        let file = tempfile::tempfile_in(dir).map_err(|e| {
            Error::output("cannot make a temporary file for what is written on top of the replica")
                .with_path(dir)
                .caused_by(e)
                .with_hint("name a directory that can be written to with --overlay")
        })?;
        Ok(Scratch { below, file, max_sectors: max_bytes / SECTOR_BYTES, places: RwLock::default() })
    }

    /// How many bytes differ from what is below, in whole sectors.
    pub fn used_bytes(&self) -> u64 {
        self.places().sectors * SECTOR_BYTES
    }

    fn places(&self) -> RwLockReadGuard<'_, Places> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn places_mut(&self) -> RwLockWriteGuard<'_, Places> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes within one sector. What the sector held before is kept where `bytes` do not reach.
    fn write_sector(&self, places: &mut Places, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let sector = offset_bytes / SECTOR_BYTES;
        if let Some(place) = places.find(sector) {
            return self.keep(bytes, place + offset_bytes % SECTOR_BYTES);
        }
        if places.sectors >= self.max_sectors {
            return Err(Error::output(format!(
                "what was written on top of the replica has reached its limit of {} bytes",
                self.max_sectors * SECTOR_BYTES
            ))
            .at_offset(offset_bytes)
            .caused_by(io::ErrorKind::StorageFull.into())
            .with_hint("give it more room with --overlay-max"));
        }
        let mut whole = [0; SECTOR_LEN];
        let start = sector * SECTOR_BYTES;
        let present = usize::try_from(self.size_bytes() - start).map_or(SECTOR_LEN, |n| n.min(SECTOR_LEN));
        if bytes.len() < present {
            self.below.read_exact_at(&mut whole[..present], start)?;
        }
        let within = usize::try_from(offset_bytes - start).unwrap_or_default();
        whole[within..within + bytes.len()].copy_from_slice(bytes);
        self.keep(&whole, places.place(sector))?;
        places.mark(sector);
        Ok(())
    }

    fn keep(&self, bytes: &[u8], at: u64) -> Result<()> {
        self.file.write_all_at(bytes, at).map_err(|e| {
            Error::output("cannot write to the temporary file that holds what differs from the replica")
                .caused_by(e)
                .with_hint("its disk is full, or fails: name a directory on another one with --overlay")
        })
    }
}

/// The parts of `range`, none of which crosses the end of a sector.
fn in_sectors(range: ByteRange) -> impl Iterator<Item = ByteRange> {
    (sector_floor(range.start_bytes)..range.end_bytes).step_by(SECTOR_LEN).map(move |start| {
        ByteRange::new(start.max(range.start_bytes), (start + SECTOR_BYTES).min(range.end_bytes))
    })
}

impl Disk for Scratch {
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let range = check_range(self.size_bytes(), offset_bytes, buf.len())?;
        let places = self.places();
        let mut rest = buf;
        let mut parts = in_sectors(range).peekable();
        while let Some(part) = parts.next() {
            let place = places.find(part.start_bytes / SECTOR_BYTES);
            let mut end_bytes = part.end_bytes;
            // What was never written, which is most of it, is read from below in one piece.
            let is_written = |part: &ByteRange| places.is_written(part.start_bytes / SECTOR_BYTES);
            while let Some(next) = parts.next_if(|next| place.is_none() && !is_written(next)) {
                end_bytes = next.end_bytes;
            }
            let len = usize::try_from(end_bytes - part.start_bytes).unwrap_or_default();
            let (bytes, after) = std::mem::take(&mut rest).split_at_mut(len);
            match place {
                None => self.below.read_exact_at(bytes, part.start_bytes)?,
                Some(place) => self
                    .file
                    .read_exact_at(bytes, place + part.start_bytes % SECTOR_BYTES)
                    .map_err(|e| Error::output(CANNOT_READ).at_offset(part.start_bytes).caused_by(e))?,
            }
            rest = after;
        }
        Ok(())
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        let places = self.places();
        let mut out: Vec<Stretch> = Vec::new();
        for stretch in self.below.stretches(range)? {
            if stretch.content == Content::Data {
                out.push(stretch);
            } else if !places.cut(stretch, &mut out) {
                break;
            }
        }
        Ok(out)
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn put(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let range = check_range(self.size_bytes(), offset_bytes, bytes.len())?;
        let mut places = self.places_mut();
        in_sectors(range).try_for_each(|part| {
            let at = |offset: u64| usize::try_from(offset - offset_bytes).unwrap_or_default();
            self.write_sector(&mut places, &bytes[at(part.start_bytes)..at(part.end_bytes)], part.start_bytes)
        })
    }

    fn zero(&self, range: ByteRange) -> Result<()> {
        let range = range.clip(ByteRange::new(0, self.size_bytes()));
        let mut at = range.start_bytes;
        while at < range.end_bytes {
            // A checker zeroes whole tables that are empty already: what reads as zeros needs no room.
            let stretches = self.stretches(ByteRange::new(at, range.end_bytes))?;
            let Some(end) = stretches.last().map(|last| last.range.end_bytes).filter(|&end| end > at) else {
                break;
            };
            for stretch in stretches.iter().filter(|stretch| stretch.content == Content::Data) {
                for part in in_sectors(stretch.range) {
                    let zeros = [0; SECTOR_LEN];
                    let len = usize::try_from(part.len_bytes()).unwrap_or_default();
                    self.put(&zeros[..len], part.start_bytes)?;
                }
            }
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::disk::Content::{Data, Hole};

    /// A disk of nothing.
    struct Nothing(u64);

    impl Disk for Nothing {
        fn size_bytes(&self) -> u64 {
            self.0
        }

        fn read_exact_at(&self, buf: &mut [u8], _offset_bytes: u64) -> Result<()> {
            buf.fill(0);
            Ok(())
        }

        fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
            Ok(vec![Stretch { range, content: Hole }])
        }
    }

    fn scratch(size_bytes: u64) -> Scratch {
        Scratch::new(Arc::new(Nothing(size_bytes)), &env::temp_dir(), 1 << 40).unwrap()
    }

    #[test]
    fn what_crosses_the_edge_of_a_chunk_is_in_one_piece() {
        let chunk = CHUNK_SECTORS * SECTOR_BYTES;
        let scratch = scratch(1 << 40);
        // The later chunk first, so that they are the other way round in the file.
        for (at, value) in [(700 * chunk, 7), (2 * chunk - 100, 3), (chunk - 5000, 1)] {
            scratch.put(&[value; 10_000], at).unwrap();
            let mut read = [9; 10_200];
            scratch.read_exact_at(&mut read, at - 100).unwrap();
            assert!(read[..100].iter().chain(&read[10_100..]).all(|&b| b == 0));
            assert_eq!(read[100..10_100], [value; 10_000]);
        }
        let told = scratch.stretches(ByteRange::new(0, 1 << 40)).unwrap();
        let written: Vec<_> = told.iter().filter(|s| s.content == Data).map(|s| s.range).collect();
        let sectors =
            |first: u64, count: u64| ByteRange::new(first * SECTOR_BYTES, (first + count) * SECTOR_BYTES);
        let expected = [
            sectors(CHUNK_SECTORS - 2, 4),
            sectors(2 * CHUNK_SECTORS - 1, 4),
            sectors(700 * CHUNK_SECTORS, 3),
        ];
        assert_eq!(written, expected);
        assert_eq!(scratch.used_bytes(), 11 * SECTOR_BYTES);
        assert_eq!(scratch.places().chunks.len(), 4);
    }

    #[test]
    fn stretches_are_told_in_turns_that_leave_out_nothing() {
        let scratch = scratch(1 << 30);
        let written = 3 * MAX_STRETCHES as u64;
        for sector in 0..written {
            scratch.put(&[1], (2 * sector + 1) * SECTOR_BYTES).unwrap();
        }
        let (mut at, mut data) = (0, 0);
        while at < 1 << 30 {
            let told = scratch.stretches(ByteRange::new(at, 1 << 30)).unwrap();
            assert!(told.len() <= MAX_STRETCHES + 2 && !told.is_empty());
            for stretch in told {
                assert_eq!(stretch.range.start_bytes, at);
                at = stretch.range.end_bytes;
                data += u64::from(stretch.content == Data);
            }
        }
        assert_eq!(data, written);
    }
}
