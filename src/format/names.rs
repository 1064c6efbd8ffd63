//! What a file in a replica directory is, by its name alone.
//!
//! Names are all there is: layers have no magic number and no header (longhorn-engine `pkg/replica/replica.go`,
//! `pkg/util/disk/disk.go`).

use crate::format::{copy, revision, volume_meta};

const HEAD_PREFIX: &str = "volume-head-";
const SNAPSHOT_PREFIX: &str = "volume-snap-";
const DELTA_PREFIX: &str = "volume-delta-";
const IMAGE_SUFFIX: &str = ".img";

/// The longest name Linux file systems take, in bytes.
const MAX_NAME_BYTES: usize = 255;

/// What kind of layer a `.img` file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskKind {
    /// `volume-head-NNN.img`, the writable layer. The number wraps from 010 to 001 and proves nothing.
    Head,
    /// `volume-snap-<name>.img`, a layer that no longer changes.
    Snapshot,
    /// Any other name that has metadata; the engine would follow a chain through it.
    Other,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind<'a> {
    /// `volume.meta`.
    VolumeMeta,
    /// `revision.counter`.
    RevisionCounter,
    /// A layer's data.
    Image(DiskKind),
    /// `<disk>.meta`. The engine parses everything that ends so, and opens nothing if one does not parse.
    Meta {
        /// The layer it belongs to.
        disk: &'a str,
    },
    /// `<disk>.checksum`.
    Checksum {
        /// The snapshot it belongs to.
        disk: &'a str,
    },
    /// A leftover of an atomic write that never came to its rename; the engine never reads it.
    Tmp {
        /// The file that was being written.
        of: &'a str,
    },
    /// `volume-delta-<name>.img` or `*.img.snap_tmp`, or the metadata of one: scratch of a restore.
    RestoreScratch,
    /// What `preserve` leaves in a copy: its manifest, its journal, or a file that is not finished.
    Ours,
    /// Nothing of Longhorn's.
    Foreign,
}

/// Says what the file called `name` is.
pub fn classify(name: &str) -> FileKind<'_> {
    if name == volume_meta::FILE_NAME {
        return FileKind::VolumeMeta;
    }
    if name == revision::FILE_NAME {
        return FileKind::RevisionCounter;
    }
    if copy::is_ours(name) {
        return FileKind::Ours;
    }
    if name.starts_with(DELTA_PREFIX) || name.ends_with(".snap_tmp") || name.ends_with(".snap_tmp.meta") {
        return FileKind::RestoreScratch;
    }
    // Checksums are written through a temporary name with two dots, everything else through one with one.
    if let Some(of) = name.strip_suffix("..tmp").or_else(|| name.strip_suffix(".tmp")) {
        return if classify(of) == FileKind::Foreign { FileKind::Foreign } else { FileKind::Tmp { of } };
    }
    if let Some(disk) = name.strip_suffix(".meta") {
        return FileKind::Meta { disk };
    }
    if let Some(disk) = name.strip_suffix(".checksum") {
        return if disk_kind(disk) == DiskKind::Other {
            FileKind::Foreign
        } else {
            FileKind::Checksum { disk }
        };
    }
    match disk_kind(name) {
        DiskKind::Other => FileKind::Foreign,
        kind => FileKind::Image(kind),
    }
}

/// What kind of layer `disk` names.
pub fn disk_kind(disk: &str) -> DiskKind {
    if head_number(disk).is_some() {
        DiskKind::Head
    } else if snapshot_name(disk).is_some() {
        DiskKind::Snapshot
    } else {
        DiskKind::Other
    }
}

/// The number of a head's file name, as it is written.
pub fn head_number(disk: &str) -> Option<&str> {
    let number = disk.strip_prefix(HEAD_PREFIX)?.strip_suffix(IMAGE_SUFFIX)?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(number)
}

/// The file name of the snapshot called `name`.
pub fn snapshot_file(name: &str) -> String {
    format!("{SNAPSHOT_PREFIX}{name}{IMAGE_SUFFIX}")
}

/// The snapshot's name within its file name.
pub fn snapshot_name(disk: &str) -> Option<&str> {
    disk.strip_prefix(SNAPSHOT_PREFIX)?.strip_suffix(IMAGE_SUFFIX).filter(|name| !name.is_empty())
}

/// Whether `name` can only mean a file directly inside a directory.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_format() {
        let head = "volume-head-001.img";
        let snap = "volume-snap-daily.img.meta-1.img";
        assert_eq!(classify("volume.meta"), FileKind::VolumeMeta);
        assert_eq!(classify("revision.counter"), FileKind::RevisionCounter);
        assert_eq!(classify(head), FileKind::Image(DiskKind::Head));
        assert_eq!(classify(snap), FileKind::Image(DiskKind::Snapshot));
        assert_eq!(classify("volume-head-001.img.meta"), FileKind::Meta { disk: head });
        assert_eq!(classify("stray.meta"), FileKind::Meta { disk: "stray" });
        assert_eq!(classify("volume-snap-a.img.checksum"), FileKind::Checksum { disk: "volume-snap-a.img" });
        assert_eq!(classify("volume.meta.tmp"), FileKind::Tmp { of: "volume.meta" });
        assert_eq!(
            classify("volume-snap-a.img.checksum..tmp"),
            FileKind::Tmp { of: "volume-snap-a.img.checksum" }
        );
        assert_eq!(classify("volume-delta-a.img"), FileKind::RestoreScratch);
        assert_eq!(classify("volume-snap-a.img.snap_tmp.meta"), FileKind::RestoreScratch);
    }

    #[test]
    fn what_a_copy_carries_is_not_foreign_and_an_unfinished_image_is_none() {
        for name in [copy::MANIFEST_NAME, copy::JOURNAL_NAME, "volume-head-001.img.lhrecover-partial"] {
            assert_eq!(classify(name), FileKind::Ours, "{name}");
        }
        assert_eq!(classify(&copy::partial_name("volume.meta")), FileKind::Ours);
    }

    #[test]
    fn look_alikes_are_foreign() {
        for name in ["volume-head-.img", "volume-head-1a.img", "volume-snap-.img", "lost+found", "x.tmp", ""]
        {
            assert_eq!(classify(name), FileKind::Foreign, "{name}");
        }
    }

    #[test]
    fn only_plain_names_are_plain() {
        let long = "a".repeat(256);
        for name in ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0b", &long] {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(is_plain("volume-snap-..a.img"));
    }
}
