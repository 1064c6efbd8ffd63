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
use crate::dir_block::DirBlock;
use crate::dir_entry::{DirEntry, decode_rec_len};
use crate::error::{CorruptKind, Ext4Error};
use crate::inode::{Inode, InodeFlags, InodeIndex};
use crate::iters::file_blocks::FileBlocks;
use crate::path::PathBuf;
use crate::util::read_u16le;
use crate::xattr::inline_data_attribute;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::{self, Debug, Formatter};

/// Iterator over each [`DirEntry`] in a directory inode.
///
/// An error does not end the iteration: an entry that is invalid, or a
/// block that can't be read, is skipped after the error for it.
pub struct ReadDir {
    fs: Ext4,

    /// Path of the directory. This is stored in an `Arc` so that it can
    /// be shared with each `DirEntry` without cloning the path data.
    ///
    /// Note that this path may be empty, e.g. if `read_dir` was called
    /// with an inode rather than a path.
    path: Arc<PathBuf>,

    /// Where further entries are.
    source: Source,

    /// Whether the next block is the first block in the file.
    is_first_block: bool,

    /// The current block's data.
    block: Vec<u8>,

    /// The current byte offset within the block data.
    offset_within_block: usize,

    /// Whether the iterator is done (calls to `Iterator::next` will
    /// return `None`).
    is_done: bool,

    /// Whether the directory has an htree for fast lookups. The
    /// iterator doesn't directly use the htree, but it affects which
    /// blocks have checksums.
    has_htree: bool,

    /// Initial checksum using values from the directory's inode. This
    /// serves as the seed for directory block checksums.
    checksum_base: Checksum,

    /// Inode of the directory. Just used for error reporting.
    inode: InodeIndex,
}

/// Where the entries of a directory are.
#[allow(clippy::large_enum_variant)]
enum Source {
    /// In blocks.
    Blocks {
        blocks: FileBlocks,

        /// Blocks that were read. A block can't be in a directory twice;
        /// checking this prevents a corrupt filesystem from producing
        /// very many entries from a few blocks.
        seen: BTreeSet<FsBlockIndex>,

        /// Whether the last block was a hole.
        in_hole: bool,
    },

    /// In the inode: pieces that have no common entries.
    Inline(alloc::vec::IntoIter<Vec<u8>>),
}

impl ReadDir {
    pub(crate) fn new(
        fs: Ext4,
        inode: &Inode,
        path: PathBuf,
    ) -> Result<Self, Ext4Error> {
        let has_htree = inode.flags.contains(InodeFlags::DIRECTORY_HTREE);

        if inode.flags.contains(InodeFlags::ENCRYPTED) {
            return Err(Ext4Error::Encrypted);
        }

        let source = if inode.flags.contains(InodeFlags::INLINE_DATA) {
            // The space for block indices starts with the index of the
            // parent directory's inode. The entries "." and ".." are not
            // stored.
            let first = inode.inline_data[size_of::<u32>()..].to_vec();
            let second = inline_data_attribute(&fs, inode)?;
            Source::Inline(vec![first, second].into_iter())
        } else {
            Source::Blocks {
                blocks: FileBlocks::new(fs.clone(), inode)?,
                seen: BTreeSet::new(),
                in_hole: false,
            }
        };

        Ok(Self {
            fs,
            path: Arc::new(path),
            source,
            is_first_block: true,
            block: Vec::new(),
            offset_within_block: 0,
            is_done: false,
            has_htree,
            checksum_base: inode.checksum_base.clone(),
            inode: inode.index,
        })
    }

    fn next_impl(&mut self) -> Result<Option<DirEntry>, Ext4Error> {
        const HEADER_SIZE: usize = 8;

        let offset = self.offset_within_block;
        let rest = &self.block[offset.min(self.block.len())..];
        if rest.is_empty() {
            // Move to the next block, and to its first entry on the next
            // iteration.
            self.read_next_block()?;
            return Ok(None);
        }

        // Advance first, so that an invalid entry is skipped.
        let rec_len = if rest.len() < HEADER_SIZE {
            0
        } else {
            let raw = read_u16le(rest, 4);
            decode_rec_len(raw, self.fs.0.superblock.block_size)
        };
        self.offset_within_block = if rec_len < HEADER_SIZE {
            // Without a valid length, there is no way to find the next
            // entry in this block.
            self.block.len()
        } else {
            offset
                .checked_add(rec_len)
                .ok_or(CorruptKind::DirEntry(self.inode))?
        };

        let (entry, _) = DirEntry::from_bytes(
            self.fs.clone(),
            rest,
            self.inode,
            self.path.clone(),
        )?;
        Ok(entry)
    }

    /// Read the next block, or finish if there is none.
    fn read_next_block(&mut self) -> Result<(), Ext4Error> {
        let (blocks, seen, in_hole) = match &mut self.source {
            Source::Inline(pieces) => {
                match pieces.next() {
                    Some(piece) => {
                        self.block = piece;
                        self.offset_within_block = 0;
                    }
                    None => self.is_done = true,
                }
                return Ok(());
            }
            Source::Blocks {
                blocks,
                seen,
                in_hole,
            } => (blocks, seen, in_hole),
        };

        let Some(block_index) = blocks.next() else {
            self.is_done = true;
            return Ok(());
        };
        // An error here means that the following blocks can't be found.
        let block_index = block_index.inspect_err(|_| self.is_done = true)?;

        let is_first = self.is_first_block;
        self.is_first_block = false;
        if block_index == 0 {
            // Report a hole once, however many blocks it has.
            if !*in_hole {
                *in_hole = true;
                return Err(CorruptKind::DirHole(self.inode).into());
            }
            return Ok(());
        }
        *in_hole = false;
        if !seen.insert(block_index) {
            self.is_done = true;
            return Err(CorruptKind::DirBlockRepeated(self.inode).into());
        }

        let mut block = vec![0; self.fs.0.superblock.block_size.to_usize()];
        DirBlock {
            fs: &self.fs,
            dir_inode: self.inode,
            block_index,
            is_first,
            has_htree: self.has_htree,
            checksum_base: self.checksum_base.clone(),
        }
        .read(&mut block)?;
        self.block = block;
        self.offset_within_block = 0;
        Ok(())
    }
}

impl Debug for ReadDir {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // Only include the path field. This matches the Debug impl for
        // `std::fs::ReadDir`.
        write!(f, r#"ReadDir("{:?}")"#, self.path)
    }
}

// In pseudocode, here's what the iterator is doing:
//
// for block in file {
//   verify_checksum(block);
//   for dir_entry in block {
//     yield dir_entry;
//   }
// }
impl Iterator for ReadDir {
    type Item = Result<DirEntry, Ext4Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_done {
            if let Some(result) = self.next_impl().transpose() {
                return Some(result);
            }
        }
        None
    }
}
