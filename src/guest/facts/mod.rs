//! What an image says of itself: label, UUID, times, counts, and whether a journal waits to be replayed.
//!
//! It is read from the superblocks alone, with a few small reads, so it costs nothing and needs no tool. What it says is
//! what somebody once wrote there: a checker must say whether it is true.

mod btrfs;
mod ext;
mod luks;
mod lvm;
mod swap;
mod xfs;
mod xfs_log;

pub use ext::written_at as ext_written_at;

use crate::error::Result;
use crate::guest::{HEAD_BYTES, recognise};
use crate::model::units::ByteRange;
use crate::view::disk::{Content, Disk};

/// What is in an image, as far as it matters for what can be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// A LUKS container.
    Luks,
    /// Swap space.
    Swap,
    /// A physical volume of LVM.
    Lvm,
    /// Something else that is known by its magic.
    Other,
    /// Nothing was ever written.
    Empty,
    /// Nothing that is known.
    Unknown,
}

/// Whether what was written last is in a journal only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journal {
    /// There is none.
    None,
    /// All of it has reached its place.
    Clean,
    /// It must be replayed before all is there.
    Dirty,
    /// Whether it must could not be told.
    Unknown,
}

/// What an image says of itself. Times are in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// What it is, in words, with its article: `an ext4 file system`.
    pub name: String,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// How large it says it is, in bytes.
    pub size_bytes: Option<u64>,
    /// How much of that is free, in bytes.
    pub free_bytes: Option<u64>,
    /// How many inodes there are.
    pub inodes: Option<u64>,
    /// How many of them are free.
    pub inodes_free: Option<u64>,
    /// When it was made.
    pub created_at: Option<i64>,
    /// When it was last mounted.
    pub mounted_at: Option<i64>,
    /// Where it was last mounted.
    pub mounted_on: Option<String>,
    /// When its superblock was last written.
    pub written_at: Option<i64>,
    /// When it was last checked.
    pub checked_at: Option<i64>,
    /// How often it was mounted since then.
    pub mounts: Option<u32>,
    /// Its journal.
    pub journal: Journal,
    /// Errors that the kernel met and noted down.
    pub recorded_errors: Option<String>,
    /// What is wrong, by what it says itself.
    pub damage: Vec<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl Facts {
    fn of(kind: Kind, name: impl Into<String>) -> Self {
        Facts {
            kind,
            name: name.into(),
            label: None,
            uuid: None,
            size_bytes: None,
            free_bytes: None,
            inodes: None,
            inodes_free: None,
            created_at: None,
            mounted_at: None,
            mounted_on: None,
            written_at: None,
            checked_at: None,
            mounts: None,
            journal: Journal::None,
            recorded_errors: None,
            damage: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Notes that it is larger than the disk it is on.
    fn compare_with(mut self, disk_bytes: u64) -> Self {
        if let Some(size_bytes) = self.size_bytes.filter(|&size_bytes| size_bytes > disk_bytes) {
            self.damage
                .push(format!("it takes {size_bytes} bytes, and there are {disk_bytes}: its end is cut off"));
        }
        self
    }
}

/// What is on `disk`.
///
/// # Errors
/// When its beginning cannot be read.
pub fn read(disk: &dyn Disk) -> Result<Facts> {
    let head = bytes_at(disk, 0, HEAD_BYTES)?;
    let facts = luks::facts(&head, disk)?
        .or_else(|| xfs::facts(&head))
        .or_else(|| ext::facts(&head))
        .or_else(|| btrfs::facts(&head))
        .or_else(|| swap::facts(&head));
    if let Some(mut facts) = facts {
        if facts.kind == Kind::Xfs {
            facts.journal = xfs_log::state(&head, disk)?;
        }
        return Ok(facts.compare_with(disk.size_bytes()));
    }
    if let Some(facts) = lvm::facts(&head, disk)? {
        return Ok(facts.compare_with(disk.size_bytes()));
    }
    match recognise(&head) {
        Some(guest) => Ok(Facts::of(Kind::Other, guest.name)),
        None if is_empty(disk)? => Ok(Facts::of(Kind::Empty, "nothing: it was never written to")),
        None => {
            let mut facts = Facts::of(Kind::Unknown, "nothing that is known");
            facts.damage.extend(ext::copy_elsewhere(disk)?);
            facts.damage.extend(btrfs::copy_elsewhere(disk)?);
            Ok(facts)
        }
    }
}

/// Up to `len` bytes at `offset_bytes`; fewer where the disk ends.
fn bytes_at(disk: &dyn Disk, offset_bytes: u64, len: u64) -> Result<Vec<u8>> {
    let present = disk.size_bytes().saturating_sub(offset_bytes).min(len);
    let mut bytes = vec![0; usize::try_from(present).unwrap_or_default()];
    if present > 0 {
        disk.read_exact_at(&mut bytes, offset_bytes)?;
    }
    Ok(bytes)
}

/// Whether all of it is one hole.
fn is_empty(disk: &dyn Disk) -> Result<bool> {
    let mut at = 0;
    while at < disk.size_bytes() {
        let stretches = disk.stretches(ByteRange::new(at, disk.size_bytes()))?;
        let Some(end_bytes) = stretches.last().map(|last| last.range.end_bytes).filter(|&end| end > at)
        else {
            break;
        };
        if stretches.iter().any(|stretch| stretch.content != Content::Hole) {
            return Ok(false);
        }
        at = end_bytes;
    }
    Ok(true)
}
