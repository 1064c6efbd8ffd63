//! The files that changed between two states of an ext2, ext3 or ext4 file system.
//!
//! In two states of one replica, a file whose inode was not touched is the same, and is not read: a change to it would have
//! left its time there. Of two replicas that is not to be taken for granted, and all files are read.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Run};
use crate::guest::ext::{ExtFs, Found};
use crate::model::finding::Finding;
use crate::workflow::browse::Troubles;
use crate::workflow::browse::search::letter;
use crate::workflow::diff::pairs::Pairs;
use crate::workflow::diff::renames::Renames;
use crate::workflow::diff::same::{self, File, Unreadable};
use crate::workflow::diff::spool::{Spool, Spooling};

/// What happened to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It came.
    Added,
    /// It went.
    Removed,
    /// What is in it changed.
    Changed,
    /// Only something about it changed.
    Metadata,
    /// It has another name; it may have changed as well.
    Renamed,
}

/// A file that changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// What happened.
    pub what: What,
    /// Where it is, or was.
    pub path: Vec<u8>,
    /// Where a renamed one was.
    pub old_path: Option<Vec<u8>>,
    /// What it is, or was, as a letter of `find -type`.
    pub kind: char,
    /// Its length before; `None` of one that came.
    pub old_size_bytes: Option<u64>,
    /// Its length now; `None` of one that went.
    pub size_bytes: Option<u64>,
    /// Whether what is in it changed.
    pub content: bool,
    /// What about it changed, in words.
    pub metadata: Vec<String>,
}

/// How many files there are of each sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Those that came.
    pub added: u64,
    /// Those that went.
    pub removed: u64,
    /// Those with something else in them.
    pub changed: u64,
    /// Those of which only something about them changed.
    pub metadata: u64,
    /// Those with another name.
    pub renamed: u64,
    /// Those that have another path only because a directory above them was renamed.
    pub moved_along: u64,
    /// All others.
    pub same: u64,
}

impl Counts {
    /// Whether nothing changed.
    pub fn is_same(&self) -> bool {
        *self == Counts { same: self.same, ..Counts::default() }
    }
}

/// What a comparison of files found.
pub struct Files {
    /// How many.
    pub counts: Counts,
    /// The changes, by path.
    changes: Spool,
    /// Whether there were too many to find out which were renamed.
    pub renames_given_up: bool,
    /// What could not be read.
    pub findings: Vec<Finding>,
}

impl Files {
    /// The changes, by path. An error is that of reading them back.
    pub fn changes(&self) -> impl Iterator<Item = std::io::Result<FileChange>> + '_ {
        self.changes.iter().map(|record| Ok(serde_json::from_slice(&record?)?))
    }
}

/// Compares the files of two file systems; those that look untouched, too, if `all` are to be read.
///
/// # Errors
/// When there is no telling at all; interrupted when the run is cancelled. A file that cannot be read is a finding.
pub fn compare(from: &ExtFs, to: &ExtFs, all: bool, run: &Run<'_>) -> Result<Files> {
    run.event(Event::Phase { name: "comparing files", total_bytes: None });
    let renames = Renames::find(Pairs::new(from, to, None, run)?)?;
    let troubles = (Troubles::default(), Troubles::default());
    let mut comparing = Comparing {
        sides: (from, to),
        troubles: (&troubles.0, &troubles.1),
        renames: &renames,
        all,
        run,
        counts: Counts::default(),
        changes: Spooling::new()?,
    };
    let mut pairs = Pairs::new(from, to, Some((&troubles.0, &troubles.1)), run)?;
    while let Some(met) = pairs.next_met()? {
        match (met.from, met.to) {
            (Some(from), Some(to)) => comparing.both(&from, &to)?,
            (Some(from), None) => comparing.gone(from)?,
            (None, Some(to)) => comparing.come(to)?,
            (None, None) => {}
        }
    }
    run.event(Event::PhaseDone);
    let (counts, changes) = (comparing.counts, comparing.changes.finish()?);
    let of = |side: &str, troubles: &Troubles| {
        let on = |finding: Finding| Finding { what: format!("{side}: {}", finding.what), ..finding };
        troubles.findings().into_iter().map(on).collect::<Vec<_>>()
    };
    let findings = of("first", &troubles.0).into_iter().chain(of("second", &troubles.1));
    Ok(Files { counts, changes, renames_given_up: renames.given_up, findings: findings.collect() })
}

struct Comparing<'a> {
    sides: (&'a ExtFs, &'a ExtFs),
    troubles: (&'a Troubles, &'a Troubles),
    renames: &'a Renames,
    all: bool,
    run: &'a Run<'a>,
    counts: Counts,
    changes: Spooling,
}

impl Comparing<'_> {
    fn gone(&mut self, found: Found) -> Result<()> {
        if self.renames.is_old_name(&found) {
            return Ok(());
        }
        let old_size_bytes = Some(found.node.size_bytes);
        self.tell(FileChange { old_size_bytes, size_bytes: None, ..change(What::Removed, found) })
    }

    fn come(&mut self, found: Found) -> Result<()> {
        let Some(old_path) = self.renames.old_path(&found).map(<[u8]>::to_vec) else {
            return self.tell(change(What::Added, found));
        };
        let Ok(old) = self.sides.0.node_of(found.node.ino) else {
            return self.tell(change(What::Added, found));
        };
        let old = Found { path: old_path, node: old };
        let (content, metadata) = self.differences(&old, &found)?;
        if !content && metadata.is_empty() && self.renames.moved_along(&old.path, &found.path) {
            self.counts.moved_along += 1;
            return Ok(());
        }
        let old_size_bytes = Some(old.node.size_bytes);
        let changed = change(What::Renamed, found);
        self.tell(FileChange { old_path: Some(old.path), old_size_bytes, content, metadata, ..changed })
    }

    fn both(&mut self, from: &Found, to: &Found) -> Result<()> {
        let (content, metadata) = self.differences(from, to)?;
        let what = match (content, metadata.is_empty()) {
            (true, _) => What::Changed,
            (false, false) => What::Metadata,
            (false, true) => {
                self.counts.same += 1;
                return Ok(());
            }
        };
        let old_size_bytes = Some(from.node.size_bytes);
        self.tell(FileChange { old_size_bytes, content, metadata, ..change(what, to.clone()) })
    }

    /// Whether what is in a file changed, and what about it did.
    fn differences(&self, from: &Found, to: &Found) -> Result<(bool, Vec<String>)> {
        if !self.all && same::is_untouched(&from.node, &to.node, self.sides.0.written_at()) {
            return Ok((false, Vec::new()));
        }
        let one = File { fs: self.sides.0, node: &from.node };
        let other = File { fs: self.sides.1, node: &to.node };
        let content = self.or_trouble(same::contents_differ(one, other, self.run), from, to)?;
        let metadata = self.or_trouble(same::metadata(one, other), from, to)?;
        Ok((content.unwrap_or_default(), metadata.unwrap_or_default()))
    }

    /// What was found out, or `None` and why not.
    fn or_trouble<T>(
        &self,
        found: std::result::Result<T, Unreadable>,
        from: &Found,
        to: &Found,
    ) -> Result<Option<T>> {
        let (troubles, path, error) = match found {
            Ok(value) => return Ok(Some(value)),
            Err(Unreadable::From(e)) => (self.troubles.0, &from.path, e),
            Err(Unreadable::To(e)) => (self.troubles.1, &to.path, e),
        };
        if error.kind() == ErrorKind::Interrupted {
            return Err(error);
        }
        troubles.add(path, error);
        Ok(None)
    }

    fn tell(&mut self, change: FileChange) -> Result<()> {
        let count = match change.what {
            What::Added => &mut self.counts.added,
            What::Removed => &mut self.counts.removed,
            What::Changed => &mut self.counts.changed,
            What::Metadata => &mut self.counts.metadata,
            What::Renamed => &mut self.counts.renamed,
        };
        *count += 1;
        let record = serde_json::to_vec(&change)
            .map_err(|e| Error::output("cannot keep a change").caused_by(e.into()))?;
        self.changes.add(&record)
    }
}

/// A change of a file as it is found now, of which nothing more is known.
fn change(what: What, found: Found) -> FileChange {
    FileChange {
        what,
        kind: letter(found.node.kind),
        size_bytes: Some(found.node.size_bytes),
        path: found.path,
        old_path: None,
        old_size_bytes: None,
        content: false,
        metadata: Vec::new(),
    }
}
