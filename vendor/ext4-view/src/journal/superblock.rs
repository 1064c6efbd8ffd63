// Copyright 2025 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::Ext4;
use crate::checksum::Checksum;
use crate::error::{CorruptKind, Ext4Error, IncompatibleKind};
use crate::extent::Extent;
use crate::journal::block_header::{JournalBlockHeader, JournalBlockType};
use crate::journal::log::absolute_block;
use crate::util::read_u32be;
use crate::uuid::Uuid;
use alloc::vec;
use bitflags::bitflags;

/// Size in bytes of the journal superblock. (Note that the underlying
/// block size may be larger, but only the first 1024 bytes are used.)
const SUPERBLOCK_SIZE: usize = 1024;

const CHECKSUM_TYPE_CRC32C: u8 = 4;

// Field offsets within the superblock.
const SUPERBLOCK_BLOCKSIZE_OFFSET: usize = 0xc;
const SUPERBLOCK_MAXLEN_OFFSET: usize = 0x10;
const SUPERBLOCK_FIRST_OFFSET: usize = 0x14;
const SUPERBLOCK_SEQUENCE_OFFSET: usize = 0x18;
const SUPERBLOCK_START_OFFSET: usize = 0x1c;
const SUPERBLOCK_FEATURE_COMPAT_OFFSET: usize = 0x24;
const SUPERBLOCK_FEATURE_INCOMPAT_OFFSET: usize = 0x28;
const SUPERBLOCK_UUID_OFFSET: usize = 0x30;
const SUPERBLOCK_CHECKSUM_TYPE_OFFSET: usize = 0x50;
const SUPERBLOCK_NUM_FC_BLKS_OFFSET: usize = 0x54;
const SUPERBLOCK_CHECKSUM_OFFSET: usize = 0xfc;

/// Features that may be present.
const SUPPORTED_FEATURES: JournalIncompatibleFeatures =
    JournalIncompatibleFeatures::all();

/// Compatible feature: the commit block has a checksum of the whole
/// transaction (version 1 of checksums).
const FEATURE_COMPAT_CHECKSUM: u32 = 0x1;

/// Number of blocks for fast commits, if the superblock says zero.
/// `JBD2_DEFAULT_FAST_COMMIT_BLOCKS` in the kernel.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;

#[derive(Debug, Eq, PartialEq)]
pub(super) struct JournalSuperblock {
    /// Size in bytes of journal blocks. This must be the same block
    /// size as the main filesystem.
    pub(super) block_size: u32,

    /// Number of blocks in the journal, including the superblock.
    pub(super) num_blocks: u32,

    /// Index of the first block of the log. This index is relative to
    /// the journal superblock.
    pub(super) first_block: u32,

    /// Sequence number of the first journal commit to apply.
    pub(super) sequence: u32,

    /// Index of the journal block from which to start reading
    /// data. This index is relative to the journal superblock. Zero if
    /// there is nothing to read.
    pub(super) start_block: u32,

    /// Number of blocks, at the end of the journal, for fast commits.
    pub(super) num_fast_commit_blocks: u32,

    /// Incompatible features.
    pub(super) features: JournalIncompatibleFeatures,

    /// Whether commit blocks may have a checksum of the transaction.
    pub(super) has_checksum_v1: bool,

    /// Journal UUID used for checksums.
    pub(super) uuid: Uuid,
}

impl JournalSuperblock {
    /// Load the journal superblock from the filesystem.
    ///
    /// An error is returned if:
    /// * The superblock cannot be read from the filesystem.
    /// * `JournalSuperblock::read_bytes` fails.
    /// * The journal's block size does not match the filesystem block size.
    pub(super) fn load(
        fs: &Ext4,
        journal_blocks: &[Extent],
    ) -> Result<Self, Ext4Error> {
        // Read the first 1024 bytes of the first block. This is the
        // journal's superblock.
        let block_index = absolute_block(journal_blocks, 0)?;
        let mut block = vec![0; SUPERBLOCK_SIZE];
        fs.read_from_block(block_index, 0, &mut block)?;

        let superblock = Self::read_bytes(&block)?;

        // Ensure the journal block size matches the rest of the
        // filesystem.
        if superblock.block_size != fs.0.superblock.block_size {
            return Err(CorruptKind::JournalBlockSize.into());
        }

        Ok(superblock)
    }

    /// Read superblock data from `bytes`.
    ///
    /// An error is returned if:
    /// * The superblock magic number is not present.
    /// * The superblock type is unsupported.
    /// * The checksum type is unsupported.
    /// * The superblock's checksum is incorrect.
    fn read_bytes(bytes: &[u8]) -> Result<Self, Ext4Error> {
        assert_eq!(bytes.len(), SUPERBLOCK_SIZE);

        let header = JournalBlockHeader::read_bytes(bytes)
            .ok_or(CorruptKind::JournalMagic)?;

        let has_features = match header.block_type {
            // The original format ends before the fields for features.
            JournalBlockType::SUPERBLOCK_V1 => false,
            JournalBlockType::SUPERBLOCK_V2 => true,
            other => {
                return Err(
                    IncompatibleKind::JournalSuperblockType(other.0).into()
                );
            }
        };

        let s_blocksize = read_u32be(bytes, SUPERBLOCK_BLOCKSIZE_OFFSET);
        let s_maxlen = read_u32be(bytes, SUPERBLOCK_MAXLEN_OFFSET);
        let s_first = read_u32be(bytes, SUPERBLOCK_FIRST_OFFSET);
        let s_sequence = read_u32be(bytes, SUPERBLOCK_SEQUENCE_OFFSET);
        let s_start = read_u32be(bytes, SUPERBLOCK_START_OFFSET);
        let (s_feature_compat, s_feature_incompat) = if has_features {
            (
                read_u32be(bytes, SUPERBLOCK_FEATURE_COMPAT_OFFSET),
                read_u32be(bytes, SUPERBLOCK_FEATURE_INCOMPAT_OFFSET),
            )
        } else {
            (0, 0)
        };
        let s_uuid =
            &bytes[SUPERBLOCK_UUID_OFFSET..SUPERBLOCK_UUID_OFFSET + 16];
        let s_num_fc_blks = read_u32be(bytes, SUPERBLOCK_NUM_FC_BLKS_OFFSET);

        let features = check_incompat_features(s_feature_incompat)?;
        if features.intersects(CHECKSUM_V2_OR_V3) {
            validate_checksum(bytes)?;
        }

        let num_fast_commit_blocks =
            if !features.contains(JournalIncompatibleFeatures::FAST_COMMITS) {
                0
            } else if s_num_fc_blks == 0 {
                DEFAULT_FAST_COMMIT_BLOCKS
            } else {
                s_num_fc_blks
            };

        // OK to unwrap: `s_uuid` is always 16 bytes.
        let uuid = Uuid(s_uuid.try_into().unwrap());

        Ok(Self {
            block_size: s_blocksize,
            num_blocks: s_maxlen,
            first_block: s_first,
            sequence: s_sequence,
            start_block: s_start,
            num_fast_commit_blocks,
            features,
            has_checksum_v1: s_feature_compat & FEATURE_COMPAT_CHECKSUM != 0,
            uuid,
        })
    }

    /// Whether block indices have 64 bits.
    pub(super) fn is_64bit(&self) -> bool {
        self.features
            .contains(JournalIncompatibleFeatures::IS_64BIT)
    }

    /// Whether checksums of data blocks are stored in full.
    pub(super) fn has_checksum_v3(&self) -> bool {
        self.features
            .contains(JournalIncompatibleFeatures::CHECKSUM_V3)
    }

    /// Whether a commit block can be written before the rest of its
    /// transaction.
    pub(super) fn has_async_commits(&self) -> bool {
        self.features
            .contains(JournalIncompatibleFeatures::ASYNC_COMMITS)
    }

    /// Size of the checksum at the end of descriptor and revocation
    /// blocks. Zero if there are no such checksums.
    pub(super) fn block_tail_size(&self) -> usize {
        if self.features.intersects(CHECKSUM_V2_OR_V3) {
            size_of::<u32>()
        } else {
            0
        }
    }

    /// Size of a tag in a descriptor block, without UUID.
    ///
    /// See `journal_tag_bytes` in the kernel.
    pub(super) fn tag_size(&self) -> usize {
        let has_checksum_v2 = self
            .features
            .contains(JournalIncompatibleFeatures::CHECKSUM_V2);
        match (self.has_checksum_v3(), has_checksum_v2, self.is_64bit()) {
            (true, _, _) => 16,
            (false, true, true) => 14,
            (false, true, false) => 10,
            (false, false, true) => 12,
            (false, false, false) => 8,
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self {
            block_size: 1024,
            num_blocks: 100,
            first_block: 1,
            sequence: 1,
            start_block: 1,
            num_fast_commit_blocks: 0,
            features: JournalIncompatibleFeatures::empty(),
            has_checksum_v1: false,
            uuid: Uuid([0; 16]),
        }
    }
}

fn validate_checksum(bytes: &[u8]) -> Result<(), Ext4Error> {
    // Only one checksum type is defined.
    let s_checksum_type = bytes[SUPERBLOCK_CHECKSUM_TYPE_OFFSET];
    if s_checksum_type != CHECKSUM_TYPE_CRC32C {
        return Err(
            IncompatibleKind::JournalChecksumType(s_checksum_type).into()
        );
    }

    let mut checksum = Checksum::new();
    checksum.update(&bytes[..SUPERBLOCK_CHECKSUM_OFFSET]);
    checksum.update_u32_le(0);
    checksum.update(&bytes[SUPERBLOCK_CHECKSUM_OFFSET + 4..SUPERBLOCK_SIZE]);
    if checksum.finalize() != read_u32be(bytes, SUPERBLOCK_CHECKSUM_OFFSET) {
        return Err(CorruptKind::JournalSuperblockChecksum.into());
    }
    Ok(())
}

bitflags! {
    #[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
    pub(crate) struct JournalIncompatibleFeatures: u32 {
        const BLOCK_REVOCATIONS = 0x1;
        const IS_64BIT = 0x2;
        const ASYNC_COMMITS = 0x4;
        const CHECKSUM_V2 = 0x8;
        const CHECKSUM_V3 = 0x10;
        const FAST_COMMITS = 0x20;
    }
}

/// Features that add checksums to all kinds of blocks.
const CHECKSUM_V2_OR_V3: JournalIncompatibleFeatures =
    JournalIncompatibleFeatures::CHECKSUM_V2
        .union(JournalIncompatibleFeatures::CHECKSUM_V3);

/// Check that no unsupported features are present.
fn check_incompat_features(
    s_feature_incompat: u32,
) -> Result<JournalIncompatibleFeatures, IncompatibleKind> {
    let unsupported = s_feature_incompat & !SUPPORTED_FEATURES.bits();
    if unsupported != 0 {
        return Err(IncompatibleKind::UnsupportedJournalFeatures(unsupported));
    }
    Ok(JournalIncompatibleFeatures::from_bits_retain(
        s_feature_incompat,
    ))
}
