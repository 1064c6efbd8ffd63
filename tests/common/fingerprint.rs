//! Everything about a source that must be the same after a command as before it.
//!
//! Taking a fingerprint changes nothing itself: access times are left alone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use lhrecover::model::extent::{Extent, ExtentKind};
use lhrecover::sys::sparse::{Fiemap, seek_extents};
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// A range of a file, and whether it was written: `false` for unwritten extents.
pub type Map = Vec<(u64, u64, bool)>;

/// The names below a directory, and what stands behind each.
#[derive(Debug, PartialEq, Eq)]
pub struct Fingerprint(BTreeMap<PathBuf, Entry>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    links: u64,
    size_bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    accessed: (i64, i64),
    /// The digest of a file, or where a link leads.
    content: String,
    by_seek: Map,
    /// Empty where the file system has no FIEMAP.
    by_fiemap: Map,
}

impl Fingerprint {
    /// Of the directory `dir` and everything in it.
    pub fn of(dir: &Path) -> Self {
        let mut entries = BTreeMap::new();
        take(dir, Path::new("."), &mut entries);
        Fingerprint(entries)
    }

    /// Fails the test unless `copy` has the same names with the same bytes, maps, modes, owners, links and times of
    /// modification. What `preserve` leaves in a copy of its own is passed over.
    #[track_caller]
    pub fn assert_copied_to(&self, copy: &Path, what: &str) {
        let (ours, theirs) = (self.portable(), Fingerprint::of(copy).portable());
        let names = |f: &BTreeMap<PathBuf, Entry>| f.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&theirs), names(&ours), "the copy has other files: {what}");
        for (name, entry) in ours {
            assert_eq!(theirs[&name], entry, "{} is not the same in the copy: {what}", name.display());
        }
    }

    /// What a copy can keep.
    fn portable(&self) -> BTreeMap<PathBuf, Entry> {
        let ours = |name: &Path| name.to_string_lossy().contains("lhrecover-preserve.");
        let kept = self.0.iter().filter(|(name, _)| !ours(name));
        kept.map(|(name, entry)| {
            let mut entry = Entry { changed: (0, 0), accessed: (0, 0), ..entry.clone() };
            if name == Path::new(".") {
                // How long a directory is says nothing of what is in it.
                (entry.size_bytes, entry.links) = (0, 0);
            }
            (name.clone(), entry)
        })
        .collect()
    }

    /// Fails the test unless `dir` is what it was.
    #[track_caller]
    pub fn assert_unchanged(&self, dir: &Path, after: &str) {
        let now = Fingerprint::of(dir);
        let names = |f: &Fingerprint| f.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&now), names(self), "the source has other files after {after}");
        for (name, entry) in &self.0 {
            assert_eq!(&now.0[name], entry, "{} was changed by {after}", name.display());
        }
    }
}

fn take(root: &Path, relative: &Path, entries: &mut BTreeMap<PathBuf, Entry>) {
    let path = root.join(relative);
    let meta = fs::symlink_metadata(&path).expect("stat");
    let mut entry = Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        links: meta.nlink(),
        size_bytes: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
        accessed: (meta.atime(), meta.atime_nsec()),
        content: String::new(),
        by_seek: Map::new(),
        by_fiemap: Map::new(),
    };
    if meta.is_symlink() {
        // Looking where a link leads counts as access.
        entry.accessed = (0, 0);
        entry.content = fs::read_link(&path).expect("read link").display().to_string();
    } else if meta.is_dir() {
        for name in names(&path) {
            take(root, &relative.join(name), entries);
        }
    } else if meta.is_file() {
        let quiet = OFlag::O_NOATIME.bits();
        let file = OpenOptions::new().read(true).custom_flags(quiet).open(&path).expect("open");
        entry.by_fiemap = by_fiemap(&file);
        entry.by_seek = walk(|from, out| seek_extents(&file, from, out));
        entry.content = digest(&file);
    }
    entries.insert(relative.to_path_buf(), entry);
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOATIME | OFlag::O_CLOEXEC;
    let mut open = Dir::open(dir, flags, Mode::empty()).expect("open directory");
    open.iter()
        .map(|entry| PathBuf::from(std::ffi::OsStr::from_bytes(entry.expect("entry").file_name().to_bytes())))
        .filter(|name| name != Path::new(".") && name != Path::new(".."))
        .collect()
}

/// Where the file has data by SEEK_DATA; every range counts as written.
pub fn by_seek(path: &Path) -> Vec<(u64, u64)> {
    let file = File::open(path).expect("open");
    walk(|from, out| seek_extents(&file, from, out)).into_iter().map(|(start, end, _)| (start, end)).collect()
}

/// Where the file has extents by FIEMAP, in which unwritten ones are told apart; empty where there is no FIEMAP.
pub fn by_fiemap(file: &File) -> Map {
    match Fiemap::probe(file).expect("FIEMAP") {
        Some(mut map) => walk(|from, out| map.next_extents(from, out)),
        None => Map::new(),
    }
}

/// Takes all batches of a walk over extents, and joins neighbours: where the kernel cuts does not matter.
fn walk(mut next: impl FnMut(u64, &mut Vec<Extent>) -> std::io::Result<Option<u64>>) -> Map {
    let (mut all, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        from = next(at, &mut all).expect("extents");
    }
    all.iter().fold(Map::new(), |mut map, extent| {
        let (range, written) = (extent.range, extent.kind == ExtentKind::Data);
        match map.last_mut() {
            Some(last) if last.1 == range.start_bytes && last.2 == written => last.1 = range.end_bytes,
            _ => map.push((range.start_bytes, range.end_bytes, written)),
        }
        map
    })
}

/// BLAKE3 of a sparse file's data ranges and where they are: 16 GiB of holes need not be read.
fn digest(file: &File) -> String {
    use std::os::unix::fs::FileExt;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    for (start, end, _) in walk(|from, out| seek_extents(file, from, out)) {
        hasher.update(&start.to_le_bytes());
        let mut at = start;
        while at < end {
            let want = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
            file.read_exact_at(&mut buffer[..want], at).expect("read");
            hasher.update(&buffer[..want]);
            at += want as u64;
        }
    }
    hasher.finalize().to_hex().to_string()
}
