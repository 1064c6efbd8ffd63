// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::block_index::{FileBlockIndex, FsBlockIndex};

/// Contiguous range of blocks that contain file data.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Extent {
    // Offset of the block within the file.
    pub(crate) block_within_file: FileBlockIndex,

    // This is the actual block within the filesystem.
    pub(crate) start_block: FsBlockIndex,

    // Number of blocks (both within the file, and on the filesystem).
    pub(crate) num_blocks: u32,

    // Whether the blocks have been written to. If not, they are
    // allocated but read as zeros.
    pub(crate) is_initialized: bool,
}

impl Extent {
    /// Index of the file block after the last one in the extent. This
    /// can be one more than the largest valid index.
    pub(crate) fn end_within_file(&self) -> u64 {
        // OK to unwrap: the sum of two `u32` fits in a `u64`.
        u64::from(self.block_within_file)
            .checked_add(u64::from(self.num_blocks))
            .unwrap()
    }
}
