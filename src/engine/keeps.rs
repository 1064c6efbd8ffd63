//! Whether a file system keeps holes, written zeros and preallocated room apart: tried out, as none says so beforehand.
//!
//! NFS before 4.2, SMB and FAT have no holes at all; ZFS makes holes of zeros; a large block or an extent-size hint claims
//! sectors that nobody wrote. A copy on any of them would read differently from the source. So a file with one of
//! everything is written where the copy is to be, and must read back as it was written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::format::copy::PROBE_NAME;
use crate::model::extent::ExtentKind::{Data, Unwritten};
use crate::model::extent::{Extent, ExtentKind, SectorExtents};
use crate::model::units::{ByteRange, SECTOR_BYTES};
use crate::sys::sparse::{self, Fiemap};
use crate::view::LayerImage;
use crate::view::layer_file::LayerFile;

/// What a file system keeps besides holes and written zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeps {
    /// Whether preallocated room stays apart from both, and shows.
    pub unwritten: bool,
}

/// The length of the probe: more than any compressor looks at together.
const PROBE_BYTES: u64 = 2 << 20;

/// What is written, in sectors: single ones between holes, zeros beside data, and a long run of zeros.
const WRITTEN: [(u64, u64, u8); 5] = [(1, 1, b'x'), (2, 1, 0), (4, 1, 0), (9, 1, b'x'), (256, 128, 0)];

/// What is preallocated, in sectors.
const PREALLOCATED: (u64, u64) = (12, 4);

/// Finds out what files in the directory `dir` keep. The probe is gone afterwards.
///
/// # Errors
/// `Refused` when holes and written zeros are not kept apart; `Output` when the probe cannot be written.
pub fn probe(dir: &Path) -> Result<Keeps> {
    let path = dir.join(PROBE_NAME);
    let tried = try_out(&path).map_err(|e| {
        Error::output("cannot try out the target")
            .with_path(&path)
            .caused_by(e)
            .with_hint("it must be writable, and have some room")
    });
    match tried? {
        Ok(keeps) => Ok(keeps),
        Err(what) => Err(not_kept(dir, what)),
    }
}

/// The file system of `path` does not keep what makes a replica.
pub fn not_kept(path: &Path, what: &str) -> Error {
    Error::refused(format!("this file system does not keep holes and written zeros apart: {what}"))
        .with_path(path)
        .with_hint(
            "a copy there would read differently from the source: copy to ext4, XFS or uncompressed btrfs, or into one \
             file that any file system can hold: lhrecover preserve REPLICA_DIR --archive FILE",
        )
}

/// Makes a file that nobody else finds, and looks at it.
fn try_out(path: &Path) -> io::Result<std::result::Result<Keeps, &'static str>> {
    let create = || OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    let file = match create() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            // A leftover of a run that was killed.
            fs::remove_file(path)?;
            create()?
        }
        other => other?,
    };
    let result = write_and_look(file);
    fs::remove_file(path)?;
    result
}

fn write_and_look(file: File) -> io::Result<std::result::Result<Keeps, &'static str>> {
    file.set_len(PROBE_BYTES)?;
    for (first, sectors, byte) in WRITTEN {
        let bytes = vec![byte; usize::try_from(sectors * SECTOR_BYTES).unwrap_or_default()];
        file.write_all_at(&bytes, first * SECTOR_BYTES)?;
    }
    // Before the room is preallocated: some compress only files that have none.
    file.sync_all()?;
    if Fiemap::probe(&file)?.is_some_and(|mut walk| walk_is_encoded(&mut walk)) {
        return Ok(Err("it compresses what is written"));
    }
    let room =
        ByteRange::new(PREALLOCATED.0 * SECTOR_BYTES, (PREALLOCATED.0 + PREALLOCATED.1) * SECTOR_BYTES);
    let preallocated = match sparse::preallocate(&file, room) {
        Ok(()) => true,
        Err(e)
            if [Errno::EOPNOTSUPP as i32, Errno::ENOSYS as i32]
                .contains(&e.raw_os_error().unwrap_or_default()) =>
        {
            false
        }
        Err(e) => return Err(e),
    };
    file.sync_all()?;
    Ok(judge(file, preallocated))
}

fn walk_is_encoded(walk: &mut Fiemap<'_>) -> bool {
    let (mut told, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        from = walk.next_extents(at, &mut told).ok().flatten();
    }
    walk.is_encoded()
}

fn judge(file: File, preallocated: bool) -> std::result::Result<Keeps, &'static str> {
    let told = LayerFile::new(PROBE_NAME.into(), file).and_then(|layer| extents(&layer));
    let Ok(told) = told else { return Err("it does not tell what is a hole") };
    let written = joined(&WRITTEN.map(|(first, sectors, _)| (first, sectors, Data)));
    let mut with_room = WRITTEN.map(|(first, sectors, _)| (first, sectors, Data)).to_vec();
    with_room.push((PREALLOCATED.0, PREALLOCATED.1, Unwritten));
    with_room.sort_unstable();
    if told == joined(&with_room) {
        return Ok(Keeps { unwritten: true });
    }
    // Without FIEMAP, preallocated room looks like a hole; where there is none, it is one.
    if told == written {
        return Ok(Keeps { unwritten: false });
    }
    let held: u64 = told.iter().map(|e| e.range.len_bytes()).sum();
    let expected: u64 = written.iter().map(|e| e.range.len_bytes()).sum();
    if held < expected {
        Err("written zeros become holes")
    } else if preallocated
        && told.iter().all(|e| e.kind == Data)
        && held == expected + PREALLOCATED.1 * SECTOR_BYTES
    {
        // What was asked for was written out as zeros.
        Ok(Keeps { unwritten: false })
    } else {
        Err("holes become data")
    }
}

fn extents(layer: &LayerFile) -> Result<Vec<Extent>> {
    let mut extents = SectorExtents::new(layer.extents()?, ByteRange::new(0, PROBE_BYTES));
    let mut all = Vec::new();
    while let Some(extent) = extents.next_extent()? {
        all.push(extent);
    }
    Ok(all)
}

/// The extents that these runs of sectors make, joined where they touch.
fn joined(runs: &[(u64, u64, ExtentKind)]) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    for &(first, sectors, kind) in runs {
        let range = ByteRange::new(first * SECTOR_BYTES, (first + sectors) * SECTOR_BYTES);
        match all.last_mut() {
            Some(last) if last.range.end_bytes == range.start_bytes && last.kind == kind => {
                last.range.end_bytes = range.end_bytes;
            }
            _ => all.push(Extent { range, kind }),
        }
    }
    all
}
