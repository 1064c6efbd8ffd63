//! Disks that fail or remember, as files that a loop device can be set up over.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use lhrecover::access::fuse::{IMAGE_NAME, ServedImage};
use lhrecover::error::{Error, Result};
use lhrecover::model::units::ByteRange;
use lhrecover::view::disk::{Content, Disk, Stretch};

const SECTOR: usize = 4096;

/// A disk in memory.
pub struct Memory {
    state: Mutex<State>,
}

struct State {
    bytes: Vec<u8>,
    /// By sector: discarded, so that it reads as zeros until a restart.
    discarded: Vec<bool>,
    /// What cannot be read.
    unreadable: Vec<ByteRange>,
}

fn place(offset_bytes: u64, len: usize) -> std::ops::Range<usize> {
    let start = usize::try_from(offset_bytes).unwrap();
    start..start + len
}

impl Memory {
    /// With these bytes: whole sectors.
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        let discarded = vec![false; bytes.len() / SECTOR];
        Arc::new(Memory { state: Mutex::new(State { bytes, discarded, unreadable: Vec::new() }) })
    }

    /// From now on this cannot be read.
    pub fn fail(&self, ranges: Vec<ByteRange>) {
        self.state.lock().unwrap().unreadable = ranges;
    }

    /// As an engine does that starts anew: what was discarded shows what was there before.
    pub fn restart(&self) {
        self.state.lock().unwrap().discarded.fill(false);
    }

    /// How many sectors are discarded now.
    pub fn discarded(&self) -> usize {
        self.state.lock().unwrap().discarded.iter().filter(|is| **is).count()
    }

    /// What it holds, as it reads.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.size_bytes()).unwrap()];
        self.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

impl Disk for Memory {
    fn size_bytes(&self) -> u64 {
        self.state.lock().unwrap().bytes.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset_bytes: u64) -> Result<()> {
        let state = self.state.lock().unwrap();
        let range = ByteRange::new(offset_bytes, offset_bytes + buf.len() as u64);
        let bad = |bad: &&ByteRange| bad.start_bytes < range.end_bytes && range.start_bytes < bad.end_bytes;
        if let Some(bad) = state.unreadable.iter().find(bad) {
            return Err(Error::source("a bad sector").at_offset(bad.start_bytes));
        }
        let place = place(offset_bytes, buf.len());
        buf.copy_from_slice(&state.bytes[place.clone()]);
        for sector in place.start / SECTOR..place.end.div_ceil(SECTOR) {
            if state.discarded[sector] {
                let start = (sector * SECTOR).max(place.start);
                let end = ((sector + 1) * SECTOR).min(place.end);
                buf[start - place.start..end - place.start].fill(0);
            }
        }
        Ok(())
    }

    fn stretches(&self, range: ByteRange) -> Result<Vec<Stretch>> {
        Ok(vec![Stretch { range, content: Content::Data }])
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn put(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let place = place(offset_bytes, bytes.len());
        // A part of a discarded sector is written: the rest of it is zeros now.
        for sector in place.start / SECTOR..place.end.div_ceil(SECTOR) {
            if std::mem::take(&mut state.discarded[sector]) {
                state.bytes[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
            }
        }
        state.bytes[place].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&self, range: ByteRange) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let place = place(range.start_bytes, usize::try_from(range.len_bytes()).unwrap());
        let (first, end) = (place.start.div_ceil(SECTOR), place.end / SECTOR);
        if first < end {
            state.discarded[first..end].fill(true);
        }
        // Parts of sectors are written.
        for part in [place.start..place.end.min(first * SECTOR), place.start.max(end * SECTOR)..place.end] {
            if !part.is_empty() {
                state.bytes[part].fill(0);
            }
        }
        Ok(())
    }
}

/// A disk as a file; unmounted when it is dropped.
pub struct Served {
    dir: PathBuf,
    image: Option<ServedImage>,
}

impl Served {
    /// In the new directory `dir`.
    pub fn at(dir: &Path, disk: Arc<dyn Disk>) -> Self {
        fs::create_dir(dir).unwrap();
        let size_bytes = disk.size_bytes();
        let image = ServedImage::mount(disk, dir, size_bytes, |_| {}).unwrap();
        Served { dir: dir.to_path_buf(), image: Some(image) }
    }

    /// The file.
    pub fn file(&self) -> PathBuf {
        self.dir.join(IMAGE_NAME)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let umount = |options: &[&str]| {
            Command::new("umount")
                .args(options)
                .arg(&self.dir)
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|s| s.success())
        };
        for _ in 0..100 {
            if umount(&[]) {
                break;
            }
            thread::sleep(Duration::from_millis(30));
        }
        if !self.image.as_ref().is_some_and(ServedImage::has_ended) {
            umount(&["--lazy"]);
        }
    }
}
