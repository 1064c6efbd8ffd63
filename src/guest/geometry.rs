//! How a file system was made: what it takes to make another one like it.
//!
//! It is read from the superblock. Features that come and go while a file system is in use are left out, and so are
//! those that nothing can be made with any more.

use crate::error::Result;
use crate::guest::fields::Fields;
use crate::guest::head_of;
use crate::view::disk::Disk;

/// How a file system was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// ext2, ext3 or ext4.
    Ext(Ext),
    /// XFS.
    Xfs(Xfs),
}

/// How an ext file system was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ext {
    /// Bytes in a block.
    pub block_bytes: u64,
    /// Bytes in a cluster, where those are larger than blocks.
    pub cluster_bytes: Option<u64>,
    /// Bytes in an inode.
    pub inode_bytes: u64,
    /// How many inodes there are.
    pub inodes: u64,
    /// How many blocks there are.
    pub blocks: u64,
    /// How many of them only root may take.
    pub reserved_blocks: u64,
    /// Its features, by the names that mke2fs has for them.
    pub features: Vec<&'static str>,
    /// Its label.
    pub label: Vec<u8>,
    /// Its UUID.
    pub uuid: Option<String>,
}

/// How an XFS file system was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xfs {
    /// Bytes in a block.
    pub block_bytes: u64,
    /// Bytes in a sector.
    pub sector_bytes: u64,
    /// Bytes in an inode.
    pub inode_bytes: u64,
    /// Bytes in a block of a directory.
    pub directory_bytes: u64,
    /// How many blocks there are.
    pub blocks: u64,
    /// How much of it inodes may take, in percent; all of it when 0.
    pub inode_percent: u8,
    /// What can be had or not, by section and name as mkfs.xfs has them.
    pub features: Vec<(&'static str, &'static str, bool)>,
    /// Its label.
    pub label: Vec<u8>,
    /// Its UUID.
    pub uuid: Option<String>,
}

impl Geometry {
    /// How large the file system is, in bytes.
    pub fn size_bytes(&self) -> u64 {
        match self {
            Geometry::Ext(ext) => ext.blocks.saturating_mul(ext.block_bytes),
            Geometry::Xfs(xfs) => xfs.blocks.saturating_mul(xfs.block_bytes),
        }
    }
}

/// How the file system on `disk` was made; `None` when it is neither ext nor XFS, or its superblock makes no sense.
///
/// # Errors
/// When its beginning cannot be read.
pub fn read(disk: &dyn Disk) -> Result<Option<Geometry>> {
    Ok(of(&head_of(disk)?))
}

/// The same from the first [`HEAD_BYTES`](crate::guest::HEAD_BYTES).
pub fn of(head: &[u8]) -> Option<Geometry> {
    xfs(head).map(Geometry::Xfs).or_else(|| ext(head).map(Geometry::Ext))
}

/// Features of ext: `s_feature_compat`, `s_feature_incompat` and `s_feature_ro_compat` (`fs/ext4/ext4.h`), with the names
/// of ext4(5).
const EXT_COMPAT: [(u32, &str); 9] = [
    (0x1, "dir_prealloc"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];
const EXT_INCOMPAT: [(u32, &str); 12] = [
    (0x2, "filetype"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (0x80, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
const EXT_RO_COMPAT: [(u32, &str); 11] = [
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x2000, "project"),
    (0x8000, "verity"),
];

fn ext(head: &[u8]) -> Option<Ext> {
    let sb = Fields::little(head.get(1024..2048)?);
    if sb.u16(0x38)? != 0xef53 {
        return None;
    }
    let power = |at: usize| 1024u64.checked_shl(sb.u32(at)?).filter(|bytes| *bytes > 0 && *bytes <= 1 << 29);
    let block_bytes = power(0x18).filter(|&bytes| bytes <= 1 << 16)?;
    let (compat, incompat, ro_compat) = (sb.u32(0x5c)?, sb.u32(0x60)?, sb.u32(0x64)?);
    let wide = |low: usize, high: usize| {
        let high = if incompat & 0x80 != 0 { u64::from(sb.u32(high)?) } else { 0 };
        Some(high << 32 | u64::from(sb.u32(low)?))
    };
    let sets = [(compat, &EXT_COMPAT[..]), (incompat, &EXT_INCOMPAT), (ro_compat, &EXT_RO_COMPAT)];
    let has = |set: u32, table: &'static [(u32, &'static str)]| {
        table.iter().filter(move |(bit, _)| set & bit != 0).map(|(_, name)| *name)
    };
    let features = sets.into_iter().flat_map(|(set, table)| has(set, table)).collect();
    // The first revision had inodes of one size, and no field for it.
    let inode_bytes = if sb.u32(0x4c)? == 0 { 128 } else { u64::from(sb.u16(0x58)?) };
    Some(Ext {
        block_bytes,
        cluster_bytes: if ro_compat & 0x200 != 0 { power(0x1c) } else { None },
        inode_bytes,
        inodes: u64::from(sb.u32(0)?),
        blocks: wide(4, 0x150)?,
        reserved_blocks: wide(8, 0x154)?,
        features,
        label: label(&sb, 0x78, 16)?,
        uuid: sb.uuid(0x68),
    })
}

/// Features of XFS, by where mkfs.xfs(8) has them: `sb_features2`, `sb_features_ro_compat` and `sb_features_incompat`
/// (`fs/xfs/libxfs/xfs_format.h`).
fn xfs(head: &[u8]) -> Option<Xfs> {
    if !head.starts_with(b"XFSB") {
        return None;
    }
    let sb = Fields::big(head);
    let block_bytes = u64::from(sb.u32(4)?);
    let version = sb.u16(100)? & 0xf;
    let features2 = sb.u32(200)?;
    let crc = version >= 5;
    let (ro_compat, incompat) = if crc { (sb.u32(212)?, sb.u32(216)?) } else { (0, 0) };
    let ftype = if crc { incompat & 0x1 != 0 } else { features2 & 0x200 != 0 };
    let features = vec![
        ("-m", "crc", crc),
        ("-m", "finobt", ro_compat & 0x1 != 0),
        ("-m", "rmapbt", ro_compat & 0x2 != 0),
        ("-m", "reflink", ro_compat & 0x4 != 0),
        ("-m", "inobtcount", ro_compat & 0x8 != 0),
        ("-m", "bigtime", incompat & 0x8 != 0),
        ("-m", "metadir", incompat & 0x100 != 0),
        ("-i", "sparse", incompat & 0x2 != 0),
        ("-i", "nrext64", incompat & 0x20 != 0),
        ("-i", "exchange", incompat & 0x40 != 0),
        ("-n", "ftype", ftype),
        ("-n", "parent", incompat & 0x80 != 0),
    ];
    let fits = block_bytes.is_power_of_two() && (512..=65536).contains(&block_bytes);
    let directory_bits = u32::from(sb.u8(192)?);
    Some(Xfs {
        block_bytes: Some(block_bytes).filter(|_| fits)?,
        sector_bytes: u64::from(sb.u16(102)?),
        inode_bytes: u64::from(sb.u16(104)?),
        directory_bytes: block_bytes
            .checked_shl(directory_bits)
            .filter(|bytes| (1..=65536).contains(bytes))?,
        blocks: sb.u64(8)?,
        inode_percent: sb.u8(127)?,
        features,
        label: label(&sb, 108, 12)?,
        uuid: sb.uuid(32),
    })
}

fn label(sb: &Fields<'_>, at: usize, len: usize) -> Option<Vec<u8>> {
    let bytes = sb.bytes.get(at..)?.get(..len)?;
    Some(bytes.split(|&byte| byte == 0).next().unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_bytes_there_are_nothing_panics() {
        for fill in [0, 0x7f, 0xff] {
            let mut head = vec![fill; 4096];
            head[1080..1082].copy_from_slice(b"\x53\xef");
            let _ = of(&head);
            head[..4].copy_from_slice(b"XFSB");
            let _ = of(&head);
            let _ = of(&head[..200]);
        }
    }

    #[test]
    fn ext_is_told_by_its_fields() {
        let mut head = vec![0; 4096];
        let mut put =
            |at: usize, bytes: &[u8]| head[1024 + at..1024 + at + bytes.len()].copy_from_slice(bytes);
        put(0, &1280u32.to_le_bytes());
        put(4, &4096u32.to_le_bytes());
        put(0x18, &2u32.to_le_bytes());
        put(0x38, b"\x53\xef");
        put(0x4c, &1u32.to_le_bytes());
        put(0x58, &256u16.to_le_bytes());
        put(0x5c, &0x3cu32.to_le_bytes());
        // Its journal waits, which is no way to make one.
        put(0x60, &0x2c6u32.to_le_bytes());
        put(0x64, &0x46bu32.to_le_bytes());
        put(0x78, b"data");
        let Some(Geometry::Ext(ext)) = of(&head) else { panic!("not ext") };
        assert_eq!((ext.block_bytes, ext.inode_bytes, ext.inodes), (4096, 256, 1280));
        assert_eq!(ext.label, b"data");
        assert_eq!(
            ext.features.join(","),
            "has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,\
             huge_file,dir_nlink,extra_isize,metadata_csum"
        );
    }
}
