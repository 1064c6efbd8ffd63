//! The numbers the format is built on, and half-open byte ranges.

use std::fmt;

/// The unit of a Longhorn volume, in bytes: a layer has a whole sector or nothing of it.
///
/// `VolumeSectorSize` in longhorn-engine `pkg/replica/replica.go` (the same from 1.0 to 1.12), whatever
/// `SectorSize` in `volume.meta` says.
pub const SECTOR_BYTES: u64 = 4096;

/// The most disks a chain may have, the head included.
///
/// `MaximumTotalSnapshotCount` in longhorn-engine `pkg/replica/replica.go`; the engine's layer index is one byte.
pub const MAX_CHAIN_DISKS: usize = 250;

/// The largest volume size taken seriously, in bytes: what a signed 64-bit `Size` can say, in whole sectors.
pub const MAX_VOLUME_BYTES: u64 = (i64::MAX as u64) / SECTOR_BYTES * SECTOR_BYTES;

/// `bytes` rounded down to a whole sector.
pub const fn sector_floor(bytes: u64) -> u64 {
    bytes - bytes % SECTOR_BYTES
}

/// `bytes` rounded up to a whole sector; saturates at the last whole sector a `u64` can address.
pub const fn sector_ceil(bytes: u64) -> u64 {
    match bytes.checked_next_multiple_of(SECTOR_BYTES) {
        Some(rounded) => rounded,
        None => sector_floor(u64::MAX),
    }
}

/// A half-open range of bytes, `start_bytes..end_bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    /// The first byte.
    pub start_bytes: u64,
    /// The byte after the last one; never below the start.
    pub end_bytes: u64,
}

impl ByteRange {
    /// The range from `start_bytes` up to, not including, `end_bytes`; empty if they cross.
    pub fn new(start_bytes: u64, end_bytes: u64) -> Self {
        ByteRange { start_bytes, end_bytes: end_bytes.max(start_bytes) }
    }

    /// How many bytes.
    pub fn len_bytes(&self) -> u64 {
        self.end_bytes - self.start_bytes
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.start_bytes == self.end_bytes
    }

    /// The part that lies within `other`.
    pub fn clip(&self, other: ByteRange) -> ByteRange {
        ByteRange::new(
            self.start_bytes.max(other.start_bytes),
            self.end_bytes.min(other.end_bytes).max(self.start_bytes.max(other.start_bytes)),
        )
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start_bytes, self.end_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_outward_and_saturates() {
        assert_eq!((sector_floor(4097), sector_ceil(4097)), (4096, 8192));
        assert_eq!((sector_floor(8192), sector_ceil(8192)), (8192, 8192));
        assert_eq!(sector_ceil(u64::MAX), u64::MAX - 4095);
    }

    #[test]
    fn clip_of_disjoint_ranges_is_empty() {
        assert!(ByteRange::new(0, 10).clip(ByteRange::new(20, 30)).is_empty());
        assert_eq!(ByteRange::new(0, 25).clip(ByteRange::new(20, 30)), ByteRange::new(20, 25));
    }
}
