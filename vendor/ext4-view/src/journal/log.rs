// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::Ext4;
use crate::block_index::FsBlockIndex;
use crate::error::{CorruptKind, Ext4Error};
use crate::extent::Extent;
use crate::inode::Inode;
use crate::iters::file_blocks::FileMap;
use crate::journal::superblock::JournalSuperblock;
use alloc::vec::Vec;

/// The journal's log: a ring of blocks.
pub(super) struct Log<'a> {
    pub(super) fs: &'a Ext4,
    pub(super) superblock: &'a JournalSuperblock,

    /// Where the blocks of the journal are.
    blocks: &'a [Extent],

    /// Index, within the journal, of the first block of the log.
    first: u32,

    /// Index, within the journal, of the block after the last one.
    end: u32,
}

impl<'a> Log<'a> {
    /// Find the blocks of the journal.
    ///
    /// Fails if a block is there more than once. That prevents a corrupt
    /// filesystem from making a very long journal of a few blocks.
    pub(super) fn load_blocks(
        fs: &Ext4,
        journal_inode: &Inode,
    ) -> Result<Vec<Extent>, Ext4Error> {
        let map = FileMap::starting_at(fs.clone(), journal_inode, 0)?;
        let mut extents: Vec<Extent> = Vec::new();
        let mut num_blocks: u64 = 0;
        for extent in map {
            let extent = extent?;
            // More blocks than the filesystem has can't be distinct.
            num_blocks = num_blocks.saturating_add(extent.num_blocks.into());
            if num_blocks > fs.0.superblock.blocks_count {
                return Err(CorruptKind::JournalBlockRepeated.into());
            }
            extents.push(extent);
        }

        let mut by_place: Vec<_> = extents
            .iter()
            .map(|e| (e.start_block, e.num_blocks))
            .collect();
        by_place.sort_unstable();
        let overlap = by_place
            .windows(2)
            .any(|pair| pair[0].0.saturating_add(pair[0].1.into()) > pair[1].0);
        if overlap {
            return Err(CorruptKind::JournalBlockRepeated.into());
        }
        Ok(extents)
    }

    pub(super) fn new(
        fs: &'a Ext4,
        superblock: &'a JournalSuperblock,
        blocks: &'a [Extent],
    ) -> Result<Self, Ext4Error> {
        // Fast commits are stored at the end, after the log.
        let end = superblock
            .num_blocks
            .checked_sub(superblock.num_fast_commit_blocks)
            .ok_or(CorruptKind::JournalSize)?;
        let first = superblock.first_block;
        if first == 0 || first >= end || superblock.start_block >= end {
            return Err(CorruptKind::JournalSize.into());
        }
        Ok(Self {
            fs,
            superblock,
            blocks,
            first,
            end,
        })
    }

    /// Number of blocks in the ring.
    pub(super) fn len(&self) -> u32 {
        self.end.saturating_sub(self.first)
    }

    /// The block that follows `block` in the ring. Both are indices
    /// within the journal.
    pub(super) fn next(&self, block: u32) -> u32 {
        match block.checked_add(1) {
            Some(next) if next < self.end => next,
            _ => self.first,
        }
    }

    /// Index, within the journal, of the first block for fast commits.
    /// See `j_fc_first` in the kernel, which leaves out one block.
    pub(super) fn fast_commit_start(&self) -> Option<u32> {
        let start = self.end.checked_add(1)?;
        (start < self.superblock.num_blocks).then_some(start)
    }

    /// Convert from an index within the journal to an absolute block
    /// index.
    pub(super) fn absolute(
        &self,
        block: u32,
    ) -> Result<FsBlockIndex, Ext4Error> {
        absolute_block(self.blocks, block)
    }

    /// Read a block, given its index within the journal.
    pub(super) fn read(
        &self,
        block: u32,
        dst: &mut [u8],
    ) -> Result<FsBlockIndex, Ext4Error> {
        let absolute = self.absolute(block)?;
        self.fs.read_contiguous(absolute, 0, dst)?;
        Ok(absolute)
    }
}

/// Convert from a block index within a file to an absolute one.
pub(super) fn absolute_block(
    extents: &[Extent],
    block: u32,
) -> Result<FsBlockIndex, Ext4Error> {
    let nth = extents.partition_point(|e| e.end_within_file() <= block.into());
    extents
        .get(nth)
        .and_then(|extent| {
            let within = block.checked_sub(extent.block_within_file)?;
            extent.start_block.checked_add(within.into())
        })
        .ok_or_else(|| CorruptKind::JournalTruncated.into())
}
