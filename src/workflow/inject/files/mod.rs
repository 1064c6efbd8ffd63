//! The volume's files into a file system on a device: the way that ends in a file system of today's make, or keeps what
//! the device has.
//!
//! The source is mounted through `mount`, at a place of its own; the device next to it. Both go away with this process,
//! however it ends: what is left of a crash is known, and `umount --stale` takes it down. rsync copies, the device is
//! unmounted, checked by its file system's own tool, and both sides are compared.
//!
//! ```text
//!     replica ── view, read-only ──┐
//!                                  ├─ rsync ── device: unmounted ── checked ── mounted for reading ── compared
//!     device ── [mkfs] ── mounted ─┘
//! ```

pub mod check;
pub mod compare;
mod mkfs;
mod place;
pub mod rsync;
mod steps;
mod survey;
pub mod target;
pub mod tree;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use check::Checked;
use compare::Comparison;
use place::Place;
use rsync::Copied;
use steps::Steps;
use tree::Tally;

use crate::access::inside::{self, Inside};
use crate::access::scratch::ScratchSpace;
use crate::access::volume::{Volume, VolumeOptions};
use crate::error::{Error, Result};
use crate::event::Run;
use crate::guest::geometry::{self, Geometry};
use crate::guest::{Guest, GuestKind, facts};
use crate::model::finding::Finding;
use crate::sink::guard::DeviceLeave;
use crate::sys::device::Identity;
use crate::workflow::inject::identity::{self, Met};
use crate::workflow::mount::file_system::{FileSystem, Journal};
use crate::workflow::tool::Tools;

/// What becomes of files that are on the device already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Those that the source does not have are deleted: the device becomes the source.
    Delete,
    /// They stay, beside the restored ones.
    Mix,
}

/// How files are injected.
#[derive(Clone, Debug)]
pub struct FilesOptions {
    /// Which state of the volume.
    pub volume: VolumeOptions,
    /// Which partition of it.
    pub partition: Option<u32>,
    /// What leave there is to write to the device.
    pub leave: DeviceLeave,
    /// Put files on a device that carries a LUKS container, which is lost.
    pub allow_luks_mismatch: bool,
    /// What becomes of the source's journal.
    pub journal: Journal,
    /// The throw-away copy that it is played back on.
    pub overlay: ScratchSpace,
    /// A file system that is made gets the source's UUID.
    pub keep_uuid: bool,
    /// What becomes of files on the device.
    pub existing: Option<Existing>,
    /// Compare the content of both sides.
    pub verify: bool,
    /// Make a file system that is there take all of the device.
    pub grow: bool,
    /// Write nothing, and say what would be done.
    pub dry_run: bool,
    /// How many threads compare; as many as suit the machine when `None`.
    pub workers: Option<usize>,
    /// Where tools are.
    pub tools: Tools,
}

/// What was done, or would be.
#[derive(Debug)]
pub struct InjectedFiles {
    /// The target, as it was named.
    pub target: PathBuf,
    /// What the device is called.
    pub identity: Identity,
    /// What it carried before, in words.
    pub before: String,
    /// What was on it, by what that says of itself.
    pub inside_before: Option<identity::Inside>,
    /// What it begins with now.
    pub after: Option<Guest>,
    /// What is on it now; `None` when nothing was written.
    pub inside_after: Option<identity::Inside>,
    /// The file name of the source's top layer; `None` for an image.
    pub top_layer: Option<String>,
    /// The volume's length in bytes.
    pub volume_bytes: u64,
    /// The partition that was taken.
    pub partition: Option<u32>,
    /// The source's file system, by the kernel's name, and what it was mounted with.
    pub source_file_system: (&'static str, String),
    /// The device's.
    pub target_file_system: &'static str,
    /// What made that; `None` when it was there.
    pub mkfs: Option<String>,
    /// What became of files that were there already; `None` when there were none.
    pub existing: Option<Existing>,
    /// Bytes of the device beyond the file system that was there; it could grow by them.
    pub surplus_bytes: u64,
    /// Bytes that it grew by, or would.
    pub growth_bytes: u64,
    /// What rsync did.
    pub copied: Copied,
    /// What the source has.
    pub source_tally: Tally,
    /// What the device has; `None` when nothing was written.
    pub target_tally: Option<Tally>,
    /// What the file system's checker said; `None` when nothing was written.
    pub checked: Option<Checked>,
    /// What comparing found, if it was asked for.
    pub comparison: Option<Comparison>,
    /// What of the source could not be read, each place once.
    pub trouble: Vec<String>,
    /// What else is to be said.
    pub notes: Vec<String>,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// How long the real run would take; `None` unless dry.
    pub estimate: Option<Duration>,
    /// Damage and doubt.
    pub findings: Vec<Finding>,
    /// How long it took.
    pub duration: Duration,
}

impl InjectedFiles {
    /// Whether both sides have as many files, of as many bytes; `None` when they need not, or that is not known.
    pub fn counts_equal(&self) -> Option<bool> {
        let target = self.target_tally.filter(|_| self.existing != Some(Existing::Mix))?;
        Some(target == self.source_tally)
    }

    /// Whether anything was left undone or found wrong.
    pub fn is_complete(&self) -> bool {
        let is_sound = self.checked.as_ref().is_none_or(|checked| checked.is_sound == Some(true));
        let is_same = self.comparison.as_ref().is_none_or(|comparison| comparison.differences.is_empty());
        let is_read = self.trouble.is_empty() && self.source_tally.unreadable == 0;
        is_sound && is_same && is_read && !self.copied.is_partial && self.counts_equal() != Some(false)
    }
}

/// Said when what was to be deleted was not.
const NOT_DELETED: &str = "not everything could be copied, so nothing was deleted from the device: a journal or WAL that is older or \
                           newer than a restored database beside it corrupts the database";
/// Said when some of it was.
const NOT_ALL_DELETED: &str = "not everything could be copied and deleted: the device has files that the source does not have, and a \
                               journal or WAL that is older or newer than a restored database beside it corrupts the database";
/// Said of what rsync does not carry over.
const NOT_KEPT: &str =
    "file flags (chattr), project numbers and times of creation are not kept; --mode blocks keeps everything";

/// Puts the files of `volume` on the device `target`.
///
/// # Errors
/// By kind: the source cannot be mounted (`Source`), a guard refuses (`Refused`), the device fails (`Output`), a tool is
/// missing (`Usage`) or fails (`External`), a signal came (`Interrupted`). Nothing is left mounted. Files that could not be
/// copied are no error: they are named. Once anything may have been written, `met` has what the device was before.
pub fn inject(
    volume: &Volume,
    target: &Path,
    options: &FilesOptions,
    met: &mut Option<Met>,
    run: &Run<'_>,
) -> Result<InjectedFiles> {
    let started = Instant::now();
    options.tools.must_have(rsync::RSYNC)?;
    let from = Origin::of(volume, options)?;
    let place = Place::look(target, volume, &from, options)?;
    let steps = Steps { source: &volume.path, from: &from, place: &place, options, run };
    let done = steps.carry_out(volume, met)?;
    volume.recheck()?;
    Ok(InjectedFiles { duration: started.elapsed(), ..done })
}

/// The file system that files come from.
pub(crate) struct Origin {
    pub inside: Inside,
    pub file_system: FileSystem,
    pub geometry: Geometry,
    /// Whether its journal holds what is not in the files yet.
    pub journal: facts::Journal,
}

impl Origin {
    fn of(volume: &Volume, options: &FilesOptions) -> Result<Self> {
        let inside = inside::look(volume.whole(), options.partition)?;
        let geometry = geometry::read(&*inside.disk)?;
        match (geometry, FileSystem::of(inside.guest)) {
            (Some(geometry), Some(file_system)) => {
                // Where the log cannot be read, its files still may.
                let journal =
                    facts::read(&*inside.disk).map_or(facts::Journal::Unknown, |facts| facts.journal);
                Ok(Origin { inside, file_system, geometry, journal })
            }
            _ => Err(not_for_files(inside.guest)),
        }
    }
}

fn not_for_files(guest: Option<Guest>) -> Error {
    let name = guest.map_or("nothing that is known", |guest| guest.name);
    let hint = match guest.map(|guest| guest.kind) {
        Some(GuestKind::Luks) => {
            "--mode blocks puts the container back as it is; for the files in it, open it (lhrecover mount --image-only, losetup, \
             cryptsetup open) and inject from /dev/mapper/NAME"
        }
        _ => {
            "--mode blocks takes any volume; for single files: lhrecover mount, extract; is it the right state (--at), the right \
             partition (--partition)?"
        }
    };
    Error::source(format!("the volume holds {name}: files are copied from ext2, ext3, ext4 and XFS"))
        .with_hint(hint)
}
