// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::block_index::{FileBlockIndex, FsBlockIndex};
use crate::error::CorruptKind;
use crate::extent::Extent;
use crate::inode::{Inode, InodeIndex};
use crate::util::read_u32le;
use crate::{Ext4, Ext4Error};
use alloc::vec;
use alloc::vec::Vec;

/// Iterator over the extents of a file that uses a block map.
///
/// Block maps are how file data was stored prior to extents. Unlike
/// extents, each block of the file is stored. This makes block maps
/// much less storage efficient. The iterator joins neighbouring blocks.
///
/// The root of the block map structure is stored directly in the
/// inode. It consists of 15 block indices. Here, as in the rest of the
/// block map structure, a block index is a `u32` containing the
/// absolute index of a block in the filesystem.
///
/// Indices `0..=11` in the root node are direct. That is, they point
/// directly to a block of file data.
///
/// Index 12 points to an indirect block. This block contains an array
/// of direct block indices. The size of the array depends on the block
/// size; a 1KiB block can store 256 indices (1024÷4).
///
/// Index 13 points to a doubly-indirect block. This block contains an
/// array of indirect block indices. Each of those indices points to a
/// block containing direct indices.
///
/// Index 14 points to a triply-indirect block. This block contains an
/// array of indirect block indices, each of which points to a block
/// that also contains indirect indices, each of which points to a block
/// containing direct indices.
///
/// Indices are only initialized up to the size of the file.
///
/// A block index of zero, at any level, indicates a hole.
pub(crate) struct BlockMap {
    fs: Ext4,
    inode: InodeIndex,

    /// Root of the block map. This is copied directly from the inode.
    root: [u32; Self::NUM_ENTRIES],

    /// The last indirect block that was read at each level.
    levels: [Option<IndirectBlock>; 3],

    /// The next file block to look up.
    next_block: u64,

    /// Total number of blocks in the file.
    num_blocks_total: u64,

    is_done: bool,
}

struct IndirectBlock {
    block_index: u32,
    data: Vec<u8>,
}

/// What the block map says of a file block.
enum Mapped {
    /// It is stored in this block.
    Block(u32),

    /// It is in a hole, which ends before this file block.
    HoleUntil(u64),
}

impl BlockMap {
    const NUM_ENTRIES: usize = 15;
    const NUM_DIRECT: u64 = 12;

    /// Iterate over the extents that contain the file block `start`, or
    /// lie behind it. The first one may be cut off at `start`.
    pub(crate) fn starting_at(
        fs: Ext4,
        inode: &Inode,
        start: FileBlockIndex,
    ) -> Self {
        let mut root = [0; Self::NUM_ENTRIES];
        for (i, dst) in root.iter_mut().enumerate() {
            // OK to unwrap: `i` is at most 14, so the product is at
            // most `14*4=56`, which fits in a `usize`.
            let src_offset: usize = i.checked_mul(size_of::<u32>()).unwrap();
            *dst = read_u32le(&inode.inline_data, src_offset);
        }

        Self {
            fs,
            inode: inode.index,
            root,
            levels: [None, None, None],
            next_block: u64::from(start),
            num_blocks_total: u64::from(inode.file_size_in_blocks()),
            is_done: false,
        }
    }

    fn next_impl(&mut self) -> Result<Option<Extent>, Ext4Error> {
        if self.next_block >= self.num_blocks_total {
            self.is_done = true;
            return Ok(None);
        }
        let first = match self.look_up(self.next_block)? {
            Mapped::HoleUntil(end) => {
                self.next_block = end;
                return Ok(None);
            }
            Mapped::Block(block) => block,
        };

        // OK to unwrap: less than `num_blocks_total`, which is a `u32`.
        let block_within_file = u32::try_from(self.next_block).unwrap();

        // Add following blocks as long as they are contiguous.
        let mut num_blocks: u32 = 1;
        loop {
            self.next_block = self.next_block.saturating_add(1);
            let contiguous = first.checked_add(num_blocks);
            if self.next_block >= self.num_blocks_total || contiguous.is_none()
            {
                break;
            }
            match self.look_up(self.next_block) {
                Ok(Mapped::Block(block)) if Some(block) == contiguous => {
                    num_blocks = num_blocks.saturating_add(1);
                }
                // A hole, or another extent. Errors will show again.
                _ => break,
            }
        }

        let start_block = FsBlockIndex::from(first);
        let end_block = start_block.saturating_add(u64::from(num_blocks));
        if end_block > self.fs.0.superblock.blocks_count {
            return Err(CorruptKind::ExtentBlock(self.inode).into());
        }
        Ok(Some(Extent {
            block_within_file,
            start_block,
            num_blocks,
            is_initialized: true,
        }))
    }

    fn look_up(&mut self, file_block: u64) -> Result<Mapped, Ext4Error> {
        let block_size = self.fs.0.superblock.block_size;
        // At most 16384, so that none of the products below overflow.
        let per_block = block_size.to_u64() / 4;

        if file_block < Self::NUM_DIRECT {
            // OK to unwrap: less than 12.
            let block = self.root[usize::try_from(file_block).unwrap()];
            return Ok(match block {
                0 => Mapped::HoleUntil(file_block.saturating_add(1)),
                block => Mapped::Block(block),
            });
        }

        // First file block of the current level's subtree, and the
        // number of file blocks in that.
        let mut subtree_start = Self::NUM_DIRECT;
        let mut subtree_len = per_block;
        for depth in 1usize..=3 {
            let subtree_end = subtree_start.saturating_add(subtree_len);
            if file_block < subtree_end {
                // OK to unwrap: at most 14.
                let root = self.root[depth.checked_add(11).unwrap()];
                return self.descend(
                    root,
                    depth,
                    subtree_start,
                    subtree_len,
                    file_block,
                );
            }
            subtree_start = subtree_end;
            subtree_len = subtree_len.saturating_mul(per_block);
        }
        // More than a block map can hold.
        Ok(Mapped::HoleUntil(self.num_blocks_total))
    }

    /// Follow `depth` levels of indirect blocks, starting with `block`.
    fn descend(
        &mut self,
        mut block: u32,
        depth: usize,
        mut subtree_start: u64,
        mut subtree_len: u64,
        file_block: u64,
    ) -> Result<Mapped, Ext4Error> {
        let per_block = self.fs.0.superblock.block_size.to_nz_u64().get() / 4;
        for level in (0..depth).rev() {
            if block == 0 {
                break;
            }
            // OK to unwrap: `per_block` is at least 256.
            let entry_len = subtree_len.checked_div(per_block).unwrap();
            let nth = file_block
                .saturating_sub(subtree_start)
                .checked_div(entry_len)
                .unwrap_or(0);
            let offset = nth.saturating_mul(4);
            let data = self.indirect_block(level, block)?;
            // OK to unwrap: `nth` is less than `per_block`.
            block = read_u32le(data, usize::try_from(offset).unwrap());
            subtree_start =
                subtree_start.saturating_add(nth.saturating_mul(entry_len));
            subtree_len = entry_len;
        }
        Ok(match block {
            0 => Mapped::HoleUntil(subtree_start.saturating_add(subtree_len)),
            block => Mapped::Block(block),
        })
    }

    /// Get the data of an indirect block, reading it if it is not the
    /// last one that was used at its level.
    fn indirect_block(
        &mut self,
        level: usize,
        block_index: u32,
    ) -> Result<&[u8], Ext4Error> {
        let slot = &mut self.levels[level];
        let is_cached =
            slot.as_ref().is_some_and(|b| b.block_index == block_index);
        if !is_cached {
            let block_size = self.fs.0.superblock.block_size;
            let mut data = vec![0u8; block_size.to_usize()];
            self.fs.read_from_block(
                FsBlockIndex::from(block_index),
                0,
                &mut data,
            )?;
            *slot = Some(IndirectBlock { block_index, data });
        }
        // OK to unwrap: just set.
        Ok(&slot.as_ref().unwrap().data)
    }
}

impl_result_iter!(BlockMap, Extent);
