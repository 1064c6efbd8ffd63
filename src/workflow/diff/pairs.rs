//! Two file systems walked side by side: every path, and the file that each of them has there.
//!
//! Both walks go in the same order, so neither is ever in memory as a whole.

use std::cmp::Ordering;
use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::event::Run;
use crate::guest::ext::{ExtFs, Found, LastLink, Step, Walk};
use crate::workflow::browse::Troubles;

/// How many places may be unreadable before there is no point in going on.
const MOST_UNKNOWN: usize = 10_000;

/// What is at a path: in at least one of the two.
pub struct Met {
    /// In the first file system.
    pub from: Option<Found>,
    /// In the second.
    pub to: Option<Found>,
}

/// The two walks.
pub struct Pairs<'a> {
    from: Side<'a>,
    to: Side<'a>,
}

struct Side<'a> {
    walk: Walk<'a>,
    next: Option<Found>,
    /// What could not be read: what is there is not known.
    unknown: HashSet<Vec<u8>>,
    troubles: Option<&'a Troubles>,
}

impl<'a> Pairs<'a> {
    /// Both from their roots; what cannot be read is put into `troubles`, if there are any.
    ///
    /// # Errors
    /// When a root cannot be read; interrupted when the run is cancelled.
    pub fn new(
        from: &'a ExtFs,
        to: &'a ExtFs,
        troubles: Option<(&'a Troubles, &'a Troubles)>,
        run: &Run<'a>,
    ) -> Result<Self> {
        Ok(Pairs {
            from: Side::new(from, troubles.map(|troubles| troubles.0), run)?,
            to: Side::new(to, troubles.map(|troubles| troubles.1), run)?,
        })
    }

    /// What is at the next path; `None` after the last. Where one side cannot be read, nothing is said of the other.
    ///
    /// # Errors
    /// When there is too much that cannot be read; interrupted when the run is cancelled.
    pub fn next_met(&mut self) -> Result<Option<Met>> {
        loop {
            let order = match (&self.from.next, &self.to.next) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(from), Some(to)) => in_walks(&from.path).cmp(in_walks(&to.path)),
            };
            let from = if order.is_le() { self.from.take()? } else { None };
            let to = if order.is_ge() { self.to.take()? } else { None };
            let is_known = match (&from, &to) {
                (Some(from), None) => self.to.knows(&from.path),
                (None, Some(to)) => self.from.knows(&to.path),
                _ => true,
            };
            if is_known {
                return Ok(Some(Met { from, to }));
            }
        }
    }
}

/// A path as walks order it: name by name.
fn in_walks(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
}

impl<'a> Side<'a> {
    fn new(fs: &'a ExtFs, troubles: Option<&'a Troubles>, run: &Run<'a>) -> Result<Self> {
        let root = fs.resolve(b"/", LastLink::Keep)?;
        let mut side = Side { walk: Walk::new(fs, root, run), next: None, unknown: HashSet::new(), troubles };
        side.take()?;
        Ok(side)
    }

    /// The next file, and goes on to the one after it.
    fn take(&mut self) -> Result<Option<Found>> {
        let next = loop {
            match self.walk.next_step()? {
                None => break None,
                Some(Step::Entry(found)) => break Some(found),
                Some(Step::Leave(_)) => {}
                Some(Step::Trouble(path, e)) => self.trouble(path, e)?,
            }
        };
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn trouble(&mut self, path: Vec<u8>, error: Error) -> Result<()> {
        if let Some(troubles) = self.troubles {
            troubles.add(&path, error);
        }
        self.unknown.insert(path);
        if self.unknown.len() > MOST_UNKNOWN {
            return Err(Error::source("too much of the file system cannot be read to compare it")
                .with_hint("lhrecover check says what is damaged; another replica may be whole"));
        }
        Ok(())
    }

    /// Whether it can be told that nothing is at `path`: neither there nor above was anything unreadable.
    fn knows(&self, path: &[u8]) -> bool {
        if self.unknown.is_empty() {
            return true;
        }
        let ends = (1..path.len()).filter(|&end| path[end] == b'/').chain([1, path.len()]);
        !ends.into_iter().any(|end| self.unknown.contains(&path[..end]))
    }
}
