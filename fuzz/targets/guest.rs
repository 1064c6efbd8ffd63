//! What an image says of itself, and the databases in it: any bytes and any tree of files are looked at to the end.
//! Errors are fine; panics, endless walks and large allocations (`scripts/fuzz` limits them) are bugs.
//!
//! And: a store that is found lies below the top, at a path without tricks, and a directory is entered once.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use arbitrary::Arbitrary;
use lhrecover::error::{Error, Result};
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::guest::databases::postgres::Control;
use lhrecover::guest::databases::sqlite::Header;
use lhrecover::guest::databases::{StoreFacts, find};
use lhrecover::guest::facts;
use lhrecover::guest::files::{Entry, FileKind, Files};
use lhrecover::guest::geometry;
use lhrecover::model::units::ByteRange;
use lhrecover::view::disk::{Content, Disk, Stretch, check_range};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Pieces of a disk, by their offsets.
    pieces: Vec<(u32, &'a [u8])>,
    size_bytes: u32,
    /// Directories; entries lead to others by their place.
    tree: Vec<Vec<Node<'a>>>,
}

#[derive(Arbitrary, Debug)]
enum Node<'a> {
    Directory(Name<'a>, u8),
    File(Name<'a>, u64, &'a [u8]),
    Link(Name<'a>),
}

/// Names that mean something, and others.
#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Known(u8),
    Any(&'a [u8]),
}

const KNOWN: [&str; 24] = [
    "PG_VERSION",
    "global",
    "base",
    "pg_control",
    "pg_wal",
    "ibdata1",
    "mysql.ibd",
    "aria_log_control",
    "WiredTiger",
    "storage.bson",
    "snap",
    "wal",
    "db",
    "meta.properties",
    "segments_1",
    "CURRENT",
    "MANIFEST-1",
    "OPTIONS-1",
    "a.db",
    "dump.rdb",
    "store",
    "metadata",
    "uuid",
    "status",
];

impl Name<'_> {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Name::Known(i) => KNOWN[usize::from(*i) % KNOWN.len()].as_bytes().to_vec(),
            Name::Any(bytes) => bytes.to_vec(),
        }
    }
}

struct Pieces<'a>(Vec<(u32, &'a [u8])>, u64);

impl Disk for Pieces<'_> {
    fn size_bytes(&self) -> u64 {
        self.1
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let wanted = check_range(self.1, offset_bytes, buf.len())?;
        buf.fill(0);
        for (at, bytes) in &self.0 {
            for (i, byte) in bytes.iter().enumerate() {
                let place = u64::from(*at) + i as u64;
                if place >= wanted.start_bytes && place < wanted.end_bytes {
                    buf[usize::try_from(place - wanted.start_bytes).unwrap()] = *byte;
                }
            }
        }
        Ok(())
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        let content = if self.0.is_empty() { Content::Hole } else { Content::Data };
        Ok(vec![Stretch { range: range.clip(ByteRange::new(0, self.1)), content }])
    }
}

struct Tree<'a>(Vec<Vec<Node<'a>>>);

impl Tree<'_> {
    /// The place of the directory at `path`.
    fn directory(&self, path: &Path) -> Option<usize> {
        path.components().skip(1).try_fold(0, |at, part| {
            self.0.get(at)?.iter().find_map(|node| match node {
                Node::Directory(name, to) if OsString::from_vec(name.bytes()) == part.as_os_str() => {
                    Some(usize::from(*to))
                }
                _ => None,
            })
        })
    }
}

impl Files for Tree<'_> {
    fn list(&self, dir: &Path, each: &mut dyn FnMut(Entry) -> Result<()>) -> Result<()> {
        let nodes = self.directory(dir).and_then(|at| self.0.get(at)).ok_or_else(|| Error::source("none"))?;
        for node in nodes {
            let (name, kind, size_bytes, id) = match node {
                Node::Directory(name, to) => (name, FileKind::Directory, 0, u64::from(*to)),
                Node::File(name, size, _) => (name, FileKind::File, *size, 1000),
                Node::Link(name) => (name, FileKind::Link, 0, 1001),
            };
            each(Entry { name: OsString::from_vec(name.bytes()), kind, size_bytes, id: (0, id) })?;
        }
        Ok(())
    }

    fn read(&self, path: &Path, offset_bytes: u64, buf: &mut [u8]) -> Result<usize> {
        let none = || Error::source("none");
        let (dir, wanted) = path.parent().zip(path.file_name()).ok_or_else(none)?;
        let nodes = self.directory(dir).and_then(|at| self.0.get(at)).ok_or_else(none)?;
        let bytes = nodes.iter().find_map(|node| match node {
            Node::File(name, _, bytes) if OsString::from_vec(name.bytes()) == wanted => Some(*bytes),
            _ => None,
        });
        let from = usize::try_from(offset_bytes).unwrap_or(usize::MAX);
        let rest = bytes.ok_or_else(none)?.get(from..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

fuzz_target!(|input: Input<'_>| {
    for (_, bytes) in &input.pieces {
        let _ = Header::parse(bytes);
        if let Some(control) = Control::parse(bytes) {
            assert!(control.redo_file().is_none_or(|name| name.len() >= 24));
        }
    }
    let size = u64::from(input.size_bytes);
    let disk = Pieces(input.pieces, size);
    let _ = facts::read(&disk);
    let _ = geometry::read(&disk);

    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    let directories = input.tree.len() as u64;
    let walked = find(&Tree(input.tree), Path::new("/"), &run, &mut |store| {
        assert!(store.path.starts_with("/"));
        let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::RootDir);
        assert!(store.path.components().all(plain), "{store:?}");
        if let StoreFacts::Postgres(cluster) = &store.facts {
            let _ = (cluster.problem(), cluster.outlook());
        }
        Ok(())
    });
    // The top may be entered once more by a name, and places that are no directory are tried.
    assert!(walked.expect("it is never stopped").directories <= directories + 257);
});
