//! A whole replica directory, hostile in any way: it is inspected and merged, or refused. Errors are fine; panics, hangs
//! and writes are bugs.
//!
//! And: a merge that ends well has the volume's length, inspecting it had found it readable, and not one byte of what
//! lies outside the directory was read: outside, every byte has its top bit set, and inside none has. A replica that
//! nothing hostile was done to has the bytes that the topmost layer with a sector wrote there.

#![no_main]

use std::fs;
use std::io;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::LazyLock;

use arbitrary::Arbitrary;
use lhrecover::engine::diagnose::diagnose;
use lhrecover::event::{Cancel, Run, Silent};
use lhrecover::model::overlay::Unwritten;
use lhrecover::model::units::SECTOR_BYTES;
use lhrecover::replica::{ReplicaDir, SourceOptions};
use lhrecover::workflow::merge::{MergeOptions, Output, Sparse, merge};
use libfuzzer_sys::fuzz_target;
use serde_json::json;
use tempfile::TempDir;

/// Larger volumes are inspected and not merged: a stream of zeros tells nothing.
const MERGED_BYTES: u64 = 1 << 20;

/// Names are drawn from few, so that files belong together; now and then one is hostile.
#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Head(u8),
    Snapshot(u8),
    None,
    Outside,
    Any(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Size {
    Sectors(u8),
    Any(i64),
}

#[derive(Arbitrary, Debug)]
enum Entry<'a> {
    Volume { size: Size, head: Name<'a>, rebuilding: bool, backing: Option<Name<'a>> },
    RawVolume(&'a [u8]),
    Layer { name: Name<'a>, parent: Name<'a>, removed: bool, sectors: u8, written: Vec<(u8, u8)> },
    Meta { name: Name<'a>, parent: Name<'a>, labels: Vec<(&'a str, &'a str)> },
    RawMeta(Name<'a>, &'a [u8]),
    Raw(Name<'a>, &'a [u8]),
    Link(Name<'a>, Name<'a>),
    MetaLink(Name<'a>, Name<'a>),
    HardLink(Name<'a>, Name<'a>),
    Directory(Name<'a>),
    Counter(&'a [u8]),
}

/// Where it starts from: a sound replica, to which entries are then added, over what is there.
#[derive(Arbitrary, Debug)]
struct Input<'a> {
    sectors: u8,
    /// What each layer wrote, head first: sectors and the byte they are filled with.
    layers: Vec<Vec<(u8, u8)>>,
    entries: Vec<Entry<'a>>,
    at: Option<Name<'a>>,
}

impl Input<'_> {
    /// The layers that get files.
    fn chain(&self) -> &[Vec<(u8, u8)>] {
        &self.layers[..self.layers.len().min(6)]
    }

    fn name(&self, layer: usize) -> Name<'static> {
        match u8::try_from(layer) {
            Ok(0) => Name::Head(0),
            Ok(n) if layer < self.chain().len() => Name::Snapshot(n - 1),
            _ => Name::None,
        }
    }

    fn make(&self, dir: &Path) -> io::Result<()> {
        for (i, written) in self.chain().iter().enumerate() {
            let written = written.iter().copied().filter(|(sector, _)| *sector < self.sectors).collect();
            let (name, parent) = (self.name(i), self.name(i + 1));
            Entry::Layer { name, parent, removed: false, sectors: self.sectors, written }.make(dir)?;
        }
        let size = Size::Sectors(self.sectors);
        Entry::Volume { size, head: Name::Head(0), rebuilding: false, backing: None }.make(dir)?;
        for entry in self.entries.iter().take(24) {
            // What cannot be made is not there.
            let _ = entry.make(dir);
        }
        Ok(())
    }

    /// The byte that each sector is filled with, if that is known.
    fn expected(&self) -> Option<Vec<u8>> {
        let known =
            self.entries.is_empty() && self.at.is_none() && !self.chain().is_empty() && self.sectors > 0;
        let serves = |sector| {
            let last = |layer: &Vec<(u8, u8)>| {
                layer.iter().rev().find(|(at, _)| *at == sector).map(|(_, byte)| byte & 0x7f)
            };
            self.chain().iter().find_map(last).unwrap_or_default()
        };
        known.then(|| (0..self.sectors).map(serves).collect())
    }
}

impl Name<'_> {
    fn text(&self) -> String {
        match self {
            Name::Head(n) => format!("volume-head-{:03}.img", n % 3),
            Name::Snapshot(n) => format!("volume-snap-{}.img", n % 6),
            Name::None => String::new(),
            Name::Outside => "../outside/volume-snap-0.img".to_owned(),
            Name::Any(text) => (*text).to_owned(),
        }
    }
}

impl Entry<'_> {
    /// Makes the entry in `dir`. Names that no file can have are passed over, as are those that are taken.
    fn make(&self, dir: &Path) -> io::Result<()> {
        // Only what is directly inside: a hostile name is for the metadata to tell, not for us to write to.
        let at = |name: String| match Path::new(&name).file_name() {
            Some(only) if only == name.as_str() && !name.contains('\0') => Ok(dir.join(name)),
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        };
        match self {
            Entry::Volume { size, head, rebuilding, backing } => {
                let size = match size {
                    Size::Sectors(n) => i64::from(*n) * 4096,
                    Size::Any(n) => *n,
                };
                let backing = backing.as_ref().map(Name::text).unwrap_or_default();
                let meta = json!({"Size": size, "Head": head.text(), "Rebuilding": rebuilding, "BackingFilePath": backing});
                fs::write(dir.join("volume.meta"), meta.to_string())
            }
            Entry::RawVolume(bytes) => fs::write(dir.join("volume.meta"), bytes),
            Entry::Layer { name, parent, removed, sectors, written } => {
                let meta =
                    json!({"Name": name.text(), "Parent": parent.text(), "Removed": removed, "Created": "x"});
                fs::write(at(name.text() + ".meta")?, meta.to_string())?;
                let image = fs::File::create(at(name.text())?)?;
                image.set_len(u64::from(*sectors) * SECTOR_BYTES)?;
                for (sector, byte) in written {
                    let sector_bytes = [byte & 0x7f; SECTOR_BYTES as usize];
                    image.write_all_at(&sector_bytes, u64::from(*sector) * SECTOR_BYTES)?;
                }
                Ok(())
            }
            Entry::Meta { name, parent, labels } => {
                let labels: serde_json::Map<_, _> =
                    labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
                let meta = json!({"Parent": parent.text(), "Labels": labels});
                fs::write(at(name.text() + ".meta")?, meta.to_string())
            }
            Entry::RawMeta(name, bytes) => fs::write(at(name.text() + ".meta")?, bytes),
            Entry::Raw(name, bytes) => {
                fs::write(at(name.text())?, bytes.iter().map(|b| b & 0x7f).collect::<Vec<_>>())
            }
            Entry::Link(name, target) => symlink(target.text(), at(name.text())?),
            Entry::MetaLink(name, target) => symlink(target.text() + ".meta", at(name.text() + ".meta")?),
            Entry::HardLink(name, target) => fs::hard_link(at(target.text())?, at(name.text())?),
            Entry::Directory(name) => fs::create_dir(at(name.text())?),
            Entry::Counter(bytes) => fs::write(dir.join("revision.counter"), bytes),
        }
    }
}

/// A directory in memory, with a replica beside the one under test that must not be looked at.
static SCRATCH: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("volume-snap-0.img"), [0xa5; 8192]).unwrap();
    fs::write(outside.join("volume-snap-0.img.meta"), r#"{"Parent":""}"#).unwrap();
    dir
});

/// Names, lengths and modification times of what is in a directory.
fn fingerprint(dir: &Path) -> Vec<(String, u64, std::time::SystemTime)> {
    let stat = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        (entry.file_name().to_string_lossy().into_owned(), meta.len(), meta.modified().unwrap())
    };
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(stat).collect();
    all.sort();
    all
}

fuzz_target!(|input: Input<'_>| {
    let dir = SCRATCH.path().join("replica");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    input.make(&dir).unwrap();
    let before = fingerprint(&dir);
    let image = look(&dir, input.at.as_ref().map(Name::text));
    assert_eq!(fingerprint(&dir), before, "the source was written to");
    if let Some(expected) = input.expected() {
        let image = image.expect("a sound replica can be merged");
        assert!(image.chunks(4096).zip(&expected).all(|(sector, byte)| sector.iter().all(|b| b == byte)));
    }
});

/// Inspects and merges; returns the image, if there is one.
fn look(dir: &Path, at: Option<String>) -> Option<Vec<u8>> {
    let run = Run { observer: &Silent, cancel: &Cancel::default() };
    let replica = ReplicaDir::open(dir).ok()?;
    let options = SourceOptions { allow_rebuilding: true, allow_live: true, ..SourceOptions::default() };
    let diagnosis =
        diagnose(&replica, &options, Unwritten::Zero, &run).expect("only an interruption ends it");
    let readable = diagnosis.survey.is_some();
    if diagnosis.source.as_ref()?.volume_bytes > MERGED_BYTES {
        return None;
    }
    let options = MergeOptions {
        source: SourceOptions { at: at.clone(), ..options },
        accept_copy_damage: true,
        unwritten: Unwritten::Zero,
        force: false,
        workers: Some(1),
        clone: false,
        sparse: Sparse::Auto,
        sync: false,
        verify: false,
        digest: None,
        also_written: Vec::new(),
    };
    let mut image = Vec::new();
    let merged = merge(&replica, &options, Output::Stream(&mut image), &run);
    assert!(image.iter().all(|b| b & 0x80 == 0), "bytes from outside the directory");
    let merged = merged.ok()?;
    assert!(at.is_some() || readable, "merged, though inspecting it said it cannot be read");
    assert_eq!(image.len() as u64, merged.volume_bytes);
    Some(image)
}
