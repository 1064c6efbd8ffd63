//! What is in a replica directory: every file by what it is, and all metadata, parsed.
//!
//! Reading never fails because of what a file says; that is kept as data ([`Doc`]) for others to judge. It is
//! bounded: the number of names, the size of each metadata file, and the size of all of them together.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::format::json::Damage;
use crate::format::layer_meta::{self, LayerMeta};
use crate::format::names::{self, DiskKind, FileKind};
use crate::format::revision;
use crate::format::volume_meta::{self, VolumeMeta};
use crate::sys::dir::{Dir, FileId, FileStat};

/// The most names a directory may hold. An engine stops at 250 layers, each with three files; branches and
/// leftovers come on top.
pub(crate) const MAX_NAMES: usize = 65_536;

/// The most bytes of layer metadata that are read in all: room for some 40,000 layers.
const META_BUDGET_BYTES: u64 = 8 << 20;

/// The most heads that are looked at.
pub const MAX_HEADS: usize = 64;

/// A metadata file: what it says, or why nothing can be made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doc<T> {
    /// It is not there.
    Absent,
    /// It is there and cannot be read.
    Unreadable(NotRead),
    /// It was read and cannot be used.
    Damaged(Damage),
    /// What it says.
    Good(T),
}

/// Why a file that is there cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRead {
    /// What the operating system says.
    pub why: String,
    /// Whether somebody else, usually root, may read it: nothing is wrong with the file then.
    pub denied: bool,
}

impl<T> Doc<T> {
    /// Whether it only takes another user to read it.
    pub fn is_denied(&self) -> bool {
        matches!(self, Doc::Unreadable(NotRead { denied: true, .. }))
    }

    /// What it says, if it can be used.
    pub fn good(&self) -> Option<&T> {
        match self {
            Doc::Good(value) => Some(value),
            _ => None,
        }
    }

    /// Why it cannot be used: what follows the file's name in a sentence. `None` when it can.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Doc::Absent => Some("is missing".into()),
            Doc::Unreadable(NotRead { why, .. }) => Some(format!("cannot be read ({why})")),
            Doc::Damaged(damage) => Some(damage.to_string()),
            Doc::Good(_) => None,
        }
    }
}

/// One layer's files.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The image's file name.
    pub name: String,
    /// What the name says it is.
    pub kind: DiskKind,
    /// The image, if it is there.
    pub image: Option<FileStat>,
    /// Its metadata.
    pub meta: Doc<LayerMeta>,
    /// Which file the metadata is, if it is there: two names may be one file.
    pub meta_file: Option<FileStat>,
    /// Whether there is a checksum file.
    pub has_checksum: bool,
}

impl Disk {
    /// The file name of its metadata.
    pub fn meta_name(&self) -> String {
        format!("{}.meta", self.name)
    }

    /// Whether both images are there and are one file.
    pub fn is_same_image(&self, other: &Disk) -> bool {
        matches!((self.image, other.image), (Some(a), Some(b)) if a.id == b.id)
    }

    /// Whether the image is there and has never been written to.
    pub fn is_blank(&self) -> bool {
        self.image.is_some_and(|image| image.allocated_bytes == 0)
    }

    /// Whether the image is there and has no bytes at all: no layer is made so and kept, but an engine makes such a file
    /// in the place of one that it does not find.
    pub fn is_emptied(&self) -> bool {
        self.image.is_some_and(|image| image.regular && image.size_bytes == 0)
    }

    /// The image, if it is there and is more than an empty stand-in.
    pub fn kept_image(&self) -> Option<FileStat> {
        self.image.filter(|_| !self.is_emptied())
    }

    /// When a snapshot was taken, or a head began, in seconds.
    pub fn taken(&self) -> Option<i64> {
        self.meta.good()?.created.parse::<Timestamp>().ok().map(Timestamp::as_second)
    }

    /// Whether its metadata says that it was deleted.
    pub fn is_removed(&self) -> bool {
        self.meta.good().is_some_and(|meta| meta.removed)
    }
}

/// Whether the snapshots that were not to change any more have the times at which the engine wrote them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Times {
    /// There is no snapshot that would show it.
    #[default]
    Unknown,
    /// All of them do.
    Kept,
    /// Some were changed after another layer had been taken on top of them: a purge folded that one into them, or they were
    /// copied without their times. The latest such change, in seconds and nanoseconds.
    ChangedLate((i64, i64)),
}

/// Everything that a directory holds.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// `volume.meta`.
    pub volume_meta: Doc<VolumeMeta>,
    /// What can still be made out of a `volume.meta` that is cut off.
    pub salvaged: Option<VolumeMeta>,
    /// `revision.counter`.
    pub revision: Doc<i64>,
    /// The layers by image file name, whatever of each is there.
    pub disks: BTreeMap<String, Disk>,
    /// Leftovers of atomic writes, by file name.
    pub tmp: Vec<String>,
    /// Scratch files of a restore, by file name.
    pub restore_scratch: Vec<String>,
    /// What `preserve` left: a manifest, a journal, files of a copy that is not finished; by file name.
    pub ours: Vec<String>,
    /// Files that are not Longhorn's, by file name.
    pub foreign: Vec<String>,
    /// Every regular file that is Longhorn's, whatever its part.
    pub files: Vec<(String, FileStat)>,
    children: HashMap<String, Vec<String>>,
    same_files: HashMap<FileId, Vec<String>>,
    times: Times,
}

impl Inventory {
    /// What `volume.meta` says, or the part that a cut-off one still says.
    pub fn told(&self) -> Option<&VolumeMeta> {
        self.volume_meta.good().or(self.salvaged.as_ref())
    }

    /// Reads what is in `dir`.
    ///
    /// # Errors
    /// When the directory cannot be read, has nothing of a replica in it, or has too much.
    pub fn read(dir: &Dir) -> Result<Self> {
        let cannot_list =
            |e| Error::source("cannot list the replica directory").with_path(dir.path()).caused_by(e);
        let listed = dir.names(MAX_NAMES + 1).map_err(cannot_list)?;
        if listed.len() > MAX_NAMES {
            return Err(Error::source(format!("more than {MAX_NAMES} files: this is no replica directory"))
                .with_path(dir.path()));
        }
        let mut listed: Vec<String> =
            listed.into_iter().map(|name| name.to_string_lossy().into_owned()).collect();
        listed.sort_unstable();
        let mut reader = Reader { dir, budget_bytes: META_BUDGET_BYTES, inventory: Inventory::empty() };
        for name in listed {
            reader.take(&name);
        }
        let mut inventory = reader.inventory;
        if inventory.disks.is_empty() && matches!(inventory.volume_meta, Doc::Absent) {
            return Err(Error::source("this is not a replica directory: no volume.meta and no volume-*.img")
                .with_path(dir.path())
                .with_hint(if inventory.ours.is_empty() {
                    "replicas are under <disk path>/replicas/, usually /var/lib/longhorn/replicas/"
                } else {
                    "this is a copy that was not finished: run lhrecover preserve once more, with the same source"
                }));
        }
        inventory.files.retain(|(_, stat)| stat.regular);
        inventory.index();
        Ok(inventory)
    }

    fn index(&mut self) {
        for disk in self.disks.values() {
            if let Some(meta) = disk.meta.good() {
                self.children.entry(meta.parent.clone()).or_default().push(disk.name.clone());
            }
            if let Some(image) = disk.image.filter(|image| image.regular) {
                self.same_files.entry(image.id).or_default().push(disk.name.clone());
            }
        }
        self.times = self.disks.values().filter_map(|disk| self.times_of(disk)).max().unwrap_or_default();
    }

    /// What the times of a snapshot that is not removed tell: nothing, unless another layer has been taken on top of it.
    fn times_of(&self, disk: &Disk) -> Option<Times> {
        let kept = disk.kept_image().filter(|_| disk.kind == DiskKind::Snapshot && !disk.is_removed());
        let modified = kept?.modified;
        let covered = self.children(&disk.name).filter_map(Disk::taken).min()?;
        Some(if modified.0 > covered { Times::ChangedLate(modified) } else { Times::Kept })
    }

    /// Whether the files have the times at which the engine wrote them.
    pub fn times(&self) -> Times {
        self.times
    }

    fn empty() -> Self {
        Inventory {
            volume_meta: Doc::Absent,
            salvaged: None,
            revision: Doc::Absent,
            disks: BTreeMap::new(),
            tmp: Vec::new(),
            restore_scratch: Vec::new(),
            ours: Vec::new(),
            foreign: Vec::new(),
            files: Vec::new(),
            children: HashMap::new(),
            same_files: HashMap::new(),
            times: Times::Unknown,
        }
    }

    /// The heads, by name; more than one after a crash. An engine's numbers end at 010, so more than
    /// [`MAX_HEADS`] are nobody's leftovers, and the rest is not looked at.
    pub fn heads(&self) -> impl Iterator<Item = &Disk> {
        self.disks.values().filter(|disk| disk.kind == DiskKind::Head).take(MAX_HEADS)
    }

    /// The layers that name `parent` as their parent, by name.
    pub fn children<'a>(&'a self, parent: &str) -> impl Iterator<Item = &'a Disk> {
        self.named(self.children.get(parent))
    }

    /// The layer below the head, as `volume.meta` remembers it for information only: where the head's own metadata is
    /// lost, nothing else says so. `None` when nothing is there under that name.
    pub fn remembered_parent(&self) -> Option<&str> {
        let parent = self.told()?.parent.as_str();
        self.disks.get(parent).filter(|disk| disk.meta.good().is_some()).map(|disk| disk.name.as_str())
    }

    /// The layers whose image is the same file as that of `disk`, itself excepted.
    pub fn twins<'a>(&'a self, disk: &'a Disk) -> impl Iterator<Item = &'a Disk> {
        let same = disk.image.and_then(|image| self.same_files.get(&image.id));
        self.named(same).filter(|twin| twin.name != disk.name)
    }

    /// The layers whose images are one file, in groups of two and more, in the order of their names.
    pub fn shared_files(&self) -> Vec<&[String]> {
        let mut groups: Vec<_> =
            self.same_files.values().filter(|g| g.len() > 1).map(Vec::as_slice).collect();
        groups.sort_unstable();
        groups
    }

    fn named<'a>(&'a self, names: Option<&'a Vec<String>>) -> impl Iterator<Item = &'a Disk> {
        names.into_iter().flatten().filter_map(|name| self.disks.get(name))
    }

    /// The layer called `name`, or an empty-handed one if nothing is there under that name.
    fn disk(&mut self, name: &str) -> &mut Disk {
        self.disks.entry(name.to_owned()).or_insert_with(|| Disk {
            name: name.to_owned(),
            kind: names::disk_kind(name),
            image: None,
            meta: Doc::Absent,
            meta_file: None,
            has_checksum: false,
        })
    }
}

struct Reader<'a> {
    dir: &'a Dir,
    budget_bytes: u64,
    inventory: Inventory,
}

impl Reader<'_> {
    fn take(&mut self, name: &str) {
        let stat = self.dir.stat(name).ok();
        let kind = names::classify(name);
        if let (Some(stat), false) = (stat, matches!(kind, FileKind::Foreign | FileKind::Ours)) {
            self.inventory.files.push((name.to_owned(), stat));
        }
        match kind {
            FileKind::VolumeMeta => self.take_volume_meta(),
            FileKind::RevisionCounter => {
                self.inventory.revision = document(self.dir, name, revision::MAX_BYTES, revision::parse);
            }
            FileKind::Image(_) => self.inventory.disk(name).image = stat,
            FileKind::Meta { disk } => {
                let limit = layer_meta::MAX_BYTES.min(self.budget_bytes);
                let meta = match read(self.dir, name, limit) {
                    Ok(bytes) => {
                        self.budget_bytes -= bytes.len() as u64;
                        layer_meta::parse(&bytes).map_or_else(Doc::Damaged, Doc::Good)
                    }
                    Err(NoBytes::TooLarge(size)) if size <= layer_meta::MAX_BYTES => {
                        Doc::Unreadable(NotRead {
                            why: format!(
                                "there are more than {META_BUDGET_BYTES} bytes of metadata in this directory"
                            ),
                            denied: false,
                        })
                    }
                    Err(why) => why.into(),
                };
                // Names outside the scheme have images too, if their metadata says so.
                let image = (names::disk_kind(disk) == DiskKind::Other).then(|| self.dir.stat(disk).ok());
                let entry = self.inventory.disk(disk);
                entry.meta = meta;
                entry.meta_file = stat;
                entry.image = image.unwrap_or(entry.image);
            }
            FileKind::Checksum { disk } => self.inventory.disk(disk).has_checksum = true,
            FileKind::Tmp { .. } => self.inventory.tmp.push(name.to_owned()),
            FileKind::RestoreScratch => self.inventory.restore_scratch.push(name.to_owned()),
            FileKind::Ours => self.inventory.ours.push(name.to_owned()),
            FileKind::Foreign => self.inventory.foreign.push(name.to_owned()),
        }
    }

    fn take_volume_meta(&mut self) {
        self.inventory.volume_meta = match read(self.dir, volume_meta::FILE_NAME, volume_meta::MAX_BYTES) {
            Ok(bytes) => volume_meta::parse(&bytes)
                .map_or_else(|damage| Doc::Damaged(self.salvage_volume_meta(&bytes, damage)), Doc::Good),
            Err(why) => why.into(),
        };
    }
}

impl Reader<'_> {
    /// Keeps what a `volume.meta` that is cut off still says. After a power cut its end may be NUL bytes, for the engine as
    /// bad as anything else, for us only cut off.
    fn salvage_volume_meta(&mut self, bytes: &[u8], damage: Damage) -> Damage {
        let written = bytes.iter().rposition(|&b| b != 0).map_or(&[][..], |last| &bytes[..=last]);
        if volume_meta::parse(written) != Err(Damage::Truncated) {
            return damage;
        }
        self.inventory.salvaged = volume_meta::salvage(written);
        Damage::Truncated
    }
}

/// What the file `name` in `dir` says, if it has at most `limit_bytes`.
pub(super) fn document<T>(
    dir: &Dir,
    name: &str,
    limit_bytes: u64,
    parse: impl Fn(&[u8]) -> std::result::Result<T, Damage>,
) -> Doc<T> {
    match read(dir, name, limit_bytes) {
        Ok(bytes) => parse(&bytes).map_or_else(Doc::Damaged, Doc::Good),
        Err(why) => why.into(),
    }
}

/// Why a file's bytes could not be had.
enum NoBytes {
    Absent,
    Unreadable(io::Error),
    TooLarge(u64),
}

impl<T> From<NoBytes> for Doc<T> {
    fn from(why: NoBytes) -> Self {
        match why {
            NoBytes::Absent => Doc::Absent,
            NoBytes::Unreadable(e) => Doc::Unreadable(NotRead {
                denied: e.kind() == io::ErrorKind::PermissionDenied,
                why: e.to_string(),
            }),
            NoBytes::TooLarge(size_bytes) => Doc::Damaged(Damage::TooLarge { size_bytes }),
        }
    }
}

/// The most room made for a file before it is read.
const MAX_ROOM_BYTES: u64 = 64 << 10;

/// The bytes of a small file, if it has at most `limit_bytes`.
fn read(dir: &Dir, name: &str, limit_bytes: u64) -> std::result::Result<Vec<u8>, NoBytes> {
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => NoBytes::Absent,
        _ => NoBytes::Unreadable(e),
    };
    let (file, FileStat { size_bytes, .. }) = dir.open_with_stat(name).map_err(fail)?;
    // Room for all of it saves a probing read; a scan reads many.
    let room = size_bytes.min(limit_bytes).min(MAX_ROOM_BYTES);
    let mut bytes = Vec::with_capacity(usize::try_from(room).unwrap_or_default() + 1);
    if size_bytes <= limit_bytes {
        file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(fail)?;
    }
    // It may have grown since.
    let size_bytes = size_bytes.max(bytes.len() as u64);
    if size_bytes > limit_bytes { Err(NoBytes::TooLarge(size_bytes)) } else { Ok(bytes) }
}
