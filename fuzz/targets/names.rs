//! File names, and what `--at` may say: any text is classified, and a plain name never leads out of a directory.
//! Errors are fine, panics are bugs.
//!
//! And: what a file belongs to is a part of its name, and the snapshot found is one that was there and was meant.

#![no_main]

use std::path::{Component, Path};

use lhrecover::format::names::{
    DiskKind, FileKind, classify, disk_kind, head_number, is_plain, snapshot_name,
};
use lhrecover::model::chain::{NotFound, find_snapshot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, Vec<&str>)| {
    let (name, others) = input;
    match classify(name) {
        FileKind::Meta { disk } => assert_eq!(format!("{disk}.meta"), name),
        FileKind::Checksum { disk } => {
            assert_eq!(format!("{disk}.checksum"), name);
            assert_ne!(disk_kind(disk), DiskKind::Other);
        }
        FileKind::Tmp { of } => {
            assert!(name.starts_with(of) && name.ends_with(".tmp"));
            assert_ne!(classify(of), FileKind::Foreign);
        }
        FileKind::Image(kind) => assert_eq!(disk_kind(name), kind),
        FileKind::Ours => assert!(name.contains("lhrecover-") && !name.ends_with(".meta")),
        FileKind::VolumeMeta | FileKind::RevisionCounter | FileKind::RestoreScratch | FileKind::Foreign => {}
    }
    if let Some(number) = head_number(name) {
        assert!(number.bytes().all(|b| b.is_ascii_digit()) && snapshot_name(name).is_none());
    }
    if is_plain(name) {
        let parts = Path::new(name).components().collect::<Vec<_>>();
        assert!(matches!(parts[..], [Component::Normal(only)] if only == name), "{name:?} is not plain");
    }
    let meant = |disk: &str| {
        disk.starts_with(name) || snapshot_name(disk).is_some_and(|snapshot| snapshot.starts_with(name))
    };
    match find_snapshot(name, others.iter().copied()) {
        Ok(found) => assert!(others.contains(&found) && meant(found)),
        Err(NotFound::Ambiguous(several)) => assert!(several.len() > 1 && several.iter().all(|s| meant(s))),
        Err(NotFound::Nothing) => assert!(!others.contains(&name)),
    }
});
