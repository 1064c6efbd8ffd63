// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::inode::InodeFlags;
use crate::iters::file_blocks::FileMap;
use crate::{Ext4, Ext4Error, Inode};

/// A range of a file that is allocated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FileExtent {
    /// Offset in bytes of the range within the file.
    pub start: u64,

    /// Length in bytes of the range.
    pub len: u64,

    /// Whether the range has been written to. If not, it is allocated
    /// but reads as zeros.
    pub is_initialized: bool,
}

/// Iterator over the ranges of a file that are allocated, in ascending
/// order.
///
/// Ranges don't overlap, and end at the end of the file. What is between
/// them is a hole.
pub struct FileExtents {
    map: Option<FileMap>,

    /// The range of data that is stored in the inode itself.
    inline: Option<FileExtent>,

    block_size: u64,
    size_in_bytes: u64,
    is_done: bool,
}

impl FileExtents {
    pub(crate) fn new(fs: &Ext4, inode: &Inode) -> Result<Self, Ext4Error> {
        let size_in_bytes = inode.metadata.size_in_bytes;
        let is_inline = inode.flags.contains(InodeFlags::INLINE_DATA);
        Ok(Self {
            map: if is_inline {
                None
            } else {
                Some(FileMap::starting_at(fs.clone(), inode, 0)?)
            },
            inline: is_inline.then_some(FileExtent {
                start: 0,
                len: size_in_bytes,
                is_initialized: true,
            }),
            block_size: fs.0.superblock.block_size.to_u64(),
            size_in_bytes,
            is_done: false,
        })
    }

    fn next_impl(&mut self) -> Result<Option<FileExtent>, Ext4Error> {
        if let Some(extent) = self.inline.take() {
            return Ok(Some(extent));
        }
        let extent = match &mut self.map {
            Some(map) => map.next().transpose()?,
            None => None,
        };
        let Some(extent) = extent else {
            self.is_done = true;
            return Ok(None);
        };

        // Blocks can be allocated past the end of the file.
        let to_bytes = |blocks: u64| {
            blocks
                .saturating_mul(self.block_size)
                .min(self.size_in_bytes)
        };
        let start = to_bytes(u64::from(extent.block_within_file));
        let end = to_bytes(extent.end_within_file());
        let len = end.saturating_sub(start);
        Ok((len > 0).then_some(FileExtent {
            start,
            len,
            is_initialized: extent.is_initialized,
        }))
    }
}

impl_result_iter!(FileExtents, FileExtent);
