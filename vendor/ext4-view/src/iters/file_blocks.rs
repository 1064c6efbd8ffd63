// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::block_index::{FileBlockIndex, FsBlockIndex};
use crate::extent::Extent;
use crate::inode::{Inode, InodeFlags};
use crate::iters::block_map::BlockMap;
use crate::iters::extents::Extents;
use crate::{Ext4, Ext4Error};

/// Iterator over the extents of a file, however they are stored.
///
/// Extents are in ascending order, and do not overlap. What is between
/// them, and behind them up to the end of the file, is a hole.
#[allow(clippy::large_enum_variant)]
pub(crate) enum FileMap {
    Extents(Extents),
    BlockMap(BlockMap),
}

impl FileMap {
    /// Iterate over the extents that contain the file block `start`, or
    /// lie behind it.
    pub(crate) fn starting_at(
        fs: Ext4,
        inode: &Inode,
        start: FileBlockIndex,
    ) -> Result<Self, Ext4Error> {
        if inode.flags.contains(InodeFlags::EXTENTS) {
            Ok(Self::Extents(Extents::starting_at(fs, inode, start)?))
        } else {
            Ok(Self::BlockMap(BlockMap::starting_at(fs, inode, start)))
        }
    }
}

impl Iterator for FileMap {
    type Item = Result<Extent, Ext4Error>;

    fn next(&mut self) -> Option<Result<Extent, Ext4Error>> {
        match self {
            Self::Extents(iter) => iter.next(),
            Self::BlockMap(iter) => iter.next(),
        }
    }
}

/// Iterator over blocks in a file.
///
/// The iterator produces absolute block indices. A block index of zero
/// indicates a hole.
pub(crate) struct FileBlocks {
    map: FileMap,

    /// Current extent, or `None` if there are no more of them.
    extent: Option<Extent>,

    /// Current block within the file.
    block_within_file: FileBlockIndex,

    /// Total number of blocks in the file.
    num_blocks_total: u32,

    is_done: bool,
}

impl FileBlocks {
    pub(crate) fn new(fs: Ext4, inode: &Inode) -> Result<Self, Ext4Error> {
        let mut map = FileMap::starting_at(fs, inode, 0)?;
        Ok(Self {
            extent: map.next().transpose()?,
            map,
            block_within_file: 0,
            num_blocks_total: inode.file_size_in_blocks(),
            is_done: false,
        })
    }

    fn next_impl(&mut self) -> Result<Option<FsBlockIndex>, Ext4Error> {
        if self.block_within_file >= self.num_blocks_total {
            self.is_done = true;
            return Ok(None);
        }
        let current = self.block_within_file;

        // OK to unwrap: less than `num_blocks_total`.
        self.block_within_file = current.checked_add(1).unwrap();

        while let Some(extent) = &self.extent {
            if u64::from(current) < extent.end_within_file() {
                break;
            }
            self.extent = self.map.next().transpose()?;
        }
        let block = self.extent.and_then(|extent| {
            let within = current.checked_sub(extent.block_within_file)?;
            extent.start_block.checked_add(u64::from(within))
        });
        Ok(Some(block.unwrap_or(0)))
    }
}

impl_result_iter!(FileBlocks, FsBlockIndex);
