//! Everything but data: directories, links, devices.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::error::{Error, Result};
use crate::guest::ext::{Found, Kind, Step, Walk};
use crate::sys::tree::{Existing, ExistingKind, Special, Tree};
use crate::workflow::browse::extract::file::{is_about_name, is_reserved};
use crate::workflow::browse::extract::left::What;
use crate::workflow::browse::extract::survey::is_finished;
use crate::workflow::browse::extract::{Counts, Extraction, Job};
use crate::workflow::browse::listing::name_of;

/// A further name of a file, to be made when the file is there.
pub(super) struct Link {
    /// The path in the image that the file is extracted under.
    first: Vec<u8>,
    /// The further one.
    path: Vec<u8>,
    ino: u32,
}

/// A directory whose entries are all there, so that it can get its time.
pub(super) struct DirDone {
    path: Vec<u8>,
    ino: u32,
}

/// The walk's own state.
struct Walking {
    send: Sender<Job>,
    /// Where files with several names are extracted, by inode.
    firsts: HashMap<u32, Vec<u8>>,
    links: Vec<Link>,
    dirs: Vec<DirDone>,
    /// The directories that the walk is in.
    open: Vec<Open>,
}

/// A directory that the walk is in.
#[derive(Default)]
struct Open {
    /// That of the target; `None` for one that is left out with all that is in it.
    dir: Option<Arc<Tree>>,
    /// Hashes of the names of files in it that were sent: a damaged directory may have one twice.
    sent: HashSet<u64>,
}

impl Open {
    fn new(dir: Option<Tree>) -> Self {
        Open { dir: dir.map(Arc::new), sent: HashSet::new() }
    }
}

/// The starts without those that lie in another one, or are one that came before.
fn apart(starts: Vec<Found>) -> Vec<Found> {
    let dirs: HashSet<Vec<u8>> = starts.iter().filter(|s| s.node.is_dir()).map(|s| s.path.clone()).collect();
    let mut seen = HashSet::new();
    let within = |path: &[u8]| {
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(i, _)| i);
        // Of the root directory, the slash is the whole name.
        ends.map(|i| &path[..i.max(1)]).any(|above| above != path && dirs.contains(above))
    };
    starts.into_iter().filter(|start| !within(&start.path) && seen.insert(start.path.clone())).collect()
}

/// The names of the directories that lead to `path`.
pub(super) fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let end = path.len() - name_of(path).len();
    names(&path[..end])
}

/// The names of the directories that `path` leads through, the last one included.
pub(super) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|name| !name.is_empty())
}

impl Extraction<'_> {
    /// Makes what is no file, and sends files on to be copied.
    pub(super) fn walk(&self, starts: Vec<Found>, send: Sender<Job>) -> Result<(Vec<Link>, Vec<DirDone>)> {
        let mut walking =
            Walking { send, firsts: HashMap::new(), links: Vec::new(), dirs: Vec::new(), open: Vec::new() };
        for start in apart(starts) {
            walking.open = vec![Open::new(self.make_parents(&start)?)];
            let mut walk = Walk::new(self.fs, start, self.run);
            while let Some(step) = walk.next_step()? {
                self.check()?;
                self.step(step, &mut walking)?;
            }
        }
        Ok((walking.links, walking.dirs))
    }

    fn step(&self, step: Step, walking: &mut Walking) -> Result<()> {
        match step {
            Step::Trouble(path, e) => self.troubles.add(&path, e),
            Step::Leave(found) => {
                let is_made = walking.open.pop().is_some_and(|open| open.dir.is_some());
                if is_made {
                    walking.dirs.push(DirDone { path: found.path, ino: found.node.ino });
                }
            }
            Step::Entry(found) => {
                let Some(dir) = walking.open.last().and_then(|open| open.dir.clone()) else {
                    // Left out with the directory that it is in.
                    if found.node.is_dir() {
                        walking.open.push(Open::default());
                    }
                    return Ok(());
                };
                return self.entry(&dir, found, walking);
            }
        }
        Ok(())
    }

    fn entry(&self, dir: &Arc<Tree>, found: Found, walking: &mut Walking) -> Result<()> {
        if is_reserved(&found.path) {
            self.left.add(What::Name, &found.path, "files are called like this while they are extracted");
            if found.node.is_dir() {
                walking.open.push(Open::default());
            }
            return Ok(());
        }
        match found.node.kind {
            Kind::Directory => {
                let below = self.make_dir(dir, &found)?;
                walking.open.push(Open::new(below));
                Ok(())
            }
            Kind::Regular => self.regular(dir, found, walking),
            Kind::Symlink => self.symlink(dir, &found),
            Kind::Fifo => self.special(dir, &found, Special::Fifo),
            Kind::Socket => self.special(dir, &found, Special::Socket),
            Kind::Character(major, minor) => {
                self.special(dir, &found, Special::Character(major.into(), minor.into()))
            }
            Kind::Block(major, minor) => {
                self.special(dir, &found, Special::Block(major.into(), minor.into()))
            }
        }
    }

    /// The directories above a start, which get no attributes: they are not asked for.
    fn make_parents(&self, start: &Found) -> Result<Option<Tree>> {
        let mut here = self.root()?;
        for name in parents(&start.path) {
            match self.enter_or_make(&here, name, &start.path)? {
                Some(below) => here = below,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    fn make_dir(&self, parent: &Tree, found: &Found) -> Result<Option<Tree>> {
        Counts::one(&self.counts.directories);
        match name_of(&found.path) {
            b"/" => self.root().map(Some),
            name => self.enter_or_make(parent, name, &found.path),
        }
    }

    fn enter_or_make(&self, parent: &Tree, name: &[u8], path: &[u8]) -> Result<Option<Tree>> {
        let fail = |e| self.unwritten("cannot make a directory", path, e);
        match parent.make_dir(name) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if parent.look(name).map_err(fail)?.is_none_or(|there| there.kind != ExistingKind::Directory)
                {
                    self.left.add(What::Exists, path, "what is there is no directory");
                    return Ok(None);
                }
            }
            Err(e) if is_about_name(&e) => {
                self.left.add(What::Name, path, e);
                return Ok(None);
            }
            Err(e) => return Err(fail(e)),
        }
        let dir = parent.enter(name).map_err(fail)?;
        if self.source.has_file(dir.id().map_err(fail)?) {
            return Err(self.is_source(path));
        }
        Ok(Some(dir))
    }

    fn regular(&self, dir: &Arc<Tree>, found: Found, walking: &mut Walking) -> Result<()> {
        if found.node.links > 1 {
            if let Some(first) = walking.firsts.get(&found.node.ino) {
                walking.links.push(Link { first: first.clone(), path: found.path, ino: found.node.ino });
                return Ok(());
            }
            walking.firsts.insert(found.node.ino, found.path.clone());
        }
        let is_same = |there: &Existing| is_finished(there, &found.node);
        if !self.is_free(dir, &found, is_same, self.options.force)? {
            return Ok(());
        }
        let name = BuildHasherDefault::<DefaultHasher>::default().hash_one(name_of(&found.path));
        if walking.open.last_mut().is_some_and(|open| !open.sent.insert(name)) {
            self.left.add(What::Exists, &found.path, "another file of the same directory");
            return Ok(());
        }
        // Nobody takes it when another thread has failed.
        walking.send.send(Job { dir: Arc::clone(dir), found }).map_err(|_| Error::interrupted())
    }

    fn symlink(&self, dir: &Tree, found: &Found) -> Result<()> {
        let Some(target) = self.troubles.or_add(&found.path, self.fs.read_link(&found.node)) else {
            return Ok(());
        };
        let name = name_of(&found.path);
        let is_same = |there: &Existing| {
            there.kind == ExistingKind::Symlink && dir.read_link(name).is_ok_and(|leads| leads == target)
        };
        if self.is_free(dir, found, is_same, false)? {
            self.made(dir, found, dir.make_symlink(name, &target), &self.counts.symlinks)?;
        }
        Ok(())
    }

    fn special(&self, dir: &Tree, found: &Found, special: Special) -> Result<()> {
        let is_same = |there: &Existing| there.kind == ExistingKind::Special(special);
        if !self.is_free(dir, found, is_same, false)? {
            return Ok(());
        }
        match dir.make_special(name_of(&found.path), special) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                self.left.add(What::Special, &found.path, e);
                Ok(())
            }
            made => self.made(dir, found, made, &self.counts.specials),
        }
    }

    fn made(
        &self,
        dir: &Tree,
        found: &Found,
        made: io::Result<()>,
        count: &std::sync::atomic::AtomicU64,
    ) -> Result<()> {
        match made {
            Ok(()) => {
                Counts::one(count);
                self.set_attributes(dir, name_of(&found.path), found);
                Ok(())
            }
            Err(e) if is_about_name(&e) => {
                self.left.add(What::Name, &found.path, e);
                Ok(())
            }
            Err(e) => Err(self.unwritten("cannot be made", &found.path, e)),
        }
    }

    /// Whether a name can be used. What is the same already is counted, and gets the attributes that it lacks; something
    /// else is noted or, with `--force`, removed, unless what comes `replaces` it anyway. A directory stays.
    fn is_free(
        &self,
        dir: &Tree,
        found: &Found,
        is_same: impl Fn(&Existing) -> bool,
        replaces: bool,
    ) -> Result<bool> {
        let (path, name) = (found.path.as_slice(), name_of(&found.path));
        let there = match dir.look(name) {
            Ok(None) => return Ok(true),
            Ok(Some(there)) => there,
            // Making it will say the same again.
            Err(e) if is_about_name(&e) => return Ok(true),
            Err(e) => return Err(self.unwritten("cannot look at what is there", path, e)),
        };
        if self.source.has_file(there.id) {
            return Err(self.is_source(path));
        }
        if is_same(&there) {
            Counts::one(&self.counts.skipped);
            self.complete_attributes(dir, name, found, &there);
            return Ok(false);
        }
        if there.kind == ExistingKind::Directory || !self.options.force {
            let why = if there.kind == ExistingKind::Directory { "a directory" } else { "another file" };
            self.left.add(What::Exists, path, why);
            return Ok(false);
        }
        if !replaces {
            dir.remove(name).map_err(|e| self.unwritten("cannot remove what is there", path, e))?;
        }
        Ok(true)
    }

    /// Makes further names of files.
    pub(super) fn make_links(&self, links: Vec<Link>) -> Result<()> {
        for Link { first, path, ino } in links {
            self.check()?;
            let fail = |e| self.unwritten("cannot make a further name of a file", &path, e);
            let root = self.root()?;
            let here = root.enter_all(parents(&path)).map_err(fail)?;
            let there = root.enter_all(parents(&first)).map_err(fail)?;
            let Some(file) = there.look(name_of(&first)).map_err(fail)? else {
                self.left.add(What::Link, &path, "the file itself was not extracted");
                continue;
            };
            let Some(node) = self.troubles.or_add(&path, self.fs.node_of(ino)) else { continue };
            // It may have been there before, and have been left alone.
            if !is_finished(&file, &node) {
                self.left.add(What::Link, &path, "what has the file's name is another file");
                continue;
            }
            let found = Found { path, node };
            if self.is_free(&here, &found, |is: &Existing| is.id == file.id, false)? {
                match here.make_link(name_of(&found.path), &there, name_of(&first)) {
                    Ok(()) => Counts::one(&self.counts.hard_links),
                    Err(e) => self.left.add(What::Link, &found.path, e),
                }
            }
        }
        Ok(())
    }

    /// Gives directories what must come after everything that is in them, the innermost first.
    pub(super) fn finish_dirs(&self, dirs: Vec<DirDone>) -> Result<()> {
        for DirDone { path, ino } in dirs {
            self.check()?;
            let Some(node) = self.troubles.or_add(&path, self.fs.node_of(ino)) else { continue };
            if path == b"/" {
                self.finish_root(&self.root()?, &Found { path, node })?;
                continue;
            }
            let parent = self.root()?.enter_all(parents(&path));
            let parent = parent.map_err(|e| self.unwritten("cannot go back to a directory", &path, e))?;
            let found = Found { path, node };
            self.set_attributes(&parent, name_of(&found.path), &found);
        }
        Ok(())
    }

    fn root(&self) -> Result<Tree> {
        self.target.root().map_err(|e| self.unwritten("cannot open the target directory", b"", e))
    }
}
