// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::checksum::Checksum;
use crate::journal::superblock::JournalSuperblock;
use crate::util::read_u32be;

const CHECKSUM_TYPE_OFFSET: usize = 12;
const CHECKSUM_SIZE_OFFSET: usize = 13;
const CHECKSUM_OFFSET: usize = 16;
const CHECKSUM_SIZE: usize = 4;

/// Check the checksum of a commit block, for versions 2 and 3 of
/// checksums.
///
/// The checksum covers the entire block. The checksum field is treated
/// as zero for the checksum calculation.
pub(super) fn is_commit_block_valid(
    superblock: &JournalSuperblock,
    block: &[u8],
) -> bool {
    // The kernel documentation says that fields 0xc and 0xd contain the
    // checksum type and size, but this is not correct. If the
    // superblock features include `CHECKSUM_V2` or `CHECKSUM_V3`, the
    // type/size fields are both zero.
    if superblock.block_tail_size() == 0 {
        return true;
    }

    let mut checksum = Checksum::new();
    checksum.update(superblock.uuid.as_bytes());
    checksum.update(&block[..CHECKSUM_OFFSET]);
    checksum.update(&[0; CHECKSUM_SIZE]);
    checksum.update(&block[CHECKSUM_OFFSET + CHECKSUM_SIZE..]);
    checksum.finalize() == read_u32be(block, CHECKSUM_OFFSET)
}

/// Version 1 of checksums: the commit block has one for all descriptor
/// and data blocks of the transaction.
pub(super) struct TransactionChecksum(
    crc::Digest<'static, u32, crc::Table<16>>,
);

impl TransactionChecksum {
    const TYPE_CRC32: u8 = 1;

    pub(super) fn new() -> Self {
        // The kernel's `crc32_be`, starting with `~0`.
        static CRC32: crc::Crc<u32, crc::Table<16>> =
            crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_MPEG_2);
        Self(CRC32.digest())
    }

    pub(super) fn update(&mut self, block: &[u8]) {
        self.0.update(block);
    }

    /// Check the checksum in a commit block.
    ///
    /// A kernel that doesn't know the feature leaves all fields zero.
    pub(super) fn matches(self, commit_block: &[u8]) -> bool {
        let kind = commit_block[CHECKSUM_TYPE_OFFSET];
        let size = usize::from(commit_block[CHECKSUM_SIZE_OFFSET]);
        let expected = read_u32be(commit_block, CHECKSUM_OFFSET);
        if kind == 0 && size == 0 && expected == 0 {
            return true;
        }
        kind == Self::TYPE_CRC32
            && size == CHECKSUM_SIZE
            && self.0.finalize() == expected
    }
}
