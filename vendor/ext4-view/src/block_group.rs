// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::Ext4;
use crate::block_index::FsBlockIndex;
use crate::checksum::Checksum;
use crate::error::{CorruptKind, Ext4Error};
use crate::features::{IncompatibleFeatures, ReadOnlyCompatibleFeatures};
use crate::superblock::Superblock;
use crate::util::{read_u16le, read_u32le, u64_from_hilo};
use alloc::vec;

pub(crate) type BlockGroupIndex = u32;

#[derive(Debug)]
pub(crate) struct BlockGroupDescriptor {
    pub(crate) inode_table_first_block: FsBlockIndex,
    checksum: u16,
}

impl BlockGroupDescriptor {
    const BG_CHECKSUM_OFFSET: usize = 0x1e;

    fn from_bytes(superblock: &Superblock, bytes: &[u8]) -> Self {
        const BG_INODE_TABLE_HI_OFFSET: usize = 0x28;

        let bg_inode_table_lo = read_u32le(bytes, 0x8);
        let bg_checksum = read_u16le(bytes, Self::BG_CHECKSUM_OFFSET);

        // Get the high bits of the inode table block.
        let bg_inode_table_hi = if superblock
            .incompatible_features
            .contains(IncompatibleFeatures::IS_64BIT)
        {
            read_u32le(bytes, BG_INODE_TABLE_HI_OFFSET)
        } else {
            0
        };

        let inode_table_first_block =
            u64_from_hilo(bg_inode_table_hi, bg_inode_table_lo);

        Self {
            inode_table_first_block,
            checksum: bg_checksum,
        }
    }

    /// Map from a block group descriptor index to the block that it is
    /// in, and the byte within that block where it starts.
    ///
    /// See `descriptor_loc` in the kernel.
    fn location(
        sb: &Superblock,
        bgd_index: BlockGroupIndex,
    ) -> Option<(FsBlockIndex, u32)> {
        let bgd_per_block = sb
            .block_size
            .to_u32()
            .checked_div(u32::from(sb.block_group_descriptor_size))?;
        let nth_block = bgd_index.checked_div(bgd_per_block)?;
        let offset_within_block = (bgd_index.checked_rem(bgd_per_block)?)
            .checked_mul(u32::from(sb.block_group_descriptor_size))?;

        let has_meta_block_groups = sb
            .incompatible_features
            .contains(IncompatibleFeatures::META_BLOCK_GROUPS);
        let block = if has_meta_block_groups
            && nth_block >= sb.first_meta_block_group
        {
            // The block of descriptors is in the first of the groups
            // that it describes, after the superblock if that group has
            // one.
            let group = nth_block.checked_mul(bgd_per_block)?;
            let mut offset = u64::from(has_superblock(sb, group));
            if sb.block_size == 1024
                && nth_block == 0
                && sb.first_data_block == 0
            {
                offset = offset.checked_add(1)?;
            }
            u64::from(group)
                .checked_mul(u64::from(sb.blocks_per_group.get()))?
                .checked_add(u64::from(sb.first_data_block))?
                .checked_add(offset)?
        } else {
            let first: u64 = if sb.block_size == 1024 { 2 } else { 1 };
            first.checked_add(u64::from(nth_block))?
        };
        Some((block, offset_within_block))
    }

    /// Read a block group descriptor.
    ///
    /// Descriptors are read when they are needed, as a large filesystem
    /// has very many of them.
    pub(crate) fn read(
        fs: &Ext4,
        bgd_index: BlockGroupIndex,
    ) -> Result<Self, Ext4Error> {
        let sb = &fs.0.superblock;

        // Allocate a byte vec to read the raw data into.
        let block_group_descriptor_size =
            usize::from(sb.block_group_descriptor_size);
        let mut data = vec![0; block_group_descriptor_size];

        let (block, offset) = Self::location(sb, bgd_index)
            .ok_or(CorruptKind::BlockGroupDescriptor(bgd_index))?;
        fs.read_from_block(block, offset, &mut data)?;

        let block_group_descriptor = Self::from_bytes(sb, &data);

        // Verify the descriptor checksum.
        let expected = if sb
            .read_only_compatible_features
            .contains(ReadOnlyCompatibleFeatures::METADATA_CHECKSUMS)
        {
            Some(Self::checksum(sb, bgd_index, &data))
        } else if sb
            .read_only_compatible_features
            .contains(ReadOnlyCompatibleFeatures::GROUP_DESCRIPTOR_CHECKSUMS)
        {
            Some(Self::old_checksum(sb, bgd_index, &data))
        } else {
            None
        };
        if expected.is_some_and(|e| e != block_group_descriptor.checksum) {
            return Err(
                CorruptKind::BlockGroupDescriptorChecksum(bgd_index).into()
            );
        }

        Ok(block_group_descriptor)
    }

    /// Checksum of a descriptor if all metadata have checksums.
    fn checksum(sb: &Superblock, index: BlockGroupIndex, data: &[u8]) -> u16 {
        let mut checksum = Checksum::with_seed(sb.checksum_seed);
        checksum.update_u32_le(index);
        // Up to the checksum field.
        checksum.update(&data[..Self::BG_CHECKSUM_OFFSET]);
        // Zero'd checksum field.
        checksum.update_u16_le(0);
        // Rest of the block group descriptor.
        checksum.update(&data[Self::BG_CHECKSUM_OFFSET + 2..]);
        // Truncate to the lower 16 bits. OK to unwrap: just masked.
        u16::try_from(checksum.finalize() & 0xffff).unwrap()
    }

    /// Checksum of a descriptor if only descriptors have checksums. This
    /// feature is older than general metadata checksums, and is a CRC16.
    fn old_checksum(
        sb: &Superblock,
        index: BlockGroupIndex,
        data: &[u8],
    ) -> u16 {
        static CRC16: crc::Crc<u16> = crc::Crc::<u16>::new(&crc::CRC_16_MODBUS);

        let mut digest = CRC16.digest();
        digest.update(sb.uuid.as_bytes());
        digest.update(&index.to_le_bytes());
        digest.update(&data[..Self::BG_CHECKSUM_OFFSET]);
        // The checksum field is skipped, not zero'd.
        digest.update(&data[Self::BG_CHECKSUM_OFFSET + 2..]);
        digest.finalize()
    }
}

/// Whether a block group starts with the superblock or a backup of it.
///
/// See `ext4_bg_has_super` in the kernel.
fn has_superblock(sb: &Superblock, group: BlockGroupIndex) -> bool {
    if group == 0 {
        return true;
    }
    if let Some(groups) = sb.backup_block_groups {
        return groups.contains(&group);
    }
    if group == 1
        || !sb
            .read_only_compatible_features
            .contains(ReadOnlyCompatibleFeatures::SPARSE_SUPERBLOCKS)
    {
        return true;
    }
    [3, 5, 7].iter().any(|&base| is_power_of(group, base))
}

fn is_power_of(mut n: u32, base: u32) -> bool {
    while n > 1 && n.checked_rem(base) == Some(0) {
        n = n.checked_div(base).unwrap_or(0);
    }
    n == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_is_power_of() {
        assert!([1, 3, 9, 27].iter().all(|&n| is_power_of(n, 3)));
        assert!(![0, 2, 6, 12].iter().any(|&n| is_power_of(n, 3)));
    }
}
