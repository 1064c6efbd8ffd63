//! Journals of every version, written by debugfs: what is read through them is what e2fsck makes of them.

#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests fail the test.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::cli::{has_finding, lhrecover};
use common::ext::{make, pattern, with_fast_commits};
use common::loopdev::run;
use common::text;
use tempfile::TempDir;

/// The length of the file that the journal changes, in blocks of 1024 bytes.
const BLOCKS: usize = 16;

/// An image with a file whose blocks the journal has other content for.
struct Journalled {
    dir: TempDir,
    image: PathBuf,
}

impl Journalled {
    /// With checksums of that version in the journal, if any, and these options.
    fn new(version: Option<&str>, options: &[&str]) -> Self {
        let dir = common::scratch();
        let file = dir.path().join("file");
        fs::write(&file, pattern(BLOCKS * 1024, 1)).unwrap();
        let options = [&["-t", "ext4", "-b", "1024", "-J", "size=1"], options].concat();
        let image = make(&dir.path().join("image"), &options, 8 << 20).unwrap().path;
        debugfs(&image, &format!("write {} file", text(&file)));
        let journalled = Journalled { dir, image };
        let first: u64 = run("debugfs", &["-R", "bmap file 0", text(&journalled.image)]).parse().unwrap();
        let blocks = |range: std::ops::Range<u64>| {
            range.map(|i| (first + i).to_string()).collect::<Vec<_>>().join(",")
        };
        // The second block begins like one of the journal's own.
        let mut escaped = pattern(4 * 1024, 2);
        escaped[1024..1028].copy_from_slice(&[0xc0, 0x3b, 0x39, 0x98]);
        let open = version.map_or_else(|| "jo".to_owned(), |v| format!("jo -c -v {v}"));
        journalled.transaction(&open, &escaped, &format!("jw -b {}", blocks(0..4)));
        journalled.transaction(&open, &pattern(4 * 1024, 3), &format!("jw -b {}", blocks(3..7)));
        // What was revoked later is not replayed.
        journalled.transaction(
            &open,
            &pattern(2 * 1024, 4),
            &format!("jw -b {} -r {}", blocks(8..10), blocks(2..4)),
        );
        journalled
    }

    fn transaction(&self, open: &str, data: &[u8], write: &str) {
        let file = self.dir.path().join("data");
        fs::write(&file, data).unwrap();
        debugfs(&self.image, &format!("{open}\n{write} {}\njc", text(&file)));
    }

    fn cat(&self) -> Vec<u8> {
        lhrecover(&["cat", text(&self.image), "/file"]).exits(0).stdout
    }

    /// The same after e2fsck has replayed the journal.
    fn truth(&self) -> Vec<u8> {
        let copy = self.dir.path().join("copy");
        fs::copy(&self.image, &copy).unwrap();
        // Its exit code tells that it has changed something.
        Command::new("e2fsck").args(["-fy", text(&copy)]).output().unwrap();
        let out = self.dir.path().join("out");
        debugfs(&copy, &format!("dump file {}", text(&out)));
        fs::read(out).unwrap()
    }
}

fn debugfs(image: &Path, commands: &str) {
    let script = image.with_extension("script");
    fs::write(&script, commands).unwrap();
    run("debugfs", &["-w", "-f", text(&script), text(image)]);
}

#[test]
fn every_version_is_replayed_as_e2fsck_does() {
    let kinds: &[(Option<&str>, &[&str])] = &[
        (None, &["-O", "^64bit,^metadata_csum"]),
        (None, &["-O", "64bit,^metadata_csum"]),
        (Some("2"), &["-O", "^64bit,metadata_csum"]),
        (Some("2"), &["-O", "64bit,metadata_csum"]),
        (Some("3"), &["-O", "^64bit,metadata_csum"]),
        (Some("3"), &["-O", "64bit,metadata_csum"]),
    ];
    let plain = pattern(BLOCKS * 1024, 1);
    for (version, options) in kinds {
        let journalled = Journalled::new(*version, options);
        let (read, truth) = (journalled.cat(), journalled.truth());
        let differing: Vec<_> =
            (0..BLOCKS).filter(|i| read[i * 1024..][..1024] != truth[i * 1024..][..1024]).collect();
        assert!(differing.is_empty(), "{version:?} {options:?}: blocks {differing:?}");
        assert_eq!(read[1024..1028], [0xc0, 0x3b, 0x39, 0x98], "{version:?} {options:?}");
        assert_eq!(read[2048..3072], plain[2048..3072], "{version:?} {options:?}: revoked");
        assert_ne!(read[..1024], plain[..1024], "{version:?} {options:?}");
    }
}

#[test]
fn a_damaged_transaction_ends_the_journal_and_is_told() {
    let journalled = Journalled::new(Some("3"), &["-O", "64bit,metadata_csum"]);
    let whole = journalled.cat();
    let bytes = fs::read(&journalled.image).unwrap();
    let data = pattern(4 * 1024, 3);
    let at =
        (0..bytes.len() - 1024).step_by(1024).find(|&at| bytes[at..at + 1024] == data[1024..2048]).unwrap();
    let mut damaged = bytes.clone();
    damaged[at + 100] ^= 1;
    fs::write(&journalled.image, damaged).unwrap();
    let ran = lhrecover(&["cat", text(&journalled.image), "/file"]).exits(1).says(&["[journal-cut-short]"]);
    assert_ne!(ran.stdout, whole);
    let listed = lhrecover(&["ls", text(&journalled.image), "--json"]).exits(1).json();
    assert!(has_finding(&listed, "journal-cut-short"));
    assert_eq!(listed["journal"]["transactions"], 1);
}

#[test]
fn a_transaction_without_its_end_is_as_if_it_had_never_been() {
    let journalled = Journalled::new(Some("3"), &["-O", "64bit,metadata_csum"]);
    let bytes = fs::read(&journalled.image).unwrap();
    // The last commit block: magic, type 2, and the highest number.
    let is_commit = |at: &usize| bytes[*at..*at + 8] == [0xc0, 0x3b, 0x39, 0x98, 0, 0, 0, 2];
    let commits: Vec<_> = (0..bytes.len()).step_by(1024).filter(is_commit).collect();
    assert_eq!(commits.len(), 3);
    let last = commits.into_iter().max_by_key(|&at| bytes[at + 8..at + 12].to_vec()).unwrap();
    let mut torn = bytes.clone();
    torn[last..last + 1024].fill(0);
    fs::write(&journalled.image, torn).unwrap();
    assert_eq!(journalled.cat(), journalled.truth());
    let listed = lhrecover(&["ls", text(&journalled.image), "--json"]).exits(0).json();
    assert_eq!(listed["journal"]["transactions"], 2);
}

#[test]
fn a_journal_elsewhere_is_told_if_it_is_needed() {
    let dir = common::scratch();
    let image = make(&dir.path().join("image"), &["-t", "ext4", "-O", "^has_journal"], 8 << 20).unwrap().path;
    // As with -J device=: there is a journal, on a device of that number, and it must be replayed.
    debugfs(&image, "feature has_journal needs_recovery\nssv journal_inum 0\nssv journal_dev 0x801");
    lhrecover(&["ls", text(&image)]).exits(3).says(&["the journal is on another device", "lhrecover mount"]);
    debugfs(&image, "feature -needs_recovery");
    lhrecover(&["ls", text(&image)]).exits(0);
}

#[test]
fn fast_commits_are_told() {
    let dir = common::scratch();
    let Some(copy) = with_fast_commits("fast_commits_are_told", dir.path()) else { return };
    let listed = lhrecover(&["ls", text(&copy), "--json"]).exits(1).json();
    assert!(has_finding(&listed, "fast-commits-missing"), "{listed}");
    lhrecover(&["ls", text(&dir.path().join("fast.img"))]).exits(0);
}
