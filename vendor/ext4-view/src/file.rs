// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::Ext4;
use crate::error::Ext4Error;
use crate::extent::Extent;
use crate::inode::{Inode, InodeFlags};
use crate::iters::file_blocks::FileMap;
use crate::metadata::Metadata;
use crate::path::Path;
use crate::resolve::FollowSymlinks;
use crate::xattr::read_inline_data;
use alloc::vec::Vec;
use core::fmt::{self, Debug, Formatter};

#[cfg(feature = "std")]
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

/// An open file within an [`Ext4`] filesystem.
pub struct File {
    fs: Ext4,
    inode: Inode,
    data: FileData,

    /// Current byte offset within the file.
    position: u64,
}

/// Where the data of a file is.
#[allow(clippy::large_enum_variant)]
enum FileData {
    /// In the inode itself.
    Inline(Vec<u8>),

    /// In blocks.
    Blocks {
        map: FileMap,

        /// The extent that contains the current position, or lies
        /// behind it. `None` if there are no more extents.
        extent: Option<Extent>,
    },
}

impl File {
    /// Open the file at `path`.
    pub(crate) fn open(fs: &Ext4, path: Path<'_>) -> Result<Self, Ext4Error> {
        let inode = fs.path_to_inode(path, FollowSymlinks::All)?;

        if inode.metadata.is_dir() {
            return Err(Ext4Error::IsADirectory);
        }
        if !inode.metadata.file_type.is_regular_file() {
            return Err(Ext4Error::IsASpecialFile);
        }

        Self::open_inode(fs, inode)
    }

    /// Open `inode`. Note that unlike `File::open`, this allows any
    /// type of `inode` to be opened, including directories and
    /// symlinks. This is used by `Ext4::read_inode_file`.
    pub(crate) fn open_inode(
        fs: &Ext4,
        inode: Inode,
    ) -> Result<Self, Ext4Error> {
        if inode.flags.contains(InodeFlags::ENCRYPTED) {
            return Err(Ext4Error::Encrypted);
        }
        Ok(Self {
            data: FileData::new(fs, &inode, 0)?,
            fs: fs.clone(),
            position: 0,
            inode,
        })
    }

    /// Get the file metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.inode.metadata
    }

    /// Read bytes from the file into `buf`, returning how many bytes
    /// were read. The number may be smaller than the length of the
    /// input buffer.
    ///
    /// This advances the position of the file by the number of bytes
    /// read, so calling `read_bytes` repeatedly can be used to read the
    /// entire file.
    ///
    /// At most one extent of the file is read at a time, and as much of
    /// that as fits in `buf`.
    ///
    /// Returns `Ok(0)` if the end of the file has been reached.
    pub fn read_bytes(
        &mut self,
        mut buf: &mut [u8],
    ) -> Result<usize, Ext4Error> {
        // Nothing to do if output buffer is empty.
        if buf.is_empty() {
            return Ok(0);
        }

        // Nothing to do if already at the end of the file.
        if self.position >= self.inode.metadata.size_in_bytes {
            return Ok(0);
        }

        // Get the number of bytes remaining in the file, starting from
        // the current `position`.
        //
        // OK to unwrap: just checked that `position` is less than the
        // file size.
        let bytes_remaining = self
            .inode
            .metadata
            .size_in_bytes
            .checked_sub(self.position)
            .unwrap();

        // If the the number of bytes remaining is less than the output
        // buffer length, shrink the buffer.
        //
        // If the conversion to `usize` fails, the output buffer is
        // definitely not larger than the remaining bytes to read.
        if let Ok(bytes_remaining) = usize::try_from(bytes_remaining) {
            if buf.len() > bytes_remaining {
                buf = &mut buf[..bytes_remaining];
            }
        }

        let len = match &mut self.data {
            FileData::Inline(data) => {
                // OK to unwrap: the position is less than the size of
                // the file, which is that of `data`.
                let start = usize::try_from(self.position).unwrap();
                let end = start.checked_add(buf.len()).unwrap();
                buf.copy_from_slice(&data[start..end]);
                buf.len()
            }
            FileData::Blocks { map, extent } => {
                read_blocks(&self.fs, map, extent, self.position, buf)?
            }
        };

        // OK to unwrap: the position is at most the length of the file,
        // which fits in a `u64`.
        let advance = u64::try_from(len).unwrap();
        self.position = self.position.checked_add(advance).unwrap();

        Ok(len)
    }

    /// Current position within the file.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Seek from the start of the file to `position`.
    ///
    /// Seeking past the end of the file is allowed.
    pub fn seek_to(&mut self, position: u64) -> Result<(), Ext4Error> {
        if let FileData::Blocks { .. } = self.data {
            self.data = FileData::new(&self.fs, &self.inode, position)?;
        }
        self.position = position;

        Ok(())
    }
}

impl FileData {
    fn new(fs: &Ext4, inode: &Inode, position: u64) -> Result<Self, Ext4Error> {
        if inode.flags.contains(InodeFlags::INLINE_DATA) {
            return Ok(Self::Inline(read_inline_data(fs, inode)?));
        }
        let block = position / fs.0.superblock.block_size.to_nz_u64();
        // Past the last possible block, there is nothing to read.
        let block = u32::try_from(block).unwrap_or(u32::MAX);
        let mut map = FileMap::starting_at(fs.clone(), inode, block)?;
        let extent = map.next().transpose()?;
        Ok(Self::Blocks { map, extent })
    }
}

/// Read data at `position` from an extent, or zeros from a hole. Returns
/// the number of bytes read, which is at least one.
fn read_blocks(
    fs: &Ext4,
    map: &mut FileMap,
    current: &mut Option<Extent>,
    position: u64,
    buf: &mut [u8],
) -> Result<usize, Ext4Error> {
    let block_size = fs.0.superblock.block_size.to_u64();

    // Find the extent that contains the position, or the next one.
    let extent = loop {
        let Some(extent) = *current else {
            // The rest of the file is a hole.
            buf.fill(0);
            return Ok(buf.len());
        };
        if position < extent.end_within_file().saturating_mul(block_size) {
            break extent;
        }
        *current = map.next().transpose()?;
    };

    let start = u64::from(extent.block_within_file).saturating_mul(block_size);
    let (is_hole, end) = if position < start {
        (true, start)
    } else {
        let end = extent.end_within_file().saturating_mul(block_size);
        (!extent.is_initialized, end)
    };

    let remaining = end.saturating_sub(position);
    let len = usize::try_from(remaining)
        .unwrap_or(usize::MAX)
        .min(buf.len());
    let buf = &mut buf[..len];
    if is_hole {
        buf.fill(0);
    } else {
        let offset = position.saturating_sub(start);
        fs.read_contiguous(extent.start_block, offset, buf)?;
    }
    Ok(len)
}

impl Debug for File {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            // Just show the index from `self.inode`, the full `Inode`
            // output is verbose.
            .field("inode", &self.inode.index)
            .field("position", &self.position)
            // Don't show all fields, as that would make the output less
            // readable.
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "std")]
impl Read for File {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.read_bytes(buf)?)
    }
}

#[cfg(feature = "std")]
impl Seek for File {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        let pos = match pos {
            SeekFrom::Start(pos) => pos,
            SeekFrom::End(offset) => {
                // file_size + offset:
                i64::try_from(self.inode.metadata.size_in_bytes)
                    .ok()
                    .and_then(|pos| pos.checked_add(offset))
                    .and_then(|pos| pos.try_into().ok())
                    .ok_or(ErrorKind::InvalidInput)?
            }
            SeekFrom::Current(offset) => {
                // current_pos + offset:
                i64::try_from(self.position)
                    .ok()
                    .and_then(|pos| pos.checked_add(offset))
                    .and_then(|pos| pos.try_into().ok())
                    .ok_or(ErrorKind::InvalidInput)?
            }
        };

        self.seek_to(pos)?;

        Ok(self.position)
    }
}
