//! Both sides compared: every file of the source with the one on the device, by content and by what is known of it.
//!
//! The device was unmounted and mounted again before, so it is the device that is read, not what was cached of it.

use std::collections::BTreeMap;
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
    let is_known = |path: &Path| {
        let text = path.display().to_string();
        failed.iter().any(|failed| path.starts_with(&failed.path) || failed.path == text)
    };
    let workers = workers.unwrap_or_else(pipeline::default_workers);
    pipeline::for_each(next, workers, run, |(path, meta), _| {
        if is_known(path) {
            return Ok(());
        }
        let pair = Pair { source: source.join(path), target: target.join(path), meta, run };
        let difference = pair.difference()?;
        note(&|all| {
            if meta.is_file() {
                all.files += 1;
                all.bytes = all.bytes.saturating_add(meta.len());
            }
            let Some(reason) = difference.clone() else { return };
            if all.differences.len() < MAX_DIFFERENCES {
                all.differences.push(Failed { path: shown(path), reason });
            } else {
                all.more_differences += 1;
            }
        });
        Ok(())
    })?;
    run.event(Event::PhaseDone);
    let mut comparison = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    comparison.differences.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(comparison)
}

fn shown(path: &Path) -> String {
    if path.as_os_str().is_empty() { ".".to_owned() } else { path.display().to_string() }
}

/// A file on both sides.
struct Pair<'a> {
    source: PathBuf,
    target: PathBuf,
    meta: &'a Metadata,
    run: &'a Run<'a>,
}

impl Pair<'_> {
    /// In what they differ, in words.
    fn difference(&self) -> Result<Option<String>> {
        let target = match fs::symlink_metadata(&self.target) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Some("it is not there".to_owned())),
            Err(e) => return Ok(Some(format!("it cannot be looked at on the device: {e}"))),
        };
        if let Some(what) = metadata_differs(self.meta, &target) {
            return Ok(Some(format!("its {what} differs")));
        }
        if self.meta.is_symlink() && fs::read_link(&self.source).ok() != fs::read_link(&self.target).ok() {
            return Ok(Some("it leads elsewhere".to_owned()));
        }
        if attributes(&self.source) != attributes(&self.target) {
            return Ok(Some("its extended attributes or ACLs differ".to_owned()));
        }
        if !self.meta.is_file() {
            return Ok(None);
        }
        let digests = (self.digest(&self.source)?, self.digest(&self.target)?);
        self.run.event(Event::Advanced { bytes: self.meta.len() });
        Ok(match digests {
            (Ok(source), Ok(target)) if source == target => None,
            (Ok(_), Ok(_)) => Some("its content differs".to_owned()),
            (Err(e), _) => Some(format!("it cannot be read in the source: {e}")),
            (_, Err(e)) => Some(format!("it cannot be read on the device: {e}")),
        })
    }

    fn digest(&self, path: &Path) -> Result<io::Result<blake3::Hash>> {
        let mut file = match open(path) {
            Ok(file) => file,
            Err(e) => return Ok(Err(e)),
        };
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            self.run.check()?;
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
        let failed = [Failed { path: "failed".to_owned(), reason: String::new() }];
        let run = Run { observer: &Silent, cancel: &Cancel::default() };
        let found = compare(&a, &b, &failed, 0, None, &run).unwrap();
        let named: Vec<_> = found.differences.iter().map(|d| format!("{}: {}", d.path, d.reason)).collect();
        assert_eq!(named[0], "content: its content differs");
        assert!(named[1].starts_with("link: "), "{named:?}");
        assert_eq!(named[2..], ["missing: it is not there", "mode: its mode differs"]);
        assert_eq!((found.files, found.more_differences), (4, 0));
    }
}
