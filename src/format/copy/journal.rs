//! The journal of an unfinished copy, `lhrecover-preserve.journal`: one JSON value per line, appended as work is done.
//!
//! A line may be cut off, or be NULs after a power cut: what follows the first bad line counts as not done. Nor is a
//! good line trusted for long: before files get their names, all of them are read back and compared with it.

use serde::{Deserialize, Serialize};

use crate::format::copy::manifest::CopyKind;

/// The version of the journal; another one is no journal of ours.
pub const VERSION: u32 = 1;

/// The most bytes a journal may have: room for the windows of 30 TiB of data.
pub const MAX_BYTES: u64 = 64 << 20;

/// What tells whether a file is still the one that was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The inode number.
    pub inode: u64,
    /// The length in bytes.
    pub size_bytes: u64,
    /// When its data last changed: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When anything about it last changed.
    pub changed: (i64, i64),
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// The first line: what is copied, and how.
    Begun {
        /// [`VERSION`].
        version: u32,
        /// The path of the source.
        source: String,
        /// Whether data or blocks are copied.
        kind: CopyKind,
        /// Whether preallocated room is kept as such, and not as written zeros.
        keeps_unwritten: bool,
    },
    /// A file is copied from its beginning; lines about it further up no longer count. Files have numbers.
    File {
        /// Its number in the lines about its windows.
        number: u64,
        /// Its name.
        name: String,
        /// The source as it was then.
        stamp: Stamp,
    },
    /// A window of a file was copied.
    Window {
        /// Which file.
        file: u64,
        /// Which window.
        index: u64,
        /// Its digest, 64 hexadecimal digits.
        digest: String,
    },
    /// All files are complete and found right; from here on they get their names.
    Naming {
        /// Files that have their bytes under temporary names.
        files: Vec<String>,
        /// Other names of files, and symbolic links.
        links: Vec<String>,
    },
}

impl Record {
    /// The record as a line.
    pub fn to_line(&self) -> String {
        // Strings and numbers can always be said in JSON.
        let mut line = serde_json::to_string(self).unwrap_or_default();
        line.push('\n');
        line
    }
}

/// The good lines of a journal, and how many bytes they are. `None` when it does not begin as a journal does.
pub fn parse(bytes: &[u8]) -> Option<(Vec<Record>, u64)> {
    let mut records = Vec::new();
    let mut good_bytes = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let Some(text) = line.strip_suffix(b"\n") else { break };
        let Ok(record) = serde_json::from_slice::<Record>(text) else { break };
        if matches!(record, Record::Begun { version, .. } if version != VERSION) {
            return None;
        }
        if records.is_empty() != matches!(record, Record::Begun { .. }) {
            break;
        }
        records.push(record);
        good_bytes += line.len() as u64;
    }
    (!records.is_empty()).then_some((records, good_bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> Vec<Record> {
        let stamp = Stamp { inode: 1, size_bytes: 2, modified: (3, 4), changed: (-5, 6) };
        vec![
            Record::Begun {
                version: VERSION,
                source: "/a \"b\"\n".into(),
                kind: CopyKind::Copy,
                keeps_unwritten: true,
            },
            Record::File { number: 0, name: "volume-head-001.img".into(), stamp },
            Record::Window { file: 0, index: 7, digest: "ab".repeat(32) },
        ]
    }

    #[test]
    fn what_follows_a_bad_line_is_not_done() {
        let lines: Vec<_> = records().iter().map(Record::to_line).collect();
        let all = lines.concat();
        assert_eq!(parse(all.as_bytes()), Some((records(), all.len() as u64)));
        let two = (lines[0].len() + lines[1].len()) as u64;
        for torn in [&all[..all.len() - 1], &format!("{}\0\0\0\n{}", lines[..2].concat(), lines[2])] {
            assert_eq!(parse(torn.as_bytes()), Some((records()[..2].to_vec(), two)), "{torn:?}");
        }
        assert_eq!(parse(lines[1].as_bytes()), None);
        assert_eq!(parse(b""), None);
        assert_eq!(parse(all.replace("\"version\":1", "\"version\":2").as_bytes()), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
