// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::Ext4;
use crate::block_group::BlockGroupDescriptor;
use crate::block_index::FsBlockIndex;
use crate::checksum::Checksum;
use crate::error::{CorruptKind, Ext4Error};
use crate::features::{IncompatibleFeatures, ReadOnlyCompatibleFeatures};
use crate::file_type::FileType;
use crate::metadata::Metadata;
use crate::path::PathBuf;
use crate::timestamp::Timestamp;
use crate::util::{
    read_u16le, read_u32le, u32_from_hilo, u64_from_hilo, usize_from_u32,
};
use alloc::vec;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::num::NonZeroU32;

/// Inode index.
///
/// This is always nonzero.
pub type InodeIndex = NonZeroU32;

bitflags! {
    /// Inode flags.
    #[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
    pub(crate) struct InodeFlags: u32 {
        /// File is immutable.
        const IMMUTABLE = 0x10;

        /// Directory, file or symlink is encrypted.
        const ENCRYPTED = 0x800;

        /// Directory has hashed indexes.
        const DIRECTORY_HTREE = 0x1000;

        /// File is huge.
        const HUGE_FILE = 0x4_0000;

        /// Inode uses extents.
        const EXTENTS = 0x8_0000;

        /// Verity protected data.
        const VERITY = 0x10_0000;

        /// Inode stores a large extended attribute value in its data blocks.
        const EXTENDED_ATTRIBUTES = 0x20_0000;

        /// Inode has inline data.
        const INLINE_DATA = 0x1000_0000;

        // TODO: other flags
    }
}

bitflags! {
    /// Inode mode.
    ///
    /// The mode bitfield stores file permissions in the lower bits and
    /// file type in the upper bits.
    #[derive(Clone, Copy, Debug, Eq, PartialEq, Ord, PartialOrd, Hash)]
    pub(crate) struct InodeMode: u16 {
        const S_IXOTH = 0x0001;
        const S_IWOTH = 0x0002;
        const S_IROTH = 0x0004;

        const S_IXGRP = 0x0008;
        const S_IWGRP = 0x0010;
        const S_IRGRP = 0x0020;

        const S_IXUSR = 0x0040;
        const S_IWUSR = 0x0080;
        const S_IRUSR = 0x0100;

        const S_ISVTX = 0x0200;

        const S_ISGID = 0x0400;
        const S_ISUID = 0x0800;

        // Mutually-exclusive file types:
        const S_IFIFO = 0x1000;
        const S_IFCHR = 0x2000;
        const S_IFDIR = 0x4000;
        const S_IFBLK = 0x6000;
        const S_IFREG = 0x8000;
        const S_IFLNK = 0xA000;
        const S_IFSOCK = 0xC000;
    }
}

/// An inode: a file of any type, whatever names it has.
#[derive(Clone, Debug)]
pub struct Inode {
    /// This inode's index.
    pub(crate) index: InodeIndex,

    /// Various kinds of file data can be stored within the inode, including:
    /// * The root node of the extent tree.
    /// * Target path for symlinks.
    pub(crate) inline_data: [u8; Self::INLINE_DATA_LEN],

    pub(crate) metadata: Metadata,

    /// Internal inode flags.
    pub(crate) flags: InodeFlags,

    /// Checksum seed used in various places.
    pub(crate) checksum_base: Checksum,

    /// Block with extended attributes, or zero.
    pub(crate) xattr_block: FsBlockIndex,

    /// Space within the inode, after all fields, for extended
    /// attributes. May be empty.
    pub(crate) xattr_space: Vec<u8>,

    /// Number of blocks in the file (including holes).
    file_size_in_blocks: u32,
}

impl Inode {
    /// Get the inode's index.
    #[must_use]
    pub fn index(&self) -> InodeIndex {
        self.index
    }

    /// Get the inode's metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    const INLINE_DATA_LEN: usize = 60;
    /// Size of an inode without any extra fields.
    const BASE_SIZE: usize = 128;
    const I_EXTRA_ISIZE_OFFSET: usize = 0x80;
    const L_I_CHECKSUM_LO_OFFSET: usize = 0x74 + 0x8;
    const I_CHECKSUM_HI_OFFSET: usize = 0x82;
    const I_CTIME_EXTRA_OFFSET: usize = 0x84;
    const I_MTIME_EXTRA_OFFSET: usize = 0x88;
    const I_ATIME_EXTRA_OFFSET: usize = 0x8c;
    const I_CRTIME_OFFSET: usize = 0x90;
    const I_CRTIME_EXTRA_OFFSET: usize = 0x94;
    const I_PROJID_OFFSET: usize = 0x9c;

    /// Load an inode from `bytes`.
    ///
    /// If successful, returns a tuple containing the inode and its
    /// checksum field.
    fn from_bytes(
        ext4: &Ext4,
        index: InodeIndex,
        data: &[u8],
    ) -> Result<(Self, u32), Ext4Error> {
        // Inodes must be at least 128 bytes.
        if data.len() < 128 {
            return Err(CorruptKind::InodeTruncated {
                inode: index,
                size: data.len(),
            }
            .into());
        }

        let i_mode = read_u16le(data, 0x0);
        let i_uid = read_u16le(data, 0x2);
        let i_size_lo = read_u32le(data, 0x4);
        let i_atime = read_u32le(data, 0x8);
        let i_ctime = read_u32le(data, 0xc);
        let i_mtime = read_u32le(data, 0x10);
        let i_gid = read_u16le(data, 0x18);
        let i_links_count = read_u16le(data, 0x1a);
        let i_blocks_lo = read_u32le(data, 0x1c);
        let i_flags = read_u32le(data, 0x20);
        // OK to unwrap: already checked the length.
        let i_block = data.get(0x28..0x28 + Self::INLINE_DATA_LEN).unwrap();
        let i_generation = read_u32le(data, 0x64);
        let i_file_acl_lo = read_u32le(data, 0x68);
        let i_size_high = read_u32le(data, 0x6c);
        let l_i_blocks_high = read_u16le(data, 0x74);
        let l_i_file_acl_high = read_u16le(data, 0x74 + 0x2);
        let l_i_uid_high = read_u16le(data, 0x74 + 0x4);
        let l_i_gid_high = read_u16le(data, 0x74 + 0x6);
        let extra_end = extra_fields_end(index, data)?;
        // Read one of the fields after the base inode, if it is there.
        let extra_field = |offset: usize| {
            let end = offset.checked_add(size_of::<u32>())?;
            (end <= extra_end).then(|| read_u32le(data, offset))
        };

        let l_i_checksum_lo = read_u16le(data, Self::L_I_CHECKSUM_LO_OFFSET);
        let i_checksum_hi = if has_checksum_hi(extra_end) {
            read_u16le(data, Self::I_CHECKSUM_HI_OFFSET)
        } else {
            0
        };

        // Extra timestamps fields & creation time if inode large enough.
        let i_atime_extra = extra_field(Self::I_ATIME_EXTRA_OFFSET);
        let i_ctime_extra = extra_field(Self::I_CTIME_EXTRA_OFFSET);
        let i_mtime_extra = extra_field(Self::I_MTIME_EXTRA_OFFSET);
        let crtime = match extra_field(Self::I_CRTIME_OFFSET) {
            Some(i_crtime) => Some(
                Timestamp::from_raw(
                    i_crtime,
                    extra_field(Self::I_CRTIME_EXTRA_OFFSET),
                )
                .map_err(|_| CorruptKind::InodeTimestamp { inode: index })?,
            ),
            None => None,
        };

        let atime = Timestamp::from_raw(i_atime, i_atime_extra)
            .map_err(|_| CorruptKind::InodeTimestamp { inode: index })?;
        let ctime = Timestamp::from_raw(i_ctime, i_ctime_extra)
            .map_err(|_| CorruptKind::InodeTimestamp { inode: index })?;
        let mtime = Timestamp::from_raw(i_mtime, i_mtime_extra)
            .map_err(|_| CorruptKind::InodeTimestamp { inode: index })?;

        let sb = &ext4.0.superblock;
        let mode = InodeMode::from_bits_retain(i_mode);
        let flags = InodeFlags::from_bits_retain(i_flags);
        let file_type = FileType::try_from(mode)
            .map_err(|_| CorruptKind::InodeFileType { inode: index, mode })?;

        // Originally, the high bits were another field if the inode is not
        // a regular file.
        let has_size_high = file_type.is_regular_file()
            || (file_type.is_dir()
                && sb
                    .incompatible_features
                    .contains(IncompatibleFeatures::LARGE_DIRECTORIES));
        let size_in_bytes = if has_size_high {
            u64_from_hilo(i_size_high, i_size_lo)
        } else {
            u64::from(i_size_lo)
        };
        // Without the feature, the field means nothing.
        let has_projects = sb
            .read_only_compatible_features
            .contains(ReadOnlyCompatibleFeatures::PROJECT_QUOTAS);
        let project = if has_projects {
            extra_field(Self::I_PROJID_OFFSET).unwrap_or_default()
        } else {
            0
        };
        let uid = u32_from_hilo(l_i_uid_high, i_uid);
        let gid = u32_from_hilo(l_i_gid_high, i_gid);
        let checksum = u32_from_hilo(i_checksum_hi, l_i_checksum_lo);

        let mut checksum_base =
            Checksum::with_seed(ext4.0.superblock.checksum_seed);
        checksum_base.update_u32_le(index.get());
        checksum_base.update_u32_le(i_generation);

        let file_size_in_blocks: u32 = size_in_bytes
            // Round up.
            .div_ceil(sb.block_size.to_u64())
            // Ext4 allows at most `2^32` blocks in a file.
            .try_into()
            .map_err(|_| CorruptKind::TooManyBlocksInFile)?;

        // Allocated size, in units of 512 bytes unless the file is huge.
        let has_huge_files = sb
            .read_only_compatible_features
            .contains(ReadOnlyCompatibleFeatures::HUGE_FILES);
        let allocated_in_bytes = if !has_huge_files {
            u64::from(i_blocks_lo).saturating_mul(512)
        } else {
            let blocks = u64_from_hilo(u32::from(l_i_blocks_high), i_blocks_lo);
            blocks.saturating_mul(if flags.contains(InodeFlags::HUGE_FILE) {
                sb.block_size.to_u64()
            } else {
                512
            })
        };

        let xattr_block = if sb
            .incompatible_features
            .contains(IncompatibleFeatures::IS_64BIT)
        {
            u64_from_hilo(u32::from(l_i_file_acl_high), i_file_acl_lo)
        } else {
            u64::from(i_file_acl_lo)
        };

        Ok((
            Self {
                index,
                // OK to unwap, we know `i_block` is 60 bytes.
                inline_data: i_block.try_into().unwrap(),
                metadata: Metadata {
                    inode_index: index,
                    size_in_bytes,
                    allocated_in_bytes,
                    links: i_links_count,
                    mode,
                    uid,
                    gid,
                    file_type,
                    atime,
                    ctime,
                    mtime,
                    crtime,
                    flags: i_flags,
                    project,
                    device: device_number(file_type, i_block),
                },
                flags,
                xattr_block,
                xattr_space: data[extra_end..].to_vec(),
                checksum_base,
                file_size_in_blocks,
            },
            checksum,
        ))
    }

    /// Read an inode.
    pub(crate) fn read(
        ext4: &Ext4,
        inode: InodeIndex,
    ) -> Result<Self, Ext4Error> {
        let (block_index, offset_within_block) =
            get_inode_location(ext4, inode)?;

        let mut data = vec![0; usize::from(ext4.0.superblock.inode_size)];
        ext4.read_from_block(block_index, offset_within_block, &mut data)?;

        let (inode, expected_checksum) = Self::from_bytes(ext4, inode, &data)?;

        // Verify the inode checksum.
        if ext4.has_metadata_checksums() {
            let mut checksum = inode.checksum_base.clone();

            // Hash all the inode data, but treat the two checksum
            // fields as zeroes.

            // Up to the l_i_checksum_lo field.
            checksum.update(&data[..Self::L_I_CHECKSUM_LO_OFFSET]);

            // Zero'd field.
            checksum.update_u16_le(0);

            // Up to the end of the base inode.
            checksum.update(
                &data[Self::L_I_CHECKSUM_LO_OFFSET + 2..Self::BASE_SIZE],
            );

            let has_checksum_hi =
                has_checksum_hi(extra_fields_end(inode.index, &data)?);
            if has_checksum_hi {
                // Up to the i_checksum_hi field.
                checksum
                    .update(&data[Self::BASE_SIZE..Self::I_CHECKSUM_HI_OFFSET]);

                // Zero'd field.
                checksum.update_u16_le(0);

                // Rest of the inode.
                checksum.update(&data[Self::I_CHECKSUM_HI_OFFSET + 2..]);
            } else {
                checksum.update(&data[Self::BASE_SIZE..]);
            }

            let mut actual_checksum = checksum.finalize();
            if !has_checksum_hi {
                // Only the lower half is stored.
                actual_checksum &= 0xffff;
            }
            if actual_checksum != expected_checksum {
                return Err(CorruptKind::InodeChecksum(inode.index).into());
            }
        }

        Ok(inode)
    }

    pub(crate) fn symlink_target(
        &self,
        ext4: &Ext4,
    ) -> Result<PathBuf, Ext4Error> {
        PathBuf::try_from(self.symlink_target_bytes(ext4)?)
            .map_err(|_| CorruptKind::SymlinkTarget(self.index).into())
    }

    pub(crate) fn symlink_target_bytes(
        &self,
        ext4: &Ext4,
    ) -> Result<Vec<u8>, Ext4Error> {
        if !self.metadata.is_symlink() {
            return Err(Ext4Error::NotASymlink);
        }
        if self.flags.contains(InodeFlags::ENCRYPTED) {
            return Err(Ext4Error::Encrypted);
        }

        // An empty symlink target is not allowed, nor is one that is
        // larger than a block.
        let size_in_bytes = self.metadata.size_in_bytes;
        if size_in_bytes == 0
            || size_in_bytes > ext4.0.superblock.block_size.to_u64()
        {
            return Err(CorruptKind::SymlinkTarget(self.index).into());
        }

        // Symlink targets of up to 59 bytes are stored inline. Longer
        // targets are stored as regular file data.
        const MAX_INLINE_SYMLINK_LEN: u64 = 59;

        if size_in_bytes <= MAX_INLINE_SYMLINK_LEN
            && !self
                .flags
                .intersects(InodeFlags::EXTENTS | InodeFlags::INLINE_DATA)
        {
            // OK to unwrap since we checked the size above.
            let len = usize::try_from(size_in_bytes).unwrap();
            Ok(self.inline_data[..len].to_vec())
        } else {
            ext4.read_inode_file(self)
        }
    }

    /// Get the number of blocks in the file.
    ///
    /// If the file size is not an even multiple of the block size,
    /// round up.
    ///
    /// # Errors
    ///
    /// Ext4 allows at most `2^32` blocks in a file. Returns
    /// `CorruptKind::TooManyBlocksInFile` if that limit is exceeded.
    pub(crate) fn file_size_in_blocks(&self) -> u32 {
        self.file_size_in_blocks
    }
}

/// End of the fields of an inode; what follows is for extended
/// attributes.
fn extra_fields_end(
    inode: InodeIndex,
    data: &[u8],
) -> Result<usize, CorruptKind> {
    if data.len() <= Inode::BASE_SIZE {
        return Ok(Inode::BASE_SIZE);
    }
    let i_extra_isize =
        usize::from(read_u16le(data, Inode::I_EXTRA_ISIZE_OFFSET));
    // OK to unwrap: a `u16` plus 128 always fits in a `usize`.
    let end = Inode::BASE_SIZE.checked_add(i_extra_isize).unwrap();
    if end > data.len() || i_extra_isize % 4 != 0 {
        return Err(CorruptKind::InodeTruncated {
            inode,
            size: data.len(),
        });
    }
    Ok(end)
}

/// Whether the upper half of the checksum is stored.
fn has_checksum_hi(extra_end: usize) -> bool {
    extra_end >= Inode::I_CHECKSUM_HI_OFFSET + 2
}

/// Decode the device number that is stored instead of block indices.
///
/// See `old_decode_dev` and `new_decode_dev` in the kernel.
fn device_number(file_type: FileType, i_block: &[u8]) -> Option<(u32, u32)> {
    if !file_type.is_block_dev() && !file_type.is_char_dev() {
        return None;
    }
    let old = read_u32le(i_block, 0);
    if old != 0 {
        return Some(((old >> 8) & 0xff, old & 0xff));
    }
    let new = read_u32le(i_block, 4);
    let major = (new >> 8) & 0xfff;
    let minor = (new & 0xff) | ((new >> 12) & 0xf_ff00);
    Some((major, minor))
}

/// Get an inode's location: block index and offset within that block.
/// Note that this is the location of the inode itself, not the file
/// data associated with the inode.
fn get_inode_location(
    ext4: &Ext4,
    inode: InodeIndex,
) -> Result<(FsBlockIndex, u32), Ext4Error> {
    let sb = &ext4.0.superblock;

    // OK to unwrap: `inode` is nonzero.
    let inode_minus_1 = inode.get().checked_sub(1).unwrap();

    let block_group_index = inode_minus_1 / sb.inodes_per_block_group;

    if block_group_index >= sb.num_block_groups {
        return Err(CorruptKind::InodeBlockGroup {
            inode,
            block_group: block_group_index,
            num_block_groups: usize_from_u32(sb.num_block_groups),
        }
        .into());
    }
    let group = BlockGroupDescriptor::read(ext4, block_group_index)?;

    let index_within_group = inode_minus_1 % sb.inodes_per_block_group;

    let err = || CorruptKind::InodeLocation {
        inode,
        block_group: block_group_index,
        inodes_per_block_group: sb.inodes_per_block_group,
        inode_size: sb.inode_size,
        block_size: sb.block_size,
        inode_table_first_block: group.inode_table_first_block,
    };

    let byte_offset_within_group = u64::from(index_within_group)
        .checked_mul(u64::from(sb.inode_size))
        .ok_or_else(err)?;

    let byte_offset_of_group = sb
        .block_size
        .to_u64()
        .checked_mul(group.inode_table_first_block)
        .ok_or_else(err)?;

    // Absolute byte index of the inode.
    let start_byte = byte_offset_of_group
        .checked_add(byte_offset_within_group)
        .ok_or_else(err)?;

    let block_index = start_byte / sb.block_size.to_nz_u64();
    let offset_within_block =
        u32::try_from(start_byte % sb.block_size.to_nz_u64())
            .map_err(|_| err())?;

    Ok((block_index, offset_within_block))
}
