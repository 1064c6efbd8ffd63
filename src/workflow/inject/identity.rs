//! What is on a device by what it says of itself: told before anything is written, and after.

use crate::error::Result;
use crate::guest::facts::{self, Journal, Kind};
use crate::model::units::ByteRange;
use crate::sys::device::Identity;
use crate::view::disk::{Content, Disk, Stretch};

/// What something on a device is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// What it is, in words, with its article: `an ext4 file system`.
    pub name: String,
    /// Its label.
    pub label: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
    /// How large it says it is, in bytes.
    pub size_bytes: Option<u64>,
    /// Its journal.
    pub journal: Journal,
}

/// What a target was before anything was written to it; kept from then on, whatever comes of it.
#[derive(Clone, Debug)]
pub struct Met {
    /// What the device is called; `None` for an image file.
    pub device: Option<Identity>,
    /// What it carried, in words.
    pub before: String,
    /// What was on it; `None` when that was nothing that is known.
    pub inside: Option<Inside>,
}

/// What is on a device of `size_bytes`, which `read` reads; `None` when it is nothing that is known, or cannot be told: a
/// superblock may name places that are not there.
pub fn inside(size_bytes: u64, read: impl Fn(&mut [u8], u64) -> Result<()> + Send + Sync) -> Option<Inside> {
    let facts = facts::read(&Read { size_bytes, read }).ok()?;
    if matches!(facts.kind, Kind::Empty | Kind::Unknown) {
        return None;
    }
    let facts::Facts { name, label, uuid, size_bytes, journal, .. } = facts;
    Some(Inside { name, label, uuid, size_bytes, journal })
}

/// Something that can be read, as a disk.
struct Read<F> {
    size_bytes: u64,
    read: F,
}

impl<F: Fn(&mut [u8], u64) -> Result<()> + Send + Sync> Disk for Read<F> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        (self.read)(buf, offset_bytes)
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        Ok(vec![Stretch { range, content: Content::Data }])
    }
}
