//! A make-believe `/sys` and `/dev` for tests: device mapper, partitions and disks that the machine has not got.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{DeviceNumber, Host};

pub(super) struct FakeHost {
    root: TempDir,
}

impl FakeHost {
    pub fn new() -> Self {
        FakeHost { root: tempfile::tempdir().unwrap() }
    }

    pub fn host(&self) -> Host {
        Host::at(self.root.path())
    }

    /// A device at `place` (a path below `sys/devices`, whose last part is its name), with these files.
    pub fn device(&self, place: &str, number: &str, files: &[(&str, &str)]) -> DeviceNumber {
        let dir = self.dir(place);
        self.write(&dir.join("dev"), number);
        for (name, text) in files {
            self.write(&dir.join(name), text);
        }
        for index in [format!("sys/dev/block/{number}"), format!("sys/block/{}", name_of(place))] {
            let link = self.root.path().join(index);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&dir, link).unwrap();
        }
        DeviceNumber::parse(number).unwrap()
    }

    /// Says that `upper` is built on `lower`.
    pub fn stack(&self, upper: &str, lower: &str) {
        for (from, list, to) in [(upper, "slaves", lower), (lower, "holders", upper)] {
            let list = self.dir(from).join(list);
            fs::create_dir_all(&list).unwrap();
            symlink(self.dir(to), list.join(name_of(to))).unwrap();
        }
    }

    /// A name in `/dev` that leads to the existing node `target`.
    pub fn name(&self, path: &str, target: &Path) {
        let path = self.root.path().join("dev").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn dir(&self, place: &str) -> PathBuf {
        self.root.path().join("sys/devices").join(place)
    }

    fn write(&self, path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
}

fn name_of(place: &str) -> &str {
    place.rsplit('/').next().unwrap()
}
