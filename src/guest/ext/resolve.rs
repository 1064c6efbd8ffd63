//! From a path to a file, as if the image's root were the only one there is.
//!
//! Absolute links stay inside the image, and `..` never leads out of it: the way back up is the way that was come, not
//! what a directory says its parent is.

use std::collections::VecDeque;

use ext4_view::DirEntryName;

use crate::error::{Error, Result};
use crate::guest::ext::trouble::from_ext;
use crate::guest::ext::{ExtFs, Kind, Node, as_path, is_not_found};

/// How many links are followed for one path: as many as Linux does (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// The flag of a directory in which the kernel takes names for the same that differ in case only (`EXT4_CASEFOLD_FL`).
const IGNORES_CASE: u32 = 0x4000_0000;

const CASE_MATTERS: &str =
    "this directory ignores case, and here names must be given as they are written in it";

/// What to do with a symbolic link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastLink {
    /// Go where it leads.
    Follow,
    /// Take the link itself.
    Keep,
}

/// What a path led to.
#[derive(Clone, Debug)]
pub struct Found {
    /// The way there from the root, without any link: absolute, and `/` for the root itself.
    pub path: Vec<u8>,
    /// What is there.
    pub node: Node,
}

impl ExtFs {
    /// Goes along `path`, from the root whether it begins with a slash or not.
    ///
    /// # Errors
    /// `Usage` when it leads nowhere; `Source` when something on the way cannot be read.
    pub fn resolve(&self, path: &[u8], last: LastLink) -> Result<Found> {
        let mut way = Way { stack: vec![(Vec::new(), self.root()?)] };
        let mut ahead: VecDeque<Vec<u8>> = components(path).collect();
        // A trailing slash asks for what a link leads to, and that must be a directory.
        let wants_dir = path.ends_with(b"/");
        let follow = last == LastLink::Follow || wants_dir;
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == b".." {
                way.up();
                continue;
            }
            let node = self.enter(&way, &name, path)?;
            if node.kind == Kind::Symlink && (follow || !ahead.is_empty()) {
                links += 1;
                if links > MAX_LINKS {
                    return Err(at("too many symbolic links, perhaps in a circle", path));
                }
                let target = self.read_link(&node).map_err(|e| e.with_path(as_path(path)))?;
                if target.starts_with(b"/") {
                    way.stack.truncate(1);
                }
                for name in components(&target).rev() {
                    ahead.push_front(name);
                }
            } else {
                way.stack.push((name, node));
            }
        }
        let found = way.found();
        if wants_dir && !found.node.is_dir() {
            return Err(at("not a directory in the image", path));
        }
        Ok(found)
    }

    fn enter(&self, way: &Way, name: &[u8], path: &[u8]) -> Result<Node> {
        let here = way.here();
        if !here.is_dir() {
            return Err(at("not a directory in the image", path));
        }
        let missing = || {
            let error = at("no such file or directory in the image", path)
                .with_hint("lhrecover ls shows what is there; another snapshot may have it: --at");
            if here.flags & IGNORES_CASE == 0 { error } else { error.and(CASE_MATTERS) }
        };
        let name = DirEntryName::try_from(name).map_err(|_| missing())?;
        match self.fs.lookup(&here.inode, name) {
            Ok(index) => self.node(index).map_err(|e| e.with_path(as_path(path))),
            Err(e) if is_not_found(&e) => Err(missing()),
            Err(e) => Err(from_ext(e).with_path(as_path(path))),
        }
    }
}

/// The directories that were gone through, the root first, each with its name.
struct Way {
    stack: Vec<(Vec<u8>, Node)>,
}

impl Way {
    fn here(&self) -> &Node {
        // The root is never taken away.
        &self.stack[self.stack.len() - 1].1
    }

    fn up(&mut self) {
        if self.stack.len() > 1 {
            self.stack.pop();
        }
    }

    fn found(self) -> Found {
        let mut path = Vec::new();
        for (name, _) in &self.stack[1..] {
            path.push(b'/');
            path.extend(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Found { path, node: self.here().clone() }
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|&b| b == b'/').filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec)
}

fn at(what: &str, path: &[u8]) -> Error {
    Error::usage(what).with_path(as_path(path))
}
