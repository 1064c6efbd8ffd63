// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

mod block_header;
mod block_map;
mod commit_block;
mod descriptor_block;
mod log;
mod revocation_block;
mod superblock;

use crate::Ext4;
use crate::block_index::FsBlockIndex;
use crate::error::Ext4Error;
use crate::inode::Inode;
use alloc::collections::BTreeMap;
use block_header::JournalBlockHeader;
use block_map::load_block_map;
use core::ops::Range;
use log::Log;
use superblock::JournalSuperblock;

/// Map from a block somewhere in the filesystem to a block in the
/// journal.
type BlockMap = BTreeMap<FsBlockIndex, JournalBlock>;

/// Block in the journal that replaces a block of the filesystem.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct JournalBlock {
    /// Absolute block index.
    block_index: FsBlockIndex,

    /// Whether the block starts with the journal's magic, which is
    /// stored as zeros.
    is_escaped: bool,
}

/// What was found in the journal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JournalSummary {
    /// Number of complete transactions, which are taken into account.
    pub transactions: u32,

    /// Number of blocks that are read from the journal instead of their
    /// place in the filesystem.
    pub blocks: usize,

    /// Why the journal was not read further, if the next transaction is
    /// committed but corrupt. The changes in it and all following ones
    /// are missing.
    pub cut_short_by: Option<crate::Corrupt>,

    /// Whether the journal also has fast commits. They are not taken
    /// into account, so the latest changes may be missing.
    pub has_fast_commits: bool,
}

#[derive(Debug)]
pub(crate) struct Journal {
    block_map: BlockMap,
    summary: Option<JournalSummary>,
}

impl Journal {
    /// Create an empty journal.
    pub(crate) fn empty() -> Self {
        Self {
            block_map: BlockMap::new(),
            summary: None,
        }
    }

    /// Load a journal from the filesystem.
    ///
    /// If the filesystem has no journal, an empty journal is returned.
    ///
    /// Note: ext4 is all little-endian, except for the journal, which
    /// is all big-endian.
    pub(crate) fn load(fs: &Ext4) -> Result<Self, Ext4Error> {
        let Some(journal_inode) = fs.0.superblock.journal_inode else {
            // Return an empty journal if this filesystem does not have
            // a journal.
            return Ok(Self::empty());
        };

        let journal_inode = Inode::read(fs, journal_inode)?;
        let blocks = Log::load_blocks(fs, &journal_inode)?;
        let superblock = JournalSuperblock::load(fs, &blocks)?;
        let log = Log::new(fs, &superblock, &blocks)?;
        let (block_map, summary) = load_block_map(&log)?;

        Ok(Self {
            block_map,
            summary: Some(summary),
        })
    }

    /// What was found in the journal.
    pub(crate) fn summary(&self) -> Option<&JournalSummary> {
        self.summary.as_ref()
    }

    /// Map from an absolute block index to a block in the journal.
    ///
    /// If the journal does not contain a replacement for the input
    /// block, the input block is returned. The second value is whether
    /// data from the block needs to be passed to [`unescape`].
    pub(crate) fn map_block_index(
        &self,
        block_index: FsBlockIndex,
    ) -> (FsBlockIndex, bool) {
        self.block_map
            .get(&block_index)
            .map_or((block_index, false), |b| (b.block_index, b.is_escaped))
    }

    /// Whether the journal contains a replacement for any of the blocks.
    pub(crate) fn maps_any(&self, blocks: Range<FsBlockIndex>) -> bool {
        self.block_map.range(blocks).next().is_some()
    }
}

/// Restore the magic at the start of a block that is escaped in the
/// journal. `data` was read from that block at `offset`.
pub(crate) fn unescape(offset: u32, data: &mut [u8]) {
    let magic = JournalBlockHeader::MAGIC.to_be_bytes();
    // An offset that doesn't fit is past the magic.
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    for (src, dst) in magic.iter().skip(offset).zip(data) {
        *dst = *src;
    }
}
