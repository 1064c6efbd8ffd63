//! What files are called while they grow: which file, a copy of what, and how far a large one has got.
//!
//! The name is the only note that is kept of that, so no second file can say something else, and changing it is atomic. A large
//! file gets a new one each time that a further window of it is on the disk.

use std::io;
use std::os::unix::fs::MetadataExt;

use crate::guest::ext::Found;
use crate::sys::dir::FileStat;
use crate::sys::tree::Tree;
use crate::workflow::browse::Browser;

/// All these names begin like this; the image must have none of that kind.
pub(super) const PREFIX: &[u8] = b".lhrecover-";

const SUFFIX: &[u8] = b".partial";

/// In what steps a file grows that can be gone on with, in bytes. A smaller one begins anew.
pub(super) const WINDOW_BYTES: u64 = 64 << 20;

/// A file that grows, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Partial {
    /// The inode in the image.
    pub(super) ino: u32,
    /// What it is a copy of.
    pub(super) stamp: u64,
    /// How many windows, from the beginning, are on the disk.
    pub(super) windows: u64,
}

impl Partial {
    pub(super) fn name(&self) -> Vec<u8> {
        let Partial { ino, stamp, windows } = self;
        [PREFIX, format!("{ino:x}-{stamp:016x}-{windows:x}").as_bytes(), SUFFIX].concat()
    }

    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let between = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let mut parts = std::str::from_utf8(between).ok()?.split('-');
        let mut next = || u64::from_str_radix(parts.next()?, 16).ok();
        let partial = Partial { ino: next()?.try_into().ok()?, stamp: next()?, windows: next()? };
        // One that is written otherwise is not ours.
        (partial.name() == name).then_some(partial)
    }

    /// The file in `dir` that got furthest with becoming what `new` is to be.
    pub(super) fn furthest(dir: &Tree, new: &Partial) -> io::Result<Option<Partial>> {
        let same = |name: &[u8]| {
            Partial::parse(name).filter(|partial| Partial { windows: new.windows, ..*partial } == *new)
        };
        let names = dir.names(|name| same(name).is_some())?;
        Ok(names.iter().filter_map(|name| same(name)).max_by_key(|partial| partial.windows))
    }
}

/// Whether `name` is one of a file that grows, or was left when a run was cut short.
pub(super) fn is_partial(name: &[u8]) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

/// The state of the volume that is extracted: a file of another one is another file, though it looks alike.
pub(super) struct Stamp(blake3::Hasher);

impl Stamp {
    pub(super) fn of(browser: &Browser) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: String| {
            hasher.update(text.as_bytes());
        };
        let volume = browser.volume();
        add(format!("{:?} {:?}\n", volume.view.unwritten(), browser.partition));
        match &volume.source {
            Some(source) => {
                for FileStat { id, size_bytes, modified, .. } in
                    source.chain.iter().filter_map(|layer| layer.stat)
                {
                    add(format!("{id:?} {size_bytes} {modified:?}\n"));
                }
            }
            None => match std::fs::metadata(&volume.path) {
                Ok(image) if image.is_file() => add(format!(
                    "{} {} {} {} {}\n",
                    image.dev(),
                    image.ino(),
                    image.len(),
                    image.mtime(),
                    image.mtime_nsec()
                )),
                // A device does not tell when it was last written to: this run's files are like no other's.
                _ => add(format!("{} {:?}\n", std::process::id(), std::time::SystemTime::now())),
            },
        }
        Stamp(hasher)
    }

    /// The file that `found` is copied to at first.
    pub(super) fn partial(&self, found: &Found) -> Partial {
        let node = &found.node;
        let mut hasher = self.0.clone();
        let what = (node.ino, node.size_bytes, node.modified, node.changed);
        hasher.update(format!("{what:?} ").as_bytes()).update(&found.path);
        let mut stamp = [0; 8];
        hasher.finalize_xof().fill(&mut stamp);
        Partial { ino: node.ino, stamp: u64::from_le_bytes(stamp), windows: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_were_made_of() {
        let partial = Partial { ino: 0x1f, stamp: 7, windows: 160 };
        assert_eq!(partial.name(), b".lhrecover-1f-0000000000000007-a0.partial");
        assert_eq!(Partial::parse(&partial.name()), Some(partial));
        for other in [
            ".lhrecover-1f.partial",
            ".lhrecover-1f-7-a0.partial",
            ".lhrecover-1f-0000000000000007-+a0.partial",
            ".lhrecover-1f-0000000000000007-a0-1.partial",
            "x.lhrecover-1f-0000000000000007-a0.partial",
        ] {
            assert_eq!(Partial::parse(other.as_bytes()), None, "{other}");
        }
    }
}
