//! Files straight out of an ext2, ext3 or ext4 file system, with no mount, no root and no copy.
//!
//! The journal, if it needs to be replayed, is replayed in memory: what is read is what the kernel would show after a
//! mount. The file system may be damaged or made up. What cannot be read is an error that names it; whatever it
//! holds, nothing leads out of it, and every walk ends.
//!
//! What is on the disk is decoded by the crate ext4-view, extended (`vendor/ext4-view/CHANGES.md`); this is a thin layer
//! over it in our own terms: our disk, our errors, bytes for names.

mod resolve;
mod stores;
mod trouble;
mod walk;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read, FileType, Inode, InodeIndex, Timestamp};

use crate::error::{Error, Result};
use crate::guest::facts;
use crate::model::units::ByteRange;
use crate::view::disk::Disk;

pub use resolve::{Found, LastLink};
pub use walk::{Step, Walk, join};

use trouble::{from_ext, on_open};

/// How many errors of one directory are kept; a damaged one can have very many.
const MAX_TROUBLES: usize = 16;

/// What sort of file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: major and minor number.
    Character(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
}

/// A file, whatever its names.
#[derive(Clone, Debug)]
pub struct Node {
    inode: Inode,
    /// What it is.
    pub kind: Kind,
    /// The inode number.
    pub ino: u32,
    /// How many names it has; 1 for a directory with more than can be counted.
    pub links: u64,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// What it takes on the disk, in bytes.
    pub allocated_bytes: u64,
    /// The permission bits, set-user-ID and the like included.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was last read: seconds and nanoseconds.
    pub accessed: (i64, i64),
    /// When its data last changed.
    pub modified: (i64, i64),
    /// When anything about it last changed.
    pub changed: (i64, i64),
    /// When it was made, where the inode has room to say so.
    pub created: Option<(i64, i64)>,
    /// The inode's flags, as `lsattr` has them.
    pub flags: u32,
    /// The project whose quota it counts for; 0 where there are none.
    pub project: u32,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name: never empty, `.` or `..`, and without a slash or NUL.
    pub name: Vec<u8>,
    /// Which file it stands for.
    index: InodeIndex,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// The names that can be read, in the order of their bytes.
    pub entries: Vec<Named>,
    /// What cannot: the first ones.
    pub troubles: Vec<Error>,
    /// How many there are in all.
    pub troubles_count: usize,
}

/// A range of a file that takes room, and whether it was ever written to; if not, it reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocated {
    /// Where, in bytes of the file.
    pub range: ByteRange,
    /// Whether it holds data.
    pub is_written: bool,
}

/// What the journal had to say, where it had to be replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalState {
    /// Complete transactions, which are taken into account.
    pub transactions: u32,
    /// Blocks that are read from the journal.
    pub blocks: usize,
    /// What is wrong with the transaction that it ends with, where that was committed.
    pub cut_short_by: Option<String>,
    /// Whether there are fast commits, which are not taken into account.
    pub has_fast_commits: bool,
}

/// A file system that can be read from any thread.
#[derive(Clone)]
pub struct ExtFs {
    fs: Ext4,
    written_at: Option<i64>,
}

impl ExtFs {
    /// Opens the file system that begins where `disk` does.
    ///
    /// # Errors
    /// When it is damaged where it must not be, or has features that are not known; and unreadable data, as everywhere
    /// here, as the disk tells it.
    pub fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let written_at = facts::ext_written_at(&*disk)?;
        let fs = Ext4::load(Box::new(Reader(disk))).map_err(on_open)?;
        Ok(ExtFs { fs, written_at })
    }

    /// When its superblock was last written, in seconds since 1970. Files may have changed since.
    pub fn written_at(&self) -> Option<i64> {
        self.written_at
    }

    /// What the journal had to say; `None` where it did not have to be replayed.
    pub fn journal(&self) -> Option<JournalState> {
        self.fs.journal_summary().map(|summary| JournalState {
            transactions: summary.transactions,
            blocks: summary.blocks,
            cut_short_by: summary.cut_short_by.as_ref().map(ToString::to_string),
            has_fast_commits: summary.has_fast_commits,
        })
    }

    /// The root directory.
    ///
    /// # Errors
    /// When its inode is damaged.
    pub fn root(&self) -> Result<Node> {
        self.node(self.fs.root_inode_index())
    }

    /// The file that a name stands for.
    ///
    /// # Errors
    /// When its inode is damaged.
    pub fn named(&self, named: &Named) -> Result<Node> {
        self.node(named.index)
    }

    /// The file with that inode number.
    ///
    /// # Errors
    /// When there is none, or its inode is damaged.
    pub fn node_of(&self, ino: u32) -> Result<Node> {
        let index = InodeIndex::new(ino).ok_or_else(|| Error::source("there is no inode 0"))?;
        self.node(index)
    }

    fn node(&self, index: InodeIndex) -> Result<Node> {
        Ok(Node::from(self.fs.inode(index).map_err(from_ext)?))
    }

    /// What the directory `dir` holds, without `.` and `..`.
    ///
    /// # Errors
    /// When it is no directory, is encrypted, or nothing of it can be read. Less than that is in the listing.
    pub fn list(&self, dir: &Node) -> Result<Listing> {
        let mut listing = Listing::default();
        for entry in self.fs.read_dir_inode(&dir.inode).map_err(from_ext)? {
            match entry {
                Ok(entry) => {
                    let name = entry.file_name().as_ref().to_vec();
                    if name != b"." && name != b".." {
                        listing.entries.push(Named { name, index: entry.inode_index() });
                    }
                }
                Err(error) => {
                    listing.troubles_count += 1;
                    if listing.troubles.len() < MAX_TROUBLES {
                        listing.troubles.push(from_ext(error));
                    }
                }
            }
        }
        listing.entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    /// Where the symbolic link `node` leads.
    ///
    /// # Errors
    /// When it is none, is encrypted, or cannot be read.
    pub fn read_link(&self, node: &Node) -> Result<Vec<u8>> {
        self.fs.read_link_inode(&node.inode).map_err(from_ext)
    }

    /// Opens the regular file `node`.
    ///
    /// # Errors
    /// When it is none, is encrypted, or cannot be read.
    pub fn open_file(&self, node: &Node) -> Result<OpenFile> {
        Ok(OpenFile(self.fs.open_inode(node.inode.clone()).map_err(from_ext)?))
    }

    /// The ranges of a regular file that take room, in ascending order; between them are holes.
    ///
    /// # Errors
    /// When they cannot be told; each range may fail as well, and is then the last one.
    pub fn allocated(&self, node: &Node) -> Result<impl Iterator<Item = Result<Allocated>> + use<>> {
        let extents = self.fs.extents(&node.inode).map_err(from_ext)?;
        Ok(extents.map(|extent| {
            let extent = extent.map_err(from_ext)?;
            let range = ByteRange::new(extent.start, extent.start.saturating_add(extent.len));
            Ok(Allocated { range, is_written: extent.is_initialized })
        }))
    }

    /// The extended attributes of `node`, by full name, with values as `getxattr` gives them: access control lists are
    /// `system.posix_acl_access` and `system.posix_acl_default`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn xattrs(&self, node: &Node) -> Result<BTreeMap<OsString, Vec<u8>>> {
        let xattrs = self.fs.xattrs(&node.inode).map_err(from_ext)?;
        Ok(xattrs.into_iter().map(|xattr| (OsString::from_vec(xattr.name), xattr.value)).collect())
    }
}

impl From<Inode> for Node {
    fn from(inode: Inode) -> Self {
        let time = |at: Timestamp| (at.seconds(), i64::from(at.nanoseconds()));
        let meta = inode.metadata();
        let (major, minor) = meta.device().unwrap_or_default();
        Node {
            kind: match meta.file_type() {
                FileType::Regular => Kind::Regular,
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Symlink,
                FileType::Fifo => Kind::Fifo,
                FileType::Socket => Kind::Socket,
                FileType::CharacterDevice => Kind::Character(major, minor),
                FileType::BlockDevice => Kind::Block(major, minor),
            },
            ino: inode.index().get(),
            links: meta.links().into(),
            size_bytes: meta.len(),
            allocated_bytes: meta.allocated(),
            mode: meta.mode().into(),
            uid: meta.uid(),
            gid: meta.gid(),
            accessed: time(meta.accessed()),
            modified: time(meta.modified()),
            changed: time(meta.changed()),
            created: meta.created().map(time),
            flags: meta.flags(),
            project: meta.project(),
            inode,
        }
    }
}

impl Node {
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// A regular file that is being read.
pub struct OpenFile(ext4_view::File);

impl OpenFile {
    /// Reads on into `buf`: as much as fits and lies together on the disk, or in one hole; 0 at the end.
    ///
    /// # Errors
    /// When it cannot be read there.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.0.read_bytes(buf).map_err(from_ext)
    }

    /// Goes on at `offset_bytes`.
    ///
    /// # Errors
    /// When what is there cannot be told.
    pub fn seek(&mut self, offset_bytes: u64) -> Result<()> {
        self.0.seek_to(offset_bytes).map_err(from_ext)
    }
}

/// Our disk, as the crate reads it.
struct Reader(Arc<dyn Disk>);

impl Ext4Read for Reader {
    fn read(
        &self,
        offset_bytes: u64,
        buf: &mut [u8],
    ) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let end = u64::try_from(buf.len()).ok().and_then(|len| offset_bytes.checked_add(len));
        if end.is_none_or(|end| end > self.0.size_bytes()) {
            return Err(Box::new(
                Error::source(format!(
                    "the file system reaches past the end of the volume, which has {} bytes",
                    self.0.size_bytes()
                ))
                .at_offset(offset_bytes)
                .with_hint(
                    "is the volume's size right (--size)? a partition may have been named that is cut off",
                ),
            ));
        }
        Ok(self.0.read_exact_at(buf, offset_bytes)?)
    }
}

/// Whether `error` is only about a name that is not there.
fn is_not_found(error: &Ext4Error) -> bool {
    matches!(error, Ext4Error::NotFound)
}

/// Bytes as a path.
pub fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}
