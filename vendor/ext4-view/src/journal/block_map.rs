// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::block_index::FsBlockIndex;
use crate::error::{Corrupt, CorruptKind, Ext4Error};
use crate::journal::block_header::{JournalBlockHeader, JournalBlockType};
use crate::journal::commit_block::{
    TransactionChecksum, is_commit_block_valid,
};
use crate::journal::descriptor_block::{
    DescriptorBlockTagIter, is_tail_checksum_valid,
};
use crate::journal::log::Log;
use crate::journal::revocation_block::read_revocation_block_table;
use crate::journal::{BlockMap, JournalBlock, JournalSummary};
use crate::util::{read_u16le, read_u32le};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;

/// Read the block map from the journal.
///
/// A transaction that is not complete ends the journal. Its changes are
/// discarded, as they would be by the kernel.
pub(super) fn load_block_map(
    log: &Log<'_>,
) -> Result<(BlockMap, JournalSummary), Ext4Error> {
    let mut loader = BlockMapLoader::new(log);

    // If the start is zero, everything in the journal has been written
    // to its place.
    if log.superblock.start_block != 0 {
        loader.read_log()?;
    }
    let has_fast_commits = loader.has_fast_commits()?;

    let summary = JournalSummary {
        transactions: loader.num_transactions,
        blocks: loader.block_map.len(),
        cut_short_by: loader.cut_short_by,
        has_fast_commits,
    };
    Ok((loader.block_map, summary))
}

/// Private struct to help create a `BlockMap` from the journal.
struct BlockMapLoader<'a> {
    log: &'a Log<'a>,

    /// This block map is the output of the loader.
    block_map: BlockMap,

    /// Number of transactions that have been added to `block_map`.
    num_transactions: u32,

    /// Why the log can't be read further, if that is not its end.
    cut_short_by: Option<Corrupt>,

    /// Sequence number of the current transaction. The initial value
    /// comes from the superblock, and is incremented when a commit block
    /// is reached. Each journal block also contains the sequence number.
    sequence: u32,

    /// Index, within the journal, of the next block.
    next: u32,

    /// Number of blocks that can be read until the log is back where it
    /// started.
    remaining: u32,

    /// Buffers for a block with a header, and for a data block.
    block: Vec<u8>,
    data_block: Vec<u8>,
}

/// A transaction whose commit block hasn't been reached.
struct Transaction {
    blocks: Vec<(FsBlockIndex, JournalBlock)>,
    revoked: Vec<FsBlockIndex>,
    checksum: TransactionChecksum,

    /// The first checksum that doesn't match. If the transaction is
    /// committed after all, the journal is corrupt.
    corrupt: Option<CorruptKind>,
}

impl Transaction {
    fn new() -> Self {
        Self {
            blocks: Vec::new(),
            revoked: Vec::new(),
            checksum: TransactionChecksum::new(),
            corrupt: None,
        }
    }
}

impl<'a> BlockMapLoader<'a> {
    fn new(log: &'a Log<'a>) -> Self {
        let block_size = log.fs.0.superblock.block_size.to_usize();
        Self {
            log,
            block_map: BlockMap::new(),
            num_transactions: 0,
            cut_short_by: None,
            sequence: log.superblock.sequence,
            next: log.superblock.start_block,
            remaining: log.len(),
            block: vec![0; block_size],
            data_block: vec![0; block_size],
        }
    }

    /// Read all transactions.
    ///
    /// A block that was revoked must not be replaced with what this or
    /// an earlier transaction has for it, since it was freed, and may
    /// have been reused for something that is not in the journal. This
    /// can only be decided when all transactions are known.
    fn read_log(&mut self) -> Result<(), Ext4Error> {
        let mut transactions = Vec::new();
        let mut revoked_by = BTreeMap::new();
        while let Some(transaction) = self.read_transaction()? {
            for block_index in transaction.revoked {
                revoked_by.insert(block_index, transactions.len());
            }
            transactions.push(transaction.blocks);
            self.num_transactions = self.num_transactions.saturating_add(1);
        }

        for (nth, blocks) in transactions.into_iter().enumerate() {
            self.block_map
                .extend(blocks.into_iter().filter(|(block, _)| {
                    revoked_by.get(block).is_none_or(|&by| by < nth)
                }));
        }
        Ok(())
    }

    /// Read the next transaction, up to its commit block. Returns `None`
    /// at the end of the log.
    fn read_transaction(&mut self) -> Result<Option<Transaction>, Ext4Error> {
        let mut transaction = Transaction::new();
        loop {
            let Some(index) = self.advance() else {
                return Ok(None);
            };
            self.log.read(index, &mut self.block)?;
            let Some(header) = JournalBlockHeader::read_bytes(&self.block)
            else {
                return Ok(None);
            };
            // The log goes on with older blocks that have been written
            // to their place.
            if header.sequence != self.sequence {
                return Ok(None);
            }

            match header.block_type {
                JournalBlockType::DESCRIPTOR => {
                    if !self.read_descriptor_block(&mut transaction)? {
                        return Ok(None);
                    }
                }
                JournalBlockType::REVOCATION => {
                    self.read_revocation_block(&mut transaction);
                }
                JournalBlockType::COMMIT => {
                    return Ok(self.commit(transaction));
                }
                _ => return Ok(None),
            }
        }
    }

    /// Get the index within the journal of the next block, and move past
    /// it.
    fn advance(&mut self) -> Option<u32> {
        self.remaining = self.remaining.checked_sub(1)?;
        let index = self.next;
        self.next = self.log.next(index);
        Some(index)
    }

    /// Read a descriptor block, and the data blocks that follow it.
    ///
    /// Each descriptor block contains an array of tags, one for each
    /// data block following the descriptor block. Each data block will
    /// replace a block within the ext4 filesystem.
    ///
    /// Returns false at the end of the log.
    fn read_descriptor_block(
        &mut self,
        transaction: &mut Transaction,
    ) -> Result<bool, Ext4Error> {
        let superblock = self.log.superblock;
        transaction.checksum.update(&self.block);
        if !is_tail_checksum_valid(superblock, &self.block) {
            transaction
                .corrupt
                .get_or_insert(CorruptKind::JournalDescriptorBlockChecksum);
        }

        // OK to unwrap: minimum block length is 1024.
        let end = self
            .block
            .len()
            .checked_sub(superblock.block_tail_size())
            .unwrap();
        let bytes = self.block[JournalBlockHeader::SIZE..end].to_vec();
        for tag in DescriptorBlockTagIter::new(superblock, &bytes) {
            let Some(index) = self.advance() else {
                return Ok(false);
            };
            let block_index = self.log.read(index, &mut self.data_block)?;
            transaction.checksum.update(&self.data_block);
            if !tag.is_data_valid(superblock, self.sequence, &self.data_block) {
                transaction
                    .corrupt
                    .get_or_insert(CorruptKind::JournalDescriptorTagChecksum);
            }
            let replacement = JournalBlock {
                block_index,
                is_escaped: tag.is_escaped(),
            };
            transaction.blocks.push((tag.block_index, replacement));
        }
        Ok(true)
    }

    fn read_revocation_block(&mut self, transaction: &mut Transaction) {
        let superblock = self.log.superblock;
        let result = if is_tail_checksum_valid(superblock, &self.block) {
            read_revocation_block_table(
                superblock,
                &self.block,
                &mut transaction.revoked,
            )
        } else {
            Err(CorruptKind::JournalRevocationBlockChecksum)
        };
        if let Err(kind) = result {
            transaction.corrupt.get_or_insert(kind);
        }
    }

    /// Finish the transaction whose commit block is in `block`.
    ///
    /// Returns `None` if the transaction is corrupt.
    fn commit(&mut self, mut transaction: Transaction) -> Option<Transaction> {
        let superblock = self.log.superblock;
        let checksum = core::mem::replace(
            &mut transaction.checksum,
            TransactionChecksum::new(),
        );
        let is_valid = is_commit_block_valid(superblock, &self.block)
            && (!superblock.has_checksum_v1 || checksum.matches(&self.block));
        if !is_valid {
            transaction
                .corrupt
                .get_or_insert(CorruptKind::JournalCommitBlockChecksum);
        }
        if let Some(kind) = transaction.corrupt.take() {
            // With asynchronous commits, a commit block can be written
            // before the rest of its transaction, so that this is the
            // end of the log.
            if !superblock.has_async_commits() {
                self.cut_short_by = Some(kind.into());
            }
            return None;
        }
        self.sequence = self.sequence.wrapping_add(1);
        Some(transaction)
    }

    /// Whether there are fast commits that belong to the transaction
    /// after the last one.
    ///
    /// See `ext4_fc_replay_scan` in the kernel.
    fn has_fast_commits(&mut self) -> Result<bool, Ext4Error> {
        const TAG_HEAD: u16 = 9;
        const TAG_LEN: u16 = 8;

        let Some(start) = self.log.fast_commit_start() else {
            return Ok(false);
        };
        self.log.read(start, &mut self.block)?;
        // A tag, its length, the features and the sequence number. These
        // are little-endian, unlike the rest of the journal.
        Ok(read_u16le(&self.block, 0) == TAG_HEAD
            && read_u16le(&self.block, 2) == TAG_LEN
            && read_u32le(&self.block, 8) == self.sequence)
    }
}
