//! What was left out, by kind: how often, and where first.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::guest::ext::as_path;
use crate::model::finding::{Code, Finding};

/// How many paths of each kind are kept.
const PATHS_KEPT: usize = 16;

/// What can be left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Something else has the name.
    Exists,
    /// A file that only root can make.
    Special,
    /// A name that cannot be used here.
    Name,
    /// A further name of a file that was itself left out.
    Link,
    /// The owner.
    Owner,
    /// The bits that let others run a program as its owner or group.
    SetId,
    /// The mode.
    Mode,
    /// An extended attribute, by name.
    Xattr(String),
    /// Times.
    Times,
    /// What the volume's root directory has.
    Root,
    /// What `chattr` sets, by its letter.
    Flag(char),
    /// The project that it counts for.
    Project,
    /// Room that was set aside for a file and never written to.
    RoomSetAside,
}

/// Flags that change what may be done to a file, or how its names are found: immutable, append-only, fs-verity, casefold.
const FLAGS_THAT_MATTER: &str = "iaVF";

/// All that was left out.
#[derive(Default)]
pub struct Left(Mutex<BTreeMap<What, Kept>>);

struct Kept {
    count: u64,
    /// The first paths.
    paths: Vec<String>,
    why: String,
}

impl Left {
    /// Notes that `what` was left out at `path`, and why.
    pub fn add(&self, what: What, path: &[u8], why: impl ToString) {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept =
            left.entry(what).or_insert_with(|| Kept { count: 0, paths: Vec::new(), why: why.to_string() });
        kept.count += 1;
        if kept.paths.len() < PATHS_KEPT {
            kept.paths.push(as_path(path).display().to_string());
        }
    }

    /// A finding for each kind.
    pub fn findings(&self) -> Vec<Finding> {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left.iter().map(|(what, kept)| what.finding(kept)).collect()
    }
}

impl What {
    fn finding(&self, Kept { count, paths, why }: &Kept) -> Finding {
        let first = paths.first().map_or("", String::as_str);
        let of = if *count == 1 {
            format!("of {first}")
        } else {
            format!("of {count} files, the first is {first}")
        };
        let (code, what, advice) = match self {
            What::Exists => (
                Code::NotExtracted,
                format!(
                    "{count} not extracted, since something else has the name in the target; the first is {first}: {why}"
                ),
                "extract to an empty directory, or replace files with --force",
            ),
            What::Special => (
                Code::NotExtracted,
                format!("{count} devices, pipes or sockets not made; the first is {first}: {why}"),
                "devices can be made by root only",
            ),
            What::Name => (
                Code::NotExtracted,
                format!(
                    "{count} not extracted, since the name cannot be used in the target; the first is {first}: {why}"
                ),
                "lhrecover cat brings out a file under any name",
            ),
            What::Link => (
                Code::NotExtracted,
                format!("{count} further names of files not made; the first is {first}: {why}"),
                "what keeps the file itself from being extracted is told above",
            ),
            What::Owner => (
                Code::AttributesNotKept,
                format!("the owner {of} could not be set: {why}"),
                "run it as root to keep owners, or with --no-owner if they do not matter",
            ),
            What::SetId => (
                Code::AttributesNotKept,
                format!("the set-user-ID or set-group-ID bit {of} was left out, as the owner is another"),
                "run it as root to keep it",
            ),
            What::Mode => (Code::AttributesNotKept, format!("the mode {of} could not be set: {why}"), ""),
            What::Xattr(name) => (
                Code::AttributesNotKept,
                format!("the extended attribute {name} {of} could not be set: {why}"),
                "some need root, and a file system that has them",
            ),
            What::Times => (Code::AttributesNotKept, format!("the times {of} could not be set: {why}"), ""),
            What::Root => (
                Code::AttributesNotKept,
                format!(
                    "what the volume's root directory has ({why}) was left out, since the target was not empty"
                ),
                "extract to a new directory, or set it by hand",
            ),
            What::Flag(letter) => (
                if FLAGS_THAT_MATTER.contains(*letter) {
                    Code::AttributesNotKept
                } else {
                    Code::TraitsNotKept
                },
                format!("the flag {letter}, as lsattr has it, {of} was left out"),
                if "VF".contains(*letter) {
                    "it needs a file system that is made for it"
                } else {
                    "chattr sets it again"
                },
            ),
            What::Project => (
                Code::TraitsNotKept,
                format!("the project {of} was left out: {why}"),
                "chattr -p sets it again, where quotas of projects are wanted",
            ),
            What::RoomSetAside => {
                (Code::TraitsNotKept, format!("preallocated room {of} has become holes"), "")
            }
        };
        let meaning = match code {
            Code::NotExtracted => "it is missing from the target",
            Code::TraitsNotKept => "the data is there, and who may use it has not changed",
            _ => "the data is there; this about it is not",
        };
        paths.iter().cloned().fold(Finding::new(code, what, meaning).advise(advice), Finding::on)
    }
}
