//! Both sides compared: every file of the source with the one on the device, by content and by what is known of it.
//!
//! The device was unmounted and mounted again before, so it is the device that is read, not what was cached of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::libc;

use super::rsync::Failed;
use super::tree::Walk;
use crate::engine::pipeline;
use crate::error::Result;
use crate::event::{Event, Run};
use crate::sys::dir::FileId;

/// How many differences are named.
const MAX_DIFFERENCES: usize = 1000;
/// How much of a file is read at once, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// What comparing came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Regular files whose content was compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What differs, by path, the first of it.
    pub differences: Vec<Failed>,
    /// How much more there was.
    pub more_differences: u64,
}

/// Compares everything below `source` with what is below `target`, but for what is in `failed`.
///
/// # Errors
/// When stopped.
pub fn compare(
    source: &Path,
    target: &Path,
    failed: &[Failed],
    total_bytes: u64,
    workers: Option<usize>,
    run: &Run<'_>,
) -> Result<Comparison> {
    run.event(Event::Phase { name: "comparing both sides", total_bytes: Some(total_bytes) });
    let found = Mutex::new(Comparison::default());
    let note =
        |change: &dyn Fn(&mut Comparison)| change(&mut found.lock().unwrap_or_else(PoisonError::into_inner));
    let mut walk = Walk::new(source);
    // Of a directory that could not be read, the files were not copied, and are named already.
    let next = || Ok(walk.find_map(|item| item.ok()));
    let known: HashSet<_> = failed.iter().map(|failed| failed.path.as_path()).collect();
    let workers = workers.unwrap_or_else(pipeline::default_workers);
    pipeline::for_each(next, workers, run, |(path, meta), _| {
        if known.contains(path.as_path()) {
            return Ok(());
        }
        let pair = Sides { source: source.join(path), target: target.join(path), meta, run };
        let looked = pair.look()?;
        note(&|all| {
            if looked.was_read {
                all.files += 1;
                all.bytes = all.bytes.saturating_add(meta.len());
            }
            if let Some(reason) = &looked.difference {
                all.differ(path, reason.clone());
            }
        });
        Ok(())
    })?;
    run.event(Event::PhaseDone);
    let mut comparison = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    compare_names(source, target, &known, &mut comparison, run)?;
    comparison.differences.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(comparison)
}

/// Compares which names are names of one file.
fn compare_names(
    source: &Path,
    target: &Path,
    known: &HashSet<&Path>,
    comparison: &mut Comparison,
    run: &Run<'_>,
) -> Result<()> {
    /// Names of one file in the source, with the files on the device that have them.
    type Names = Vec<(PathBuf, FileId)>;
    let id = |meta: &Metadata| FileId { dev: meta.dev(), ino: meta.ino() };
    let mut files: HashMap<FileId, Names> = HashMap::new();
    for (path, meta) in Walk::new(source).flatten() {
        run.check()?;
        if meta.is_dir() || meta.nlink() < 2 || known.contains(path.as_path()) {
            continue;
        }
        // What is not there is named already.
        let Ok(there) = fs::symlink_metadata(target.join(&path)) else { continue };
        files.entry(id(&meta)).or_default().push((path, id(&there)));
    }
    for mut names in files.into_values() {
        names.sort_by(|(a, _), (b, _)| a.cmp(b));
        let Some((first, file)) = names.first().cloned() else { continue };
        for (path, other) in names {
            if other != file {
                comparison.differ(
                    &path,
                    format!("it is no other name of {} as it is in the source", first.display()),
                );
            }
        }
    }
    Ok(())
}

impl Comparison {
    fn differ(&mut self, path: &Path, reason: String) {
        if self.differences.len() < MAX_DIFFERENCES {
            let path = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_path_buf() };
            self.differences.push(Failed { path, reason });
        } else {
            self.more_differences += 1;
        }
    }
}

/// A file on both sides.
struct Sides<'a> {
    source: PathBuf,
    target: PathBuf,
    meta: &'a Metadata,
    run: &'a Run<'a>,
}

/// What came of a look at both.
struct Looked {
    difference: Option<String>,
    /// Whether the content was read to its end on both sides.
    was_read: bool,
}

impl Sides<'_> {
    fn look(&self) -> Result<Looked> {
        let unread = |difference| Ok(Looked { difference, was_read: false });
        if let Some(difference) = differs_but_for_content(&self.source, self.meta, &self.target) {
            return unread(Some(difference));
        }
        if !self.meta.is_file() {
            return unread(None);
        }
        let digests = (digest(&self.source, self.run)?, digest(&self.target, self.run)?);
        self.run.event(Event::Advanced { bytes: self.meta.len() });
        match digests {
            (Ok(source), Ok(target)) => {
                let difference = (source != target).then(|| "its content differs".to_owned());
                Ok(Looked { difference, was_read: true })
            }
            (Err(e), _) => unread(Some(format!("it cannot be read in the source: {e}"))),
            (_, Err(e)) => unread(Some(format!("it cannot be read on the device: {e}"))),
        }
    }
}

/// In what two files differ that can be told without their content, in words.
pub(super) fn differs_but_for_content(source: &Path, meta: &Metadata, target: &Path) -> Option<String> {
    let there = match fs::symlink_metadata(target) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Some("it is not there".to_owned()),
        Err(e) => return Some(format!("it cannot be looked at on the device: {e}")),
    };
    if let Some(what) = metadata_differs(meta, &there) {
        return Some(format!("its {what} differs"));
    }
    if meta.is_symlink() && fs::read_link(source).ok() != fs::read_link(target).ok() {
        return Some("it leads elsewhere".to_owned());
    }
    (attributes(source) != attributes(target)).then(|| "its extended attributes or ACLs differ".to_owned())
}

/// The digest of a file's content, or why it cannot be read.
///
/// # Errors
/// When stopped.
pub(super) fn digest(path: &Path, run: &Run<'_>) -> Result<io::Result<blake3::Hash>> {
    let mut file = match open(path) {
        Ok(file) => file,
        Err(e) => return Ok(Err(e)),
    };
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        run.check()?;
        match file.read(&mut piece) {
            Ok(0) => return Ok(Ok(hasher.finalize())),
            Ok(len) => {
                hasher.update(&piece[..len]);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Ok(Err(e)),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
}

/// What of it differs that copying keeps. File systems may keep whole seconds only.
fn metadata_differs(source: &Metadata, target: &Metadata) -> Option<&'static str> {
    let kind = source.file_type();
    let is_device = kind.is_block_device() || kind.is_char_device();
    let nanoseconds_differ = target.mtime_nsec() != 0 && source.mtime_nsec() != target.mtime_nsec();
    let differences = [
        (kind != target.file_type(), "kind"),
        (kind.is_file() && source.len() != target.len(), "length"),
        (source.mode() != target.mode(), "mode"),
        ((source.uid(), source.gid()) != (target.uid(), target.gid()), "owner"),
        (source.mtime() != target.mtime() || nanoseconds_differ, "time of last change"),
        (is_device && source.rdev() != target.rdev(), "device number"),
    ];
    differences.into_iter().find(|(differs, _)| *differs).map(|(_, what)| what)
}

/// Extended attributes, ACLs among them. A file system that has none is like a file that has none.
fn attributes(path: &Path) -> BTreeMap<OsString, Option<Vec<u8>>> {
    let names = xattr::list(path).into_iter().flatten();
    names.map(|name| (name.clone(), xattr::get(path, &name).ok().flatten())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Cancel, Silent};

    #[test]
    fn every_difference_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for side in [&a, &b] {
            fs::create_dir(side).unwrap();
            for name in ["same", "content", "mode", "failed"] {
                fs::write(side.join(name), format!("{name} as it is")).unwrap();
            }
            std::os::unix::fs::symlink(side, side.join("link")).unwrap();
        }
        fs::write(a.join("missing"), "x").unwrap();
        fs::write(b.join("content"), "content as it iS").unwrap();
        fs::write(b.join("failed"), "failed as it iS").unwrap();
        fs::set_permissions(b.join("mode"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        for side in [&a, &b] {
            for name in ["same", "content", "mode", "failed", "."] {
                File::open(side.join(name)).unwrap().set_times(time).unwrap();
            }
        }
        let failed = [Failed { path: "failed".into(), reason: String::new() }];
        let run = Run { observer: &Silent, cancel: &Cancel::default() };
        let found = compare(&a, &b, &failed, 0, None, &run).unwrap();
        let named: Vec<_> =
            found.differences.iter().map(|d| format!("{}: {}", d.path.display(), d.reason)).collect();
        assert_eq!(named[0], "content: its content differs");
        assert!(named[1].starts_with("link: "), "{named:?}");
        assert_eq!(named[2..], ["missing: it is not there", "mode: its mode differs"]);
        // The content of what is missing, or differs otherwise, was not compared.
        assert_eq!((found.files, found.more_differences), (2, 0));
    }

    #[test]
    fn names_of_one_file_are_names_of_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for side in [&a, &b] {
            fs::create_dir(side).unwrap();
            fs::write(side.join("1"), "x").unwrap();
            fs::hard_link(side.join("1"), side.join("2")).unwrap();
        }
        fs::hard_link(a.join("1"), a.join("3")).unwrap();
        fs::write(b.join("3"), "x").unwrap();
        let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        for path in [&a, &b].iter().flat_map(|side| ["1", "3", "."].map(|name| side.join(name))) {
            File::open(path).unwrap().set_times(time).unwrap();
        }
        let run = Run { observer: &Silent, cancel: &Cancel::default() };
        let found = compare(&a, &b, &[], 0, None, &run).unwrap();
        assert_eq!(found.differences.len(), 1, "{found:?}");
        assert_eq!(found.differences[0].path, Path::new("3"));
    }
}
