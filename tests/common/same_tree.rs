//! Whether two directory trees are the same, in everything that can be copied.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

/// In what pieces files are compared.
const BLOCK_BYTES: usize = 1 << 20;

/// A file, without what makes it this one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    /// Of a directory, nothing.
    size_bytes: u64,
    device: u64,
    /// The digest of a file, or where a link leads.
    content: String,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// All names of it in the tree.
    names: BTreeSet<PathBuf>,
}

/// Fails the test unless `copy` is what `original` is. The two themselves are not compared, only what is in them.
#[track_caller]
pub fn assert_same_tree(original: &Path, copy: &Path, what: &str) {
    let (ours, theirs) = (entries(copy), entries(original));
    let names = |tree: &BTreeMap<PathBuf, Entry>| tree.keys().cloned().collect::<BTreeSet<_>>();
    let (here, there) = (names(&ours), names(&theirs));
    assert!(
        here == there,
        "{what}: other names: {:?}",
        here.symmetric_difference(&there).collect::<Vec<_>>()
    );
    for (name, entry) in &theirs {
        assert_eq!(&ours[name], entry, "{what}: {}", name.display());
    }
    for name in theirs.keys() {
        let allocated = |root: &Path| fs::symlink_metadata(root.join(name)).unwrap().blocks() * 512;
        // What is stored in the inode itself, the copy's file system may need a block for, and one for the map.
        let slack = 16 << 10;
        if theirs[name].size_bytes > 1 << 20 {
            assert!(
                allocated(copy) <= allocated(original) + slack,
                "{what}: {} takes more room: {} instead of {}",
                name.display(),
                allocated(copy),
                allocated(original)
            );
        }
    }
}

fn entries(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut by_inode: BTreeMap<u64, BTreeSet<PathBuf>> = BTreeMap::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let name = dir.join(entry.unwrap().file_name());
            // mke2fs makes it; it is there in both.
            let meta = fs::symlink_metadata(root.join(&name)).unwrap();
            by_inode.entry(meta.ino()).or_default().insert(name.clone());
            if meta.is_dir() {
                pending.push(name.clone());
            }
            found.insert(name.clone(), (meta.ino(), of(&root.join(&name), &meta)));
        }
    }
    let with_names = |(name, (ino, entry)): (PathBuf, (u64, Entry))| {
        (name, Entry { names: by_inode[&ino].clone(), ..entry })
    };
    found.into_iter().map(with_names).collect()
}

fn of(path: &Path, meta: &fs::Metadata) -> Entry {
    let kind = meta.file_type();
    let content = if kind.is_file() {
        digest(path)
    } else if kind.is_symlink() {
        format!("{:?}", fs::read_link(path).unwrap())
    } else {
        String::new()
    };
    let is_device = kind.is_char_device() || kind.is_block_device();
    let names = xattr::list(path).unwrap();
    Entry {
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        modified: (meta.mtime(), meta.mtime_nsec()),
        size_bytes: if meta.is_dir() { 0 } else { meta.size() },
        device: if is_device { meta.rdev() } else { 0 },
        content,
        xattrs: names
            .map(|name| {
                let value = xattr::get(path, &name).unwrap().unwrap();
                (name.to_string_lossy().into_owned(), value)
            })
            .collect(),
        names: BTreeSet::new(),
    }
}

/// A digest of a file's bytes, whatever of it is holes: of all blocks that are not zeros throughout, and where they lie. A
/// hole is not read, since there are gigabytes of them.
fn digest(path: &Path) -> String {
    let file = File::open(path).unwrap();
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = 0;
    loop {
        let data = match lseek(&file, at, Whence::SeekData) {
            Ok(data) => u64::try_from(data).unwrap(),
            // There is no more.
            Err(Errno::ENXIO) => break,
            Err(e) => panic!("{}: {e}", path.display()),
        };
        let start = data / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        block.resize(BLOCK_BYTES, 0);
        let filled = read_up_to(&file, &mut block, start);
        block.truncate(filled);
        if block.iter().any(|&byte| byte != 0) {
            hasher.update(&start.to_le_bytes());
            hasher.update(&block);
        }
        at = i64::try_from(start + BLOCK_BYTES as u64).unwrap();
    }
    hasher.finalize().to_hex().to_string()
}

fn read_up_to(file: &File, buf: &mut [u8], offset: u64) -> usize {
    let mut filled = 0;
    loop {
        match file.read_at(&mut buf[filled..], offset + filled as u64).unwrap() {
            0 => return filled,
            n => filled += n,
        }
    }
}
