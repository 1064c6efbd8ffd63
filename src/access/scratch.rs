//! A throw-away copy on top of a disk: what is written goes to a temporary file, and away with it.
//!
//! It lets a file system replay its journal, or a checker run, on a replica that stays as it is. The file has no
//! name, so nothing is left behind however the process ends; it holds whole sectors in the order in which they were
//! first written, so it takes no more room than what differs, on any file system. Its size has a limit.

use std::collections::HashMap;
use std::env;
use std::fs::File;
use std::io;
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
    /// For each sector that was written, its place in the file, in sectors.
    places: RwLock<HashMap<u64, u64>>,
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
        self.places().len() as u64 * SECTOR_BYTES
    }

    fn places(&self) -> RwLockReadGuard<'_, HashMap<u64, u64>> {
        self.places.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn places_mut(&self) -> RwLockWriteGuard<'_, HashMap<u64, u64>> {
        self.places.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes within one sector. What the sector held before is kept where `bytes` do not reach.
    fn write_sector(&self, places: &mut HashMap<u64, u64>, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let sector = offset_bytes / SECTOR_BYTES;
        if let Some(&place) = places.get(&sector) {
            return self.keep(bytes, place * SECTOR_BYTES + offset_bytes % SECTOR_BYTES);
        }
        let place = places.len() as u64;
        if place >= self.max_sectors {
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
        self.keep(&whole, place * SECTOR_BYTES)?;
        places.insert(sector, place);
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
            let place = places.get(&(part.start_bytes / SECTOR_BYTES));
            let mut end_bytes = part.end_bytes;
            // What was never written, which is most of it, is read from below in one piece.
            let is_written = |part: &ByteRange| places.contains_key(&(part.start_bytes / SECTOR_BYTES));
            while let Some(next) = parts.next_if(|next| place.is_none() && !is_written(next)) {
                end_bytes = next.end_bytes;
            }
            let len = usize::try_from(end_bytes - part.start_bytes).unwrap_or_default();
            let (bytes, after) = std::mem::take(&mut rest).split_at_mut(len);
            match place {
                None => self.below.read_exact_at(bytes, part.start_bytes)?,
                Some(place) => self
                    .file
                    .read_exact_at(bytes, place * SECTOR_BYTES + part.start_bytes % SECTOR_BYTES)
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
            if stretch.content == Content::Data || places.is_empty() {
                out.push(stretch);
                continue;
            }
            let Some(last) = stretch.range.end_bytes.checked_sub(1) else { continue };
            let sectors = stretch.range.start_bytes / SECTOR_BYTES..=last / SECTOR_BYTES;
            // Whichever is less to look through.
            let mut written: Vec<u64> = if sectors.end() - sectors.start() > places.len() as u64 {
                places.keys().copied().filter(|sector| sectors.contains(sector)).collect()
            } else {
                sectors.filter(|sector| places.contains_key(sector)).collect()
            };
            written.sort_unstable();
            let mut at = stretch.range.start_bytes;
            let mut push = |start: u64, end: u64, content| {
                if start < end {
                    out.push(Stretch { range: ByteRange::new(start, end), content });
                }
            };
            for sector in written {
                let start = (sector * SECTOR_BYTES).max(at);
                let end = ((sector + 1) * SECTOR_BYTES).min(stretch.range.end_bytes);
                push(at, start, stretch.content);
                push(start, end, Content::Data);
                at = end;
            }
            push(at, stretch.range.end_bytes, stretch.content);
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
