//! What a source is made of, so that nothing that is written ever takes the place of a part of it.
//!
//! By device and inode numbers: names may be links, and a device has several.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::sys::device::DeviceNumber;
use crate::sys::dir::FileId;

/// The directories, files and devices of a source.
#[derive(Clone, Debug, Default)]
pub struct SourceIdentity {
    files: BTreeSet<FileId>,
    devices: BTreeSet<DeviceNumber>,
}

impl SourceIdentity {
    /// A source of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is at `path`, if it can be looked at: a replica directory, without the files in it; an image; a device.
    pub fn at(path: &Path) -> Self {
        let mut source = Self::new();
        fs::metadata(path).iter().for_each(|part| source.add(part));
        source
    }

    /// Adds a part of the source: the replica directory, a file, or a device it is read from.
    pub fn add(&mut self, part: &Metadata) {
        if part.file_type().is_block_device() {
            self.devices.insert(DeviceNumber::from_raw(part.rdev()));
        } else {
            self.add_file(id(part));
        }
    }

    /// Adds a file or directory.
    pub fn add_file(&mut self, file: FileId) {
        self.files.insert(file);
    }

    /// Whether this is a part of the source.
    pub fn has(&self, file: &Metadata) -> bool {
        if file.file_type().is_block_device() {
            self.devices.contains(&DeviceNumber::from_raw(file.rdev()))
        } else {
            self.has_file(id(file))
        }
    }

    /// Whether this file or directory is a part of the source.
    pub fn has_file(&self, file: FileId) -> bool {
        self.files.contains(&file)
    }

    /// Whether what `path` leads to, through links, is a part of the source.
    pub fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|there| self.has(&there))
    }

    /// Whether a file of this name is, or would be created, in a directory of the source, or anywhere below it.
    pub fn holds(&self, path: &Path) -> bool {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let parent = real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Ok(parent) = fs::canonicalize(parent) else { return false };
        parent.ancestors().any(|above| self.is_at(above))
    }

    /// The devices it is read from.
    pub fn devices(&self) -> impl Iterator<Item = DeviceNumber> + '_ {
        self.devices.iter().copied()
    }

    /// The devices that hold the file systems it is on, as far as these say so.
    pub fn file_systems(&self) -> BTreeSet<DeviceNumber> {
        self.files.iter().map(|file| DeviceNumber::from_raw(file.dev)).collect()
    }
}

fn id(file: &Metadata) -> FileId {
    FileId { dev: file.dev(), ino: file.ino() }
}
