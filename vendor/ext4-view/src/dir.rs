// Copyright 2024 Google LLC
//
// Licensed under the Apache License, Version 2.0 <LICENSE-APACHE or
// https://www.apache.org/licenses/LICENSE-2.0> or the MIT license
// <LICENSE-MIT or https://opensource.org/licenses/MIT>, at your
// option. This file may not be copied, modified, or distributed
// except according to those terms.

use crate::Ext4;
use crate::dir_entry::DirEntryName;
use crate::dir_htree::get_dir_entry_via_htree;
use crate::error::Ext4Error;
use crate::inode::{Inode, InodeFlags, InodeIndex};

/// Search a directory inode for an entry with the given `name`. If
/// found, return the entry's inode, otherwise return a `NotFound`
/// error.
pub(crate) fn get_dir_entry_inode_by_name(
    fs: &Ext4,
    dir_inode: &Inode,
    name: DirEntryName<'_>,
) -> Result<Inode, Ext4Error> {
    let index = get_dir_entry_index_by_name(fs, dir_inode, name)?;
    Inode::read(fs, index)
}

/// Search a directory inode for an entry with the given `name`. If
/// found, return the index of the entry's inode, otherwise return a
/// `NotFound` error.
pub(crate) fn get_dir_entry_index_by_name(
    fs: &Ext4,
    dir_inode: &Inode,
    name: DirEntryName<'_>,
) -> Result<InodeIndex, Ext4Error> {
    assert!(dir_inode.metadata.is_dir());

    if dir_inode.flags.contains(InodeFlags::ENCRYPTED) {
        return Err(Ext4Error::Encrypted);
    }

    if dir_inode.flags.contains(InodeFlags::DIRECTORY_HTREE)
        && !dir_inode.flags.contains(InodeFlags::INLINE_DATA)
    {
        // The htree only makes the search faster: if it is corrupt, or
        // uses a hash that isn't supported, the search below still works.
        if let Ok(entry) = get_dir_entry_via_htree(fs, dir_inode, name) {
            return Ok(entry.inode);
        }
    }

    // A block that can't be read matters only if the name is not in any
    // other block.
    let mut first_error = None;
    for entry in fs.read_dir_inode(dir_inode)? {
        match entry {
            Ok(entry) if entry.file_name() == name => return Ok(entry.inode),
            Ok(_) => {}
            Err(err) => {
                first_error.get_or_insert(err);
            }
        }
    }

    Err(first_error.unwrap_or(Ext4Error::NotFound))
}
