// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::block_index::FsBlockIndex;
use crate::error::CorruptKind;
use crate::journal::block_header::JournalBlockHeader;
use crate::journal::superblock::JournalSuperblock;
use crate::util::{read_u32be, usize_from_u32};
use alloc::vec::Vec;

/// Read the revoked block indices from a revocation block.
///
/// The entries are appended to the end of `table`.
pub(super) fn read_revocation_block_table(
    superblock: &JournalSuperblock,
    block: &[u8],
    table: &mut Vec<FsBlockIndex>,
) -> Result<(), CorruptKind> {
    const SIZE_FIELD: usize = 4;

    // The number of bytes in use. This includes the header and the field
    // itself.
    let num_bytes = usize_from_u32(read_u32be(block, JournalBlockHeader::SIZE));

    // OK to unwrap: minimum block length is 1024.
    let end = block
        .len()
        .checked_sub(superblock.block_tail_size())
        .unwrap();
    if num_bytes > end {
        return Err(CorruptKind::JournalRevocationBlockInvalidTableSize(
            num_bytes,
        ));
    }
    let entries = block
        .get(JournalBlockHeader::SIZE + SIZE_FIELD..num_bytes)
        .unwrap_or(&[]);

    if superblock.is_64bit() {
        table.extend(entries.chunks_exact(8).map(|entry| {
            // OK to unwrap: the chunk has eight bytes.
            u64::from_be_bytes(entry.try_into().unwrap())
        }));
    } else {
        table.extend(
            entries.chunks_exact(4).map(|e| u64::from(read_u32be(e, 0))),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::superblock::JournalIncompatibleFeatures;

    #[test]
    fn test_read_revocation_block_table() {
        let mut superblock = JournalSuperblock::for_tests();
        let mut block = vec![0; 1024];
        block[12..16].copy_from_slice(&24u32.to_be_bytes());
        block[19] = 7;
        block[23] = 9;

        let mut table = Vec::new();
        read_revocation_block_table(&superblock, &block, &mut table).unwrap();
        assert_eq!(table, [7, 9]);

        superblock.features |= JournalIncompatibleFeatures::IS_64BIT;
        table.clear();
        read_revocation_block_table(&superblock, &block, &mut table).unwrap();
        assert_eq!(table, [(7 << 32) | 9]);

        block[12..16].copy_from_slice(&1025u32.to_be_bytes());
        assert_eq!(
            read_revocation_block_table(&superblock, &block, &mut table),
            Err(CorruptKind::JournalRevocationBlockInvalidTableSize(1025))
        );
    }
}
