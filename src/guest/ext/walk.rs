//! A directory and everything below it, in order.
//!
//! Links are not followed. A damaged or made-up file system may have directories that contain themselves, or are in two
//! places: each directory is entered once, and only so deep, so every walk ends.

use std::collections::HashSet;
use std::vec;

use crate::error::{Error, Result};
use crate::event::Run;
use crate::guest::ext::{ExtFs, Found, Named, Node};

/// How deep a walk goes, in directories. What people make is not a tenth as deep.
const MAX_DEPTH: usize = 1024;

/// What a walk comes by.
#[derive(Debug)]
pub enum Step {
    /// A file or a directory; what is in the directory comes next.
    Entry(Found),
    /// A directory that is done with.
    Leave(Found),
    /// Something cannot be read: where, and why.
    Trouble(Vec<u8>, Error),
}

/// A walk under way.
pub struct Walk<'a> {
    fs: &'a ExtFs,
    run: Run<'a>,
    /// The directories that the walk is in.
    open: Vec<Open>,
    entered: HashSet<u32>,
    /// What was found out beforehand, to be told first.
    ready: Vec<Step>,
    /// Where it begins, until it has begun.
    start: Option<Found>,
}

struct Open {
    dir: Found,
    entries: vec::IntoIter<Named>,
}

impl<'a> Walk<'a> {
    /// A walk of `start`, itself included.
    pub fn new(fs: &'a ExtFs, start: Found, run: &Run<'a>) -> Self {
        let (open, entered, ready) = (Vec::new(), HashSet::new(), Vec::new());
        Walk { fs, run: *run, open, entered, ready, start: Some(start) }
    }

    /// The next step; `None` at the end.
    ///
    /// # Errors
    /// When asked to stop. What cannot be read is a step.
    pub fn next_step(&mut self) -> Result<Option<Step>> {
        self.run.check()?;
        if let Some(start) = self.start.take() {
            return Ok(Some(self.arrive(start)));
        }
        if let Some(step) = self.ready.pop() {
            return Ok(Some(step));
        }
        let Some(open) = self.open.last_mut() else { return Ok(None) };
        let Some(named) = open.entries.next() else {
            return Ok(self.open.pop().map(|open| Step::Leave(open.dir)));
        };
        let path = join(&open.dir.path, &named.name);
        Ok(Some(match self.fs.named(&named) {
            Ok(node) => self.arrive(Found { path, node }),
            Err(e) => Step::Trouble(path, e),
        }))
    }

    fn arrive(&mut self, found: Found) -> Step {
        if found.node.is_dir() {
            self.enter(&found);
        }
        Step::Entry(found)
    }

    /// Opens a directory, or notes why it cannot be.
    fn enter(&mut self, dir: &Found) {
        match self.list(&dir.node) {
            Ok((entries, troubles)) => {
                self.ready.extend(troubles.into_iter().rev().map(|e| Step::Trouble(dir.path.clone(), e)));
                self.open.push(Open { dir: dir.clone(), entries: entries.into_iter() });
            }
            Err(e) => {
                self.ready.push(Step::Leave(dir.clone()));
                self.ready.push(Step::Trouble(dir.path.clone(), e));
            }
        }
    }

    fn list(&mut self, dir: &Node) -> Result<(Vec<Named>, Vec<Error>)> {
        if !self.entered.insert(dir.ino) {
            return Err(Error::source(format!("directory inode {} is in more than one place", dir.ino))
                .with_hint("the file system is damaged: lhrecover check"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(Error::source(format!("directories are nested more than {MAX_DEPTH} deep")));
        }
        let listing = self.fs.list(dir)?;
        Ok((listing.entries, listing.troubles))
    }
}

/// The path of `name` in the directory `dir`.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.ends_with(b"/") { b"" } else { b"/" };
    [dir, slash, name].concat()
}
