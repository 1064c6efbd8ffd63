//! What directories hold, one file after the other.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::error::Result;
use crate::event::Run;
use crate::guest::ext::{ExtFs, Found, Kind, Node, Step, Walk};
use crate::workflow::browse::Troubles;

/// A file as it is shown.
#[derive(Clone, Debug)]
pub struct FileEntry {
    /// The path in the image, without any link on the way.
    pub path: Vec<u8>,
    /// The file.
    pub node: Node,
    /// Where a symbolic link leads.
    pub target: Option<Vec<u8>>,
    /// The extended attributes, when they were asked for.
    pub xattrs: Option<BTreeMap<OsString, Vec<u8>>>,
}

impl FileEntry {
    /// The last part of the path; `/` for the root.
    pub fn name(&self) -> &[u8] {
        name_of(&self.path)
    }

    /// All there is to know of `found`. What cannot be read of it is a trouble.
    pub fn of(fs: &ExtFs, found: Found, with_xattrs: bool, troubles: &Troubles) -> Self {
        let Found { path, node } = found;
        let target = (node.kind == Kind::Symlink).then(|| fs.read_link(&node));
        let target = target.and_then(|read| troubles.or_add(&path, read));
        let xattrs = with_xattrs.then(|| fs.xattrs(&node));
        let xattrs = xattrs.and_then(|read| troubles.or_add(&path, read));
        FileEntry { path, node, target, xattrs }
    }
}

/// The last part of a path; `/` for the root.
pub fn name_of(path: &[u8]) -> &[u8] {
    let at = path.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    if at == path.len() { path } else { &path[at..] }
}

/// What a listing comes by.
#[derive(Debug)]
pub enum Listed {
    /// A directory whose entries follow.
    Directory(Vec<u8>),
    /// A file.
    File(Box<FileEntry>),
}

/// How to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct List {
    /// What is in directories, not only the directories themselves.
    pub directories: bool,
    /// And what is below.
    pub recursive: bool,
    /// With extended attributes.
    pub xattrs: bool,
}

impl List {
    /// Lists `starts` in the order of `ls`: files first, then each directory with what is in it, and each of those below.
    ///
    /// # Errors
    /// When asked to stop, and what `each` fails with. What cannot be read is in `troubles`.
    pub fn run(
        self,
        fs: &ExtFs,
        starts: Vec<Found>,
        run: &Run<'_>,
        troubles: &Troubles,
        each: &mut dyn FnMut(Listed) -> Result<()>,
    ) -> Result<()> {
        let (dirs, files): (Vec<_>, Vec<_>) =
            starts.into_iter().partition(|found| self.directories && found.node.is_dir());
        for found in files {
            run.check()?;
            each(Listed::File(Box::new(FileEntry::of(fs, found, self.xattrs, troubles))))?;
        }
        for dir in dirs {
            if self.recursive {
                self.below(fs, dir, run, troubles, each)?;
            } else {
                self.directory(fs, &dir, run, troubles, each)?;
            }
        }
        Ok(())
    }

    /// Each directory is listed as a whole before what is below it, so it is read twice; the walk keeps cycles out.
    fn below(
        self,
        fs: &ExtFs,
        top: Found,
        run: &Run<'_>,
        troubles: &Troubles,
        each: &mut dyn FnMut(Listed) -> Result<()>,
    ) -> Result<()> {
        let mut walk = Walk::new(fs, top, run);
        while let Some(step) = walk.next_step()? {
            match step {
                Step::Entry(found) if found.node.is_dir() => {
                    // What is wrong with it, the walk tells.
                    self.directory(fs, &found, run, &Troubles::default(), each)?;
                }
                Step::Trouble(path, e) => troubles.add(&path, e),
                Step::Entry(_) | Step::Leave(_) => {}
            }
        }
        Ok(())
    }

    fn directory(
        self,
        fs: &ExtFs,
        dir: &Found,
        run: &Run<'_>,
        troubles: &Troubles,
        each: &mut dyn FnMut(Listed) -> Result<()>,
    ) -> Result<()> {
        each(Listed::Directory(dir.path.clone()))?;
        let listing = match fs.list(&dir.node) {
            Ok(listing) => listing,
            Err(e) => {
                troubles.add(&dir.path, e);
                return Ok(());
            }
        };
        for e in listing.troubles {
            troubles.add(&dir.path, e);
        }
        for named in listing.entries {
            run.check()?;
            let path = crate::guest::ext::join(&dir.path, &named.name);
            match fs.named(&named) {
                Ok(node) => {
                    let found = Found { path, node };
                    each(Listed::File(Box::new(FileEntry::of(fs, found, self.xattrs, troubles))))?;
                }
                Err(e) => troubles.add(&path, e),
            }
        }
        Ok(())
    }
}
