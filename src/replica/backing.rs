//! Finds the backing image that a chain stands on.
//!
//! `volume.meta` records it as a path inside the engine's container, `/host/var/lib/longhorn/backing-images/
//! <name>/backing`, which on this machine, or beside a copied replica, is somewhere else. Looked at, in turn: the
//! path given by hand; the recorded path itself; its tail under the directories that hold the replica.
//!
//! The recorded path is not trusted: it is used only if it is a plain path that ends in
//! `backing-images/<name>` or `backing-images/<name>/<file>`, so that a hostile one cannot lead anywhere else.

use std::fs::File;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::dir::Dir;

/// The directory on a Longhorn disk that holds the backing images.
const BACKING_IMAGES: &str = "backing-images";

/// Opens the backing image named by hand. A directory must hold exactly one file, as for the engine.
///
/// # Errors
/// When it cannot be opened.
pub fn open_by_hand(path: &Path) -> Result<(PathBuf, File)> {
    let opened = match std::fs::metadata(path) {
        Ok(m) if m.is_dir() => Dir::open(path).and_then(|dir| only_file(&dir)),
        Ok(m) if m.is_file() => open_plain(path).map(|file| (path.to_path_buf(), file)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        Err(e) => Err(e),
    };
    opened.map_err(|e| {
        Error::source("cannot open the backing image").with_path(path).caused_by(e).with_hint(
            "name the image file itself: on a node it is <disk path>/backing-images/<name>/backing; of a device, a copy",
        )
    })
}

/// Opens a file as layers are opened, so that its access time stays as well.
fn open_plain(path: &Path) -> io::Result<File> {
    let real = path.canonicalize()?;
    match (real.parent(), real.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) => Dir::open(parent)?.open_file(name),
        _ => File::open(real),
    }
}

/// Finds and opens the backing image recorded in `volume.meta` of the replica directory `replica`.
///
/// # Errors
/// When it is not there or cannot be read; the hint names the flag.
pub fn open_recorded(replica: &Dir, recorded: &str) -> Result<(PathBuf, File)> {
    let missing = |why: &str| {
        Error::source(format!("the volume stands on a backing image that {why}"))
            .with_path(recorded)
            .with_hint(
                "name it with --backing-file PATH; any node that ran this volume has it under \
                 <disk path>/backing-images/, and without it everything below the layers is lost",
            )
    };
    let Some(tail) = Tail::of(recorded) else {
        return Err(missing("is recorded under a path that cannot be followed safely"));
    };
    let mut trouble = None;
    for place in tail.places(replica, recorded) {
        match place.and_then(|images| tail.open_in(&images)) {
            Ok(found) => return Ok(found),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => trouble = trouble.or(Some(e)),
        }
    }
    Err(match trouble {
        Some(e) => missing("cannot be opened").caused_by(e),
        None => missing("is not there"),
    })
}

/// The end of a recorded path, from `backing-images` on.
struct Tail {
    /// The image's own directory.
    image_dir: String,
    /// The file in it, if the path names one.
    file: Option<String>,
}

impl Tail {
    fn of(recorded: &str) -> Option<Self> {
        let mut names = Vec::new();
        for component in Path::new(recorded).components() {
            match component {
                Component::RootDir => {}
                Component::Normal(name) => names.push(name.to_str()?),
                Component::CurDir | Component::ParentDir | Component::Prefix(_) => return None,
            }
        }
        let owned = |name: &str| name.to_owned();
        match names[..] {
            [.., BACKING_IMAGES, image_dir, file] => {
                Some(Tail { image_dir: owned(image_dir), file: Some(owned(file)) })
            }
            [.., BACKING_IMAGES, image_dir] => Some(Tail { image_dir: owned(image_dir), file: None }),
            _ => None,
        }
    }

    /// The `backing-images` directories to look in: the recorded one, the one beside the replica, and the one
    /// beside the directory `replicas` that the replica is in.
    fn places(&self, replica: &Dir, recorded: &str) -> Vec<io::Result<Dir>> {
        let mut places = Vec::new();
        if recorded.starts_with('/') {
            let up = 1 + usize::from(self.file.is_some());
            places.extend(Path::new(recorded).ancestors().nth(up).map(Dir::open));
        }
        let beside = replica.parent();
        let above = beside.as_ref().ok().map(Dir::parent);
        places.push(beside.and_then(|dir| dir.subdir(BACKING_IMAGES)));
        places.extend(above.map(|dir| dir.and_then(|dir| dir.subdir(BACKING_IMAGES))));
        places
    }

    fn open_in(&self, images: &Dir) -> io::Result<(PathBuf, File)> {
        let dir = images.subdir(&self.image_dir)?;
        match &self.file {
            Some(file) => Ok((dir.path().join(file), dir.open_file(file)?)),
            None => only_file(&dir),
        }
    }
}

/// The one file of a directory that must hold exactly one.
fn only_file(dir: &Dir) -> io::Result<(PathBuf, File)> {
    match &dir.names(2)?[..] {
        [only] => {
            let name = only.to_str().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            Ok((dir.path().join(name), dir.open_file(name)?))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the directory does not hold exactly one file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// `<tmp>/backing-images/img-1/backing`, `<tmp>/secret` and `<tmp>/replicas/r`.
    fn disk() -> (tempfile::TempDir, Dir) {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir_all(tmp.path().join("backing-images/img-1")).unwrap();
        fs::write(tmp.path().join("backing-images/img-1/backing"), "b").unwrap();
        fs::write(tmp.path().join("secret"), "s").unwrap();
        fs::create_dir_all(tmp.path().join("replicas/r")).unwrap();
        let replica = Dir::open(&tmp.path().join("replicas/r")).unwrap();
        (tmp, replica)
    }

    #[test]
    fn the_tail_is_found_on_the_same_disk() {
        let (_tmp, replica) = disk();
        for recorded in [
            "/host/var/lib/longhorn/backing-images/img-1/backing",
            "/host/var/lib/longhorn/backing-images/img-1",
            "backing-images/img-1/backing",
        ] {
            assert!(open_recorded(&replica, recorded).is_ok(), "{recorded}");
        }
        let e = open_recorded(&replica, "/x/backing-images/img-2/backing").unwrap_err();
        assert!(e.hint().unwrap().contains("--backing-file"), "{e}");
    }

    #[test]
    fn a_hostile_path_leads_nowhere() {
        let (tmp, replica) = disk();
        std::os::unix::fs::symlink("../../secret", tmp.path().join("backing-images/img-1/link")).unwrap();
        let absolute = tmp.path().join("secret");
        for recorded in [
            "/x/backing-images/../secret",
            "/x/backing-images/img-1/../../secret",
            "/x/backing-images/img-1/link",
            "/x/backing-images/./secret/..",
            absolute.to_str().unwrap(),
            "/",
            "secret",
        ] {
            assert!(open_recorded(&replica, recorded).is_err(), "{recorded}");
        }
    }

    #[test]
    fn a_directory_by_hand_must_hold_one_file() {
        let (tmp, _) = disk();
        let dir = tmp.path().join("backing-images/img-1");
        assert!(open_by_hand(&dir).is_ok() && open_by_hand(&dir.join("backing")).is_ok());
        fs::write(dir.join("second"), "").unwrap();
        assert!(open_by_hand(&dir).is_err());
        assert!(open_by_hand(&dir.join("third")).is_err());
    }
}
