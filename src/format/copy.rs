//! The files that a copy of a replica directory carries of our own: manifest, journal, and unfinished files.
//!
//! They lie in the copy itself, so that it can be checked and finished wherever it is taken. Their names are like none
//! of Longhorn's; in particular none ends in `.meta`, which the engine would parse.

pub mod journal;
pub mod manifest;

/// What a finished copy holds: the manifest.
pub const MANIFEST_NAME: &str = "lhrecover-preserve.json";

/// What an unfinished copy has done so far: the journal.
pub const JOURNAL_NAME: &str = "lhrecover-preserve.journal";

/// Written, measured and removed before anything is copied.
pub const PROBE_NAME: &str = "lhrecover-preserve.probe";

/// The end of the name of a file that is not finished.
pub const PARTIAL_SUFFIX: &str = ".lhrecover-partial";

/// Whether a file of this name is one of ours, and no part of the replica.
pub fn is_ours(name: &str) -> bool {
    [MANIFEST_NAME, JOURNAL_NAME, PROBE_NAME].contains(&name) || name.ends_with(PARTIAL_SUFFIX)
}

/// The name that the file `name` has until it is finished.
pub fn partial_name(name: &str) -> String {
    format!("{name}{PARTIAL_SUFFIX}")
}
