//! Files that are like something, and databases, anywhere in an image.

use crate::error::Result;
use crate::event::Run;
use crate::guest::databases::{self, Store};
use crate::guest::ext::{Found, Kind, Node, Step, Walk, as_path};
use crate::workflow::browse::listing::name_of;
use crate::workflow::browse::{Browser, FileEntry, Glob, Troubles};

/// What files must be like; nothing asked for means all.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Their name, without the directory.
    pub name: Option<Glob>,
    /// What they are, as letters of `find -type`.
    pub kinds: Vec<char>,
    /// Of what size at least, in bytes.
    pub min_bytes: Option<u64>,
    /// Changed after this moment: seconds and nanoseconds.
    pub newer_than: Option<(i64, i64)>,
}

impl Wanted {
    fn takes(&self, path: &[u8], node: &Node) -> bool {
        self.name.as_ref().is_none_or(|glob| glob.matches(name_of(path)))
            && (self.kinds.is_empty() || self.kinds.contains(&letter(node.kind)))
            && self.min_bytes.is_none_or(|min| node.size_bytes >= min)
            && self.newer_than.is_none_or(|than| node.modified > than)
    }
}

/// What `find -type` calls it.
pub fn letter(kind: Kind) -> char {
    match kind {
        Kind::Regular => 'f',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::Character(..) => 'c',
        Kind::Block(..) => 'b',
    }
}

/// Finds the files below `starts`, these included, that are as `wanted`.
///
/// # Errors
/// When asked to stop, and what `each` fails with. What cannot be read is in `troubles`.
pub fn files(
    browser: &Browser,
    starts: Vec<Found>,
    wanted: &Wanted,
    with_xattrs: bool,
    run: &Run<'_>,
    troubles: &Troubles,
    each: &mut dyn FnMut(FileEntry) -> Result<()>,
) -> Result<()> {
    for start in starts {
        let mut walk = Walk::new(browser.fs(), start, run);
        while let Some(step) = walk.next_step()? {
            match step {
                Step::Entry(found) if wanted.takes(&found.path, &found.node) => {
                    each(FileEntry::of(browser.fs(), found, with_xattrs, troubles))?;
                }
                Step::Trouble(path, e) => troubles.add(&path, e),
                Step::Entry(_) | Step::Leave(_) => {}
            }
        }
    }
    Ok(())
}

/// Finds the databases below `starts`.
///
/// # Errors
/// When asked to stop, and what `each` fails with. What cannot be read is in `troubles`.
pub fn stores(
    browser: &Browser,
    starts: &[Found],
    run: &Run<'_>,
    troubles: &Troubles,
    each: &mut dyn FnMut(Store) -> Result<()>,
) -> Result<()> {
    for start in starts {
        if start.node.kind == Kind::Regular {
            let path = as_path(&start.path);
            let store = databases::recognise_file(browser.fs(), path, start.node.size_bytes);
            if let Some(store) = troubles.or_add(&start.path, store).flatten() {
                each(store)?;
            }
            continue;
        }
        troubles.add_all(databases::find(browser.fs(), as_path(&start.path), run, each)?);
    }
    Ok(())
}
