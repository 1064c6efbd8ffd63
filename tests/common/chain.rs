//! Replica directories made up from a description, and the oracle that says what each must read as.
//!
//! The oracle knows nothing of extents, plans or files: it fills one layer index per sector, base to head.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use serde_json::json;

/// The unit of a volume, in bytes.
pub const SECTOR: u64 = 4096;
type Sector = [u8; 4096];

/// What is done to a range of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Bytes are written, other ones in every layer and sector.
    Data,
    /// Zeros are written.
    Zeros,
    /// Room is allocated, and nothing written.
    Preallocated,
}

/// Something done to a run of sectors.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub first: u64,
    pub sectors: u64,
    pub mark: Mark,
}

/// One file; writes past its end are cut off.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    pub size_bytes: u64,
    pub writes: Vec<Write>,
}

impl Layer {
    pub fn new(size_bytes: u64, writes: &[(u64, u64, Mark)]) -> Self {
        let writes = writes.iter().map(|&(first, sectors, mark)| Write { first, sectors, mark }).collect();
        Layer { size_bytes, writes }
    }

    /// What each sector of the file holds; the order of writing does not matter, but for zeros against data.
    fn sectors(&self) -> Vec<Option<Mark>> {
        let mut sectors = vec![None; usize::try_from(self.size_bytes.div_ceil(SECTOR)).unwrap()];
        for write in &self.writes {
            for sector in write.first..write.first + write.sectors {
                if let Some(slot) = sectors.get_mut(usize::try_from(sector).unwrap()) {
                    // Allocating room for what is written already changes nothing.
                    if write.mark != Mark::Preallocated || slot.is_none() {
                        *slot = Some(write.mark);
                    }
                }
            }
        }
        sectors
    }

    fn create(&self, path: &Path, place: usize) {
        let file = File::create_new(path).unwrap();
        file.set_len(self.size_bytes).unwrap();
        for write in &self.writes {
            let start = write.first * SECTOR;
            let end = ((write.first + write.sectors) * SECTOR).min(self.size_bytes);
            if start >= end {
                continue;
            }
            if write.mark == Mark::Preallocated {
                let (start, len) = (i64::try_from(start).unwrap(), i64::try_from(end - start).unwrap());
                fallocate(&file, FallocateFlags::empty(), start, len).unwrap();
                continue;
            }
            let mut bytes = Vec::new();
            for sector in write.first..end.div_ceil(SECTOR) {
                bytes.extend_from_slice(&contents(place, sector, write.mark));
            }
            bytes.truncate(usize::try_from(end - start).unwrap());
            file.write_all_at(&bytes, start).unwrap();
        }
    }
}

/// The bytes of a sector; none of a [`Mark::Data`] one is zero.
fn contents(place: usize, sector: u64, mark: Mark) -> Sector {
    if mark != Mark::Data {
        return [0; 4096];
    }
    let seed = place as u64 * 131 + sector * 7;
    std::array::from_fn(|i| u8::try_from((seed + i as u64) % 251 + 1).unwrap())
}

/// A volume: layers lowest first, the last of which is the head.
#[derive(Clone, Debug)]
pub struct Chain {
    pub volume_bytes: u64,
    /// A raw backing image.
    pub backing: Option<Layer>,
    pub layers: Vec<Layer>,
    /// A snapshot that was left behind by a revert, and the place of its parent among the layers.
    pub branch: Option<(usize, Layer)>,
}

/// The head's file name.
pub const HEAD: &str = "volume-head-001.img";
/// The name of the snapshot that is off the live chain.
pub const BRANCH: &str = "branch";
/// Marks in contents: the places of the backing image and the branch, which no layer has.
const BACKING_PLACE: usize = 1000;
const BRANCH_PLACE: usize = 1001;

/// The name of the snapshot at `place`.
pub fn snapshot(place: usize) -> String {
    format!("s{place:03}")
}

/// The file name of a snapshot.
pub fn image(snapshot: &str) -> String {
    format!("volume-snap-{snapshot}.img")
}

impl Chain {
    /// A chain of these layers, each as long as the volume.
    pub fn of(volume_bytes: u64, layers: &[&[(u64, u64, Mark)]]) -> Self {
        let layers = layers.iter().map(|writes| Layer::new(volume_bytes, writes)).collect();
        Chain { volume_bytes, backing: None, layers, branch: None }
    }

    /// The file name of the layer at `place`.
    pub fn file(&self, place: usize) -> String {
        if place + 1 == self.layers.len() { HEAD.to_owned() } else { image(&snapshot(place)) }
    }

    /// Writes it to `disk`, laid out as a Longhorn disk is; returns the replica directory.
    pub fn write_to(&self, disk: &Path) -> PathBuf {
        let dir = disk.join("replicas/pvc-1-0a1b2c3d");
        fs::create_dir_all(&dir).unwrap();
        self.write_files(disk, &dir);
        dir
    }

    /// Writes the layers into the existing directory `dir`, and the backing image below `disk`.
    pub fn write_files(&self, disk: &Path, dir: &Path) {
        for (place, layer) in self.layers.iter().enumerate() {
            let file = self.file(place);
            layer.create(&dir.join(&file), place);
            write_meta(dir, &file, &place.checked_sub(1).map_or(String::new(), |below| self.file(below)));
        }
        if let Some((parent, layer)) = &self.branch {
            layer.create(&dir.join(image(BRANCH)), BRANCH_PLACE);
            write_meta(dir, &image(BRANCH), &self.file(*parent));
        }
        if let Some(backing) = &self.backing {
            fs::create_dir_all(disk.join("backing-images/img-1")).unwrap();
            backing.create(&disk.join("backing-images/img-1/backing"), BACKING_PLACE);
        }
        let backing = self.backing.as_ref().map(|_| "/host/var/lib/longhorn/backing-images/img-1/backing");
        let top = self.layers.len() - 1;
        let parent = top.checked_sub(1).map_or(String::new(), |below| self.file(below));
        let meta = json!({
            "Size": self.volume_bytes, "Head": HEAD, "Dirty": false, "Rebuilding": false, "Error": "",
            "Parent": parent, "SectorSize": 512, "BackingFilePath": backing.unwrap_or(""),
        });
        fs::write(dir.join("volume.meta"), format!("{meta}\n")).unwrap();
        fs::write(dir.join("revision.counter"), [b'1'; 1]).unwrap();
    }

    /// What the volume reads as of the layer at `place`, by the oracle. `unwritten_hides` is how the engine takes
    /// preallocated room.
    pub fn reads_as(&self, place: usize, unwritten_hides: bool) -> Vec<u8> {
        let layers = self.layers[..=place].iter().enumerate();
        self.oracle(layers, unwritten_hides)
    }

    /// What the volume reads as of the head.
    pub fn reads(&self) -> Vec<u8> {
        self.reads_as(self.layers.len() - 1, true)
    }

    /// What the volume reads as of the snapshot off the live chain.
    pub fn branch_reads(&self, unwritten_hides: bool) -> Option<Vec<u8>> {
        let (parent, branch) = self.branch.as_ref()?;
        let below = self.layers[..=*parent].iter().enumerate();
        Some(self.oracle(below.chain([(BRANCH_PLACE, branch)]), unwritten_hides))
    }

    fn oracle<'a>(
        &'a self,
        layers: impl Iterator<Item = (usize, &'a Layer)>,
        unwritten_hides: bool,
    ) -> Vec<u8> {
        let mut served = vec![None; usize::try_from(self.volume_bytes.div_ceil(SECTOR)).unwrap()];
        let backing = self.backing.iter().map(|layer| (BACKING_PLACE, layer));
        for (place, layer) in backing.chain(layers) {
            for (sector, mark) in layer.sectors().into_iter().enumerate() {
                let hides = mark.is_some_and(|m| unwritten_hides || m != Mark::Preallocated);
                if let (Some(slot), true) = (served.get_mut(sector), hides) {
                    *slot = Some((place, layer.size_bytes, mark));
                }
            }
        }
        let mut bytes = Vec::new();
        for (sector, slot) in (0u64..).zip(served) {
            let mut whole: Sector = [0; 4096];
            if let Some((place, size_bytes, Some(mark))) = slot {
                whole = contents(place, sector, mark);
                // Past the end of a shorter file are zeros.
                let present = size_bytes.saturating_sub(sector * SECTOR).min(SECTOR);
                whole[usize::try_from(present).unwrap()..].fill(0);
            }
            bytes.extend_from_slice(&whole);
        }
        bytes.truncate(usize::try_from(self.volume_bytes).unwrap());
        bytes
    }
}

/// Writes the metadata of a layer.
pub fn write_meta(dir: &Path, disk: &str, parent: &str) {
    let meta = json!({
        "Name": disk, "Parent": parent, "Removed": false, "UserCreated": true,
        "Created": "2026-08-18T09:54:39Z", "Labels": null,
    });
    fs::write(dir.join(format!("{disk}.meta")), format!("{meta}\n")).unwrap();
}

/// Changes members of a JSON file, and keeps the rest.
pub fn edit(path: &Path, changes: &[(&str, serde_json::Value)]) {
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for (key, value) in changes {
        json[key] = value.clone();
    }
    let mut file = OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    std::io::Write::write_all(&mut file, format!("{json}\n").as_bytes()).unwrap();
}
