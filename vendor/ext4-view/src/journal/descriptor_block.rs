// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::block_index::FsBlockIndex;
use crate::checksum::Checksum;
use crate::journal::superblock::JournalSuperblock;
use crate::util::{read_u16be, read_u32be, u64_from_hilo};
use bitflags::bitflags;

/// Check the checksum of a descriptor or revocation block, which is
/// stored in the last four bytes of the block.
pub(super) fn is_tail_checksum_valid(
    superblock: &JournalSuperblock,
    block: &[u8],
) -> bool {
    let tail_size = superblock.block_tail_size();
    if tail_size == 0 {
        return true;
    }
    // OK to unwrap: minimum block length is 1024.
    let checksum_offset = block.len().checked_sub(tail_size).unwrap();
    let mut checksum = Checksum::new();
    checksum.update(superblock.uuid.as_bytes());
    checksum.update(&block[..checksum_offset]);
    checksum.update_u32_be(0);
    checksum.finalize() == read_u32be(block, checksum_offset)
}

/// Data block tag within a descriptor block.
///
/// Each descriptor block contains an array of tags, one for each data
/// block following the descriptor block. Each data block will replace a
/// block within the ext4 filesystem. The tag indicates where the data
/// block maps into the filesystem, and provides a checksum for the data
/// block.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct DescriptorBlockTag {
    /// Absolute block index in the filesystem that should be replaced
    /// with the data block associated with this tag.
    pub(super) block_index: FsBlockIndex,

    /// Checksum of the block data, in the form of the journal's version
    /// of checksums.
    ///
    /// Note that this checksum is for the data block associated with
    /// this tag. The data in the tag itself is covered by the
    /// descriptor block checksum.
    checksum: u32,

    flags: DescriptorBlockTagFlags,
}

impl DescriptorBlockTag {
    /// Size of the UUID that may follow a tag.
    const UUID_SIZE: usize = 16;

    /// Whether the data block starts with the journal's magic, which is
    /// stored as zeros.
    pub(super) fn is_escaped(&self) -> bool {
        self.flags.contains(DescriptorBlockTagFlags::ESCAPED)
    }

    /// Read a tag from `bytes`, which must be large enough.
    fn read_bytes(superblock: &JournalSuperblock, bytes: &[u8]) -> Self {
        // The format depends on the features of the journal. See
        // `journal_block_tag_t` and `journal_block_tag3_t` in the kernel.
        let t_blocknr = read_u32be(bytes, 0);
        let (flags, checksum) = if superblock.has_checksum_v3() {
            (read_u32be(bytes, 4), read_u32be(bytes, 12))
        } else {
            let t_checksum = read_u16be(bytes, 4);
            let t_flags = read_u16be(bytes, 6);
            (u32::from(t_flags), u32::from(t_checksum))
        };
        let t_blocknr_high = if superblock.is_64bit() {
            read_u32be(bytes, 8)
        } else {
            0
        };
        Self {
            block_index: u64_from_hilo(t_blocknr_high, t_blocknr),
            flags: DescriptorBlockTagFlags::from_bits_retain(flags),
            checksum,
        }
    }

    /// Check the checksum of the data block that belongs to the tag.
    pub(super) fn is_data_valid(
        &self,
        superblock: &JournalSuperblock,
        sequence: u32,
        data: &[u8],
    ) -> bool {
        if superblock.block_tail_size() == 0 {
            return true;
        }
        let mut checksum = Checksum::new();
        checksum.update(superblock.uuid.as_bytes());
        checksum.update_u32_be(sequence);
        checksum.update(data);
        let actual = checksum.finalize();
        if superblock.has_checksum_v3() {
            actual == self.checksum
        } else {
            // Version 2 keeps the lower half only.
            actual & 0xffff == self.checksum
        }
    }
}

/// Iterator over tags in a descriptor block.
pub(super) struct DescriptorBlockTagIter<'a> {
    superblock: &'a JournalSuperblock,

    /// Remaining bytes in the block.
    bytes: &'a [u8],
}

impl<'a> DescriptorBlockTagIter<'a> {
    /// Create a tag iterator from the raw bytes of a descriptor block,
    /// without the header and the checksum at the end.
    pub(super) fn new(
        superblock: &'a JournalSuperblock,
        bytes: &'a [u8],
    ) -> Self {
        Self { superblock, bytes }
    }
}

impl Iterator for DescriptorBlockTagIter<'_> {
    type Item = DescriptorBlockTag;

    fn next(&mut self) -> Option<Self::Item> {
        let tag_size = self.superblock.tag_size();
        let (tag, mut rest) = self.bytes.split_at_checked(tag_size)?;
        // Version 2 tags can be shorter than the fields they don't have.
        let tag = DescriptorBlockTag::read_bytes(self.superblock, tag);

        if !tag.flags.contains(DescriptorBlockTagFlags::UUID_OMITTED) {
            rest = rest.get(DescriptorBlockTag::UUID_SIZE..).unwrap_or(&[]);
        }
        self.bytes = if tag.flags.contains(DescriptorBlockTagFlags::LAST_TAG) {
            &[]
        } else {
            rest
        };
        Some(tag)
    }
}

bitflags! {
    #[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
    struct DescriptorBlockTagFlags: u32 {
        const ESCAPED = 0x1;
        const UUID_OMITTED = 0x2;
        const DELETED = 0x4;
        const LAST_TAG = 0x8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::superblock::JournalIncompatibleFeatures;

    fn superblock(features: JournalIncompatibleFeatures) -> JournalSuperblock {
        JournalSuperblock {
            features,
            ..JournalSuperblock::for_tests()
        }
    }

    #[test]
    fn test_tags_without_features() {
        let superblock = superblock(JournalIncompatibleFeatures::empty());
        let mut bytes = Vec::new();
        bytes.extend([0, 0, 0, 5, 0, 0, 0, 0]);
        bytes.extend([0; 16]); // UUID
        bytes.extend([0, 0, 0, 6, 0, 0, 0, 3]); // escaped, no UUID
        bytes.extend([0, 0, 0, 7, 0, 0, 0, 10]); // last, no UUID
        bytes.extend([0, 0, 0, 8, 0, 0, 0, 2]);
        let tags: Vec<_> =
            DescriptorBlockTagIter::new(&superblock, &bytes).collect();
        let blocks: Vec<_> = tags.iter().map(|t| t.block_index).collect();
        assert_eq!(blocks, [5, 6, 7]);
        assert!(tags[1].is_escaped() && !tags[2].is_escaped());
    }

    #[test]
    fn test_tag_sizes() {
        use JournalIncompatibleFeatures as F;
        let size = |features| superblock(features).tag_size();
        assert_eq!(size(F::empty()), 8);
        assert_eq!(size(F::IS_64BIT), 12);
        assert_eq!(size(F::CHECKSUM_V2), 10);
        assert_eq!(size(F::CHECKSUM_V2 | F::IS_64BIT), 14);
        assert_eq!(size(F::CHECKSUM_V3), 16);
    }
}
