//! Finding replica directories: under a Longhorn data path, a `replicas` directory, or given by themselves.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::format::names::{self, DiskKind, FileKind};
use crate::sys::dir::Dir;

/// Longhorn's usual place (the `default-data-path` setting).
pub const DEFAULT_DATA_PATH: &str = "/var/lib/longhorn";

/// The directory of replicas under a data path.
const REPLICAS: &str = "replicas";

/// The most names that are looked at in one directory.
const MAX_NAMES: usize = 65_536;

/// The hexadecimal digits at the end of a replica directory's name.
const SUFFIX_DIGITS: usize = 8;

/// The volume's name in that of a replica directory: `<volume>-<8 hex>` (longhorn-manager `types.GetReplicaDataPath`).
/// One that was set aside as `<volume>-<8 hex>.bak` or the like still is the volume's; any other name is its own.
pub fn volume_name(directory: &str) -> &str {
    split(directory).unwrap_or(directory)
}

fn split(directory: &str) -> Option<&str> {
    directory.rmatch_indices('-').find_map(|(at, _)| {
        let (volume, suffix) = (&directory[..at], &directory.as_bytes()[at + 1..]);
        let (digits, rest) = suffix.split_at_checked(SUFFIX_DIGITS)?;
        let marked = rest.first().is_none_or(|first| b". ~_".contains(first));
        (digits.iter().all(u8::is_ascii_hexdigit) && marked && !volume.is_empty()).then_some(volume)
    })
}

/// The replica directories that `path` means: itself if it is one, else those in it or in its `replicas`.
///
/// # Errors
/// When it cannot be read, or there is nothing in it that could be a replica.
pub fn discover(path: &Path) -> Result<Vec<PathBuf>> {
    let cannot = |e: std::io::Error| {
        let error = Error::source("cannot look for replicas").with_path(path);
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => {
                "name the data path of a Longhorn disk, usually /var/lib/longhorn"
            }
            std::io::ErrorKind::PermissionDenied => "replica directories belong to root: run as root",
            _ => "name a data path, a replicas directory, or a replica directory",
        };
        error.caused_by(e).with_hint(hint)
    };
    let dir = Dir::open(path).map_err(cannot)?;
    let listed = dir.names(MAX_NAMES).map_err(cannot)?;
    let listed: Vec<_> = listed.iter().map(|name| name.to_string_lossy()).collect();
    // A stray file does not make a directory of replicas one of them.
    let holds_others = || listed.iter().any(|name| split(name).is_some() && dir.is_dir(name));
    if listed.iter().any(|name| is_a_replicas(name)) && !holds_others() {
        return Ok(vec![path.to_path_buf()]);
    }
    if listed.iter().any(|name| name == REPLICAS) {
        return discover_in(&path.join(REPLICAS)).map_err(cannot);
    }
    let found = discover_in(path).map_err(cannot)?;
    if found.is_empty() && path.file_name().is_none_or(|name| name != REPLICAS) {
        return Err(Error::source("there are no replicas here")
            .with_path(path)
            .with_hint("name the data path of a Longhorn disk, usually /var/lib/longhorn"));
    }
    Ok(found)
}

/// Whether only a replica directory has a file of this name.
fn is_a_replicas(name: &str) -> bool {
    match names::classify(name) {
        FileKind::VolumeMeta => true,
        FileKind::Image(kind) => kind != DiskKind::Other,
        FileKind::Meta { disk } => names::disk_kind(disk) != DiskKind::Other,
        _ => false,
    }
}

/// The directories in `replicas` that are replicas, or are named like one.
fn discover_in(replicas: &Path) -> std::io::Result<Vec<PathBuf>> {
    let dir = Dir::open(replicas)?;
    let mut found = Vec::new();
    for name in dir.names(MAX_NAMES)? {
        let named_so = name.to_str().is_some_and(|name| split(name).is_some());
        let Some(text) = name.to_str() else {
            found.push(replicas.join(&name));
            continue;
        };
        let holds_one = || {
            let inside = dir.subdir(text).and_then(|dir| dir.names(MAX_NAMES));
            inside.is_ok_and(|names| names.iter().any(|name| is_a_replicas(&name.to_string_lossy())))
        };
        // A link, or what cannot be looked at, is said to be there and not to be readable.
        let no_file = dir.stat(text).map_or(true, |stat| !stat.regular);
        if if named_so { no_file } else { holds_one() } {
            found.push(replicas.join(&name));
        }
    }
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn volume_names() {
        let name = "pvc-96982083-7f5f-43a2-a6e7-80eba830df05";
        assert_eq!(volume_name(&format!("{name}-6ab8c0ee")), name);
        assert_eq!(volume_name("vol-1-6AB8C0EE"), "vol-1");
        assert_eq!(volume_name(&format!("{name}-6ab8c0ee.bak")), name);
        assert_eq!(volume_name(name), name, "a group of a UUID is no suffix");
        for whole in ["data", "data-6ab8c0e", "data-6ab8c0eg", "-6ab8c0ee", "copy of data"] {
            assert_eq!(volume_name(whole), whole);
        }
    }

    #[test]
    fn what_a_path_means() {
        let tmp = tempfile::tempdir().unwrap();
        let replica = tmp.path().join("replicas/vol-00000001");
        fs::create_dir_all(&replica).unwrap();
        fs::write(replica.join("volume.meta"), "").unwrap();
        fs::create_dir(tmp.path().join("replicas/vol-00000002")).unwrap();
        fs::create_dir(tmp.path().join("replicas/lost+found")).unwrap();
        fs::create_dir(tmp.path().join("replicas/renamed")).unwrap();
        fs::write(tmp.path().join("replicas/renamed/volume-head-000.img"), "").unwrap();
        fs::write(tmp.path().join("replicas/file-00000003"), "").unwrap();
        std::os::unix::fs::symlink("/", tmp.path().join("replicas/link-00000004")).unwrap();
        let names = |path: &Path| -> Vec<String> {
            let found = discover(path).unwrap();
            found.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect()
        };
        let all = ["link-00000004", "renamed", "vol-00000001", "vol-00000002"];
        assert_eq!(names(tmp.path()), all);
        assert_eq!(names(&tmp.path().join("replicas")), all);
        assert_eq!(discover(&replica).unwrap(), [replica]);
        assert!(discover(&tmp.path().join("replicas/vol-00000002")).is_err());
        assert!(discover(&tmp.path().join("nothing")).is_err());
    }
}
