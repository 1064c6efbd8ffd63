//! What `ls` and `find` show: files of an image, as lines and as JSON.
//!
//! A volume can hold millions of files, so the list is written while it is made: the values here take their entries, and the
//! findings that only the end can tell, from closures.

mod text;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use serde::ser::{Error as _, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::error::Error;
use crate::guest::databases::Store;
use crate::guest::ext::{JournalState, Kind, as_path};
use crate::replica::View;
use crate::report::finding::FindingReport;
use crate::workflow::browse::{Browser, FileEntry};

pub use text::{long, name, store};

/// The version of the JSON that `ls --json` and `find --json` print.
pub const SCHEMA_VERSION: u32 = 1;

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct FileReport {
    /// The path in the image.
    pub path: String,
    /// `file`, `directory`, `symlink`, `fifo`, `socket`, `character` or `block`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The inode number.
    pub inode: u32,
    /// The permission bits, as four octal digits.
    pub mode: String,
    /// How many names it has.
    pub links: u64,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Its length.
    pub size_bytes: u64,
    /// What it takes on the disk.
    pub allocated_bytes: u64,
    /// When it was last read.
    pub accessed: Option<Timestamp>,
    /// When its data last changed.
    pub modified: Option<Timestamp>,
    /// When anything about it last changed.
    pub changed: Option<Timestamp>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The inode's flags.
    pub flags: u32,
    /// Where a symbolic link leads.
    pub target: Option<String>,
    /// Major and minor number of a device.
    pub device: Option<[u32; 2]>,
    /// Extended attributes by name, values in hexadecimal digits.
    pub xattrs: BTreeMap<String, String>,
}

/// A database.
#[derive(Clone, Debug, Serialize)]
pub struct StoreReport {
    /// What it is.
    pub name: &'static str,
    /// The file or directory in the image.
    pub path: String,
    /// Length of a store that is one file.
    pub size_bytes: Option<u64>,
    /// Which version.
    pub version: Option<String>,
}

/// The journal, where it had to be replayed.
#[derive(Clone, Debug, Serialize)]
pub struct JournalReport {
    /// Complete transactions, which are taken into account.
    pub transactions: u32,
    /// Blocks that are read from the journal.
    pub blocks: usize,
}

/// Which file system is looked into.
#[derive(Clone, Debug, Serialize)]
pub struct OpenedReport {
    /// The replica directory or image, as it was named.
    pub source: String,
    /// `head`, `snapshot` or `image`.
    pub view: &'static str,
    /// The file name of the top layer.
    pub top_layer: Option<String>,
    /// The partition, when it is one.
    pub partition: Option<u32>,
    /// The journal, where it had to be replayed.
    pub journal: Option<JournalReport>,
}

/// What `ls --json` and `find --json` print; `E` is the name of the list and what is in it.
#[derive(Serialize)]
pub struct BrowseReport<'a, E: Serialize> {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The version of lhrecover that did it.
    pub lhrecover_version: &'static str,
    /// Which file system.
    #[serde(flatten)]
    pub opened: OpenedReport,
    /// `entries` or `stores`.
    #[serde(flatten)]
    pub list: E,
    /// Damage and doubt, the most serious first.
    pub findings: Late<'a>,
}

impl<'a, E: Serialize> BrowseReport<'a, E> {
    /// Of what is listed by `list`; `findings` is asked when that is done.
    pub fn new(opened: OpenedReport, list: E, findings: &'a dyn Fn() -> Vec<FindingReport>) -> Self {
        BrowseReport {
            schema_version: SCHEMA_VERSION,
            lhrecover_version: env!("CARGO_PKG_VERSION"),
            opened,
            list,
            findings: Late(findings),
        }
    }
}

/// Findings that are asked for when they are written.
pub struct Late<'a>(&'a dyn Fn() -> Vec<FindingReport>);

impl Serialize for Late<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.0)().serialize(serializer)
    }
}

/// Takes one item after the other.
pub type Each<'a, T> = &'a mut dyn FnMut(&T) -> crate::error::Result<()>;

/// A list that is made while it is written.
pub struct Streamed<'a, T> {
    run: &'a dyn Fn(Each<'_, T>) -> crate::error::Result<()>,
    failed: RefCell<Option<Error>>,
}

impl<'a, T> Streamed<'a, T> {
    /// Of what `run` calls its argument with.
    pub fn new(run: &'a dyn Fn(Each<'_, T>) -> crate::error::Result<()>) -> Self {
        Streamed { run, failed: RefCell::new(None) }
    }

    /// What `run` ended with, if it failed.
    pub fn failed(&self) -> Option<Error> {
        self.failed.borrow_mut().take()
    }
}

impl<T: Serialize> Serialize for &Streamed<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let mut unwritten = None;
        let done = (self.run)(&mut |item| {
            list.serialize_element(item).map_err(|e| {
                unwritten = Some(e);
                Error::output("cannot write the result as JSON")
            })
        });
        match (unwritten, done) {
            (Some(e), _) => Err(e),
            (None, Err(e)) => {
                let said = S::Error::custom(&e);
                *self.failed.borrow_mut() = Some(e);
                Err(said)
            }
            (None, Ok(())) => list.end(),
        }
    }
}

/// The files that `ls` and `find` list.
#[derive(Serialize)]
pub struct Entries<'a> {
    /// Files, in the order in which they were come by.
    pub entries: &'a Streamed<'a, FileReport>,
}

/// The databases that `find --db` lists.
#[derive(Serialize)]
pub struct Stores<'a> {
    /// Databases, in the order in which they were come by.
    pub stores: &'a Streamed<'a, StoreReport>,
}

impl OpenedReport {
    /// Of what `browser` has opened at `path`.
    pub fn new(path: &Path, browser: &Browser) -> Self {
        OpenedReport {
            source: path.display().to_string(),
            view: match browser.state() {
                Some(View::Head(_)) => "head",
                Some(View::Snapshot(_)) => "snapshot",
                None => "image",
            },
            top_layer: browser.state().map(|view| view.file().to_owned()),
            partition: browser.partition,
            journal: browser.journal.as_ref().map(JournalReport::from),
        }
    }
}

impl From<&JournalState> for JournalReport {
    fn from(journal: &JournalState) -> Self {
        JournalReport { transactions: journal.transactions, blocks: journal.blocks }
    }
}

impl From<&FileEntry> for FileReport {
    fn from(entry: &FileEntry) -> Self {
        let node = &entry.node;
        let xattrs = entry.xattrs.iter().flatten();
        FileReport {
            path: lossy(&entry.path),
            kind: kind(node.kind),
            inode: node.ino,
            mode: format!("{:04o}", node.mode),
            links: node.links,
            uid: node.uid,
            gid: node.gid,
            size_bytes: node.size_bytes,
            allocated_bytes: node.allocated_bytes,
            accessed: timestamp(node.accessed),
            modified: timestamp(node.modified),
            changed: timestamp(node.changed),
            created: node.created.and_then(timestamp),
            flags: node.flags,
            target: entry.target.as_deref().map(lossy),
            device: match node.kind {
                Kind::Character(major, minor) | Kind::Block(major, minor) => Some([major, minor]),
                _ => None,
            },
            xattrs: xattrs
                .map(|(name, value)| (name.to_string_lossy().into_owned(), to_hex(value)))
                .collect(),
        }
    }
}

impl From<&Store> for StoreReport {
    fn from(store: &Store) -> Self {
        StoreReport {
            name: store.name,
            path: store.path.display().to_string(),
            size_bytes: store.size_bytes,
            version: store.version.clone(),
        }
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Regular => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
        Kind::Character(..) => "character",
        Kind::Block(..) => "block",
    }
}

fn lossy(bytes: &[u8]) -> String {
    as_path(bytes).display().to_string()
}

fn to_hex(value: &[u8]) -> String {
    value.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A moment, if it is one that can be written down.
fn timestamp((seconds, nanoseconds): (i64, i64)) -> Option<Timestamp> {
    Timestamp::new(seconds, i32::try_from(nanoseconds).ok()?).ok()
}
