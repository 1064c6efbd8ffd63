// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::block_index::FsBlockIndex;
use crate::block_size::BlockSize;
use crate::error::Ext4Error;
use crate::util::usize_from_u32;
use alloc::vec;
use alloc::vec::Vec;

/// Some neighbouring blocks.
struct Chunk {
    /// Index of the first block, divided by the number of blocks in a
    /// chunk.
    index: u64,

    /// When the chunk was last used.
    last_used: u64,

    /// Block data. The last chunk of the filesystem may be shorter than
    /// the others.
    data: Vec<u8>,
}

/// LRU cache for metadata blocks.
///
/// Blocks are read and kept in aligned chunks, since it can be much more
/// efficient to read N blocks at once than one at a time, and it's a
/// good bet that the neighbours of a metadata block will be needed soon.
///
/// Memory is allocated as chunks are read, up to `MAX_CHUNKS`. File data
/// doesn't go through the cache.
pub(crate) struct BlockCache {
    chunks: Vec<Chunk>,
    blocks_per_chunk: u64,
    block_size: BlockSize,

    /// Total number of blocks in the filesystem. This is used to ensure
    /// that chunks don't go past the end of the filesystem.
    num_fs_blocks: u64,

    /// Incremented with each use.
    clock: u64,
}

impl BlockCache {
    /// Size of a chunk, if a block isn't larger.
    const CHUNK_BYTES: u32 = 32 * 1024;

    /// The most chunks that are kept.
    const MAX_CHUNKS: usize = 128;

    pub(crate) fn new(block_size: BlockSize, num_fs_blocks: u64) -> Self {
        let blocks_per_chunk =
            1.max(Self::CHUNK_BYTES / block_size.to_nz_u32());
        Self {
            chunks: Vec::new(),
            blocks_per_chunk: u64::from(blocks_per_chunk),
            block_size,
            num_fs_blocks,
            clock: 0,
        }
    }

    /// Copy bytes of the block `block_index`, starting at `offset`, to
    /// `dst`.
    ///
    /// `read` is called with a block index and a buffer of one or more
    /// whole blocks when the block isn't cached. If a chunk can't be
    /// read, only the requested block is read, and not cached, so that a
    /// block isn't affected by its neighbours.
    ///
    /// # Panics
    ///
    /// Panics if `block_index` is not less than `num_fs_blocks`, or if
    /// the bytes are not within the block.
    pub(crate) fn read<F>(
        &mut self,
        block_index: FsBlockIndex,
        offset: u32,
        dst: &mut [u8],
        read: F,
    ) -> Result<(), Ext4Error>
    where
        F: Fn(FsBlockIndex, &mut [u8]) -> Result<(), Ext4Error>,
    {
        assert!(block_index < self.num_fs_blocks);
        let block_size = self.block_size.to_usize();
        let index = block_index.checked_div(self.blocks_per_chunk).unwrap();
        let first_block = index.checked_mul(self.blocks_per_chunk).unwrap();

        let chunk = match self.find(index) {
            Some(chunk) => chunk,
            None => {
                // OK to unwrap: `first_block <= block_index`, which is
                // less than `num_fs_blocks`, and the number of blocks
                // is limited to that in a chunk.
                let num_blocks = self
                    .num_fs_blocks
                    .checked_sub(first_block)
                    .unwrap()
                    .min(self.blocks_per_chunk);
                let num_blocks = u32::try_from(num_blocks).unwrap();
                let num_bytes =
                    usize_from_u32(num_blocks).checked_mul(block_size).unwrap();
                let mut data = vec![0; num_bytes];
                if read(first_block, &mut data).is_err() {
                    data.truncate(block_size);
                    read(block_index, &mut data)?;
                    let start = usize_from_u32(offset);
                    let end = start.checked_add(dst.len()).unwrap();
                    dst.copy_from_slice(&data[start..end]);
                    return Ok(());
                }
                self.insert(index, data)
            }
        };

        // OK to unwrap: both are within the chunk.
        let block_within_chunk =
            usize::try_from(block_index.checked_sub(first_block).unwrap())
                .unwrap();
        let start = block_within_chunk
            .checked_mul(block_size)
            .unwrap()
            .checked_add(usize_from_u32(offset))
            .unwrap();
        let end = start.checked_add(dst.len()).unwrap();
        dst.copy_from_slice(&self.chunks[chunk].data[start..end]);
        Ok(())
    }

    /// Find a cached chunk, and mark it as used.
    fn find(&mut self, index: u64) -> Option<usize> {
        self.clock = self.clock.wrapping_add(1);
        let found = self.chunks.iter().position(|c| c.index == index)?;
        self.chunks[found].last_used = self.clock;
        Some(found)
    }

    /// Add a chunk, instead of the least recently used one if necessary.
    fn insert(&mut self, index: u64, data: Vec<u8>) -> usize {
        let chunk = Chunk {
            index,
            last_used: self.clock,
            data,
        };
        if self.chunks.len() < Self::MAX_CHUNKS {
            self.chunks.push(chunk);
            // OK to unwrap: just pushed to it.
            return self.chunks.len().checked_sub(1).unwrap();
        }
        // OK to unwrap: there are `MAX_CHUNKS`.
        let oldest = (0..self.chunks.len())
            .min_by_key(|&i| self.chunks[i].last_used)
            .unwrap();
        self.chunks[oldest] = chunk;
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::CorruptKind;
    use core::cell::Cell;

    fn block_size_1k() -> BlockSize {
        BlockSize::from_superblock_value(0).unwrap()
    }

    #[test]
    fn test_blocks_are_read_once() {
        let mut cache = BlockCache::new(block_size_1k(), 40);
        let reads = Cell::new(0);
        let mut dst = [0; 2];
        for block in [35, 36, 39, 35] {
            cache
                .read(block, 1, &mut dst, |first, buf| {
                    reads.set(reads.get() + 1);
                    assert_eq!((first, buf.len()), (32, 8 * 1024));
                    for (i, b) in buf.chunks_mut(1024).enumerate() {
                        b.fill(u8::try_from(i).unwrap());
                    }
                    Ok(())
                })
                .unwrap();
            assert_eq!(u64::from(dst[0]), block - 32);
        }
        assert_eq!(reads.get(), 1);
    }

    #[test]
    fn test_block_is_read_alone_if_a_neighbour_fails() {
        let mut cache = BlockCache::new(block_size_1k(), 40);
        let read = |first: u64, buf: &mut [u8]| {
            let end = first + u64::try_from(buf.len() / 1024).unwrap();
            if (first..end).contains(&3) {
                return Err(CorruptKind::TooManyBlocksInFile.into());
            }
            buf.fill(7);
            Ok(())
        };
        let mut dst = [0; 1];
        cache.read(4, 0, &mut dst, read).unwrap();
        assert_eq!(dst, [7]);
        assert_eq!(
            cache.read(3, 0, &mut dst, read).unwrap_err(),
            CorruptKind::TooManyBlocksInFile
        );
    }
}
