// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::checksum::Checksum;
use crate::error::{CorruptKind, Ext4Error};
use crate::features::IncompatibleFeatures;
use crate::inode::{Inode, InodeFlags, InodeIndex};
use crate::util::{read_u16le, read_u32le, usize_from_u32};
use crate::{Ext4, File};
use alloc::vec;
use alloc::vec::Vec;

/// An extended attribute.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Xattr {
    /// Full name, such as `user.comment`.
    pub name: Vec<u8>,

    /// Value. For access control lists, this is the format of the
    /// `getxattr` system call, not the one on disk.
    pub value: Vec<u8>,
}

/// Magic at the start of the space for attributes, in an inode as well
/// as in a block.
const MAGIC: u32 = 0xea02_0000;

/// Size of the header of a block of attributes.
const BLOCK_HEADER_SIZE: usize = 32;

/// Size of an entry, without its name.
const ENTRY_SIZE: usize = 16;

/// Maximum size of a value, as in the system calls.
const MAX_VALUE_LEN: usize = 65_536;

// Name indices, which stand for prefixes.
const INDEX_ACL_ACCESS: u8 = 2;
const INDEX_ACL_DEFAULT: u8 = 3;
const INDEX_SYSTEM: u8 = 7;

/// Name, after the prefix, of the attribute that holds inline data.
const INLINE_DATA_NAME: &[u8] = b"data";

/// An attribute as it is stored.
struct Entry {
    name_index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Read all attributes of `inode`, except for those that the filesystem
/// uses for itself.
pub(crate) fn read_all(
    fs: &Ext4,
    inode: &Inode,
) -> Result<Vec<Xattr>, Ext4Error> {
    let mut entries = read_from_inode(fs, inode)?;
    entries.extend(read_from_block(fs, inode)?);

    let mut xattrs = Vec::with_capacity(entries.len());
    for entry in entries {
        let corrupt = || CorruptKind::ExtendedAttributes(inode.index);
        let Some(prefix) = prefix(entry.name_index) else {
            continue;
        };
        if entry.name_index == INDEX_SYSTEM && entry.name == INLINE_DATA_NAME {
            continue;
        }
        let is_acl =
            matches!(entry.name_index, INDEX_ACL_ACCESS | INDEX_ACL_DEFAULT);
        xattrs.push(Xattr {
            name: [prefix, &entry.name].concat(),
            value: if is_acl {
                convert_acl(&entry.value).ok_or_else(corrupt)?
            } else {
                entry.value
            },
        });
    }
    Ok(xattrs)
}

/// Read the data that is stored in the inode itself: at first in the
/// space for block indices, then in an attribute.
pub(crate) fn read_inline_data(
    fs: &Ext4,
    inode: &Inode,
) -> Result<Vec<u8>, Ext4Error> {
    let corrupt = || CorruptKind::InlineData(inode.index);
    let len =
        usize::try_from(inode.metadata.size_in_bytes).map_err(|_| corrupt())?;
    let mut data = inode.inline_data.to_vec();
    if len > data.len() {
        data.extend(inline_data_attribute(fs, inode)?);
    }
    if len > data.len() {
        return Err(corrupt().into());
    }
    data.truncate(len);
    Ok(data)
}

/// Read the part of the inline data that is stored in an attribute.
pub(crate) fn inline_data_attribute(
    fs: &Ext4,
    inode: &Inode,
) -> Result<Vec<u8>, Ext4Error> {
    let entries = read_from_inode(fs, inode)?;
    let entry = entries.into_iter().find(|entry| {
        entry.name_index == INDEX_SYSTEM && entry.name == INLINE_DATA_NAME
    });
    Ok(entry.map(|entry| entry.value).unwrap_or_default())
}

/// Get the prefix for a name index. `None` for attributes that the
/// filesystem uses for itself, and never shows.
fn prefix(name_index: u8) -> Option<&'static [u8]> {
    Some(match name_index {
        0 => b"",
        1 => b"user.",
        INDEX_ACL_ACCESS => b"system.posix_acl_access",
        INDEX_ACL_DEFAULT => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        INDEX_SYSTEM => b"system.",
        8 => b"system.richacl",
        10 => b"gnu.",
        _ => return None,
    })
}

/// Read the attributes in the inode itself.
fn read_from_inode(fs: &Ext4, inode: &Inode) -> Result<Vec<Entry>, Ext4Error> {
    let space = &inode.xattr_space;
    if space.len() < size_of::<u32>() || read_u32le(space, 0) != MAGIC {
        return Ok(Vec::new());
    }
    // Values are found relative to the first entry.
    let entries = &space[size_of::<u32>()..];
    read_entries(fs, inode.index, entries, 0)
}

/// Read the attributes in a block that may be shared between inodes.
fn read_from_block(fs: &Ext4, inode: &Inode) -> Result<Vec<Entry>, Ext4Error> {
    if inode.xattr_block == 0 {
        return Ok(Vec::new());
    }
    let mut block = vec![0; fs.0.superblock.block_size.to_usize()];
    fs.read_from_block(inode.xattr_block, 0, &mut block)?;
    if read_u32le(&block, 0) != MAGIC {
        return Err(CorruptKind::ExtendedAttributes(inode.index).into());
    }

    if fs.has_metadata_checksums() {
        const CHECKSUM_OFFSET: usize = 0x10;
        let mut checksum = Checksum::with_seed(fs.0.superblock.checksum_seed);
        checksum.update(&inode.xattr_block.to_le_bytes());
        checksum.update(&block[..CHECKSUM_OFFSET]);
        checksum.update_u32_le(0);
        checksum.update(&block[CHECKSUM_OFFSET + 4..]);
        if checksum.finalize() != read_u32le(&block, CHECKSUM_OFFSET) {
            return Err(
                CorruptKind::ExtendedAttributesChecksum(inode.index).into()
            );
        }
    }
    read_entries(fs, inode.index, &block, BLOCK_HEADER_SIZE)
}

/// Read the entries that start at `offset`. Values are found relative to
/// the start of `bytes`.
fn read_entries(
    fs: &Ext4,
    inode: InodeIndex,
    bytes: &[u8],
    mut offset: usize,
) -> Result<Vec<Entry>, Ext4Error> {
    let corrupt = || CorruptKind::ExtendedAttributes(inode);
    let mut entries = Vec::new();
    loop {
        // The list ends with four zero bytes.
        let rest = bytes.get(offset..).ok_or_else(corrupt)?;
        if rest.len() < size_of::<u32>() || read_u32le(rest, 0) == 0 {
            return Ok(entries);
        }
        if rest.len() < ENTRY_SIZE {
            return Err(corrupt().into());
        }
        let e_name_len = usize::from(rest[0]);
        let e_name_index = rest[1];
        let e_value_offs = usize::from(read_u16le(rest, 2));
        let e_value_inum = read_u32le(rest, 4);
        let e_value_size = usize_from_u32(read_u32le(rest, 8));

        // OK to unwrap: at most 16+255.
        let name_end = ENTRY_SIZE.checked_add(e_name_len).unwrap();
        let name = rest.get(ENTRY_SIZE..name_end).ok_or_else(corrupt)?;
        if e_value_size > MAX_VALUE_LEN {
            return Err(corrupt().into());
        }
        let value = if let Some(value_inode) = InodeIndex::new(e_value_inum) {
            read_value_inode(fs, inode, value_inode, e_value_size)?
        } else {
            let end = e_value_offs.saturating_add(e_value_size);
            bytes.get(e_value_offs..end).ok_or_else(corrupt)?.to_vec()
        };
        entries.push(Entry {
            name_index: e_name_index,
            name: name.to_vec(),
            value,
        });

        // Entries are aligned to four bytes.
        offset = offset.saturating_add(name_end.next_multiple_of(4));
    }
}

/// Read a large value, which is stored as the data of an inode.
fn read_value_inode(
    fs: &Ext4,
    inode: InodeIndex,
    value_inode: InodeIndex,
    len: usize,
) -> Result<Vec<u8>, Ext4Error> {
    let corrupt = || CorruptKind::ExtendedAttributes(inode);
    let has_large =
        fs.0.superblock.incompatible_features.contains(
            IncompatibleFeatures::LARGE_EXTENDED_ATTRIBUTES_IN_INODES,
        );
    let value_inode = Inode::read(fs, value_inode)?;
    if !has_large
        || !value_inode.flags.contains(InodeFlags::EXTENDED_ATTRIBUTES)
        || !value_inode.metadata.file_type.is_regular_file()
    {
        return Err(corrupt().into());
    }
    let mut file = File::open_inode(fs, value_inode)?;
    let mut value = vec![0; len];
    let mut filled = 0;
    while filled < len {
        match file.read_bytes(&mut value[filled..])? {
            0 => return Err(corrupt().into()),
            n => filled = filled.saturating_add(n),
        }
    }
    Ok(value)
}

/// Convert an access control list from the format on disk to that of the
/// system calls.
///
/// On disk, only entries for a certain user or group have an ID. See
/// `ext4_acl_from_disk` in the kernel.
fn convert_acl(disk: &[u8]) -> Option<Vec<u8>> {
    const DISK_VERSION: u32 = 1;
    const SYSTEM_CALL_VERSION: u32 = 2;
    const TAG_USER: u16 = 0x02;
    const TAG_GROUP: u16 = 0x08;
    const NO_ID: u32 = u32::MAX;

    if disk.len() < size_of::<u32>() || read_u32le(disk, 0) != DISK_VERSION {
        return None;
    }
    let mut rest = &disk[size_of::<u32>()..];
    let mut acl = SYSTEM_CALL_VERSION.to_le_bytes().to_vec();
    while !rest.is_empty() {
        let tag_and_permissions = rest.get(..4)?;
        acl.extend(tag_and_permissions);
        rest = &rest[4..];
        let tag = read_u16le(tag_and_permissions, 0);
        if tag == TAG_USER || tag == TAG_GROUP {
            acl.extend(rest.get(..4)?);
            rest = &rest[4..];
        } else {
            acl.extend(NO_ID.to_le_bytes());
        }
    }
    Some(acl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_convert_acl() {
        let disk = [
            [1, 0, 0, 0],
            [1, 0, 6, 0],
            [2, 0, 4, 0],
            [0xe8, 3, 0, 0],
            [4, 0, 4, 0],
        ]
        .concat();
        let acl = [
            [2, 0, 0, 0],
            [1, 0, 6, 0],
            [0xff; 4],
            [2, 0, 4, 0],
            [0xe8, 3, 0, 0],
            [4, 0, 4, 0],
            [0xff; 4],
        ]
        .concat();
        assert_eq!(convert_acl(&disk), Some(acl));
        assert_eq!(convert_acl(&disk[..10]), None);
        assert_eq!(convert_acl(&[2, 0, 0, 0]), None);
    }
}
